"""The one object an engine holds: admit, store, release, evict."""

from safekv.warden.config import WardenConfig
from safekv.warden.keys import Keys
from safekv.warden.ledger import ContributionLedger
from safekv.warden.promotion import Evidence, PromotionQueue, PromptJob
from safekv.warden.quarantine import Quarantine
from safekv.warden.schedule import Prefill, ReleaseSchedule
from safekv.warden.threshold import SecretThreshold
from safekv.warden.tiers import TierWarden
from safekv.warden.warden import Usage, Warden

__all__ = [
    "ContributionLedger",
    "Evidence",
    "Keys",
    "Prefill",
    "PromotionQueue",
    "PromptJob",
    "Quarantine",
    "ReleaseSchedule",
    "SecretThreshold",
    "TierWarden",
    "Usage",
    "Warden",
    "WardenConfig",
]
