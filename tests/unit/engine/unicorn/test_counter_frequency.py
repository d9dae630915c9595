# SPDX-License-Identifier: GPL-2.0-or-later
"""A counter of another frequency: every register that shows it follows, and the timer fires by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from framework.engines import CHOICES, Choice
from framework.payload import Payload, run_on
from framework.wait import wait_until
from pvtime.abi.arm64 import (
    CNTFRQ_EL0,
    CNTKCTL_EL1,
    CNTP_CTL_EL0,
    CNTP_CVAL_EL0,
    CNTP_TVAL_EL0,
    CNTPCT_EL0,
    CNTV_TVAL_EL0,
    CNTVCT_EL0,
    CntkctlEl1,
    Esr,
    ExceptionClass,
    Pstate,
    SysReg,
    Vector,
)
from pvtime.engine.base import COUNTER_FREQUENCY, counter_rate
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.errors import UsageError
from pvtime.machine.timer import MAX_HZ, MIN_HZ, NATIVE, CounterRate, TimerControl
from pvtime.probe.assembler import ELR_EL1
from pvtime.probe.guest import boot, guest
from pvtime.probe.probe import Probe

MASKED_EL0 = int(Pstate.of(daif=0xF))
SVC = 0xD400_0001
SVC_EC = 0x15
SPSR_EL1 = SysReg(3, 0, 4, 0, 0)
FREQUENCIES = [25_000_000, 19_200_000, 1_000_000_000]


def with_counter(engine: Choice, hz: int) -> Choice:
    """Return the engine with a counter of ``hz``."""
    return replace(engine, options={**engine.options, COUNTER_FREQUENCY: str(hz)})


@pytest.fixture(params=FREQUENCIES)
def rate(request: pytest.FixtureRequest) -> CounterRate:
    """Return frequencies whose tick is a whole number of ns, and one whose is not."""
    return CounterRate(request.param)


@pytest.fixture
def probe(engine: Choice, rate: CounterRate) -> Iterator[Probe]:
    """Return a guest with such a counter."""
    with boot(with_counter(engine, rate.hz).build, guest()) as probe:
        yield probe


def test_the_registers_have_the_host_s_time_in_its_ticks(probe: Probe, rate: CounterRate) -> None:
    assert probe.read_register(0, CNTFRQ_EL0) == rate.hz
    for register in (CNTVCT_EL0, CNTPCT_EL0):
        before = rate.ticks(time.monotonic_ns())
        counter = probe.read_register(0, register)
        assert before <= counter <= rate.ticks(time.monotonic_ns())
    before = probe.read_register(0, CNTVCT_EL0)
    value = probe.read_register(0, CNTV_TVAL_EL0)
    after = probe.read_register(0, CNTVCT_EL0)
    assert before <= after - (after + value & 0xFFFF_FFFF) <= after, "the virtual timer's value has its ticks"


def test_the_timer_fires_when_the_counter_is_there(probe: Probe, rate: CounterRate) -> None:
    probe.write_register(0, CNTP_CTL_EL0, TimerControl.of(enable=1))
    due = probe.read_register(0, CNTPCT_EL0) + rate.ticks(50_000_000)
    probe.write_register(0, CNTP_CVAL_EL0, due)
    before = probe.read_register(0, CNTPCT_EL0)
    left = probe.read_register(0, CNTP_TVAL_EL0)
    left -= (left >> 31) << 32  # on a busy host it may be due already
    assert due - probe.read_register(0, CNTPCT_EL0) <= left <= due - before

    def fired() -> bool:
        before = probe.read_register(0, CNTPCT_EL0)
        met = TimerControl(probe.read_register(0, CNTP_CTL_EL0)).istatus
        assert met or before < due, "it has not fired although it was due"
        assert not met or probe.read_register(0, CNTPCT_EL0) >= due, "it has fired too early"
        return bool(met)

    wait_until(fired)


def test_a_pause_is_left_out_of_it(probe: Probe, rate: CounterRate) -> None:
    probe.engine.pause()
    paused = time.monotonic_ns()
    time.sleep(0.02)
    slept = time.monotonic_ns() - paused
    probe.engine.resume()
    for register in (CNTVCT_EL0, CNTPCT_EL0):
        counter = probe.read_register(0, register)
        assert counter <= rate.ticks(time.monotonic_ns()) - rate.ticks(slept) + 1


def program_that_reads(register: SysReg, allowed: int) -> Payload:
    """Return a payload that has a program at EL0 read a register: results 0 to 3 are ESR, FAR, ELR and X3."""
    payload = Payload().use_vectors().mov(1, allowed).msr(CNTKCTL_EL1, 1).mov(3, 0)
    payload.mov(1, MASKED_EL0).msr(SPSR_EL1, 1).adr(2, "program").msr(ELR_EL1, 2).eret()
    payload.label("program").mrs(3, register).word(SVC)
    payload.align(0x800).label("vectors")
    for offset in range(0, 0x800, 0x80):
        payload.b("sync" if offset == Vector.LOWER_64 else "stuck").align(0x80)
    return payload.label("sync").keep_fault(0).keep(3, 3).label("stuck").power_off()


@pytest.mark.parametrize(
    ("register", "field"),
    [(CNTVCT_EL0, CntkctlEl1.of(el0vcten=1)), (CNTV_TVAL_EL0, CntkctlEl1.of(el0vten=1))],
)
def test_a_program_reads_it_only_where_its_kernel_lets_it(
    register: SysReg, field: int, engine: Choice
) -> None:
    # A kernel that emulates the counter's reads, for an erratum or for Live Physical Time, forbids them.
    slow = with_counter(engine, 25_000_000)
    for allowed, ec in ((field, SVC_EC), (0, ExceptionClass.SYSTEM_REGISTER)):
        before = time.monotonic_ns()
        esr, _, _, value = run_on(slow, program_that_reads(register, allowed)).results[:4]
        assert Esr(esr).ec == ec
        if register == CNTVCT_EL0 and allowed:
            assert CounterRate(25_000_000).ticks(before) <= value
        assert bool(value) == bool(allowed), "the register has been read all the same"


def test_the_native_frequency_does_not_trap() -> None:
    assert counter_rate({}) is NATIVE
    assert counter_rate({COUNTER_FREQUENCY: str(NATIVE.hz)}) is NATIVE
    with boot(with_counter(CHOICES["unicorn"][0], NATIVE.hz).build, guest()) as probe:
        assert isinstance(probe.engine, UnicornEngine)
        assert probe.engine.vm.counter.rate is NATIVE


@pytest.mark.parametrize("text", ["", "0", "62.5M", "-1", str(MIN_HZ - 1), str(MAX_HZ + 1), "9" * 5000, "²"])
def test_an_impossible_frequency_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"counter-frequency=.*: give 1000000 to 2000000000, in Hz"):
        counter_rate({COUNTER_FREQUENCY: text})
