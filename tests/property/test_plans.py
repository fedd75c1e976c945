"""Every promise on every transport, both loops and both pumps: random plans, judged by the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.oracle import judge
from channelkit.testing.plans import TRANSPORTS, Pump, TransportName, run_plan
from channelkit.testing.strategies import plans

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("pump", ["stream", "reactor"])
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=CHECKS)
@given(data=st.data(), randomness=st.random_module())
def test_every_promise(
    backend: Backend, pump: Pump, transport: TransportName, data: st.DataObject, randomness: Any
) -> None:
    """Whatever both sides and the network do, all promises hold."""
    judge(run_plan(data.draw(plans(transport)), backend, pump))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=CHECKS, max_examples=max(1, settings().max_examples // 2))
@given(data=st.data(), randomness=st.random_module())
def test_every_promise_under_asgi(
    backend: Backend, transport: TransportName, data: st.DataObject, randomness: Any
) -> None:
    """The same inside an ASGI application.  Half the examples: each goes through two servers."""
    judge(run_plan(data.draw(plans(transport)), backend, "asgi"))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(suppress_health_check=CHECKS, max_examples=max(1, settings().max_examples // 3))
@given(data=st.data(), randomness=st.random_module())
def test_every_promise_over_tls(
    backend: Backend, transport: TransportName, data: st.DataObject, randomness: Any
) -> None:
    """The same on the reactor with TLS.  A third of the examples: what it adds is between the link and the kernel."""
    judge(run_plan(data.draw(plans(transport)), backend, "tls"))
