"""Made-up private text, and text that only looks like it: templates filled in by Faker."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, Final

from safekv.detect.labelled import LabelledSpan, LabelledText

LOCALES: Final = (
    "en_US", "en_GB", "en_IN", "en_AU", "en_NG", "de_DE", "de_AT", "fr_FR", "es_ES", "es_MX",
    "it_IT", "pt_BR", "nl_NL", "pl_PL", "sv_SE", "cs_CZ", "tr_TR", "fi_FI", "ro_RO", "hr_HR",
)  # fmt: skip
"""Whose names and addresses are made up: those that Faker writes in Latin letters."""

_PLACE: Final = re.compile(r"\{\{|\}\}|\{([a-z]+)\}")

_LABELS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("person", "first", "last"), "PERSON"),
    **dict.fromkeys(("address", "street"), "ADDRESS"),
    **dict.fromkeys(("phone", "card", "iban", "ssn", "licence", "ip"), "NUMBER"),
    "email": "CONTACT",
    **dict.fromkeys(("city", "country"), "LOCATION"),
    "company": "ORGANIZATION",
}


class MadeUp:
    """Fills templates with values of many locales; the same seed gives the same texts."""

    def __init__(self, seed: int) -> None:
        """Raises `ModuleNotFoundError` without the package `faker`."""
        from faker import Faker

        self._random = random.Random(seed)  # noqa: S311 - sample text, nothing secret
        self._fakers = {locale: Faker(locale) for locale in LOCALES}
        Faker.seed(seed)
        folder = resources.files("safekv.detect.training")
        self._tables = tomllib.loads((folder / "templates.toml").read_text(encoding="utf-8"))

    def private(self, count: int) -> Iterator[LabelledText]:
        """`count` texts that hold private values, in nine languages, most in English."""
        languages = list(self._tables["private"])
        weights = [12 if language == "en" else 1 for language in languages]
        for language in self._random.choices(languages, weights, k=count):
            template = self._random.choice(self._tables["private"][language])
            own = [locale for locale in LOCALES if locale.startswith(language)]
            locale = self._random.choice(own if self._random.random() < 0.5 else LOCALES)
            yield self._filled(template, locale, private=True)

    def public(self, count: int) -> Iterator[LabelledText]:
        """`count` texts that hold no private value, though many hold names."""
        for _ in range(count):
            template = self._random.choice(self._tables["public"]["texts"])
            yield self._filled(template, self._random.choice(LOCALES), private=False)

    def _filled(self, template: str, locale: str, private: bool) -> LabelledText:
        text, behind = "", 0
        spans: list[LabelledSpan] = []
        for place in _PLACE.finditer(template):
            text += template[behind : place.start()]
            behind = place.end()
            name = place[1]
            value = self._value(name, self._fakers[locale]) if name else place[0][0]
            label = _LABELS.get(name) if name else None
            if label is not None and (private or label in ("LOCATION", "ORGANIZATION")):
                spans.append(LabelledSpan(len(text), len(text) + len(value), label))
            text += value
        return LabelledText(text + template[behind:], tuple(spans), template)

    def _value(self, name: str, fake: Any) -> str:
        chance = self._random
        if name in ("famous", "fictional"):
            return str(chance.choice(self._tables["public"][name]))
        if name in _INVENTED:
            return _INVENTED[name](chance)
        value = str(_OF_LOCALE.get(name, _plainly(name))(fake, chance))
        return value.replace("\n", chance.choice((", ", "\n", " ")))


def _plainly(maker: str) -> Callable[[Any, random.Random], object]:
    return lambda fake, _: getattr(fake, maker)()


def _person(fake: Any, chance: random.Random) -> object:
    plain = f"{fake.first_name()} {fake.last_name()}"
    return chance.choice((plain, fake.name()))


_OF_LOCALE: Final[Mapping[str, Callable[[Any, random.Random], object]]] = {
    "person": _person,
    "first": _plainly("first_name"),
    "last": _plainly("last_name"),
    "street": _plainly("street_address"),
    "phone": _plainly("phone_number"),
    "card": _plainly("credit_card_number"),
    "ip": _plainly("ipv4_public"),
    "licence": lambda fake, _: fake.bothify("?########").upper(),
    "date": lambda fake, chance: fake.date(chance.choice(("%Y-%m-%d", "%d.%m.%Y", "%B %d, %Y"))),
}
"""What Faker makes; every other name is that of its own method."""

_INVENTED: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "amount": lambda chance: f"{chance.choice('$€£')}{chance.randint(5, 90_000):,}",
    "number": lambda chance: str(chance.randint(2, 400)),
    "version": lambda chance: ".".join(str(chance.randint(0, 20)) for _ in range(3)),
    "reference": lambda chance: f"{chance.choice('ABCR')}-{chance.randint(10_000, 9_999_999)}",
}
