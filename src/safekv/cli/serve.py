"""`safekv serve`: one model, many tenants, over HTTP."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safekv.engines.hf.config import CloakProfile
from safekv.errors import ConfigError
from safekv.gateway.declarations import DeclarationStore
from safekv.gateway.server import reserve_socket
from safekv.gateway.server import serve as run_server
from safekv.gateway.tenants import TenantStore, default_keys_file
from safekv.settings.load import load
from safekv.settings.model import Settings
from safekv.types import Mode, Profile, Release

if TYPE_CHECKING:
    from safekv.detect.base import Detector
    from safekv.engines.hf.engine import HFEngine
    from safekv.telemetry.prometheus import PrometheusSink
    from safekv.vault import Vault
    from safekv.warden import TierWarden

UNSAFE_WARNING = (
    "mode unsafe-global: every tenant can find out by timing what other tenants sent; "
    "for demonstrations and attacks only"
)

MATRIX_WARNING = (
    "cloak matrix: whoever reads KV pages and knows the start of a prompt, such as a chat "
    "template, computes the rest; it is no encryption"
)


@click.command()
@click.argument("model", default="smollm2-135m-instruct")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    help="How tenants share the prefix cache.  [default: selective]",
)
@click.option(
    "--profile",
    type=click.Choice([profile.value for profile in Profile]),
    help="What selective asks for beside a clean verdict.  [default: paper]",
)
@click.option(
    "--release",
    type=click.Choice([release.value for release in Release]),
    help="When first tokens go out: at once, or masked, on a schedule.  [default: immediate]",
)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 8000]")
@click.option("--keys", type=click.Path(path_type=Path), help="Tenant key file.")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Settings file.")
@click.option("--capacity-blocks", type=int, help="KV budget in blocks.  [default: 1024]")
@click.option("--epoch", type=float, help="Seconds between promotions.  [default: 1.0]")
@click.option(
    "--cloak",
    type=click.Choice([profile.value for profile in CloakProfile]),
    help="Obfuscate blocks in memory; not encryption, see `safekv cloak --help`.  [default: off]",
)
@click.option("--log-level", default="warning", show_default=True, help="What stderr shows.")
@click.option(
    "--engine",
    type=click.Choice(["embedded", "vllm"]),
    default="embedded",
    show_default=True,
    help="What computes. vllm: vLLM's own server, which must be installed beside safekv.",
)
@click.argument("vllm_flags", nargs=-1, type=click.UNPROCESSED)
def serve(
    model: str,
    mode: str | None,
    profile: str | None,
    release: str | None,
    host: str | None,
    port: int | None,
    keys: Path | None,
    path: Path | None,
    capacity_blocks: int | None,
    epoch: float | None,
    cloak: str | None,
    log_level: str,
    engine: str,
    vllm_flags: tuple[str, ...],
) -> None:
    """Serve MODEL (a known name, a directory or a hub id) with an OpenAI-compatible API.

    Tenants are known by their keys: see `safekv tenant add`. SIGTERM and Ctrl-C let requests
    in flight finish (server.drain_s) and cancel the rest. With --engine vllm, what follows `--`
    is passed on to vLLM: safekv serve MODEL --engine vllm -- --max-model-len 4096

    Exit status: 0 stopped by a signal, 1 failed while serving, 2 wrong usage, setting, key
    file or model, or the port is in use.
    """
    flags = {
        "warden.mode": mode,
        "warden.profile": profile,
        "warden.release": release,
        "server.host": host,
        "server.port": port,
        "server.keys_file": keys,
        "cache.capacity_blocks": capacity_blocks,
        "warden.epoch_s": epoch,
        "cloak.profile": cloak,
    }
    settings, _ = load(path, os.environ, flags)
    if engine == "vllm":
        from safekv.cli.serve_vllm import serve_vllm

        if settings.cloak.profile is not CloakProfile.OFF:
            raise ConfigError(
                f"cloak.profile is {settings.cloak.profile.value!r}, but vLLM's blocks are not "
                "obfuscated",
                "use --engine embedded, or --cloak off",
            )
        warnings = _mode_warnings(settings)
        serve_vllm(model, settings, flags, path, vllm_flags, warnings, log_level)
        return
    if vllm_flags:
        raise ConfigError(f"unexpected argument {vllm_flags[0]!r}", "it is for --engine vllm")
    _serve(model, settings, log_level)


def _serve(model: str, settings: Settings, log_level: str) -> None:
    from safekv.gateway.admin import Admin
    from safekv.gateway.app import create_app
    from safekv.telemetry.log import configure
    from safekv.telemetry.prometheus import PrometheusSink

    configure(log_level)
    server = settings.server
    # Cheap refusals first: a taken port or a key file that cannot be trusted must not wait for a
    # model to load.
    tenants = TenantStore(server.keys_file or default_keys_file(os.environ))
    tenants.check()
    declarations = DeclarationStore.default(os.environ)
    declarations.list()
    sealer = _sealer(settings)
    sock = reserve_socket(server.host, server.port)
    metrics = PrometheusSink()
    engine = _engine(model, settings, metrics, declarations, sealer)
    engine.open(tenants.served())
    _register_gauges(metrics, engine)
    warnings = _warnings(settings, tenants)
    for warning in warnings:
        click.echo(f"safekv: warning: {warning}", err=True)
    app = create_app(
        engine,
        tenants,
        server,
        metrics=metrics.render,
        warnings=warnings,
        admin=Admin(engine, declarations),
    )

    def ready(url: str) -> None:
        # The context is known when the model is loaded.
        _say_who_may_hold_what(engine, settings, tenants)
        mode = settings.warden.mode.value
        click.echo(f"safekv: serving {engine.model_id} at {url} (mode {mode})", err=True)

    run_server(app, engine, sock, drain_s=server.drain_s, on_ready=ready)


def _say_who_may_hold_what(engine: HFEngine, settings: Settings, tenants: TenantStore) -> None:
    from safekv.cli.memory import memory_lines

    some = next(iter(tenants.served()), None)
    ceiling = engine.warden.ceiling_blocks(some) if some is not None else 0
    stats = engine.warden.stats()
    for line in memory_lines(settings.cache, stats, ceiling, engine.context_tokens):
        click.echo(f"safekv: {line}", err=True)


def _engine(
    model: str,
    settings: Settings,
    metrics: PrometheusSink,
    declarations: DeclarationStore,
    sealer: Vault | None,
) -> HFEngine:
    from safekv.cli.progress import model_progress
    from safekv.engines.hf.store import model_id, resolve_model

    with model_progress(model) as report:
        source = resolve_model(model, progress=report)
    detector = _detector(_with_judge(settings, model_id(model)), metrics)
    from safekv.engines.hf.engine import HFEngine

    return HFEngine(
        model_id(model),
        source,
        engine=settings.engine,
        cache=settings.cache,
        warden=settings.warden,
        detect=settings.detect,
        detector=detector,
        events=metrics,
        safeguard=settings.safeguard,
        declared=declarations.changed,
        tiers=settings.tiers,
        sealer=sealer,
        cloak=settings.cloak,
    )


def _with_judge(settings: Settings, served: str) -> Settings:
    """`settings`, with the served model as judge where a judge is wanted and none is named."""
    detect, server = settings.detect, settings.server
    if "judge" not in detect.stages or detect.judge_url is not None:
        return settings
    judging = replace(
        detect,
        judge_url=f"http://{_own_host(server.host)}:{server.port}/v1",
        judge_model=detect.judge_model or served,
    )
    return replace(settings, detect=judging)


def _own_host(host: str) -> str:
    """How this machine reaches a server that listens on `host`."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"[{own}]" if ":" in own else own


