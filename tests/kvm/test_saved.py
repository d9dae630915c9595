# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that is stopped, written down and gone on with elsewhere: stolen time is exact to the ns."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import pytest

from framework.bare import bare_vm
from framework.engines import Choice, host_of
from framework.payload import RESULTS, Guest, Payload, boot_on
from framework.wait import DEADLINE, wait_until
from pvtime.abi.arm64 import SysReg
from pvtime.abi.kvm_reg import VIRTUAL_COUNTER, RegId, sysreg
from pvtime.abi.ns16550 import Ier, Reg
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.engine.base import Engine, Outcome, VcpuSample
from pvtime.engine.kvm.engine import KvmEngine, Phase
from pvtime.engine.kvm.state import KvmState
from pvtime.errors import EngineError, SavedStateError
from pvtime.machine.layout import CONSOLE
from pvtime.machine.machine import Machine
from pvtime.machine.pages import extents
from pvtime.probe.assembler import Program
from pvtime.snapshot.codec import decode, encode

COUNT = StolenTime.stolen_time.offset
CNTVCT_EL0 = SysReg(3, 3, 14, 0, 2)
MIDR = hex(sysreg(3, 0, 0, 0, 0))
OVER, ROUNDS, CLOCK = 32, 16, 8
THEFT_NS = 200_000


def copy(source: Machine, target: Machine) -> None:
    """Copy a machine's memory, as whoever restores one does."""
    for ours, theirs in zip(source.memories, target.memories, strict=True):
        for at, length in extents(ours):
            theirs.write(ours.base + at, ours.read(ours.base + at, length))


@contextmanager
def revived(
    engine: Choice, payload: Program, guest: Guest[Engine], vcpus: int, state: KvmState | None = None
) -> Iterator[Guest[Engine]]:
    """Go on with a paused machine in another one."""
    devices, state = guest.machine.state(), state or guest.engine.state()
    with boot_on(engine, payload, vcpus) as fresh:
        copy(guest.machine, fresh.machine)
        guest.engine.stop()
        fresh.machine.restore(devices)
        fresh.engine.restore(state)
        yield fresh


def until(guest: Guest[Engine], slot: int, least: int = 1) -> None:
    """Wait until the payload has counted up to there."""
    wait_until(
        lambda: guest.result(slot) >= least,
        guest.engine,
        message=lambda: f"result {slot} is {guest.result(slot)}",
    )


def counting(vcpus: int) -> Payload:
    """Return a payload whose vCPUs count rounds, and put down their clock in each."""
    payload = Payload()
    for index in range(1, vcpus):
        payload.cpu_on(index, "count")
    payload.label("count").call(PvTime.ST).own_index(10).mov(11, RESULTS)
    payload.add_register(11, 11, 10, shift=3).mov(12, RESULTS + 8 * OVER).mov(13, 0)
    payload.label("again").mrs(14, CNTVCT_EL0).store(14, 11, 8 * CLOCK).add(13, 13, 1)
    payload.store(13, 11, 8 * ROUNDS).load(15, 12).cbz(15, "again").cbnz(10, "rest")
    return payload.power_off().label("rest").halt()


def in_order(before: list[VcpuSample], after: list[VcpuSample]) -> bool:
    """Whether nothing ran backwards, and truth is the structure."""
    return all(
        old.truth_ns <= new.truth_ns == new.structure_ns
        and old.ran_ns <= new.ran_ns
        and old.loads <= new.loads
        and old.enabled == new.enabled
        for old, new in zip(before, after, strict=True)
    )


