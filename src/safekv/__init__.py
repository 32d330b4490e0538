"""Selective sharing of one LLM server's KV cache between tenants."""

from safekv.types import BlockId, Mode, Scope, TenantId, Verdict

__version__ = "0.1.0"
__all__ = ["BlockId", "Mode", "Scope", "TenantId", "Verdict", "__version__"]
