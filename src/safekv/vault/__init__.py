"""Authenticated encryption of every block that leaves the device."""

from safekv.vault.context import BlockContext
from safekv.vault.keyring import FileKeyring, Holder, Keyring, MemoryKeyring
from safekv.vault.master import FixedMasters, LocalMaster, Master, MasterFile, Masters
from safekv.vault.vault import Vault

__all__ = [
    "BlockContext",
    "FileKeyring",
    "FixedMasters",
    "Holder",
    "Keyring",
    "LocalMaster",
    "Master",
    "MasterFile",
    "Masters",
    "MemoryKeyring",
    "Vault",
]
