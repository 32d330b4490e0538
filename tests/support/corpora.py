"""A few texts in the layout and formats of every corpus that the training recipe reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from safekv.detect.training.corpora import SOURCES

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
        "templates.txt": "\n".join(f"I, {{{{person}}}} {i}" for i in range(20)),
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
