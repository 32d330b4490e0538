"""What was proven shareable, waiting for the next epoch tick."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from safekv.types import TOKEN_BYTES, TenantId, Verdict


@dataclass(frozen=True, slots=True)
class PromptJob:
    """One stored prompt of one tenant, to be judged off the request path.

    `tokens` is the whole prompt; only its first `full_blocks` blocks can be shared, the
    rest is look-ahead. Blocks from `computed_from` on the tenant computed itself; by default
    none, since a reader must never count as a contributor (defect D4).
    """

    tenant: TenantId
    tokens: bytes = field(repr=False)
    full_blocks: int
    computed_from: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The first `n_blocks` blocks of `tokens`, sent by `tenant`, were found shareable.

    Those from `computed_from` on it computed itself. `names` are the blocks' keyed names, or
    empty until they are needed.
    """

    tenant: TenantId
    tokens: bytes = field(repr=False)
    n_blocks: int
    computed_from: int
    names: tuple[bytes, ...] = field(default=(), repr=False)


def evidence_from(
    job: PromptJob, verdicts: Sequence[Verdict], block_tokens: int
) -> Evidence | None:
    """The longest run from the start that every verdict clears, or `None` if there is none.

    Fails closed: with fewer or more verdicts than blocks nothing is cleared. A cleared
    block behind an uncleared one does not count, since a shared block below a private one
    would confirm a guess of what lies between.
    """
    if len(verdicts) != job.full_blocks:
        return None
    n = 0
    for verdict in verdicts:
        if verdict is not Verdict.SHAREABLE:
            break
        n += 1
    if n == 0:
        return None
    computed_from = n if job.computed_from is None else min(n, job.computed_from)
    return Evidence(job.tenant, job.tokens[: n * block_tokens * TOKEN_BYTES], n, computed_from)


class PromotionQueue:
    """Evidence gathered in this epoch, at most `limit` pieces; the oldest is dropped.

    Dropping is safe: what is not promoted stays private.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._waiting: OrderedDict[tuple[TenantId, bytes], Evidence] = OrderedDict()

    def add(self, evidence: Evidence) -> None:
        self._waiting[(evidence.tenant, evidence.tokens)] = evidence
        if len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)

    def take(self) -> list[Evidence]:
        """All evidence of the epoch that ends now."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        return taken
