# SPDX-License-Identifier: GPL-2.0-or-later
"""Payloads that are saved and restored at any moment, and states that no machine can have."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest

from framework.moved import Image, restored, take
from framework.payload import Guest, Payload, boot, both_cores
from framework.wait import DEADLINE, wait_until
from pvtime.abi.arm64 import CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTP_TVAL_EL0, CNTPCT_EL0, SysReg
from pvtime.abi.gicv2 import Gicc, Gicd, GicdSgir
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import RegisterCall
from pvtime.engine.base import VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.saved import UnicornState
from pvtime.engine.unicorn.vcpu import SchedState
from pvtime.errors import EngineError, SavedStateError, UsageError
from pvtime.machine.layout import GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, RAM_BASE
from pvtime.machine.machine import Machine
from pvtime.machine.timer import NS_PER_TICK, PHYSICAL_TIMER_PPI, counter
from pvtime.snapshot.codec import decode
from pvtime.steal.placement import PlacementName

TIMER: Final = 16 + PHYSICAL_TIMER_PPI
CNTVCT_EL0: Final = SysReg(3, 3, 14, 0, 2)
OTHER: Final = {"on": "off", "off": "on"}

DAYS: Final = 10 * 24 * 3600 * 62_500_000
"""Ten of them, in ticks."""

pytestmark = both_cores


@contextmanager
def moved(guest: Guest[UnicornEngine], internals: str) -> Iterator[Guest[UnicornEngine]]:
    """Set up anew what is taken down here, and start it."""
    image = take(guest.machine, guest.engine)
    guest.engine.stop()
    with restored(image, internals) as new:
        new.engine.start()
        yield new


@contextmanager
def placed(
    payload: Payload, internals: str, placement: PlacementName, vcpus: int
) -> Iterator[Guest[UnicornEngine]]:
    """Set up a payload whose stolen time is somewhere else."""
    with boot(payload, internals, vcpus) as usual:
        config = replace(usual.machine.config, placement=placement)
        machine = Machine(config, lambda _: None, lambda _: None)
        engine = UnicornEngine(machine, {"internals": internals})
        try:
            yield Guest(machine, engine)
        finally:
            engine.stop()
            machine.close()


def checksum(rounds: int) -> Payload:
    """Return a payload that computes in general and vector registers, in RAM and with the flags."""
    payload = Payload().mov(0, 3 << 20).msr(SysReg(3, 0, 1, 0, 2), 0)  # CPACR_EL1.FPEN
    payload.mov(20, 0x9E37_79B9_7F4A_7C15).mov(21, rounds).mov(22, RAM_BASE + (32 << 20)).mov(23, 0)
    payload.mov(1, 1).keep(1, 1).label("again")
    payload.word(
        0xCA14_3694,  # eor x20, x20, x20, lsl #13
        0xCA54_1E94,  # eor x20, x20, x20, lsr #7
        0xCA14_4694,  # eor x20, x20, x20, lsl #17
        0x4E08_0E81,  # dup v1.2d, x20
        0x6E21_1C42,  # eor v2.16b, v2.16b, v1.16b
        0x4EE1_8442,  # add v2.2d, v2.2d, v1.2d
        0x9240_3285,  # and x5, x20, #0x1fff
    )
    payload.add_register(5, 22, 5, shift=3).load(6, 5).add_register(6, 6, 20).store(6, 5)
    payload.compare(6, 20).b_if("hs", "even").add(23, 23, 1).label("even")
    payload.add_register(23, 23, 6).sub(21, 21, 1).cbnz(21, "again")
    payload.word(0x4E08_3C43, 0x4E18_3C44)  # umov x3, v2.d[0]; umov x4, v2.d[1]
    for slot, register in enumerate((20, 23, 3, 4), 2):
        payload.keep(register, slot)
    return payload.power_off()


def test_a_computation_comes_to_the_same_end_however_often_it_is_moved(internals: str) -> None:
    payload = checksum(6_000_000)
    with boot(payload, internals) as guest:
        guest.finish()
        expected = [guest.result(slot) for slot in range(2, 6)]
    chance = random.Random(4)

    def moved(internals: str) -> bool:
        """Move it until its end; return whether that was often: on a busy host it may be over before."""
        moves = 0
        with boot(payload, internals) as guest:
            guest.engine.start()
            guest.until(lambda: guest.result(1) == 1)
            image: Image | None = take(guest.machine, guest.engine)
        while image is not None:
            internals = OTHER[internals]
            with restored(image, internals) as guest:
                guest.engine.start()
                guest.engine.wait(chance.random() * 0.04 if moves < 12 else DEADLINE)
                guest.engine.pause()
                if guest.engine.wait(0) is None:
                    image, moves = take(guest.machine, guest.engine), moves + 1
                else:
                    image, found = None, [guest.end().result(slot) for slot in range(2, 6)]
        assert found == expected
        return moves >= 3

    wait_until(lambda: moved(internals))


def sharing(placement: PlacementName) -> Payload:
    """Return a payload whose two vCPUs ask for stolen time, tell so, and spin until result 0 is set."""
    payload = Payload().cpu_on(1, "start").label("start").own_index(10)
    if placement is PlacementName.GUEST:
        payload.mov(1, RAM_BASE + (3 << 20) + 1).add_register(1, 1, 10, shift=6)
        payload.mov(0, RegisterCall.SET).hvc()
    else:
        payload.call(PvTime.ST)
    payload.mov(11, 0x4010_0010).add_register(11, 11, 10, shift=3).mov(1, 1).store(1, 11)
    payload.await_result(0).cbnz(10, "rest").await_result(6).power_off()
    return payload.label("rest").mov(1, 1).keep(1, 6).label("spin").b("spin")


@pytest.mark.parametrize("placement", PlacementName)
def test_stolen_time_goes_on_where_it_was_in_every_placement(
    placement: PlacementName, internals: str
) -> None:
    with placed(sharing(placement), internals, placement, 2) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(2) == guest.result(3) == 1)
        guest.until(lambda: all(s.truth_ns > 0 and s.loads > 3 for s in guest.engine.sample()))
        guest.engine.pause()
        before = guest.engine.sample()
        image = take(guest.machine, guest.engine)
        assert guest.engine.sample() == before, "a save changes the figures"
    with restored(image, OTHER[internals]) as guest:
        time.sleep(0.02)  # so that time spent saved would be seen
        agree(guest.engine.sample())
        assert guest.engine.sample() == before, "the time spent saved was stolen"
        guest.engine.start()
        guest.until(
            lambda: all(
                new.loads > old.loads + 3 for new, old in zip(guest.engine.sample(), before, strict=True)
            ),
        )
        guest.engine.pause()
        after = guest.engine.sample()
        agree(after)
        for old, new, vcpu in zip(before, after, guest.engine.vm.vcpus, strict=True):
            new_ns = vcpu.run_delay.read(0) - old.stolen_ns
            assert new.truth_ns == old.truth_ns + new_ns, "restored is saved plus new"
            assert new.enabled
        guest.engine.resume()
        guest.tell(0)
        agree(guest.end().engine.sample())


def agree(samples: list[VcpuSample]) -> None:
    """Check that each structure is what the host knows."""
    assert [s.structure_ns for s in samples] == [s.truth_ns for s in samples]


def interrupted() -> Payload:
    """Return a payload with an interrupt controller: X20 is its distributor, X21 its CPU interface."""
    payload = Payload().use_vectors().mov(20, GIC_DISTRIBUTOR.base).mov(21, GIC_CPU_INTERFACE.base)
    payload.mov(1, 0xFFFF_FFFF).store(1, 20, Gicd.ISENABLER, size=4)
    payload.mov(1, 1).store(1, 20, Gicd.CTLR, size=4).mov(2, 0xFF).store(2, 21, Gicc.PMR, size=4)
    return payload.store(1, 21, Gicc.CTLR, size=4)


def taken(payload: Payload) -> Payload:
    """Add the vectors: an interrupt is taken, its number is result 0, and the machine powers off."""
    payload.vectors(irq="irq").label("irq").load(22, 21, Gicc.IAR, size=4).store(22, 21, Gicc.EOIR, size=4)
    return payload.mrs(3, CNTPCT_EL0).keep(3, 4).keep(22, 0).power_off()


def test_a_timer_that_a_sleeper_waits_for_has_as_many_ticks_left(internals: str) -> None:
    ticks = 20_000_000  # 320 ms
    payload = interrupted().mrs(3, CNTPCT_EL0).keep(3, 3).mov(1, ticks).msr(CNTP_TVAL_EL0, 1)
    payload.mov(1, 1).msr(CNTP_CTL_EL0, 1).keep(1, 1).unmask_irq().label("sleep").wfi().b("sleep")
    lived = 0

    def asleep() -> Image | None:
        """Return the guest that sleeps; on a busy host it may have been woken before it was saved."""
        nonlocal lived
        with boot(taken(payload), internals) as guest:
            began = time.monotonic_ns()
            guest.engine.start()
            wait_until(lambda: guest.result(1))
            guest.engine.pause()
            idle = guest.engine.vm.vcpus[0].state is SchedState.IDLE
            image = take(guest.machine, guest.engine) if idle else None
            lived = time.monotonic_ns() - began
        return image if image and image.document()["vcpus"][0]["timer"]["remaining"] > 0 else None

    image = wait_until(asleep)
    (vcpu,) = image.document()["vcpus"]
    assert vcpu["power"] == "idle"
    assert 0 < vcpu["timer"]["remaining"] < ticks
    time.sleep(0.4)
    began = time.monotonic_ns()  # the counter runs from the restore on
    with restored(image, OTHER[internals]) as guest:
        guest.finish()
        lived += time.monotonic_ns() - began
        assert guest.result(0) == TIMER
        assert guest.result(4) - guest.result(3) >= ticks, "the timer came early by the guest's counter"
        slept = guest.result(4) - guest.result(3)
        assert slept * NS_PER_TICK <= lived, "the counter ran while the guest was saved"


def test_an_interrupt_that_was_pending_is_pending(internals: str) -> None:
    payload = interrupted().mov(1, GicdSgir.of(cpus=1, intid=5)).store(1, 20, Gicd.SGIR, size=4)
    payload.mov(1, 1).keep(1, 1).await_result(2).unmask_irq().label("spin").b("spin")
    with boot(taken(payload), internals) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(1) == 1)
        with moved(guest, OTHER[internals]) as new:
            new.tell(2)
            assert new.end().result(0) == 5


def test_the_exclusive_monitor_is_clear(internals: str) -> None:
    payload = Payload().mov(9, RAM_BASE + (1 << 20) + 256).load_exclusive(1, 9).mov(2, 1).keep(2, 1)
    payload.await_result(2).store_exclusive(3, 2, 9).load_exclusive(1, 9).store_exclusive(4, 2, 9)
    payload.keep(3, 3).keep(4, 4).power_off()
    with boot(payload, internals) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(1) == 1)
        with moved(guest, OTHER[internals]) as new:
            new.tell(2)
            assert (new.end().result(3), new.result(4)) == (1, 0)


def clocks(payload: Payload, slot: int) -> Payload:
    """Add that both counters are read: two results."""
    return payload.mrs(3, CNTVCT_EL0).mrs(4, CNTPCT_EL0).keep(3, slot).keep(4, slot + 1)


@pytest.mark.parametrize("ahead", [DAYS, -DAYS])
def test_counters_go_on_on_a_host_with_another_clock_on_every_vcpu_and_after_a_reset(
    ahead: int, internals: str
) -> None:
    # A guest that was ahead of this host's clock is one that comes from a host that has been up for longer.
    payload = clocks(Payload(), 1).await_result(0).cpu_on(1, "second").await_result(3).await_result(5)
    payload.call(Psci.SYSTEM_RESET)
    clocks(payload.label("second"), 3).label("spin").b("spin")
    with boot(payload, internals, 2) as guest:
        until_ready = guest.engine.vm.counter
        until_ready.go_on(counter() + ahead & (1 << 64) - 1, counter())
        guest.engine.vm.core.contexts.move_counter(until_ready.offset)
        guest.engine.start()
        guest.until(lambda: guest.result(2) != 0)
        first = guest.result(1), guest.result(2)
        image = take(guest.machine, guest.engine)
        assert [vcpu["power"] for vcpu in image.document()["vcpus"]] == ["runnable", "off"]
    with restored(image, OTHER[internals]) as guest:
        guest.engine.start()
        guest.tell(0)
        guest.until(lambda: guest.result(4) != 0)
        second = guest.result(3), guest.result(4)
        guest.tell(5)
        guest.until(lambda: guest.result(2) not in (0, first[1]))
        third = guest.result(1), guest.result(2)
        assert guest.result(4) == 0, "it was not reset"
    for early, late in ((first, second), (second, third)):
        for one, other in zip(early, late, strict=True):
            passed = other - one & (1 << 64) - 1
            assert 0 < passed < 60 * 62_500_000, "a counter jumped"


def test_compare_values_mean_the_same_and_never_stays_never(internals: str) -> None:
    payload = Payload().await_result(0).mov(5, 0x1234_5678).msr(CNTP_CVAL_EL0, 5).mrs(6, CNTP_CVAL_EL0)
    payload.mov(5, (1 << 64) - 1).msr(CNTP_CVAL_EL0, 5).mrs(7, CNTP_CVAL_EL0).mov(5, 1)
    payload.msr(CNTP_CTL_EL0, 5).mrs(8, CNTP_CTL_EL0)
    for slot, register in enumerate((6, 7, 8), 1):
        payload.keep(register, slot)
    with boot(payload.power_off(), internals) as guest:
        guest.engine.start()
        guest.until(lambda: guest.engine.sample()[0].loads > 0)
        image = take(guest.machine, guest.engine)
    with restored(image, internals) as guest:
        guest.engine.start()
        guest.tell(0)
        guest.end()
        assert [guest.result(slot) for slot in (1, 2, 3)] == [0x1234_5678, (1 << 64) - 1, 1]


def test_only_a_paused_machine_is_saved_and_only_a_new_engine_restored(internals: str) -> None:
    with boot(Payload().await_result(0).power_off(), internals) as guest:
        guest.engine.start()
        with pytest.raises(EngineError, match="not paused"):
            guest.engine.state()
        guest.engine.pause()
        with pytest.raises(EngineError, match="has started"):
            guest.engine.restore(guest.engine.state())
        guest.engine.resume()
        guest.tell(0)
        guest.end()
        with pytest.raises(EngineError, match="not paused"):
            guest.engine.state()


def test_the_model_max_is_refused_by_name(internals: str) -> None:
    with boot(Payload().await_result(0).power_off(), internals, cpu="max") as guest:
        guest.engine.start()
        guest.engine.pause()
        with pytest.raises(EngineError, match="CPU model max cannot be saved"):
            guest.engine.state()


def test_the_model_max_is_not_restored_either(internals: str) -> None:
    # Whoever sends a machine must not choose a model that lets its guest end this process.
    with boot(Payload().await_result(0).power_off(), internals) as guest:
        guest.engine.start()
        image = take(guest.machine, guest.engine)
    image = replace(image, config=replace(image.config, cpu="max"))
    with pytest.raises(UsageError, match=r"'max': any program .* allow-abort=on"), restored(image, internals):
        pass
    with boot(Payload().power_off(), internals, cpu="max") as guest:
        state = decode(UnicornState, image.document() | {"model": "max"}, "the engine's state")
        with pytest.raises(SavedStateError, match="CPU model max cannot be saved"):
            guest.engine.restore(state)


DAMAGE: Final[list[tuple[str, tuple[Any, ...], object]]] = [
    ("X_EL1", ("cpu", "system", "X_EL1"), 0),
    ("SCTLR_EL1", ("cpu", "system", "SCTLR_EL1"), None),
    ("TTBR0_EL1", ("cpu", "system", "TTBR0_EL1"), 1 << 64),
    ("VBAR_EL1", ("cpu", "system", "VBAR_EL1"), -1),
    (r"cpu.x\[7\]", ("cpu", "x", 7), 1 << 64),
    (r"cpu.v\[31\]", ("cpu", "v", 31), 1 << 128),
    ("fpcr", ("cpu", "fpcr"), 1 << 32),
    ("pstate", ("cpu", "pstate"), 0x3C9),
    ("pstate", ("cpu", "pstate"), 0x3CD),
    ("pstate", ("cpu", "pstate"), 0x1D0),
    ("cpu.x: is not of length 31", ("cpu", "x"), [0] * 30),
    ("runnable", ("cpu",), {}),
    ("power: is not one of", ("power",), "sleeping"),
    ("off", ("power",), "off"),
    ("account.truth_ns", ("account", "truth_ns"), -1),
    ("timer", ("timer", "control"), 4),
]


@pytest.mark.parametrize(("named", "path", "value"), DAMAGE)
def test_a_state_that_cannot_be_is_refused_by_name(
    named: str, path: tuple[Any, ...], value: object, internals: str
) -> None:
    with boot(Payload().await_result(0).power_off(), internals) as guest:
        guest.engine.start()
        image = take(guest.machine, guest.engine)
    document = image.document()
    place = document["vcpus"][0]
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = None if value == {} else value
    with pytest.raises(SavedStateError, match=named), restored(image.with_document(document), internals):
        pass


def test_another_model_or_number_of_vcpus_is_refused(internals: str) -> None:
    with boot(Payload().await_result(0).power_off(), internals, 2) as guest:
        guest.engine.start()
        image = take(guest.machine, guest.engine)
    for config, message in (
        (replace(image.config, cpu="cortex-a53"), "cortex-a72.*cortex-a53"),
        (replace(image.config, vcpus=1), "2 vCPUs are saved, this machine has 1"),
    ):
        with (
            pytest.raises(SavedStateError, match=message),
            restored(replace(image, config=config), internals),
        ):
            pass
