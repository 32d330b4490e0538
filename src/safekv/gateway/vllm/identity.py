"""Who sent a request to vLLM: the bearer of a key, or a client of a trusted gateway."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from safekv.errors import AccessError, ConfigError, RequestError
from safekv.gateway.auth import REFUSED, authenticate
from safekv.gateway.tenants import TenantStore
from safekv.gateway.vllm.body import Body
from safekv.gateway.vllm.config import FrontConfig
from safekv.gateway.vllm.routes import Access
from safekv.privatefile import PrivateFile
from safekv.types import TenantId

GATEWAY_HEADER: Final = "x-safekv-gateway"
MIN_SECRET_BYTES: Final = 32
MAX_NAME_BYTES: Final = 200
PREFIX: Final = "gateway/"
"""Begins the names that a gateway gives. No tenant with a key of its own has such a name."""


class TrustedGateway:
    """Tells requests of the declared gateway from all others, and reads the tenant from them."""

    def __init__(self, config: FrontConfig) -> None:
        """Raises `ConfigError` if the secret's file is missing, loose or too short."""
        kind, _, name = config.trusted_source.partition(":")
        self.header = name.lower() if kind == "header" else None
        self.field = name if kind == "field" else None
        self._networks = config.networks()
        self._secret = None
        if config.trusted_secret_file is not None:
            file = PrivateFile(config.trusted_secret_file, "set front.trusted_secret_file")
            self._secret = _read_secret(file)

    def sent(self, request: Request) -> bool:
        """Whether `request` comes from an address of the gateway and bears its secret.

        Each counts if it is configured, and one of them is. No address, as behind a Unix socket,
        is no address of the gateway.
        """
        if self.header is None and self.field is None:
            return False
        return self._knows_address(request) and self._knows_secret(request)

    def _knows_address(self, request: Request) -> bool:
        if not self._networks:
            return self._secret is not None
        try:
            address = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    def _knows_secret(self, request: Request) -> bool:
        if self._secret is None:
            return bool(self._networks)
        given = request.headers.getlist(GATEWAY_HEADER)
        sent = given[0].encode("latin-1") if len(given) == 1 else b""
        return hmac.compare_digest(sent, self._secret)

    def tenant(self, request: Request, body: Body | None) -> TenantId:
        """The tenant that the gateway names. Raises `AccessError` where it names none, or two."""
        if self.header is not None:
            named: object = request.headers.getlist(self.header)
        else:
            named = [(body or {}).get(self.field or "")]
        match named:
            case [str(name)] if _is_name(name):
                return TenantId(PREFIX + name)
        raise AccessError(REFUSED)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a tenant with a key, an operator, or the gateway, which names its tenant later."""

    tenant: TenantId | None
    access: Access
    by_gateway: bool = False


def identify(request: Request, tenants: TenantStore, gateway: TrustedGateway) -> Caller:
    """The caller. Raises `AccessError` for whoever is neither the gateway nor has a key."""
    if gateway.sent(request):
        return Caller(None, Access.TENANT, by_gateway=True)
    principal = authenticate(request, tenants)
    if principal.role == "operator":
        return Caller(None, Access.OPERATOR)
    return Caller(principal.tenant, Access.TENANT)


def require(caller: Caller, wanted: Access) -> None:
    """Raise `RequestError` (403) unless `caller` may use routes for `wanted`."""
    if wanted in (Access.KEY, caller.access):
        return
    if wanted is Access.OPERATOR:
        message, hint = "this route needs an operator key", "`safekv tenant add NAME --operator`"
    else:
        message, hint = "an operator key cannot generate", "use a tenant key"
    raise RequestError(message, hint, code="wrong_role", status=403)


def _is_name(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def _read_secret(file: PrivateFile) -> bytes:
    _, raw = file.read()
    if raw is None:
        raise ConfigError(
            f"there is no secret in {file.path}",
            f"write {MIN_SECRET_BYTES} or more random characters into it, with mode 0600",
        )
    secret = raw.strip()
    if len(secret) < MIN_SECRET_BYTES or not secret.isascii():
        raise ConfigError(
            f"the secret in {file.path} is shorter than {MIN_SECRET_BYTES} ASCII characters",
            "make one with: openssl rand -hex 32",
        )
    return secret
