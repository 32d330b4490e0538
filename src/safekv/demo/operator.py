"""What the operator's key shows of a running server: counters, and the model's name."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from safekv.demo.process import Running
from safekv.errors import EngineError


class Counters(Protocol):
    """A server's counters at one moment."""

    def prompt_tokens(self, tenants: Iterable[str]) -> float: ...

    def hit_tokens(self, tenants: Iterable[str]) -> float: ...

    def promoted_blocks(self) -> float: ...


class Watcher(Protocol):
    """Someone who may read the counters."""

    def counters(self) -> Counters: ...


class MetricText:
    """Counters out of Prometheus text. A counter that was never moved counts as 0."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, sample.labels.get("tenant", "")): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def prompt_tokens(self, tenants: Iterable[str]) -> float:
        """Prompt tokens that `tenants` sent so far."""
        return self._sum("safekv_prompt_tokens_total", tenants)

    def hit_tokens(self, tenants: Iterable[str]) -> float:
        """Those of them that were found in the cache."""
        return self._sum("safekv_hit_tokens_total", tenants)

    def promoted_blocks(self) -> float:
        """Blocks that became shared so far."""
        return self._values.get(("safekv_promoted_blocks_total", ""), 0.0)

    def _sum(self, name: str, tenants: Iterable[str]) -> float:
        return sum(self._values.get((name, tenant), 0.0) for tenant in tenants)


@dataclass(frozen=True, slots=True)
class Operator:
    """A server and an operator key for it. Every method raises `EngineError` when it refuses."""

    server: Running
    key: str = field(repr=False)

    def counters(self) -> MetricText:
        """The counters now."""
        return MetricText(self._get("/metrics").decode())

    def model_id(self) -> str:
        """The name by which requests must ask for the model."""
        return str(json.loads(self._get("/v1/models"))["data"][0]["id"])

    def _get(self, path: str) -> bytes:
        try:
            status, body = self.server.get(path, self.key)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the server did not answer {path}") from error
        if status != 200:
            raise EngineError(f"the server answered {path} with {status}")
        return body
