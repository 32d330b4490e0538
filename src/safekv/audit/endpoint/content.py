"""Prompts of each content class, all made up, each different from its first word on."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Final

from safekv.audit.endpoint.observation import Content

SYLLABLES: Final = ("ba", "do", "fen", "gi", "ka", "lo", "mur", "ne", "pa", "ri", "so", "tul", "ve")
TEMPLATE: Final = (
    "Answer in the language of the question and keep to short sentences. "
    "If a question cannot be answered from the manual, say so and name the service desk. "
    "Never promise a date, a price or a refund, and never guess what a part is called. "
    "Begin with the answer, explain it afterwards, and end with one useful question. "
)
PROSE: Final = (
    "The path went down to the water, where two boats lay upside down in the grass.",
    "In the morning the hills were grey, and by noon every field was full of light.",
    "An old dog slept in front of the bakery and lifted one ear when the bell rang.",
    "They had walked since sunrise, and nobody could say how far the next village was.",
    "Rain came in the afternoon, quietly at first, and then with a wind from the sea.",
    "Somebody had left a lamp in the window, so the last part of the way was easy.",
)
THINGS: Final = tuple(
    """
    amber anchor basket birch bottle bridge candle canvas chalk clay cloud copper cotton field
    flour gravel harbour hedge honey ivory kettle ladder lantern linen meadow mirror moss oak
    orchard paper pebble pepper plank pocket quilt rafter reed ribbon river rope saddle salt
    shell shutter slate straw thistle timber tunnel velvet violet wagon walnut willow window
    wool
    """.split()  # noqa: SIM905 - words are easier to read so
)
"""Words that name nobody: a detector of names must have nothing to say of prose."""
INTERNAL: Final = (
    "The second supplier agreed to our price, so the launch moves up by three weeks.",
    "Finance wants the margin on the new line above thirty percent before the board meets.",
    "We keep the plant in the north until the audit is over and tell the union afterwards.",
    "The offer to buy the smaller competitor stands, and their founder would stay a year.",
    "Two customers asked for the old interface back; we told them it is gone for good.",
    "Hiring stops in the spring except for the team that builds the battery module.",
)
SSN_PARTS: Final = ((100, 665), (10, 99), (1000, 9999))
FIRST_NAMES: Final = ("Anna", "Boris", "Carla", "David", "Elena", "Frank", "Greta", "Henry")
LAST_NAMES: Final = ("Miller", "Novak", "Peters", "Quinn", "Rossi", "Stein", "Turner", "Weber")


class Writer:
    """Writes prompts that nobody has ever sent, from a seed.

    Prompts of one class and one number of words have nearly the same number of tokens; they
    differ from the first word on, and a canary begins with its secret, so that two of them
    share no prefix and a cache cannot judge a part before the secret by itself.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"audit/{seed}")  # noqa: S311 - made-up texts, not keys
        self._lines: dict[Content, Callable[[], str]] = {
            Content.LETTERS: lambda: " ".join(self._rng.choices(string.ascii_lowercase, k=16)),
            Content.TEMPLATE: lambda: f"You are the assistant of {self._name()} Ltd. {TEMPLATE}",
            Content.PROSE: lambda: f"{self._title()}. {self._rng.choice(PROSE)}",
            Content.PERSONAL: self._person,
            Content.KEY: self._credentials,
            Content.INTERNAL: lambda: f"Project {self._title()}: {self._rng.choice(INTERNAL)}",
        }

    def write(self, content: Content, words: int) -> str:
        """A new text of that many words (at least one)."""
        found: list[str] = []
        while len(found) < words:
            found += self._lines[content]().split()
        return " ".join(found[: max(1, words)])

    def _name(self) -> str:
        return "".join(self._rng.choices(SYLLABLES, k=4)).capitalize()

    def _title(self) -> str:
        """One word of four things: some ten million there are."""
        return "-".join(self._rng.choices(THINGS, k=4))

    def _digits(self, count: int) -> str:
        return "".join(self._rng.choices(string.digits, k=count))

    def _person(self) -> str:
        """A customer with a card number that passes Luhn's check and a social security number."""
        name = f"{self._rng.choice(FIRST_NAMES)} {self._rng.choice(LAST_NAMES)}"
        # Area numbers up to 665 are issued; a group or serial of zeros never is.
        area, group, serial = (self._rng.randint(*ends) for ends in SSN_PARTS)
        ssn = f"{area}-{group}-{serial}"
        phone = f"+1 212 555 {self._digits(4)}"
        return f"Card {card_number(self._rng)}, SSN {ssn}, phone {phone}, of {name}."

    def _credentials(self) -> str:
        """Lines of a settings file with keys in forms that providers use."""
        upper = string.ascii_uppercase + "234567"
        access = "AKIA" + "".join(self._rng.choices(upper, k=16))
        token = "ghp_" + "".join(self._rng.choices(string.ascii_letters + string.digits, k=36))
        return f"aws_access_key_id = {access} github_token = {token}"


def card_number(rng: random.Random) -> str:
    """A made-up card number in groups of four, with a valid check digit (Luhn)."""
    digits = "4" + "".join(rng.choices(string.digits, k=14))
    doubled = [int(d) * (2 if place % 2 == 0 else 1) for place, d in enumerate(digits)]
    total = sum(d - 9 if d > 9 else d for d in doubled)
    digits += str(-total % 10)
    return " ".join(digits[i : i + 4] for i in range(0, 16, 4))
