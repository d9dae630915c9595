# SPDX-License-Identifier: GPL-2.0-or-later
"""An idle vCPU is not stolen from, however busy another one is."""

from __future__ import annotations

from framework.idle import watch_idle
from framework.linux import boot_linux
from pvtime.images.store import StockImages

ENOUGH_NS = 400_000_000


def test_an_idle_vcpu_beside_a_busy_one_is_not_stolen_from(stock_images: StockImages) -> None:
    with boot_linux(stock_images, 2) as guest:
        guest.ready()
        guest.tell("busy", 1)
        watch_idle(guest.engine, 1, ENOUGH_NS).refuse_stolen_idle_time()
