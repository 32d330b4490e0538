"""What stands in an attack's way, said by name."""

from __future__ import annotations

from safekv.errors import ConfigError


class AttackError(ConfigError):
    """An attack was asked for something it cannot do; nothing was tried."""


class MismatchError(AttackError):
    """A cache was not made by the model it is attacked with."""


class DumpError(AttackError):
    """A file is no dump of a cache, or a damaged one."""


class UnsupportedError(AttackError):
    """A model is built in a way that this attack does not know."""
