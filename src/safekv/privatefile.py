"""Files that hold keys: readable by their owner alone, replaced in one step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from safekv.errors import ConfigError

Stamp: TypeAlias = tuple[int, ...]

KEY_BYTES: Final = 32


def home(env: Mapping[str, str]) -> Path:
    """Where keys lie by default: `$SAFEKV_HOME`, else `safekv` in the XDG configuration folder."""
    named = env.get("SAFEKV_HOME")
    if named:
        return Path(named).expanduser()
    return Path(env.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "safekv"


class PrivateFile:
    """One file with mode 0600 that only its owner may use, or no file yet.

    Every method raises `ConfigError` when the file is loose (another owner, any bit for group
    or others), is no regular file, or cannot be read or written. `remedy` ends the hints.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path = path
        self._remedy = remedy

    def __repr__(self) -> str:
        return f"PrivateFile({str(self.path)!r})"

    def read(self) -> tuple[Stamp | None, bytes | None]:
        """The stamp and the content of the file: two `None` when there is no such file."""
        try:
            # Without O_NONBLOCK a pipe at this path would hang the server.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None, None
            raise self._cannot("read", error) from error
        try:
            # The open file is examined, not the path: nothing can be swapped in between.
            status = os.fstat(descriptor)
            self._require_private(status)
            with open(descriptor, "rb", closefd=False) as file:
                return _stamp(status), file.read()
        except OSError as error:
            raise self._cannot("read", error) from error
        finally:
            os.close(descriptor)

    def stamp(self) -> Stamp | None:
        """Changes whenever content, permissions or owner may have; `None`: no file. One `stat`."""
        try:
            return _stamp(self.path.stat())
        except OSError:
            return None

    def write(self, content: bytes) -> None:
        """Replace the file in one step. A crash leaves the old file or the new one, never half."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._replace(content)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise self._cannot("write", error) from error

    def _replace(self, content: bytes) -> None:
        # mkstemp creates with mode 0600 whatever the umask says.
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the side file's lock: the file itself is replaced, so it cannot carry one."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._cannot("write", error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def damaged(self, hint: str) -> ConfigError:
        """The error for a content that its reader cannot make sense of. Never quotes it."""
        return ConfigError(f"key file {self.path} is damaged", hint)

    def _cannot(self, verb: str, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot {verb} key file {self.path}: {os.strerror(error.errno or 0).lower()}",
            f"check the path and its owner, or {self._remedy}",
        )

    def _require_private(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"key file {self.path} is not a regular file", self._remedy)
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"key file {self.path} belongs to user {status.st_uid}, not to {os.geteuid()}",
                f"run as its owner, or {self._remedy}",
            )
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(
                f"key file {self.path} has mode {mode:04o}: others may use it",
                f"chmod 600 {self.path}",
            )


class SigningKey:
    """The key with which whoever runs the server signs what only they may decide.

    32 random bytes in a private file, made on first use. Each use has a label of its own in
    what it signs, so that no signature serves another use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PrivateFile(path, "set SAFEKV_HOME")

    @classmethod
    def default(cls, env: Mapping[str, str]) -> SigningKey:
        """`deployment.key`, beside the default tenant keys."""
        return cls(home(env) / "deployment.key")

    def sign(self, signed: bytes, *, create: bool = False) -> str:
        """The HMAC-SHA-256 of `signed`, in hex. Raises `ConfigError` as `read` does."""
        return hmac.new(self.read(create=create), signed, hashlib.sha256).hexdigest()

    def read(self, *, create: bool) -> bytes:
        """The key, made now if `create` and there is none. Raises `ConfigError` otherwise."""
        _, raw = self._file.read()
        if raw is None and create:
            raw = secrets.token_hex(KEY_BYTES).encode() + b"\n"
            self._file.write(raw)
        if raw is None:
            raise ConfigError(f"deployment key {self.path} is not there", "restore it")
        try:
            key = bytes.fromhex(raw.decode().strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise self._file.damaged("restore it")
        return key


def _stamp(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
