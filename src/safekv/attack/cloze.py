"""Read a prompt of which all but some words is known, word by word, from response times or order.

The timing attack follows Early Bird (arXiv 2409.20002): one word at a time, likely ones first, a
second look with other copies of the prompt. The order attack follows PROMPTPEEK (NDSS 2025): all
candidates at once, and the one that is served first. A cache of blocks confirms a word only with
the block that ends behind it, so known text of two blocks or more must follow each gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from safekv.attack.prompt_recovery import recover
from safekv.attack.timing import median

Ask = Callable[[str], float]
"""Sends a prompt and gives the time to its first token in seconds."""

AskAll = Callable[[Sequence[str]], Sequence[int] | None]
"""Sends prompts at once and gives each one's place; `None` when the places say nothing."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A missing word: the known text around it, and what it may be, likely words first."""

    before: str = field(repr=False)
    after: str = field(repr=False)
    candidates: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cloze:
    """A prompt with gaps. `opening` is all that tells two copies of it apart."""

    opening: str = field(repr=False)
    gaps: tuple[Gap, ...] = field(repr=False)

    def prompt(self, words: Sequence[str]) -> str:
        """The prompt up to the gap behind the last of `words`, which fill the gaps before it."""
        parts = [
            f"{gap.before} {word}{gap.after}" for gap, word in zip(self.gaps, words, strict=False)
        ]
        return " ".join([self.opening, *parts])


def by_time(
    copies: Sequence[Cloze],
    ask: Ask,
    cut: float,
    decoys: Iterator[str],
    renew: Callable[[], None] = lambda: None,
) -> list[str]:
    """Guess words until none stands out any more; the guesses, in order.

    `copies` are the same prompt with different openings, all sent by the victim: a probe leaves
    its prompt in the prober's own cache, so each candidate is tried on the first copy once, and
    confirmed by the median over the others. With a single copy `renew` must bring the caches
    back to where only the victim's prompt is in them. `cut` is as in `recover`, and `decoys` are
    words that no prompt holds. At most `(4 + copies) * candidates + 3` requests a word.
    """
    found: list[str] = []
    for gap in copies[0].gaps:
        word = recover(
            gap.candidates,
            probe=lambda word: ask(copies[0].prompt([*found, word])),
            cut=cut,
            confirm=lambda word: _confirm(copies, ask, [*found, word], renew),
            control=lambda: ask(copies[-1].prompt([*found, next(decoys)])),
        ).found
        if word is None:
            break
        found.append(word)
    return found


def _confirm(
    copies: Sequence[Cloze], ask: Ask, words: Sequence[str], renew: Callable[[], None]
) -> float:
    if len(copies) == 1:
        renew()
    return median(ask(copy.prompt(words)) for copy in copies[1:] or copies)


def by_order(copies: Sequence[Cloze], ask_all: AskAll) -> list[str]:
    """Guess each word as the candidate that is served earliest on average over `copies`.

    All candidates of a gap go out at once, once for each copy, so that takes `candidates * copies`
    requests a word. Never gives up: what it says of an endpoint that tells nothing is chance.
    """
    found: list[str] = []
    for place, gap in enumerate(copies[0].gaps):
        total = dict.fromkeys(gap.candidates, 0)
        for copy in copies:
            prompts = [copy.prompt([*found, word]) for word in copy.gaps[place].candidates]
            ranks = ask_all(prompts)
            for word, rank in zip(copy.gaps[place].candidates, ranks or (), strict=False):
                total[word] += rank
        found.append(min(total, key=total.__getitem__))
    return found
