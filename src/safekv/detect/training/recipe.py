"""One training run: in which order what is read, for how long, and what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from safekv.detect.encoding import Encoder
from safekv.detect.training.corpora import Corpus
from safekv.detect.training.network import Network
from safekv.detect.training.windows import IGNORED, Mixture, Window, epoch_windows
from safekv.errors import ConfigError

CHECKPOINT_STEPS: Final = 100
MOMENTUM: Final = 0.98
"""How much of the running mean of the loss one step keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the outcome of a run, beside the corpora. Recorded in the manifest.

    `minutes` ends a run early: the rate falls to zero by then, whatever step that is.
    """

    seed: int = 20
    layers: int = 3
    inner: int = 512
    vocabulary: int = 20_000
    epochs: float = 4.0
    minutes: float | None = None
    batch_windows: int = 16
    rate: float = 5e-4
    head_rate: float = 2e-3
    warm_up: float = 0.06
    mixture: Mixture = field(default_factory=Mixture)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def fits(self, other: Mapping[str, Any]) -> bool:
        """Whether a run of the recipe `other` makes a network of the same shape and words."""
        own = self.as_dict()
        return all(own[name] == other[name] for name in ("layers", "inner", "vocabulary"))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `loss` is the running mean."""

    step: int
    steps: int
    loss: float


class Run:
    """One run over `network`, in place. The same recipe, corpora and machine give the same weights,
    unless `recipe.minutes` ends it.

    With `checkpoint` the state is kept there every 100 steps, and a run that finds it goes on
    from it, with its own mixture, rates and minutes: a run that `minutes` ended can be given
    more. One CPU thread or a GPU; 3 layers take some half second of a core a step.
    Mutable state: the network, its optimiser, and the file.
    """

    def __init__(
        self, network: Network, encoder: Encoder, recipe: Recipe, checkpoint: Path | None = None
    ) -> None:
        self._network = network
        self._encoder = encoder
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._optimiser = _optimiser(network, recipe)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self._history: list[dict[str, Any]] = []

    def train(self, corpus: Corpus, report: Callable[[Progress], None]) -> dict[str, Any]:
        """Trains on `corpus.train`; what happened, as plain data."""
        recipe, network = self._recipe, self._network
        torch.manual_seed(recipe.seed)
        first = epoch_windows(corpus.train, self._encoder, recipe.mixture, recipe.seed)
        steps = max(1, int(recipe.epochs * len(first) / recipe.batch_windows))
        network.to(self._device).train()
        done, before_s, mean = self._resumed()
        batches = self._batches(corpus, first, done)
        began = time.monotonic() - before_s
        limit_s = 60 * recipe.minutes if recipe.minutes else float("inf")
        progress = max(done / steps, before_s / limit_s)
        while progress < 1.0:
            loss = self._step(next(batches), progress)
            done += 1
            mean = loss if done == 1 else MOMENTUM * mean + (1 - MOMENTUM) * loss
            elapsed_s = time.monotonic() - began
            progress = max(done / steps, elapsed_s / limit_s)
            if done % CHECKPOINT_STEPS == 0:
                self._keep(done, elapsed_s, mean)
            report(Progress(done, steps, mean))
        self._keep(done, time.monotonic() - began, mean)
        network.cpu().eval()
        return {
            "steps": done,
            "planned_steps": steps,
            "windows_per_epoch": len(first),
            "before": self._history,
            "final_loss": round(mean, 4),
            "seconds": round(time.monotonic() - began, 1),
            "device": self._device.type,
        }

    def _step(self, batch: list[Window], progress: float) -> float:
        warm = self._recipe.warm_up
        factor = min((progress + 1e-3) / warm, (1.0 - progress) / (1.0 - warm))
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        *inputs, labels = (one.to(self._device) for one in tensors(batch, self._encoder.pad_id))
        scores = self._network(*inputs)
        loss = functional.cross_entropy(
            scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimiser.step()
        return float(loss.item())

    def _batches(self, corpus: Corpus, first: list[Window], done: int) -> Iterator[list[Window]]:
        """Batches without end, behind the first `done`; each epoch has names of its own."""
        recipe = self._recipe
        size = min(recipe.batch_windows, len(first))
        epoch, skipped = divmod(done, len(first) // size)
        while True:
            windows = first
            if epoch:
                seed = recipe.seed + 1000 * epoch
                windows = epoch_windows(corpus.train, self._encoder, recipe.mixture, seed)
            for at in range(skipped * size, len(windows) - size + 1, size):
                yield windows[at : at + size]
            epoch, skipped = epoch + 1, 0

    def _keep(self, done: int, elapsed_s: float, mean: float) -> None:
        if self._checkpoint is None:
            return
        partial = self._checkpoint.with_suffix(".partial")
        state = {
            "history": [*self._history, {"until_step": done, "recipe": self._recipe.as_dict()}],
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "at": (done, elapsed_s, mean),
        }
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resumed(self) -> tuple[int, float, float]:
        """Steps done, seconds spent and mean loss of the run that `checkpoint` holds, or zeros."""
        if self._checkpoint is None or not self._checkpoint.is_file():
            return 0, 0.0, 0.0
        state = torch.load(self._checkpoint, weights_only=True)
        before = state["history"]
        if not self._recipe.fits(before[-1]["recipe"]):
            raise ConfigError(
                f"{self._checkpoint} is of another network", "remove it to train from the start"
            )
        same = before[-1]["recipe"] == self._recipe.as_dict()
        self._history = before[:-1] if same else before
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        done, elapsed_s, mean = state["at"]
        return int(done), float(elapsed_s), float(mean)


def tensors(batch: list[Window], pad_id: int) -> tuple[Tensor, ...]:
    """Ids, shapes, presence, positions and labels of `batch`, padded on the right."""
    size = max(len(window.ids) for window in batch)
    ids = torch.tensor([_padded(window.ids, size, pad_id) for window in batch])
    shapes = torch.tensor([_padded(window.shapes, size, 0) for window in batch])
    labels = torch.tensor([_padded(window.labels, size, IGNORED) for window in batch])
    present = torch.tensor([_padded([1] * len(window.ids), size, 0) for window in batch])
    places = torch.arange(size).expand(len(batch), size)
    return ids, shapes, present, places, labels


def _padded(values: list[int], size: int, pad: int) -> list[int]:
    return [*values, *([pad] * (size - len(values)))]


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    new = {"head.weight", "head.bias", "shapes.weight"}
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if name not in new], "lr": recipe.rate},
        {"params": [p for name, p in named if name in new], "lr": recipe.head_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.01)