def test_stolen_time_goes_on_to_the_nanosecond_save_after_save(engine: Choice) -> None:
    vcpus, saves = 2, 4
    payload = counting(vcpus)
    with ExitStack() as stack:
        guest = stack.enter_context(boot_on(engine, payload, vcpus))
        guest.engine.start()
        for _ in range(saves):
            host = host_of(guest.engine)
            host.share_one_cpu()
            rounds = [guest.result(ROUNDS + index) for index in range(vcpus)]
            for index in range(vcpus):
                until(guest, ROUNDS + index, rounds[index] + 1)
                since = host.run_delay(index)  # not before the round: its PV_TIME_ST may have come since
                while host.run_delay(index) < since + THEFT_NS:
                    assert guest.engine.wait(0.0005) is None
            guest.engine.pause()
            saved = guest.engine.sample()
            assert all(sample.enabled and sample.truth_ns >= THEFT_NS for sample in saved)
            assert [s.truth_ns for s in saved] == [s.structure_ns for s in saved]
            clock = [guest.result(CLOCK + index) for index in range(vcpus)]
            rounds = [guest.result(ROUNDS + index) for index in range(vcpus)]
            guest = stack.enter_context(revived(engine, payload, guest, vcpus))
            assert guest.engine.sample() == saved, "a restored machine has the figures that were saved"
            guest.engine.start()
            guest.engine.pause()
            now, fresh = guest.engine.sample(), host_of(guest.engine)
            assert in_order(saved, now)
            for index in range(vcpus):
                # Not one ns of the time between the two: the new thread's run_delay is all there is.
                assert now[index].truth_ns - saved[index].truth_ns <= fresh.run_delay(index)
            guest.engine.resume()
            for index in range(vcpus):
                until(guest, ROUNDS + index, rounds[index] + 1)
                assert guest.result(CLOCK + index) >= clock[index], "the guest's clock ran backwards"
            assert in_order(saved, guest.engine.sample())
        guest.tell(OVER)
        guest.end()
        assert in_order(saved, guest.engine.sample())


def test_the_guests_clock_stands_still_while_the_machine_is_nowhere(engine: Choice) -> None:
    payload = (
        Payload().mrs(1, CNTVCT_EL0).keep(1, 0).await_result(1).mrs(1, CNTVCT_EL0).keep(1, 2).power_off()
    )
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        until(guest, 0)
        guest.engine.pause()
        state = guest.engine.state()
        saved = int.from_bytes(state.counters[hex(VIRTUAL_COUNTER)], "little")
        with revived(engine, payload, guest, 1, state) as fresh:
            time.sleep(0.1)
            began = time.monotonic_ns()
            fresh.engine.start()
            fresh.tell(1)
            fresh.end()
            ns = (fresh.result(2) - saved) * 1_000_000_000 // state.counter_frequency
            assert 0 <= ns <= time.monotonic_ns() - began


def test_all_registers_of_a_vcpu_are_as_they_were(engine: Choice) -> None:
    payload = Payload()
    for register in range(20):
        payload.mov(register, 0x1111_0000_2222 * (register + 1))
    payload.mov(28, RESULTS).mov(27, 1).store(27, 28).label("wait").load(27, 28, 8).cbz(27, "wait")
    for register in range(20):
        payload.keep(register, 10 + register)
    with boot_on(engine, payload.power_off()) as guest:
        guest.engine.start()
        until(guest, 0)
        guest.engine.pause()
        with revived(engine, payload, guest, 1) as fresh:
            fresh.engine.start()
            fresh.tell(1)
            fresh.end()
            assert [fresh.result(10 + n) for n in range(20)] == [
                0x1111_0000_2222 * (n + 1) for n in range(20)
            ]


def test_an_access_that_the_guest_left_for_is_complete_before_it_is_saved(engine: Choice) -> None:
    payload = Payload().mov(9, CONSOLE.base).mov(10, 0).mov(11, RESULTS)
    payload.label("again").add(10, 10, 1).store(10, 9, Reg.SCR, size=1).load(12, 9, Reg.SCR, size=1)
    # x12 = what was written, x13 = its low byte
    payload.low_bits(13, 10, 8).compare(12, 13).b_if("ne", "wrong").store(10, 11).load(15, 11, 8)
    payload.cbz(15, "again").power_off().label("wrong").keep(12, 2).power_off()
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        for _ in range(6):
            rounds = guest.result(0)
            until(guest, 0, rounds + 1)
            guest.engine.pause()
            state = guest.engine.state()
            guest.engine.resume()
            assert state.vcpus[0].cpu.stopped is False
        guest.engine.pause()
        with revived(engine, payload, guest, 1) as fresh:
            rounds = fresh.result(0)
            fresh.engine.start()
            until(fresh, 0, rounds + 1)
            fresh.tell(1)
            fresh.end()
            assert fresh.result(2) == 0, "a register read was lost on the way"


