"""The demo in a real browser: people on both transports, and what they see of each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from channelkit import Server, run_server
from channelkit.demo import Chat

sys.path.insert(0, str(Path(__file__).parent))

import cdp

EXECUTABLE = cdp.find_browser()
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no `chromium` on the PATH (apt-get install chromium)")

Backend = Literal["asyncio", "trio"]
Open = Callable[[str], cdp.Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[cdp.Browser]:
    assert EXECUTABLE is not None
    with cdp.browser(EXECUTABLE) as made:
        yield made


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@pytest.fixture
def server(backend: Backend) -> Iterator[Server]:
    server = run_server(Chat().handle, port=0, backend=backend)
    yield server
    server.stop(timeout=1)


@pytest.fixture
def open_page(browser: cdp.Browser, server: Server) -> Iterator[Open]:
    """Opens pages of the demo; at the end none of them may have complained."""
    pages: list[cdp.Page] = []

    def opened(name: str) -> cdp.Page:
        page = browser.page(f"http://127.0.0.1:{server.port}/")
        pages.append(page)
        if name:
            join(page, name)
        return page

    yield opened
    complaints = [one for page in pages for one in page.complaints]
    for page in pages:
        page.close()
    assert complaints == []


def join(page: cdp.Page, name: str) -> None:
    page.type("#name", name)
    page.press_enter()
    wait_for_state(page, "connected")


def say(page: cdp.Page, text: str) -> None:
    page.type("#text", text)
    page.press_enter()


def switch(page: cdp.Page, transport: str) -> None:
    page.click(f"input[value={transport}]")


def wait_for_state(page: cdp.Page, state: str) -> None:
    page.wait_for(f"document.querySelector('#state').dataset.state === {json.dumps(state)}")


def wait_for_messages(page: cdp.Page, *texts: str) -> None:
    """These messages, in this order, once each."""
    shown = "[...document.querySelectorAll('.message p')].map(line => line.textContent)"
    page.wait_for(f"JSON.stringify({shown}) === JSON.stringify({json.dumps(texts)})")


def wait_for_people(page: cdp.Page, **badges: str) -> None:
    """These people with these badges, in the order in which they came."""
    shown = "[...document.querySelectorAll('#people li')].map(line => line.innerText.replace(/\\s+/g, ' '))"
    lines = [f"{name.replace('_', ' ')} {badge}" for name, badge in badges.items()]
    page.wait_for(f"JSON.stringify({shown}.map(l => l.replace(' (you)', ''))) === JSON.stringify({json.dumps(lines)})")


def test_two_transports_talk(open_page: Open) -> None:
    """A person on a WebSocket and one on a stream see each other's messages and badges."""
    ada, bob = open_page("Ada"), open_page("")
    switch(bob, "http_stream")
    join(bob, "Bob")
    for page in (ada, bob):
        wait_for_people(page, Ada="WebSocket", Bob="Stream")
    say(ada, "from the socket")
    wait_for_messages(bob, "from the socket")
    say(bob, "from the stream")
    for page in (ada, bob):
        wait_for_messages(page, "from the socket", "from the stream")


def test_switching_keeps_person_and_messages(open_page: Open) -> None:
    """One click moves a person to the other transport and back: same page, same person, each message once."""
    ada, bob = open_page("Ada"), open_page("Bob")
    ada.evaluate("window.untouched = true")
    say(bob, "one")
    wait_for_messages(ada, "one")
    switch(ada, "http_stream")
    for page in (ada, bob):
        wait_for_people(page, Ada="Stream", Bob="WebSocket")
    say(ada, "two")
    wait_for_messages(bob, "one", "two")
    switch(ada, "websocket")
    for page in (ada, bob):
        wait_for_people(page, Ada="WebSocket", Bob="WebSocket")
    say(ada, "three")
    for page in (ada, bob):
        wait_for_messages(page, "one", "two", "three")
    assert ada.evaluate("window.untouched") is True


def test_talk_during_switches_is_not_lost(open_page: Open) -> None:
    """Messages said while a listener switches back and forth all arrive, in order and once."""
    ada, bob = open_page("Ada"), open_page("Bob")
    texts = [f"number {n}" for n in range(10)]
    for n, text in enumerate(texts):
        switch(ada, "websocket" if n % 2 else "http_stream")
        say(bob, text)
    for page in (ada, bob):
        wait_for_messages(page, *texts)


