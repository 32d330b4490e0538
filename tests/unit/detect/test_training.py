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
        assert bool(corpus.train[source.path]) == (source.part not in ("none", "templates"))
    assert all(len(str(one["sha256"])) == 64 and one["licence"] for one in corpus.provenance)
    held_out = corpus.held_out_sets()
    assert "another generator's values" in held_out["pii/generated_large.json"][0]
    assert "pii/templates.txt" not in held_out
    assert "out of domain" in held_out["ner/re3d-test.conll"][0]


def test_what_biases_are_chosen_on_is_not_trained_on(tmp_path: Path) -> None:
    corpus = read_corpus(write_corpora(tmp_path))
    for file, texts in corpus.tuning.items():
        trained = {one.text for one in corpus.train[file]}
        assert not trained & {one.text for one in texts}
    assert any(corpus.tuning.values())


def test_templates_are_held_out_with_the_texts_made_of_them(tmp_path: Path) -> None:
    corpus = read_corpus(write_corpora(tmp_path))
    filled = {one.group for one in corpus.held_out["pii/generated_large.json"]}
    assert filled
    assert not filled & {one.group for one in corpus.train["pii/templates.txt"]}


def test_reports_count_only_what_may_be_a_name(tmp_path: Path) -> None:
    path = tmp_path / "re3d.conll"
    words = ["He", "Foreign", "Minister", "Boris", "Johnson", "said", "he", "-", "Gen.", "Votel"]
    path.write_text("".join(f"{word} I-Person\n" for word in words) + "\n")
    (reports,) = {s.read for s in SOURCES if s.path.startswith("ner/re3d")}
    (one,) = reports(path)
    assert [one.text[s.start : s.end] for s in one.spans] == ["Boris", "Johnson", "Votel"]


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks pii/templates\.txt"):
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
    reports = [*MadeUp(3).reports(30)]
    assert any(s.kind == "PERSON" for text in reports for s in text.spans)
    assert all(0 <= s.start < s.end <= len(text.text) for text in one for s in text.spans)
    assert any(s.kind == "PERSON" for text in one[:40] for s in text.spans)
    assert not any(s.kind == "PERSON" for text in one[40:] for s in text.spans)
    assert not any(f"{{{place}}}" in text.text for text in one for place in ("first", "number"))


def test_a_renamed_text_has_other_people_and_the_same_places() -> None:
    pytest.importorskip("faker")
    from safekv.detect.training.synthetic import MadeUp

    text = "Ada Lovelace met ada in London, and Turing left Ada."
    kinds = (("Ada", "PERSON"), ("Lovelace", "PERSON"), ("London", "LOCATION"))
    spans = [LabelledSpan(text.index(w), text.index(w) + len(w), kind) for w, kind in kinds]
    made_up = MadeUp(5)
    for _ in range(20):
        new = made_up.renamed(LabelledText(text, tuple(spans)))
        shown = {span.kind: new.text[span.start : span.end] for span in new.spans}
        assert shown["LOCATION"] == "London"
        assert len(shown["PERSON"].split()) >= 2
        assert shown["PERSON"] + " met ada in London, and Turing left Ada." == new.text


def test_every_place_of_every_template_can_be_filled_in_every_country() -> None:
    pytest.importorskip("faker")
    import random

    from safekv.detect.training.synthetic import MadeUp
    from safekv.detect.training.values import LOCALES

    made_up = MadeUp(1)
    places = {
        name
        for table in ("private", "reports", "public")
        for texts in made_up._tables[table].values()
        for text in texts
        for name in __import__("re").findall(r"(?<!\{)\{([a-z_]+)\}", text)
    }
    assert len(places) > 20
    random.seed(1)
    for name in sorted(places - {"name", "city"}):
        for locale in sorted({*LOCALES}):
            assert made_up._values.of(name, locale)
