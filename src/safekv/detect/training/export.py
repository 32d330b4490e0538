"""A trained network as an ONNX file with 8-bit weights, compared with what it came from."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from safekv.detect.training.network import Network
from safekv.errors import ModelError

INPUTS: Final = ("ids", "shapes", "present", "places")

MAX_DIFFERENCE: Final = 1e-3
"""Largest difference of label scores between torch and the unquantised file."""

_OPSET: Final = 18


def export(network: Network, path: Path) -> dict[str, float]:
    """Writes `network` to `path` with 8-bit weights; how far its answers moved, as plain data.

    `fp32_max_difference` is that of label scores before quantisation, `int8_same_label` the
    share of word pieces whose best label stayed. Both on random word pieces, which is harder
    than text. Raises `ModelError` when the unquantised file says something else than torch.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    inputs = _sample(network)
    with torch.no_grad():
        expected = network(*inputs).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        _write(network, inputs, plain)
        difference = float(np.abs(_run(plain, inputs) - expected).max())
        if difference > MAX_DIFFERENCE:
            raise ModelError(
                f"the exported network differs from the trained one by {difference:.2g}",
                "use the versions of torch and onnx in constraints.txt",
            )
        _quietly(quantize_dynamic, plain, path, weight_type=QuantType.QInt8, per_channel=True)
    same = (_run(path, inputs).argmax(-1) == expected.argmax(-1)).mean()
    return {
        "fp32_max_difference": float(f"{difference:.2g}"),
        "int8_same_label": round(float(same), 4),
        "int8_bytes": path.stat().st_size,
    }


def _sample(network: Network) -> tuple[torch.Tensor, ...]:
    shape = network.shape
    chance = torch.Generator().manual_seed(0)
    size = (3, min(96, shape.positions))
    present = torch.ones(size, dtype=torch.int64)
    present[1, size[1] // 2 :] = 0
    return (
        torch.randint(0, shape.vocabulary, size, generator=chance),
        torch.randint(0, shape.shapes, size, generator=chance),
        present,
        torch.arange(size[1]).expand(size).contiguous(),
    )


def _write(network: Network, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    batch, tokens = (
        torch.export.Dim("batch"),
        torch.export.Dim("tokens", max=network.shape.positions),
    )
    sizes = ({0: batch, 1: tokens},) * len(INPUTS)
    _quietly(
        torch.onnx.export,
        network,
        inputs,
        str(path),
        input_names=list(INPUTS),
        output_names=["scores"],
        dynamic_shapes=sizes,
        opset_version=_OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _run(path: Path, inputs: tuple[torch.Tensor, ...]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {name: one.numpy() for name, one in zip(INPUTS, inputs, strict=True)}
    (scores,) = session.run(["scores"], feeds)
    # What a padded place says is never read.
    return scores


def _quietly(call: Any, *arguments: Any, **options: Any) -> None:
    """Both libraries warn and log on stderr about their own inner workings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(*arguments, **options)
    finally:
        logging.disable(logging.NOTSET)
