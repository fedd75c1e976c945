"""Every mutant still finds its place: an edit that no longer applies proves nothing, and nobody would notice."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MUTANTS: list[dict[str, Any]] = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_the_place_is_there(number: int) -> None:
    """What it replaces stands in its file exactly once, and its test is a file that exists."""
    mutant = MUTANTS[number]
    source = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    old = mutant["old"]
    assert source.count(old) == 1, f"{mutant['promise']} in {mutant['file']}: {source.count(old)} times\n{old}"
    (path, *_) = shlex.split(mutant["test"])
    assert (ROOT / path.partition("::")[0]).is_file(), mutant["test"]
