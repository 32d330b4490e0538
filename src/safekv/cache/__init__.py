"""The prefix tree: one tree of content, and who holds each run. Pure Python."""

from safekv.cache.config import CacheConfig
from safekv.cache.tree import Lease, PrefixTree, TreeStats

__all__ = ["CacheConfig", "Lease", "PrefixTree", "TreeStats"]
