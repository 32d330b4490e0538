"""What an operator declared public, in one file that only the deployment key can sign."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from safekv.engines.base import DeclaredText
from safekv.errors import ConfigError
from safekv.gateway.tenants import default_keys_file

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
KEY_BYTES: Final = 32
ID_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Declaration:
    """One declared text: a prompt's beginning, or with `system` a system message."""

    id: str
    system: bool
    created: str
    text: str = field(repr=False)


class DeclarationStore:
    """The declarations in one file, and the key that signs it (HMAC-SHA-256) in another.

    A file whose signature is not right is refused as a whole, so nobody without the key can
    add a text, and a client cannot declare at all. The key is made on first use, readable by
    its owner alone. Replacing the file by an older one of the same key is not noticed.
    """

    def __init__(self, path: Path, key_path: Path) -> None:
        self.path, self.key_path = path, key_path
        # The mutable state: the stamp of the file when `changed` last read it.
        self._stamp: tuple[int, ...] | None = None
        self._looked = False

    @classmethod
    def default(cls, env: Mapping[str, str]) -> DeclarationStore:
        """`declared.json` and `deployment.key`, beside the default tenant keys."""
        home = default_keys_file(env).parent
        return cls(home / "declared.json", home / "deployment.key")

    def list(self) -> tuple[Declaration, ...]:
        """All declarations, the oldest first. Raises `ConfigError` when they cannot be trusted."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _cannot("read", self.path, error) from error
        return self._parse(raw)

    def changed(self) -> Sequence[DeclaredText] | None:
        """What is declared now if the file changed since the last call, or `None`.

        Nothing is declared while the file cannot be trusted. One `stat` in general.
        """
        stamp = _stamp(self.path)
        if self._looked and stamp == self._stamp:
            return None
        self._looked, self._stamp = True, stamp
        try:
            return [DeclaredText(one.text, one.system) for one in self.list()]
        except ConfigError as error:
            log.error("nothing is declared: %s", error.message)
            return []

    def add(self, text: str, *, system: bool = False) -> Declaration:
        """Declare `text` and return the declaration; the same text twice is one.

        Raises `ConfigError` for an empty text or a file that cannot be trusted or written.
        """
        if not text.strip():
            raise ConfigError("the text to declare is empty", "name a file, or use --text")
        with self._locked():
            key, known = self._key(create=True), self.list()
            label = b"system:" if system else b"text:"
            digest = hmac.new(key, label + text.encode(), hashlib.sha256).hexdigest()
            created = datetime.now(UTC).isoformat(timespec="seconds")
            one = Declaration(digest[: 2 * ID_BYTES], system, created, text)
            if one.id in {old.id for old in known}:
                return next(old for old in known if old.id == one.id)
            self._write(key, (*known, one))
        return one

    def revoke(self, declaration_id: str) -> Declaration:
        """Remove a declaration and return it. Raises `ConfigError` when there is none."""
        with self._locked():
            known = self.list()
            gone = [one for one in known if one.id == declaration_id]
            if not gone:
                raise ConfigError(
                    f"nothing declared has the id {declaration_id!r}", "see `safekv declare list`"
                )
            left = tuple(one for one in known if one.id != declaration_id)
            self._write(self._key(create=False), left)
        return gone[0]

    # -- files -----------------------------------------------------------------------------

    def _parse(self, raw: bytes) -> tuple[Declaration, ...]:
        try:
            data = json.loads(raw)
            signed = _canonical(data["declared"])
            found = hmac.compare_digest(str(data["hmac"]), self._sign(signed))
            if data["version"] != FORMAT_VERSION or not found:
                raise ValueError
            return tuple(Declaration(**entry) for entry in data["declared"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"{self.path} is damaged, or was not signed with {self.key_path}",
                "restore both, or move the file away and declare the texts again",
            ) from None

    def _sign(self, signed: bytes) -> str:
        return hmac.new(self._key(create=False), signed, hashlib.sha256).hexdigest()

    def _key(self, *, create: bool) -> bytes:
        try:
            if create and not self.key_path.exists():
                _replace(self.key_path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
            status = self.key_path.stat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise ConfigError(
                    f"deployment key {self.key_path} has mode {stat.S_IMODE(status.st_mode):04o}"
                    " or another owner",
                    f"chmod 600 {self.key_path}, as its owner",
                )
            key = bytes.fromhex(self.key_path.read_text().strip())
        except OSError as error:
            raise _cannot("read", self.key_path, error) from error
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"deployment key {self.key_path} is damaged", "restore it")
        return key

    def _write(self, key: bytes, declared: Sequence[Declaration]) -> None:
        entries = [asdict(one) for one in declared]
        signature = hmac.new(key, _canonical(entries), hashlib.sha256).hexdigest()
        data = {"version": FORMAT_VERSION, "declared": entries, "hmac": signature}
        _replace(self.path, json.dumps(data, indent=1).encode() + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot("write", self.path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _canonical(entries: object) -> bytes:
    return json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _replace(path: Path, content: bytes) -> None:
    """Replace `path` in one step, readable by its owner alone."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise _cannot("write", path, error) from error


def _cannot(verb: str, path: Path, error: OSError) -> ConfigError:
    reason = os.strerror(error.errno or 0).lower()
    return ConfigError(f"cannot {verb} {path}: {reason}", "check the path and its owner")
