"""Use a Streamlit program as a person would, without a browser: keys, a question, the button.

    python tests/serve/service/clients_streamlit.py app.py QUESTION SECONDS

Runs where the program's own packages are, so it needs nothing of this project. Exit status 1 if the program showed an
error or failed.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def use(path: str, question: str, seconds: float) -> list[str]:
    """What went wrong in the program, in its own words."""
    from streamlit.testing.v1 import AppTest  # type: ignore[import-not-found]

    app: Any = AppTest.from_file(path, default_timeout=seconds).run()
    for field in app.text_input:
        if "API Key" in field.label:
            field.input("key")
    app.run()
    if app.chat_input:
        app.chat_input[0].set_value(question).run()
    else:
        for field in app.text_input:
            if not field.value:
                field.input(question)
        app.run()
        if app.main.button:
            app.main.button[-1].click().run()
    for kind in ("markdown", "text", "code", "json"):
        print(*(str(element.value) for element in app.get(kind)), sep="\n")
    return [f"{e.message}\n{''.join(e.stack_trace)}" for e in app.exception] + [e.value for e in app.error]


def main() -> int:
    path, question, seconds = os.path.abspath(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    # `streamlit run` lets a program import what lies beside it.
    sys.path.insert(0, os.path.dirname(path))
    os.chdir(os.path.dirname(path))
    wrong = use(path, question, seconds)
    print(*(f"error: {text}" for text in wrong), sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
