"""Reads rules from TOML and refuses any that is not what its own examples say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import re2

from safekv.detect.matching import SCAN_MEMORY_BYTES, Gate, Reach, Rule, context_pattern
from safekv.detect.normalise import normalise
from safekv.detect.validators import FINDERS, VALIDATORS, Validator
from safekv.errors import ConfigError

RESERVED_IDS: Final = frozenset({"clean", "look-ahead", "undecodable", "stage-failed", "no-stage"})
"""What findings say that no rule made; a rule may not take these names."""

_ID: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TABLE: Final = re.compile(r"\s*\[\[\s*rule\s*\]\]")
_REQUIRED: Final = {"id": str, "pattern": str, "examples": list}
_OPTIONAL: Final = {
    "validator": str,
    "context": list,
    "context_bytes": int,
    "scope": str,
    "counter_examples": list,
}
_KEYS: Final = {**_REQUIRED, **_OPTIONAL}


def load_rules(extra: Iterable[Path] = ()) -> tuple[Rule, ...]:
    """The shipped rules, then those of the TOML files `extra`.

    Every rule is tried on its own examples. Raises `ConfigError`, naming the file, the
    line and the rule, for anything that is wrong in a file. Costs a second or two,
    mostly imports.
    """
    rules: list[Rule] = []
    files: dict[str, str] = {}
    for file, text in (*_shipped(), *_read(extra)):
        for rule in _parse(file, text):
            if rule.id in files:
                raise ConfigError(
                    f"{file}: rule {rule.id!r} is defined already in {files[rule.id]}",
                    "give it an id of its own",
                )
            files[rule.id] = file
            rules.append(rule)
    return tuple(rules)


def build_gate(rules: Sequence[Rule]) -> Gate:
    """The gate of `rules`, in their order. Raises `ConfigError` when they need too much memory."""
    try:
        return Gate([rule.pattern for rule in rules])
    except re2.error as error:
        raise ConfigError(
            f"{len(rules)} rules need more than {SCAN_MEMORY_BYTES >> 20} MiB to compile",
            "drop rules from detect.extra_rulesets or shorten their repeats",
        ) from error


def _shipped() -> Iterator[tuple[str, str]]:
    folder = resources.files("safekv.detect") / "rulesets"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            yield entry.name, entry.read_text(encoding="utf-8")


def _read(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        try:
            yield str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"rule file {path} cannot be read ({type(error).__name__})",
                "name a readable UTF-8 TOML file in detect.extra_rulesets",
            ) from error


def _parse(file: str, text: str) -> Iterator[Rule]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML ({error})", "correct the file") from error
    entries = tables.pop("rule", [])
    if tables or not entries or not _is_tables(entries):
        found = ", ".join(sorted(tables)) or "none"
        raise ConfigError(
            f"{file}: a rule file holds [[rule]] tables only, found {found}",
            "write each rule as a [[rule]] table",
        )
    lines = _lines(text)
    for number, entry in enumerate(entries, 1):
        place = f"{file}:{lines[number - 1]}" if len(lines) == len(entries) else file
        yield _rule(place, number, entry)


def _lines(text: str) -> list[int]:
    """The lines on which tables of rules start; more than there are if a text quotes one."""
    return [number for number, line in enumerate(text.splitlines(), 1) if _TABLE.match(line)]


def _is_tables(entries: object) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _rule(file: str, number: int, entry: Mapping[str, Any]) -> Rule:
    where = f"{file}: rule {entry.get('id', number)!r}"
    _check_keys(where, entry)
    try:
        rule = Rule(
            id=entry["id"],
            pattern=entry["pattern"],
            reach=_reach(where, entry.get("scope", "span")),
            validate=_validator(where, entry.get("validator")),
            find=FINDERS.get(entry.get("validator", "")),
            context=_context(entry["context"]) if "context" in entry else None,
            context_bytes=entry.get("context_bytes", 48),
            examples=tuple(entry["examples"]),
            counter_examples=tuple(entry.get("counter_examples", ())),
        )
    except re2.error as error:
        raise ConfigError(
            f"{where} has a pattern that RE2 refuses ({_said(error)})",
            "RE2 has no look-around and no back-references; quote patterns with '''",
        ) from error
    _check_examples(where, rule)
    return rule


def _context(words: Sequence[str]) -> Any:
    # Texts are normalised before they are searched, and Thai for one changes by that.
    return context_pattern([normalise(word).text for word in words])


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _check_keys(where: str, entry: Mapping[str, Any]) -> None:
    if unknown := sorted(entry.keys() - _KEYS.keys()):
        raise ConfigError(f"{where} has unknown keys {unknown}", f"use only {sorted(_KEYS)}")
    if missing := sorted(_REQUIRED.keys() - entry.keys()):
        raise ConfigError(
            f"{where} lacks {missing}", "every rule has an id, a pattern and examples"
        )
    for key, value in entry.items():
        if type(value) is not _KEYS[key] or not _is_filled(value):
            raise ConfigError(
                f"{where} has a bad {key}", f"{key} is a {_KEYS[key].__name__} and not empty"
            )
    if not _ID.fullmatch(entry["id"]) or entry["id"] in RESERVED_IDS:
        raise ConfigError(
            f"{where} has an id that findings cannot carry",
            f"use lower-case words joined by dashes, none of {sorted(RESERVED_IDS)}",
        )


def _is_filled(value: object) -> bool:
    """A text that is not blank, a list of such texts, or a number above 0."""
    match value:
        case str():
            return bool(value.strip())
        case list():
            return bool(value) and all(isinstance(v, str) and v.strip() for v in value)
        case int():
            return value > 0
    return False


def _reach(where: str, scope: str) -> Reach:
    try:
        return Reach(scope)
    except ValueError as error:
        raise ConfigError(
            f"{where} has the scope {scope!r}", f"use one of {[reach.value for reach in Reach]}"
        ) from error


def _validator(where: str, name: str | None) -> Validator | None:
    if name is None:
        return None
    if name not in VALIDATORS:
        raise ConfigError(
            f"{where} names the unknown validator {name!r}", f"use one of {sorted(VALIDATORS)}"
        )
    return VALIDATORS[name]


def _check_examples(where: str, rule: Rule) -> None:
    if rule.matches_nothing():
        raise ConfigError(f"{where} matches the empty text", "make the pattern need a character")
    for number, example in enumerate(rule.examples, 1):
        if not fires(rule, example):
            raise ConfigError(
                f"{where} does not find its example {number}", "correct the pattern or the example"
            )
    for number, example in enumerate(rule.counter_examples, 1):
        if fires(rule, example):
            raise ConfigError(
                f"{where} fires on its counter-example {number}",
                "correct the pattern or the counter-example",
            )


def fires(rule: Rule, text: str) -> bool:
    """Whether `rule` fires anywhere in `text`, normalised as prompts are."""
    return next(rule.spans(normalise(text).text.encode()), None) is not None
