"""A handler is found by its name, and a name that leads nowhere is told with the cure."""

from __future__ import annotations

import site
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from channelkit import ASGIHandler
from channelkit.workers import TargetError, load, why

SOURCE = """
async def room(request):
    return "here"

class Site:
    async def chat(self, request):
        return "chat"

class Handler:
    def __init__(self, request):
        pass

def make():
    return room

def two(a, b):
    pass

site = Site()
number = 7

async def application(scope, receive, send):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "target_app.py").write_text(SOURCE)
    (tmp_path / "target_broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "target_ends.py").write_text("import sys; sys.exit(0)\n")
    (tmp_path / "target_syntax.py").write_text("def broken(\n")
    (tmp_path / "target_folder").mkdir()
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("target_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["target_app:room", "target_app:site.chat"])
def test_found(folder: Path, name: str) -> None:
    """A function of a module, and an attribute of an object in it."""
    assert callable(load(name, str(folder)))


def test_asgi(folder: Path) -> None:
    """An ASGI application is wrapped when asked for, and otherwise recognised."""
    assert isinstance(load("target_app:application", str(folder), asgi=True), ASGIHandler)
    with pytest.raises(TargetError, match="looks like an ASGI application, not a handler; --asgi serves it"):
        load("target_app:application", str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("target_app", "a handler is named module:handler"),
        (":room", "a handler is named module:handler"),
        ("target_app:", "a handler is named module:handler"),
        ("target_app.py:room", "is a file; name the module instead: target_app:room"),
        ("./target_app.py:room", "is a file; name the module instead: target_app:room"),
        ("target_none:room", "there is no module named 'target_none'"),
        ("target_app.inner:room", "there is no module named 'target_app.inner'"),
        ("target_app:rom", "target_app has no 'rom'; did you mean 'room'?"),
        ("target_app:site.xyz", "target_app has no 'site.xyz'"),
        ("site:room", f"site ({site.__file__}, which is not in "),
        ("time:room", "time (built into Python, which is not in "),
        ("target_app:site:chat", "a handler is named module:handler"),
        ("target_app:room.", "a handler is named module:handler"),
        (".target_app:room", "a handler is named module:handler"),
        ("target app:room", "a handler is named module:handler"),
        ("", "a handler is named module:handler"),
        ("target_folder:room", "target_folder has no 'room'"),
        ("target_ends:room", "its module ended the process while it was imported: sys.exit(0)"),
        ("target_app:Handler", "is a class, not a handler: give an object of it"),
        ("target_app:make", "takes () (a function that makes a handler is called where it is named"),
        ("target_app:two", "takes (a, b) ("),
        ("target_app:number", "target_app:number is an int, not a handler"),
    ],
)
def test_a_name_that_leads_nowhere(folder: Path, name: str, message: str) -> None:
    """Each mistake is named."""
    with pytest.raises(TargetError) as told:
        load(name, str(folder))
    assert message in str(told.value)


def test_a_module_that_cannot_be_imported(folder: Path) -> None:
    """What is missing is another module: its own error says so, with its traceback."""
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load("target_broken:room", str(folder))


@pytest.mark.parametrize(
    ("module", "first", "last"),
    [("broken", "Traceback", "ModuleNotFoundError"), ("syntax", '  File "', "SyntaxError")],
)
def test_what_a_module_raises_is_told_from_its_own_first_line(folder: Path, module: str, first: str, last: str) -> None:
    """Not with the way there, through us and the machinery of import."""
    with pytest.raises((ModuleNotFoundError, SyntaxError)) as told:
        load(f"target_{module}:room", str(folder))
    assert "importlib" in "".join(map(str, told.traceback))
    lines = why(told.value).strip("\n").splitlines()
    assert lines[0].startswith(first)
    assert lines[-1].startswith(last)
    files = [line for line in lines if line.startswith("  File ")]
    assert len(files) == 1
    assert f"target_{module}.py" in files[0]
