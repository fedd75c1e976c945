"""What every test shares: the two loops, the sizes of property tests, and the rule about skips."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

import channelkit

hypothesis.settings.register_profile("dev", deadline=None, max_examples=30)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
# That a mutant is found is enough; nobody reads its smallest plan.
hypothesis.settings.register_profile(
    "mutants", hypothesis.settings.get_profile("ci"), phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=5000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

SOURCE = os.environ.get("CHANNELKIT_SOURCE")
FORBID_SKIPS = bool(os.environ.get("CHANNELKIT_FORBID_SKIPS"))


def pytest_configure() -> None:
    """Refuse to test another channelkit than the one asked for: a wheel, or a mutated copy."""
    if SOURCE and not Path(channelkit.__file__).is_relative_to(Path(SOURCE).resolve()):
        raise pytest.UsageError(f"channelkit was imported from {channelkit.__file__}, not from {SOURCE}")


def pytest_report_header() -> str:
    """Tell which channelkit is tested."""
    return f"channelkit: {Path(channelkit.__file__).parent}"


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both loops."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips for want of a tool is a failure where all tools are promised to be there (.ci/run)."""
    report = yield
    if FORBID_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        _turn_into_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if FORBID_SKIPS and report.skipped:
        _turn_into_failure(report)
    return report


def _turn_into_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"skipped, and CHANNELKIT_FORBID_SKIPS is set: {report.longrepr}"
