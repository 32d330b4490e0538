"""A real HTTP server that pretends to be a model: what it leaks and how it misbehaves is set.

It computes nothing. A prompt that is in the cache of the sender's group is answered after
`hit_s`, any other after `miss_s`, both with noise, by a clock of its own that nothing else moves:
so results do not depend on the machine. Whole prompts are cached; with `prefix_words` prefixes of
so many words each, and the words behind them cost `miss_s` in all. With `queue` it waits for so
many requests on connections other than the first `lines`, and serves those that lack least first:
each answer waits until the one before was received. With `drifts` a hit is answered in other
words than a miss, and every so many answers differ by themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATIENCE_S, LOOK_S = 20.0, 0.001
NAMES = {"": "nobody", "key-a": "a", "key-b": "b", "key-c": "c"}


class OwnClock:
    """Time that passes only when the endpoint says so, and a nanosecond at each look."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 1e-9
        return self._now_s

    @property
    def shows_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


@dataclass
class Behaviour:
    """How the endpoint answers. `group` maps a tenant to the cache it uses."""

    group: Callable[[str], str] = lambda tenant: tenant
    hit_s: float = 0.001
    miss_s: float = 0.005
    noise_s: float = 0.001
    every_second_s: float = 0.0
    queue: int = 0
    lines: int = 2
    prefix_words: int = 0
    drifts: bool = False
    unsteady_every: int = 0
    stream: bool = True
    usage: bool = True
    tell_cached: bool = True
    cache_header: bool = False
    caching: bool = True
    anonymous: bool = False
    limit_every: int = 0
    fail_every: int = 0
    garbage: str = ""
    hang_s: float = 0.0
    seed: int = 0
    clock: OwnClock = field(default_factory=OwnClock)
    cache: set[tuple[str, str]] = field(default_factory=set)
    requests: int = 0
    connections: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)


class Queue:
    """Serves so many requests that came together in the order of what they lack.

    Each answer waits until the one before was received: the clock is looked at by nobody but
    the client whose answer came, so the order does not depend on the machine.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._size, self._clock = behaviour.queue, behaviour.clock
        self._looks = range(round(PATIENCE_S / LOOK_S))
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._turns: list[tuple[float, int]] = []

    @contextlib.contextmanager
    def turn(self, lacking: float, number: int) -> Iterator[None]:
        """Wait for the others and for this request's turn; then let it be answered."""
        mine = (lacking, number)
        with self._changed:
            self._waiting.append(mine)
            if len(self._waiting) == self._size:
                self._turns, self._waiting = sorted(self._waiting), []
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._turns[:1] == [mine], PATIENCE_S)
        looked_at = self._clock.shows_s
        yield
        next(
            (n for n in self._looks if self._clock.shows_s != looked_at or time.sleep(LOOK_S)), None
        )
        with self._changed:
            self._turns = self._turns[1:]
            self._changed.notify_all()


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behaviour: Behaviour
    rng: random.Random
    queue: Queue
    numbers: Iterator[int]
    places: set[tuple[str, str]]

    def setup(self) -> None:
        self.number = next(self.numbers)
        self.behaviour.connections = self.number
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _tenant(self) -> str | None:
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        name = NAMES.get(key)
        return None if name == "nobody" and not self.behaviour.anonymous else name

    def do_GET(self) -> None:
        if self._tenant() is None:
            self._send(401, {"error": {"message": "no"}})
        else:
            self._send(200, {"data": [{"id": "mock"}]})

    def do_POST(self) -> None:
        behaviour = self.behaviour
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour.requests += 1
        behaviour.bodies.append(body)
        tenant = self._tenant()
        if tenant is None:
            return self._send(401, {"error": {"message": "no"}})
        if behaviour.limit_every and behaviour.requests % behaviour.limit_every == 0:
            return self._send(429, {"error": {"message": "slow"}}, {"Retry-After": "0.01"})
        if behaviour.fail_every and behaviour.requests % behaviour.fail_every == 0:
            return self._send(500, {"error": {"message": "broken"}})
        if body.get("stream") and not behaviour.stream:
            return self._send(400, {"error": {"message": "no streams"}})
        if behaviour.garbage:
            return self._raw(behaviour.garbage.encode(), "text/html")
        if behaviour.hang_s:
            time.sleep(behaviour.hang_s)
        self._answer(body, tenant)

    def _answer(self, body: dict[str, Any], tenant: str) -> None:
        behaviour = self.behaviour
        text = json.dumps(body.get("messages", body.get("prompt")))
        place = (behaviour.group(tenant), text)
        hit = behaviour.caching and place in behaviour.cache
        behaviour.cache.add(place)
        lacking = (
            self._lacking(text, behaviour.group(tenant)) if behaviour.prefix_words else 1 - hit
        )
        wait_s = behaviour.hit_s + lacking * (behaviour.miss_s - behaviour.hit_s)
        wait_s += abs(self.rng.gauss(0, behaviour.noise_s))
        wait_s += behaviour.every_second_s * (behaviour.requests % 2)
        behaviour.clock.advance(wait_s)
        in_queue = behaviour.queue and self.number > behaviour.lines
        turn = self.queue.turn(lacking, self.number) if in_queue else contextlib.nullcontext()
        with turn:
            self._say(body, hit=hit, words=len(text.split()))

    def _say(self, body: dict[str, Any], *, hit: bool, words: int) -> None:
        behaviour = self.behaviour
        unsteady = behaviour.unsteady_every and self.rng.randrange(behaviour.unsteady_every) == 0
        said = "y" if unsteady or (behaviour.drifts and hit) else "x"
        usage: dict[str, Any] = {"prompt_tokens": words + 3, "completion_tokens": 1}
        if behaviour.tell_cached:
            usage["prompt_tokens_details"] = {"cached_tokens": words if hit else 0}
        told = usage if behaviour.usage else None
        headers = {"X-Cache": "HIT" if hit else "MISS"} if behaviour.cache_header else {}
        if body.get("stream"):
            chunk = {"choices": [{"delta": {"content": said}, "finish_reason": None}]}
            last = {"choices": [], "usage": told}
            data = "".join(f"data: {json.dumps(event)}\n\n" for event in (chunk, last))
            self._raw((data + "data: [DONE]\n\n").encode(), "text/event-stream", headers)
        else:
            answer = {"choices": [{"message": {"content": said}}], "usage": told}
            self._send(200, answer, headers)

    def _lacking(self, text: str, group: str) -> float:
        """The share of `text` behind the longest prefix that the group has in its cache."""
        words, width = text.split(), self.behaviour.prefix_words
        ends = range(width, len(words) + 1, width)
        prefixes = [(group, " ".join(words[:end])) for end in ends]
        known = [end for end, place in zip(ends, prefixes, strict=True) if place in self.places]
        if self.behaviour.caching:
            self.places.update(prefixes)
        return 1 - max(known, default=0) / len(words)

    def _send(
        self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        self._raw(json.dumps(body).encode(), "application/json", headers, status)

    def _raw(
        self, data: bytes, kind: str, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that left: tests read what the command itself prints."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextlib.contextmanager
def endpoint(behaviour: Behaviour, certificate: Path | None = None) -> Iterator[str]:
    """Serve `behaviour` on loopback; gives the address. `certificate` is a PEM with its key."""
    bound = {"behaviour": behaviour, "rng": random.Random(behaviour.seed)}
    bound |= {"places": set(), "queue": Queue(behaviour)}
    bound |= {"numbers": itertools.count(1)}
    server = _Server(("127.0.0.1", 0), type("Bound", (_Answering,), bound))
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
