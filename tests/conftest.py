"""Markers of the whole suite that pyproject.toml does not name."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "gpu: compares with plain PyTorch on a GPU; skipped where there is none"
    )
