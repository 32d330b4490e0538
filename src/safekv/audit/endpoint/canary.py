"""Made-up prompts with gaps: what `safekv audit steal` plants, and is the only one to look for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Final

from safekv.attack.cloze import Cloze, Gap
from safekv.audit.endpoint.content import Writer
from safekv.audit.endpoint.observation import Content

LEADS: Final[dict[str, tuple[str, ...]]] = {
    "The next meeting of the group takes place in": (
        *("Lisbon", "Oslo", "Vienna", "Dublin", "Prague", "Athens", "Warsaw", "Madrid"),
        *("Paris", "London", "Berlin", "Rome", "Geneva", "Boston", "Chicago", "Denver"),
        *("Seattle", "Toronto", "Tokyo", "Delhi", "Cairo", "Lima", "Sydney", "Moscow"),
        *("Bangkok", "Dallas", "Austin", "Havana", "Manila", "Zurich", "Munich", "Milan"),
    ),
    "The invoice is due at the end of": (
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December", "spring", "summer", "autumn", "winter"),
        *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today"),
        *("Easter", "Lent", "term", "lunch", "class", "shift", "harvest", "Christmas"),
    ),
    "Everybody in the team will wear": (
        *("red", "blue", "green", "yellow", "black", "white", "brown", "purple"),
        *("orange", "pink", "gray", "silver", "gold", "navy", "beige", "violet"),
        *("wool", "silk", "cotton", "leather", "denim", "boots", "gloves", "hats"),
        *("jackets", "shirts", "scarves", "helmets", "aprons", "masks", "ties", "badges"),
    ),
    "Before that she worked for years as a": (
        *("nurse", "teacher", "lawyer", "doctor", "farmer", "baker", "driver", "pilot"),
        *("painter", "singer", "writer", "banker", "judge", "chef", "tailor", "miner"),
        *("plumber", "dentist", "butcher", "carpenter", "mechanic", "librarian", "waiter"),
        *("engineer", "chemist", "sailor", "guide", "editor", "actor", "soldier", "broker"),
        "gardener",
    ),
    "The new house is built of": (
        *("stone", "brick", "wood", "glass", "steel", "concrete", "clay", "bamboo"),
        *("marble", "granite", "timber", "iron", "copper", "slate", "straw", "oak"),
        *("pine", "cedar", "sand", "mud", "tin", "zinc", "lead", "plaster"),
        *("limestone", "gravel", "paper", "plastic", "rubber", "chalk", "cork", "ice"),
    ),
    "On the table they found a": (
        *("lamp", "book", "knife", "letter", "watch", "ring", "map", "candle"),
        *("bottle", "key", "phone", "camera", "radio", "clock", "mirror", "wallet"),
        *("basket", "violin", "drum", "flute", "spoon", "plate", "hammer", "brush"),
        *("pencil", "coin", "rope", "bell", "mask", "shell", "feather", "crown"),
    ),
    "The animal that they keep is a": (
        *("dog", "cat", "horse", "goat", "sheep", "cow", "pig", "duck"),
        *("rabbit", "parrot", "turtle", "snake", "mouse", "donkey", "goose", "pigeon"),
        *("ferret", "lizard", "hamster", "pony", "owl", "fox", "deer", "camel"),
        *("monkey", "bear", "wolf", "tiger", "lion", "zebra", "otter", "falcon"),
    ),
    "For dessert there will be": (
        *("apples", "pears", "plums", "cherries", "grapes", "figs", "dates", "melons"),
        *("peaches", "oranges", "lemons", "bananas", "mangoes", "berries", "nuts", "cake"),
        *("pie", "pudding", "cheese", "chocolate", "biscuits", "cream", "honey", "jam"),
        *("waffles", "pancakes", "custard", "yogurt", "sorbet", "toffee", "fudge", "tea"),
    ),
}
MOST_GAPS: Final = len(LEADS)
MOST_CANDIDATES: Final = min(len(words) for words in LEADS.values())

Order = Callable[[str, Sequence[str]], Sequence[str]]
"""Orders the candidates for the word behind a text, likely ones first."""


class Canary:
    """A cloze whose words were drawn uniformly, so that guessing blindly has a known chance.

    `copies` of it differ in their openings, of the class `content`, and in nothing else.
    """

    def __init__(
        self,
        seed: int,
        content: Content,
        *,
        gaps: int,
        candidates: int,
        copies: int,
        opening_words: int,
        after_words: int,
    ) -> None:
        rng = random.Random(f"canary/{seed}")  # noqa: S311 - made-up words, not keys
        self._writer = Writer(seed)
        drawn = []
        for lead, words in rng.sample(list(LEADS.items()), gaps):
            after = self._writer.write(Content.PROSE, after_words)
            drawn.append(Gap(lead, f". {after}", tuple(rng.sample(words, candidates))))
        self._truth = tuple(rng.choice(gap.candidates) for gap in drawn)
        taken = {word for gap in drawn for word in gap.candidates}
        unused = sorted({word for words in LEADS.values() for word in words} - taken)
        self._decoys = rng.sample(unused, len(unused))
        openings = [self._writer.write(content, opening_words) for _ in range(copies)]
        self.clozes = [Cloze(opening, tuple(drawn)) for opening in openings]

    @property
    def truth(self) -> tuple[str, ...]:
        """The words that the victim's prompt has; for whoever plants and scores alone."""
        return self._truth

    @property
    def prompts(self) -> list[str]:
        """What the victim sends: every copy whole."""
        return [cloze.prompt(self._truth) for cloze in self.clozes]

    def attackers_view(self, order: Order) -> list[Cloze]:
        """The copies with candidates in the attacker's order, which sees no word."""
        gaps = tuple(
            replace(gap, candidates=tuple(order(gap.before, gap.candidates)))
            for gap in self.clozes[0].gaps
        )
        return [Cloze(cloze.opening, gaps) for cloze in self.clozes]

    def decoys(self) -> Iterator[str]:
        """Words like the candidates that no prompt holds, without end; none returns soon."""
        return cycle(self._decoys)

    def filler(self, words: int) -> str:
        """A text that has nothing to do with the canary."""
        return self._writer.write(Content.PROSE, words)
