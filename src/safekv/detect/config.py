"""Settings of privacy detection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectConfig:
    """Which stages judge prompts, in which process, and what they may cost.

    `stages` run in this order: `rules`, `classifier`, `judge`, and names that installed
    packages give in the entry-point group `safekv.detectors`. `extra_rulesets` are TOML files
    of the operator's own rules, added to the shipped ones. `classifier` is the folder of a
    model that `safekv detect train` made, by default the shipped one; a positive
    `classifier_bias` makes it find more, and flag more. A block is judged only when
    `lookahead_chars` of the same prompt follow it, so that an identifier cannot be cut in two
    by a block's edge.

    `queue_prompts` bounds the backlog, of which one tenant may hold `tenant_prompts`; a
    prompt that does not fit stays private. With `process` the stages run in a process of
    their own, which is killed and started again when an answer takes longer than
    `time_limit_s` for every 10,000 characters of the prompts asked about.
    `remembered_prompts` verdicts are kept for each tenant, so that what it repeats is judged
    once.

    The judge asks the model `judge_model` at the OpenAI-compatible `judge_url`, by default the
    served one, about blocks in doubt, with the key in `judge_key_file`. It may clear them only
    with a `judge_record` that `safekv detect validate-judge` made. One call of the detector
    asks for at most `judge_time_limit_s` (and half of `time_limit_s`), and in a minute for
    `judge_tokens_per_minute`.
    """

    stages: tuple[str, ...] = ("rules", "classifier")
    extra_rulesets: tuple[Path, ...] = ()
    lookahead_chars: int = 64
    classifier: Path | None = None
    classifier_bias: float = 0.0
    queue_prompts: int = 256
    tenant_prompts: int = 64
    batch_prompts: int = 8
    remembered_prompts: int = 256
    process: bool = True
    time_limit_s: float = 10.0
    judge_url: str | None = None
    judge_model: str | None = None
    judge_key_file: Path | None = None
    judge_record: Path | None = None
    judge_time_limit_s: float = 5.0
    judge_tokens_per_minute: int = 20_000

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("detect.stages is empty", "name at least one stage, such as rules")
        if len(set(self.stages)) != len(self.stages):
            raise ConfigError("detect.stages names a stage twice", "name each stage once")
        if self.lookahead_chars < 0:
            raise ConfigError(
                f"detect.lookahead_chars is {self.lookahead_chars}", "use 0 or more characters"
            )
        if self.remembered_prompts < 0:
            raise ConfigError(
                f"detect.remembered_prompts is {self.remembered_prompts}", "use 0 or more prompts"
            )
        for name in ("queue_prompts", "tenant_prompts", "batch_prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"detect.{name} is {getattr(self, name)}", "use at least 1 prompt"
                )
        if self.time_limit_s <= 0:
            raise ConfigError(f"detect.time_limit_s is {self.time_limit_s}", "use more than 0")
        if self.judge_time_limit_s <= 0:
            raise ConfigError(
                f"detect.judge_time_limit_s is {self.judge_time_limit_s}", "use more than 0"
            )
        if self.judge_tokens_per_minute < 1:
            raise ConfigError(
                f"detect.judge_tokens_per_minute is {self.judge_tokens_per_minute}",
                "use at least 1 token",
            )
