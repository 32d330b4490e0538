"""How large a model's keys and values are: what the beacons must exceed."""

from __future__ import annotations

from typing import Any, Final

import torch

from safekv.cloak.config import Part

MARGIN: Final = 2.0
"""As in KV-Cloak's released code, which takes twice the largest value of one text."""


def limits_of(model: Any, ids: torch.Tensor) -> dict[tuple[int, Part], float]:
    """A limit for each layer's keys and values: twice the largest on the text `ids` (1, n).

    One forward pass without a cache before it. Other texts may hold larger values: they come
    back all the same, but stand out behind the beacon.
    """
    with torch.inference_mode():
        cache = model(ids, use_cache=True).past_key_values
    return {
        (layer, part): max(MARGIN * float(states.abs().max()), 1e-6)
        for layer, one in enumerate(cache.layers)
        for part, states in ((Part.KEYS, one.keys), (Part.VALUES, one.values))
    }
