"""What if detection was wrong? Watches reads of shared runs, and limits each prober."""

from safekv.safeguard.config import SafeguardConfig
from safekv.safeguard.monitor import Monitor, Suspicion
from safekv.safeguard.names import block_names

__all__ = ["Monitor", "SafeguardConfig", "Suspicion", "block_names"]
