"""The module in a real browser, and what happens to pages there: every list is exact, or the loss is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import driver
from hosts import Backend, under_our_server, under_uvicorn
from lists import Lists, Talk, numbers
from proxy import CuttingProxy

TRANSPORTS = ("websocket", "http_stream", "events", "long_poll")
#: A scenario runs by two of them on each server: what a transport does on which loop is proved without a browser.
SOME = {
    "asyncio": ("websocket", "long_poll"),
    "trio": ("http_stream", "events"),
    "uvicorn": ("websocket", "long_poll"),
}


@dataclass
class Site:
    """A server, a network between it and the pages, and the pages."""

    lists: Lists
    proxy: CuttingProxy
    browser: driver.Browser
    transports: tuple[str, ...]
    pages: list[driver.Page] = field(default_factory=list)

    def open(self, transport: str, query: str = "&keep") -> driver.Page:
        page = self.browser.page(f"http://127.0.0.1:{self.proxy.port}/lists.html?transport={transport}{query}")
        self.pages.append(page)
        flows(page)
        return page

    def open_all(self, query: str = "&keep") -> list[driver.Page]:
        """One page a transport; they talk at the same time."""
        return [self.open(transport, query) for transport in self.transports]

    def talk(self, page: driver.Page) -> Talk:
        sid = page.evaluate("channel.sessionId")
        return next(talk for talk in self.lists.talks if talk.channel.session_id == sid)


@contextmanager
def made(browser: driver.Browser, host: str, **options: Any) -> Iterator[Site]:
    lists = Lists(**options)
    serving = under_uvicorn(lists.handle) if host == "uvicorn" else under_our_server(lists.handle, cast(Backend, host))
    with serving as port, CuttingProxy(port) as proxy:
        site = Site(lists, proxy, browser, SOME[host])
        try:
            yield site
            complaints = [one for page in site.pages for one in page.complaints]
            assert [one for one in complaints if not one.startswith(driver.OF_NETWORK)] == []
        finally:
            for page in site.pages:
                page.close()


@pytest.fixture(params=["asyncio", "trio"])
def site(browser: driver.Browser, request: pytest.FixtureRequest) -> Iterator[Site]:
    with made(browser, request.param) as site:
        yield site


def flows(page: driver.Page) -> None:
    """Both ways, from now on."""
    page.wait_for("window.remember && (remember(), true)")
    page.wait_for("flows()")


def flows_up(page: driver.Page) -> None:
    """The server acknowledges what the page says from now on."""
    page.wait_for("window.remember && (remember(), true)")
    page.wait_for("flows(0, 5)")


def attached(page: driver.Page, transport: str) -> None:
    page.wait_for(f"channel.status.state === 'attached' && channel.transport === '{transport}'")


def judge(site: Site, *pages: driver.Page) -> list[dict[str, Any]]:
    """Let them finish; both lists of each, over all its reloads, are exact.  Returns what the pages say."""
    told = []
    for page in pages:
        answer = page.evaluate("finish()")
        talk = site.talk(page)
        assert answer["info"] is None
        assert answer["heard"] == numbers("s", talk.said)
        assert talk.heard == numbers("c", answer["said"])
        assert min(talk.said, answer["said"]) >= 5
        told.append(answer)
    return told


@pytest.mark.every_browser
def test_switched(site: Site) -> None:
    """The transport changes while both sides talk: each one after each other one."""
    page = site.open("websocket")
    for transport in ("events", "websocket", "long_poll", "http_stream", "long_poll", "events", "http_stream"):
        page.evaluate(f"channel.switchTransport('{transport}')")
        attached(page, transport)
        flows(page)
    judge(site, page)


def test_cut(site: Site) -> None:
    """Connections are cut without a word, again and again, and ended by the server."""
    pages = site.open_all()
    for _ in range(3):
        site.proxy.cut()
        for page in pages:
            flows(page)
    for page in pages:
        page.evaluate("remember(), fetch('/cut?' + channel.sessionId)")
    for page in pages:
        page.wait_for("flows()")
    for answer in judge(site, *pages):
        assert answer["statistics"]["attaches"] > 1 or answer["statistics"]["transport"] == "long_poll"
    assert site.proxy.cuts >= 3 * len(pages)


@pytest.mark.every_browser
def test_offline(site: Site) -> None:
    """The network goes, and comes back."""
    pages = site.open_all()
    told = site.browser.offline  # else a page finds out by itself
    for page in pages if told else ():
        page.offline(True)
    site.proxy.cut(down=True)
    for page in pages:
        page.wait_for("channel.status.state !== 'attached'")
        page.wait_for("said > channel.statistics().acked + 5")
        assert page.evaluate("navigator.onLine") is not told
    site.proxy.up()
    for page in pages if told else ():
        page.offline(False)
    for page in pages:
        page.wait_for("navigator.onLine && channel.status.state === 'attached'")
        flows(page)
    judge(site, *pages)


@pytest.mark.every_browser
def test_reloaded(site: Site) -> None:
    """With its state a page goes on where it was, twice; it is another instance of the same session."""
    pages = site.open_all()
    sessions = [page.evaluate("channel.sessionId") for page in pages]
    for _ in range(2):
        for page in pages:
            page.reload()
        for page in pages:
            page.wait_for("window.begun > 0 && channel.resumed")
            flows(page)
    for answer in judge(site, *pages):
        assert answer["statistics"]["instance"] > 1
    assert [page.evaluate("channel.sessionId") for page in pages] == sessions


@pytest.mark.every_browser
def test_reloaded_without_state(site: Site) -> None:
    """The session is closed, with everything that was said before; the page begins another one."""
    for transport in site.transports:
        page = site.open(transport, "")
        talk = site.talk(page)
        page.evaluate("addEventListener('pagehide', () => sessionStorage.before = said)")
        page.reload()
        page.wait_for("window.channel?.sessionId")
        said = int(page.evaluate("sessionStorage.before"))
        page.wait_for(f"fetch('/over?{talk.channel.session_id}').then(answer => answer.json())")
        info = talk.channel.close_info
        assert info is not None
        heard = numbers("c", said)[:-1]
        assert (talk.heard, info.code, info.by) == (heard, 1001, "peer")
        flows(page)
        judge(site, page)


@pytest.mark.every_browser
def test_duplicated(site: Site) -> None:
    """A tab that is duplicated is another one, with a session of its own; both go on."""
    page = site.open("websocket")
    other = site.browser.opened_by(page, "open(location.href)")
    flows(other)
    assert other.evaluate("channel.resumed") is False
    assert site.talk(other) is not site.talk(page)
    page.front()
    judge(site, page)


SAVE = "sessionStorage.setItem('channelkit ' + location.origin + '/lists/ck', channel.save())"


@pytest.mark.every_browser
def test_taken_over(site: Site) -> None:
    """A page that finds the state of one that still lives goes on in its place; the older one is told so."""
    page = site.open("websocket")
    first = page.evaluate("finish()")
    page.evaluate(SAVE)
    other = site.browser.opened_by(page, "open(location.href)")
    info = page.wait_for("channel.closeInfo")
    assert (info["outcome"], info["delivered"], info["unacknowledged"]) == ("superseded", False, 0)
    flows_up(other)
    second = other.evaluate("finish()")
    talk = site.talk(other)
    whole = numbers("c", second["said"])
    assert second["said"] > first["said"]
    assert talk.heard == [*whole[: first["said"]], "done", *whole[first["said"] :]]
    assert first["heard"] == second["heard"] == numbers("s", talk.said)


def test_a_stale_copy(site: Site) -> None:
    """A page that finds a state which is not the last one any more is told that it is lost; nobody else is harmed."""
    page = site.open("websocket")
    page.evaluate(SAVE)
    flows(page)
    other = site.browser.opened_by(page, "open(location.href)")
    info = other.wait_for("window.channel?.closeInfo")
    assert (info["outcome"], info["delivered"]) == ("lost", False)
    page.front()
    flows(page)
    judge(site, page)


def test_frozen(site: Site) -> None:
    """A page is frozen, the network changes meanwhile, it wakes: what was said by both is there."""
    if not site.browser.freezes:
        pytest.skip(f"the driver of {site.browser.name} cannot freeze one page; test_asleep stops all of the browser")
    pages = site.open_all()
    for page in pages:
        page.frozen(True)
    site.proxy.cut()
    for page in pages:
        page.frozen(False)
    for page in pages:
        flows(page)
    judge(site, *pages)


def test_asleep(site: Site) -> None:
    """The computer sleeps, its connections are lost meanwhile, it wakes: what was said by both is there."""
    pages = site.open_all()
    with site.browser.asleep():
        site.proxy.cut()
    for page in pages:
        flows(page)
    judge(site, *pages)


@pytest.mark.every_browser
def test_left_and_shown_again(site: Site) -> None:
    """A page that was left goes on when it is shown again: it was put away with no connection, or is loaded anew."""
    pages = site.open_all()
    ids = [page.evaluate("id") for page in pages]
    for page in pages:
        page.go(f"http://127.0.0.1:{site.proxy.port}/empty.html")
    for page in pages:
        page.back()
    for page, number in zip(pages, ids, strict=True):
        page.wait_for("window.restored" if site.browser.puts_away else "window.channel?.resumed")
        assert (page.evaluate("id") == number) is site.browser.puts_away
        flows(page)
    judge(site, *pages)


def test_of_another_site(browser: driver.Browser) -> None:
    """Pages of another origin, over every transport, cut once."""
    with made(browser, "asyncio") as home:
        origin = f"http://127.0.0.1:{home.proxy.port}"
        with made(browser, "trio", origins=[origin]) as site:
            query = f"&url=http://127.0.0.1:{site.proxy.port}/lists"
            pages = [home.open(transport, query) for transport in TRANSPORTS]
            site.proxy.cut()
            for page in pages:
                flows(page)
            judge(site, *pages)


def test_under_uvicorn(browser: driver.Browser) -> None:
    """Cut, reloaded, switched, under a host of ASGI."""
    with made(browser, "uvicorn") as site:
        pages = site.open_all()
        site.proxy.cut()
        for page in pages:
            flows(page)
            page.reload()
        for page, transport in zip(pages, reversed(site.transports), strict=True):
            flows(page)
            page.evaluate(f"channel.switchTransport('{transport}')")
            attached(page, transport)
            flows(page)
        judge(site, *pages)
