"""The page that shows a trace, in a real browser: it draws, says what is true, and loads nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_trace import pair

from openwafer.fabric import Trace, TraceKind, summarise_trace
from openwafer.fabric.view import write_page

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")


def recorded() -> Trace:
    loaded = pair(late=100)
    loaded.set_trace(wavelets=True, passages=True)
    loaded.run()
    return loaded.full_trace()


def shown(page: Path, state: str, folder: Path) -> str:
    """The document after the page has drawn itself, with `state` behind the #."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser to show the page in: none of {', '.join(BROWSERS)} is installed")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [
        "--virtual-time-budget=3000",
        "--window-size=1200,800",
        "--dump-dom",
        f"{page.as_uri()}#{state}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    """It is mailed and opened offline: no address, no other file, and small for a small trace."""
    page = tmp_path / "page.html"

    write_page(recorded(), page, 'a "</script>" title')

    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|src=|@import|fetch\(|XMLHttpRequest", text)
    assert text.count("</script>") == 1
    assert len(text) < 60_000


def test_the_page_shows_what_a_pe_does_at_a_cycle(tmp_path: Path) -> None:
    """Early on the receiver waits for color 1 while the sender computes; the legend counts the PEs."""
    page = tmp_path / "page.html"
    trace = recorded()
    write_page(trace, page, "a pair")

    document = shown(page, "cycle=60&pe=1,0", tmp_path)

    assert 'data-drawn="60"' in document
    assert f"cycle 60 of {summarise_trace(trace).cycles}" in document
    facts = re.sub(r"<[^>]+>", " ", document.split('id="facts"')[1].split("</section>")[0])
    assert "waits for a wavelet of color 1" in facts
    assert "@mov32 at program.csl:7:3" in facts
    legend = re.findall(r"<span title=\"([^\"]+)\">[^<]*</span><b>(\d*)</b>", document)
    assert ("main (program.csl)", "1") in legend
    assert ("waits for a wavelet of color 1", "1") in legend
    assert "wavelets of color 1" in document


def test_the_page_shows_wavelets_with_their_data(tmp_path: Path) -> None:
    """At the cycle in which a word leaves the first router its data and its way are told."""
    page = tmp_path / "page.html"
    trace = recorded()
    write_page(trace, page)
    cycle = int(trace.records[trace.records["kind"] == TraceKind.PASSAGE]["cycle"][0])

    document = shown(page, f"cycle={cycle}&pe=0,0&color=1", tmp_path)

    assert "router sends east 1.00 wavelets a cycle" in document
    assert "color 1: 0x00000000 from ramp" in document
