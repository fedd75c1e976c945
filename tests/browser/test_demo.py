"""The demo in a real browser: people on all transports, what they see of each other, and of their own connections."""

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

import driver
from proxy import CuttingProxy

LABELS = {"websocket": "WebSocket", "http_stream": "Stream", "events": "Events", "long_poll": "Polling"}

Backend = Literal["asyncio", "trio"]
Open = Callable[..., driver.Page]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@pytest.fixture
def server(backend: Backend) -> Iterator[Server]:
    server = run_server(Chat().handle, port=0, backend=backend)
    yield server
    server.stop(timeout=0.1)


@pytest.fixture
def network(server: Server) -> Iterator[CuttingProxy]:
    """What lies between the pages and the server."""
    with CuttingProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def open_page(browser: driver.Browser, network: CuttingProxy) -> Iterator[Open]:
    """Opens pages of the demo; at the end none of them may have complained."""
    pages: list[driver.Page] = []

    def opened(name: str, port: int = network.port) -> driver.Page:
        page = browser.page(f"http://127.0.0.1:{port}/")
        pages.append(page)
        if name:
            join(page, name)
        return page

    yield opened
    complaints = [one for page in pages for one in page.complaints]
    for page in pages:
        page.close()
    assert [one for one in complaints if not one.startswith(driver.OF_NETWORK)] == []


def join(page: driver.Page, name: str) -> None:
    page.type("#name", name)
    page.press_enter()
    wait_for_state(page, "attached")


def say(page: driver.Page, text: str) -> None:
    page.type("#text", text)
    page.press_enter()


def switch(page: driver.Page, transport: str) -> None:
    page.click(f"input[value={transport}]")


def wait_for_state(page: driver.Page, state: str) -> None:
    page.wait_for(f"document.querySelector('#state').dataset.state === {json.dumps(state)}")


def wait_for_messages(page: driver.Page, *texts: str) -> None:
    """These messages, in this order, once each."""
    shown = "[...document.querySelectorAll('.message:not(.waiting, .failed) p')].map(line => line.textContent)"
    page.wait_for(f"JSON.stringify({shown}) === JSON.stringify({json.dumps(texts)})")


def wait_for_people(page: driver.Page, **badges: str) -> None:
    """These people with these badges, in the order in which they came."""
    shown = "[...document.querySelectorAll('#people li')].map(l => [...l.children].map(o => o.textContent).join(' '))"
    lines = [f"{name.replace('_', ' ')} {badge}" for name, badge in badges.items()]
    page.wait_for(f"JSON.stringify({shown}.map(l => l.replace(' (you)', ''))) === JSON.stringify({json.dumps(lines)})")


def test_all_transports_talk(open_page: Open) -> None:
    """Two people, each going through all transports, see each other's messages and badges; the page is the same one."""
    ada, bob = open_page("Ada"), open_page("Bob")
    ada.evaluate("window.untouched = true")
    texts = []
    for mine, other in zip(LABELS, [*LABELS][::-1], strict=True):
        switch(ada, mine)
        switch(bob, other)
        for page in (ada, bob):
            wait_for_people(page, Ada=LABELS[mine], Bob=LABELS[other])
        for page, text in ((ada, f"over {mine}"), (bob, f"back over {other}")):
            say(page, text)
            texts.append(text)
            for reader in (ada, bob):
                wait_for_messages(reader, *texts)
    assert ada.evaluate("window.untouched") is True


def test_talk_during_switches_is_not_lost(open_page: Open) -> None:
    """Messages said while a listener switches back and forth all arrive, in order and once."""
    ada, bob = open_page("Ada"), open_page("Bob")
    texts = [f"number {n}" for n in range(12)]
    for n, text in enumerate(texts):
        switch(ada, [*LABELS][n % 4])
        say(bob, text)
    for page in (ada, bob):
        wait_for_messages(page, *texts)


def test_a_network_that_goes(open_page: Open, network: CuttingProxy) -> None:
    """Without a network the page says so, keeps what is said, and shows it to have arrived when the network is back."""
    ada, bob = open_page("Ada"), open_page("Bob")
    switch(bob, "http_stream")
    wait_for_people(ada, Ada="WebSocket", Bob="Stream")
    network.cut(down=True)
    for page in (ada, bob):
        wait_for_state(page, "detached")
        page.wait_for("document.querySelector('#state').textContent.match(/lost: .+; trying again in \\d+ s/)")
    say(ada, "from a tunnel")
    say(bob, "from a lift")
    for page, text in ((ada, "from a tunnel"), (bob, "from a lift")):
        page.wait_for(f"document.querySelector('.waiting p').textContent === '{text}'")
    network.up()
    for page in (ada, bob):
        page.evaluate("dispatchEvent(new Event('online')), null")  # no need to wait any longer
        page.wait_for("document.querySelector('#log').innerText.includes('Nothing was lost')")
        page.wait_for("document.querySelectorAll('.message:not(.waiting)').length === 2")
        page.wait_for("document.querySelectorAll('.waiting, .failed').length === 0")
    shown = "[...document.querySelectorAll('.message p')].map(line => line.textContent)"
    assert ada.evaluate(shown) == bob.evaluate(shown)
    bob.wait_for("document.querySelector('.badge.away') === null")


