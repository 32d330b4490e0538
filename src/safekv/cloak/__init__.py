"""Obfuscation of KV in use: the `stream` profile.

Obfuscation hides blocks from a reader of KV pages alone. It has no integrity, and its keys lie
in the same process: whoever reads those reads everything. What leaves the device is for
`safekv.vault`.
"""

from safekv.cloak.bits import bits_of
from safekv.cloak.stream import Stream

__all__ = ["Stream", "bits_of"]
