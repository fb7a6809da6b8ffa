"""Use a Streamlit program as a person would, without a browser: keys, a file, a question, the button.

    python tests/serve/service/clients_streamlit.py app.py QUESTION SECONDS [FIELD=TEXT ...]

A field whose label contains FIELD gets TEXT; others get a key if they want one, else the question. A program that asks for
a file gets a PDF of its own folder, or one that is made here. Runs where the program's own packages are, so it needs
nothing of this project. Exit status 1 if the program showed an error or failed.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

ROUNDS = 4
"""A program may show more fields when the first are filled."""


def use(path: str, question: str, seconds: float, fields: dict[str, str]) -> list[str]:
    """What went wrong in the program, in its own words."""
    import streamlit  # type: ignore[import-not-found]
    from streamlit.testing.v1 import AppTest  # type: ignore[import-not-found]

    # Testing knows no uploads in the versions that programs are written for.
    streamlit.file_uploader = lambda *_, **__: upload(Path(path).parent)
    app: Any = AppTest.from_file(path, default_timeout=seconds).run()
    for _ in range(ROUNDS):
        empty = [field for field in app.text_input if not field.value]
        if not empty or (app.chat_input and not any("API Key" in field.label for field in empty)):
            break
        for field in empty:
            default = "key" if "API Key" in field.label else question
            field.input(next((text for name, text in fields.items() if name in field.label), default))
        app.run()
    if app.chat_input:
        app.chat_input[0].set_value(question).run()
    elif app.main.button:
        app.main.button[-1].click().run()
    for kind in ("markdown", "text", "code", "json"):
        print(*(str(element.value) for element in app.get(kind)), sep="\n")
    return [f"{e.message}\n{''.join(e.stack_trace)}" for e in app.exception] + [e.value for e in app.error]


def upload(folder: Path) -> io.BytesIO:
    """A file as Streamlit gives it to a program."""
    found = next(iter(sorted(folder.glob("*.pdf"))), None)
    file = io.BytesIO(found.read_bytes() if found else pdf("The sum of two and three is five."))
    file.name = found.name if found else "sums.pdf"
    return file


def pdf(text: str) -> bytes:
    """One page with one line."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        data
        + f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n".encode()
        + f"startxref\n{len(data)}\n%%EOF\n".encode()
    )


def main() -> int:
    path, question, seconds = os.path.abspath(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    # `streamlit run` lets a program import what lies beside it.
    sys.path.insert(0, os.path.dirname(path))
    os.chdir(os.path.dirname(path))
    fields = dict(word.split("=", 1) for word in sys.argv[4:])
    wrong = use(path, question, seconds, fields)
    print(*(f"error: {text}" for text in wrong), sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
