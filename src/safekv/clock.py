"""Where time comes from, so that tests need no sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in seconds."""

    def now_s(self) -> float: ...


class SystemClock:
    """The machine's monotonic clock: never goes backwards, has no meaning across processes."""

    def now_s(self) -> float:
        return time.monotonic()
