"""The page: one document made of the parts in `page/`, which loads nothing else and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

_SCRIPTS = ("parts", "words", "asking", "charts", "timeline", "board", "job", "start")
"""Each uses what those before it define."""


class Page(NamedTuple):
    """The document, and the content security policy that goes with it."""

    text: str
    policy: str


@cache
def page() -> Page:
    """The dashboard's page. Its policy lets the browser run this very script and ask this very server, and nothing else;
    and no text may ever become markup (trusted types), whatever jobs are named.
    """
    folder = resources.files("openwafer.appliance.dashboard").joinpath("page")

    def part(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8").rstrip("\n")

    style = part("page.css")
    script = '"use strict";\n' + "\n\n".join(part(f"{name}.js") for name in _SCRIPTS)
    text = part("page.html").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Page(text, policy)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
