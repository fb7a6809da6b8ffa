"""The page to chat at and the page of the load, in a real browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_processes import Running, long_chat, serving  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).parents[2] / "fabric"))
import browser


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    with serving("--demo", "--memory", "2GiB", "--dtype", "fp32") as running:
        yield running


@pytest.mark.parametrize("path", ["/", "/load"])
def test_the_page_asks_nobody_else_for_anything(demo: Running, path: str) -> None:
    """It has to work on a machine without a network, and tells nobody who chats."""
    answer = httpx.get(demo.url + path)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "http" not in answer.text.replace("http-equiv", "")


@pytest.mark.skipif(browser.find_browser() is None, reason=browser.WHY_SKIPPED)
def test_a_chat_streams_into_the_page_and_says_its_speed(demo: Running, tmp_path: Path) -> None:
    """What a user does first: open the page, type, press Enter, read."""
    command = browser.find_browser()
    assert command is not None
    with browser.browse(command, tmp_path) as tab:
        tab.call("Page.navigate", url=demo.url + "/")
        tab.wait_for("document.readyState === 'complete' && part('model').textContent === 'demo'")
        tab.value("part('text').value = 'Say something.'; send(); 0")
        tab.wait_for("document.querySelector('article.assistant small') !== null", 60)

        assert "tokens a second" in tab.text("article.assistant small")
        assert tab.value("document.querySelector('article.assistant').firstChild.data.length") > 0
        tab.wait_for("part('load').textContent.includes('running')")
        tab.picture(tmp_path / "chat.png")
        assert tab.problems == []


@pytest.mark.skipif(browser.find_browser() is None, reason=browser.WHY_SKIPPED)
def test_the_load_page_shows_what_runs_and_what_became_of_it(demo: Running, tmp_path: Path) -> None:
    """Where an operator looks: a request as it runs, and its tokens in the chart when it is gone."""
    command = browser.find_browser()
    assert command is not None
    ask = {"method": "POST", "url": demo.url + "/v1/chat/completions"}
    with browser.browse(command, tmp_path) as tab, httpx.Client(timeout=60) as client:
        with client.stream(**ask, json=long_chat(8000) | {"stream": True}) as response:
            lines = response.iter_lines()  # kept: the connection ends with it
            assert next(lines)
            tab.call("Page.navigate", url=demo.url + "/load")
            tab.wait_for("document.querySelector('#requests td:nth-child(4)')?.innerText === 'answering'")
            assert int(tab.text("#running")) == 1
            assert "8,000" in tab.text("#requests td:last-child")
        tab.wait_for("part('running').innerText === '0' && !part('none').hidden")
        tab.wait_for("document.querySelectorAll('#charts svg path[d*=L]').length >= 4")

        assert tab.text("#model") == "demo"
        assert "1 answers cancelled" in tab.text("#totals")
        assert "ms" in tab.text("#first") or "s" in tab.text("#first").split()
        assert tab.problems == []
