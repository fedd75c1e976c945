"""Who may pass: statuses, codes, the order of the steps, and the forms of refusals."""

from __future__ import annotations

import pytest

from channelkit.errors import BadMessage
from channelkit.session import admission, identity, refusals
from channelkit.session.admission import Standing
from channelkit.session.query import Query, parse_query

STANDING = Standing(a=5, acked=10, sent=20, recv=3, over=None)
OVER = Standing(a=5, acked=10, sent=20, recv=3, over="ended")


@pytest.mark.parametrize(
    ("standing", "a", "ack", "wanted"),
    [
        (STANDING, 5, 10, None),
        (STANDING, 6, 20, None),
        (STANDING, 4, 10, (409, "superseded", None)),
        (STANDING, 4, 99, (409, "superseded", None)),  # a superseded party learns nothing of the range
        (STANDING, 5, 9, (410, "lost", 3)),
        (STANDING, 5, 21, (410, "lost", 3)),
        (STANDING, 6, 21, (410, "lost", None)),  # another instance's numbers are not its own
        (OVER, 5, 10, (410, "ended", 3)),
        (OVER, 4, 99, (410, "ended", None)),
        (OVER, 6, 10, (410, "ended", None)),
    ],
)
def test_attach(standing: Standing, a: int, ack: int, wanted: tuple[int, str, int | None] | None) -> None:
    """P4 steps 3 to 5, in their order."""
    refusal = admission.attach(standing, a, ack)
    assert (refusal and (refusal.status, refusal.code, refusal.ack)) == wanted


@pytest.mark.parametrize(
    ("standing", "a", "ack", "wanted"),
    [
        (STANDING, 5, 0, None),  # old news is no error: answers overtake each other
        (STANDING, 5, 20, None),
        (STANDING, 4, 0, (409, "superseded", None)),
        (STANDING, 6, 0, (409, "superseded", None)),  # a new instance attaches first
        (STANDING, 5, 21, (400, "malformed", None)),
        (OVER, 5, 99, (410, "ended", 3)),
        (OVER, 6, 0, (410, "ended", None)),
    ],
)
def test_post(standing: Standing, a: int, ack: int, wanted: tuple[int, str, int | None] | None) -> None:
    """P5 steps 1 to 3, in their order."""
    refusal = admission.post(standing, a, ack)
    assert (refusal and (refusal.status, refusal.code, refusal.ack)) == wanted


def test_one_answer_for_all_that_is_unknown() -> None:
    """F20: unknown id, wrong secret and wrong principal get byte-identical answers."""
    verdicts = [(False, False, False), (True, False, True), (True, True, False), (False, True, True)]
    answers = [
        admission.credential(known=known, secret_matches=secret, principal_matches=principal)
        for known, secret, principal in verdicts
    ]
    assert [answer and (answer.status, answer.body, answer.headers) for answer in answers] == [
        (404, refusals.unknown().body, refusals.unknown().headers)
    ] * len(verdicts)
    assert admission.credential(known=True, secret_matches=True, principal_matches=True) is None
    assert b"ack" not in refusals.unknown().body


def test_secrets() -> None:
    """A secret matches itself only, and nothing matches where no session is or none was presented."""
    secret = identity.new_secret()
    kept = identity.digest(secret)
    assert identity.matches(kept, secret)
    assert not any(identity.matches(*pair) for pair in [(kept, "x"), (kept, None), (None, secret), (None, None)])
    assert not identity.matches(bytes(32), "")
    assert not identity.matches(kept, "\ud800")
    assert len(secret) == 43
    assert len(identity.new_sid("n1-")) == 25
    assert identity.new_sid() != identity.new_sid()


def test_instance_numbers() -> None:
    """A successor is larger than its predecessor, and than any twin's by the clock; never beyond what JSON holds."""
    assert identity.next_instance(1, 1_800_000_000_000, 7) == 1_800_000_000_000_007
    assert identity.next_instance(1_800_000_000_000_999, 1_800_000_000_000, 7) == 1_800_000_000_001_000
    assert identity.next_instance(2**53 - 1, 1, 1) == 2**53 - 1


OWN = frozenset({"https://h"})
LISTED = frozenset({"https://app"})


