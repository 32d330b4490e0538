"""Made-up prose of a wanted length. Clean by every rule, and different for every seed."""

from __future__ import annotations

import random
from typing import Final

WHO: Final = (
    *("The clerk", "A driver", "The garden team", "Our baker", "The night shift", "A teacher"),
    *("The harbour office", "The youth group", "A visitor", "The library", "The choir"),
)
DOES: Final = (
    *("carries", "repairs", "counts", "paints", "returns", "compares", "cleans", "describes"),
    *("collects", "measures", "moves", "borrows"),
)
WHICH: Final = (
    *("old", "heavy", "blue", "narrow", "quiet", "broken", "useful", "wooden", "warm", "round"),
    *("spare", "plain"),
)
WHAT: Final = (
    *("boxes", "lamps", "chairs", "letters", "ropes", "maps", "stones", "wheels", "doors"),
    *("blankets", "signs", "baskets"),
)
WHERE: Final = (
    *("behind the mill", "near the bridge", "in the attic", "beside the river", "under the stairs"),
    *("on the hill", "at the station", "in the yard", "along the wall", "by the old gate"),
)
WHEN: Final = (
    *("before lunch", "after the rain", "every morning", "during the winter", "once a week"),
    *("when the wind turns", "as soon as it is dark", "while the others wait"),
)
PARTS: Final = (WHO, DOES, WHICH, WHAT, WHERE, WHEN)

CARD: Final = "Please charge it to the card 4111 1111 1111 1111 as before."
"""Every scheme's test number: what the detector must find."""


def prose(seed: str, n_words: int) -> str:
    """Whole sentences of at least `n_words` words in all, the same for the same seed.

    A word is at least one token, with the default model's tokenizer 1.06 on average.
    """
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    sentences, words = [], 0
    while words < n_words:
        sentence = " ".join(rng.choice(part) for part in PARTS) + "."
        sentences.append(sentence)
        words += len(sentence.split())
    return " ".join(sentences)
