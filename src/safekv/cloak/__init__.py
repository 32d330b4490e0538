"""Obfuscation of KV in use: the `stream` profile, and KV-Cloak as published.

Obfuscation hides blocks from a reader of KV pages alone. It has no integrity, and its keys lie
in the same process: whoever reads those reads everything. **KV-Cloak's matrices are broken by
known plaintext**, such as a chat template; the stream is not. What leaves the device is for
`safekv.vault`.
"""

from safekv.cloak.bits import bits_of
from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.keys import CloakKey, CloakKeyFile
from safekv.cloak.stream import Stream
from safekv.cloak.transform import Cloak

__all__ = [
    "Cloak",
    "CloakConfig",
    "CloakKey",
    "CloakKeyFile",
    "Part",
    "Stream",
    "bits_of",
]
