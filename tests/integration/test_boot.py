# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel boots, finds stolen time, and its accounts agree with the host's."""

from __future__ import annotations

import pytest

from framework.linux import LinuxGuest, boot_linux
from pvtime.engine.base import Outcome
from pvtime.images.store import StockImages

ENOUGH_NS = 300_000_000


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


def test_a_guest_that_reboots_comes_up_again_with_stolen_time(stock_images: StockImages) -> None:
    with boot_linux(stock_images, 2, "pvtime.shell") as guest:
        guest.ready()
        guest.on_agent(b"stat cpu0 1 2")  # a report that the reboot cuts off
        guest.type("reboot -f")
        guest.ready()
        assert guest.console.count("using stolen time PV") == 2
        share_and_stop_again(guest)


def share_and_stop_again(guest: LinuxGuest) -> None:
    """As :func:`share_and_stop`, in the second life of a machine: the counts began anew with it."""
    guest.tell("busy", 2)
    guest.until(lambda samples: all(sample.truth_ns > ENOUGH_NS for sample in samples))
    guest.await_account()
    guest.stop()
