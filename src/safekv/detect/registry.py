"""The stages that can be named in settings: the built-in ones and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from safekv.detect.base import Detector
from safekv.detect.cascade import Cascade, OnFailure
from safekv.detect.config import DetectConfig
from safekv.errors import ConfigError, SafeKVError

GROUP: Final = "safekv.detectors"
"""Entry points of this group are callables that make a `Detector` from a `DetectConfig`."""

Factory = Callable[[DetectConfig], Detector]


def build_cascade(config: DetectConfig, on_failure: OnFailure) -> Cascade:
    """All stages that `config` names, in its order, as one detector.

    Imports only the stages named. Raises `ConfigError` for an unknown stage, one that two
    packages offer, or one that cannot be made; nothing then judges.
    """
    return Cascade([build_stage(name, config) for name in config.stages], on_failure)


def build_stage(name: str, config: DetectConfig) -> Detector:
    """The stage `name`. Raises `ConfigError` as `build_cascade` does."""
    factory = _BUILT_IN.get(name) or _installed(name)
    try:
        stage = factory(config)
    except SafeKVError:
        raise
    except Exception as error:  # another package's code
        raise ConfigError(
            f"stage {name!r} cannot be made ({type(error).__name__})",
            "mend or remove the package that offers it, or drop it from detect.stages",
        ) from error
    if not callable(getattr(stage, "judge", None)) or not getattr(stage, "name", ""):
        raise ConfigError(
            f"stage {name!r} is no detector", "its factory returns an object with name and judge"
        )
    return stage


def known_stages() -> tuple[str, ...]:
    """The names that `detect.stages` may hold here, sorted."""
    return tuple(sorted({*_BUILT_IN, *entry_points(group=GROUP).names}))


def _installed(name: str) -> Factory:
    # Metadata of one package may be found twice, on two paths; that is no conflict.
    found = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not found:
        raise ConfigError(
            f"detect.stages names the unknown stage {name!r}", f"known here: {known_stages()}"
        )
    if len(found) > 1:
        raise ConfigError(
            f"stage {name!r} is offered by {sorted(found)}", "uninstall all but one of them"
        )
    return _loaded(name, next(iter(found.values())))


def _loaded(name: str, point: EntryPoint) -> Factory:
    try:
        factory: Factory = point.load()
    except Exception as error:  # another package's code
        raise ConfigError(
            f"stage {name!r} cannot be imported ({type(error).__name__})",
            f"mend or remove the package that offers {point.value}",
        ) from error
    return factory


def _rules(config: DetectConfig) -> Detector:
    from safekv.detect.rules import RuleDetector

    return RuleDetector.from_config(config)


def _classifier(config: DetectConfig) -> Detector:
    from safekv.detect.classifier import TokenClassifier

    return TokenClassifier.from_config(config)


def _judge(config: DetectConfig) -> Detector:
    from safekv.detect.judge import Judge

    return Judge.from_config(config)


_BUILT_IN: Final[Mapping[str, Factory]] = {
    "rules": _rules,
    "classifier": _classifier,
    "judge": _judge,
}
