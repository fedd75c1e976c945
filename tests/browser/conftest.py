"""The browsers for all tests that need one; each is started once a process, and by one process only."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bidi
import cdp
import driver
import webdriver

DRIVERS: dict[str, ModuleType] = {"chromium": cdp, "firefox": bidi, "webkit": webdriver}
CHOSEN = os.environ.get("CHANNELKIT_BROWSERS", "chromium,firefox").split(",")


@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CHOSEN])
def browser(request: pytest.FixtureRequest) -> Iterator[driver.Browser]:
    protocol = DRIVERS[request.param]
    program = shutil.which(protocol.PROGRAM)
    if program is None:
        pytest.skip(f"no `{protocol.PROGRAM}` on the PATH (apt-get install {protocol.PACKAGE})")
    with protocol.browser(program) as made:
        yield made
