"""Cache dumps as files: safetensors with their own description, and bytes without any.

A dump has `keys.N` and `values.N` for each layer N, (KV heads, tokens, head dimension), and the
metadata that `Captured.claims` holds. Anybody's cache can be written that way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from safekv.attack.capture import Captured
from safekv.attack.errors import DumpError

FORMAT: Final = "safekv cache dump 1"
SIDES: Final = ("keys", "values")


def save(captured: Captured, path: Path) -> None:
    """Write a capture to a file, tensors as they are. Replaces one that is there."""
    from safetensors.torch import save_file

    tensors = {
        f"{side}.{layer}": tensor.contiguous().clone()
        for side in SIDES
        for layer, tensor in getattr(captured, side).items()
    }
    told = {**captured.claims, "format": FORMAT, "start": str(captured.start)}
    save_file(tensors, path, metadata=told)


def load(path: Path) -> Captured:
    """The capture in a file. Raises `DumpError` for what is missing, cut, damaged or no dump."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DumpError(f"cannot read the dump {str(path)!r}: {error}") from None
    except SafetensorError as error:
        raise DumpError(
            f"{str(path)!r} is damaged, or no safetensors file: {error}", "capture it again"
        ) from None
    return _captured(tensors, told, path)


def _captured(tensors: Mapping[str, torch.Tensor], told: dict[str, str], path: Path) -> Captured:
    found: dict[str, dict[int, torch.Tensor]] = {side: {} for side in SIDES}
    for name, tensor in tensors.items():
        side, _, layer = name.partition(".")
        if side not in found or not layer.isdecimal():
            raise DumpError(
                f"{str(path)!r} holds a tensor {name!r}, which is no layer's",
                "name them keys.N and values.N",
            )
        found[side][int(layer)] = tensor
    if set(found["keys"]) != set(found["values"]) or not found["keys"]:
        raise DumpError(
            f"{str(path)!r} has keys of {len(found['keys'])} layers and values of "
            f"{len(found['values'])}",
            "write both for each layer",
        )
    told.pop("format", None)
    try:
        start = int(told.pop("start", "0"))
    except ValueError:
        raise DumpError(f"{str(path)!r} does not say where its rows start") from None
    return Captured(found["keys"], found["values"], start, told)


def opaque(
    data: bytes, heads: int, tokens: int, dim: int, layers: int, dtype: torch.dtype
) -> Captured:
    """What bytes of unknown meaning read as, were they a block by layer, side, token and head.

    For pages and files without a description, such as the sealed ones of safekv's disk tier: their
    last bytes are taken. Raises `DumpError` if there are too few.
    """
    size = layers * 2 * tokens * heads * dim * dtype.itemsize
    if len(data) < size:
        raise DumpError(
            f"{len(data)} bytes are no block of {layers} layers, {heads} heads, {tokens} tokens "
            f"and {dim} dimensions, which has {size}",
            "name the shape the cache was stored with",
        )
    numbers = torch.frombuffer(bytearray(data[len(data) - size :]), dtype=dtype)
    shaped = numbers.view(layers, 2, tokens, heads, dim).transpose(2, 3)
    return Captured(
        {layer: shaped[layer, 0] for layer in range(layers)},
        {layer: shaped[layer, 1] for layer in range(layers)},
    )
