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
#: Whoever names browsers in CHANNELKIT_BROWSERS gets every test in each; else there is all in Chromium, and in Firefox
#: what is marked `every_browser`, on one loop: what is a matter of the browser, and not of the server.
NAMED = os.environ.get("CHANNELKIT_BROWSERS")
CHOSEN = (NAMED or "chromium,firefox").split(",")
#: The modules' types, where somebody names a `tsc` (npm install typescript).
collect_ignore = [] if os.environ.get("CHANNELKIT_TSC") else ["test_types.py"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if NAMED else [item for item in items if _is_extra(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_extra(item: pytest.Item) -> bool:
    params = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    return "firefox" in params and ("trio" in params or item.get_closest_marker("every_browser") is None)


@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CHOSEN])
def browser(request: pytest.FixtureRequest) -> Iterator[driver.Browser]:
    protocol = DRIVERS[request.param]
    program = shutil.which(protocol.PROGRAM)
    if program is None:
        pytest.skip(f"no `{protocol.PROGRAM}` on the PATH (apt-get install {protocol.PACKAGE})")
    with protocol.browser(program) as made:
        yield made
