"""The frames of one open WebSocket, server side (RFC 6455 5 to 7): bytes in, messages out, and back.

Pure: no socket, no clock.  The rules of one frame are in `websocket_frames`, compression in `deflate`.

Two ways lead through one buffer, and no byte takes both:

- *Fast*: a whole unfragmented message in one masked, uncompressed frame of minimal length up to 64 KiB.  It is
  decoded right here.
- *Slow*: everything else.  Its header is judged here (wsproto leaves the size of a message to its caller and reports
  nothing for a frame that only announces 2**62 bytes), then it goes through wsproto, which holds the state of a
  fragmented message, inflates and decodes UTF-8 as it arrives, and checks close frames.  wsproto sees slow frames
  whole and in order and never a byte of a fast one; between messages it holds nothing, so it is dropped (only the
  window of a compression with context takeover is kept, in the extension).

The codec is in one of three states:

    OPEN     --close()-->                          CLOSING  (messages are skipped unread, counted in `skipped`;
                                                             pongs are told; we wait for the peer's close)
    either   --Failure or CloseReceived returned-->  DEAD    (what still arrives is dropped: RFC 6455 7.1.7)
"""

from __future__ import annotations

from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from channelkit.wire.deflate import Agreement, Inflate, largest_deflated
from channelkit.wire.masking import SMALL, BytesLike, Unmask, from_bytes, unmask, unmask_python
from channelkit.wire.websocket_frames import (
    CONTROL,
    FIN,
    FIN_BINARY,
    FIN_CLOSE,
    FIN_PONG,
    FIN_TEXT,
    MAX_CONTROL,
    RSV1,
    binary_frame,
    close_code,
    close_frame,
    control_frame,
    head_size,
    header_fault,
    size_fault,
    text_frame,
    with_code,
)

PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
NO_STATUS = 1005  # RFC 6455 7.1.5: the code of a close frame without one
BAD_GATEWAY = 1014  # in IANA's registry since 2019; wsproto knows it not and takes it for a violation
MAX_FRAGMENTS = 65536  # Config has the reason

OPEN, CLOSING, DEAD = range(3)


@dataclass(frozen=True, slots=True)
class PingReceived:
    """The peer wants a pong with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer answered a ping, or sent a pong unasked (RFC 6455 5.5.3 allows it)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer's close frame; code 1005 when it carried none."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke the protocol: the close code it is to be told, and for the log what it did."""

    code: int
    detail: str


FrameEvent = str | bytes | PingReceived | PongReceived | CloseReceived | Failure


