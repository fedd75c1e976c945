#!/usr/bin/env python3
"""The project's shop: everything a contributor runs, with nothing installed but Python 3.11 or newer.

    python3 dev.py demo                         the chat, in your browser
    python3 dev.py test [--wheel] [pytest args] linters, type checkers, tests; with --wheel against the built wheel
    python3 dev.py check                        linters and type checkers only
    python3 dev.py bench [args]                 python -m benchmarks, with what it needs
    python3 dev.py mutants [name...] [--fast]   break the source on purpose; the tests must notice
    python3 dev.py soak [pytest args]           the property tests, a hundred times longer

Standard library only.  The first run makes .venv beside this file (with uv if it is there, else with venv and pip);
later runs use it again until pyproject.toml changes.  No activation is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    if sys.version_info < OLDEST:
        fail(f"channelkit needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")
    name, *rest = argv or ["help"]
    command = COMMANDS.get(name)
    if command is None:
        print(__doc__)
        return 0 if name in ("help", "-h", "--help") else 2
    try:
        return command(rest)
    except KeyboardInterrupt:
        return 130


def fail(text: str) -> NoReturn:
    """End with a message for the person at the keyboard."""
    sys.exit(f"dev.py: {text}")


def say(text: str) -> None:
    """Announce what comes next, before the output of what is announced."""
    print(f"\n== {text}", flush=True)


# -- the commands ------------------------------------------------------------------------------------------------------


def demo(args: list[str]) -> int:
    """The chat, from the checkout."""
    home = Environment(".venv").ready("trio")
    return home.call([str(home.bin / "channelkit"), "demo", *args])


def test(args: list[str]) -> int:
    """Linters, type checkers, tests.  All of them run even if one fails."""
    wheel = "--wheel" in args
    home = _wheel_environment() if wheel else Environment(".venv").ready("test")
    source = home.path if wheel else ROOT
    pytest_args = _on_all_cores([a for a in args if a != "--wheel"])
    pytest = partial(home.call, home.pytest(args=pytest_args), CHANNELKIT_SOURCE=str(source))
    return _all_of({**_checks(home), "pytest": pytest})


def _on_all_cores(args: list[str]) -> list[str]:
    """pytest's arguments, spread over the cores; a debugger wants one process.  More than four only start servers."""
    if any(arg.startswith(("-n", "--pdb", "--trace")) for arg in args):
        return args
    return ["-n", "auto", "--maxprocesses", "4", "--dist", "loadgroup", *args]


def check(args: list[str]) -> int:
    """Linters and type checkers."""
    if args:
        fail("check takes no arguments")
    return _all_of(_checks(Environment(".venv").ready("test")))


def bench(args: list[str]) -> int:
    """The benchmarks, which live in the checkout only."""
    home = Environment(".venv").ready("bench", "speed")
    return home.call([home.python, "-m", "benchmarks", *args])


def soak(args: list[str]) -> int:
    """The property tests, with many more examples."""
    home = Environment(".venv").ready("test")
    return home.call(
        home.pytest(args=args or ["tests/property", "tests/conformance", "tests/wire"]), HYPOTHESIS_PROFILE="soak"
    )


def _checks(home: Environment) -> dict[str, Callable[[], int]]:
    steps = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "pyright": ["pyright"],
    }
    return {name: partial(home.call, [str(home.bin / line[0]), *line[1:]]) for name, line in steps.items()}


def _all_of(steps: dict[str, Callable[[], int]]) -> int:
    failed = []
    for name, step in steps.items():
        say(name)
        if step() != 0:
            failed.append(name)
    say(f"failed: {', '.join(failed)}" if failed else "all good")
    return 1 if failed else 0


# -- virtual environments ----------------------------------------------------------------------------------------------


