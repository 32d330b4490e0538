"""The prefix tree: one tree of content, and who holds each run. Pure Python."""

from safekv.cache.config import CacheConfig, TiersConfig
from safekv.cache.lease import Lease
from safekv.cache.node import Node
from safekv.cache.stats import TreeStats
from safekv.cache.tiers import Below, Discard, Fetch, Move, Tiers, TiersStats
from safekv.cache.tree import PrefixTree

__all__ = [
    "Below",
    "CacheConfig",
    "Discard",
    "Fetch",
    "Lease",
    "Move",
    "Node",
    "PrefixTree",
    "Tiers",
    "TiersConfig",
    "TiersStats",
    "TreeStats",
]