def test_a_switched_off_vcpu_stays_off_and_starts_anew(engine: Choice) -> None:
    payload = Payload().cpu_on(1, "once").await_result(0).label("off?").call(Psci.AFFINITY_INFO_64, 1, 0)
    payload.cbz(0, "off?").mov(1, 1).keep(1, 1).await_result(2).call(Psci.AFFINITY_INFO_64, 1, 0).keep(0, 3)
    payload.cpu_on(1, "twice").await_result(4).power_off()
    payload.label("once").call(PvTime.ST).mov(1, 1).keep(1, 0).cpu_off()
    payload.label("twice").call(PvTime.ST).mov(1, 1).keep(1, 4).halt()
    with boot_on(engine, payload, vcpus=2) as guest:
        guest.engine.start()
        host_of(guest.engine).share_one_cpu()
        until(guest, 1)
        guest.engine.pause()
        with revived(engine, payload, guest, 2) as fresh:
            restored = fresh.engine.sample()[1]
            assert restored.enabled
            assert restored.truth_ns == restored.structure_ns
            fresh.engine.start()
            fresh.tell(2)
            fresh.end()
            assert fresh.result(3) == 1, "it is not off"
            last = fresh.engine.sample()
            assert [sample.truth_ns for sample in last] == [sample.structure_ns for sample in last]


def test_an_interrupt_wire_that_is_high_interrupts_the_restored_guest(engine: Choice) -> None:
    # The guest has the port interrupt it, and looks whether its GIC says so.
    payload = (
        Payload().mov(9, CONSOLE.base).mov(1, Ier.THRI).store(1, 9, Reg.IER, size=1).mov(1, 1).keep(1, 0)
    )
    payload.await_result(1).mov(9, 0x0800_0000).load(1, 9, 0x204, size=4).keep(1, 2).power_off()
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        until(guest, 0)
        guest.engine.pause()
        with revived(engine, payload, guest, 1) as fresh:
            fresh.engine.start()
            fresh.tell(1)
            fresh.end()
            assert fresh.result(2) & 0xFFFF_FFFF, "GICD_ISPENDR1"


