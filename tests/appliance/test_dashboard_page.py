"""The dashboard in a real browser. Skipped where no Chromium is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from appliance_cases import shell, wait_for, wait_until
from dashboard_cases import HOSTILE, TwoHosts, Up, appliance, run_job

from openwafer.appliance.web import Listen, Service

sys.path.insert(0, str(Path(__file__).parents[1] / "fabric"))
import browser

pytestmark = pytest.mark.skipif(browser.find_browser() is None, reason=browser.WHY_SKIPPED)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with appliance(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    command = browser.find_browser()
    assert command is not None
    with browser.browse(command, tmp_path_factory.mktemp("profile")) as found:
        yield found


def enter(tab: browser.Tab, up: Up, place: str = "#/", user: str = "ada") -> None:
    """Open the page as a user who has given the token already, and wait for its first numbers."""
    tab.call("Page.navigate", url=up.url + "/#/nothing")
    tab.wait_for("document.readyState === 'complete' && location.hash === '#/nothing'")
    tab.value(f"sessionStorage.setItem('wafer-token', {json.dumps(up.tokens[user])})")
    tab.call("Page.navigate", url="about:blank")
    tab.call("Page.navigate", url=up.url + "/" + place)
    tab.wait_for("document.body?.dataset.drawn !== undefined")
    tab.problems.clear()


def test_the_page_asks_for_a_token_refuses_a_wrong_one_and_keeps_it_out_of_the_address(
    tab: browser.Tab, up: Up
) -> None:
    """An address ends up in histories and logs."""
    tab.resize(1280, 860)
    tab.call("Page.navigate", url=up.url + "/")
    tab.wait_for("document.readyState === 'complete' && !part('door').hidden")
    tab.value("part('token').value = 'wrong'; part('door').requestSubmit()")
    tab.wait_for("part('refused').textContent.includes('nobody')")
    assert tab.value("part('board').hidden && sessionStorage.getItem('wafer-token') === null")

    token = up.tokens["ada"]
    tab.value(f"part('token').value = {json.dumps(token)}; part('door').requestSubmit()")
    tab.wait_for("!part('board').hidden && part('door').hidden")
    assert token not in tab.value("location.href + document.body.innerText")
    assert "as ada (administrator)" in tab.text("#about")
    tab.value("part('leave').click()")
    assert tab.value("sessionStorage.length === 0 && part('board').hidden")


def test_names_labels_reasons_and_logs_are_text_whatever_they_say(tab: browser.Tab, up: Up) -> None:
    """A user's job must not run scripts in an administrator's browser."""
    script = f"printf '%s\\n\\033[31mred\\033[0m\\n' '{HOSTILE}'; printf '%s' '{HOSTILE}' >&2; exit 3"
    job = wait_for(up.node, up.node.submit(shell(script, name=HOSTILE, workflow=HOSTILE)).id)
    shown = HOSTILE.replace("\u202e", "")

    enter(tab, up, "#/?state=failed")
    tab.wait_for(f"document.querySelector('[data-job={job.id}] .name')?.innerText === {json.dumps(shown)}")
    tab.value(f"location.hash = '#/job/{job.id}'")
    tab.wait_for("opened?.log.textContent.includes('red\\n') && opened.logState.textContent === 'ended'")
    assert shown + "\nred\n" in tab.value("opened.log.textContent")
    assert shown in tab.text("#job .reason")
    assert tab.text("#job h2") == shown
    assert tab.value("document.title") == f"{shown} – openwafer"  # noqa: RUF001
    assert tab.value("document.querySelectorAll('main img, main script').length") == 0
    assert tab.problems == []


def test_a_running_jobs_page_shows_its_numbers_and_obeys(tab: browser.Tab, up: Up) -> None:
    """What a user does: look, label, change the priority, end it by two clicks."""
    job = run_job(up, name="small", script="echo begun; exec sleep 100")
    enter(tab, up, f"#/job/{job.id}", "ann")

    tab.wait_for("document.querySelectorAll('#job .chart path.drawn').length >= 3")
    tab.wait_for("document.querySelectorAll('#spans rect.k0').length === 1 && opened.pictures.size === 1")
    tab.wait_for("opened.log.textContent.includes('begun')")
    tiles = tab.text("#job dl")
    assert "40 of 100" in tiles
    assert "32" in tiles  # samples a second
    assert "system-" in tab.text("#job .line")
    assert tab.value("document.querySelector('#job img').naturalWidth") == 1

    def fill(name: str, value: str) -> None:
        field = f"document.querySelector('#job input[aria-label={name}]')"
        tab.value(f"{field}.value = {json.dumps(value)}; {field}.form.requestSubmit()")

    fill("Label", "team=nlp")
    wait_until(lambda: up.node.job(job.id).labels == {"team": "nlp"}, "the label")
    fill("Priority", "p0")
    tab.wait_for("part('told').textContent.includes('administrators')")
    fill("Priority", "p3")
    wait_until(lambda: up.node.job(job.id).priority == 399, "the priority")
    tab.wait_for("document.querySelector('#job .label button') !== null")
    tab.value("document.querySelector('#job .label button').click()")
    wait_until(lambda: not up.node.job(job.id).labels, "the label's end")
    tab.value("part('cancel').click()")
    assert up.node.job(job.id).stop is None
    tab.value("part('cancel').click()")
    assert wait_for(up.node, job.id).state == "cancelled"
    tab.wait_for("part('cancel') === null && opened.logState.textContent === 'ended'")
    assert "403" in " ".join(tab.problems)  # p0, which the browser notes


def test_hosts_are_shown_with_their_jobs_where_there_are_several(
    tab: browser.Tab, up: Up, tmp_path: Path
) -> None:
    """Their names are text, too; on one machine there is nothing to show."""
    with appliance(tmp_path, TwoHosts()) as over:
        job = run_job(over, name="small")
        enter(tab, over)
        tab.wait_for("document.querySelectorAll('#hosts .host').length === 2")
        assert "10.0.0.1" in tab.text("#hosts .host:first-child")
        shown = tab.text("#hosts .host:last-child")
        assert HOSTILE.replace("\u202e", "") in shown
        assert "small" in shown
        assert tab.value("document.querySelector('#hosts .name').getAttribute('href')") == f"#/job/{job.id}"
    enter(tab, up)
    tab.wait_for("document.querySelectorAll('#systems .system').length === 2")
    assert tab.value("part('machines').hidden")
    assert tab.problems == []


def test_the_table_keeps_its_filters_in_the_address_and_fits_a_telephone(tab: browser.Tab, up: Up) -> None:
    """So that a filtered table can be sent to somebody; and sixty jobs wait in their order."""
    first = wait_for(up.node, up.node.submit(shell("exec sleep 100", systems=2)).id, "running")
    jobs = [up.node.submit(shell("true", name=f"sweep{n}", labels={"sweep": "lr"})) for n in range(60)]
    enter(tab, up)
    tab.wait_for("document.querySelectorAll('#jobs tbody tr').length > 60")
    assert "60" in tab.text("#tiles")
    tab.value("part('text').value = 'sweep5'; part('text').dispatchEvent(new Event('input'))")
    tab.wait_for("document.querySelectorAll('#jobs tbody tr').length === 11")
    assert tab.value("location.hash") == "#/?text=sweep5"
    assert "6 in the queue" in tab.text("#jobs tbody tr:first-child")
    assert "waits for 1 system: 5 jobs before it" in tab.text("#jobs tbody tr:first-child")

    tab.resize(420, 900, dark=True)
    tab.drawn()
    assert tab.value("document.documentElement.scrollWidth") <= 420
    tab.resize(1280, 860)
    for job in (*jobs, first):
        up.node.cancel(job.id)
    assert tab.problems == []


def test_the_page_says_that_the_node_is_gone_and_goes_on_when_it_is_back(tab: browser.Tab, up: Up) -> None:
    """What was known stays on the page, greyed; nobody has to load it again."""
    with Service(up.node, up.users, Listen(), "1.2").in_background() as url:
        port = int(url.rpartition(":")[2])
        enter(tab, Up(up.node, up.users, url, up.tokens))
    tab.wait_for("part('contact').textContent.startsWith('The node does not answer since ')")
    assert tab.value("part('board').className") == "stale"
    assert "systems in use" in tab.text("#tiles")
    with Service(up.node, up.users, Listen(port=port), "1.2").in_background():
        tab.wait_for("part('contact').textContent === '' && part('board').className === ''")
