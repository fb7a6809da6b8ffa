"""A real browser driven over the DevTools protocol through a pipe: nothing but the standard library and a Chromium."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
WHY_SKIPPED = f"no browser to drive the page in: none of {', '.join(BROWSERS)} is on the path"


def find_browser() -> str | None:
    """The command of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Tab:
    """One page in the browser. Every call raises TimeoutError if the browser does not answer within 60 s."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._last = 0
        self._session: str | None = None
        self._width, self._height, self._dark = 0, 0, False
        self.problems: list[str] = []
        """Uncaught errors of the page's script, and what it wrote to the console as an error."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Log.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of one command of the protocol."""
        self._last += 1
        number = self._last
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _receive(self) -> Any:
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], 60)[0]:
                raise TimeoutError("the browser did not answer within 60 s")
            part = os.read(self._from, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _note(self, event: Any) -> None:
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            thrown = about["exceptionDetails"]
            self.problems.append(thrown.get("exception", {}).get("description") or thrown["text"])
        if event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.problems.append(about["entry"]["text"])

    def open(
        self, page: Path, state: str = "", *, width: int = 1280, height: int = 860, dark: bool = False
    ) -> None:
        """Show the page with `state` behind its #, and wait until it has drawn itself."""
        self.resize(width, height, dark=dark)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=f"{page.as_uri()}#{state}")
        self.wait_for("document.readyState === 'complete' && document.body?.dataset.drawn !== undefined")

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the window this size in CSS pixels, and the reader this preference of colors."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 30) -> None:
        """Return when the expression is true; the AssertionError tells what it was."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"not true within {seconds} s: {expression}"
            time.sleep(0.02)

    def drawn(self) -> None:
        """Return when what was asked for has been drawn: two frames later."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def text(self, selector: str) -> str:
        """The visible text of the first element that the selector finds."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window."""
        found = self.value(
            f"(b => [b.left, b.top, b.width, b.height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return found[0], found[1], found[2], found[3]

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One event of the mouse: Moved, Pressed, Released or Wheel."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def hover(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.mouse("Moved", x, y)
        self.drawn()

    def click(self, x: float, y: float, count: int = 1) -> None:
        """Press and release the left button there; twice for a double click."""
        self.mouse("Moved", x, y)
        for number in range(1, count + 1):
            self.mouse("Pressed", x, y, button="left", buttons=1, clickCount=number)
            self.mouse("Released", x, y, button="left", clickCount=number)
        self.drawn()

    def drag(self, begin: tuple[float, float], end: tuple[float, float], *, shift: bool = False) -> None:
        """Press at `begin`, move in steps as a hand does, and release at `end`."""
        more = {"modifiers": 8 if shift else 0}
        self.mouse("Moved", *begin, **more)
        self.mouse("Pressed", *begin, button="left", buttons=1, clickCount=1, **more)
        for part in range(1, 9):
            x, y = (a + (b - a) * part / 8 for a, b in zip(begin, end, strict=True))
            self.mouse("Moved", x, y, button="left", buttons=1, **more)
        self.mouse("Released", *end, button="left", clickCount=1, **more)
        self.drawn()

    def key(self, name: str, *, shift: bool = False) -> None:
        """Press and release one key by its DOM name, such as ArrowLeft or Home, or one character."""
        text = {"text": name} if len(name) == 1 else {"text": "\r"} if name == "Enter" else {}
        codes = {"Enter": 13, "Tab": 9, " ": 32, "Escape": 27}
        more = {"modifiers": 8 if shift else 0, "windowsVirtualKeyCode": codes.get(name, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, **text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, **more)
        self.drawn()

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browse(command: str, profile: Path) -> Iterator[Tab]:
    """Start the browser, give a tab of it, and end the browser."""
    into, to_browser = os.pipe()
    from_browser, out = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    # The browser reads the protocol from file 3 and writes to file 4: numbers above them cannot be in each other's way.
    read, write = fcntl.fcntl(into, fcntl.F_DUPFD, 10), fcntl.fcntl(out, fcntl.F_DUPFD, 10)
    started = subprocess.Popen(
        ["bash", "-c", f'exec "$0" "$@" 3<&{read} 4>&{write}', command, *flags, f"--user-data-dir={profile}"],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for file in (into, out, read, write):
        os.close(file)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        # Without its pipe the browser ends by itself.
        os.close(to_browser)
        os.close(from_browser)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
