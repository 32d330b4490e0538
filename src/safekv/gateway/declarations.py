"""What an operator declared public, in one file that only the deployment key can sign."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from safekv.engines.base import DeclaredText
from safekv.errors import ConfigError
from safekv.privatefile import PrivateFile, SigningKey, Stamp, home

log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
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
        self._file = PrivateFile(path, "set SAFEKV_HOME")
        # The mutable state: the stamp of the file when `changed` last read it.
        self._stamp: Stamp | None = None
        self._looked = False

    @classmethod
    def default(cls, env: Mapping[str, str]) -> DeclarationStore:
        """`declared.json` and `deployment.key`, beside the default tenant keys."""
        return cls(home(env) / "declared.json", home(env) / "deployment.key")

    def list(self) -> tuple[Declaration, ...]:
        """All declarations, the oldest first. Raises `ConfigError` when they cannot be trusted."""
        _, raw = self._file.read()
        return () if raw is None else self._parse(raw)

    def changed(self) -> Sequence[DeclaredText] | None:
        """What is declared now if the file changed since the last call, or `None`.

        Nothing is declared while the file cannot be trusted. One `stat` in general.
        """
        stamp = self._file.stamp()
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
        with self._file.locked():
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
        with self._file.locked():
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
        return SigningKey(self.key_path).read(create=create)

    def _write(self, key: bytes, declared: Sequence[Declaration]) -> None:
        entries = [asdict(one) for one in declared]
        signature = hmac.new(key, _canonical(entries), hashlib.sha256).hexdigest()
        data = {"version": FORMAT_VERSION, "declared": entries, "hmac": signature}
        self._file.write(json.dumps(data, indent=1).encode() + b"\n")


def _canonical(entries: object) -> bytes:
    return json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
