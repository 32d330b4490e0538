"""Going along a text: what is likely next, and what candidates would leave in a layer."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from safekv.attack.public import PublicModel

States = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, (heads, candidates, dim)."""

LIMIT_BYTES: Final = 1 << 30


@dataclass(slots=True)
class _Known:
    """What candidates behind one prefix leave in one layer, and what that cost."""

    row: dict[int, int] = field(default_factory=dict)
    states: States | None = None
    seconds: float = 0.0

    @property
    def n_bytes(self) -> int:
        return sum(one.nbytes for one in self.states) if self.states else 0

    def add(self, tokens: list[int], states: States, seconds: float) -> None:
        self.row |= {token: len(self.row) + n for n, token in enumerate(tokens)}
        both = [states] if self.states is None else [self.states, states]
        self.states = (torch.cat([k for k, _ in both], 1), torch.cat([v for _, v in both], 1))
        self.seconds += seconds

    def take(self, tokens: list[int]) -> States:
        assert self.states is not None
        index = torch.tensor([self.row[token] for token in tokens])
        return self.states[0][:, index], self.states[1][:, index]


class Remembered:
    """States of candidates by layer and prefix, so that attacks on several caches of one prompt
    compute them once.

    Holds at most `limit_bytes`; the prefix that was asked for longest ago goes first. Not for
    several threads. Mutable state: the store.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit, self._held = limit_bytes, 0
        self._known: OrderedDict[tuple[int, tuple[int, ...]], _Known] = OrderedDict()

    def behind(self, layer: int, prefix: tuple[int, ...]) -> _Known:
        """What is known there; asking counts as use."""
        known = self._known.setdefault((layer, prefix), _Known())
        self._known.move_to_end((layer, prefix))
        return known

    def grown(self, n_bytes: int) -> None:
        """Note that so much was added, and let go of the oldest beyond the limit."""
        self._held += n_bytes
        while self._held > self._limit and len(self._known) > 1:
            self._held -= self._known.popitem(last=False)[1].n_bytes


class Walk:
    """The model behind a growing prefix: what is likely next, and what candidates would leave.

    `spared_s` are the seconds that `public.remembered` spared.
    """

    def __init__(self, public: PublicModel, layer: int, prefix: list[int]) -> None:
        from transformers import DynamicCache

        self._public, self._layer = public, layer
        self._cache: Any = DynamicCache()
        self._prefix: tuple[int, ...] = ()
        self.spared_s = 0.0
        self._logits: torch.Tensor | None = None
        if prefix:
            self._advance(prefix)

    def order(self, scores: torch.Tensor | None = None) -> torch.Tensor:
        """All tokens, the likeliest first: by the model, times what `scores` say."""
        known = [self._logits.log_softmax(-1)] if self._logits is not None else []
        known += [scores] if scores is not None else []
        if not known:
            return torch.arange(self._public.shapes.vocabulary)
        return torch.stack(known).sum(0).argsort(descending=True)

    def append(self, token: int) -> None:
        """Go one position further, behind `token`."""
        self._advance([token])

    def _advance(self, tokens: list[int]) -> None:
        with torch.inference_mode():
            out = self._public.model(
                torch.tensor([tokens]),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._prefix += tuple(tokens)
        self._logits = out.logits[0, -1]

    def states(self, candidates: torch.Tensor, position: int) -> States:
        """Keys and values (heads, candidates, dim) that each would leave at `position`.

        Computed where they are not remembered, which they are by prefix and not by position:
        a text stands at one place.
        """
        remembered = self._public.remembered
        if remembered is None or self._layer == 0:
            return self._computed(candidates, position)
        known, tokens = remembered.behind(self._layer, self._prefix), candidates.tolist()
        new = [token for token in tokens if token not in known.row]
        self.spared_s += known.seconds * (len(tokens) - len(new)) / max(1, len(known.row))
        if new:
            started = perf_counter()
            states = self._computed(torch.tensor(new), position)
            known.add(new, states, perf_counter() - started)
            remembered.grown(sum(one.nbytes for one in states))
        return known.take(tokens)

    def _computed(self, candidates: torch.Tensor, position: int) -> States:
        """The same, by a forward pass as deep as the layer.

        All candidates run as one sequence in which each sees the prefix and itself, so the
        prefix's cache is not copied for each.
        """
        n, public = len(candidates), self._public
        places = torch.full((n,), position)
        if self._layer == 0 and public.shapes.kind in ("llama", "mistral", "qwen2", "gpt2"):
            with torch.inference_mode():
                hidden = public.entering(candidates, places)
                keys, values = public.projection(0).apply(hidden)
                return public.rotate(public.split(keys), places), public.split(values)
        mask = torch.full((1, 1, n, len(self._prefix) + n), torch.finfo(torch.float32).min)
        mask[..., : len(self._prefix)] = 0
        mask[0, 0, torch.arange(n), len(self._prefix) + torch.arange(n)] = 0
        with torch.inference_mode(), public.ending_at(self._layer):
            public.model.base_model(
                candidates[None],
                past_key_values=self._cache,
                attention_mask=mask,
                position_ids=places[None],
                use_cache=True,
            )
        kept = self._cache.layers[self._layer]
        states = kept.keys[0, :, len(self._prefix) :], kept.values[0, :, len(self._prefix) :]
        # Layers beyond were not reached, so they have nothing to lose.
        for one in self._cache.layers[: self._layer + 1]:
            one.crop(-n)
        return states
