# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guest, moved from engine to engine while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from framework.evidence import witness
from framework.linux import LinuxGuest
from framework.moved import Image, put, take
from pvtime.engine.base import Outcome, VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.images.store import StockImages
from pvtime.machine.image import load_kernel
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.timer import counter
from pvtime.userland.build import KERNEL_PARAMETERS, build_initramfs

__all__ = ["end_elsewhere", "move", "moving_linux"]


class _Ears:
    """Passes on what a guest says, whatever machine it is on."""

    guest: LinuxGuest

    def console(self, data: bytes) -> None:
        self.guest.on_console(data)

    def agent(self, data: bytes) -> None:
        self.guest.on_agent(data)


@contextmanager
def moving_linux(
    images: StockImages,
    internals: str,
    vcpus: int = 2,
    cpu: str | None = None,
    append: str = "",
    ahead: int = 0,
    more_files: bytes = b"",
) -> Iterator[LinuxGuest]:
    """Start the stock guest; it is stopped at the end, wherever it is then.

    :param ahead: how far its counters are ahead of the host's, in ticks: it seems to come from another host.
    :param more_files: an archive to append to the initramfs.
    """
    config = MachineConfig(
        vcpus,
        256 << 20,
        load_kernel(images.kernel),
        build_initramfs(images.busybox) + more_files,
        f"console=ttyS0 earlycon {KERNEL_PARAMETERS} {append}".strip(),
        cpu,
    )
    ears = _Ears()
    machine = Machine(config, ears.console, ears.agent)
    engine = UnicornEngine(machine, {"internals": internals})
    if ahead:
        now = counter()
        engine.vm.counter.go_on(now + ahead, now)
        engine.vm.core.contexts.move_counter(engine.vm.counter.offset)
    guest = ears.guest = LinuxGuest(machine, engine)
    engine.start()
    try:
        with witness(guest.evidence):
            yield guest
    finally:
        guest.engine.stop()
        guest.machine.close()


def _leave(guest: LinuxGuest) -> Image:
    image = take(guest.machine, guest.engine)
    guest.engine.stop()
    guest.machine.close()
    return image


def move(guest: LinuxGuest, internals: str) -> None:
    """Take the guest down and have it go on in a new engine and a new machine."""
    image = _leave(guest)
    guest.machine, guest.engine = put(image, {"internals": internals}, guest.on_console, guest.on_agent)
    guest.engine.start()


def end_elsewhere(
    image: Image, internals: str
) -> tuple[Outcome | None, list[VcpuSample], list[int | None], str]:
    """Restore a guest, have it settle and power off; return how it ended. Runs in a process of its own."""
    ears = _Ears()
    machine, engine = put(image, {"internals": internals}, ears.console, ears.agent)
    guest = ears.guest = LinuxGuest(machine, engine)
    engine.start()
    guest.tell("idle")
    report = guest.stop()
    steal = [report.steal_ns(index) for index in range(machine.config.vcpus)]
    return engine.wait(0), engine.sample(), steal, guest.console
