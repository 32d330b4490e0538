"""How commands end: every failure becomes one sentence on stderr and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import IntEnum

import click

from safekv.errors import SafeKVError

EXTRA_OF = {
    "torch": "hf",
    "transformers": "hf",
    "accelerate": "hf",
    "tokenizers": "hf",
    "safetensors": "hf",
    "gguf": "hf",
    "psutil": "hf",
    "re2": "detect",
    "stdnum": "detect",
    "phonenumbers": "detect",
    "cryptography": "vault",
    "openai": "bench",
    "httpx": "audit",
    "numpy": "audit",
    "scipy": "audit",
    "vllm": "vllm",
}


class ExitCode(IntEnum):
    """What the exit status of every command means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INTERRUPTED = 130


def exit_status(command: Callable[[], object]) -> int:
    """Run `command` and return the exit status it earned; what went wrong is on stderr.

    `SystemExit` and exceptions that are bugs pass through. `command` may return an `int`,
    which is then the status.
    """
    try:
        returned = command()
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SafeKVError as error:
        show_error(error.message, error.hint)
        return error.exit_code
    except ModuleNotFoundError as error:
        return _missing_extra(error)
    except (KeyboardInterrupt, click.Abort):
        show_error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return ExitCode.FAILED
    return int(returned) if isinstance(returned, int) else ExitCode.OK


def show_error(message: str, hint: str = "") -> None:
    """Print `message`, and below it `hint` if there is one, on stderr."""
    click.echo(f"error: {message}" + (f"\n hint: {hint}" if hint else ""), err=True)


def _missing_extra(error: ModuleNotFoundError) -> int:
    """A package of an extra that is not installed is a wrong set-up; any other is a bug."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        raise error
    show_error(
        f"the package {package!r} is not installed",
        f"this command needs an extra: pip install 'safekv[{EXTRA_OF[package]}]'",
    )
    return ExitCode.USAGE


def _abandon_stdout() -> None:
    """The reader has gone: keep the interpreter's own flush at exit from complaining."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
