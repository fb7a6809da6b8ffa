"""The page that shows a trace, driven in a real browser: it draws, says what is true, obeys, and loads nothing.

These tests are skipped where no Chromium is installed; the first one needs none.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import WHY_SKIPPED, Tab, browse, find_browser
from browser_pages import sweep
from test_trace import pair

from openwafer.fabric import Trace, TraceKind, summarise_trace
from openwafer.fabric.view import write_page

LEFT = 96  # of the strip and the timeline: their labels, in pixels


def recorded() -> Trace:
    loaded = pair(late=100)
    loaded.set_trace(wavelets=True, passages=True)
    loaded.run()
    return loaded.full_trace()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all tests of this file; each opens its page anew."""
    command = find_browser()
    if command is None:
        pytest.skip(WHY_SKIPPED)
    with browse(command, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """The browser; behind a test nothing of the page's script may have failed."""
    browser.problems.clear()
    yield browser
    assert browser.problems == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages: `pair`, two PEs; `sweep`, 12 x 8 PEs; `wafer`, 256 x 256 PEs."""
    folder = tmp_path_factory.mktemp("pages")
    write_page(recorded(), folder / "pair.html", "a pair")
    write_page(sweep(12, 8), folder / "sweep.html", "a sweep")
    if find_browser() is not None:
        write_page(sweep(256, 256), folder / "wafer.html", "a wafer")
    return folder


def shown_range(tab: Tab) -> tuple[int, int]:
    """The first cycle of the timeline and the one behind its last."""
    tab.drawn()
    low, high = tab.value("document.body.dataset.range").split()
    return int(low), int(high)


def cycle(tab: Tab) -> int:
    """The cycle that is shown."""
    return int(re.sub(r"\D", "", tab.text("#cycle").removeprefix("cycle ").split(" ")[0]))


def place_of(tab: Tab, x: int, y: int, width: int, height: int) -> tuple[float, float]:
    """The middle of a PE of a fabric that is shown as a whole and whose PEs have the largest or a whole size."""
    left, top, wide, high = tab.box("#fabric canvas")
    size = int(min((wide - 46 - 12) / width, (high - 24 - 12) / height, 110))
    middle_x, middle_y = left + 46 + (wide - 58) / 2, top + 24 + (high - 36) / 2
    return middle_x + (x + 0.5 - width / 2) * size, middle_y + (y + 0.5 - height / 2) * size


def pixel(tab: Tab, x: float, y: float) -> list[int]:
    """Red, green and blue of the fabric at a place of the window."""
    left, top, *_ = tab.box("#fabric canvas")
    spot = f"getImageData({x - left:.0f}, {y - top:.0f}, 1, 1).data"
    found = tab.value(f"[...document.querySelector('#fabric canvas').getContext('2d').{spot}].slice(0, 3)")
    return [int(value) for value in found]


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    """It is mailed and opened offline: no address, no other file, all parts in it, and small for a small trace."""
    page = tmp_path / "page.html"

    write_page(recorded(), page, 'a "</script>" title')

    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|src=|@import|fetch\(|XMLHttpRequest", text)
    assert not re.search(r"/\*(DATA|STYLE|SCRIPT)\*/", text)
    assert text.count("</script>") == 1
    assert len(text) < 60_000


def test_the_page_shows_what_a_pe_does_at_a_cycle(tab: Tab, pages: Path) -> None:
    """Early on the receiver waits for color 1 while the sender computes; the legend counts the PEs."""
    tab.open(pages / "pair.html", "cycle=60&pe=1,0")

    assert f"cycle 60 of {summarise_trace(recorded()).cycles}" in tab.text("#cycle")
    assert "waits for a wavelet of color 1" in tab.text("#facts")
    assert "@mov32 waits for a wavelet of color 1 at program.csl:7:3" in tab.text("#facts")
    rows = tab.value(
        "[...document.querySelectorAll('#states > *')].map(row => row.innerText.replace('\\n', '|'))"
    )
    assert {"main|1", "waits for a wavelet of color 1|1"} <= set(rows)
    assert "color 1" in tab.text("#colors")


def test_the_page_shows_wavelets_with_their_data(tab: Tab, pages: Path) -> None:
    """At the cycle in which a word leaves the first router its data and its way are told."""
    records = recorded().records
    first = int(records[records["kind"] == TraceKind.PASSAGE]["cycle"][0])

    tab.open(pages / "pair.html", f"cycle={first}&pe=0,0&color=1&from={first - 50}&to={first + 50}")

    assert "router sends east 1.00 wavelets a cycle" in tab.text("#facts")
    assert "color 1: 0x00000000 from ramp" in tab.text("#facts")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1280, 860), (900, 560), (390, 780)])
def test_the_page_fits_its_window(tab: Tab, pages: Path, size: tuple[int, int], dark: bool) -> None:
    """Nothing is wider than the window, large or narrow; each part can be seen; the page is dark where one wants that."""
    tab.open(pages / "sweep.html", "cycle=350", width=size[0], height=size[1], dark=dark)

    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    for part in ("#fabric", "#overview", "#timeline", "#facts", "#states"):
        left, _, wide, high = tab.box(part)
        assert left >= 0
        assert left + wide <= size[0]
        assert high >= 15
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background))) / 3
    assert (brightness < 64) == dark


def test_play_runs_to_the_end_of_the_range(tab: Tab, pages: Path) -> None:
    """It begins where one is, pauses with Space, and stops at the last cycle of the timeline's range by itself."""
    tab.open(pages / "sweep.html", "cycle=900&from=400&to=1000")

    tab.value("document.querySelector('#play').click()")
    tab.wait_for("document.querySelector('#cycle').innerText.split(' ')[1] > 905")
    assert tab.text("#play") == "Pause"
    tab.value("document.activeElement.blur()")
    tab.key(" ")
    assert tab.text("#play") == "Play"
    paused = cycle(tab)
    time.sleep(0.1)
    assert cycle(tab) == paused
    tab.value(
        "(speed => { speed.value = 4; speed.dispatchEvent(new Event('change')); })(document.querySelector('#speed'))"
    )
    tab.key(" ")
    tab.wait_for("document.querySelector('#play').innerText === 'Play'", seconds=10)
    tab.drawn()
    assert cycle(tab) == 999


def test_a_drag_on_the_timeline_selects_a_range(tab: Tab, pages: Path) -> None:
    """From the cycle under the press to that under the release, either way; Escape goes back to the range before."""
    tab.open(pages / "sweep.html", "from=0&to=1000&cycle=0")
    left, top, wide, _ = tab.box("#timeline canvas")

    def at(cycle: float) -> tuple[float, float]:
        return left + LEFT + cycle / 1000 * (wide - LEFT), top + 10

    tab.drag(at(200), at(600))
    low, high = shown_range(tab)
    assert abs(low - 200) <= 2
    assert abs(high - 600) <= 2
    assert cycle(tab) == low
    tab.key("Escape")
    assert shown_range(tab) == (0, 1000)
    tab.drag(at(900), at(300))
    low, high = shown_range(tab)
    assert abs(low - 300) <= 2
    assert abs(high - 900) <= 2


def test_escape_ends_a_selection_while_the_button_is_down(tab: Tab, pages: Path) -> None:
    """While one drags the number of cycles stands at the range, and one can think better of it."""
    tab.open(pages / "sweep.html", "from=0&to=1000&cycle=0")
    left, top, *_ = tab.box("#timeline canvas")

    tab.mouse("Pressed", left + 200, top + 10, button="left", buttons=1, clickCount=1)
    tab.mouse("Moved", left + 400, top + 10, button="left", buttons=1)
    tab.key("Escape")
    tab.mouse("Moved", left + 500, top + 10, button="left", buttons=1)
    tab.mouse("Released", left + 500, top + 10, button="left", clickCount=1)

    assert shown_range(tab) == (0, 1000)


def test_a_drag_with_shift_moves_the_timeline(tab: Tab, pages: Path) -> None:
    """The cycle under the pointer stays under it, and the range keeps its length."""
    tab.open(pages / "sweep.html", "from=400&to=800&cycle=500")
    left, top, wide, _ = tab.box("#timeline canvas")

    tab.drag((left + LEFT + 300, top + 10), (left + LEFT + 200, top + 10), shift=True)

    low, high = shown_range(tab)
    assert high - low == 400
    assert abs(low - 400 - 100 / (wide - LEFT) * 400) <= 2


def test_the_strip_selects_goes_and_tells(tab: Tab, pages: Path) -> None:
    """The strip is the whole run: a drag selects a range of it, a click goes there, hovering says what PEs did."""
    tab.open(pages / "sweep.html", "from=0&to=500&cycle=0")
    total = sweep(12, 8).cycles
    left, top, wide, _ = tab.box("#overview canvas")

    def at(cycle: float) -> tuple[float, float]:
        return left + LEFT + cycle / total * (wide - LEFT), top + 30

    tab.click(*at(700))
    assert abs(cycle(tab) - 700) <= 2
    low, high = shown_range(tab)
    assert high - low == 500
    assert low <= 700 < high
    tab.drag(at(100), at(300))
    low, high = shown_range(tab)
    assert abs(low - 100) <= 3
    assert abs(high - 300) <= 3
    tab.hover(*at(200))
    assert re.search(r"\d+ % of PEs: wait for a wavelet", tab.text("#tip"))


def test_the_wheel_zooms_the_timeline_about_the_pointer(tab: Tab, pages: Path) -> None:
    """What one points at stays where it is."""
    tab.open(pages / "sweep.html", "from=0&to=1000&cycle=0")
    left, top, wide, _ = tab.box("#timeline canvas")

    tab.mouse("Wheel", left + LEFT + (wide - LEFT) / 4, top + 10, deltaX=0, deltaY=-400)

    low, high = shown_range(tab)
    assert 300 < high - low < 450
    assert abs(low + (high - low) / 4 - 250) <= 2


def test_hovering_a_pe_says_what_it_does_and_waits_for(tab: Tab, pages: Path) -> None:
    """At cycle 250 PE (2, 1) waits since cycle 30; beyond the PEs nothing is said."""
    tab.open(pages / "sweep.html", "cycle=250&from=0&to=1000&pe=0,0")

    tab.hover(*place_of(tab, 2, 1, 12, 8))
    told = tab.text("#tip")
    assert told.startswith("PE (2, 1)\nwaits for a wavelet of color 3")
    assert re.search(r"main: @\w+ waits for a wavelet of color 3 at pe.csl:30:5", told)
    assert tab.text("#chosen") == "PE (0, 0), pe.csl"
    left, top, *_ = tab.box("#fabric canvas")
    tab.hover(left + 4, top + 4)
    assert tab.value("getComputedStyle(document.querySelector('#tip')).display") == "none"


def test_a_pe_is_chosen_by_mouse_and_by_keys(tab: Tab, pages: Path) -> None:
    """A click chooses; the arrow keys go to the neighbours, and not beyond the fabric."""
    tab.open(pages / "sweep.html", "cycle=350")

    tab.click(*place_of(tab, 10, 3, 12, 8))
    assert tab.text("#chosen").startswith("PE (10, 3)")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        tab.key(key)
    assert tab.text("#chosen").startswith("PE (11, 4)")


def test_keys_step_and_jump_in_time(tab: Tab, pages: Path) -> None:
    """Also when a button has the focus, as the play button has behind a click."""
    tab.open(pages / "sweep.html", "cycle=300&from=200&to=600")

    tab.value("document.querySelector('#play').focus()")
    tab.key(".")
    assert cycle(tab) == 301
    tab.key(",")
    tab.key(",")
    assert cycle(tab) == 299
    tab.key("Home")
    assert cycle(tab) == 200
    tab.key("End")
    assert cycle(tab) == 599


def test_the_keys_are_told(tab: Tab, pages: Path) -> None:
    """The question mark opens a list of them; Escape closes it, and does nothing else."""
    tab.open(pages / "sweep.html", "from=100&to=600&cycle=200")
    tab.value("document.querySelector('#all').click()")

    tab.key("?")
    assert "select a range" in tab.text("#keys")
    tab.key("Escape")

    assert not tab.value("document.querySelector('#keys').open")
    assert shown_range(tab) == (0, sweep(12, 8).cycles)


def test_the_legend_picks_out_a_state(tab: Tab, pages: Path) -> None:
    """At cycle 350 some PEs wait and some compute: with the wait chosen the others look idle; again, and all are back."""
    tab.open(pages / "sweep.html", "cycle=350&from=0&to=1000&pe=5,5")
    computing, waiting = place_of(tab, 0, 0, 12, 8), place_of(tab, 11, 7, 12, 8)
    row = "[...document.querySelectorAll('#states button')].find(row => row.innerText.startsWith('waits'))"
    before = pixel(tab, *computing), pixel(tab, *waiting)

    tab.value(f"{row}.click()")
    tab.drawn()

    idle = tab.value("getComputedStyle(document.documentElement).getPropertyValue('--idle')").strip()
    assert pixel(tab, *computing) == [int(idle[i : i + 2], 16) for i in (1, 3, 5)]
    assert pixel(tab, *waiting) == before[1]
    assert before[0] != before[1]
    tab.value(f"{row}.click()")
    tab.drawn()
    assert pixel(tab, *computing) == before[0]


def test_the_legend_picks_out_a_color(tab: Tab, pages: Path) -> None:
    """Each color has its own swatch and count of wavelets; with one chosen the links show only that one."""
    tab.open(pages / "sweep.html", "cycle=300&from=300&to=400&pe=0,0")
    swatches = tab.value("[...document.querySelectorAll('#colors i')].map(i => i.style.background)")
    assert len(set(swatches)) == 2
    rows = tab.value(
        "[...document.querySelectorAll('#colors > *')].map(row => row.innerText.replace('\\n', '|'))"
    )
    # PEs with x + y = 10 send color 3 in cycle 300, PE (0, 0) sends color 5.
    assert rows == ["color 3|8", "color 5|1"]
    assert "router sends south 1.00 wavelets a cycle" in tab.text("#facts")

    tab.value("document.querySelector('#colors button').click()")
    tab.drawn()

    assert "router sends" not in tab.text("#facts")
    assert tab.value("document.querySelector('#color').value") == "3"


def test_a_wafer_is_zoomed_into(tab: Tab, pages: Path) -> None:
    """Of 256 x 256 PEs one is a pixel or two: the wheel goes to it, a drag moves, a double click shows all of them again."""
    tab.open(pages / "wafer.html", "cycle=600&pe=0,0")
    left, top, wide, high = tab.box("#fabric canvas")
    spot = left + 46 + (wide - 58) / 2 + 30, top + 24 + (high - 36) / 2 - 40
    tab.hover(*spot)
    pointed = tab.text("#tip").splitlines()[0]

    for _ in range(16):
        tab.mouse("Wheel", *spot, deltaX=0, deltaY=-120)
    tab.drawn()
    tab.click(*spot)
    chosen = [int(n) for n in re.findall(r"\d+", tab.text("#chosen"))[:2]]
    # A pixel may hold two PEs.
    assert all(abs(a - int(b)) <= 1 for a, b in zip(chosen, re.findall(r"\d+", pointed), strict=True))
    tab.drag(spot, (spot[0] - 220, spot[1]))
    tab.click(*spot)
    assert [int(n) for n in re.findall(r"\d+", tab.text("#chosen"))[:2]] == [chosen[0] + 2, chosen[1]]
    tab.key("0")
    tab.hover(*spot)
    assert tab.text("#tip").splitlines()[0] == pointed


def test_a_wafer_plays(tab: Tab, pages: Path) -> None:
    """65,536 PEs and all of their spans are drawn often enough to look like a motion: at least five frames a second."""
    tab.open(pages / "wafer.html", "cycle=0&from=0&to=6000")

    frames = tab.value(
        "new Promise(done => { const seen = new Set(); document.querySelector('#play').click(); const begin = performance.now();"
        "const look = time => { seen.add(document.body.dataset.drawn);"
        "if (time - begin < 1500) requestAnimationFrame(look); else done(seen.size); }; requestAnimationFrame(look); })"
    )

    assert frames >= 8


def test_the_address_keeps_what_is_shown(tab: Tab, pages: Path) -> None:
    """A page that is loaded again, or sent with its address, opens where one was; what an address cannot mean is ignored."""
    tab.open(pages / "sweep.html", "from=100&to=600&cycle=300&pe=4,2&color=5&view=waits")
    tab.key(".")
    tab.wait_for("location.hash.startsWith('#cycle=301&')")
    tab.call("Page.reload")
    tab.wait_for("document.body?.dataset.drawn === '301'")

    assert shown_range(tab) == (100, 600)
    assert tab.text("#chosen").startswith("PE (4, 2)")
    assert tab.value("document.querySelector('#color').value") == "5"
    assert tab.value("document.querySelector('#view').value") == "waits"

    tab.open(pages / "sweep.html", "from=900&to=100&cycle=x&pe=99,1&color=77&view=nothing")
    assert cycle(tab) == 0
    assert tab.text("#chosen").startswith("PE (0, 0)")
    assert tab.value("document.querySelector('#color').value") == "-1"


def test_an_old_browser_gets_a_reason(tab: Tab, pages: Path) -> None:
    """Without what unpacks the data the page says so and what to do, instead of nothing."""
    script = "delete window.DecompressionStream"
    added = tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    try:
        tab.call("Page.navigate", url="about:blank")
        tab.call("Page.navigate", url=(pages / "pair.html").as_uri())
        tab.wait_for("document.querySelector('#title')?.innerText.includes('cannot be shown')")
        assert "try another one" in tab.text("#subtitle")
    finally:
        tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added)
