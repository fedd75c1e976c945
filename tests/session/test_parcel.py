"""What a group's members share of a message, and how its numbers follow from places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channelkit.session.codec import encode_event, encode_line
from channelkit.session.frames import MAX_NUMBER, End, Text, numbered, payload_size
from channelkit.session.parcel import Parcel
from channelkit.session.sender import FULL, Sender

texts = st.text(st.characters(exclude_categories=["Cs"]))
payloads = st.one_of(texts, st.binary())


@given(payload=payloads, numbers=st.lists(st.integers(1, MAX_NUMBER), min_size=1, max_size=4))
def test_a_parcel_is_the_frame_that_it_becomes(payload: str | bytes, numbers: list[int]) -> None:
    """For each member, whatever its number: the same bytes that a frame of its own gives."""
    parcel = Parcel(payload, payload_size(payload))
    for n in numbers:
        frame = numbered(n, payload)
        assert parcel.line(n) == encode_line(frame)
        assert parcel.event(n) == encode_event(frame)
        assert len(parcel) == frame.size


@given(st.lists(st.one_of(payloads, st.integers(0, 5)), max_size=30), st.integers(1, 6))
def test_a_sender_keeps_what_is_not_acknowledged(steps: list[str | bytes | int], window: int) -> None:
    """Against the plain way, a list of frames with their numbers: what is kept, its bytes, the room."""
    sender = Sender(window, 1000)
    kept: list[Text] = []
    sent = 0
    for step in steps:
        if isinstance(step, int):
            n = min(sent, sender.acked + step)
            assert sender.acknowledge(n) == (step > 0 and n > sent - len(kept))
            kept = [frame for frame in kept if frame.n > n]
        elif sender.has_room(payload_size(step)):
            sent += 1
            assert sender.number(step, payload_size(step), float(sent)) == sent
            kept.append(numbered(sent, step))  # type: ignore[arg-type]
        size = sum(frame.size for frame in kept)
        assert sender.frames == tuple(kept)
        assert tuple(sender.after(sent - 1)) == tuple(kept)[-1:]
        assert (sender.bytes, sender.unacknowledged, sender.empty) == (size, len(kept), not kept)
        assert sender.unsent == (0 if not kept else FULL if len(kept) >= window else size + 1)
    assert sender.end(1000, "bye") == End(sent + 1, 1000, "bye")
    assert (sender.ended, sender.unacknowledged, sender.frames[-1]) == (True, len(kept), End(sent + 1, 1000, "bye"))
    sender.clear()
    assert (sender.frames, sender.bytes, sender.unsent, sender.sent) == ((), 0, 0, sent + 1)
