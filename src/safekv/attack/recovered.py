"""What an attack brings home."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Recovered:
    """One cache's prompt as an attack reads it; `None` where it would not name a token.

    `tokens[n]` is that of position `start + n`. An attack that gives text without positions
    (injection) leaves them empty. `tried` counts candidates, `wall_s` is the attack's own time.
    """

    tokens: tuple[int | None, ...] = field(repr=False)
    start: int = 0
    text: str | None = field(default=None, repr=False)
    tried: int = 0
    wall_s: float = 0.0

    def at(self, positions: range) -> list[int | None]:
        """The tokens of `positions`; `None` for those it does not reach."""
        own = range(self.start, self.start + len(self.tokens))
        return [self.tokens[p - self.start] if p in own else None for p in positions]
