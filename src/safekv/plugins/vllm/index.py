"""`python -m safekv.plugins.vllm.index`: the index process of one engine core."""

from __future__ import annotations

import json
import os
import socket
import sys

from safekv.cache import CacheConfig
from safekv.detect.base import Detector
from safekv.engines.vllm.claim import load_claim_key
from safekv.engines.vllm.index.service import IndexSetup, needs_detector, serve
from safekv.engines.vllm.index.wire import Link
from safekv.gateway.declarations import DeclarationStore
from safekv.plugins.vllm.config import load_settings
from safekv.settings.model import Settings
from safekv.telemetry.log import configure


def main(descriptor: int) -> None:
    """Serve the socket `descriptor` until its other end is closed."""
    configure("info")
    serve(Link(socket.socket(fileno=descriptor)), setup)


def setup(hello: bytes) -> IndexSetup:
    """What the engine core said, and the same settings that it read.

    Raises `ConfigError` for settings, keys or declarations that cannot be used.
    """
    said = json.loads(hello)
    settings = load_settings(os.environ, said["extra"])
    declarations = DeclarationStore.default(os.environ)
    declarations.list()
    return IndexSetup(
        warden=settings.warden,
        cache=CacheConfig(**said["cache"]),
        safeguard=settings.safeguard,
        detect=settings.detect,
        secret=load_claim_key(os.environ),
        tokenizer=said["tokenizer"],
        revision=said["revision"],
        declared=declarations.changed,
        detector=_detector(settings),
    )


def _detector(settings: Settings) -> Detector | None:
    if not needs_detector(settings.warden):
        return None
    from safekv.detect.process import DetectorProcess
    from safekv.detect.registry import build_cascade

    if not settings.detect.process:
        return build_cascade(settings.detect, lambda stage, reason: None)
    process = DetectorProcess(settings.detect, lambda stage, reason: None)
    process.start()
    return process


if __name__ == "__main__":
    main(int(sys.argv[1]))
