"""A token classifier small enough to read: it knows which words are names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safekv.detect.manifest import MODEL, TOKENIZER, Manifest, sums, write_manifest

NAMES = ("ada", "lovelace", "turing")
PLACES = ("london",)
WORDS = (*"abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:", "the", "bridge", *NAMES, *PLACES)
LABELS = ("O", "PERSON", "LOCATION")
SURE, DOUBT = 8.0, -0.6
"""Label scores of a name that is capitalised and of one that is not: 0.998 and 0.35."""


def write_classifier(folder: Path, **changes: Any) -> Path:
    """Writes a model to `folder` whose label scores depend on the word and its shape alone."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += [*WORDS, *(f"##{word}" for word in WORDS if len(word) == 1)]
    (folder / TOKENIZER).write_text(json.dumps(_tokenizer(vocabulary)))
    (folder / MODEL).write_bytes(_network(vocabulary))
    said: dict[str, Any] = {
        "name": "test",
        "version": "1",
        "files": sums(folder, (MODEL, TOKENIZER)),
        "labels": LABELS,
        "sensitive": ("PERSON",),
        "private_from": 0.5,
        "unsure_from": 0.2,
        "licences": ("none",),
    }
    write_manifest(folder, Manifest(**said | changes))
    return folder


def _tokenizer(vocabulary: list[str]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: i for i, word in enumerate(vocabulary)},
        },
    }


def _network(vocabulary: list[str]) -> bytes:
    """scores = table[id] + row[shape]; every other input counts for nothing."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    table = np.zeros((len(vocabulary), len(LABELS)), dtype=np.float32)
    for label, words in ((1, NAMES), (2, PLACES)):
        table[[vocabulary.index(word) for word in words], label] = DOUBT + 0.7
    shapes = np.zeros((6, len(LABELS)), dtype=np.float32)
    shapes[:, 1], shapes[:, 2] = -0.7, -0.7
    table[:, 1:] -= np.where(table[:, 1:] == 0, 12.0, 0.0).astype(np.float32)
    shapes[1, 1:] = SURE
    sizes = ["batch", "tokens"]
    unused = ("present", "places")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["by_word"]),
        helper.make_node("Gather", ["by_shape_table", "shapes"], ["by_shape"]),
        helper.make_node("Add", ["by_word", "by_shape"], ["sum"]),
        helper.make_node("Add", list(unused), ["rest"]),
        helper.make_node("Mul", ["rest", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["nothing_real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["nothing_real", "last"], ["nothing_wide"]),
        helper.make_node("Add", ["sum", "nothing_wide"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "names",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, sizes)
            for name in ("ids", "shapes", *unused)
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [*sizes, len(LABELS)])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(shapes, "by_shape_table"),
            numpy_helper.from_array(np.array(0, dtype=np.int64), "zero"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())