def test_cut_my_connection(open_page: Open) -> None:
    """The button cuts the connection, on the server's side; the numbers show another attach, and nothing lost."""
    ada = open_page("Ada")
    wait_for_people(ada, Ada="WebSocket")  # the list moves what is below it
    ada.click("#numbers summary")
    ada.wait_for("/attaches\\s+1\\s/.test(document.querySelector('#numbers').innerText)")
    ada.click("#cut")
    ada.wait_for("document.querySelector('#log').innerText.includes('Nothing was lost')")
    say(ada, "still here")
    wait_for_messages(ada, "still here")
    ada.wait_for("/attaches\\s+2\\s/.test(document.querySelector('#numbers').innerText)")


def test_reload(open_page: Open) -> None:
    """A reloaded page goes on as the same person in the same session, with what was said before."""
    ada, bob = open_page("Ada"), open_page("Bob")
    say(ada, "before")
    wait_for_messages(bob, "before")
    for transport in ("events", "websocket"):
        switch(ada, transport)
        wait_for_people(bob, Ada=LABELS[transport], Bob="WebSocket")
        ada.reload()
        wait_for_state(ada, "attached")
        wait_for_people(ada, Ada="WebSocket", Bob="WebSocket")
    say(ada, "after")
    for page in (ada, bob):
        wait_for_messages(page, "before", "after")
    assert ada.evaluate("document.querySelectorAll('.mine').length") == 2
    assert "left" not in bob.text("#log")


def test_duplicated(browser: driver.Browser, open_page: Open) -> None:
    """A duplicated tab is another person."""
    ada = open_page("Ada")
    other = browser.opened_by(ada, "open(location.href)")
    wait_for_people(other, Ada="WebSocket", Ada_2="WebSocket")
    say(other, "hello me")
    wait_for_messages(ada, "hello me")


def test_leaving(open_page: Open) -> None:
    """Who leaves is gone at once."""
    ada, bob = open_page("Ada"), open_page("Bob")
    wait_for_people(ada, Ada="WebSocket", Bob="WebSocket")
    bob.click("#leave")
    wait_for_people(ada, Ada="WebSocket")
    bob.wait_for("document.querySelector('#join').checkVisibility()")


def test_a_page_that_is_closed(open_page: Open, backend: Backend) -> None:
    """Its person is away first, and has left after the grace."""
    server = run_server(Chat(grace=2.0).handle, port=0, backend=backend)
    try:
        ada, bob = open_page("Ada", server.port), open_page("Bob", server.port)
        bob.go("data:text/html,elsewhere")
        ada.wait_for("document.querySelector('.badge.away') !== null")
        wait_for_people(ada, Ada="WebSocket")
    finally:
        server.stop(timeout=0.1)


def test_left_and_shown_again(browser: driver.Browser, open_page: Open) -> None:
    """A page that is left is away, and back when it is shown again, put away or loaded anew; it has missed nothing."""
    ada, bob = open_page("Ada"), open_page("Bob")
    here = bob.evaluate("location.href")
    bob.evaluate("window.untouched = true")
    bob.go(here + "page.css")
    wait_for_people(ada, Ada="WebSocket", Bob="away")
    say(ada, "where are you?")
    bob.back()
    wait_for_people(ada, Ada="WebSocket", Bob="WebSocket")
    wait_for_messages(bob, "where are you?")
    assert (bob.evaluate("window.untouched") is True) is browser.puts_away


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
    assert [event["type"] for event in heard] == ["welcome", "message"]
    assert heard[-1]["text"] == "to all\u2028of you \N{WAVING HAND SIGN}"


@pytest.mark.parametrize("transport", ["websocket", "long_poll"])
def test_comes_back_after_a_restart(
    browser: driver.Browser, network: CuttingProxy, backend: Backend, transport: str
) -> None:
    """When the server has gone the session is over: the page says so and what may be lost, and joins the next one."""
    server = run_server(Chat().handle, port=0, backend=backend)
    page = browser.page(f"http://127.0.0.1:{server.port}/")
    try:
        switch(page, transport)
        join(page, "Ada")
        say(page, "before")
        wait_for_messages(page, "before")
        server.stop(timeout=2)
        page.wait_for("document.querySelector('#log').innerText.includes('ended the session; joining anew')")
        wait_for_state(page, "detached")
        say(page, "to nobody")
        page.wait_for("document.querySelector('.waiting') !== null")
        server = run_server(Chat().handle, port=server.port, backend=backend)
        wait_for_state(page, "attached")
        wait_for_messages(page, "before", "to nobody")
    finally:
        page.close()
        server.stop(timeout=0.1)


def test_a_name_that_is_refused(open_page: Open) -> None:
    """The page lets one try another."""
    page = open_page("")
    page.evaluate("document.querySelector('#name').value = '\\u202e'")  # nothing that one could see
    page.click("#join button")
    page.wait_for("document.querySelector('#problem').innerText.includes('who are you?')")
    page.evaluate("document.querySelector('#name').value = ''")
    join(page, "Ada")
    wait_for_people(page, Ada="WebSocket")


@pytest.mark.parametrize("backend", ["asyncio"], indirect=True)  # a matter of the page alone
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_fits_the_window(browser: driver.Browser, open_page: Open, dark: bool, width: int, tmp_path: Path) -> None:
    """On a desk and on a phone, light and dark, nothing sticks out sideways and the message field is in sight."""
    page = open_page("Somebody with a long name")
    page.look(width=width, dark=dark)
    dark = dark and browser.looks
    say(page, "long" * 60)
    wait_for_messages(page, "long" * 60)
    page.screenshot(tmp_path / "demo.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    assert page.evaluate("document.querySelector('#compose').getBoundingClientRect().bottom <= innerHeight") is True
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(ground) < 128) is dark
