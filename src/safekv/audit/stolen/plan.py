"""What is measured: which attacks, protections, layers and dtypes, and on how many prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Final

from safekv.attack.inverter import Recipe
from safekv.audit.stolen.protections import PROTECTIONS
from safekv.audit.stolen.storage import Stored
from safekv.errors import ConfigError

READING: Final = ("collision", "inversion", "inverter", "injection")
"""Attacks that know nothing of a protection."""

SOLVING: Final = ("template", "chosen", "membership", "fused")
"""Attacks that adapt: they solve for a protection's secrets first."""

ATTACKS: Final = (*READING, *SOLVING, "swap")
LAYERS: Final = ("first", "middle", "last")
WHOLE: Final = "all"
"""The layer of attacks that need the whole cache."""

OPEN: Final = ("none", "quantised", "noise")
"""Protections without a secret: there is nothing to solve for."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the report."""

    attack: str
    protection: str
    layer: str
    dtype: Stored

    @property
    def name(self) -> str:
        """A key for the journal."""
        return f"{self.attack}/{self.protection}/{self.layer}/{self.dtype.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`victims` prompts are attacked, `own` further ones are the attacker's.

    In deeper layers, where each token costs forward passes, `horizon` tokens of each prompt are
    attacked by collision. Controls run on `controls` of the victims.
    """

    attacks: tuple[str, ...] = ATTACKS
    protections: tuple[str, ...] = PROTECTIONS
    layers: tuple[str, ...] = LAYERS
    dtypes: tuple[Stored, ...] = (Stored.FP32, Stored.BF16, Stored.INT8)
    victims: int = 20
    own: int = 4
    horizon: int = 8
    controls: int = 8
    budget: int = 1024
    patience: int = 3
    new_tokens: int = 40
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for what, chosen, known in (
            ("attack", self.attacks, ATTACKS),
            ("protection", self.protections, PROTECTIONS),
            ("layer", self.layers, LAYERS),
        ):
            for one in chosen:
                if one not in known:
                    raise ConfigError(f"{what} {one!r} is not known", f"use {', '.join(known)}")
        if self.victims < 1 or self.own < 2:
            raise ConfigError(
                f"{self.victims} victims and {self.own} own prompts are too few",
                "use at least 1 and 2",
            )

    @classmethod
    def quick(cls) -> Plan:
        """All attacks and protections on a few short pieces: minutes become seconds."""
        return cls(
            layers=("first", "last"),
            dtypes=(Stored.FP32, Stored.INT8),
            victims=2,
            own=2,
            horizon=2,
            controls=1,
            budget=256,
            patience=1,
            new_tokens=12,
            recipe=Recipe(text_tokens=2048, epochs=6),
        )

    def cells(self) -> Iterator[Cell]:
        """Every number that is measured, the cheap and telling ones first."""
        for attack in self.attacks:
            for protection in self.protections:
                for layer in self._layers(attack):
                    if self._applies(attack, protection):
                        for dtype in self.dtypes:
                            yield Cell(attack, protection, layer, dtype)

    def _layers(self, attack: str) -> tuple[str, ...]:
        if attack in ("injection", "swap"):
            return (WHOLE,)
        if attack in ("membership", "fused"):
            return ("first",) if "first" in self.layers else ()
        return self.layers

    @staticmethod
    def _applies(attack: str, protection: str) -> bool:
        if attack in SOLVING and protection in OPEN:
            return False
        if attack == "membership" and protection == "permute":
            return False
        return attack != "fused" or protection == "cloak"

    def fingerprint(self, model: str, prompts: str) -> str:
        """Changes whenever a number of another plan could not stand beside this one's."""
        told = asdict(self) | {"attacks": 0, "protections": 0, "layers": 0, "dtypes": 0}
        text = json.dumps([told, model, prompts], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
