"""The prefix tree: one tree of content, and who holds each run. Pure Python."""

from safekv.cache.config import CacheConfig
from safekv.cache.lease import Lease
from safekv.cache.stats import TreeStats
from safekv.cache.tree import PrefixTree

__all__ = ["CacheConfig", "Lease", "PrefixTree", "TreeStats"]
