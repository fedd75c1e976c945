"""Sessions, CK/1: a Channel's messages that outlive connections.  Pure: no waiting, no sockets, time as an argument.

The specification is docs/protocol.md; P1 to P8 in comments are its sections, F1 to F29 the flaws its rules repair.

    frames      the nouns: Text, Binary, End, Ack, Ping, Hello, ClientHello
    codec       every frame in every form: lines of JSON, WebSocket messages, SSE blocks, bodies
    query       the query of a request
    identity    ids, secrets and their comparison, instance numbers
    sender, receiver      one direction's two halves: numbers and window; take rule and hold
    admission, refusals   who may pass, and every "no" with status, code and ack
    acks        when a side says what it has
    pacing      back-off, the rate rule, early rotation
    life, ending          open, closing, over; how a session ended
    parcel      a message before it has a number, shared by a group's members
    actions, doing        what the machines tell their bindings, and doing it in order
    server      ServerSession         client      ClientSession

What a server's binding does (one session is driven from one task or thread; every call returns actions, which are
done in order before the next call):

    a request      `admission.origin`, `query.parse_query`, look up the sid, `identity.matches`, `admission.credential`;
                   any BadMessage: `refusals.malformed`
    attach         `attach(kind, a, ack, now, wait=)`; a WebSocket: `received` nothing before its ClientHello, whose `a`
                   and `recv` are these.  Refused: answer `refusal` (`/events`: `refusals.for_events`; WebSocket: close
                   `close_code`, `close_reason`).  Admitted: remember `number`, which `Write` and `Finish` name
    a WebSocket message    `codec.decode_websocket`, `received(number, frame, now)` (None: `heard`); BadMessage:
                   `broke(number, error.close_code, error.detail, now)`
    a connection's end, a stalled write     `detached(number, now)`
    POST           `codec.decode_batch` or `decode_body`, `post(a, ack, frames, now)`; then pull and settle; then
                   `answer(posted)`, and only now the response
    DELETE         `delete(a, now)`
    messages       while the inbox takes some: `pull()`; then, once, `settle(now)`.  With ack="processed" also
                   `processed()` after each handler, then `settle`
    send           `is_open`, `frames.check_payload`, `has_room(size)`; no room: `blocked(now)`, wait for a `Room`, look
                   again; then `send(payload, now)`.  `flush` waits until `sender.empty`
    close          `close(code, reason, now, timeout)` in order, `kill(code, reason, now)` at once
    time           `deadline` may have moved after every call: `tick(now)` then

and what it does for an action: `Write` encode for the attachment's kind and write; `Finish` end that connection (poll:
its answer was written, or `refusal`, or 204); `Start` begin the handler; `Attached`, `Detached` the callbacks; `Room`
wake senders and flush; `Ended` wake everything, `on_close`.  After `Ended` the session stays in the table until
`forget_at`, refusing with 410.  A poll's `Write` is its whole 200.
"""
