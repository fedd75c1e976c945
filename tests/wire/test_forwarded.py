"""Who a request came from, by `Forwarded` and `X-Forwarded-*`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit._trust import trusted
from channelkit.wire.forwarded import Malformed, Origin, read_forwarded, read_x_forwarded

TRUSTED = trusted(("10.0.0.0/8", "fd00::/8", "unix")).named
CLIENT = ("192.0.2.1", 0)


def x(*values: str, **more: str) -> Origin:
    fields = [("x-forwarded-for", value) for value in values]
    fields += [(f"x-forwarded-{name}", value) for name, value in more.items()]
    return read_x_forwarded((("host", "a"), *fields), TRUSTED)


def f(*values: str) -> Origin:
    return read_forwarded((("host", "a"), *(("forwarded", value) for value in values)), TRUSTED)


# -- both, by a model: each proxy appends whom it saw, behind whatever the client has sent


ours = st.integers(0, 255).map(lambda n: f"10.0.0.{n}") | st.integers(1, 99).map(lambda n: f"fd00::{n}")
theirs = st.integers(1, 255).map(lambda n: f"192.0.2.{n}") | st.integers(1, 99).map(lambda n: f"2001:db8::{n}")
forged = st.text(st.sampled_from('for=";,\\ 10.0.0.1_a:[]'), max_size=30) | st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30
)


def node(host: str) -> str:
    return f'"[{host}]"' if ":" in host else host


@given(forged, theirs, st.lists(ours, max_size=3), st.booleans())
def test_the_client_is_the_rightmost_who_is_no_proxy_of_ours(
    sent: str, client: str, proxies: list[str], own_line: bool
) -> None:
    """Whatever the client has sent in these fields, in front of it on the same line or on one before."""
    told = (client, 0)
    chain = ", ".join([client, *proxies])
    assert x(*([sent, chain] if own_line else [f"{sent}, {chain}"])).client == told
    chain = ", ".join(f"for={node(host)}" for host in (client, *proxies))
    assert f(*([sent, chain] if own_line else [f"{sent}, {chain}"])).client == told
    chain = ",".join(f'proto=https;For={node(host)};host="a:1"' for host in (client, *proxies))
    assert f(*([sent, chain] if own_line else [f"{sent},{chain}"])) == Origin(told, False, "https", "a:1")


@given(st.lists(ours, min_size=1, max_size=4))
def test_where_all_are_ours_the_first_is_the_client(proxies: list[str]) -> None:
    """A request that one of our own machines has made."""
    assert x(", ".join(proxies)).client == (proxies[0], 0)
    assert f(", ".join(f"for={node(host)}" for host in proxies)).client == (proxies[0], 0)


@given(forged)
def test_whatever_stands_there_is_read_or_malformed(text: str) -> None:
    """Nothing else is ever raised, and a client that is told has an address."""
    for read in (x, f):
        try:
            origin = read(text)
        except Malformed:
            continue
        assert origin.client is None or (origin.client[0] and 0 <= origin.client[1] <= 65535)


def test_nothing_is_told_where_nothing_stands() -> None:
    """Then the socket's address and scheme are right."""
    assert x() == f() == x("") == f("") == f(" , ;,") == Origin()


# -- X-Forwarded-*


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("192.0.2.1", CLIENT),
        (" 192.0.2.1\t", CLIENT),
        ("192.0.2.1:8080", ("192.0.2.1", 8080)),
        ("[2001:DB8::1]:8080", ("2001:db8::1", 8080)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("::ffff:192.0.2.1", CLIENT),
        ("9.9.9.9, 192.0.2.1", CLIENT),
        ("9.9.9.9, 192.0.2.1, 10.1.1.1,, ", CLIENT),
        ("9.9.9.9, 192.0.2.1, ::ffff:10.1.1.1", CLIENT),
        ("nonsense, 192.0.2.1, 10.1.1.1", CLIENT),
        ("192.0.2.1, unix:", CLIENT),
    ],
)
def test_x_forwarded_for(text: str, client: tuple[str, int]) -> None:
    """With a port and without, both families, nginx's `unix:` for a proxy at a UNIX socket."""
    assert x(text) == Origin(client)
    assert x(*text.split(", ")) == Origin(client)


def test_a_client_at_a_unix_socket() -> None:
    """It has no address; told by one who does not trust such, it is the client."""
    assert x("unix:") == Origin(None, hidden=True)
    assert read_x_forwarded((("x-forwarded-for", "9.9.9.9, unix:"),), trusted(("*",)).named) == Origin(
        None, hidden=True
    )


def test_a_star_trusts_who_connects_and_not_what_he_was_told() -> None:
    """With "*" the rightmost is the client: what stands left of it, it may have written itself."""
    fields = (("x-forwarded-for", "9.9.9.9, 192.0.2.1"), ("forwarded", "for=9.9.9.9, for=192.0.2.1"))
    assert read_x_forwarded(fields, trusted(("*",)).named).client == CLIENT
    assert read_forwarded(fields, trusted(("*",)).named).client == CLIENT


