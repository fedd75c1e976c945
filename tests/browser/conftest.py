"""One browser for all tests that need one; it is started once a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import cdp

EXECUTABLE = cdp.find_browser()


@pytest.fixture(scope="session")
def browser() -> Iterator[cdp.Browser]:
    if EXECUTABLE is None:
        pytest.skip("no `chromium` on the PATH (apt-get install chromium)")
    with cdp.browser(EXECUTABLE) as made:
        yield made
