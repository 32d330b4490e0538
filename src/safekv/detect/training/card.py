"""The model card: what a classifier is for, what it learnt from, how good it is, on one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from safekv.detect.manifest import Manifest

NAME: Final = "MODEL_CARD.md"

_CREDITS: Final = """\
* Weights start from the first layers of all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0; its
  encoder is MiniLM by Microsoft, MIT).
* WNUT 2017 (Derczynski, Nichols, van Erp, Limsopatham), CC BY 4.0.
* Wikigold (Balasuriya, Ringland, Nothman, Murphy, Curran), CC BY 4.0.
* Broad Twitter Corpus (Derczynski, Bontcheva, Roberts), CC BY 4.0.
* Templates of presidio-research (Microsoft, MIT), filled with values made by Faker (MIT). Its
  share-alike identities were measured on, and not trained on.
* awesome-chatgpt-prompts (CC0), FastChat's questions (Apache-2.0), HumanEval and GSM8K (OpenAI,
  MIT), as text without private values.

The corpora were changed: words joined, names exchanged, letters lower-cased. No text of theirs is
in this folder. The weights are under the Apache licence 2.0, like safekv."""


def card(manifest: Manifest) -> str:
    """The page for `manifest`, in Markdown; it holds figures and names, and no text."""
    run = manifest.training.get("run", {})
    rows = "\n".join(_row(name, one) for name, one in manifest.metrics.items())
    seed = manifest.training.get("recipe", {}).get("seed")
    return f"""\
# {manifest.name} {manifest.version}

Labels word pieces of English and other Latin text as person, address, number, contact, place,
organisation or nothing. safekv holds back blocks in which one of the first four is likely. It
misses names, and it is no proof that a text holds none.

Trained by `safekv detect train`: {run.get("steps")} steps, seed {seed}. `manifest.json` has the
recipe and all figures.

| held-out texts | split | block recall, 64 tokens | persons | false flags, 64 tokens |
|---|---|---|---|---|
{rows}

Blocks are held back from a probability of {manifest.unsure_from} on, after these biases of the
log-odds: {dict(manifest.biases)}.

## Origin and licences

{_CREDITS}
"""


def _row(name: str, one: Mapping[str, Any]) -> str:
    person = one["entity"].get("PERSON", {}).get("recall")
    block = one["blocks"]["64"]["recall"]
    shown = [_shown(value) for value in (block, person, one["false_flag_rate"])]
    return f"| {name} | {one['split']} | {' | '.join(shown)} |"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
