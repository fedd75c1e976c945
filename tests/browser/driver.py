"""What every driver of a browser can do: one interface, behind it three protocols (cdp.py, bidi.py, webdriver.py).

Enough to open pages, evaluate JavaScript in them, wait for what it says, and take pictures.  What a browser cannot be
told to do is False in its `Browser` (`offline`, `freezes`, ...), with the reason there: a test asks, and goes
another way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

Address = TypeVar("Address")
DEADLINE = 20.0  # seconds; a browser on a busy machine, so generous: it is only ever reached by a failure

#: How complaints begin that come from a lost connection; Chromium's two, and Firefox's.
OF_NETWORK = (
    "Failed to load resource",
    "WebSocket connection to",
    "The connection to ws",
    "Firefox can\u2019t establish",
)


class BrowserError(Exception):
    """The browser, or the script of a page, refused something."""


class NavigatingError(BrowserError):
    """The page went away while it was asked; the next one can be asked again."""


class Page(ABC):
    """One page."""

    def __init__(self) -> None:
        #: What the page's scripts complained about: an uncaught exception, an error in its console.
        self.complaints: list[str] = []

    @abstractmethod
    def evaluate(self, expression: str, *, gesture: bool = False) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.  Raises BrowserError if it throws.

        With `gesture` as if a person had just clicked.
        """

    @abstractmethod
    def _navigate(self, url: str) -> None: ...

    @abstractmethod
    def _reload(self) -> None: ...

    @abstractmethod
    def back(self) -> None:
        """To the page before, which may be shown as it was left.  Does not wait."""

    @abstractmethod
    def front(self) -> None:
        """Bring its tab up: a tab that is not seen has slow timers."""

    @abstractmethod
    def click(self, selector: str) -> None:
        """Click in the middle of an element with a real mouse event."""

    @abstractmethod
    def keys(self, text: str) -> None:
        """Type where the cursor is.  "\\r" and "\\t" are those keys."""

    @abstractmethod
    def look(self, *, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        """Set the window's size, and whether the person prefers dark."""

    @abstractmethod
    def picture(self) -> bytes:
        """A PNG of what is seen."""

    @abstractmethod
    def close(self) -> None:
        """Close the page and drop its storage."""

    def offline(self, on: bool) -> None:
        """Take the network away from this page, or give it back.  Open WebSockets may survive."""
        raise NotImplementedError

    def frozen(self, on: bool) -> None:
        """What a browser does with a page that was not seen for long; and seeing it again."""
        raise NotImplementedError

    def go(self, url: str) -> None:
        """Navigate, and wait until the page is loaded."""
        self.evaluate("window.unloaded = false")
        self._navigate(url)
        self.wait_loaded()

    def leave(self, script: str) -> None:
        """Run statements in a task of the page, the last of which leaves it."""
        self.evaluate(f"void setTimeout(() => {{ {script} }})")

    def reload(self) -> None:
        """As by the button."""
        self.evaluate("window.unloaded = false")
        self._reload()
        self.wait_loaded()

    def wait_loaded(self) -> None:
        """Until there is a page that is not the one before, with all it consists of."""
        self.wait_for(
            "window.unloaded === undefined && location.href !== 'about:blank' && document.readyState === 'complete'"
        )

    def wait_for(self, expression: str, *, deadline: float = DEADLINE) -> Any:
        """Look again and again until `expression` is truthy, and return it.  Raises BrowserError at the deadline."""
        looks = f"(async () => ({expression}) || new Promise(look => setTimeout(look, 20, null)))()"
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            try:
                if value := self.evaluate(looks):
                    return value
            except NavigatingError:
                time.sleep(0.02)
        raise BrowserError(f"not so within {deadline} s: {expression}; the page says: {self.text()!r}")

    def text(self, selector: str = "body") -> str:
        """What a person reads in an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field and type."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.keys(text)

    def press_enter(self) -> None:
        """Press Enter where the cursor is."""
        self.keys("\r")

    def screenshot(self, path: Path) -> None:
        """Write a PNG of what is seen."""
        path.write_bytes(self.picture())

    def middle(self, selector: str) -> tuple[int, int]:
        """Where to click."""
        x, y = self.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return round(x), round(y)


class Browser(ABC):
    """One running browser."""

    name: ClassVar[str]
    #: A page can be told that there is no network (`Page.offline`).  Where not, only the network itself can be stopped.
    offline: ClassVar[bool] = True
    #: A page can be frozen alone (`Page.frozen`).  Where not, only the whole browser can be stopped (`asleep`).
    freezes: ClassVar[bool] = False
    #: A page is put away with what it has (the back-forward cache) though it has a connection open when it is left.
    puts_away: ClassVar[bool] = True
    #: A cookie that is `Secure` is kept from http on this machine.
    loopback_is_secure: ClassVar[bool] = True
    #: The size of a window, down to a phone's, and the preference for dark can be set (`Page.look`).
    looks: ClassVar[bool] = True

    def __init__(self, process: subprocess.Popen[bytes], version: str) -> None:
        self._process = process
        self.version = version

    @abstractmethod
    def page(self, url: str, *, width: int = 1000, height: int = 700, dark: bool = False) -> Page:
        """Open `url` in a page, and wait until it is loaded.  It shares no sessionStorage with any other."""

    @abstractmethod
    def opened_by(self, page: Page, expression: str) -> Page:
        """The page that `expression` opens from `page`: of the same storage, with a copy of its sessionStorage."""

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Every process of the browser is stopped, as in a computer that sleeps."""
        family = _family(self._process.pid)
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(family):
                os.kill(pid, signal.SIGCONT)


def _family(root: int) -> list[int]:
    """A process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [root]
    for pid in family:  # grows as it goes
        family += children.get(pid, [])
    return family


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program, nothing of which is left at the end.  It dies with our process group, as where `timeout` ends us."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        family = _family(process.pid) if process.poll() is None else []
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def listening(process: subprocess.Popen[bytes], address: Callable[[], Address]) -> Address:
    """What `address()` gives as soon as the program listens: from a file that it writes, or by asking it."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and process.poll() is None:
        try:
            return address()
        except (OSError, ValueError, KeyError):  # not there, or half written
            time.sleep(0.02)
    raise BrowserError(f"the browser did not start (exit code {process.poll()})")
