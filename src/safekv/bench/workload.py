"""A trace made ready to replay: who sends each request, and what of it is secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from safekv.bench.tenancy import Bound, conversations, public_blocks, share, tenants
from safekv.bench.traces import Request, Trace
from safekv.errors import ConfigError
from safekv.types import TenantId

PARTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    """How tenants and secrets are dealt out where the trace does not name them.

    `sensitive` is the share of texts that are secret from their first block on that is not in
    general use. A detector finds `recall` of these, and takes `false_flags` of the others for
    secret too. All three depend on that block alone, as a detector's verdict depends on the
    text and not on who sent it. Where a detector judged the trace's texts, its verdicts take their
    place; what it does not clear is then the secret, unless the trace says itself what is.
    """

    tenants: int = 100
    bound: Bound = Bound.STRICT
    sensitive: float = 0.1
    recall: float = 1.0
    false_flags: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tenants < 1:
            raise ConfigError(f"tenants is {self.tenants}", "use 1 or more")
        for name in ("sensitive", "recall", "false_flags"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}", "use a share of 0 to 1")


@dataclass(frozen=True, slots=True)
class Placed:
    """One request with its sender. Of its `n_blocks` the first `open_blocks` are no secret, and
    the first `cleared_blocks` are cleared by the detector; `first` opens a conversation."""

    time_s: float
    tenant: TenantId
    tokens: bytes = field(repr=False)
    input_tokens: int
    n_blocks: int
    public_blocks: int
    open_blocks: int
    cleared_blocks: int
    first: bool

    @property
    def secret(self) -> bool:
        return self.open_blocks < self.n_blocks


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of time, and how many distinct blocks and tenants they have."""

    trace: Trace
    names: Sequence[TenantId]
    placed: Sequence[Placed]
    distinct_blocks: int


def deal(trace: Trace, dealing: Dealing) -> Workload:
    """Give each request of `trace` a tenant and a verdict, by `dealing` alone. O(blocks)."""
    roots = conversations(trace, dealing.bound)
    names = [TenantId(n) for n in tenants(trace, dealing.bound, dealing.tenants, dealing.seed)]
    seen, placed, distinct = set[str](), list[Placed](), set[int]()
    rows = zip(trace.requests, roots, names, public_blocks(trace), strict=True)
    for request, root, name, public in rows:
        n, text = request.n_blocks, _first_own(request, public)
        secret = request.sensitive
        if secret is None:
            secret = text is not None and _chance(dealing, "secret", text) < dealing.sensitive
        chance = _chance(dealing, "verdict", text)
        cleared = chance >= dealing.recall if secret else chance >= dealing.false_flags
        open_blocks, cleared_blocks = public if secret else n, n if cleared else public
        if request.cleared_blocks is not None:
            cleared_blocks = request.cleared_blocks
            if request.sensitive is None:
                open_blocks = cleared_blocks
        placed.append(
            Placed(
                request.time_s,
                name,
                request.blocks,
                request.input_tokens,
                n,
                public,
                open_blocks,
                cleared_blocks,
                root not in seen,
            )
        )
        seen.add(root)
        distinct.update(request.numbers())
    return Workload(trace, sorted(set(names)), placed, len(distinct))


def _first_own(request: Request, public: int) -> int | None:
    """The first block that is not in general use."""
    return next(islice(request.numbers(), public, None), None)


def _chance(dealing: Dealing, what: str, text: int | None) -> float:
    """A number of [0, 1) that depends on the text and the seed alone."""
    return share(f"{dealing.seed}:{what}:{text}", PARTS) / PARTS
