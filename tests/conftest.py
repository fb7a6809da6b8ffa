"""Markers of the whole suite that pyproject.toml does not name, and how its processes wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when torch is loaded. Several processes of tests share the cores, and a thread of OpenMP that spins takes the time
# of the one that it waits for: beside a busy machine tests/serve/executors took three times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True, scope="session")
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans that runs keep are the tests' own; matplotlib's list of fonts, which takes seconds to make, is the account's."""
    account = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    with pytest.MonkeyPatch.context() as patch:
        if "MPLCONFIGDIR" not in os.environ:
            patch.setenv("MPLCONFIGDIR", str(Path(account, "matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--csl-examples", metavar="DIR", help="a folder of CSL programs for -m conformance")
    parser.addoption(
        "--inference-examples",
        metavar="DIR",
        help="a folder of inference clients' programs for -m conformance",
    )
    parser.addoption(
        "--inference-python",
        metavar="PYTHON",
        default=sys.executable,
        help="where those programs' packages are",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "gpu: compares with plain PyTorch on a GPU; skipped where there is none"
    )
    config.addinivalue_line(
        "markers",
        "conformance: reads the programs of --csl-examples=DIR or --inference-examples=DIR; skipped where it is not given",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The matrix of the public programs as one table, where it was run."""
    results = [
        (report.nodeid.partition("[")[2].rstrip("]"), report.outcome, report.duration)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call" and "a_cell_of_the_public_matrix" in report.nodeid
    ]
    if results:
        terminalreporter.section("public programs")
        for name, outcome, seconds in sorted(results):
            terminalreporter.line(f"{name:<60} {outcome:<7} {seconds:6.1f} s")
        passed = sum(outcome == "passed" for _, outcome, _ in results)
        terminalreporter.line(f"{passed} of {len(results)} cells passed")
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "client program" and report.when == "call"
    ]
    if rows:
        terminalreporter.section("programs of inference clients")
        for row in sorted(rows):
            terminalreporter.line(row)
