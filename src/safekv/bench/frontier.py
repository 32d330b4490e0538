"""How much of what sharing is worth each policy keeps, and what an attacker gets for it.

A trace is replayed through the real warden, with as much memory as it asks for. One token stands
for one block of the trace; the trace's own clock ends the epochs.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from safekv.cache import CacheConfig
from safekv.errors import ConfigError
from safekv.safeguard import SafeguardConfig
from safekv.types import BlockId, Mode, Profile, TenantId, Verdict, pack_tokens
from safekv.warden import Warden, WardenConfig

BLOCK: Final = 512
PLENTY: Final = 1_000_000
LAST: Final = -1
"""A token behind every prompt: an engine always has one to compute."""

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when, its full blocks, and the conversation it belongs to."""

    at_s: float
    blocks: tuple[int, ...]
    conversation: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A point of the frontier. `advantage` is what an attacker gains on a text that the
    detector let pass, per block and window."""

    name: str
    config: WardenConfig
    advantage: float
    guarded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPlan:
    """Tenants, shares of sensitive conversations, and (L, W) pairs to replay."""

    tenants: tuple[int, ...] = (10, 100, 1000)
    sensitive: tuple[float, ...] = (0.1, 0.3, 0.5)
    thresholds: tuple[tuple[int, int], ...] = ((2, 2), (2, 8), (8, 32))
    seed: int = 0

    def policies(self) -> list[Policy]:
        """SafeKV's own point with and without its monitor, and `anonymous` at each pair."""
        paper = WardenConfig(profile=Profile.PAPER)
        found = [Policy("paper", paper, 1.0), Policy("paper, no safeguard", paper, 1.0, False)]
        for low, width in self.thresholds:
            config = WardenConfig(
                profile=Profile.ANONYMOUS, threshold_low=low, threshold_width=width
            )
            found.append(Policy(f"anonymous L={low} W={width}", config, 1 / width))
        return found


def read(path: Path) -> list[Request]:
    """A Mooncake trace with its conversations (rule STRICT).

    A request continues the last earlier one whose blocks begin its own and whose prompt and
    answer together are no longer than its prompt; each has one continuation. Raises
    `ConfigError` for a file that is no such trace.
    """
    open_ends: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    requests, conversations = list[Request](), count()
    try:
        data = path.read_bytes()
        for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
            row = json.loads(line)
            length = int(row["input_length"])
            blocks = tuple(int(b) for b in row["hash_ids"][: length // BLOCK])
            conversation = _continued(open_ends, blocks, length)
            if conversation is None:
                conversation = next(conversations)
            if blocks:
                end = length + int(row["output_length"])
                open_ends[blocks[-1]].append((end, conversation))
                requests.append(Request(row["timestamp"] / 1000, blocks, conversation))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read {path} as a Mooncake trace ({type(error).__name__})",
            "pass JSON lines with timestamp, hash_ids, input_length and output_length",
        ) from error
    return requests


def _continued(
    open_ends: defaultdict[int, list[tuple[int, int]]], blocks: tuple[int, ...], length: int
) -> int | None:
    for block in reversed(blocks):
        for n, (end, conversation) in enumerate(open_ends.get(block, ())):
            if end <= length:
                del open_ends[block][n]
                return conversation
    return None


def run(requests: Sequence[Request], plan: FrontierPlan, report: Report) -> dict[str, object]:
    """Hit rates and shares of the gap, as JSON types. Some seconds per replay."""
    policies = plan.policies()
    total = len(plan.tenants) * (2 + len(plan.sensitive) * len(policies))
    done = count(1)
    popular, rows = popular_blocks(requests), list[dict[str, object]]()

    def rate(policy: Policy, tenants: int, share: float) -> float:
        found = replay(requests, policy, tenants, share, popular, plan.seed)
        report(next(done), total)
        return found

    for tenants in plan.tenants:
        alone = rate(Policy("isolated", WardenConfig(mode=Mode.ISOLATED), 0.0), tenants, 0.0)
        everyone = WardenConfig(mode=Mode.UNSAFE_GLOBAL)
        everything = rate(Policy("unsafe-global", everyone, 1.0), tenants, 0.0)
        for share in plan.sensitive:
            for policy in policies:
                hit_rate = rate(policy, tenants, share)
                rows.append(
                    {
                        "tenants": tenants,
                        "sensitive": share,
                        "policy": policy.name,
                        "hit_rate": hit_rate,
                        "isolated": alone,
                        "unsafe_global": everything,
                        "recovered": (hit_rate - alone) / max(1e-12, everything - alone),
                        "advantage": policy.advantage,
                    }
                )
    return {"requests": len(requests), "rows": rows}


def popular_blocks(requests: Sequence[Request]) -> set[int]:
    """Blocks in at least 50 requests and half a percent of them: system prompts."""
    uses = Counter(block for request in requests for block in request.blocks)
    least = max(50, 0.005 * len(requests))
    return {block for block, n in uses.items() if n >= least}


def replay(
    requests: Sequence[Request],
    policy: Policy,
    tenants: int,
    sensitive: float,
    popular: set[int],
    seed: int,
) -> float:
    """Hit blocks per block of the trace."""
    cache = CacheConfig(
        block_tokens=1,
        capacity_blocks=(tenants + 2) * PLENTY,
        shared_blocks=PLENTY,
        quota_blocks=PLENTY,
    )
    off = SafeguardConfig(
        low_diversity=0.0, reads_per_node=PLENTY, reads_per_tenant=PLENTY, surge_factor=PLENTY
    )
    warden = Warden(policy.config, cache, safeguard=None if policy.guarded else off)
    ids, ticks, hit = count(), 0, 0
    for request in requests:
        while ticks < request.at_s // policy.config.epoch_s:
            ticks += 1
            warden.tick()
        draw = _draw(seed, request.conversation)
        tenant = TenantId(f"t{draw % tenants}")
        private = (draw >> 32) % 1000 < 1000 * sensitive
        hit += _serve(warden, tenant, request.blocks, popular if private else None, ids)
    return hit / sum(len(request.blocks) for request in requests)


def _serve(
    warden: Warden,
    tenant: TenantId,
    blocks: tuple[int, ...],
    clean: set[int] | None,
    ids: count[int],
) -> int:
    """Send one prompt; its hit blocks. With `clean` the first other block and all behind it are
    vetoed."""
    tokens = pack_tokens((*blocks, LAST))
    lease = warden.admit(tenant, tokens)
    new = [BlockId(next(ids) % (1 << 31)) for _ in range(len(blocks) - lease.n_blocks)]
    warden.store(tenant, lease, tokens[:-4], new)
    job = warden.computed(tenant, lease, tokens)
    if job is not None:
        verdicts, ok = list[Verdict](), True
        for block in blocks:
            ok = ok and (clean is None or block in clean)
            verdicts.append(Verdict.SHAREABLE if ok else Verdict.PRIVATE)
        warden.settle(job, [*verdicts, Verdict.UNSURE])
    warden.release(lease)
    warden.take_freed()
    return lease.hit_blocks


def _draw(seed: int, conversation: int) -> int:
    text = f"{seed}:{conversation}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
