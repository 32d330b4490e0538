"""Listening, serving and leaving: uvicorn, run so that a signal ends in exit status 0."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from safekv.engines.base import Engine
from safekv.errors import ConfigError

BACKLOG: Final = 2048
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def reserve_socket(host: str, port: int) -> socket.socket:
    """A socket bound to `host:port` that does not listen yet; port 0 takes any free one.

    Call it before the slow work: raises `ConfigError` when the address is taken or not ours.
    Until the engine has started, clients are refused rather than left waiting.
    """
    try:
        # The protocol matters: asyncio sets TCP_NODELAY only where it is named.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _cannot_listen(host, port, error) from error
    return sock


def url_of(sock: socket.socket) -> str:
    """The address of a bound socket as a URL."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    app: FastAPI,
    engine: Engine,
    sock: socket.socket,
    *,
    drain_s: float,
    on_ready: Callable[[str], None],
) -> None:
    """Start `engine`, serve `app` on `sock` until SIGTERM or SIGINT, stop both, and return.

    `on_ready` hears the URL once requests are accepted. After the signal nothing new is
    accepted; work in flight has `drain_s` seconds (rounded up) and is then cancelled; a second
    signal cancels at once. Raises `ConfigError` if another process began to listen meanwhile.
    """
    asyncio.run(Server(app, engine, sock, drain_s=drain_s, on_ready=on_ready).run())


class Server:
    """One run of one application. `leave` may be called from any thread."""

    def __init__(
        self,
        app: FastAPI,
        engine: Engine,
        sock: socket.socket,
        *,
        drain_s: float,
        on_ready: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._sock = sock
        self._uvicorn = _Uvicorn(_config(app, drain_s), lambda: on_ready(url_of(sock)))

    async def run(self) -> None:
        """Serve until `leave` or, in the main thread, a signal. The engine is always stopped."""
        with self._sock, self._signals():
            try:
                await self._engine.start()
                if not self._uvicorn.should_exit:
                    _listen(self._sock)
                    await self._uvicorn.serve(sockets=[self._sock])
            finally:
                # The gateway has drained already; what still runs was just cancelled.
                await self._engine.stop(0.0)

    def leave(self) -> None:
        """Begin to drain. Called again, it cancels what is still in flight."""
        self._uvicorn.force_exit = self._uvicorn.should_exit
        self._uvicorn.should_exit = True

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.leave)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handling, which would raise the signal again at the end."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


def _config(app: FastAPI, drain_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        log_config=None,
        # Paths and clients of requests are nobody's business.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(drain_s),
    )


def _listen(sock: socket.socket) -> None:
    host, port = sock.getsockname()[:2]
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"{host}:{port} is in use", "stop what listens there, or use --port 0")
    if isinstance(error, socket.gaierror):
        return ConfigError(f"cannot listen on {host}:{port}: unknown host", "check server.host")
    reason = os.strerror(error.errno or 0).lower()
    return ConfigError(f"cannot listen on {host}:{port}: {reason}", "check server.host and port")
