"""Labelled text to train and to measure on, split so that no template is in both."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from safekv.detect.labelled import LabelledSpan, LabelledText, half_of, read_labelled
from safekv.errors import ConfigError

LABELS: Final = ("O", "PERSON", "ADDRESS", "NUMBER", "CONTACT", "LOCATION", "ORGANIZATION")
SENSITIVE: Final = ("PERSON", "ADDRESS", "NUMBER", "CONTACT")
"""Labels whose probability makes a block private; places and organisations are context only."""

_LABEL_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys(("person", "per"), "PERSON"),
    "address": "ADDRESS",
    **dict.fromkeys(("location", "loc"), "LOCATION"),
    **dict.fromkeys(
        ("organization", "organisation", "org", "corporation", "group"), "ORGANIZATION"
    ),
    **dict.fromkeys(
        ("credit_card", "phone_number", "us_ssn", "iban_code", "us_driver_license", "ip_address"),
        "NUMBER",
    ),
    "email_address": "CONTACT",
}
"""What the corpora call each label, in lower case; every other type is `O`."""

_JOINED_BEFORE: Final = frozenset(".,!?;:')]}%…\"")
_JOINED_BEHIND: Final = frozenset("([{$#@")


TEMPLATES: Final = "pii/templates.txt"
"""Sentences with places in double braces; what is trained on is filled with our own values."""

NAMES_NOTE: Final = "; of what is labelled as a person only words that may be names"

_NO_NAMES: Final = frozenset(
    """
    a acting adviser advisor affairs al ambassador american amphibious an another army asia
    battalion battery brig capt central chief cjtf class coalition col colonel command
    commander commissioner commodore counter country defence defense deputy director dr east
    envoy fco for foreign gen general global group he head her high his human i inherent
    iraq iraqi isil jordanian king kuwaiti lt maintenance maj major mek middle minister
    minorities mr mrs ms museums my navy near office officer oir one operations operator our
    pentagon petty plans president presidential press prime qaeda refugees religious
    representative resettlement resolve rights russian secretary senior she sheikh sncos
    south spc special spokesman spokesperson staff state swedish syria syrian task the
    turkish uk un us u.s warfare aqi hrw bishop
    """.split()  # noqa: SIM905 - a hundred words are easier to read so
)
"""Words in capitals that re3d labels as parts of persons and that name nobody, in lower case."""

_SPLITS: Final[Mapping[str, str]] = {
    "none": "out of domain: the corpus was not trained on",
    "templates": "held-out half of the templates, with another generator's values",
    "half": "held-out half, by hash of the text; the other half was trained on",
    "most": "held-out fifth of the sentences, in domain",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One corpus file: how it is read, what it may be used for, and under which licence.

    `part` says what is trained on: `all`, `half` (of its templates or texts, by hash),
    `most` (four of five sentences) or `none` (held out as out of domain). Of `templates`
    none is trained on, and those texts are held out whose templates are.
    """

    path: str
    part: str
    licence: str
    read: Callable[[Path], list[LabelledText]]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was read: texts to train on, by file, held-out texts, and where all came from.

    `tuning` is a sixteenth of what may be trained on, by hash: biases are chosen on it.
    """

    train: Mapping[str, list[LabelledText]] = field(repr=False)
    tuning: Mapping[str, list[LabelledText]] = field(repr=False)
    held_out: Mapping[str, list[LabelledText]] = field(repr=False)
    provenance: tuple[Mapping[str, object], ...]

    def held_out_sets(self) -> dict[str, tuple[str, list[LabelledText]]]:
        """The texts of each file that training leaves out, and how they were chosen."""
        parts = {str(one["file"]): str(one["trained_on"]) for one in self.provenance}
        chosen: dict[str, tuple[str, list[LabelledText]]] = {}
        for file, texts in self.held_out.items():
            if texts and file != TEMPLATES:
                note = NAMES_NOTE if file.startswith("ner/re3d") else ""
                chosen[file] = (_SPLITS[parts[file]] + note, texts)
        return chosen


def read_corpus(folder: Path) -> Corpus:
    """All sources of `folder`. Raises `ConfigError` naming the first that is missing or bad."""
    train: dict[str, list[LabelledText]] = {}
    tuning: dict[str, list[LabelledText]] = {}
    held_out: dict[str, list[LabelledText]] = {}
    provenance: list[Mapping[str, object]] = []
    for source in SOURCES:
        path = folder / source.path
        if not path.is_file():
            raise ConfigError(
                f"{folder} lacks {source.path}", "give a folder with all corpora of the recipe"
            )
        texts = [relabelled(one) for one in source.read(path)]
        usable, held_out[source.path] = _split(texts, source.part)
        tuning[source.path] = [one for one in usable if _is_tuning(source, one)]
        train[source.path] = [one for one in usable if not _is_tuning(source, one)]
        provenance.append(_provenance(source, path, usable, held_out[source.path]))
    return Corpus(train, tuning, held_out, tuple(provenance))


def relabelled(one: LabelledText) -> LabelledText:
    """`one` with this recipe's labels; spans that have none are dropped."""
    named = ((span, _LABEL_OF.get(span.kind.lower(), "O")) for span in one.spans)
    spans = tuple(LabelledSpan(s.start, s.end, kind) for s, kind in named if kind != "O")
    return LabelledText(one.text, spans, one.group)