def _sealer(settings: Settings) -> Vault | None:
    """The vault that seals blocks on disk; its keys are refused here if they are not safe."""
    if not settings.tiers.disk_blocks:
        return None
    from safekv.vault import Vault

    return Vault.from_files(os.environ)


def _detector(settings: Settings, metrics: PrometheusSink) -> Detector | None:
    """The stages, in their own process or in this one. A bad rule or model is refused here."""
    if settings.warden.mode is not Mode.SELECTIVE:
        return None
    from safekv.detect.process import DetectorProcess
    from safekv.detect.registry import build_cascade
    from safekv.events import DetectionFailed

    def failed(stage: str, reason: str) -> None:
        metrics.emit(DetectionFailed(stage, reason))

    if not settings.detect.process:
        return build_cascade(settings.detect, failed)
    process = DetectorProcess(settings.detect, failed)
    process.start()
    metrics.gauge(
        "detector_restarts",
        "Times the detector process was started again.",
        lambda: process.restarts,
    )
    return process


def _register_gauges(metrics: PrometheusSink, engine: HFEngine) -> None:
    warden = engine.warden
    metrics.gauge("cached_blocks", "Blocks in the tree now.", warden.stored_blocks)
    metrics.gauge(
        "charged_blocks", "The same, once per holder.", lambda: warden.stats().charged_blocks
    )
    metrics.gauge(
        "over_quota_blocks",
        "Blocks that tenants hold beyond their quotas.",
        lambda: warden.stats().over_quota_blocks,
    )
    metrics.gauge(
        "running_leases",
        "Requests that hold blocks in the tree now.",
        lambda: warden.stats().leases,
    )
    metrics.gauge("shared_blocks", "Blocks every tenant may reuse.", engine.shared_blocks)
    metrics.gauge("detection_backlog_prompts", "Prompts not judged yet.", engine.detection_backlog)
    if (schedule := warden.schedule) is not None:
        metrics.gauge(
            "masked_answers", "Answers on the schedule.", lambda: schedule.counts().answers
        )
        metrics.gauge(
            "masked_late",
            "Answers that were ready only after it: the tail that misses show.",
            lambda: schedule.counts().late,
        )
    if warden.tiers is not None:
        _register_tiers(metrics, warden.tiers)


TIER_GAUGES = {
    "host_blocks": "Blocks in host memory now.",
    "disk_blocks": "Blocks on disk now.",
    "lost": "Blocks with a place in a tier and no content now.",
    "offloaded": "Blocks copied from the device to host memory since the start.",
    "onloaded": "Blocks copied from host memory to the device since the start.",
    "written": "Blocks handed to the disk's queue since the start.",
    "read": "Blocks read from disk since the start.",
    "dropped": "Blocks that the disk's queue had no room for since the start.",
    "damaged": "Blocks that could not be written, read or opened since the start.",
}


def _register_tiers(metrics: PrometheusSink, tiers: TierWarden) -> None:
    for name, text in TIER_GAUGES.items():
        metrics.gauge(f"tier_{name}", text, partial(_tier_stat, tiers, name))


def _tier_stat(tiers: TierWarden, name: str) -> float:
    return float(getattr(tiers.stats(), name))


def _warnings(settings: Settings, tenants: TenantStore) -> list[str]:
    if not any(not record.revoked for record in tenants.list()):
        click.echo("safekv: no tenant has a key yet: safekv tenant add NAME", err=True)
    return _mode_warnings(settings)


def _mode_warnings(settings: Settings) -> list[str]:
    warnings = [UNSAFE_WARNING] if settings.warden.mode is Mode.UNSAFE_GLOBAL else []
    if settings.cloak.profile is CloakProfile.MATRIX:
        warnings.append(MATRIX_WARNING)
    return warnings
