"""The index process: keeps the book, decodes prompts, has them judged, and ends epochs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from safekv.cache import CacheConfig
from safekv.detect.base import Detector
from safekv.detect.cascade import Cascade
from safekv.detect.config import DetectConfig
from safekv.detect.worker import DetectionWorker
from safekv.engines.base import DeclaredText
from safekv.engines.declared import declared_tokens
from safekv.engines.hf.text import PromptText
from safekv.engines.vllm.index.book import IndexBook
from safekv.engines.vllm.index.wire import Kind, Link, unpack_prompt
from safekv.engines.vllm.keys import BlockKeys
from safekv.errors import ConfigError, RequestError, SafeKVError
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, TenantId, pack_tokens
from safekv.warden import PromptJob, WardenConfig

log = logging.getLogger(__name__)

NICENESS: Final = 5
"""How far the process stands back: requests come first, verdicts can wait."""

NO_DETECTOR: Final = Cascade((), lambda stage, error: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSetup:
    """Everything the index needs. `declared` says what is declared if that changed, or `None`."""

    warden: WardenConfig
    cache: CacheConfig
    safeguard: SafeguardConfig
    detect: DetectConfig
    secret: bytes = field(repr=False)
    tokenizer: str
    revision: str | None
    declared: Callable[[], Sequence[DeclaredText] | None]
    detector: Detector | None
    tenants: Sequence[TenantId] = ()


class Service:
    """Reads prompts from one link, and writes verdicts to it from a thread of its own.

    So neither a slow detector nor an engine that does not read keeps an epoch from ending.
    """

    def __init__(self, link: Link, setup: IndexSetup) -> None:
        self._link = link
        self._said: SimpleQueue[tuple[Kind, bytes]] = SimpleQueue()
        self._tokenizer = load_tokenizer(setup.tokenizer, setup.revision)
        self._declared = setup.declared
        self.book = IndexBook(
            setup.warden,
            setup.cache,
            setup.safeguard,
            BlockKeys(setup.secret),
            lambda kind, payload: self._said.put((kind, payload)),
        )
        self.book.warden.open(setup.tenants)
        text = PromptText(self._tokenizer, setup.cache.block_tokens)
        self._worker: DetectionWorker[PromptJob] = DetectionWorker(
            setup.detector or NO_DETECTOR,
            text.document,
            self.book.warden.settle,
            self._tick,
            tenant_of=lambda job: job.tenant,
            epoch_s=setup.warden.epoch_s,
            config=setup.detect,
        )
        self._state = "running"

    def run(self) -> None:
        """Serve until the engine core is gone."""
        Thread(target=self._say_on, name="safekv-say", daemon=True).start()
        self._worker.start()
        self._said.put((Kind.READY, b""))
        try:
            while True:
                self._take(*self._link.receive())
        except (EOFError, ValueError):
            pass
        finally:
            self._worker.stop()

    def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is not Kind.PROMPT:
            raise ValueError("not a prompt")
        tenant, tokens = unpack_prompt(payload)
        try:
            job = self.book.computed(tenant, tokens)
        except SafeKVError as error:
            log.warning("a prompt stays private: %s", error.message)
            return
        if job is not None:
            self._worker.submit(job)

    def _say_on(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                self._link.send(*self._said.get())

    def _tick(self) -> None:
        texts = self._declared()
        if texts is not None:
            self.book.declare([pack_tokens(self._encode(one)) for one in texts])
        self.book.tick()
        state = self._worker.state()
        if state != self._state:
            self._state = state
            log.warning("detector: %s", state)
            self._said.put((Kind.STATE, state.encode()))

    def _encode(self, one: DeclaredText) -> list[int]:
        return declared_tokens(one, partial(_encode, self._tokenizer), self._encode_chat)

    def _encode_chat(self, messages: Sequence[Any]) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except Exception as error:  # templates raise what they like, and may quote the message
            raise RequestError(
                f"the model's chat template refused a declared text ({type(error).__name__})"
            ) from None
        return ids


def serve(link: Link, make: Callable[[bytes], IndexSetup]) -> None:
    """Read what the engine core says first, say whether that works, and serve until it is gone."""
    # Ctrl-C reaches the whole group; the engine core says when to stop, by closing its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    try:
        _, hello = link.receive()
        service = Service(link, make(hello))
    except SafeKVError as error:  # these name settings and files, never a prompt
        link.send(Kind.REFUSED, f"{error.message}\n{error.hint}".encode())
        return
    except EOFError:
        return
    service.run()


def load_tokenizer(source: str, revision: str | None) -> Any:
    """The model's tokenizer, as vLLM uses it. Raises `ConfigError` without a fast one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except Exception as error:  # transformers raises many kinds
        raise ConfigError(
            f"cannot load the tokenizer of {source!r} ({type(error).__name__})",
            "name one with --tokenizer",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"{source!r} has no fast tokenizer", "use mode isolated")
    # Set once here, so that no later call changes it while another thread decodes.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def needs_detector(warden: WardenConfig) -> bool:
    """Whether verdicts matter in this mode."""
    return warden.mode is Mode.SELECTIVE
