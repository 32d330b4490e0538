"""What the made-up chats are made of."""

from __future__ import annotations

from typing import Final

SUBJECTS: Final = [
    "the gardener",
    "a red fox",
    "our neighbour",
    "the old bridge",
    "a small boat",
    "the baker",
]
VERBS: Final = ["waters", "watches", "carries", "repairs", "follows", "paints"]
OBJECTS: Final = [
    "the roses",
    "a wooden fence",
    "the morning bread",
    "seven lamps",
    "a long river",
    "the hill",
]
PLACES: Final = ["in spring", "near the harbour", "before noon", "under the trees", "on quiet days"]
