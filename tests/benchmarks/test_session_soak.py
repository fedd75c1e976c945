"""The soak of sessions, small: a real server, real clients, a proxy that breaks connections; nothing may be lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent.parent))  # behind all else: channelkit stays the one under test

from benchmarks.soak.sessions import main


@pytest.mark.parametrize(
    ("server", "workers", "client"), [("asyncio", 0, "trio"), ("trio", 0, "asyncio"), ("trio", 2, "asyncio")]
)
def test_nothing_is_lost_repeated_or_out_of_order(server: str, workers: int, client: str, tmp_path: Path) -> None:
    """300 messages each way in six sessions, while most of their connections are cut, stalled or refused."""
    out = tmp_path / "out.json"
    options = ["--messages", "300", "--sessions", "6", "--each", "50", "--pause", "0.5", "--limit", "60"]
    code = main([*options, "--server", server, "--workers", str(workers), "--client", client, "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["errors"] == []
    assert code == 0
    assert report["client_saw"]["messages"] == report["server_saw"]["counts"]["messages"] == 300
    assert report["faults"]["connections"] > 6
    assert not workers or report["server_saw"]["limits"]["connections_handed_over_total"] > 0


def test_a_soak_that_is_not_done_in_time_fails(tmp_path: Path) -> None:
    """The report says so, and no process is left."""
    out = tmp_path / "out.json"
    assert main(["--messages", "10000000", "--sessions", "2", "--limit", "2", "--out", str(out)]) == 1
    assert "not done after 2.0 s" in json.loads(out.read_text())["errors"]
