"""The wheel installs and runs in a clean environment, with the base dependencies alone."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import safekv

ROOT = Path(__file__).parents[2]


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What `command` prints on stdout, run in `cwd` without this process's environment."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **pip_settings(), **variables}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip_settings() -> dict[str, str]:
    """How this machine reaches its package index: pip's settings, proxies and certificates."""
    import os

    wanted = ("PIP_", "HTTP_", "HTTPS_", "NO_PROXY", "http_", "https_", "no_proxy", "SSL_")
    return {name: value for name, value in os.environ.items() if name.startswith(wanted)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of a fresh environment that holds the wheel and what it requires."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home / "venv", with_pip=True)
    binaries = home / "venv" / "bin"
    pip = (binaries / "python", "-m", "pip", "install", "--quiet")
    call(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=home)
    return binaries


def test_the_wheel_holds_the_package_its_types_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = ROOT / "src"
    files = {path.relative_to(source) for path in (source / "safekv").rglob("*") if path.is_file()}
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert "safekv/py.typed" in wanted
    assert wanted - names == set()
    info = f"safekv-{safekv.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"safekv", info}


def test_the_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    program = installed / "safekv"
    assert call(program, "--version", cwd=tmp_path).split()[-1] == safekv.__version__
    call(installed / "python", "-c", "import safekv", cwd=tmp_path)
    keys = tmp_path / "keys.json"
    added = json.loads(call(program, "tenant", "add", "x", "--keys", keys, "--json", cwd=tmp_path))
    assert added
    assert keys.is_file()


def test_a_command_whose_extra_is_missing_names_the_remedy(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(installed / "safekv"), "models", "fetch"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install 'safekv[hf]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
