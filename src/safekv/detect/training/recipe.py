"""One training run: what is read, in which order, for how long, and what comes out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from safekv.detect.encoding import Encoder
from safekv.detect.labelled import LabelledText
from safekv.detect.training.corpora import LABELS, Corpus
from safekv.detect.training.network import Network
from safekv.detect.training.synthetic import MadeUp

IGNORED: Final = -100
RUN_TEXTS: Final = 4
"""Texts of one corpus that stay together, so that windows mix corpora as prompts mix genres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the outcome of a run, beside the corpora. Recorded in the manifest."""

    seed: int = 20
    layers: int = 4
    vocabulary: int = 12_000
    epochs: float = 2.0
    batch_windows: int = 16
    window_tokens: int = 160
    rate: float = 3e-4
    head_rate: float = 2e-3
    warm_up: float = 0.1
    private_texts: int = 7_000
    public_texts: int = 2_500
    lower_cased: float = 0.12
    upper_cased: float = 0.03

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Window:
    """One training example: piece ids, word shapes and labels, marks included."""

    ids: list[int] = field(repr=False)
    shapes: list[int] = field(repr=False)
    labels: list[int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `loss` is the running mean."""

    step: int
    steps: int
    loss: float


def train(
    network: Network,
    encoder: Encoder,
    corpus: Corpus,
    recipe: Recipe,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    """Trains `network` in place; what happened, as plain data. One CPU thread or a GPU.

    The same recipe, corpora and machine give the same weights. Cost: 2 epochs of 4 layers
    take some 15 minutes of one CPU core.
    """
    torch.manual_seed(recipe.seed)
    windows = [*_windows(corpus, encoder, recipe)]
    steps = max(1, int(recipe.epochs * len(windows) / recipe.batch_windows))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).train()
    optimiser, schedule = _optimiser(network, recipe, steps)
    began, mean = time.monotonic(), 0.0
    order = _endless(windows, recipe)
    for step in range(1, steps + 1):
        batch = [next(order) for _ in range(recipe.batch_windows)]
        loss = _loss(network, _tensors(batch, encoder.pad_id, network.shape.positions, device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean = loss.item() if step == 1 else 0.95 * mean + 0.05 * loss.item()
        report(Progress(step, steps, mean))
    network.cpu().eval()
    return {
        "steps": steps,
        "windows": len(windows),
        "final_loss": round(mean, 4),
        "seconds": round(time.monotonic() - began, 1),
        "device": device.type,
    }


def _windows(corpus: Corpus, encoder: Encoder, recipe: Recipe) -> Iterator[Window]:
    """All texts in shuffled runs, one behind the other, cut into windows."""
    made_up = MadeUp(recipe.seed)
    chance = random.Random(recipe.seed)  # noqa: S311 - an order of texts, nothing secret
    sources = [
        *corpus.train.values(),
        [*made_up.private(recipe.private_texts)],
        [*made_up.public(recipe.public_texts)],
    ]
    runs: list[list[LabelledText]] = []
    for texts in sources:
        shuffled = chance.sample(texts, len(texts))
        runs += [shuffled[at : at + RUN_TEXTS] for at in range(0, len(shuffled), RUN_TEXTS)]
    chance.shuffle(runs)
    room = recipe.window_tokens - 2
    window = Window([], [], [])
    for text in (text for run in runs for text in run):
        piece = _labelled_pieces(_recased(text, recipe, chance), encoder)
        for at in range(0, len(piece.ids), room):
            part = Window(*(values[at : at + room] for values in _fields(piece)))
            if len(window.ids) + len(part.ids) > room:
                yield _marked(window, encoder)
                window = Window([], [], [])
            for mine, new in zip(_fields(window), _fields(part), strict=True):
                mine.extend(new)
    if window.ids:
        yield _marked(window, encoder)


def _fields(window: Window) -> tuple[list[int], list[int], list[int]]:
    return window.ids, window.shapes, window.labels


def _recased(text: LabelledText, recipe: Recipe, chance: random.Random) -> LabelledText:
    drawn = chance.random()
    said = text.text
    if drawn < recipe.lower_cased:
        said = said.lower()
    elif drawn > 1 - recipe.upper_cased:
        said = said.upper()
    # A few letters change their length; the labels would then stand in the wrong place.
    return LabelledText(said, text.spans) if len(said) == len(text.text) else text


def _labelled_pieces(text: LabelledText, encoder: Encoder) -> Window:
    pieces = encoder.encode(text.text)
    labels = [0] * len(pieces)
    spans = sorted(text.spans, key=lambda span: span.start)
    at = 0
    for i, (start, end) in enumerate(pieces.offsets):
        while at < len(spans) and spans[at].end <= start:
            at += 1
        if at < len(spans) and spans[at].start < end:
            labels[i] = LABELS.index(spans[at].kind)
    return Window(list(pieces.ids), list(pieces.shapes), labels)


def _marked(window: Window, encoder: Encoder) -> Window:
    return Window(
        [encoder.first_id, *window.ids, encoder.last_id],
        [0, *window.shapes, 0],
        [IGNORED, *window.labels, IGNORED],
    )


def _endless(windows: Sequence[Window], recipe: Recipe) -> Iterator[Window]:
    chance = random.Random(recipe.seed + 1)  # noqa: S311 - an order of windows, nothing secret
    while True:
        yield from chance.sample(windows, len(windows))


def _tensors(
    batch: Sequence[Window], pad_id: int, positions: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Ids, shapes, presence, positions and labels, padded on the right.

    Positions start anywhere, so that those behind a training window's end are trained too.
    """
    size = max(len(window.ids) for window in batch)
    ids = torch.tensor([_padded(window.ids, size, pad_id) for window in batch])
    shapes = torch.tensor([_padded(window.shapes, size, 0) for window in batch])
    labels = torch.tensor([_padded(window.labels, size, IGNORED) for window in batch])
    present = torch.tensor([_padded([1] * len(window.ids), size, 0) for window in batch])
    start = torch.randint(0, positions - size + 1, (len(batch), 1))
    places = start + torch.arange(size)
    return tuple(one.to(device) for one in (ids, shapes, present, places, labels))


def _padded(values: Sequence[int], size: int, pad: int) -> list[int]:
    return [*values, *([pad] * (size - len(values)))]


def _loss(network: Network, tensors: tuple[Tensor, ...]) -> Tensor:
    ids, shapes, present, places, labels = tensors
    scores = network(ids, shapes, present, places)
    return functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def _optimiser(
    network: Network, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    new = {"head.weight", "head.bias", "shapes.weight"}
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if name not in new], "lr": recipe.rate},
        {"params": [p for name, p in named if name in new], "lr": recipe.head_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    warm = max(1, int(steps * recipe.warm_up))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warm, max(0.0, (steps - step) / (steps - warm + 1))),
    )
    return optimiser, schedule
