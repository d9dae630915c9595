# SPDX-License-Identifier: GPL-2.0-or-later
"""Timer, messages between processors, sleep: payloads that wait for interrupts, and what they lose."""

from __future__ import annotations

import threading
import time

import pytest

from framework.idle import watch_idle
from framework.payload import RESULTS, Payload, boot, both_cores, run
from pvtime.abi.arm64 import CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTP_TVAL_EL0, CNTPCT_EL0
from pvtime.abi.gicv2 import Gicc, Gicd, GicdSgir
from pvtime.abi.ns16550 import Ier, Mcr, Reg
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.engine.unicorn.preemption_timer import PreemptionTimer
from pvtime.engine.unicorn.scheduler import SLICE_NS
from pvtime.machine.devicetree import CONSOLE_SPI
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR
from pvtime.machine.timer import NS_PER_TICK, PHYSICAL_TIMER_PPI

TIMER = 16 + PHYSICAL_TIMER_PPI
SGI = 5

pytestmark = both_cores


class Interrupted(Payload):
    """A payload with an interrupt controller: X20 is its distributor, X21 its CPU interface."""

    def use_gic(self) -> Interrupted:
        """Enable every private interrupt at this vCPU."""
        self.use_vectors().mov(20, GIC_DISTRIBUTOR.base).mov(21, GIC_CPU_INTERFACE.base)
        self.mov(1, 0xFFFF_FFFF).store(1, 20, Gicd.ISENABLER, size=4).mov(1, 1).store(
            1, 20, Gicd.CTLR, size=4
        )
        self.mov(2, 0xFF).store(2, 21, Gicc.PMR, size=4).store(1, 21, Gicc.CTLR, size=4)
        return self

    def acknowledge(self) -> Interrupted:
        """Take the interrupt into X22 and complete it."""
        self.load(22, 21, Gicc.IAR, size=4).store(22, 21, Gicc.EOIR, size=4)
        return self

    def set_timer(self, ticks: int) -> Interrupted:
        """Have the timer interrupt after so many ticks."""
        self.mov(1, ticks).msr(CNTP_TVAL_EL0, 1).mov(1, 1).msr(CNTP_CTL_EL0, 1)
        return self


def test_the_timer_interrupts_a_guest_that_sleeps(internals: str) -> None:
    payload = Interrupted().use_gic().call(PvTime.ST)
    payload.mrs(10, CNTPCT_EL0).keep(10, 1).set_timer(100_000).unmask_irq().label("sleep").wfi().b("sleep")
    payload.vectors(irq="irq").label("irq").mrs(10, CNTPCT_EL0).mrs(11, CNTP_CTL_EL0).acknowledge()
    payload.keep(22, 0).keep(10, 2).keep(11, 3).power_off()
    finished = run(payload, internals)
    intid, before, after, control = finished.results[:4]
    assert intid == TIMER
    assert after - before >= 100_000, "the timer came early"
    assert control == 0b101, "enabled, and its condition met"


def test_the_timer_interrupts_a_guest_that_spins(internals: str) -> None:
    payload = Interrupted().use_gic().set_timer(1000).unmask_irq().label("spin").b("spin")
    payload.vectors(irq="irq").label("irq").acknowledge().keep(22, 0).power_off()
    assert run(payload, internals).results[0] == TIMER


def test_an_interrupt_that_the_guest_masks_comes_when_it_unmasks(internals: str) -> None:
    payload = Interrupted().use_gic().mov(1, 1).msr(CNTP_CTL_EL0, 1)  # CNTP_CVAL_EL0 is 0: due at once
    payload.spin(10_000).mov(1, 1).keep(1, 0).unmask_irq().label("spin").b("spin")
    payload.vectors(irq="irq").label("irq").load(3, 28).acknowledge().keep(22, 1).keep(3, 2).power_off()
    assert run(payload, internals).results[:3] == (1, TIMER, 1)


def test_wfi_with_an_interrupt_pending_does_not_sleep_though_it_is_masked(internals: str) -> None:
    payload = Interrupted().use_gic().mov(1, 1).msr(CNTP_CTL_EL0, 1).wfi().wfi()
    payload.load(3, 21, Gicc.HPPIR, size=4).keep(3, 0).power_off().vectors()
    assert run(payload, internals).results[0] == TIMER


def test_cpu_suspend_waits_for_an_interrupt_and_goes_on_behind_the_call(internals: str) -> None:
    payload = Interrupted().use_gic().set_timer(10_000).call(Psci.CPU_SUSPEND_64, 0).keep(0, 0)
    payload.load(3, 21, Gicc.HPPIR, size=4).keep(3, 1).power_off().vectors()
    assert run(payload, internals).results[:2] == (0, TIMER)


def test_a_disabled_or_masked_timer_has_no_interrupt(internals: str) -> None:
    payload = Interrupted().use_gic().msr(CNTP_CVAL_EL0, 31)
    for slot, control in enumerate([0b00, 0b10, 0b11, 0b01]):
        payload.mov(1, control).msr(CNTP_CTL_EL0, 1).load(3, 21, Gicc.HPPIR, size=4).keep(3, slot)
        payload.mrs(3, CNTP_CTL_EL0).keep(3, 4 + slot)
    results = run(payload.power_off().vectors(), internals).results
    assert results[:4] == (1023, 1023, 1023, TIMER)
    assert results[4:8] == (0b000, 0b010, 0b111, 0b101)


