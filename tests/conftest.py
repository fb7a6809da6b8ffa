"""Markers of the whole suite that pyproject.toml does not name."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--csl-examples", metavar="DIR", help="a folder of CSL programs for -m conformance")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "gpu: compares with plain PyTorch on a GPU; skipped where there is none"
    )
    config.addinivalue_line(
        "markers", "conformance: reads the programs of --csl-examples=DIR; skipped where it is not given"
    )
