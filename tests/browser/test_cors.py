"""Sessions from a page of another origin, in a real browser: what it asks before, and what its scripts may read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channelkit import Channel, Endpoint, Request, Response, run_server

sys.path.insert(0, str(Path(__file__).parent))

import driver

# Everything a client does over HTTP; what it saw is what the test compares.
SCRIPT = """(async url => {
    const seen = [];
    const ask = async (way, options = {}) => {
        const answer = await fetch(url + way, {...options, headers: {...options.headers, Authorization: bearer}});
        seen.push(answer.status);
        return answer;
    };
    let bearer = 'Bearer wrong';
    const created = await fetch(url, {method: 'POST'});
    const {sid, secret} = await created.json();
    seen.push(created.status, created.headers.get('Location') === '/ck/' + sid);
    seen.push((await (await ask('/' + sid + '/poll')).json()).code);
    bearer = 'Bearer ' + secret;
    await ask('/' + sid + '?n=1', {method: 'POST', body: 'hello', headers: {'Content-Type': 'text/plain'}});
    seen.push((await (await ask('/' + sid + '/stream')).body.getReader().read()).value.length > 0);
    await ask('/' + sid, {method: 'DELETE'});
    return seen;
})"""

# An EventSource has no header of its own: its authority is a cookie, which the browser sends within one site.
EVENTS = """(async url => {
    const {sid} = await (await fetch(url + '?cookie=1', {method: 'POST', credentials: 'include'})).json();
    const source = new EventSource(url + '/' + sid + '/events', {withCredentials: true});
    const message = await new Promise((resolve, reject) => {
        source.onmessage = event => resolve(event.data);
        source.onerror = () => reject(new Error('no stream'));
    });
    source.close();
    return message;
})"""


REFUSED = "Failed to fetch|NetworkError|Load failed"  # as the three browsers say it


async def greet(channel: Channel) -> None:
    await channel.send("welcome")
    await channel.wait_closed()


async def page(request: Request) -> Response:
    return Response(200, {"Content-Type": "text/html"}, "<!doctype html><title>elsewhere</title>")


@pytest.fixture(scope="module")
def elsewhere(browser: driver.Browser) -> Iterator[driver.Page]:
    """A page of an origin that is not the endpoint's."""
    server = run_server(page, port=0)
    opened = browser.page(f"http://127.0.0.1:{server.port}/")
    try:
        yield opened
    finally:
        opened.close()
        server.stop(timeout=1)


def tried(page: driver.Page, script: str, **options: Any) -> Any:
    """What `script` returns in the page, asked of an endpoint with these options."""
    server = run_server(Endpoint(greet, **options), port=0)
    try:
        return page.evaluate(f"{script}({json.dumps(f'http://127.0.0.1:{server.port}/ck')})")
    finally:
        server.stop(timeout=1)


@pytest.mark.every_browser
def test_a_listed_page(browser: driver.Browser, elsewhere: driver.Page) -> None:
    """It creates, is refused with a reason it can read, sends, reads a stream, ends; and has an EventSource."""
    origin = elsewhere.evaluate("location.origin")
    assert tried(elsewhere, SCRIPT, origins=[origin]) == [201, True, 404, "unknown", 200, 200, True, 204]
    if browser.loopback_is_secure:  # else it keeps no cookie from here
        assert tried(elsewhere, EVENTS, origins=[origin]) == "welcome"


@pytest.mark.every_browser
def test_every_page(elsewhere: driver.Page) -> None:
    """With "*" the same by a bearer's secret, and nothing by a cookie."""
    assert tried(elsewhere, SCRIPT, origins=["*"]) == [201, True, 404, "unknown", 200, 200, True, 204]
    with pytest.raises(driver.BrowserError, match=REFUSED):
        tried(elsewhere, EVENTS, origins=["*"])


@pytest.mark.every_browser
def test_a_page_that_is_not_listed(elsewhere: driver.Page) -> None:
    """Nothing at all."""
    with pytest.raises(driver.BrowserError, match=REFUSED):
        tried(elsewhere, SCRIPT)