def detokenised(one: LabelledText) -> LabelledText:
    """Words that CoNLL set apart by blanks joined as people write them. O(characters)."""
    kept: list[int] = []
    text = one.text
    for at, c in enumerate(text):
        inside = c == " " and 0 < at < len(text) - 1
        if inside and (text[at + 1] in _JOINED_BEFORE or text[at - 1] in _JOINED_BEHIND):
            continue
        kept.append(at)
    new = {old: i for i, old in enumerate(kept)}
    spans = tuple(LabelledSpan(new[s.start], new[s.end - 1] + 1, s.kind) for s in one.spans)
    return LabelledText("".join(text[at] for at in kept), spans, one.group)


def _is_tuning(source: Source, one: LabelledText) -> bool:
    return source.path != TEMPLATES and crc32(one.text.encode(errors="replace")) % 16 == 3


def _split(texts: list[LabelledText], part: str) -> tuple[list[LabelledText], list[LabelledText]]:
    match part:
        case "all":
            return texts, []
        case "none":
            return [], texts
        case "templates":
            return [], half_of(texts, held_out=True)
        case "half":
            return half_of(texts, held_out=False), half_of(texts, held_out=True)
    most = [crc32(one.text.encode(errors="replace")) % 5 != 0 for one in texts]
    return (
        [one for one, chosen in zip(texts, most, strict=True) if chosen],
        [one for one, chosen in zip(texts, most, strict=True) if not chosen],
    )


def _provenance(
    source: Source, path: Path, train: list[LabelledText], held_out: list[LabelledText]
) -> Mapping[str, object]:
    return {
        "file": source.path,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": source.licence,
        "trained_on": source.part,
        "train_texts": len(train),
        "held_out_texts": len(held_out),
    }


def _templates(path: Path) -> list[LabelledText]:
    """One template a line; its number is the `template_id` of the texts made from it."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    made = (LabelledText(line.replace("\\n", "\n"), (), str(n)) for n, line in enumerate(lines))
    return [one for one in made if one.text.strip()]


def _conll(path: Path) -> list[LabelledText]:
    return [detokenised(one) for one in read_labelled(path)]


def _reports(path: Path) -> list[LabelledText]:
    """re3d without what it calls persons beside their names: pronouns, ranks, offices, marks."""
    return [
        LabelledText(one.text, tuple(s for s in one.spans if _may_name(one, s)), one.group)
        for one in _conll(path)
    ]


def _may_name(one: LabelledText, span: LabelledSpan) -> bool:
    word = one.text[span.start : span.end]
    if span.kind.lower() != "person":
        return True
    return len(word) > 1 and word[0].isupper() and word.lower().rstrip(".") not in _NO_NAMES


def _csv_prompts(path: Path) -> list[LabelledText]:
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8", newline="") as file:
        return _plain(path, (row["prompt"] for row in csv.DictReader(file)))


def _questions(path: Path) -> list[LabelledText]:
    return _plain(path, (row["question"] for row in _json_lines(path)))


def _turns(path: Path) -> list[LabelledText]:
    return _plain(path, ("\n".join(row["turns"]) for row in _json_lines(path)))


def _functions(path: Path) -> list[LabelledText]:
    return _plain(path, (row["prompt"] + row["canonical_solution"] for row in _json_lines(path)))


def _json_lines(path: Path) -> Iterator[Any]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return (json.loads(line) for line in data.decode().splitlines() if line.strip())


def _plain(path: Path, texts: Iterable[str]) -> list[LabelledText]:
    try:
        return [LabelledText(text) for text in texts if text and text.strip()]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not the prompts it should be ({type(error).__name__})",
            "take the file from the repository that the recipe names",
        ) from error


SOURCES: Final = (
    Source(TEMPLATES, "half", "MIT", _templates),
    Source("pii/generated_large.json", "templates", "MIT; identities CC BY-SA 3.0", read_labelled),
    Source("ner/wnut17train.conll", "all", "CC BY 4.0", _conll),
    Source("ner/wikigold.conll.txt", "most", "CC BY 4.0", _conll),
    Source("ner/btc_a.conll", "all", "CC BY 4.0", _conll),
    Source("ner/btc_b.conll", "all", "CC BY 4.0", _conll),
    Source("ner/btc_f.conll", "all", "CC BY 4.0", _conll),
    Source("ner/btc_g.conll", "all", "CC BY 4.0", _conll),
    Source("ner/btc_e.conll", "none", "CC BY 4.0", _conll),
    Source("ner/emerging.dev.conll", "none", "CC BY 4.0", _conll),
    Source("ner/re3d-train.conll", "none", "CC BY and OGL, by document", _reports),
    Source("ner/re3d-test.conll", "none", "CC BY and OGL, by document", _reports),
    Source("prompts/awesome_chatgpt_prompts.csv", "half", "CC0", _csv_prompts),
    Source("prompts/vicuna_question.jsonl", "half", "Apache-2.0", _turns),
    Source("prompts/HumanEval.jsonl.gz", "half", "MIT", _functions),
    Source("prompts/gsm8k_test.jsonl", "half", "MIT", _questions),
)
"""The recipe's corpora. Prompts count as free of private text, whatever names occur in them."""
