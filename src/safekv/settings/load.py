"""Where settings come from: defaults, then a file, then the environment, then flags.

The only module that reads configuration files and variables. Unknown names are errors, because
a misspelt security setting that is silently ignored is the default in disguise.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias, cast

from safekv.engines.hf.config import CloakProfile
from safekv.errors import ConfigError
from safekv.settings.model import Settings, known_keys, sections
from safekv.types import Mode, Profile, Release

DEFAULT_FILE: Final = Path("safekv.toml")
ENV_PREFIX: Final = "SAFEKV_"

Origins: TypeAlias = Mapping[str, str]
"""Where each setting's value came from, by dotted name: `default`, a file, a variable, `flag`."""

MODES: Final = ", ".join(mode.value for mode in Mode)
PROFILES: Final = ", ".join(profile.value for profile in Profile)
CLOAKS: Final = ", ".join(profile.value for profile in CloakProfile)
RELEASES: Final = ", ".join(release.value for release in Release)


@dataclass(frozen=True, slots=True)
class Given:
    """One value that somebody set. `base` is what its relative paths start from."""

    key: str
    value: object
    origin: str
    base: Path = Path()


def load(
    path: Path | None, env: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Settings, Origins]:
    """The settings and where each came from; later sources win.

    `path` is the file to read; `None` reads `./safekv.toml` if there is one. `env` is searched
    for `SAFEKV_SECTION__NAME`. `flags` maps dotted names to values, `None` meaning not given.
    Paths in the file are relative to it, all others to the working directory.
    Raises `ConfigError` naming the setting and its source.
    """
    chosen = {key: Given(key, None, "default") for key in known_keys()}
    parsed: dict[str, object] = {}
    for given in (*_from_file(path), *_from_env(env), *_from_flags(flags)):
        chosen[given.key] = given
        parsed[given.key] = _convert(given)
    origins = {key: given.origin for key, given in chosen.items()}
    return _build(parsed, origins), origins


def _build(parsed: Mapping[str, object], origins: Origins) -> Settings:
    built: dict[str, object] = {}
    for name, section in sections().items():
        own = {
            key.partition(".")[2]: value
            for key, value in parsed.items()
            if key.startswith(f"{name}.")
        }
        try:
            built[name] = cast(Callable[..., object], section)(**own)
        except ConfigError as error:
            raise _with_origin(error, origins) from error
    return cast(Callable[..., Settings], Settings)(**built)


def _with_origin(error: ConfigError, origins: Origins) -> ConfigError:
    """The same complaint, with the source of the setting it begins with."""
    origin = origins.get(error.message.partition(" ")[0])
    return ConfigError(f"{error.message} (from {origin})" if origin else error.message, error.hint)


def _from_file(path: Path | None) -> Iterator[Given]:
    if path is None:
        if not DEFAULT_FILE.is_file():
            return
        path = DEFAULT_FILE
    for section, table in _read_toml(path).items():
        if section not in sections():
            raise _unknown("section", section, str(path), sections())
        if not isinstance(table, dict):
            raise ConfigError(f"{section} in {path} is not a section", f"write [{section}]")
        for name, value in table.items():
            key = f"{section}.{name}"
            _require_known(key, str(path))
            yield Given(key, value, str(path), path.parent)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise ConfigError(f"cannot read {path}: {reason}", "check --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "mend that line") from error


def _from_env(env: Mapping[str, str]) -> Iterator[Given]:
    for variable, value in sorted(env.items()):
        if not variable.startswith(ENV_PREFIX):
            continue
        section, separator, name = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if separator:
            key = f"{section}.{name}"
            if key not in known_keys():
                raise _unknown("variable", variable, "the environment", _variables())
            yield Given(key, value, variable)
        else:
            _require_no_slip(variable)


def _variables() -> list[str]:
    return [ENV_PREFIX + key.replace(".", "__").upper() for key in known_keys()]


def _require_no_slip(variable: str) -> None:
    """Refuse `SAFEKV_CACHE_BLOCK_TOKENS`, which lacks one underscore and would do nothing."""
    for meant in _variables():
        if variable == meant.replace("__", "_"):
            raise ConfigError(f"variable {variable} is not a setting", f"did you mean {meant}?")


def _from_flags(flags: Mapping[str, object]) -> Iterator[Given]:
    for key, value in flags.items():
        _require_known(key, "flags")
        if value is not None:
            yield Given(key, value, "flag")


def _require_known(key: str, origin: str) -> None:
    if key not in known_keys():
        raise _unknown("setting", key, origin, known_keys())


def _unknown(
    kind: str, name: str, origin: str, known: Mapping[str, object] | list[str]
) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see `safekv config show` for all of them"
    return ConfigError(f"unknown {kind} {name} in {origin}", hint)


def _convert(given: Given) -> object:
    """`given.value` as its setting's type. Text is parsed; nothing else changes its kind."""
    wanted = known_keys()[given.key]
    for kind, convert, hint in CONVERTERS:
        if wanted == kind:
            try:
                return convert(given)
            except ValueError:
                raise ConfigError(
                    f"{given.key} is {given.value!r} in {given.origin}", hint
                ) from None
    raise AssertionError(f"no way to read a setting of type {wanted}")


def _to_bool(given: Given) -> bool:
    value = given.value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ValueError


def _to_int(given: Given) -> int:
    value = given.value
    if isinstance(value, str):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _to_float(given: Given) -> float:
    value = given.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_str(given: Given) -> str:
    if isinstance(given.value, str):
        return given.value
    raise ValueError


def _to_mode(given: Given) -> Mode:
    value = given.value
    return Mode(value.value if isinstance(value, Enum) else value)


def _to_profile(given: Given) -> Profile:
    value = given.value
    return Profile(value.value if isinstance(value, Enum) else value)


def _to_cloak(given: Given) -> CloakProfile:
    value = given.value
    return CloakProfile(value.value if isinstance(value, Enum) else value)


def _to_release(given: Given) -> Release:
    value = given.value
    return Release(value.value if isinstance(value, Enum) else value)


def _to_path(given: Given) -> Path:
    return _path(given.value, given.base)


def _to_paths(given: Given) -> tuple[Path, ...]:
    """A list, or text with colons between the paths as in `PATH`."""
    value = given.value
    if isinstance(value, str):
        value = [part for part in value.split(":") if part]
    if not isinstance(value, list | tuple):
        raise ValueError
    return tuple(_path(item, given.base) for item in value)


def _to_names(given: Given) -> tuple[str, ...]:
    """A list, or text with commas between the names."""
    value = given.value
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError
    return tuple(value)


def _path(value: object, base: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError
    try:
        return base / Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("no such home directory") from error


CONVERTERS: Final[tuple[tuple[object, Callable[[Given], object], str], ...]] = (
    (bool, _to_bool, "use true or false"),
    (int, _to_int, "use a whole number"),
    (int | None, _to_int, "use a whole number"),
    (float, _to_float, "use a number"),
    (str, _to_str, "use text"),
    (str | None, _to_str, "use text"),
    (Mode, _to_mode, f"use one of {MODES}"),
    (Profile, _to_profile, f"use one of {PROFILES}"),
    (CloakProfile, _to_cloak, f"use one of {CLOAKS}"),
    (Release, _to_release, f"use one of {RELEASES}"),
    (Path | None, _to_path, "use a path"),
    (tuple[Path, ...], _to_paths, "use a list of paths"),
    (tuple[str, ...], _to_names, "use a list of names"),
)
