# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel with the stock userland, as scenarios boot it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pvtime.errors import UsageError
from pvtime.images.cache import FetchProgress, cache_directory
from pvtime.images.store import stock_images
from pvtime.machine.image import load_kernel
from pvtime.machine.machine import MachineConfig
from pvtime.scenario.linux_guest import LinuxGuest, linux_guest
from pvtime.steal.placement import PlacementName
from pvtime.userland.build import build_initramfs
from pvtime.userland.protocol import Reply, StatReport

__all__ = ["steal_of", "stock_linux"]

MEMORY: Final = 256 << 20


@contextmanager
def stock_linux(
    progress: FetchProgress, placement: PlacementName, vcpus: int, no_pvtime: frozenset[int] = frozenset()
) -> Iterator[LinuxGuest]:
    """Start one.

    :raises UsageError: a placement that Linux does not know, or the images cannot be had.
    """
    if placement is PlacementName.GUEST:
        raise UsageError("a real kernel: Linux for arm64 gives no memory for stolen time")
    images = stock_images(cache_directory(), progress)
    userland, kernel = build_initramfs(images.busybox), load_kernel(images.kernel)
    config = MachineConfig(
        vcpus, MEMORY, kernel, userland, "console=ttyS0", placement=placement, no_pvtime=no_pvtime
    )
    progress(f"{placement.value}: Linux boots", 0, None)
    with linux_guest(config, {}) as guest:
        yield guest


def steal_of(guest: LinuxGuest, cpu: int) -> int | None:
    """Return a CPU's steal in /proc/stat now, in ns; None where it is not online. No CPU is busy then."""
    guest.tell("idle")  # which takes the reports that wait
    guest.send("stat")
    report = guest.wait_for(StatReport, "a report")
    guest.wait_for(Reply, "the end of a report")
    return report.steal_ns(cpu)