@pytest.mark.parametrize(
    ("hops", "proto", "scheme"),
    [
        ("192.0.2.1", "https", "https"),
        ("192.0.2.1", "HTTP", "http"),
        ("192.0.2.1", "wss", "https"),
        ("192.0.2.1, 10.0.0.1", "https", "https"),
        ("192.0.2.1, 10.0.0.1", "https, http", "https"),
        ("9.9.9.9, 192.0.2.1, 10.0.0.1", "http, https, http", "https"),
        ("9.9.9.9, 192.0.2.1", "nonsense, https", "https"),
        ("9.9.9.9, 192.0.2.1", "https", "https"),
        ("", "https", "https"),
        ("", "http, https", "https"),
    ],
)
def test_x_forwarded_proto(hops: str, proto: str, scheme: str) -> None:
    """The one beside the client, where there are as many; else the last, which the proxy next to us has written."""
    assert x(hops, proto=proto).scheme == scheme


def test_x_forwarded_host() -> None:
    """Likewise; it must be a host."""
    assert x("192.0.2.1", host="shop.example:8443").host == "shop.example:8443"
    assert x("192.0.2.1, 10.0.0.1", host="shop.example, inner").host == "shop.example"
    with pytest.raises(Malformed, match="'a b' is no host"):
        x("192.0.2.1", host="a b")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"for": "unknown"}, "'unknown' is no address"),
        ({"for": "192.0.2.1, example.org"}, "is no address"),
        ({"for": "192.0.2.256"}, "is no address"),
        ({"for": "192.0.2.1:65536"}, "is no address"),
        ({"for": "[192.0.2.1]:1"}, "is no address"),
        ({"for": "[::1"}, "is no address"),
        ({"for": "fe80::1%eth0"}, "is no address"),
        ({"for": '"192.0.2.1"'}, "is no address"),
        ({"proto": "spdy"}, "'spdy' is none of http, https, ws and wss"),
    ],
)
def test_what_a_proxy_has_written_and_nobody_can_read(fields: dict[str, str], text: str) -> None:
    """The reason is for the log."""
    given = tuple((f"x-forwarded-{name}", value) for name, value in fields.items())
    with pytest.raises(Malformed, match=text.replace("[", r"\[")):
        read_x_forwarded(given, TRUSTED)


# -- Forwarded


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("for=192.0.2.1", Origin(CLIENT)),
        ('For="192.0.2.1:8080"', Origin(("192.0.2.1", 8080))),
        ('FOR="[2001:db8::1]:4711"', Origin(("2001:db8::1", 4711))),
        ('for="192.0.2.1:_port"', Origin(CLIENT)),
        ("for=192.0.2.1;proto=https;by=10.0.0.9;host=a.example", Origin(CLIENT, False, "https", "a.example")),
        (r'for="192\.0.2.1";host="a.example:1"', Origin(CLIENT, host="a.example:1")),
        (';for=192.0.2.1;;secret="a, for=9.9.9.9";', Origin(CLIENT)),
        ("for=9.9.9.9;proto=http, for=192.0.2.1;proto=https, for=10.0.0.1;proto=http", Origin(CLIENT, False, "https")),
        ("for=9.9.9.9;proto=https, for=192.0.2.1, for=10.0.0.1;proto=https", Origin(CLIENT)),
        ("for=unknown", Origin(None, hidden=True)),
        ('for="unknown:80";proto=https', Origin(None, hidden=True, scheme="https")),
        ("for=9.9.9.9, for=_gazonk, for=10.0.0.1", Origin(None, hidden=True)),
        ("proto=https", Origin(scheme="https")),
        ("for=9.9.9.9, proto=https, for=10.0.0.1", Origin(("10.0.0.1", 0), scheme="https")),
        (", for=192.0.2.1,  ,", Origin(CLIENT)),
    ],
)
def test_forwarded(text: str, origin: Origin) -> None:
    """Parameters in any order and case, quoted or not; what a proxy hides is hidden; the client's element counts."""
    assert f(text) == origin


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("for", "does not end in an element"),
        ("for=192.0.2.1;for=9.9.9.9", "occurs twice"),
        ("for=192.0.2.1;FOR=9.9.9.9", "occurs twice"),
        ("for=[2001:db8::1]", "does not end in an element"),
        ('for="2001', "does not end in an element"),
        ("for=192.0.2.1 proto=https", "does not end in an element"),
        ("nonsense, for=10.0.0.1", "does not end in an element"),
        ("for=example.org", "is no address"),
        ("for=192.0.2.1;proto=spdy", "is none of http"),
        ('for=192.0.2.1;host="a b"', "is no host"),
        ('for=""', "is no address"),
    ],
)
def test_forwarded_that_nobody_can_read(text: str, why: str) -> None:
    """As far as it is read at all: an element that none of ours has written is not."""
    with pytest.raises(Malformed, match=why):
        f(text)
    assert f(f"{text}, for=192.0.2.1").client == CLIENT


def test_a_long_field_takes_no_time() -> None:
    """What a client sends in front costs one look at each byte or so: these would hang a backtracking matcher."""
    for part in ('a="', ",", ';a="\\', '"', "a=b;", 'a="",', " \t"):
        text = part * (20000 // len(part))
        for read in (x, f):
            told: Any = None
            try:
                told = read(f"{text}, for=192.0.2.1" if read is f else f"{text}, 192.0.2.1")
            except Malformed:
                continue
            assert told.client in (CLIENT, None)
