"""What if detection was wrong? Watches reads of shared runs, and limits each prober."""

from safekv.safeguard.config import SafeguardConfig
from safekv.safeguard.monitor import Monitor, Suspicion
from safekv.safeguard.names import NameMemory, block_names, common_blocks

__all__ = [
    "Monitor",
    "NameMemory",
    "SafeguardConfig",
    "Suspicion",
    "block_names",
    "common_blocks",
]
