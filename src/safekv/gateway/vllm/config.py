"""Settings of safekv's front on a vLLM server."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safekv.engines.vllm.claim import MAX_LIFETIME_S
from safekv.errors import ConfigError

SOURCE_PATTERN: Final = re.compile(r"header:[A-Za-z0-9-]{1,64}|field:[a-z_]{1,64}")
# A header that says something else already would be believed to say who calls.
TAKEN_HEADERS: Final = (
    "accept",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "x-safekv-gateway",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontConfig:
    """Who is believed, and for how long a signed claim is in force.

    `claim_lifetime_s` must outlast the time between a request's arrival and its scheduling.
    `passed_xargs` are the names in a client's `vllm_xargs` that reach the engine; none by default.
    `trusted_source` (`header:NAME` or `field:NAME`) is what a gateway that authenticated a client
    already says of its tenant. It counts in requests that bear the secret in
    `trusted_secret_file` and come from `trusted_networks`, whichever of the two is set.
    """

    claim_lifetime_s: float = 300.0
    passed_xargs: tuple[str, ...] = ()
    trusted_source: str = ""
    trusted_secret_file: Path | None = None
    trusted_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.claim_lifetime_s <= MAX_LIFETIME_S:
            raise ConfigError(
                f"front.claim_lifetime_s is {self.claim_lifetime_s}",
                f"use a number above 0, up to {MAX_LIFETIME_S:.0f}",
            )
        for name in self.passed_xargs:
            if name in ("safekv", "session_id", "kv_transfer_params", "ec_transfer_params"):
                raise ConfigError(
                    f"front.passed_xargs names {name!r}", "a client may never choose that one"
                )
        self._check_source()
        self.networks()

    def _check_source(self) -> None:
        named = bool(self.trusted_secret_file or self.trusted_networks)
        if not self.trusted_source:
            if named:
                raise ConfigError(
                    "front.trusted_source is not set, but a gateway's secret or network is",
                    "say where it names the tenant, such as header:X-Tenant",
                )
            return
        kind, _, name = self.trusted_source.partition(":")
        taken = kind == "header" and name.lower() in TAKEN_HEADERS
        if not SOURCE_PATTERN.fullmatch(self.trusted_source) or taken:
            raise ConfigError(
                f"front.trusted_source is {self.trusted_source!r}",
                "use header:NAME or field:NAME, such as header:X-Tenant or field:cache_salt",
            )
        if not named:
            raise ConfigError(
                "front.trusted_source is set, but any client could write it",
                "set front.trusted_secret_file, front.trusted_networks, or both",
            )

    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """`trusted_networks`, read. Raises `ConfigError` for what is none."""
        found = []
        for text in self.trusted_networks:
            try:
                network = ipaddress.ip_network(text)
            except ValueError as error:
                raise ConfigError(
                    f"front.trusted_networks holds {text!r}: {error}", "such as 10.0.3.0/24"
                ) from None
            if network.prefixlen == 0:
                raise ConfigError(
                    f"front.trusted_networks holds {text!r}, which is everybody",
                    "name the gateway's own addresses",
                )
            found.append(network)
        return tuple(found)
