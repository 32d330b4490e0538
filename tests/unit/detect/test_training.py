"""The training recipe: what is held out, how texts become windows, and what refuses to start."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from safekv.detect.labelled import LabelledSpan, LabelledText
from safekv.detect.training.corpora import SOURCES, detokenised, read_corpus, relabelled
from safekv.detect.training.vocabulary import MARKS, cut_down
from safekv.errors import ConfigError

SMALL = "".join(
    f"Ada B-PER\nLovelace I-PER\nlives O\nin O\nLondon B-LOC\n, O\nhouse O\n{i} O\n. O\n\n"
    for i in range(20)
)


def write_corpora(folder: Path) -> Path:
    """A few texts in the layout and formats of every source of the recipe."""
    spans = [{"entity_type": "PERSON", "start_position": 3, "end_position": 6}]
    rows = [{"full_text": f"I, Ada {i}", "spans": spans, "template_id": i} for i in range(20)]
    written = {
        ".json": json.dumps(rows),
        ".csv": "prompt\n" + "\n".join(f'"Act as number {i}"' for i in range(20)),
        "vicuna_question.jsonl": "\n".join(json.dumps({"turns": [f"Why {i}?"]}) for i in range(20)),
        "gsm8k_test.jsonl": "\n".join(json.dumps({"question": f"Add {i}."}) for i in range(20)),
    }
    code = "\n".join(
        json.dumps({"prompt": f"def f{i}():\n", "canonical_solution": "    return 1\n"})
        for i in range(20)
    )
    for source in SOURCES:
        path = folder / source.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(code.encode()))
        else:
            known = [text for end, text in written.items() if path.name.endswith(end)]
            path.write_text(known[0] if known else SMALL)
    return folder


def test_words_are_joined_as_people_write_them() -> None:
    text = 'Hello , Ada ( of London ) ; it \'s " fine " .'
    start = text.index("Ada")
    joined = detokenised(LabelledText(text, (LabelledSpan(start, start + 3, "PER"),)))
    assert joined.text.startswith("Hello, Ada (of London);")
    (span,) = joined.spans
    assert joined.text[span.start : span.end] == "Ada"


def test_labels_are_the_recipes_and_others_vanish() -> None:
    one = LabelledText("abc", tuple(LabelledSpan(0, 1, k) for k in ("PER", "person", "MISC")))
    assert [span.kind for span in relabelled(one).spans] == ["PERSON", "PERSON"]


def test_nothing_is_in_both_parts(tmp_path: Path) -> None:
    corpus = read_corpus(write_corpora(tmp_path))
    for source in SOURCES:
        groups = [
            {one.group or one.text for one in part[source.path]}
            for part in (corpus.train, corpus.held_out)
        ]
        assert not groups[0] & groups[1]
        assert bool(corpus.train[source.path]) == (source.part != "none")
    assert all(len(str(one["sha256"])) == 64 and one["licence"] for one in corpus.provenance)
    held_out = corpus.held_out_sets()
    assert "same kind" in held_out["pii/generated_large.json"][0]
    assert "out of domain" in held_out["ner/re3d-test.conll"][0]


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks pii/generated_large\.json"):
        read_corpus(tmp_path)


def test_a_vocabulary_is_cut_by_frequency_and_keeps_what_spells_the_rest() -> None:
    pieces = [*MARKS, "[unused0]", "the", "bridge", "a", "b", "##b", "東", "rare"]
    original = {
        "model": {"vocab": {piece: i for i, piece in enumerate(pieces)}},
        "added_tokens": [{"id": i, "content": mark} for i, mark in enumerate(MARKS)],
    }
    cut = cut_down(json.dumps(original), 10)
    vocabulary = json.loads(cut.tokenizer_json)["model"]["vocab"]
    assert list(vocabulary) == [*MARKS, "the", "bridge", "a", "b", "##b"]
    assert [pieces[i] for i in cut.kept] == list(vocabulary)


def test_made_up_text_is_labelled_where_it_says_so() -> None:
    pytest.importorskip("faker")
    from safekv.detect.training.synthetic import MadeUp

    one, again = ([*MadeUp(3).private(40), *MadeUp(3).public(40)] for _ in range(2))
    assert one == again
    assert all(0 <= s.start < s.end <= len(text.text) for text in one for s in text.spans)
    assert any(s.kind == "PERSON" for text in one[:40] for s in text.spans)
    assert not any(s.kind == "PERSON" for text in one[40:] for s in text.spans)
    assert not any("{" in text.text and '"name"' not in text.text for text in one[40:])


def test_a_tiny_run_trains_exports_and_loads(tmp_path: Path) -> None:
    """The whole recipe on a network of one layer and a few words: no figure, but every step."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("faker")
    from safekv.detect.encoding import SHAPES, Encoder
    from safekv.detect.manifest import TOKENIZER
    from safekv.detect.training.corpora import LABELS
    from safekv.detect.training.export import export
    from safekv.detect.training.network import Network, NetworkShape
    from safekv.detect.training.recipe import Recipe, train
    from support.classifiers import write_classifier

    corpus = read_corpus(write_corpora(tmp_path / "data"))
    tokenizer = (write_classifier(tmp_path / "names") / TOKENIZER).read_text()
    encoder = Encoder(tokenizer)
    shape = NetworkShape(
        vocabulary=len(json.loads(tokenizer)["model"]["vocab"]), labels=len(LABELS), shapes=SHAPES,
        layers=1, width=24, heads=2, inner=32, positions=64,
    )  # fmt: skip
    recipe = Recipe(
        layers=1, epochs=1.0, batch_windows=8, window_tokens=32, private_texts=20, public_texts=10
    )
    losses: list[float] = []
    network = Network(shape)
    happened = train(network, encoder, corpus, recipe, lambda one: losses.append(one.loss))
    assert happened["steps"] == len(losses) >= 3
    assert losses[-1] < losses[0]
    parity = export(network, tmp_path / "tiny.onnx")
    assert parity["fp32_max_difference"] < 1e-4
    assert parity["int8_same_label"] > 0.8


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from safekv.detect.training.recipe import Recipe
    from safekv.detect.training.run import train_model

    with pytest.raises(ConfigError, match="exists already"):
        train_model(tmp_path, tmp_path, Recipe(), lambda one: None)
