"""Pictures: they are drawn for nothing, for little and for very much, and what they show is right."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from openwafer.base import InputError, StorageError
from openwafer.train.report import EvalReport, StepReport, Timeline, loss_picture
from openwafer.train.report import _loss_picture as loss_module
from openwafer.train.report import _timeline_picture as timeline_module
from openwafer.train.report._metrics import encode
from openwafer.train.report._timeline import Span


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def pixels(path, colour):
    """How many pixels of exactly this colour the picture has."""
    image = np.asarray(Image.open(path).convert("RGB"))
    return int((image == np.array(rgb(colour), dtype=np.uint8)).all(-1).sum())


def texts(monkeypatch, module):
    """Collect the text of each figure that the module draws, as it is turned into a PNG."""
    found = []
    original = module.png

    def png(figure):
        from matplotlib.text import Text

        found.extend(text.get_text() for text in figure.findobj(Text))
        return original(figure)

    monkeypatch.setattr(module, "png", png)
    return found


def write_metrics(path, losses, **fields):
    path.write_bytes(
        b"".join(
            encode(StepReport(step=n, loss=loss, samples=1, seconds=1, **fields))
            for n, loss in enumerate(losses, 1)
        )
    )
    return path


# --- loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 19, 20])
def test_a_loss_picture_is_drawn_for_a_run_of_any_length(tmp_path, count):
    """Also before the first step, and for too few steps to smooth."""
    metrics = write_metrics(tmp_path / "m", [3 - 0.1 * n for n in range(count)])

    loss_picture(metrics, tmp_path / "loss.png")

    assert (pixels(tmp_path / "loss.png", loss_module._SMOOTH) > 0) == (count > 0)


def test_evaluations_and_lr_are_drawn_if_there_are_any(tmp_path, monkeypatch):
    """A picture without them has neither their colours nor their axis."""
    found = texts(monkeypatch, loss_module)
    metrics = write_metrics(tmp_path / "m", np.linspace(3, 1, 50))
    loss_picture(metrics, tmp_path / "plain.png", title="gpt")
    assert {"Loss of gpt", "loss", "step", "train", "train, smoothed"} <= set(found)
    assert not {"eval", "lr"} & set(found)
    assert pixels(tmp_path / "plain.png", loss_module._EVAL) == 0

    write_metrics(metrics, np.linspace(3, 1, 50), logs={"lr": 1e-3})
    with open(metrics, "ab") as file:
        file.write(encode(EvalReport(step=50, loss=2, samples=1, seconds=1)))
    loss_picture(metrics, tmp_path / "full.png")

    assert {"eval", "lr"} <= set(found)
    assert pixels(tmp_path / "full.png", loss_module._EVAL) > 0
    assert pixels(tmp_path / "full.png", loss_module._LR) > 0


def test_losses_that_are_not_finite_are_counted_in_the_picture(tmp_path, monkeypatch):
    """A gap in a line is easily overlooked."""
    found = texts(monkeypatch, loss_module)
    write_metrics(tmp_path / "m", [3.0, 2.0, math.nan, 1.5, math.inf])

    loss_picture(tmp_path / "m", tmp_path / "loss.png")

    assert "2 steps have losses that are not finite, the first is step 3" in found


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_axis(tmp_path, monkeypatch):
    """On a linear axis, everything after the first steps would be one flat line."""
    found = texts(monkeypatch, loss_module)
    write_metrics(tmp_path / "m", [10.0, 1.0, 0.1])

    loss_picture(tmp_path / "m", tmp_path / "loss.png")

    assert "loss (logarithmic)" in found


def test_smoothing_is_the_weighted_mean_of_its_definition():
    """Against the sums written out: weight keep ** |i - j|, nothing for losses that are not finite."""
    losses = np.random.default_rng(0).normal(size=300)
    losses[17] = np.nan
    keep = 1 - 1 / 3
    distance = np.abs(np.arange(300)[:, None] - np.arange(300)[None, :])
    weights = keep**distance * np.isfinite(losses)

    expected = (weights * np.nan_to_num(losses)).sum(1) / weights.sum(1)
    np.testing.assert_allclose(loss_module._smooth(losses), expected, rtol=1e-9)


def test_a_long_run_is_thinned_to_its_extremes():
    """One spike in a million steps is what the picture is looked at for."""
    losses = np.ones(200_000)
    losses[123_456], losses[77_777], losses[5] = 9.0, -9.0, np.nan

    steps, thinned = loss_module._thin(np.arange(200_000.0), losses)

    assert len(thinned) <= loss_module._POINTS_DRAWN
    assert thinned[steps == 123_456] == 9
    assert thinned[steps == 77_777] == -9
    assert (steps[0], steps[-1]) == (0, 199_999)


def test_a_loss_picture_needs_metrics_and_a_place(tmp_path):
    """Each error names the file that it is about."""
    with pytest.raises(InputError, match=r"cannot read .*no\.jsonl"):
        loss_picture(tmp_path / "no.jsonl", tmp_path / "loss.png")

    with pytest.raises(StorageError, match=r"cannot write .*no/loss\.png"):
        loss_picture(write_metrics(tmp_path / "m", [1.0]), tmp_path / "no" / "loss.png")


# --- timeline ------------------------------------------------------------------------------------------


def steps_of(count, step_s=1.0):
    """A timeline of `count` equal steps: half forward, half backward, updates into the next step."""
    timeline = Timeline()
    for n in range(count):
        start = 100 + n * step_s
        timeline.add("system0", "forward l0 [0]", start, start + step_s / 2)
        timeline.add("system0", "backward l0 [0]", start + step_s / 2, start + step_s)
        timeline.add("memoryx update", "update l0", start + step_s, start + 1.25 * step_s)
    return timeline


@pytest.mark.parametrize("count", [0, 1])
def test_a_timeline_of_hardly_anything_is_drawn(tmp_path, monkeypatch, count):
    """No spans is said in words; one span of no length is still seen."""
    found = texts(monkeypatch, timeline_module)
    timeline = Timeline()
    for _ in range(count):
        timeline.add("system0", "forward a", 5.0, 5.0)

    timeline.write_picture(tmp_path / "t.png")

    assert ("no spans were recorded" in found) == (count == 0)
    assert (pixels(tmp_path / "t.png", timeline_module.COLOURS["forward"]) > 0) == (count == 1)


def test_kinds_have_their_colours_and_share_of_the_picture(tmp_path):
    """Forward and backward take equal time, so they take equal area; no other kind is there."""
    timeline = Timeline()
    timeline.add("system0", "forward l0 [0]", 0, 1)
    timeline.add("system0", "backward l0 [0]", 1, 2)
    timeline.write_picture(tmp_path / "t.png")

    area = {kind: pixels(tmp_path / "t.png", colour) for kind, colour in timeline_module.COLOURS.items()}
    assert area["forward"] == pytest.approx(area["backward"], rel=0.05)
    assert area["forward"] > 10_000
    assert area["update"] == area["read"] == area["write"] == 0


def test_the_last_two_steps_are_shown(tmp_path, monkeypatch):
    """The first step is cold; two steps show how updates run into the next one."""
    found = texts(monkeypatch, timeline_module)
    marked = steps_of(5)
    for n in range(5):
        marked.mark_step(10 + n, 100.0 + n)

    marked.write_picture(tmp_path / "t.png")
    assert "Timeline of steps 13 to 14" in found
    assert {"step 13", "step 14"} <= set(found)
    assert "step 12" not in found

    steps_of(5).write_picture(tmp_path / "t.png")
    assert "Timeline of the last 2 steps" in found

    marked.write_picture(tmp_path / "t.png", window=(101.0, 101.9))
    assert "Timeline of step 11" in found


def test_each_lane_is_labelled_with_its_busy_share(tmp_path, monkeypatch):
    """A lane that is a quarter busy may look busier than it is when its spans are thin."""
    found = texts(monkeypatch, timeline_module)
    timeline = Timeline()
    timeline.add("system0", "forward a", 0, 3)
    timeline.add("system0", "wait weights", 3, 4)
    timeline.add("memoryx stream", "read a", 0, 0.5)
    timeline.add("memoryx stream", "read b", 0.25, 1)
    timeline.write_picture(tmp_path / "t.png")

    assert {"busy 75%", "busy 25%"} <= set(found)


def test_a_hundred_thousand_spans_are_drawn_as_columns_and_the_picture_says_so(tmp_path, monkeypatch):
    """They are narrower than a pixel; dropping some would show gaps where there was work."""
    found = texts(monkeypatch, timeline_module)
    timeline = Timeline()
    for n in range(100_000):
        kind = "forward" if n < 50_000 else "backward"
        timeline.add(f"system{n % 50}", f"{kind} l{n}", n, n + 50)
    timeline.write_picture(tmp_path / "t.png")

    note = next(text for text in found if "columns" in text)
    assert note == (
        "80,000 spans in 1,200 columns, each showing what took most of its time; 40 of 50 lanes are drawn"
    )
    forward, backward = (
        pixels(tmp_path / "t.png", timeline_module.COLOURS[k]) for k in ("forward", "backward")
    )
    assert forward == pytest.approx(backward, rel=0.02)


def test_a_column_shows_the_kind_that_took_most_of_its_time():
    """Against sums taken span by span and column by column."""
    rng = np.random.default_rng(3)
    spans = [
        Span("a", f"{('forward', 'wait', 'read')[rng.integers(3)]} x", start, start + 0.03 * rng.random())
        for start in np.arange(-0.5, 10.5, 0.02)
    ]
    merged = timeline_module._columns(spans, ["a"], 0.0, 10.0)

    edges = np.linspace(0, 10, timeline_module.COLUMNS + 1)
    for left, right in list(pairwise(edges))[::7]:
        times = dict.fromkeys(("forward", "wait", "read"), 0.0)
        for span in spans:
            times[span.name.split()[0]] += max(0.0, min(span.end_s, right) - max(span.start_s, left))
        times["idle"] = right - left - sum(times.values())
        middle = (left + right) / 2
        shown = next((s.name for s in merged if s.start_s <= middle < s.end_s), "idle")
        assert times[shown] == pytest.approx(max(times.values()), abs=1e-12)


def test_many_systems_do_not_push_memoryx_out_of_the_picture():
    """Systems resemble each other; the lanes of MemoryX are what they are compared with."""
    lanes = [f"system{n}" for n in range(64)] + ["memoryx stream", "memoryx update"]

    shown = timeline_module._lanes_drawn(lanes)

    assert len(shown) == timeline_module.LANES_DRAWN
    assert shown[-2:] == ["memoryx stream", "memoryx update"]


def test_pictures_leave_pyplot_alone(tmp_path):
    """A user's notebook has its own backend and figures; ours are objects that nobody else sees."""
    code = (
        "import sys; from openwafer.train.report import Timeline\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"t = Timeline(); t.add('a', 'read', 0, 1); t.write_picture({str(tmp_path / 't.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    assert Image.open(io.BytesIO((tmp_path / "t.png").read_bytes())).format == "PNG"
