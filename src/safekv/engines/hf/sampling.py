"""Per-request sampling, as processors of transformers' continuous batching."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
    ContinuousBatchingTemperatureLogitsWarper,
    ContinuousBatchingTopPLogitsWarper,
)


class GreedyMask(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Leaves only the best token of the rows whose request is greedy.

    The engine samples every row; a row with one token left is argmax, first index on a
    tie, as `model.generate` takes it. Scores have shape [rows, vocabulary].
    """

    supported_kwargs: dict[str, type] = {"greedy": bool}  # noqa: RUF012 - the parent's shape
    ignored_kwargs: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Greedy unless told otherwise."""
        int32_tensor.fill_(1)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """One int32 flag per row."""
        flags = [
            int(request.state.logit_processor_kwargs.get("greedy", True))
            for request in requests_with_new_token
        ]
        return torch.tensor(flags, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Mask all but the best score in greedy rows."""
        greedy = tensor_arg[: scores.size(0)].to(torch.bool).unsqueeze(-1)
        best = scores.argmax(dim=-1, keepdim=True)
        only_best = torch.full_like(scores, -math.inf).scatter_(-1, best, 0.0)
        return torch.where(greedy, only_best, scores)


class LazyTopP(ContinuousBatchingTopPLogitsWarper):  # type: ignore[misc]
    """Nucleus sampling that skips its sort over the vocabulary when no row asks for it."""

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Apply top-p; on a GPU always, since looking at the values would stall it."""
        if scores.device.type == "cpu":
            top_p = tensor_arg[: scores.size(0)].view(dtype=torch.float32)
            if bool((top_p >= 1.0).all()):
                return scores
        result: torch.Tensor = super().__call__(scores, tensor_arg)
        return result


def processors() -> ContinuousBatchingLogitsProcessorList:
    """Greedy mask, temperature and top-p, each with its value per request."""
    chain = ContinuousBatchingLogitsProcessorList(
        LogitsProcessorList(
            [
                GreedyMask(),
                ContinuousBatchingTemperatureLogitsWarper(TemperatureLogitsWarper(1.0)),
                LazyTopP(TopPLogitsWarper(1.0)),
            ]
        )
    )
    chain.tensors_required = len(chain.logits_processor)
    return chain


def sampling_kwargs(temperature: float, top_p: float) -> dict[str, float | bool]:
    """What one request hands to the processors. Temperature 0 means greedy."""
    if temperature == 0:
        return {"greedy": True, "temperature": 1.0, "top_p": 1.0}
    return {"greedy": False, "temperature": float(temperature), "top_p": float(top_p)}
