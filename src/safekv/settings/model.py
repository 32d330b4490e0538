"""All settings of one server, in sections named as in `safekv.toml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import TypeAlias, get_type_hints

from safekv.cache.config import CacheConfig, TiersConfig
from safekv.detect.config import DetectConfig
from safekv.engines.hf.config import CloakSettings, HFConfig
from safekv.engines.vllm.config import VllmConfig
from safekv.gateway.config import GatewayConfig
from safekv.gateway.vllm.config import FrontConfig
from safekv.safeguard.config import SafeguardConfig
from safekv.warden.config import WardenConfig

Section: TypeAlias = (
    CacheConfig
    | TiersConfig
    | DetectConfig
    | WardenConfig
    | SafeguardConfig
    | HFConfig
    | CloakSettings
    | VllmConfig
    | GatewayConfig
    | FrontConfig
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One configuration per package. The defaults are the safe ones."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    tiers: TiersConfig = field(default_factory=TiersConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    warden: WardenConfig = field(default_factory=WardenConfig)
    safeguard: SafeguardConfig = field(default_factory=SafeguardConfig)
    engine: HFConfig = field(default_factory=HFConfig)
    cloak: CloakSettings = field(default_factory=CloakSettings)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    server: GatewayConfig = field(default_factory=GatewayConfig)
    front: FrontConfig = field(default_factory=FrontConfig)


@cache
def sections() -> Mapping[str, type[Section]]:
    """The sections by name, in order."""
    hints = get_type_hints(Settings)
    return MappingProxyType({each.name: hints[each.name] for each in fields(Settings)})


@cache
def known_keys() -> Mapping[str, object]:
    """The type of every setting by its dotted name, such as `cache.block_tokens`."""
    keys: dict[str, object] = {}
    for name, section in sections().items():
        hints = get_type_hints(section)
        keys.update({f"{name}.{each.name}": hints[each.name] for each in fields(section)})
    return MappingProxyType(keys)


def values(settings: Settings) -> Iterator[tuple[str, object]]:
    """Every setting's dotted name and value, in the order of `known_keys`."""
    for key in known_keys():
        section, name = key.split(".")
        yield key, getattr(getattr(settings, section), name)
