"""What to do about an audit's result, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from safekv.audit.endpoint.judge import Finding, Verdict
from safekv.audit.endpoint.observation import CONTROL_SCOPES, Channel, Scope
from safekv.audit.endpoint.session import Outcome

SCOPE_FIXES: Final = {
    Scope.OTHER: (
        "Tenants share a prefix cache. vLLM: have the gateway set `cache_salt` per tenant from the"
        " key, and drop what clients send in that field. SGLang, llama.cpp and others: one server"
        " or one cache per tenant, or prefix caching off. safekv: mode `isolated`, or `selective`"
        " where this content is meant to be shared."
    ),
    Scope.ORGANISATION: (
        "Keys of one organisation share a cache. If they belong to different tenants, salt by key"
        " instead of by organisation; if not, declare it with --may-share."
    ),
    Scope.ANONYMOUS: (
        "Requests without a key see what others sent. Refuse them at the gateway, or give them a"
        " cache of their own."
    ),
}
CHANNEL_FIXES: Final = {
    Channel.CACHED: "Usage fields tell of others' cache hits: count a tenant's own hits only.",
    Channel.USAGE: "A usage field differs with others' prompts: remove it at the gateway.",
    Channel.HEADERS: "A response header differs with others' prompts: strip it at the gateway.",
    Channel.ORDER: (
        "Requests that hit another tenant's cache are served first: schedule by the caller's own"
        " cache alone, or first come, first served (SGLang: `--schedule-policy fcfs`)."
    ),
    Channel.DRIFT: (
        "Answers change with others' prompts: a hit computes in another order than a miss. Use"
        " batch-invariant kernels, or a cache per tenant."
    ),
    Channel.ERRORS: "Errors or limits differ with others' prompts: bill and limit by length alone.",
}
INCONCLUSIVE: Final = (
    "This is not a pass. Measure an idle endpoint, raise --blocks, and raise --prompt-tokens where"
    " a cache begins at a minimum length (some providers': 1,024 tokens). If the own key's cache"
    " is not seen at all, prefix caching may be off: then there is nothing to leak through it."
)


def advice(outcome: Outcome) -> list[str]:
    """One line for each thing to do, most important first; empty when nothing is."""
    leaks = [f for f in outcome.findings if _is_leak(f)]
    lines = list(dict.fromkeys(_fixes(leaks)))
    if outcome.verdict is Verdict.INCONCLUSIVE:
        lines.append(INCONCLUSIVE)
    return lines + [str(note) for note in outcome.environment.get("notes", [])]


def _is_leak(found: Finding) -> bool:
    return found.scope not in CONTROL_SCOPES and found.verdict is Verdict.LEAK


def _fixes(leaks: list[Finding]) -> Iterator[str]:
    yield from (SCOPE_FIXES[found.scope] for found in leaks)
    yield from (CHANNEL_FIXES[f.channel] for f in leaks if f.channel in CHANNEL_FIXES)
