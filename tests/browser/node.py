"""What the tests of the browser's module share: node, where the module is, and programs that talk in lines of JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

NODE = shutil.which("node")
MISSING = "no `node` on the PATH (apt-get install nodejs)"
PROGRAMS = Path(__file__).parent / "js"
MODULES = Path(str(resources.files("channelkit.browser")))


class Program:
    """A program of `js/` that answers each line of JSON with one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: Any) -> Any:
        """One line there, one back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the program died; its complaint is above"
        return json.loads(answer)


@contextmanager
def program(name: str, *arguments: str) -> Iterator[Program]:
    """Run `js/NAME MODULES ARGUMENTS`; it ends with the `with`."""
    assert NODE is not None
    line = [NODE, str(PROGRAMS / name), str(MODULES), *arguments]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            yield Program(process)
        finally:
            process.kill()
