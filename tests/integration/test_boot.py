# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel boots, finds stolen time, and its accounts agree with the host's."""

from __future__ import annotations

import pytest

from framework.linux import LinuxGuest, boot_linux
from pvtime.engine.base import Outcome
from pvtime.images.store import StockImages

ENOUGH_NS = 100_000_000


def share_and_stop(guest: LinuxGuest, vcpus: int) -> None:
    """Keep all vCPUs busy until each has lost something to the others, and compare the accounts."""
    release = guest.ready()
    assert "using stolen time PV" in guest.console
    assert f"Linux version {release}" in guest.console
    assert f"SMP: Total of {vcpus} processors activated" in guest.console
    guest.tell("busy", vcpus)
    if vcpus > 1:
        guest.until(lambda samples: all(sample.truth_ns > ENOUGH_NS for sample in samples))
    guest.await_account()
    guest.stop()
    assert guest.engine.wait() is Outcome.POWER_OFF
    for sample in guest.engine.sample():
        assert sample.enabled
        assert sample.truth_ns == sample.structure_ns


@pytest.mark.parametrize(("vcpus", "internals"), [(1, "auto"), (9, "auto"), (2, "off")])
def test_a_debian_kernel_boots_with_stolen_time_and_knows_it_to_the_tick(
    vcpus: int, internals: str, stock_images: StockImages
) -> None:
    with boot_linux(stock_images, vcpus, internals=internals) as guest:
        share_and_stop(guest, vcpus)
