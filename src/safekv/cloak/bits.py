"""The stored bits of an array or tensor, whatever its dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safekv.errors import CloakError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def bits_of(stored: Buffer | Any) -> memoryview:
    """The bytes of a buffer, NumPy array or CPU tensor: a view, not a copy. O(1).

    Raises `CloakError` for what is not contiguous, and for tensors that are not in host memory.
    """
    if not isinstance(stored, memoryview) and hasattr(stored, "untyped_storage"):
        stored = _tensor_bytes(stored)
    view = memoryview(stored)
    if not view.c_contiguous:
        raise _gaps()
    if view.format == "B" and view.ndim == 1:
        return view
    # `cast` refuses shapes with a zero in them.
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def _tensor_bytes(tensor: Any) -> Any:
    if tensor.device.type != "cpu":
        raise CloakError(
            f"a tensor lies on {tensor.device.type}, not in host memory", "move it there first"
        )
    if not tensor.is_contiguous():
        raise _gaps()
    import torch

    # NumPy knows neither bfloat16 nor fp8: the bits go through as bytes.
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def _gaps() -> CloakError:
    return CloakError("an array has gaps between its elements", "pass a contiguous one")
