"""Stage 2: what it reads, where it looks, what it refuses to load, and what it never clears."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from safekv.detect.base import Document, Finding
from safekv.detect.classifier import TokenClassifier
from safekv.detect.encoding import OVERLAP_TOKENS, WINDOW_TOKENS, Encoder, shape_of, windows
from safekv.detect.manifest import FILE, MODEL, TOKENIZER
from safekv.errors import DetectorError, ModelError
from safekv.types import Verdict
from support.classifiers import write_classifier

P, S, U = Verdict.PRIVATE, Verdict.SHAREABLE, Verdict.UNSURE
PLAIN = "the bridge "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model") / "names")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> TokenClassifier:
    return TokenClassifier.from_folder(folder, lookahead_chars=0)


def judge(classifier: TokenClassifier, text: str, *ends: int) -> list[Finding]:
    return classifier.judge(Document(text, ends))


def verdicts(classifier: TokenClassifier, text: str, *ends: int) -> list[Verdict]:
    return [found.verdict for found in judge(classifier, text, *ends)]


def test_a_name_makes_the_blocks_it_touches_private(classifier: TokenClassifier) -> None:
    text = "the bridge of Lovelace is the bridge"
    found = judge(classifier, text, 10, 16, 22, len(text))
    assert [f.verdict for f in found] == [S, P, P, S]
    assert found[1].rule == "classifier-person"
    assert found[1].confidence > 0.99


def test_a_doubtful_name_and_a_place(classifier: TokenClassifier) -> None:
    assert verdicts(classifier, "the bridge of lovelace", 22) == [U]
    assert verdicts(classifier, "the bridge of London", 20) == [S]


def test_a_bias_finds_more(folder: Path) -> None:
    eager = TokenClassifier.from_folder(folder, bias=2.0, lookahead_chars=0)
    shy = TokenClassifier.from_folder(folder, bias=-20.0, lookahead_chars=0)
    assert verdicts(eager, "the bridge of lovelace", 22) == [P]
    assert verdicts(shy, "the bridge of Lovelace", 22) == [S]


@pytest.mark.parametrize("at", [0, 100, 101, 102, 125, 126, 127, 510, 890, 1400, 2999])
def test_a_name_is_found_wherever_windows_end(classifier: TokenClassifier, at: int) -> None:
    words = ["bridge"] * 3000
    words[at] = "Turing"
    start = 7 * at
    (found,) = classifier.locate(" ".join(words))
    assert (found.start, found.end, found.kind) == (start, start + 6, "person")


def test_the_manifest_has_a_bias_for_each_label(tmp_path: Path) -> None:
    eager = write_classifier(tmp_path / "eager", biases={"PERSON": 2.0})
    assert verdicts(
        TokenClassifier.from_folder(eager, lookahead_chars=0), "the bridge of lovelace", 22
    ) == [P]
    shy = write_classifier(tmp_path / "shy", biases={"PERSON": -9.0})
    assert verdicts(
        TokenClassifier.from_folder(shy, lookahead_chars=0), "the bridge of lovelace", 22
    ) == [S]


def test_neighbouring_pieces_are_one_finding(classifier: TokenClassifier) -> None:
    (found,) = classifier.locate("the bridge of Ada Lovelace")
    assert (found.start, found.end) == (14, 26)


def test_a_batch_says_what_each_document_would_hear_alone(classifier: TokenClassifier) -> None:
    texts = ["Ada", "", PLAIN * 900, f"{PLAIN * 300}Turing", "the bridge of lovelace"]
    documents = [Document(text, (len(text),) if text else ()) for text in texts]
    alone = [classifier.judge(document) for document in documents]
    assert classifier.judge_all(documents) == alone
    assert [f.verdict for each in alone for f in each] == [P, S, P, U]


def test_what_cannot_be_read_is_not_cleared(classifier: TokenClassifier) -> None:
    assert verdicts(classifier, "東京都 the bridge", 4, 14) == [U, S]
    assert verdicts(classifier, "\ud83d" * 40, 40) == [U]
    assert verdicts(classifier, "x" * 300, 300) == [U]
    assert verdicts(classifier, "\x00\x07" * 20, 40) == [U]
    assert verdicts(classifier, f"{PLAIN * 4}🙂", 45) == [S]


def test_nothing_is_cleared_without_its_look_ahead(folder: Path) -> None:
    careful = TokenClassifier.from_folder(folder, lookahead_chars=11)
    assert [f.rule for f in judge(careful, PLAIN * 3, 11, 22, 33)] == [
        "clean", "clean", "look-ahead",
    ]  # fmt: skip
    assert verdicts(careful, "the bridge of Ada", 17) == [P]


def test_windows_cover_all_and_overlap() -> None:
    for tokens in (*range(300), 892, 893, 5000, 99_999):
        ranges = list(windows(tokens))
        covered = {i for start, end in ranges for i in range(start, end)}
        assert covered == set(range(tokens))
        assert all(0 <= start < end <= tokens for start, end in ranges)
        assert all(end - start <= WINDOW_TOKENS for start, end in ranges)
        assert all(a[1] - b[0] >= OVERLAP_TOKENS for a, b in pairwise(ranges))
        assert len({end - start for start, end in ranges}) <= 1


def test_shapes_tell_words_apart() -> None:
    words = ("ada", "Ada", "ADA", "iPhone", "4711", "?", "A", "日本")
    assert [shape_of(word) for word in words] == [0, 1, 2, 3, 4, 5, 1, 0]


def test_an_answer_that_is_no_number_is_no_opinion(
    classifier: TokenClassifier, folder: Path
) -> None:
    class Broken:
        def run(self, names: list[str], inputs: dict[str, object]) -> list[object]:
            import numpy as np

            (ids,) = [value for name, value in inputs.items() if name == "ids"]
            return [np.full((*np.shape(ids), 3), np.nan, dtype=np.float32)]

    encoder = Encoder((folder / TOKENIZER).read_text())
    broken = TokenClassifier(classifier.manifest, encoder, Broken())
    with pytest.raises(DetectorError):
        broken.judge(Document("the bridge", (10,)))


# -- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_classifier(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}.*damaged"):
        TokenClassifier.from_folder(folder)


@pytest.mark.parametrize("name", [MODEL, TOKENIZER, FILE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_classifier(tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        TokenClassifier.from_folder(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"files": {}},
        {"files": {MODEL: "0", TOKENIZER: "0", "../outside": "0"}},
        {"sensitive": []},
        {"sensitive": ["PERSON", "ghost"]},
        {"private_from": 2.0},
        {"unsure_from": 0.0},
        {"surplus": 1},
        {"labels": 7},
        {"biases": {"LOCATION": 1.0}},
        {"biases": {"PERSON": 1000.0}},
        {"biases": 7},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    folder = write_classifier(tmp_path)
    said = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(said | change))
    with pytest.raises(ModelError, match="manifest"):
        TokenClassifier.from_folder(folder)


def test_labels_must_fit_the_network(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, labels=("O", "PERSON"))
    with pytest.raises(ModelError, match="3 labels"):
        TokenClassifier.from_folder(folder)


def test_neither_torch_nor_transformers_is_imported(folder: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from safekv.detect.classifier import TokenClassifier\n"
        "TokenClassifier.from_folder(Path(sys.argv[1])).locate('Ada')\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == 0
