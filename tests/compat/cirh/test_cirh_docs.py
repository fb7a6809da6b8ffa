"""docs/cirh.md says of every operation whether it runs."""

from __future__ import annotations

import re
from pathlib import Path

from openwafer.compat.cirh import REFUSED, RULES
from openwafer.compat.cirh._fuse import SOFTMAX_GRAD

TEXT = (Path(__file__).parents[3] / "docs" / "cirh.md").read_text()


def test_the_table_lists_what_runs_and_what_is_refused():
    """Each operation stands once, under the heading that it belongs to; our own name for a fused one does not."""
    runs, refused = TEXT.split("## Operations")[1].split("### Refused")

    def named(part: str) -> list[str]:
        cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        return re.findall(r"`(\w+)`", " ".join(cells))

    assert sorted(named(runs)) == sorted(set(RULES) - {SOFTMAX_GRAD})
    assert sorted(named(refused)) == sorted(REFUSED)
