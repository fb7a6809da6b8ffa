"""What an unmodified program of the vendor's client measures on the device, beside the client's own CPU backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from client_appliance import Appliance, needs_client

pytestmark = needs_client


def test_metrics_and_logits_equal_those_of_the_clients_own_backend(tmp_path: Path) -> None:
    """Two systems, training and then evaluation: counts cover every sample once, and each sequence's logits lie in its place.

    bfloat16 beside float32: 1 % of a number.
    """
    appliance = Appliance(tmp_path / "state")
    try:
        appliance.losses("measures", tmp_path / "csx", "--systems", "2", "--half", "bfloat16")
        appliance.losses("measures", tmp_path / "cpu", "--half", "bfloat16", backend="CPU")
    finally:
        appliance.close()
    here, there = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("csx", "cpu"))

    assert len(here) == 8
    for ours, theirs in zip(here, there, strict=True):
        assert ours == pytest.approx(theirs, rel=0.01, abs=2e-3)
