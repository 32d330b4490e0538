"""A learned inverter: a small decoder from one layer's keys and values back to tokens.

Deep layers hold no embeddings that could be looked up, but what they hold of a token is much the
same in every text. So an attacker runs the public model on public text, keeps what one layer leaves
in the cache, and trains a decoder on it. Nothing of a victim is needed for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from safekv.attack.capture import Captured, capture
from safekv.attack.collision import Hint
from safekv.attack.errors import AttackError
from safekv.attack.public import PublicModel
from safekv.attack.recovered import Recovered

Report = Callable[[int, int], None]

NEGATIVES: Final = 4096
"""Random tokens that each step tells the right ones from, beside those of its own text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the decoder is trained. `text_tokens` of public text, in windows of `window`."""

    text_tokens: int = 24_576
    window: int = 128
    inner: int = 1024
    epochs: int = 8
    batch: int = 512
    rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PublicStates:
    """What some layers leave in the cache after public text, as (tokens, features) per layer."""

    tokens: torch.Tensor = field(repr=False)
    features: dict[int, torch.Tensor] = field(repr=False)


def public_text() -> str:
    """Text that every Python ships: the reference manual, as `pydoc` shows it."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def features_of(public: PublicModel, captured: Captured, layer: int) -> torch.Tensor:
    """One layer's keys before rotation beside its values, (tokens, 2 * heads * dim)."""
    keys, values = captured.layer(layer)
    keys = public.unrotate(keys, captured.positions)
    return torch.cat([one.transpose(0, 1).flatten(1) for one in (keys, values)], dim=1)


def gather(
    public: PublicModel,
    layers: Sequence[int],
    recipe: Recipe,
    text: str | None = None,
    report: Report = lambda done, total: None,
) -> PublicStates:
    """Run the public model over `text` (default: `public_text`) and keep what `layers` leave.

    One forward pass per window. Raises `AttackError` if the text is too short.
    """
    words = public_text() if text is None else text
    ids = public.tokenizer(words[: 12 * recipe.text_tokens], add_special_tokens=False)["input_ids"]
    count = recipe.text_tokens // recipe.window
    if len(ids) < count * recipe.window or not count:
        raise AttackError(
            f"the text has {len(ids)} tokens, and {recipe.text_tokens} are needed",
            "pass a longer public text",
        )
    # Windows from all over the text: its beginning alone is about few things.
    stride = len(ids) // count
    tokens, found = list[int](), {layer: list[torch.Tensor]() for layer in layers}
    for n in range(count):
        report(n, count)
        window = ids[n * stride : n * stride + recipe.window]
        tokens += window
        captured = capture(public, window, layers)
        for layer in layers:
            found[layer].append(features_of(public, captured, layer))
    return PublicStates(
        torch.tensor(tokens), {layer: torch.cat(states) for layer, states in found.items()}
    )


class Inverter(nn.Module):
    """Standardised features, a linear way and one hidden layer, compared with all embeddings."""

    mean: torch.Tensor
    scale: torch.Tensor
    table: torch.Tensor

    def __init__(self, features: torch.Tensor, embeddings: torch.Tensor, inner: int) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", features.std(0).clamp_min(1e-6))
        table = embeddings - embeddings.mean(0)
        self.register_buffer("table", functional.normalize(table, dim=-1))
        size, width = features.shape[1], embeddings.shape[1]
        self.straight = nn.Linear(size, width)
        self.bent = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, width))
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(
        self, features: torch.Tensor, keys_only: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Directions (tokens, width) whose products with `table` are logits.

        Rows for which `keys_only` is true are read without their values.
        """
        seen = ((features - self.mean) / self.scale).clamp(-8, 8)
        if keys_only is not None:
            known = torch.ones_like(seen)
            known[keys_only, seen.shape[1] // 2 :] = 0
            seen = seen * known
        direction = functional.normalize(self.straight(seen) + self.bent(seen), dim=-1)
        return direction * self.sharpness.exp()


def train(
    public: PublicModel,
    states: PublicStates,
    layer: int,
    recipe: Recipe,
    report: Report = lambda done, total: None,
) -> Inverter:
    """Fit an inverter to one layer by sampled softmax. The same seed gives the same inverter."""
    features, tokens = states.features[layer], states.tokens
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        inverter = Inverter(features, public.embeddings.float(), recipe.inner)
    steps = recipe.epochs * -(-len(tokens) // recipe.batch)
    optimiser = torch.optim.AdamW(inverter.parameters(), lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
    step = 0
    for _ in range(recipe.epochs):
        for batch in torch.split(torch.randperm(len(tokens), generator=generator), recipe.batch):
            report(step, steps)
            step += 1
            right = tokens[batch]
            drawn = torch.randint(len(inverter.table), (NEGATIVES,), generator=generator)
            shown, places = torch.unique(torch.cat([right, drawn]), return_inverse=True)
            # Half of the rows without values, for caches of which only keys could be opened.
            keys_only = torch.rand(len(batch), generator=generator) < 0.5
            logits = inverter(features[batch], keys_only) @ inverter.table[shown].T
            loss = functional.cross_entropy(logits, places[: len(right)])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return inverter.eval()


def decode(public: PublicModel, inverter: Inverter, captured: Captured, layer: int) -> Recovered:
    """The likeliest token of each row. One small matrix product with the vocabulary."""
    started = perf_counter()
    captured.require_match(public.shapes)
    with torch.inference_mode():
        logits = inverter(features_of(public, captured, layer)) @ inverter.table.T
        tokens = logits.argmax(1).tolist()
    tried = captured.tokens * public.shapes.vocabulary
    return Recovered(tuple(tokens), captured.start, tried=tried, wall_s=perf_counter() - started)


def hint(public: PublicModel, inverter: Inverter) -> Hint:
    """A hint for `collision.search`: how likely each token is, by the rows that may be its own."""

    def score(keys: torch.Tensor, values: torch.Tensor | None, position: int) -> torch.Tensor:
        places = torch.full((keys.shape[1],), position)
        plain = public.unrotate(keys, places).transpose(0, 1).flatten(1)
        other = torch.zeros_like(plain) if values is None else values.transpose(0, 1).flatten(1)
        unknown = torch.full((len(plain),), values is None)
        with torch.no_grad():
            logits = inverter(torch.cat([plain, other], dim=1), unknown) @ inverter.table.T
        best: torch.Tensor = logits.log_softmax(-1).max(0).values
        return best

    return score
