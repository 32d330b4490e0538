"""What operators may change while the server runs: declarations, and how little is shared."""

from __future__ import annotations

import logging
from typing import Protocol

from safekv.errors import ConfigError, RequestError
from safekv.gateway.auth import Principal
from safekv.gateway.declarations import Declaration, DeclarationStore
from safekv.types import Mode, Profile

audit = logging.getLogger("safekv.audit_log")
"""Who changed what, without the text: at INFO, whatever the log level of the server."""
audit.setLevel(logging.INFO)


class Sharing(Protocol):
    """Something whose sharing can be made stricter: the engine."""

    def sharing(self) -> tuple[Mode, Profile]:
        """The mode and the profile in force."""
        ...

    def set_mode(self, mode: Mode, profile: Profile | None) -> int:
        """Share less, at once; the demoted blocks. Raises `ConfigError` for what shares more."""
        ...


class Admin:
    """Carries out what an operator asked for and writes down that it did."""

    def __init__(self, sharing: Sharing, declarations: DeclarationStore) -> None:
        self._sharing, self._declarations = sharing, declarations

    def declared(self) -> list[dict[str, object]]:
        """All declarations, without their texts."""
        return [public(one) for one in self._declarations.list()]

    def declare(self, by: Principal, text: str, *, system: bool) -> dict[str, object]:
        """Declare `text`; the same text twice is one. Raises `RequestError` for an empty one."""
        try:
            one = self._declarations.add(text, system=system)
        except ConfigError as error:
            if text.strip():
                raise
            raise RequestError("text is empty", "send some text", param="text") from error
        audit.info("%s declared %s (%d characters)", by.tenant, one.id, len(one.text))
        return public(one)

    def revoke(self, by: Principal, declaration_id: str) -> dict[str, object]:
        """Remove a declaration. Raises `RequestError` (404) when there is none."""
        if declaration_id not in {one.id for one in self._declarations.list()}:
            raise RequestError("no such declaration", "list them", code="not_found", status=404)
        one = self._declarations.revoke(declaration_id)
        audit.info("%s revoked %s", by.tenant, one.id)
        return public(one)

    def mode(self) -> dict[str, object]:
        """The mode and the profile in force."""
        mode, profile = self._sharing.sharing()
        return {"mode": mode.value, "profile": profile.value}

    def set_mode(self, by: Principal, mode: Mode, profile: Profile | None) -> dict[str, object]:
        """Become stricter at once. Raises `RequestError` (409) for what would share more."""
        try:
            demoted = self._sharing.set_mode(mode, profile)
        except ConfigError as error:
            raise RequestError(
                error.message, error.hint, param="mode", code="not_stricter", status=409
            ) from error
        now = self.mode()
        audit.info("%s set mode %s, profile %s", by.tenant, now["mode"], now["profile"])
        return {**now, "demoted_blocks": demoted}


def public(one: Declaration) -> dict[str, object]:
    """What may be shown of a declaration: all but the text."""
    return {
        "id": one.id,
        "object": "declaration",
        "system": one.system,
        "created": one.created,
        "characters": len(one.text),
    }
