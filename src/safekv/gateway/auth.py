"""Step 1 of a request's life: a bearer token becomes a principal, or the request ends."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from safekv.errors import AccessError, ConfigError, RequestError
from safekv.gateway.tenants import Role, TenantStore
from safekv.types import TenantId

REFUSED = "missing or unknown API key"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. Comes from the key alone; no other part of a request can change it."""

    tenant: TenantId
    role: Role


def authenticate(request: Request, tenants: TenantStore) -> Principal:
    """The principal whose key the request bears.

    Raises the same `AccessError` for a key that is missing, malformed, unknown or revoked, and
    when the key file cannot be trusted. Two Authorization headers are no key: whoever stands
    in front of this server may have looked at the other one.
    """
    headers = request.headers.getlist("authorization")
    scheme, _, key = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    try:
        record = tenants.find(key.strip() if scheme.lower() == "bearer" else "")
    except ConfigError:
        record = None
    if record is None:
        raise AccessError(REFUSED)
    return Principal(record.tenant, record.role)


def require_tenant(request: Request, tenants: TenantStore) -> TenantId:
    """The tenant that calls. Raises `AccessError`, or 403 for an operator.

    An operator's key opens `/metrics`; it names no tenant whose cache it could use.
    """
    principal = authenticate(request, tenants)
    if principal.role != "tenant":
        raise RequestError(
            "an operator key cannot generate", "use a tenant key", code="wrong_role", status=403
        )
    return principal.tenant


def require_operator(request: Request, tenants: TenantStore) -> None:
    """Raise `AccessError`, or 403 for a tenant: global counters would tell it of the others."""
    if authenticate(request, tenants).role != "operator":
        raise RequestError(
            "this route needs an operator key",
            "`safekv tenant add NAME --operator`",
            code="wrong_role",
            status=403,
        )
