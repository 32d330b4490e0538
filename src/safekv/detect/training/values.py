"""The values that templates are filled with: names, addresses and numbers of many countries."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

LOCALES: Final = (
    "en_US", "en_US", "en_US", "en_GB", "en_GB", "en_IN", "en_AU", "en_CA", "en_IE", "en_NG",
    "en_PK", "en_PH", "de_DE", "de_AT", "de_CH", "fr_FR", "fr_CA", "fr_DZ", "es_ES", "es_MX",
    "es_AR", "es_CO", "it_IT", "pt_BR", "pt_PT", "nl_NL", "nl_BE", "pl_PL", "sv_SE", "da_DK",
    "no_NO", "fi_FI", "cs_CZ", "sk_SK", "sl_SI", "hr_HR", "hu_HU", "ro_RO", "tr_TR", "id_ID",
    "sq_AL", "lt_LT", "lv_LV", "et_EE", "is_IS", "zu_ZA", "yo_NG", "tw_GH", "ga_IE",
    "romanised", "romanised", "romanised",
)  # fmt: skip
"""Whose names and addresses are made up, all in Latin letters; English names oftener."""

_LABELS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("person", "first", "last"), "PERSON"),
    **dict.fromkeys(("address", "street"), "ADDRESS"),
    **dict.fromkeys(("phone", "card", "iban", "ssn", "licence", "ip"), "NUMBER"),
    "email": "CONTACT",
    **dict.fromkeys(("city", "country"), "LOCATION"),
    "company": "ORGANIZATION",
    # The names that presidio-research gives its places.
    **dict.fromkeys(("name", "name_female", "name_male", "first_name", "last_name"), "PERSON"),
    **dict.fromkeys(("first_name_male", "first_name_female", "first_name_nonbinary"), "PERSON"),
    **dict.fromkeys(("last_name_male", "last_name_female"), "PERSON"),
    **dict.fromkeys(("street_name", "building_number", "secondary_address"), "ADDRESS"),
    **dict.fromkeys(("postcode", "zipcode", "state_abbr"), "ADDRESS"),
    **dict.fromkeys(("credit_card_number", "phone_number", "us_driver_license"), "NUMBER"),
    "ip_address": "NUMBER",
    "organization": "ORGANIZATION",
}

Maker = Callable[[Any, random.Random], object]


class Values:
    """Makes one value for a place of a template; draws from `chance` and from Faker."""

    def __init__(self, tables: Mapping[str, Any], chance: random.Random, seed: int) -> None:
        """`tables` are the lists of `templates.toml`. Raises `ModuleNotFoundError`."""
        from faker import Faker

        self._tables = tables
        self._random = chance
        self._fakers = {one: Faker(one) for one in sorted({*LOCALES} - {"romanised"})}
        Faker.seed(seed)

    @staticmethod
    def label(name: str) -> str | None:
        """What a value for `{name}` is labelled as where it is private."""
        return _LABELS.get(name)

    def of(self, name: str, locale: str) -> str:
        """A value for the place `{name}`."""
        chance = self._random
        if name in self._tables["words"]:
            return str(chance.choice(self._tables["words"][name]))
        if name in ("famous", "fictional"):
            return str(chance.choice(self._tables["public"][name]))
        if name in _INVENTED:
            return _INVENTED[name](chance)
        if _LABELS.get(name) == "PERSON":
            return self._person(name, locale)
        make = _MAKERS.get(name, _plainly(name))
        try:
            value = str(make(self._faker(locale), chance))
        except AttributeError:  # a few countries lack a few kinds
            value = str(make(self._fakers["en_US"], chance))
        return value.replace("\n", chance.choice((", ", "\n", " ")))

    def name_like(self, old: str, locale: str) -> str:
        """A name of as many words as `old`, written in the same case."""
        words = old.split()
        if len(words) == 1:
            new = self._first(locale) if self._random.random() < 0.4 else self._last(locale)
        else:
            middle = [f"{self._first(locale)[:1]}."] if len(words) > 2 else []
            new = " ".join([self._first(locale), *middle, self._last(locale)])
        if old.islower():
            return new.lower()
        return new.upper() if old.isupper() and len(old) > 3 else new

    def _person(self, name: str, locale: str) -> str:
        if name.startswith("first"):
            return self._first(locale)
        if name.startswith("last"):
            return self._last(locale)
        drawn = self._random.random()
        if drawn < 0.3 and locale != "romanised":
            return str(self._fakers[locale].name())
        first, last = self._first(locale), self._last(locale)
        if drawn < 0.4:
            return f"{first} {self._first(locale)[:1]}. {last}"
        if drawn < 0.45:
            return f"{first[:1]}. {last}"
        return f"{first} {last}"

    def _first(self, locale: str) -> str:
        if locale == "romanised":
            return str(self._random.choice(self._tables["romanised"]["first"]))
        return str(self._fakers[locale].first_name())

    def _last(self, locale: str) -> str:
        if locale == "romanised":
            return str(self._random.choice(self._tables["romanised"]["last"]))
        return str(self._fakers[locale].last_name())

    def _faker(self, locale: str) -> Any:
        return self._fakers["en_US" if locale == "romanised" else locale]


def _plainly(maker: str) -> Maker:
    return lambda fake, _: getattr(fake, maker)()


def _phone(fake: Any, chance: random.Random) -> object:
    if chance.random() < 0.6:
        return fake.phone_number()
    form = chance.choice(
        ("+## ### ######", "(###) ###-####", "0## #######", "###-###-####", "+1##########")
    )
    return fake.numerify(form)


_MAKERS: Final[Mapping[str, Maker]] = {
    "street": _plainly("street_address"),
    "phone": _phone,
    "phone_number": _phone,
    "card": _plainly("credit_card_number"),
    "ip": _plainly("ipv4_public"),
    "ip_address": _plainly("ipv4_public"),
    "licence": lambda fake, _: fake.bothify("?########").upper(),
    "us_driver_license": lambda fake, _: fake.bothify("?########").upper(),
    "date": lambda fake, chance: fake.date(chance.choice(("%Y-%m-%d", "%d.%m.%Y", "%B %d, %Y"))),
    "date_time": lambda fake, _: fake.date("%Y-%m-%d"),
    "date_of_birth": lambda fake, _: fake.date("%m/%d/%Y"),
    "organization": _plainly("company"),
    "secondary_address": lambda fake, _: fake.numerify("Apt. ###"),
    "zipcode": _plainly("postcode"),
}
"""What Faker makes; every other name is that of its own method."""

_INVENTED: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "amount": lambda chance: f"{chance.choice('$€£')}{chance.randint(2, 90_000):,}",
    "number": lambda chance: str(chance.randint(2, 400)),
    "digit": lambda chance: chance.choice(
        ("2", "3", "4", "5", "6", "7", "8", "two", "three", "four")
    ),
    "version": lambda chance: ".".join(str(chance.randint(0, 20)) for _ in range(3)),
    "reference": lambda chance: f"{chance.choice('ABCR')}-{chance.randint(10_000, 9_999_999)}",
    "age": lambda chance: str(chance.randint(18, 90)),
    "year": lambda chance: str(chance.randint(1900, 2025)),
    "prefix": lambda chance: chance.choice(("Mr.", "Mrs.", "Ms.", "Dr.")),
    "prefix_male": lambda chance: chance.choice(("Mr.", "Mr", "Dr.")),
    "prefix_female": lambda chance: chance.choice(("Mrs.", "Ms.", "Miss", "Dr.")),
    "state_abbr": lambda chance: chance.choice(("NY", "CA", "TX", "WA", "IL", "MA")),
    "day_of_week": lambda chance: chance.choice(("Monday", "Tuesday", "Friday", "Sunday")),
    "nation_woman": lambda chance: chance.choice(("Frenchwoman", "Englishwoman", "Swede")),
    "nation_plural": lambda chance: chance.choice(("Germans", "Swedes", "Italians", "Poles")),
}
