from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import safekv
from safekv.bench import record


def test_an_environment_is_json_and_names_this_version() -> None:
    facts = json.loads(json.dumps(record.environment()))
    assert facts["safekv"] == safekv.__version__
    assert facts["cores"] >= 1
    assert facts["utc"].endswith("+00:00")


def test_torch_is_not_imported_to_learn_its_version() -> None:
    program = "import sys; from safekv.bench.record import environment; environment();"
    program += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_installed_package_has_no_commit_even_inside_another_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    site = tmp_path / "lib" / "site-packages" / "safekv"
    monkeypatch.setattr(record, "PACKAGE", site)
    assert record.environment()["commit"] is None


def test_a_checkout_without_a_commit_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(record, "PACKAGE", tmp_path / "src" / "safekv")
    assert record.environment()["commit"] is None
