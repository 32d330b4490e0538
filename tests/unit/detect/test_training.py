"""The training recipe: what is held out, how texts become windows, and what refuses to start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safekv.detect.labelled import LabelledSpan, LabelledText
from safekv.detect.training.corpora import SOURCES, detokenised, read_corpus, relabelled
from safekv.detect.training.vocabulary import MARKS, cut_down
from safekv.errors import ConfigError
from support.corpora import write_corpora


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
