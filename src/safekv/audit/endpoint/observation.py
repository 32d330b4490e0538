"""What one request showed an auditor. Holds no prompt, no answer and no key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Scope(Enum):
    """Who sent a prompt before the auditor's probe did, seen from the probing key."""

    SAME_KEY = "same-key"
    NEGATIVE = "negative-control"
    ORGANISATION = "same-organisation"
    OTHER = "other-tenant"
    ANONYMOUS = "anonymous"


class Content(Enum):
    """What a prompt is about: a cache that selects by content treats these differently."""

    LETTERS = "letters"
    TEMPLATE = "template"
    PROSE = "prose"
    PERSONAL = "canary-personal"
    KEY = "canary-key"
    INTERNAL = "internal"


class Channel(Enum):
    """Where a difference may show."""

    TTFT = "ttft"
    TOTAL = "total-latency"
    PACE = "inter-token"
    ORDER = "served-order"
    CACHED = "cached-tokens"
    USAGE = "usage"
    HEADERS = "headers"
    ERRORS = "errors"
    DRIFT = "output-drift"


CONTROL_SCOPES = frozenset({Scope.SAME_KEY, Scope.NEGATIVE})


@dataclass(frozen=True, slots=True)
class Observation:
    """One answered or failed request. Times are `None` where there was nothing to time.

    `outcome` is the first attempt's HTTP status, or the name of what went wrong. `usage` holds
    every number of the answer's usage by its path, `headers` the answer's headers in lower case.
    `first_at_s` is the moment of the first text by the audit's clock, and `digest` a keyed hash
    of the text. `rank` is the place, from 1, among requests sent at once, and `changed` whether
    the same prompt was answered otherwise when asked for again: both set by who compares.
    """

    outcome: str
    ttft_s: float | None = None
    total_s: float | None = None
    inter_token_s: float | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    first_at_s: float | None = None
    digest: bytes = field(default=b"", repr=False)
    rank: int | None = None
    changed: bool | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A primed probe and the control probe of the same block, whose order was drawn."""

    primed: Observation
    control: Observation
