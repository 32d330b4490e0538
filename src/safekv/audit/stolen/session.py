"""One attacked deployment: its model, its protections, and everybody's caches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache

import torch

from safekv.attack import inverter
from safekv.attack.capture import Captured, capture
from safekv.attack.injection import Variant
from safekv.attack.prompts import Prompt, Tokens, tokenised
from safekv.attack.public import PublicModel
from safekv.attack.walk import Remembered
from safekv.audit.stolen.plan import WHOLE, Plan
from safekv.audit.stolen.protections import Cloaked, Limits, Protection, limits_of, protect
from safekv.audit.stolen.storage import Stored
from safekv.errors import ConfigError


class Session:
    """Everything that several cells need, made once and when it is first asked for.

    Two instances of every protection exist, with keys of their own: the victims', and another
    for the wrong-key control.
    """

    def __init__(self, public: PublicModel, prompts: Sequence[Prompt], plan: Plan) -> None:
        if len(prompts) < plan.victims + plan.own:
            raise ConfigError(
                f"there are {len(prompts)} prompts, and {plan.victims} + {plan.own} are needed",
                "pass more, or attack fewer",
            )
        self.public, self.plan = public, plan
        # Most cells try the same candidates behind the same prompts, in other dtypes.
        public.remembered = public.remembered or Remembered()
        wrapped = tokenised(public.tokenizer, prompts[: plan.victims + plan.own])
        self.victims: list[Tokens] = wrapped[: plan.victims]
        self.own: list[Tokens] = wrapped[plan.victims :]
        self.protection = lru_cache(maxsize=None)(self._protection)
        self.hidden = lru_cache(maxsize=6)(self._hidden)
        self.inverter = lru_cache(maxsize=None)(self._inverter)
        # What cells share: the injection that worked best on own prompts, and baselines.
        self.variant: Variant | None = None
        self.baselines: dict[tuple[str, str, str], float] = {}
        self._plain: dict[bool, list[Captured]] = {}
        self._states: inverter.PublicStates | None = None
        self._fused: PublicModel | None = None

    def number(self, layer: str) -> int:
        """A layer's number: `first`, `middle` or `last`."""
        layers = self.public.shapes.layers
        return {"first": 0, "middle": layers // 2, "last": layers - 1}[layer]

    def plain(self, *, own: bool = False) -> list[Captured]:
        """The plain caches, all layers, of the victims or of the attacker's own prompts."""
        if own not in self._plain:
            tokens = self.own if own else self.victims
            self._plain[own] = [capture(self.public, one.ids) for one in tokens]
        return self._plain[own]

    @property
    def limits(self) -> Limits:
        """The operator's calibration of the cloak, on all prompts, so that none is refused."""
        return limits_of([*self.plain(), *self.plain(own=True)])

    def _protection(self, name: str, instance: int) -> Protection:
        shapes = self.public.shapes
        return protect(
            name, shapes.kv_heads, shapes.head_dim, self.limits, rope=shapes.rope_base is not None
        )

    def _hidden(
        self, name: str, layer: str, kind: Stored, own: bool, instance: int
    ) -> list[Captured]:
        protection = self.protection(name, instance)
        layers = range(self.public.shapes.layers) if layer == WHOLE else (self.number(layer),)
        # Names of blocks must not repeat: the own prompts' come after the victims'.
        first = self.plan.victims if own else 0
        return [
            protection.hide(one.only(layers), kind, first + n)
            for n, one in enumerate(self.plain(own=own))
        ]

    def noise(self, layer: str) -> list[Captured]:
        """Random numbers with each tensor's mean and spread per channel, in place of victims'."""
        generator = torch.Generator().manual_seed(0)
        layers = range(self.public.shapes.layers) if layer == WHOLE else (self.number(layer),)

        def like(tensor: torch.Tensor) -> torch.Tensor:
            drawn = torch.randn(tensor.shape, generator=generator)
            return tensor.mean(1, keepdim=True) + drawn * tensor.std(1, keepdim=True)

        return [
            Captured(
                {layer: like(one.keys[layer]) for layer in layers},
                {layer: like(one.values[layer]) for layer in layers},
            )
            for one in self.plain()
        ]

    def _inverter(self, layer: int) -> inverter.Inverter:
        recipe = self.plan.recipe
        if self._states is None:
            wanted = [self.number(name) for name in self.plan.layers]
            self._states = inverter.gather(self.public, wanted, recipe)
        return inverter.train(self.public, self._states, layer, recipe)

    def fused(self) -> PublicModel:
        """The victims' server's model: M of the cloak in its weights."""
        if self._fused is None:
            from safekv.cloak.fusion import fuse_model

            protection = self.protection("cloak", 0)
            assert isinstance(protection, Cloaked), "the cloak is what fuses"
            model = copy.deepcopy(self.public.model)
            fuse_model(model, protection.key, 1.0, lambda done, total: None)
            self._fused = PublicModel(model, self.public.tokenizer)
        return self._fused
