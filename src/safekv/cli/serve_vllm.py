"""`safekv serve --engine vllm`: vLLM's server with safekv's scheduler and front."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

import click

from safekv.engines.vllm.claim import load_claim_key
from safekv.engines.vllm.process import VllmServer, run
from safekv.engines.vllm.refusals import require_settings
from safekv.engines.vllm.version import require_supported
from safekv.errors import ConfigError
from safekv.gateway.declarations import DeclarationStore
from safekv.gateway.server import reserve_socket, url_of
from safekv.gateway.tenants import TenantStore, default_keys_file
from safekv.settings.model import Settings


def serve_vllm(
    model: str,
    settings: Settings,
    flags: Mapping[str, object],
    path: Path | None,
    vllm_flags: Sequence[str],
    warnings: Sequence[str],
    log_level: str,
) -> None:
    """Serve `model` until a signal. `flags` are the settings given on the command line, and `path`
    the settings file: both reach the server's processes as variables."""
    if flags.get("cache.capacity_blocks") is not None:
        raise ConfigError(
            "--capacity-blocks is the embedded engine's", "vLLM sizes its cache: -- --help"
        )
    require_settings(settings.warden, settings.tiers)
    # Cheap refusals first: importing vLLM and loading a model takes much longer.
    version = require_supported()
    TenantStore(settings.server.keys_file or default_keys_file(os.environ)).check()
    DeclarationStore.default(os.environ).list()
    load_claim_key(os.environ)
    variables = {"VLLM_LOGGING_LEVEL": log_level.upper()} | _variables(flags, path)
    server = _server(model, settings, variables, vllm_flags)
    for warning in warnings:
        click.echo(f"safekv: warning: {warning}", err=True)

    def ready() -> None:
        host = f"[{server.host}]" if ":" in server.host else server.host
        mode = settings.warden.mode.value
        click.echo(
            f"safekv: serving {server.name} at http://{host}:{server.port} "
            f"(mode {mode}, vLLM {version})",
            err=True,
        )

    run(server, os.environ, ready)


def _server(
    model: str, settings: Settings, variables: Mapping[str, str], vllm_flags: Sequence[str]
) -> VllmServer:
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model

    host, port = settings.server.host, settings.server.port
    # vLLM binds the address itself, later: this finds out whether it can, and a free port for 0.
    with reserve_socket(host, port) as sock:
        port = int(url_of(sock).rpartition(":")[2])
    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    return VllmServer(
        model=str(source),
        name=model_id(model),
        host=host,
        port=port,
        drain_s=settings.server.drain_s,
        flags=tuple(vllm_flags),
        settings=variables,
    )


def _variables(flags: Mapping[str, object], path: Path | None) -> dict[str, str]:
    given = {
        f"SAFEKV_{key.replace('.', '__').upper()}": _text(value)
        for key, value in flags.items()
        if value is not None
    }
    return given | ({"SAFEKV_CONFIG": str(path.resolve())} if path else {})


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value.resolve())
    return str(value.value if isinstance(value, Enum) else value)
