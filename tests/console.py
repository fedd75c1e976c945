"""The consoles of the documents, typed as they stand at a real server, by the real curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def check(name: str, port: int) -> None:
    """Every command of the first ```console of a document prints what stands under it.

    HOST is the server; the first answer that has them gives S and K, the id and the secret of a session; `...` stands
    for anything but the end of a line, or an id or a secret where it is all of a JSON string.
    """
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    variables: dict[str, str] = {}
    for command, wanted in _commands(DOCS / name):
        line = command.replace("HOST", f"127.0.0.1:{port}")
        done = subprocess.run(
            ["bash", "-c", line], env=variables, capture_output=True, text=True, timeout=20, check=False
        )
        printed = done.stdout.rstrip("\n")
        if not variables and printed.startswith('{"v":'):
            hello = json.loads(printed)
            variables = {"S": hello["sid"], "K": hello["secret"]}
        pattern = re.escape(wanted.rstrip("\n")).replace(re.escape('"..."'), '"[A-Za-z0-9_-]+"')
        pattern = pattern.replace(re.escape("..."), "[^\n]*")
        assert re.fullmatch(pattern, printed), f"{command}\nprints {printed}\nand not {wanted}"


def _commands(page: Path) -> list[tuple[str, str]]:
    """Each command and what it prints."""
    block = page.read_text(encoding="utf-8").partition("```console\n")[2].partition("\n```")[0]
    commands: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *printed = part.rstrip("\n").split("\n")
        while printed and printed[0].startswith("> "):
            command += "\n" + printed.pop(0)[2:]
        commands.append((command, "\n".join(printed)))
    assert commands, f"{page} has no console"
    return commands
