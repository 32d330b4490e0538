"""The one object an engine holds: admit, store, release, evict."""

from safekv.warden.config import WardenConfig
from safekv.warden.promotion import Evidence, PromotionQueue, PromptJob
from safekv.warden.tiers import TierWarden
from safekv.warden.warden import Usage, Warden

__all__ = [
    "Evidence",
    "PromotionQueue",
    "PromptJob",
    "TierWarden",
    "Usage",
    "Warden",
    "WardenConfig",
]
