"""The numbers of several processes as one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit import Request
from channelkit.observing.prometheus import METRICS, Numbers
from channelkit.observing.totals import NOTHING, Totals, lasting, merged

LABELLED = {name for name, _, _, _, label in METRICS if label}


def numbers(**some: Any) -> Numbers:
    return {**NOTHING, **some}


def test_what_is_summed_and_what_is_not() -> None:
    """Counters and gauges are summed, label by label; of the longest of each the longest is kept."""
    one = numbers(requests_total=3, channels=2, responses_total={"200": 2, "404": 1}, longest_tick_seconds=0.5)
    two = numbers(requests_total=4, channels=1, responses_total={"200": 5, "101": 1}, longest_tick_seconds=0.25)
    assert merged(one, two) == numbers(
        requests_total=7, channels=3, responses_total={"200": 7, "404": 1, "101": 1}, longest_tick_seconds=0.5
    )


def test_what_stays_of_a_process() -> None:
    """What it has counted, and its longest; what was open has ended with it."""
    one = numbers(requests_total=3, channels=2, responses_total={"200": 2}, longest_stall_seconds=0.5, handlers=1)
    assert lasting(one) == numbers(requests_total=3, responses_total={"200": 2}, longest_stall_seconds=0.5)


def test_a_process_that_lacks_a_name() -> None:
    """It counts as nothing: what comes by a pipe is not trusted to be complete."""
    assert merged(numbers(channels=1), {"requests_total": 2}) == numbers(channels=1, requests_total=2)


# What processes do, in any order: count on, end, die before they have told anything.
counted = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)) for name in LABELLED}
    | {name: st.integers(0, 9) for name, *_ in METRICS if name not in LABELLED}
)
steps = st.lists(st.tuples(st.integers(1, 3), st.one_of(st.none(), counted)), max_size=20)


@given(steps)
def test_counters_never_go_back(taken: list[tuple[int, Numbers | None]]) -> None:
    """Whatever processes tell, and whenever they end; a number may be used again for another process."""
    totals, living = Totals(), dict[int, Numbers]()
    before = totals.now()
    for process, more in taken:
        if more is None:
            totals.ended(process, died=True)
            living.pop(process, None)
        else:  # a process's own never go back
            living[process] = merged(living.get(process, NOTHING), more)
            totals.tell(process, json.loads(json.dumps(living[process])))
        after = totals.now()
        for name, kind, *_ in METRICS:
            if kind == "counter" or name.startswith("longest_"):
                _not_less(before[name], after[name])
            elif not living:
                assert after[name] == 0
        before = after


def _not_less(before: Any, after: Any) -> None:
    if isinstance(before, dict):
        assert all(after[key] >= number for key, number in before.items())
    else:
        assert after >= before


def test_as_text() -> None:
    """All names, without a label for the process, and how the processes are."""
    totals = Totals()
    totals.tell(1, numbers(requests_total=3, responses_total={"200": 2}))
    totals.tell(2, numbers(requests_total=4, responses_total={"200": 4}))
    totals.ended(1, died=True)
    totals.ended(7, died=False)  # which had told nothing
    text = totals.text()
    told = set(re.findall(r"^channelkit_\S+ \d+$", text, re.MULTILINE))
    assert told >= {
        "channelkit_requests_total 7",
        'channelkit_responses_total{status="200"} 6',
        "channelkit_processes 1",
        "channelkit_process_deaths_total 1",
    }
    assert text.count("# TYPE") == len(METRICS) + 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/metrics", 200), ("POST", "/metrics", 405), ("GET", "/", 404)]
)
async def test_where_they_are(method: str, path: str, status: int) -> None:
    """There, and nowhere else."""
    assert (await Totals().handler(Request(method=method, target=path))).status == status