class Environment:
    """A virtual environment in the checkout, made and filled when needed.

    A stamp inside tells what it was made from; it is written last, so what was interrupted is made again.
    """

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.bin = self.path / ("Scripts" if os.name == "nt" else "bin")
        self.python = str(self.bin / "python")
        self._stamp = self.path / "made-by-dev.json"

    def ready(self, *extras: str, editable: bool = True) -> Environment:
        """See that it exists and holds the project's dependencies and those of `extras`; returns itself."""
        made_from, present = self._read_stamp()
        fresh = made_from == _fingerprint()
        if fresh and present.issuperset(extras):
            return self
        wanted = sorted({*extras, *present} if fresh else extras)
        if not fresh:
            self._make()
        say(f"installing channelkit[{','.join(wanted)}] into {self.path.name}")
        self.install([*(["--editable"] if editable else []), f"{ROOT}[{','.join(wanted)}]"])
        self._stamp.write_text(json.dumps({"made_from": _fingerprint(), "extras": wanted}))
        return self

    def install(self, what: list[str]) -> None:
        """Install into it, by uv or its own pip."""
        if uv := shutil.which("uv"):
            line = [uv, "pip", "install", "--quiet", "--python", self.python]
        else:
            line = [self.python, *PIP, "install", "--quiet"]
        if self.call([*line, *what]) != 0:
            fail(f"could not install into {self.path.name} (the reason is above); is the package index reachable?")

    def call(self, line: list[str], cwd: Path = ROOT, **variables: str) -> int:
        """Run a program with this environment first on the PATH; returns its exit code."""
        try:
            return subprocess.run(line, cwd=cwd, env=self.variables(**variables), check=False).returncode
        except FileNotFoundError:
            fail(f"{line[0]} is not there; remove {self.path} and try again")

    def variables(self, **more: str) -> dict[str, str]:
        """The variables of a program that runs in it."""
        path = f"{self.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.path), **more}

    def pytest(self, args: list[str]) -> list[str]:
        """The command line of pytest.  -P: the working directory must not hide what is installed."""
        return [self.python, "-P", "-m", "pytest", *args]

    def _make(self) -> None:
        if self.path.exists():
            if not self._stamp.exists():
                fail(f"{self.path} was not made by dev.py, which would replace it; move it away first")
            shutil.rmtree(self.path)
        say(f"making {self.path.name}")
        self.path.mkdir()
        self._stamp.write_text("{}")
        if subprocess.run(_venv_command(self.path), cwd=ROOT, check=False).returncode != 0:
            fail(f"could not make a virtual environment in {self.path} (the reason is above)")

    def _read_stamp(self) -> tuple[str, set[str]]:
        try:
            stamp = json.loads(self._stamp.read_text())
            return stamp.get("made_from", ""), set(stamp.get("extras", ()))
        except (OSError, ValueError):
            return "", set()


PIP = ["-m", "pip", "--disable-pip-version-check"]


def _venv_command(path: Path) -> list[str]:
    if uv := shutil.which("uv"):
        return [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(path)]
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            fail(
                f"this Python ({sys.executable}) lacks the module {module}, which its distributor keeps apart.\n"
                "        Debian, Ubuntu: apt-get install python3-venv.  Or install uv (https://docs.astral.sh/uv/)."
            )
    return [sys.executable, "-m", "venv", str(path)]


