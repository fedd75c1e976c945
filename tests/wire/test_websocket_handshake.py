"""The opening handshake: which requests are one, which are valid, and what a refusal carries."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit.errors import BadRequest
from channelkit.wire.websocket_handshake import (
    check_upgrade,
    is_websocket_request,
    offered_subprotocols,
    refusal_headers,
    sec_websocket_accept,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "host": "a",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": KEY,
}


def headers(**changes: str | None) -> tuple[tuple[str, str], ...]:
    """A valid handshake's headers with some changed, or left out for None."""
    fields = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    return tuple((name, value) for name, value in fields.items() if value is not None)


def refused(method: str = "GET", version: str = "1.1", fields: tuple[tuple[str, str], ...] = headers()) -> int:
    with pytest.raises(BadRequest) as caught:
        check_upgrade(method, version, fields)
    return caught.value.status


def test_the_accept_value_of_the_rfc() -> None:
    """The example of RFC 6455 1.3 comes out."""
    assert sec_websocket_accept(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "fields",
    [
        headers(),
        headers(upgrade="h2c, WebSocket", connection="keep-alive,UPGRADE"),
        (*headers(connection="keep-alive"), ("connection", "upgrade")),
    ],
)
def test_valid_handshakes(fields: tuple[tuple[str, str], ...]) -> None:
    """A valid handshake gives its key, with tokens in any case, in lists and over several lines."""
    assert check_upgrade("GET", "1.1", fields) == KEY


def test_any_iterable_of_headers_will_do() -> None:
    """The headers may be an iterator, which can be read only once."""
    assert check_upgrade("GET", "1.1", iter(headers())) == KEY


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "CONNECT"])
def test_other_methods_get_405(method: str) -> None:
    """A handshake is a GET."""
    assert refused(method) == 405


def test_http_10_gets_400() -> None:
    """A handshake is HTTP/1.1."""
    assert refused(version="1.0") == 400


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (headers(upgrade=None), 426),
        (headers(upgrade="h2c"), 426),
        (headers(sec_websocket_version="8"), 426),
        (headers(sec_websocket_version="13, 8"), 426),
        (headers(sec_websocket_version="013"), 426),
        (headers(sec_websocket_version=""), 426),
        ((*headers(), ("sec-websocket-version", "13")), 426),
        (headers(sec_websocket_version=None), 400),
        (headers(connection=None), 400),
        (headers(connection="keep-alive"), 400),
        (headers(connection="upgraded"), 400),
        (headers(sec_websocket_key=None), 400),
        (headers(sec_websocket_key=""), 400),
        (headers(sec_websocket_key=KEY[:-1]), 400),
        (headers(sec_websocket_key=KEY + "="), 400),
        (headers(sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAB=="), 400),  # 16 bytes, but not as an encoder writes them
        (headers(sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA=A"), 400),
        (headers(sec_websocket_key="dGhlIHNhbXBsZSBub25j"), 400),  # 15 bytes
        (headers(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQo="), 400),  # 17 bytes
        (headers(sec_websocket_key="dGhlIHNhbXBsZSBub25jZ-=="), 400),
        (headers(sec_websocket_key="dGhlIHNhbXBs\xe9SBub25jZQ=="), 400),
        ((*headers(), ("sec-websocket-key", KEY)), 400),
    ],
)
def test_invalid_handshakes(fields: tuple[tuple[str, str], ...], status: int) -> None:
    """A wrong version and no upgrade at all are 426, everything else that is wrong is 400."""
    assert refused(fields=fields) == status


@given(st.binary(min_size=16, max_size=16))
@settings(deadline=None)
def test_every_key_an_encoder_writes_is_valid(nonce: bytes) -> None:
    """The base64 of any 16 bytes is a key."""
    key = base64.b64encode(nonce).decode()
    assert check_upgrade("GET", "1.1", headers(sec_websocket_key=key)) == key


@given(st.binary(max_size=24).filter(lambda nonce: len(nonce) != 16))
@settings(deadline=None)
def test_keys_of_another_length_are_not(nonce: bytes) -> None:
    """The base64 of more or fewer bytes is no key."""
    assert refused(fields=headers(sec_websocket_key=base64.b64encode(nonce).decode())) == 400


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((("upgrade", "websocket"),), True),
        ((("upgrade", "h2c , WEBSOCKET"),), True),
        ((("upgrade", "h2c"), ("upgrade", "websocket")), True),
        ((("upgrade", "h2c"),), False),
        ((("upgrade", "websockets"),), False),
        ((("connection", "websocket"),), False),
        ((), False),
    ],
)
def test_is_websocket_request(fields: tuple[tuple[str, str], ...], expected: bool) -> None:
    """A request is for a WebSocket if the Upgrade tokens say so, valid or not in everything else."""
    assert is_websocket_request(fields) is expected


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ([], ()),
        (["chat"], ("chat",)),
        (["b, A ,\tc"], ("b", "A", "c")),
        (["a", "b,a"], ("a", "b")),
        ([",, a,"], ("a",)),
        (["a b, c/d, \xe9, e"], ("e",)),
    ],
)
def test_offered_subprotocols(values: list[str], offered: tuple[str, ...]) -> None:
    """Offers keep their order and case over all lines; doubles and what is no token are left out."""
    fields = [("sec-websocket-protocol", value) for value in values]
    assert offered_subprotocols([("host", "a"), *fields]) == offered


def test_refusal_headers() -> None:
    """405 says which method is allowed, 426 to what and to which version to upgrade, others need nothing."""
    assert refusal_headers(405) == (("Allow", "GET"),)
    assert refusal_headers(426) == (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
    assert refusal_headers(400) == refusal_headers(500) == ()