class WebSocketCodec:
    """One open WebSocket as a server sees it.

    `max_message` bounds the payload bytes of one message, all its fragments together and inflated (1009 above it),
    `max_fragments` their number (1008 above it: the message may be small enough, its making is not).  `deflate` is
    what was agreed on for permessage-deflate.  With `fast=False` every frame takes the slow way: the same events, for
    tests.  `unmask` undoes a client's mask.

    `text` and `binary` are functions of their argument, so that a group encodes once for many: that no data follows
    a close frame (RFC 6455 5.5.1) is the caller's duty.  Bytes from the peer never raise: they become a `Failure`.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_fast",
        "_fragments",
        "_inflate",
        "_left",
        "_max",
        "_max_fragments",
        "_message",
        "_need",
        "_open",
        "_size",
        "_state",
        "_unmask",
        "_wsproto",
        "more",
        "skipped",
    )

    def __init__(
        self,
        max_message: int,
        *,
        max_fragments: int = MAX_FRAGMENTS,
        deflate: Agreement | None = None,
        fast: bool = True,
        unmask: Unmask = unmask,
    ) -> None:
        self.more = False  # the last `events` stopped at its limit; what is buffered may hold another frame
        self.skipped = 0  # whole messages that came after our close frame and were not looked at
        self._max = max_message
        self._max_fragments = max_fragments
        self._inflate = None if deflate is None else Inflate(deflate, max_message)
        self._fast = fast
        self._unmask = unmask
        self._state = OPEN
        self._buffer: BytesLike = b""  # unparsed, from `_at` on
        self._at = 0
        self._need = 1  # so many unparsed bytes make the next look worthwhile
        self._left = 0  # payload bytes still to come of a slow data frame whose header is done
        self._open = False  # that frame, or the last one, was not the last of its message
        self._size = 0  # payload bytes announced so far of the message that is open
        self._fragments = 0  # frames of it so far
        self._message: bytearray | None = None  # those that arrived, as bytes: a str takes up to four times as much
        self._wsproto: Connection | None = None

    def allow(self, size: int) -> None:
        """Messages may have `size` bytes, if they may not have more already."""
        self._max = max(self._max, size)
        if self._inflate is not None:
            self._inflate.allow(size)

    # -- reading

    @property
    def buffered(self) -> int:
        """Bytes received and not parsed yet."""
        return len(self._buffer) - self._at

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; `data` may be reused after."""
        if self._state == DEAD:
            return
        if not self._buffer:
            self._buffer = bytes(data)
            return
        # Many small reads behind one large frame must not copy it each time: only a bytearray grows in place, and
        # only it drops its front without moving the rest.
        buffer = self._buffer if isinstance(self._buffer, bytearray) else bytearray(self._buffer)
        if self._at:
            del buffer[: self._at]
            self._at = 0
        buffer += data
        self._buffer = buffer

    def events(self, limit: int = 64) -> list[FrameEvent]:
        """What the bytes so far mean, from at most `limit` frames; `more` tells if that was where it stopped.

        Frames without an event count too (a fragment, a frame skipped while closing), so an empty list may come with
        `more`: a read full of them must not hold up a whole loop.
        """
        found: list[FrameEvent] = []
        self.more = False
        if len(self._buffer) - self._at < self._need:
            return found
        self._need = 1
        left = limit
        while left > 0:
            if self._fast and not self._open and not self._left and self._state == OPEN:
                left = self._fast_frames(found, left)
                if not left or self._at == len(self._buffer):
                    break
            if not self._slow_frame(found):
                break
            left -= 1
        self._tidy(left <= 0)
        return found

    def _fast_frames(self, found: list[FrameEvent], left: int) -> int:
        """Decode fast frames up to the first that is none, or until `left` are done; how many are left then.

        The hottest code there is, hence one long function.  Whatever is odd in the slightest ends it: the slow way
        looks at the same bytes again and says what is wrong.
        """
        buffer, at, largest, unmask = self._buffer, self._at, self._max, self._unmask
        end = len(buffer)
        append = found.append
        inlined = unmask is unmask_python
        while left and end - at >= 6:
            first = buffer[at]
            if first != FIN_TEXT and first != FIN_BINARY:
                break
            size = buffer[at + 1] - 0x80
            start = at + 6
            if size > MAX_CONTROL:
                if size == 127:
                    break
                size = buffer[at + 2] << 8 | buffer[at + 3]
                start = at + 8
                if size <= MAX_CONTROL:
                    break
            stop = start + size
            if size < 0 or size > largest or stop > end:
                break
            if inlined and size <= MAX_CONTROL:
                both = from_bytes(buffer[at + 2 : stop])
                bits, repeat, cut = SMALL[size]
                payload = (both ^ ((both >> bits) * repeat >> cut)).to_bytes(size)
            else:
                payload = unmask(buffer[start:stop], buffer[start - 4 : start])
            if first == FIN_TEXT:
                try:
                    append(payload.decode())
                except UnicodeDecodeError:
                    break
            else:
                append(payload)
            at = stop
            left -= 1
        self._at = at
        return left

    def _slow_frame(self, found: list[FrameEvent]) -> bool:
        """Take one frame, or what is here of its payload, the slow way; False when that needs more bytes."""
        if self._state == DEAD:
            return False
        if self._left:
            return self._payload(b"", found)
        size = self._payload_size(found)
        if size is None:
            return False
        head = head_size(self._buffer[self._at + 1])
        if self._waits_whole(head, size):
            self._need = head + size
            return False
        first = self._buffer[self._at]
        if first & CONTROL:
            self._control(first, self._take(head + size), found)
            return True
        if not self._open:
            self._size = self._fragments = 0
        self._size += size
        self._fragments += 1
        self._open = not first & FIN
        self._left = size
        return self._payload(self._take(head), found)

    def _payload_size(self, found: list[FrameEvent]) -> int | None:
        """The payload size of the next frame once its header is whole and right, else None.

        Every rule is applied as soon as the bytes it speaks of are here: a peer that is wrong and then silent must
        hear of it.
        """
        buffer, at, here = self._buffer, self._at, self.buffered
        if here < 2:
            self._need = 2
            return None
        first, second = buffer[at], buffer[at + 1]
        fault = header_fault(first, second, self._open, self._inflate is not None)
        if fault:
            self._fail(PROTOCOL_ERROR, fault, found)
            return None
        head = head_size(second)
        if here < head - 4:
            self._need = head - 4
            return None
        size = (second & 0x7F) if head == 6 else from_bytes(buffer[at + 2 : at + head - 4])
        fault = size_fault(size, head)
        if fault:
            self._fail(PROTOCOL_ERROR, fault, found)
            return None
        if not first & CONTROL and self._state == OPEN and self._over_limit(first, size, found):
            return None
        if here < head:
            self._need = head
            return None
        return size

    def _over_limit(self, first: int, size: int, found: list[FrameEvent]) -> bool:
        """Would this data frame carry its message over a limit?  Then it fails by its header alone."""
        before, fragments, compressed = 0, 0, bool(first & RSV1)
        if self._open:
            before, fragments = self._size, self._fragments
            compressed = self._inflate is not None and self._inflate.compressed
        if before + size > (largest_deflated(self._max) if compressed else self._max):
            self._fail(MESSAGE_TOO_BIG, f"a message of more than {self._max} bytes", found)
            return True
        if fragments >= self._max_fragments:
            self._fail(POLICY_VIOLATION, f"a message in more than {self._max_fragments} fragments", found)
            return True
        return False

    def _waits_whole(self, head: int, size: int) -> bool:
        """Is the frame incomplete, and one of those that are only looked at whole?

        Those are control frames, and binary frames that will be fast.  Never text: its bytes are judged as they
        arrive, so that bad UTF-8 fails at once (RFC 6455 8.1), and never what is skipped.
        """
        if self.buffered >= head + size:
            return False
        first = self._buffer[self._at]
        if first & CONTROL:
            return True
        return self._fast and first == FIN_BINARY and head < 14 and self._state == OPEN

    def _take(self, size: int) -> bytes:
        start = self._at
        self._at = start + size
        return bytes(self._buffer[start : self._at])

    def _payload(self, head: bytes, found: list[FrameEvent]) -> bool:
        """Pass on what is here of a data frame's payload, behind its header; False when there is nothing."""
        size = min(self._left, self.buffered)
        if not (size or head):
            return False
        self._left -= size
        if self._state == CLOSING:
            self._at += size
            self.skipped += not self._left and not self._open
        else:
            self._feed(head + self._take(size), found)
        return True

    def _control(self, first: int, frame: bytes, found: list[FrameEvent]) -> None:
        if self._state == CLOSING and first not in (FIN_CLOSE, FIN_PONG):
            return  # RFC 6455 5.5.1: nothing may follow our close frame, so there is no answer to give
        if close_code(first, frame) == BAD_GATEWAY:
            self._feed(with_code(frame, BAD_GATEWAY ^ CloseReason.TRY_AGAIN_LATER), found)
            _amend(found, BAD_GATEWAY)
        else:
            self._feed(frame, found)

    def _feed(self, data: bytes, found: list[FrameEvent]) -> None:
        """Give wsproto bytes of one frame and translate what it makes of them."""
        wsproto, inflate = self._wsproto, self._inflate
        if wsproto is None:
            wsproto = self._wsproto = Connection(ConnectionType.SERVER, None if inflate is None else [inflate])
        wsproto.receive_data(data)
        for event in wsproto.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._collect(event, found)
            elif isinstance(event, Ping):
                found.append(PingReceived(bytes(event.payload)))
            elif isinstance(event, Pong):
                found.append(PongReceived(bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                self._ended(event, wsproto.state, found)

    def _collect(self, event: TextMessage | BytesMessage, found: list[FrameEvent]) -> None:
        data = event.data
        if self._message is None and event.message_finished:
            found.append(data if isinstance(data, str) else bytes(data))
            return
        # One growing bytearray: any number of tiny or empty fragments costs no more than the bytes they carry.
        message = self._message = self._message if self._message is not None else bytearray()
        message += data.encode() if isinstance(data, str) else data
        if event.message_finished:
            self._message = None
            found.append(message.decode() if isinstance(data, str) else bytes(message))

    def _ended(self, event: CloseConnection, state: ConnectionState, found: list[FrameEvent]) -> None:
        """wsproto reports a violation as a received close; only its state, still OPEN then, tells the two apart."""
        reason = event.reason or ""
        if state is ConnectionState.OPEN:
            fault = self._inflate.fault if self._inflate is not None else ""
            self._fail(int(event.code), fault or reason, found)
        else:
            self._die()
            found.append(CloseReceived(int(event.code), reason))

    def _fail(self, code: int, detail: str, found: list[FrameEvent]) -> None:
        self._die()
        found.append(Failure(code, detail))

    def _die(self) -> None:
        self._state = DEAD
        self._buffer = b""
        self._at = self._left = 0
        self._message = self._wsproto = self._inflate = None

    def _tidy(self, limited: bool) -> None:
        """Keep no more than what is needed to go on."""
        if not self._open and not self._left:
            self._wsproto = None
        if self._at == len(self._buffer):
            self._buffer = b""
            self._at = 0
        elif limited:
            self.more = True  # and `_at` stays: moving the rest for every `limit` frames would be quadratic
        elif self._at:
            self._buffer = self._buffer[self._at :]
            self._at = 0

    # -- writing

    text = staticmethod(text_frame)
    binary = staticmethod(binary_frame)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping frame; b"" behind our close frame.  ValueError above 125 bytes (RFC 6455 5.5)."""
        return self._unless_closing(Ping(payload))

    def pong(self, payload: bytes) -> bytes:
        """A pong frame, also for a ping whose close frame was read with it; b"" behind our own close frame.

        ValueError above 125 bytes (RFC 6455 5.5).
        """
        return self._unless_closing(Pong(payload))

    def _unless_closing(self, event: Ping | Pong) -> bytes:
        frame = control_frame(event)
        return b"" if self._state == CLOSING else frame

    def close(self, code: int | None, reason: str = "") -> bytes:
        """Our close frame, with no payload for None.  From now on only the peer's close frame counts.

        Raises ValueError for a code or reason that may not be sent; nothing changes then.
        """
        frame = close_frame(code, reason)
        if self._state == OPEN:
            self._state = CLOSING
            self._need = 1  # a frame that waited whole is skipped as it comes
            self._message = self._wsproto = None
            if self._inflate is not None:
                self._inflate.forget()
        return frame

    @staticmethod
    def reply(close: CloseReceived) -> bytes:
        """The close frame that confirms the peer's: its own code and reason, or none (RFC 6455 5.5.1)."""
        return close_frame(None if close.code == NO_STATUS else close.code, close.reason)

    @staticmethod
    def fail(failure: Failure) -> bytes:
        """The close frame that ends a connection the peer broke: the code only; the detail is for our log."""
        return close_frame(failure.code, "")


def _amend(found: list[FrameEvent], code: int) -> None:
    """wsproto was shown another code: report the true one, unless it found the reason to be wrong."""
    last = found[-1]
    if isinstance(last, CloseReceived):
        found[-1] = CloseReceived(code, last.reason)
