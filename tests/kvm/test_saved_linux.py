# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel is saved in the middle of its life and goes on in another machine, on other threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from framework.engines import Choice, host_of
from framework.evidence import witness
from framework.linux import TICK_NS, LinuxGuest
from pvtime.engine.base import Outcome
from pvtime.images.store import StockImages
from pvtime.machine.image import load_kernel
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.pages import extents
from pvtime.snapshot.codec import decode, encode, from_json, to_json
from pvtime.snapshot.state import SavedState
from pvtime.userland.build import KERNEL_PARAMETERS, build_initramfs

COMPLAINTS = ("Oops", "BUG", "WARNING")
PATIENT = "rcupdate.rcu_cpu_stall_suppress=1 nosoftlockup"
"""Linux complains of a thread that has no CPU for 21 s, as in a lab on a busy host. That no time passes while
a guest is away is tests/kvm/test_saved.py's."""


@contextmanager
def made(engine: Choice, config: MachineConfig) -> Iterator[LinuxGuest]:
    """Make a machine that has not started."""
    guest: LinuxGuest
    machine = Machine(config, lambda data: guest.on_console(data), lambda data: guest.on_agent(data))
    guest = LinuxGuest(machine, cast("Any", engine.build(machine)))
    try:
        with witness(guest.evidence):
            yield guest
    finally:
        guest.engine.stop()
        machine.close()


def test_a_linux_guest_goes_on_in_another_machine(engine: Choice, stock_images: StockImages) -> None:
    kernel, initrd = load_kernel(stock_images.kernel), build_initramfs(stock_images.busybox)
    append = f"console=ttyS0 {KERNEL_PARAMETERS} {PATIENT} pvtime.shell pvtime.busy=2"
    config = MachineConfig(2, 256 << 20, kernel, initrd, append)
    with made(engine, config) as guest, made(engine, config) as other:
        guest.engine.start()
        guest.ready()
        host_of(guest.engine).share_one_cpu()
        guest.until(lambda samples: all(sample.enabled and sample.truth_ns > TICK_NS for sample in samples))
        told = guest.whole_report()
        guest.engine.pause()
        saved = guest.engine.sample()
        text = to_json(encode(SavedState.of(guest.machine, guest.engine)))
        for ours, theirs in zip(guest.machine.memories, other.machine.memories, strict=True):
            for at, length in extents(ours):
                theirs.write(ours.base + at, ours.read(ours.base + at, length))
        guest.engine.stop()
        state = decode(SavedState, from_json(text, "the state"), "the state")
        state.restore(other.machine, other.engine, "the state")
        assert other.engine.sample() == saved
        other.engine.start()
        other.type("echo it goes $((0 + 0))n")
        other.wait_for_text("it goes 0n")
        report = other.whole_report()
        now = other.engine.sample()
        for before, after in zip(saved, now, strict=True):
            assert after.enabled
            assert after.structure_ns == after.truth_ns >= before.truth_ns
            assert after.ran_ns > before.ran_ns
            steal = report.steal_ns(after.index)
            assert steal is not None
            assert (told.steal_ns(after.index) or 0) <= steal <= after.truth_ns
        other.await_account()
        other.stop()
        assert other.engine.wait(0) is Outcome.POWER_OFF
        assert [s.structure_ns for s in other.engine.sample()] == [s.truth_ns for s in other.engine.sample()]
        for complaint in COMPLAINTS:
            assert complaint not in other.console, other.console[-2000:]
