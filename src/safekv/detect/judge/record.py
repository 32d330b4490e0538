"""The proof that a judge can tell private text from other text, signed by who runs the server."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from safekv.detect.judge.question import VERSION
from safekv.errors import ConfigError
from safekv.privatefile import SigningKey

FORMAT: Final = 1
MIN_AUROC: Final = 0.9
"""What the lower end of the 95 % interval must reach."""

MIN_CASES: Final = 50
"""Private cases, and others, that a validation needs at least."""

_LABEL: Final = b"judge-record:"
_HINT: Final = "run `safekv detect validate-judge` again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How well `model` answers the question of version `question` on a labelled set.

    `auroc` is the chance that a private case scores higher than another one; ties count half.
    A block is cleared when its score is below `threshold`; `missed` is the share of private
    cases below it, `cleared` that of the others. `cases_sha256` is the set's.
    """

    model: str
    question: str
    auroc: float
    auroc_low: float
    auroc_high: float
    threshold: float
    private_cases: int
    other_cases: int
    missed: float
    cleared: float
    cases_sha256: str
    created: str

    def refusal(self) -> str | None:
        """Why this record lets its judge clear nothing, or None."""
        if min(self.private_cases, self.other_cases) < MIN_CASES:
            return f"it has fewer than {MIN_CASES} private or other cases"
        if self.auroc_low < MIN_AUROC:
            return f"its AUROC may be as low as {self.auroc_low:.2f}, {MIN_AUROC} is needed"
        if self.cleared == 0.0:
            return "no case scores below every private one"
        if self.question != VERSION:
            return "it was made for another question"
        return None


def write_record(path: Path, record: Record, env: Mapping[str, str]) -> None:
    """Writes `record`, signed with the deployment key, which is made where there is none."""
    said = asdict(record)
    signature = SigningKey.default(env).sign(_LABEL + _canonical(said), create=True)
    text = json.dumps({"format": FORMAT, "record": said, "hmac": signature}, indent=2)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            f"judge record {path} cannot be written ({type(error).__name__})", "check the path"
        ) from error


def read_record(path: Path, env: Mapping[str, str]) -> Record:
    """The record in `path`. Raises `ConfigError` if it is missing, damaged or not signed here."""
    try:
        data = json.loads(path.read_bytes())
        said = data["record"]
        signature = SigningKey.default(env).sign(_LABEL + _canonical(said))
        if data["format"] != FORMAT or not hmac.compare_digest(str(data["hmac"]), signature):
            raise ValueError
        return Record(**{one.name: said[one.name] for one in fields(Record)})
    except OSError as error:
        raise ConfigError(
            f"judge record {path} cannot be read ({type(error).__name__})", _HINT
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"judge record {path} is damaged, or was not signed with this deployment's key", _HINT
        ) from None


def usable_record(path: Path, model: str, env: Mapping[str, str]) -> Record:
    """The record in `path`, if it lets `model` clear blocks. Raises `ConfigError` if not."""
    record = read_record(path, env)
    if record.model != model:
        raise ConfigError(
            f"judge record {path} is of the model {record.model!r}, not {model!r}", _HINT
        )
    refusal = record.refusal()
    if refusal is not None:
        raise ConfigError(
            f"judge record {path} does not let {model!r} clear anything: {refusal}",
            "use a better judge, or leave detect.judge_record out: it can then only veto",
        )
    return record


def _canonical(said: object) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
