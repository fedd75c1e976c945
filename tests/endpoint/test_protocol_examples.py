"""The console of docs/protocol.md, typed as it stands at a real server, by the real curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from channelkit import Channel, Endpoint, run_server

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def lines_typed() -> list[tuple[str, str]]:
    """Each command and what it prints."""
    block = PAGE.read_text(encoding="utf-8").partition("```console\n")[2].partition("\n```")[0]
    commands: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *printed = part.rstrip("\n").split("\n")
        while printed and printed[0].startswith("> "):
            command += "\n" + printed.pop(0)[2:]
        commands.append((command, "\n".join(printed)))
    return commands


async def echo(channel: Channel) -> None:
    async for message in channel:
        await channel.send(message)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_console(backend: Literal["asyncio", "trio"]) -> None:
    """Every command prints what the page says; `...` stands for an id or a secret."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    commands = lines_typed()
    assert len(commands) > 10
    server = run_server(Endpoint(echo), port=0, backend=backend)
    variables: dict[str, str] = {}
    try:
        for command, wanted in commands:
            line = command.replace("HOST", f"127.0.0.1:{server.port}")
            done = subprocess.run(
                ["bash", "-c", line], env=variables, capture_output=True, text=True, timeout=20, check=False
            )
            printed = done.stdout.rstrip("\n")
            if not variables:
                hello = json.loads(printed)
                variables = {"S": hello["sid"], "K": hello["secret"]}
            pattern = re.escape(wanted.rstrip("\n")).replace(re.escape("..."), "[A-Za-z0-9_-]+")
            assert re.fullmatch(pattern, printed), f"{command}\nprints {printed}\nand not {wanted}"
    finally:
        server.stop(timeout=0.1)
