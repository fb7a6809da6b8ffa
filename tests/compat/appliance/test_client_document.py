"""docs/client.md says which calls are served; it must not promise more or less than the code."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("grpc")
pytest.importorskip("cerebras.appliance")

from openwafer.compat.appliance import wheel
from openwafer.compat.appliance._compiler import Compiler
from openwafer.compat.appliance._coordinator import Coordinator
from openwafer.compat.appliance._csctl import Csctl
from openwafer.compat.appliance._management import Management
from openwafer.compat.appliance._service import served_methods

DOCUMENT = Path(__file__).parents[3] / "docs" / "client.md"


@pytest.mark.parametrize(
    ("module", "service", "served"),
    [
        ("cluster", "ClusterManagement", [Management]),
        ("csctl", "CsCtlV1", [Csctl]),
        ("appliance", "Appliance", [Compiler, Coordinator]),
    ],
)
def test_the_table_of_calls_is_that_of_the_code(module: str, service: str, served: list[type]) -> None:
    """A user who meets UNIMPLEMENTED looks there."""
    descriptor = getattr(wheel(), module).DESCRIPTOR.services_by_name[service]
    there = {name for part in served for name in served_methods(descriptor, part)[0]}
    row = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {service} |"))
    _, _, says_served, says_not, _ = (cell.strip() for cell in row.split("|"))

    assert set(says_served.split(", ")) == there
    assert set(says_not.split(", ")) == {method.name for method in descriptor.methods} - there
