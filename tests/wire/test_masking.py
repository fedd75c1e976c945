"""Masking: both implementations, and the table behind the inlined third."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit.wire.masking import SMALL, Unmask, c_unmask, from_bytes, unmask, unmask_python

KEYS = st.binary(min_size=4, max_size=4)
WAYS = pytest.mark.parametrize("way", [unmask_python, unmask], ids=["python", "chosen"])


def one_by_one(data: bytes, key: bytes) -> bytes:
    """RFC 6455 5.3 word for word."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


@WAYS
@given(data=st.binary(max_size=300), key=KEYS)
def test_unmask_is_the_rule_of_the_rfc(way: Unmask, data: bytes, key: bytes) -> None:
    """Every implementation XORs each byte with its byte of the key."""
    result = way(data, key)
    assert type(result) is bytes
    assert result == one_by_one(data, key)
    assert way(bytearray(data), bytearray(key)) == result


@WAYS
def test_unmask_large(way: Unmask) -> None:
    """A payload of many words and an odd end is unmasked to its last byte."""
    data = bytes(range(256)) * 400 + b"odd"
    assert way(data, b"\x00\xff\x80\x01") == one_by_one(data, b"\x00\xff\x80\x01")


def test_the_fastest_is_chosen() -> None:
    """The C function is used if and only if it can be imported."""
    assert unmask is (c_unmask() or unmask_python)


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\0\0\0\1", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\x12\x34\x56\x78"])
def test_small_table(key: bytes) -> None:
    """The table unmasks every size up to 125 without a slice between key and payload."""
    for size, (bits, repeat, cut) in enumerate(SMALL):
        data = bytes((i * 37 + 11) % 256 for i in range(size))
        both = from_bytes(key + data)
        assert (both ^ ((both >> bits) * repeat >> cut)).to_bytes(size) == one_by_one(data, key)
    assert len(SMALL) == 126
