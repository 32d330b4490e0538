"""What the installed package says about itself, and that the pins agree with each other."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import safekv

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonical(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def test_the_version_is_written_once_and_installed() -> None:
    assert safekv.__version__ == PROJECT["version"] == importlib.metadata.version("safekv")


def test_every_public_name_exists() -> None:
    assert [name for name in safekv.__all__ if not hasattr(safekv, name)] == []


def test_the_package_is_typed() -> None:
    assert (Path(safekv.__file__).parent / "py.typed").is_file()


def test_the_promised_extras_exist() -> None:
    assert set(PROJECT["optional-dependencies"]) >= {
        "hf",
        "vllm",
        "detect",
        "cloak",
        "bench",
        "audit",
        "dev",
    }


@pytest.mark.parametrize(
    "wanted", requirements("hf", "detect", "bench", "audit", "dev"), ids=lambda wanted: wanted.name
)
def test_constraints_pin_what_the_extras_want(wanted: Requirement) -> None:
    if wanted.name != "safekv":
        assert wanted.specifier.contains(constraints()[canonical(wanted.name)])


def test_constraints_hold_no_local_version_and_no_other_build_of_torch() -> None:
    pins = constraints()
    assert [name for name, version in pins.items() if version.local] == []
    assert not {"torchvision", "torchaudio"} & set(pins)


def test_the_makefile_installs_the_pinned_torch() -> None:
    (torch,) = [wanted for wanted in requirements("hf") if wanted.name == "torch"]
    assert f"TORCH := {torch}\n" in (ROOT / "Makefile").read_text()