@pytest.mark.parametrize(
    ("sent", "cookie", "site", "referer", "passes"),
    [
        (None, False, None, None, True),  # curl
        ("https://h", False, None, None, True),
        ("https://app", True, None, None, True),
        ("https://evil", False, None, None, False),
        ("null", True, "same-origin", None, False),
        (None, True, None, None, False),  # F26: an <img> on another page
        (None, True, "same-origin", None, True),
        (None, True, "same-site", "https://h/x", False),
        (None, True, None, "https://h/page?x", True),
        (None, True, None, "https://evil/https://h/", False),
        (None, True, None, "https://h@evil/", False),
        (None, True, None, "nonsense", False),
    ],
)
def test_origin(sent: str | None, cookie: bool, site: str | None, referer: str | None, passes: bool) -> None:
    """P8: Origin, else Sec-Fetch-Site, else Referer must prove a cookie's request; a bearer needs none."""
    refusal = admission.origin(sent=sent, own=OWN, allowed=LISTED, by_cookie=cookie, fetch_site=site, referer=referer)
    assert (refusal is None) == passes
    assert refusal is None or (refusal.status, refusal.code) == (403, "origin")


def test_refusals_to_an_event_source() -> None:
    """F12: what will pass is 200 with `retry` and the presented id; what will not is a status that stops it."""
    later = refusals.for_events(refusals.draining(3), 7)
    assert (later.status, later.content_type) == (200, "text/event-stream")
    assert later.body == b'retry: 5000\nevent: ck-refused\ndata: "draining"\nid: 7\n\n'
    for refusal, status in [
        (refusals.over("ended", 1), 204),
        (refusals.superseded(), 204),
        (refusals.over("abandoned", 1), 410),
        (refusals.unknown(), 404),
        (refusals.origin(), 403),
    ]:
        assert refusals.for_events(refusal, 7).status == status


def test_refusals_to_a_websocket() -> None:
    """The close code says the status, its reason the code and the ack."""
    refusal = refusals.over("ended", 12)
    assert (refusal.close_code, refusal.close_reason) == (4410, "ended 12")
    assert refusals.read_close_reason("ended 12") == ("ended", 12)
    assert refusals.read_close_reason("superseded") == ("superseded", None)
    assert refusals.read_close_reason("x -1") == ("x", None)


def test_retry_after_is_rounded_up() -> None:
    """A client that waits as told does not come too early."""
    assert dict(refusals.rate(0, 0.2).headers)["Retry-After"] == "1"
    assert dict(refusals.rate(0, 2.2).headers)["Retry-After"] == "3"
    assert "Retry-After" not in dict(refusals.unknown().headers)
    assert dict(refusals.unknown().headers)["Cache-Control"] == "no-store, no-transform"


def test_too_many_sessions() -> None:
    """The server's shortage is 503, the principal's own doing 429; both pass."""
    assert [(r.status, r.code) for r in (refusals.crowded(), refusals.crowded(own_fault=True))] == [
        (503, "full"),
        (429, "full"),
    ]


def test_queries() -> None:
    """Members have defaults, Last-Event-ID stands above `ack`, and what is not decimal is named."""
    assert parse_query({}) == Query()
    assert parse_query({"a": "2", "ack": "3", "n": "4", "wait": "2.5", "x": "y"}) == Query(2, 3, 4, 2.5)
    assert parse_query({"ack": "3"}, last_event_id="9").ack == 9
    assert parse_query({"ack": "3"}, last_event_id="").ack == 3
    for members, header, named in [
        ({"a": "0"}, None, "a must"),
        ({"ack": "-1"}, None, "ack must"),
        ({"ack": "0"}, "x", "Last-Event-ID must"),
        ({"n": "1.5"}, None, "n must"),
        ({"wait": "1e9"}, None, "wait must"),
        ({"wait": "nan"}, None, "wait must"),
        ({"a": "1" * 5000}, None, "a must"),
    ]:
        with pytest.raises(BadMessage, match=named):
            parse_query(members, header)


def test_malformed_is_told_by_its_status() -> None:
    """400 names the mistake, 413 is about size."""
    refusal = refusals.malformed(BadMessage("n must be a number"))
    assert (refusal.status, refusal.code, refusal.reason) == (400, "malformed", "n must be a number")