def test_a_message_wakes_another_processor_and_names_its_sender(internals: str) -> None:
    sgi = GicdSgir.of(cpus=1 << 1, intid=SGI)
    payload = Interrupted().use_gic().cpu_on(1, "second").await_result(1)
    payload.mov(1, sgi).store(1, 20, Gicd.SGIR, size=4).await_result(0)
    payload.store(1, 20, Gicd.SGIR, size=4).await_result(3).power_off()
    payload.label("second").use_gic().mov(1, 1).keep(1, 1).wfi().acknowledge().keep(22, 0)
    payload.unmask_irq().label("sleep").wfi().b("sleep")
    payload.vectors(irq="irq").label("irq").acknowledge().keep(22, 3)
    results = run(payload, internals, vcpus=2).results
    assert results[0] & 0x3FF == SGI
    assert results[0] >> 10 == 0, "from processor 0"
    assert results[3] == results[0]


def test_a_hundred_messages_to_and_fro_arrive(internals: str) -> None:
    payload = Interrupted()
    for name, other in [("first", 1), ("second", 0)]:
        if name == "second":
            payload.label(name)
        payload.use_gic().mov(10, 100).mov(11, GicdSgir.of(cpus=1 << other, intid=SGI))
        if name == "first":
            payload.cpu_on(1, "second").await_result(0).store(11, 20, Gicd.SGIR, size=4)
        else:
            payload.mov(1, 1).keep(1, 0)
        payload.label(f"{name} sleeps").wfi().load(12, 21, Gicc.HPPIR, size=4).mov(13, 1023)
        payload.compare(12, 13).b_if("eq", f"{name} sleeps").acknowledge()
        payload.store(11, 20, Gicd.SGIR, size=4).sub(10, 10, 1).cbnz(10, f"{name} sleeps")
        if name == "first":
            payload.power_off()
        else:
            payload.label("done").wfi().b("done")
    payload.vectors()
    run(payload, internals, vcpus=2)


def test_a_wire_that_falls_before_the_engine_hears_of_its_rise_stays_down(internals: str) -> None:
    """It stayed up: the rise was queued by another thread, and overtaken by the fall on the engine's own."""
    pending, console = Gicd.ISPENDR + 4, 1 << CONSOLE_SPI
    with boot(Payload().halt(), internals) as guest:
        uart, distributor = guest.machine.console, guest.engine.vm.gic.distributor
        guest.engine.start()

        def receive() -> int:
            other = threading.Thread(target=uart.receive, args=(b"x",))
            other.start()
            other.join()
            return uart.read(Reg.DATA, 1)

        def enable() -> int:
            uart.write(Reg.MCR, 1, Mcr.RTS)
            uart.write(Reg.IER, 1, Ier.RDI)
            uart.receive(b"y")
            return distributor.read(pending, 4)

        assert guest.engine.call(enable) & console, "the wire does not rise at all"
        assert guest.engine.call(lambda: uart.read(Reg.DATA, 1)) == ord("y")
        assert guest.engine.call(receive) == ord("x")
        assert not guest.engine.call(lambda: distributor.read(pending, 4)) & console


def test_an_idle_processor_is_not_stolen_from_but_for_its_wake_ups(internals: str) -> None:
    # It sleeps for two slices at a time beside one that spins.
    ticks = 2 * SLICE_NS // NS_PER_TICK
    payload = Interrupted().use_gic().cpu_on(1, "spin").call(PvTime.ST)
    payload.label("again").set_timer(ticks).wfi().mov(28, RESULTS).load(1, 28).cbz(1, "again").power_off()
    payload.label("spin").b("spin").vectors()
    with boot(payload, internals, vcpus=2) as guest:
        guest.engine.start()
        guest.until(lambda: guest.engine.sample()[0].enabled)
        watch_idle(guest.engine, 0, 10 * SLICE_NS).refuse_stolen_idle_time()
        guest.tell(0)
        guest.end()


def test_who_idles_when_its_timer_is_long_due_has_not_waited_while_it_ran(
    internals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had: where the host was late to end the run at the timer's time, its wait began at that time.

    The guest ran on, executed WFI, and was woken at once by a timer that had been due long before. What it
    had run since was counted as stolen too.
    """
    monkeypatch.setattr(PreemptionTimer, "arm", lambda *_: None)  # as late as can be
    ticks = 100_000_000 // NS_PER_TICK
    payload = Interrupted().use_gic().call(PvTime.ST).set_timer(ticks).mrs(11, CNTP_CVAL_EL0)
    payload.mov(1, ticks).add_register(11, 11, 1)  # it runs for as long again
    payload.label("run").mrs(12, CNTPCT_EL0).compare(12, 11).b_if("lo", "run").wfi().power_off().vectors()
    began = time.monotonic_ns()
    with boot(payload, internals) as guest:
        (sample,) = guest.finish().engine.sample()
    elapsed = time.monotonic_ns() - began
    assert sample.loads > 1, "it did not sleep, so this shows nothing"
    assert sample.ran_ns + sample.truth_ns <= elapsed
