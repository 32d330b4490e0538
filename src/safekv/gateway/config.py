"""Settings of the HTTP gateway."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Where the gateway listens and what it refuses.

    `keys_file` holds hashed tenant keys. `max_waiting` bounds requests in flight that have no
    first token yet, `max_running` all that are in flight; the limits `…_per_tenant` are one
    tenant's share.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys_file: Path | None = None
    max_body_bytes: int = 1_048_576
    max_waiting: int = 64
    max_waiting_per_tenant: int = 16
    max_running: int = 256
    max_running_per_tenant: int = 64
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"server.port is {self.port}", "use 0 (any free port) to 65535")
        limits = ("max_waiting", "max_waiting_per_tenant", "max_running", "max_running_per_tenant")
        for name in ("max_body_bytes", *limits):
            if getattr(self, name) < 1:
                raise ConfigError(f"server.{name} is {getattr(self, name)}", "use 1 or more")
        if not (math.isfinite(self.drain_s) and self.drain_s >= 0):
            raise ConfigError(f"server.drain_s is {self.drain_s}", "use 0 or more seconds")
