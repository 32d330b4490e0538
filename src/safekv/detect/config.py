"""Settings of privacy detection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectConfig:
    """Which rules run and how far they look ahead.

    `extra_rulesets` are TOML files of the operator's own rules, added to the shipped ones.
    A block is judged only when `lookahead_chars` of the same prompt follow it, so that
    an identifier cannot be cut in two by a block's edge. `queue_prompts` bounds the
    backlog; a prompt that does not fit stays private.
    """

    extra_rulesets: tuple[Path, ...] = ()
    lookahead_chars: int = 64
    queue_prompts: int = 256

    def __post_init__(self) -> None:
        if self.lookahead_chars < 0:
            raise ConfigError(
                f"detect.lookahead_chars is {self.lookahead_chars}", "use 0 or more characters"
            )
        if self.queue_prompts < 1:
            raise ConfigError(
                f"detect.queue_prompts is {self.queue_prompts}", "use at least 1 prompt"
            )
