"""What was demoted on suspicion stays private, also when it is sent and cleared again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

QUARANTINE_LIMIT: Final = 65_536


class Quarantine:
    """Keyed names of blocks below which nothing is promoted, until the process ends.

    Nothing is ever dropped from it, since that would lift a quarantine: when `limit` names are
    held, nothing at all is promoted any more. Operators' declarations are not subject to it.
    """

    def __init__(self, limit: int = QUARANTINE_LIMIT) -> None:
        self._limit = limit
        self._names: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def full(self) -> bool:
        """Whether promotion has stopped."""
        return len(self._names) >= self._limit

    def add(self, name: bytes) -> None:
        """Keep private what lies below the block called `name`."""
        if not self.full:
            self._names.add(name)

    def reach(self, names: Sequence[bytes]) -> int:
        """How many of the leading blocks called `names` may be promoted. O(blocks)."""
        if self.full:
            return 0
        return next((n + 1 for n, name in enumerate(names) if name in self._names), len(names))
