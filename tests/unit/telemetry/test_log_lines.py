from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from safekv.telemetry.log import configure, where


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Give the root logger back as it was."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def fail(text: str) -> None:
    raise ValueError(text)


def test_a_record_is_one_line_whatever_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    logging.getLogger("safekv.x").info("a %s", "b\n2026 ERROR forged\r\u2028x")
    logging.getLogger("safekv.x").debug("unseen")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Z INFO safekv.x: a b 2026 ERROR forged  x")


def test_an_exceptions_message_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning")
    try:
        fail("the prompt was hunter2")
    except ValueError:
        logging.getLogger("safekv").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "failed ValueError at test_log_lines.py:" in line
    assert "in fail < test_log_lines.py" in line
    assert "hunter2" not in line


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert where(KeyError("hunter2")) == "KeyError"


def test_configuring_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    configure()
    logging.getLogger("safekv").info("once")
    assert capsys.readouterr().err.count("once") == 1
    with pytest.raises(ValueError, match="log level is 'loud'"):
        configure("loud")
