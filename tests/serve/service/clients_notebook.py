"""Run a notebook's cells in order, as a person would, and print what they show.

    python tests/serve/service/clients_notebook.py notebook.ipynb SECONDS

Runs where the program's own packages are, so it needs nothing of this project. Exit status 1 if a cell failed.
"""

from __future__ import annotations

import sys


def main() -> int:
    import nbformat  # type: ignore[import-not-found]
    from nbclient import NotebookClient  # type: ignore[import-not-found]
    from nbclient.exceptions import CellExecutionError  # type: ignore[import-not-found]

    notebook = nbformat.read(sys.argv[1], as_version=4)
    failed = ""
    try:
        NotebookClient(notebook, timeout=float(sys.argv[2]), kernel_name="python3").execute()
    except CellExecutionError as error:
        failed = f"{error.ename}: {error.evalue}"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            print(output.get("text") or output.get("data", {}).get("text/plain") or "")
    print(f"error: {failed}" if failed else "", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
