"""What a block of KV depends on besides its tokens, as one name."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import torch
import transformers

SAMPLE: Final = 4096
WHOLE: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(model: Any, tokenizer: Any, layout: tuple[object, ...]) -> str:
    """A digest of the weights, the tokenizer, the dtype and `layout`, as 64 hexadecimal digits.

    Of each weight its shape, dtype, sum of all bits and up to 4,096 samples count: another
    checkpoint of the same shape has another name. About a second per 2 GB on a CPU.
    """
    digest = hashlib.sha256()
    digest.update(repr((layout, transformers.__version__)).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr(sorted(model.config.to_dict().items(), key=str)).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(repr((name, tuple(weight.shape), str(weight.dtype))).encode())
        digest.update(_digest(weight.detach()))
    return digest.hexdigest()


def _digest(weight: torch.Tensor) -> bytes:
    flat = weight.contiguous().reshape(-1)
    bits = flat.view(WHOLE[flat.element_size()])
    step = max(1, bits.numel() // SAMPLE)
    sample = bits[::step].cpu().numpy().tobytes()
    return sample + str(int(bits.sum(dtype=torch.int64))).encode()
