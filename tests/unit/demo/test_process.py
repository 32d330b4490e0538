from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from safekv.demo.process import Running, free_port, serve_command, serving
from safekv.errors import EngineError
from safekv.types import Mode

SERVER = """
import http.server, signal, sys
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("the last words", flush=True)
            import os; os._exit(7)
        self.send_response(200); self.end_headers(); self.wfile.write(b"fine")
    def log_message(self, *_): pass
print("hello from the server", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


def command(port: int, *more: str) -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), *more]


def alive(server: Running) -> bool:
    try:
        os.kill(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_runs_for_the_block_and_not_longer() -> None:
    port = free_port()
    with serving(command(port), port) as server:
        assert server.get("/health") == (200, b"fine")
        assert server.api_url == f"http://127.0.0.1:{port}/v1"
        assert os.getpgid(server.pid) != os.getpgid(0)
    assert not alive(server)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
def test_no_server_outlives_an_interrupted_block(kind: type[BaseException]) -> None:
    port = free_port()
    with pytest.raises(kind), serving(command(port), port, stop_s=5) as server:
        raise kind
    assert not alive(server)


def test_a_server_that_ignores_sigterm_is_killed() -> None:
    port = free_port()
    with serving(command(port, "stubborn"), port, stop_s=0.05) as server:
        pass
    assert not alive(server)


def test_a_server_that_cannot_start_shows_its_last_lines() -> None:
    port = free_port()
    dying = [sys.executable, "-c", "print('no model here'); raise SystemExit(2)"]
    with (
        pytest.raises(EngineError, match=r"status 2(.|\n)*no model here"),
        serving(dying, port),
    ):
        pytest.fail("it never was ready")


def test_a_server_that_is_never_ready_is_given_up_and_stopped() -> None:
    port = free_port()
    silent = [sys.executable, "-c", "import time; print('busy', flush=True); time.sleep(60)"]
    with pytest.raises(EngineError, match="not ready"), serving(silent, port, start_s=0.0):
        pytest.fail("it never was ready")


def test_a_server_that_dies_inside_the_block_explains_itself() -> None:
    port = free_port()
    with (
        pytest.raises(EngineError, match=r"status 7(.|\n)*the last words"),
        serving(command(port), port) as server,
    ):
        server.get("/die")


def test_output_is_kept_in_the_log_that_was_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("before\n")
    port = free_port()
    with serving(command(port), port, log=log):
        pass
    assert log.read_text() == "before\nhello from the server\n"


def test_the_command_line_names_mode_port_and_keys_but_no_key() -> None:
    line = serve_command("m", Mode.SELECTIVE, 8123, Path("keys.json"))
    assert line[:6] == [sys.executable, "-P", "-m", "safekv.cli.main", "serve", "m"]
    assert line[6:] == [
        *("--mode", "selective"),
        *("--profile", "paper"),
        *("--host", "127.0.0.1"),
        *("--port", "8123"),
        *("--keys", "keys.json"),
    ]
