"""No clause is forgotten: each has a row, a test, or a line that says why not."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.websocket import rows, test_closing, test_compression, test_frames, test_handshake
from tests.conformance.websocket.clauses import ELSEWHERE, MUSTS

MODULES = {
    "rows": rows,
    "test_closing": test_closing,
    "test_compression": test_compression,
    "test_frames": test_frames,
    "test_handshake": test_handshake,
}


def in_tables() -> set[str]:
    clauses = {row.clause for row in (*test_frames.ROWS, *test_compression.FRAMES)}
    return clauses | {row.clause for row in test_handshake.ROWS} | {row[0] for row in test_compression.AGREED}


def not_covered() -> set[str]:
    lines = (Path(__file__).parents[1] / "not-covered-websocket.md").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"\| (.+?) \| (.+) \|", line) for line in lines]
    return {line[1] for line in found if line and line[1] != "clause"}


def test_each_clause_has_a_row_or_a_reason() -> None:
    """A clause is in a table, in a test of its own, or in the list of what is not covered and then in neither."""
    assert set(MUSTS) == in_tables() | set(ELSEWHERE) | not_covered()
    assert not not_covered() & (in_tables() | set(ELSEWHERE))


def test_what_is_tested_elsewhere_is_there() -> None:
    """The tests named for clauses exist."""
    for name in ELSEWHERE.values():
        module, function = name.split(".")
        assert hasattr(MODULES[module], function), name