def test_a_reset_that_is_under_way_when_the_machine_is_paused_is_done_and_begins_paused(
    engine: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = Payload().mov(1, 1).keep(1, 0).await_result(1).call(Psci.SYSTEM_RESET).halt()
    asked = threading.Event()
    restart = KvmEngine.restart

    def noted(self: KvmEngine) -> None:
        asked.set()
        wait_until(lambda: self._phase is Phase.PAUSED)
        restart(self)

    monkeypatch.setattr(KvmEngine, "restart", noted)
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        until(guest, 0)
        guest.tell(1)
        assert asked.wait(DEADLINE)
        guest.engine.pause()
        assert guest.result(0) == 0, "it is not the new life, or that has begun already"
        with revived(engine, payload, guest, 1) as fresh:
            fresh.engine.start()
            until(fresh, 0)


def test_a_guest_that_ends_as_it_is_paused_has_its_last_figures(
    engine: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A vCPU that is off is not measured in a pause: what was stolen since it was last sampled would be lost.
    off = threading.Event()
    end = KvmEngine.end

    def noted(self: KvmEngine, outcome: Outcome) -> None:
        if outcome is Outcome.POWER_OFF:
            off.set()
            wait_until(lambda: self._phase is Phase.PAUSED)
        end(self, outcome)

    monkeypatch.setattr(KvmEngine, "end", noted)
    payload = counting(2)
    with boot_on(engine, payload, vcpus=2) as guest:
        guest.engine.start()
        host = host_of(guest.engine)
        host.share_one_cpu()
        for index in range(2):
            until(guest, ROUNDS + index)
        before = guest.engine.sample()
        since = [host.run_delay(index) for index in range(2)]
        while any(host.run_delay(index) < since[index] + THEFT_NS for index in range(2)):
            assert guest.engine.wait(0.0005) is None
        guest.tell(OVER)
        assert off.wait(DEADLINE)
        guest.engine.pause()
        guest.end()
        last = guest.engine.sample()
        assert in_order(before, last)
        for index in range(2):
            assert last[index].truth_ns >= before[index].truth_ns + THEFT_NS


def test_a_paused_machine_samples_stops_and_goes_on(engine: Choice) -> None:
    payload = counting(2)
    with boot_on(engine, payload, vcpus=2) as guest:
        guest.engine.start()
        for index in range(2):
            until(guest, ROUNDS + index)
        guest.engine.pause()
        guest.engine.pause()
        rounds = [guest.result(ROUNDS + index) for index in range(2)]
        last = guest.engine.sample()
        assert guest.engine.sample() == last
        assert guest.engine.wait(0.05) is None
        assert [guest.result(ROUNDS + index) for index in range(2)] == rounds, "it ran"
        guest.engine.resume()
        guest.engine.resume()
        for index in range(2):
            until(guest, ROUNDS + index, rounds[index] + 1)
        guest.engine.pause()
        paused = guest.engine.sample()
        assert in_order(last, paused)
        guest.engine.stop()
        assert guest.engine.wait(0) is Outcome.STOPPED
        assert guest.engine.sample() == paused


def test_a_machine_that_runs_or_has_ended_has_no_state(engine: Choice) -> None:
    with boot_on(engine, Payload().await_result(0).power_off()) as guest:
        with pytest.raises(EngineError, match="not started"):
            guest.engine.state()
        guest.engine.start()
        with pytest.raises(EngineError, match="pause it to get its state"):
            guest.engine.state()
        guest.tell(0)
        guest.end()
        guest.engine.pause()
        with pytest.raises(EngineError, match="has ended"):
            guest.engine.state()


def test_another_cpu_other_vcpus_or_a_damaged_state_are_refused_by_name(engine: Choice) -> None:
    payload = counting(1)
    with boot_on(engine, payload) as guest:
        guest.engine.start()
        until(guest, ROUNDS)
        guest.engine.pause()
        state = guest.engine.state()
    document = encode(state)

    def changed(*path: Any, value: object) -> Any:
        broken = deepcopy(document)
        place: Any = broken
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return broken

    registers = ("vcpus", 0, "cpu", "registers")
    other = base64.b64encode((0x410F_D081).to_bytes(8, "little")).decode()
    cases = [
        (changed(*registers, MIDR, value=other), "another CPU or KVM: MIDR_EL1 is 0x410fd081 there and 0x"),
        (
            changed(*registers, hex(sysreg(3, 7, 15, 15, 7)), value=other),
            "S3_7_C15_C15_7, which this host's KVM",
        ),
        (changed(*registers, "PC", value=other), "is not a register's identifier"),
        (changed(*registers, MIDR, value="AAAA"), "saved MIDR_EL1 has an impossible size: 3 bytes"),
        (changed("counter_frequency", value=1_000), "CNTFRQ_EL0.* of 1000 Hz"),
        (changed("counters", MIDR, value=other), "MIDR_EL1 is saved as a counter"),
        (changed("vcpus", value=[]), "vcpus: is not of a length from 1 to 512"),
        (changed("vcpus", 0, "stolen", "truth_ns", value=-1), "truth_ns: is not a number from 0"),
        (changed("vcpus", 0, "stolen", "truth_ns", value="1"), "truth_ns"),
        (changed("vgic", "distributor", "GICD_CTLR", value=None), "only that of this host has 'GICD_CTLR'"),
        (changed("vgic", "distributor", "GICD_X", value=1), "only that of the saved machine has 'GICD_X'"),
        (changed("vgic", "distributor", "GICD_IIDR", value=0), r"saved GICD_IIDR \(0x0\) cannot be restored"),
        (changed("vgic", "distributor", "GICD_CTLR", value=1 << 40), "an impossible GICD_CTLR"),
        (changed("vgic", "cpus", value=[]), "has 0 CPUs, this machine has 1"),
        (
            changed("vgic", "cpus", 0, "ICC_CTLR_EL1", value=0x700),
            r"saved ICC_CTLR_EL1 \(0x700\) cannot be restored",
        ),
    ]
    files = len(os.listdir("/proc/self/fd"))
    with boot_on(engine, payload) as fresh:
        for broken, message in cases:
            with pytest.raises(SavedStateError, match=message):
                fresh.engine.restore(decode(KvmState, broken, "the engine's state"))
        fresh.engine.restore(state)
        with pytest.raises(EngineError, match="has started"):
            fresh.engine.restore(state)
    assert len(os.listdir("/proc/self/fd")) == files, "a descriptor is left behind"


def test_every_register_that_kvm_tells_it_takes_back() -> None:
    with bare_vm(1) as bare:
        (vcpu,) = bare.vcpus
        registers = vcpu.register_ids()
        assert len(registers) > 200
        for register in registers:
            vcpu.set_bytes(register, vcpu.get_bytes(register))
        assert {RegId(register).bytes for register in registers} >= {4, 8, 16}
