"""What the audit's made-up texts say to the shipped detector: classes must mean what they say."""

from __future__ import annotations

import pytest

from safekv.audit.endpoint.content import Writer
from safekv.audit.endpoint.observation import Content
from safekv.detect.config import DetectConfig
from safekv.detect.registry import build_cascade

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("content", list(Content))
def test_only_canaries_hold_what_the_detector_looks_for(content: Content) -> None:
    """An audit of prose under `selective` must be of prose, not of names that it made up."""
    cascade = build_cascade(
        DetectConfig(stages=("rules", "classifier")), lambda stage, reason: pytest.fail(reason)
    )
    found = [bool(cascade.locate(Writer(seed).write(content, 120))) for seed in range(12)]
    canary = content in (Content.PERSONAL, Content.KEY)
    assert sum(found) == (len(found) if canary else 0)
