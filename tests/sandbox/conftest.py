"""Every rule is tested under each tier that the machine has: what one tier allows, an attacker finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from confined import tier_or_skip

from openwafer.sandbox import TIERS


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """`namespaces`, then `landlock`."""
    return tier_or_skip(request.param)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that everybody may read, as data sets are; root gives itself up inside and is nobody."""
    tmp_path.chmod(0o755)
    return tmp_path