def _fingerprint() -> str:
    parts = [(ROOT / "pyproject.toml").read_bytes(), sys.version.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _wheel_environment() -> Environment:
    """An environment that holds the wheel as a user would get it, and no way back to the checkout's package."""
    home = Environment(".venv-wheel").ready("test", editable=False)
    say("building the wheel and installing it")
    with tempfile.TemporaryDirectory() as folder:
        if home.call(_wheel_command(home, folder)) != 0:
            fail("the wheel could not be built (the reason is above)")
        (wheel,) = Path(folder).glob("channelkit-*.whl")
        home.install(["--force-reinstall", "--no-deps", str(wheel)])
    return home


def _wheel_command(home: Environment, folder: str) -> list[str]:
    if uv := shutil.which("uv"):
        return [uv, "build", "--quiet", "--wheel", "--out-dir", folder]
    return [home.python, *PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]


# -- mutants -----------------------------------------------------------------------------------------------------------

PROMISES = [f"{kind}{number}" for kind, last in (("G", 20), ("S", 10), ("O", 8)) for number in range(1, last + 1)]
COPIED = ("channelkit", "tests", "examples", "pyproject.toml", "README.md", "LICENSE")
AT_ONCE = 2
MUTANT_TIMEOUT = 600.0  # seconds of real time for one mutant's test
TEST_FAILED = 1  # pytest's exit code; 2 to 5 mean that it could not run the test, which proves nothing


@dataclass(frozen=True)
class Mutant:
    """One edit of the source that breaks a promise, and the test that must notice."""

    promise: str
    file: str
    old: str
    new: str
    test: str

    def apply(self, tree: Path) -> str:
        """Edit the copy; returns what is wrong with the mutant itself, or nothing."""
        path = tree / self.file
        if not self.file.startswith("channelkit/") or not path.is_file():
            return f"no such file in the package: {self.file}"
        source = path.read_text(encoding="utf-8")
        if (count := source.count(self.old)) != 1:
            return f"`old` is in {self.file} {count} times, not once"
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")
        return ""


@dataclass(frozen=True)
class Verdict:
    """What became of one run: `good` if it was as it must be."""

    good: bool
    text: str
    seconds: float


def mutants(args: list[str]) -> int:
    """Apply every mutant to a copy of the tree and demand that its test fails there, and passes without it."""
    parser = argparse.ArgumentParser(prog="dev.py mutants")
    parser.add_argument("names", nargs="*", help="promises (G1) or parts of file names; default: all")
    parser.add_argument("--fast", action="store_true", help="only the first mutant of each promise")
    options = parser.parse_args(args)
    every = _read_mutants()
    chosen = _choose(every, options.names, fast=options.fast)
    home = Environment(".venv").ready("test")
    sound = _baselines(home, chosen)
    verdicts = _hunt(home, [mutant for mutant in chosen if sound[mutant.test]])
    proved = set(PROMISES) if options.names else {mutant.promise for mutant in every}
    return _table(chosen, verdicts, missing=[promise for promise in PROMISES if promise not in proved])


def _read_mutants() -> list[Mutant]:
    import tomllib  # not in Pythons that are told, above, that they are too old

    path = ROOT / "tests" / "mutants.toml"
    try:
        found = [Mutant(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", [])]
    except FileNotFoundError:
        fail(f"{path} is not there")
    except (TypeError, tomllib.TOMLDecodeError) as exc:
        fail(f"{path}: {exc}")
    if unknown := {mutant.promise for mutant in found} - set(PROMISES):
        fail(f"{path}: no such promise: {', '.join(sorted(unknown))}")
    return found


def _choose(every: list[Mutant], names: list[str], *, fast: bool) -> list[Mutant]:
    chosen = [m for m in every if not names or any(name == m.promise or name in m.file for name in names)]
    if fast:
        chosen = list({mutant.promise: mutant for mutant in reversed(chosen)}.values())[::-1]
    if not chosen:
        fail("no mutant is called that")
    return chosen


def _baselines(home: Environment, chosen: list[Mutant]) -> dict[str, bool]:
    """Whether each test passes on the unchanged source: if not, its failing would prove nothing."""
    tests = list(dict.fromkeys(mutant.test for mutant in chosen))
    say(f"{len(tests)} tests on the unchanged source")

    def passes(test: str) -> bool:
        verdict = _in_copy(home, test, None)
        print(f"{verdict.seconds:5.0f} s  {test}: {verdict.text}", flush=True)
        return verdict.good

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(tests, pool.map(passes, tests), strict=True))


def _hunt(home: Environment, chosen: list[Mutant]) -> dict[Mutant, Verdict]:
    say(f"{len(chosen)} mutants, {AT_ONCE} at once")

    def run(mutant: Mutant) -> Verdict:
        verdict = _in_copy(home, mutant.test, mutant)
        print(f"{verdict.seconds:5.0f} s  {mutant.promise:4} {mutant.file}: {verdict.text}", flush=True)
        return verdict

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(chosen, pool.map(run, chosen), strict=True))


def _in_copy(home: Environment, test: str, mutant: Mutant | None) -> Verdict:
    """Run a test in a fresh copy of the tree, with the mutant applied if there is one."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="channelkit-mutant-") as folder:
        tree = Path(folder)
        _copy(tree)
        problem = mutant.apply(tree) if mutant else ""
        good, text = (False, problem) if problem else _judge(home, test, tree, wanted=TEST_FAILED if mutant else 0)
    return Verdict(good, text, time.monotonic() - start)


def _copy(tree: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, tree / name)


def _judge(home: Environment, test: str, tree: Path, *, wanted: int) -> tuple[bool, str]:
    line = home.pytest(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(test)])
    # tests/conftest.py refuses to run if channelkit comes from anywhere but CHANNELKIT_SOURCE.
    variables = home.variables(
        PYTHONPATH=str(tree), CHANNELKIT_SOURCE=str(tree), HYPOTHESIS_PROFILE="mutants", PYTHONDONTWRITEBYTECODE="1"
    )
    try:
        done = subprocess.run(
            line, cwd=tree, env=variables, capture_output=True, text=True, timeout=MUTANT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return False, "hangs"
    if done.returncode == wanted:
        return True, "caught" if wanted else "passes"
    if done.returncode in (0, TEST_FAILED):
        return False, "NOT CAUGHT" if wanted else f"FAILS\n{_tail(done.stdout)}"
    return False, f"pytest exit {done.returncode}\n{_tail(done.stdout + done.stderr)}"


def _tail(text: str) -> str:
    return "\n".join(f"    | {line}" for line in text.splitlines()[-12:])


def _table(chosen: list[Mutant], verdicts: dict[Mutant, Verdict], missing: list[str]) -> int:
    say("result")
    unsound = Verdict(False, "its test fails already", 0)
    for mutant in chosen:
        verdict = verdicts.get(mutant, unsound)
        first_line = verdict.text.splitlines()[0]
        print(f"{mutant.promise:4} {'ok ' if verdict.good else '-- '} {first_line:24} {mutant.file:34} {mutant.test}")
    caught = sum(verdict.good for verdict in verdicts.values())
    print(f"\n{caught} of {len(chosen)} mutants caught")
    if missing:
        print(f"promises without a mutant: {', '.join(missing)}")
    return 0 if caught == len(chosen) and not missing else 1


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "test": test,
    "check": check,
    "bench": bench,
    "mutants": mutants,
    "soak": soak,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
