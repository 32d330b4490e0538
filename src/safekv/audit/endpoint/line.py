"""One key's line to an endpoint: sends a prompt, times the answer, and never shows the key."""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import httpx

from safekv.attack.target import TargetError
from safekv.audit.endpoint.observation import Observation
from safekv.audit.endpoint.wire import Answer, Form, NotAnAnswer, events

BUSY: Final = frozenset({429, 503})
RETRIES: Final = 5
LONGEST_WAIT_S: Final = 30.0
MOST_BYTES: Final = 4_000_000
TIMED_OUT: Final = "time-out"

Now = Callable[[], float]
"""A clock in seconds that never goes backwards."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is and which model it is asked for; `authority` is a PEM file's path."""

    base_url: str
    model: str
    max_tokens: int = 4
    timeout_s: float = 60.0
    authority: str | None = None

    def verify(self) -> ssl.SSLContext:
        """How a TLS certificate is checked: the system's authorities, and the one given."""
        return ssl.create_default_context(cafile=self.authority)


@dataclass(slots=True)
class _Attempt:
    """One request under way; times by `now`, in seconds."""

    now: Now
    sent_s: float = math.nan
    status: int = 0
    retry_after_s: float = 1.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    answer: Answer = field(default_factory=Answer)

    def note(self, event: str, _: Mapping[str, Any]) -> None:
        """The clock starts when a connection exists and the request begins to go out."""
        if event == "http11.send_request_headers.started":
            self.sent_s = self.now()


class Line:
    """A connection of its own for one key; `key` is `None` for requests without a key.

    Times start when the request is written to an open connection, so setting one up is not
    timed; Nagle's algorithm is off, answers are not compressed, proxies from the environment
    are not used. Requests keep `interval_s` between their starts. Close it, or use `with`.
    """

    def __init__(
        self,
        place: Place,
        form: Form,
        key: str | None,
        *,
        interval_s: float = 0.0,
        wait: Callable[[float], None] = time.sleep,
        now: Now = time.perf_counter,
    ) -> None:
        self.form = form
        self._now = now
        self._place = place
        self._interval_s = interval_s
        self._wait = wait
        self._next_s = 0.0
        self._reads_on = True
        self.requests = 0
        self.waited_for_limits = 0
        headers = {"Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        self._client = httpx.Client(
            headers=headers,
            timeout=place.timeout_s,
            trust_env=False,
            transport=httpx.HTTPTransport(verify=place.verify(), socket_options=options),
        )

    def ask(self, text: str) -> Observation:
        """Send `text` once and observe the answer; a refused request is tried again after a wait.

        Only 429 and 503 are tried again: they say that the prompt was not computed, whereas a
        request that timed out may have warmed the cache. Other failures are an observation
        without times. Raises `TargetError` when there is no connection, and when the endpoint
        stays busy.
        """
        outcome = ""
        for _ in range(RETRIES):
            attempt, failure = self._attempt(text)
            outcome = outcome or failure or str(attempt.status)
            if failure or attempt.status not in BUSY:
                return _observation(outcome, attempt, failure)
            self.waited_for_limits += 1
            self._wait(attempt.retry_after_s)
        raise TargetError(
            f"the endpoint answered {attempt.status} to {RETRIES} tries of one request",
            "lower --rate, or ask for a higher limit for the audit's keys",
        )

    def _attempt(self, text: str) -> tuple[_Attempt, str]:
        """One request, and the name of what went wrong with it, if anything did."""
        self._keep_pace()
        self.requests += 1
        attempt = _Attempt(self._now)
        body = self.form.body(self._place.model, text, self._place.max_tokens)
        url = self._place.base_url.rstrip("/") + self.form.api.path
        try:
            with self._client.stream(
                "POST", url, json=body, extensions={"trace": attempt.note}
            ) as response:
                self._receive(response, attempt)
        except httpx.ConnectError as error:
            raise unreachable(error) from None
        except httpx.TimeoutException:
            return attempt, TIMED_OUT
        except (httpx.HTTPError, httpx.InvalidURL):
            return attempt, "broken-off"
        except NotAnAnswer as error:
            return attempt, str(error)
        return attempt, ""

    def _receive(self, response: httpx.Response, attempt: _Attempt) -> None:
        attempt.status = response.status_code
        attempt.headers = {name.lower(): value for name, value in response.headers.items()}
        attempt.retry_after_s = _retry_after_s(attempt.headers.get("retry-after", ""))
        if response.status_code != 200:
            return
        if "event-stream" in attempt.headers.get("content-type", ""):
            lines = _bounded(response)
            for data in events(lines):
                attempt.answer.take_event(data, self._now())
            if attempt.answer.end_s is None and not attempt.answer.text_at_s:
                raise NotAnAnswer("a stream without text")
            attempt.answer.end_s = self._now()
            self._read_on(lines)
            return
        whole = "\n".join(_bounded(response))
        attempt.answer.take_whole(whole, self._now())

    def _read_on(self, lines: Iterator[str]) -> None:
        """Read what stands behind the last event, so that the connection can be used again.

        An endpoint that does not end there is not waited for a second time.
        """
        if self._reads_on:
            try:
                for _ in lines:
                    pass
            except (httpx.HTTPError, NotAnAnswer):
                self._reads_on = False

    def _keep_pace(self) -> None:
        late_s = self._next_s - self._now()
        if late_s > 0:
            self._wait(late_s)
        self._next_s = self._now() + self._interval_s

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._client.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _bounded(response: httpx.Response) -> Iterator[str]:
    """The lines of an answer. Raises `NotAnAnswer` for one that does not end."""
    size = 0
    for line in response.iter_lines():
        size += len(line)
        if size > MOST_BYTES:
            raise NotAnAnswer("an answer that is too long")
        yield line


def _observation(outcome: str, attempt: _Attempt, failure: str) -> Observation:
    answer, start = attempt.answer, attempt.sent_s
    if failure or attempt.status != 200 or answer.end_s is None or math.isnan(start):
        return Observation(outcome, headers=attempt.headers)
    streamed = bool(answer.text_at_s) or "event-stream" in attempt.headers.get("content-type", "")
    first = answer.first_s
    return Observation(
        outcome,
        first - start if streamed and first is not None else None,
        answer.end_s - start,
        answer.pace_s,
        answer.usage,
        attempt.headers,
        first,
        answer.digest,
    )


def _retry_after_s(header: str) -> float:
    """The wait an endpoint asks for, at most half a minute; a second if it names none."""
    try:
        wanted = float(header)
    except ValueError:
        return 1.0
    return min(max(wanted, 0.0), LONGEST_WAIT_S) if math.isfinite(wanted) else 1.0


def unreachable(error: httpx.HTTPError) -> TargetError:
    """What to tell of a connection that failed. TLS trouble is named as such."""
    text = str(error).lower()
    if "certificate" in text or "ssl" in text or "tls" in text:
        return TargetError(
            "the endpoint's TLS certificate or handshake was not accepted",
            "check the address, and use --ca for a private authority",
        )
    return TargetError(
        "the endpoint cannot be reached", "check the address, and that the server runs"
    )