def test_leaving_takes_the_badge_away(open_page: Open) -> None:
    """A person whose page is gone leaves the list, whatever the transport was."""
    ada, bob, cyd = open_page("Ada"), open_page("Bob"), open_page("Cyd")
    switch(cyd, "http_stream")
    wait_for_people(ada, Ada="WebSocket", Bob="WebSocket", Cyd="Stream")
    bob.command("Page.navigate", url="about:blank")
    wait_for_people(ada, Ada="WebSocket", Cyd="Stream")
    cyd.command("Page.navigate", url="about:blank")
    wait_for_people(ada, Ada="WebSocket")


def test_newcomer_gets_the_latest(open_page: Open) -> None:
    """Who joins later sees what was said before, and a name that is taken gets a number."""
    ada = open_page("Ada")
    say(ada, "early")
    wait_for_messages(ada, "early")
    late = open_page("Ada")
    wait_for_messages(late, "early")
    wait_for_people(late, Ada="WebSocket", Ada_2="WebSocket")


def test_markup_stays_text(open_page: Open) -> None:
    """A name and a message that look like HTML are shown as they were typed."""
    evil = open_page("<i>Eve</i>")
    say(evil, "<img src=x onerror='window.caught = true'>")
    wait_for_messages(evil, "<img src=x onerror='window.caught = true'>")
    wait_for_people(evil, **{"<i>Eve</i>": "WebSocket"})
    assert evil.evaluate("document.querySelectorAll('#log img, #people i').length") == 0
    assert evil.evaluate("window.caught") is None


def test_plain_event_source(open_page: Open) -> None:
    """An EventSource somebody writes by hand gets the welcome and what is said."""
    ada = open_page("Ada")
    ada.evaluate(
        "window.heard = [], window.source = new EventSource('/chat?name=Plain'),"
        "source.onmessage = event => heard.push(JSON.parse(event.data)), null"
    )
    wait_for_people(ada, Ada="WebSocket", Plain="Stream")
    say(ada, "to all\u2028of you \N{WAVING HAND SIGN}")
    heard = ada.wait_for("heard.some(event => event.type === 'message') && heard")
    assert [event["type"] for event in heard] == ["welcome", "people", "message"]
    assert heard[-1]["text"] == "to all\u2028of you \N{WAVING HAND SIGN}"


@pytest.mark.parametrize("transport", ["websocket", "http_stream"])
def test_comes_back_after_a_restart(browser: cdp.Browser, backend: Backend, transport: str) -> None:
    """When the server goes the page says so, and joins the next one by itself."""
    server = run_server(Chat().handle, port=0, backend=backend)
    page = browser.page(f"http://127.0.0.1:{server.port}/")
    try:
        switch(page, transport)
        join(page, "Ada")
        say(page, "before")
        wait_for_messages(page, "before")
        server.stop()
        wait_for_state(page, "waiting")
        assert "trying again" in page.text("#state")
        assert page.evaluate("document.querySelector('#send').disabled") is True
        server = run_server(Chat().handle, port=server.port, backend=backend)
        wait_for_state(page, "connected")
        wait_for_messages(page)  # a new room, so the old one's messages are gone
        say(page, "after")
        wait_for_messages(page, "after")
    finally:
        page.close()
        server.stop()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_fits_the_window(open_page: Open, dark: bool, width: int, tmp_path: Path) -> None:
    """On a desk and on a phone, light and dark, nothing sticks out sideways and the message field is in sight."""
    page = open_page("Somebody with a long name")
    page.look(width=width, dark=dark)
    say(page, "long" * 60)
    wait_for_messages(page, "long" * 60)
    page.screenshot(tmp_path / "demo.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    assert page.evaluate("document.querySelector('#compose').getBoundingClientRect().bottom <= innerHeight") is True
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(ground) < 128) is dark


def test_a_frozen_page_is_not_here(open_page: Open) -> None:
    """A page that the browser keeps frozen leaves the room, and is back when it is shown again."""
    ada, bob = open_page("Ada"), open_page("Bob")
    bob.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    wait_for_people(ada, Ada="WebSocket")
    bob.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    wait_for_people(ada, Ada="WebSocket", Bob="WebSocket")
