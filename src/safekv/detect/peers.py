"""Other detectors, measured on the same texts where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Final

from safekv.detect.adapters import SpanDetector, from_presidio

NOT_INSTALLED: Final = "not installed"

_SPACY_MODELS: Final = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")

Peer = SpanDetector


def presidio() -> Peer | str:
    """Presidio's patterns alone, on an English tokenizer without a model."""
    if find_spec("presidio_analyzer") is None:
        return NOT_INSTALLED
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    _keep_offline()
    engine = SpacyNlpEngine()
    engine.nlp = {"en": spacy.blank("en")}
    return from_presidio(AnalyzerEngine(nlp_engine=engine), lookahead_chars=0, private_from=0.0)


def presidio_with_ner() -> Peer | str:
    """Presidio with the largest English spaCy model that is installed; none is downloaded."""
    if find_spec("presidio_analyzer") is None:
        return NOT_INSTALLED
    model = next((one for one in _SPACY_MODELS if find_spec(one) is not None), None)
    if model is None:
        return NOT_INSTALLED
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    _keep_offline()
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": model}])
    return from_presidio(AnalyzerEngine(nlp_engine=engine), lookahead_chars=0, private_from=0.0)


def detect_secrets() -> Peer | str:
    """Yelp's detect-secrets, line by line, with its default plug-ins."""
    if find_spec("detect_secrets") is None:
        return NOT_INSTALLED
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    def find(text: str) -> Iterable[tuple[int, int, str, float]]:
        start = 0
        with default_settings():
            for line in text.splitlines(keepends=True):
                yield from _secrets_in(scan_line(line), line, start)
                start += len(line)

    return SpanDetector("detect-secrets", find, lookahead_chars=0)


def _keep_offline() -> None:
    """Presidio's e-mail pattern fetches a list of suffixes otherwise; a packaged one is there."""
    import tldextract

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())


def _secrets_in(
    secrets: Iterable[Any], line: str, start: int
) -> Iterable[tuple[int, int, str, float]]:
    for secret in secrets:
        value = secret.secret_value or ""
        at = line.find(value)
        if value and at >= 0:
            yield start + at, start + at + len(value), secret.type, 1.0


PEERS: Final[Mapping[str, Callable[[], Peer | str]]] = {
    "presidio": presidio,
    "presidio-ner": presidio_with_ner,
    "detect-secrets": detect_secrets,
}
"""Each makes a peer ready to be measured, or says `NOT_INSTALLED`."""
