# SPDX-License-Identifier: GPL-2.0-or-later
"""An idle vCPU is not stolen from, however busy another one is."""

from __future__ import annotations

import pytest

from framework.idle import watch_idle
from framework.linux import warm_linux

ENOUGH_NS = 400_000_000


@pytest.mark.usefixtures("stock_images")
def test_an_idle_vcpu_beside_a_busy_one_is_not_stolen_from() -> None:
    with warm_linux() as guest:
        guest.tell("busy", 1)
        watch_idle(guest.engine, 1, ENOUGH_NS).refuse_stolen_idle_time()
