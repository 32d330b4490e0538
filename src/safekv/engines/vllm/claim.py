"""The tenant claim: how the server's front tells vLLM's scheduler whose request it is.

vLLM carries no authenticated identity from its HTTP routes to its scheduler, but it carries
`sampling_params.extra_args`, which a client may write too. So what stands there under
`EXTRA_ARG` counts only if it was signed with a key that the two processes share.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safekv.privatefile import PrivateFile, home
from safekv.types import TenantId

EXTRA_ARG: Final = "safekv"
"""The name under which the claim travels in `sampling_params.extra_args`."""

KEY_BYTES: Final = 32
KEY_VARIABLE: Final = "SAFEKV_CLAIM_KEY_FILE"
MAX_LIFETIME_S: Final = 3600.0
MAX_TENANT_BYTES: Final = 255
SKEW_S: Final = 5.0
"""How far the signer's clock may be ahead of the verifier's."""

_FILE_VERSION: Final = 1
_PREFIX: Final = "skvc1."
_DOMAIN: Final = b"safekv tenant claim, version 1\x00"
_NONCE_BYTES: Final = 16
_MAC_BYTES: Final = 32
# Signed at, expires at (ms since 1970), nonce; the tenant is all that follows, so no two
# different claims have the same bytes.
_HEAD: Final = struct.Struct(f">QQ{_NONCE_BYTES}s")
_MAX_TEXT: Final = len(_PREFIX) + -(-(_HEAD.size + MAX_TENANT_BYTES + _MAC_BYTES) * 4 // 3)


def sign(key: bytes, tenant: TenantId, *, now_s: float, lifetime_s: float) -> str:
    """A claim that `tenant` sent this request, in force for `lifetime_s` seconds from `now_s`.

    `now_s` is wall time (seconds since 1970): the verifier is another process. No two claims
    are equal. ASCII, at most 432 characters; it hides nothing, so it is no place for secrets.
    Raises `ValueError`, naming no key, for a key that is not 32 bytes, a tenant that is empty
    or longer than 255 bytes, or a lifetime that is not above 0 and at most an hour.
    """
    name = tenant.encode()
    if len(key) != KEY_BYTES:
        raise ValueError(f"a claim key has {KEY_BYTES} bytes, not {len(key)}")
    if not 0 < len(name) <= MAX_TENANT_BYTES:
        raise ValueError(f"a tenant's name has 1 to {MAX_TENANT_BYTES} bytes, not {len(name)}")
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise ValueError(f"a claim lives for up to {MAX_LIFETIME_S} s, not {lifetime_s}")
    signed_ms, expires_ms = _ms(now_s), _ms(now_s + lifetime_s)
    body = _HEAD.pack(signed_ms, expires_ms, os.urandom(_NONCE_BYTES)) + name
    return _PREFIX + base64.urlsafe_b64encode(body + _mac(key, body)).rstrip(b"=").decode()


def verify(key: bytes, text: object, *, now_s: float) -> TenantId | None:
    """The tenant that `text` was signed for with `key`; `None` for anything else whatsoever.

    Also `None` once it expired, while it lies more than `SKEW_S` in the future, and for a
    lifetime that `sign` would not have given. Never raises. Costs about 5 µs. Whoever gets
    `None` must treat the request as nobody's, not as everybody's.
    """
    # The length first, so that a forged claim of a megabyte costs nothing.
    if len(key) != KEY_BYTES or not isinstance(text, str) or len(text) > _MAX_TEXT:
        return None
    packed = _decode(text)
    if packed is None or len(packed) <= _HEAD.size + _MAC_BYTES:
        return None
    body, mac = packed[:-_MAC_BYTES], packed[-_MAC_BYTES:]
    if not hmac.compare_digest(_mac(key, body), mac):
        return None
    signed_ms, expires_ms, _ = _HEAD.unpack_from(body)
    return _tenant(body[_HEAD.size :]) if _in_force(signed_ms, expires_ms, now_s) else None


def claim_key_file(env: Mapping[str, str]) -> Path:
    """The file that `$SAFEKV_CLAIM_KEY_FILE` names, else `claim.key` where safekv keeps keys."""
    named = env.get(KEY_VARIABLE)
    return Path(named).expanduser() if named else home(env) / "claim.key"


def load_claim_key(env: Mapping[str, str]) -> bytes:
    """The deployment's claim key, made now if its file is missing.

    Of processes that start at the same time one makes it and all get the same. Raises
    `ConfigError`, never quoting the file, if it is not private, damaged, or cannot be used.
    """
    path = claim_key_file(env)
    file = PrivateFile(path, f"name another with {KEY_VARIABLE}")
    _, raw = file.read()
    if raw is None:
        with file.locked():
            # Another process may have made it while this one waited.
            _, raw = file.read()
            if raw is None:
                raw = _encode_key(os.urandom(KEY_BYTES))
                file.write(raw)
    key = _decode_key(raw)
    if key is None:
        raise file.damaged("remove it, and restart every process of this server: a new one is made")
    return key


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + body, "sha256")


def _decode(text: str) -> bytes | None:
    """The bytes of a claim's text; `None` unless it is spelt exactly as `sign` spells it."""
    if not text.startswith(_PREFIX) or not text.isascii():
        return None
    coded = text.removeprefix(_PREFIX).encode()
    try:
        packed = base64.b64decode(coded + b"=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # Unused bits of the last character could be set: one claim would have several texts.
    return packed if base64.urlsafe_b64encode(packed).rstrip(b"=") == coded else None


def _in_force(signed_ms: int, expires_ms: int, now_s: float) -> bool:
    if not math.isfinite(now_s):
        return False
    now_ms = _ms(now_s)
    lifetime_ms = expires_ms - signed_ms
    return (
        0 < lifetime_ms <= _ms(MAX_LIFETIME_S)
        and signed_ms <= now_ms + _ms(SKEW_S)
        and now_ms < expires_ms
    )


def _tenant(name: bytes) -> TenantId | None:
    try:
        return TenantId(name.decode()) if len(name) <= MAX_TENANT_BYTES else None
    except UnicodeDecodeError:
        return None


def _encode_key(key: bytes) -> bytes:
    return json.dumps({"version": _FILE_VERSION, "key": key.hex()}).encode() + b"\n"


def _decode_key(raw: bytes) -> bytes | None:
    try:
        data = json.loads(raw.decode())
        key = bytes.fromhex(data["key"])
        return key if data["version"] == _FILE_VERSION and len(key) == KEY_BYTES else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
