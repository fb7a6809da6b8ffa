"""What `wafer serve` refuses to start with: a message that says what, why and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openwafer.base import WaferError
from openwafer.cli._app import app
from openwafer.serve.model import make_demo


def refusal(*words: Any) -> str:
    """What the command ends with."""
    result = CliRunner().invoke(app, ["serve", *map(str, words), "--port", "0"])
    assert isinstance(result.exception, WaferError), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model."""
    return make_demo(tmp_path_factory.mktemp("models") / "tiny", layers=2, hidden=64)


def test_a_model_has_to_be_named_once(folder: Path, tmp_path: Path) -> None:
    """Neither none nor two; and a folder that is not there is named."""
    assert "--demo" in refusal()
    assert "not both" in refusal(folder, "--demo")
    assert f"no folder {tmp_path / 'gone'}" in refusal(tmp_path / "gone")
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "--key-file"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--memory", "a lot"], "512MiB"),
        (["--execution", "magic"], "weight_streaming"),
        (["--dtype", "fp7"], "int8"),
        (["--device", "tpu"], "cpu"),
        (["--waiting", "0"], "at least 1"),
        (["--cache-tokens", "0"], "at least 1"),
        (["--drain-seconds", "-1"], "0 or more"),
        (["--requests-per-day", "0"], "at least 1"),
    ],
)
def test_a_wrong_option_is_told_with_what_would_be_right(folder: Path, words: list[str], told: str) -> None:
    """Before anything is loaded."""
    assert told in refusal(folder, *words)


def test_a_key_file_has_to_be_private_and_hold_keys(folder: Path, tmp_path: Path) -> None:
    """Keys that every user can read are no keys."""
    keys = tmp_path / "keys"
    assert "cannot be read" in refusal(folder, "--key-file", keys)
    keys.write_text("# none yet\n")
    keys.chmod(0o644)
    assert "chmod 600" in refusal(folder, "--key-file", keys)
    keys.chmod(0o600)
    assert "no key" in refusal(folder, "--key-file", keys)


def test_a_model_that_does_not_fit_is_told_with_what_would(folder: Path) -> None:
    """The memory plan's own words: bytes by purpose, and what to change."""
    told = refusal(folder, "--memory", "100MiB", "--execution", "resident")

    assert "does not fit" in told
    assert "what would fit" in told


def test_a_model_that_is_not_built_is_told(folder: Path, tmp_path: Path) -> None:
    """By its name, before its weights are looked at."""
    other = make_demo(tmp_path / "other", layers=2, hidden=64)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps(config | {"architectures": ["MambaForCausalLM"], "model_type": "mamba"})
    )

    assert "mamba" in refusal(other).lower()


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json does not exist"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "is not a tokenizer"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (_cut, "bytes found"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345"), "bytes found"),
    ],
)
def test_a_damaged_folder_is_told_by_its_file(
    damage: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    """What half a download leaves behind."""
    broken = make_demo(tmp_path / "broken", layers=1, hidden=32)
    damage(broken)

    assert told in refusal(broken)
