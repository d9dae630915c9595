# SPDX-License-Identifier: GPL-2.0-or-later
"""Several busy vCPUs on one thread: what each is told that was stolen, and that sharing it breaks nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from framework.payload import Guest, Payload, boot, both_cores, run
from framework.wait import DEADLINE
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.engine.base import Outcome, VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.machine.layout import CONSOLE, STOLEN_TIME
from pvtime.steal.run_delay import ThreadClock

COUNT = StolenTime.stolen_time.offset

pytestmark = both_cores


def refuse_disagreement(samples: list[VcpuSample]) -> None:
    """Check that each structure is what the host knows."""
    assert [sample.structure_ns for sample in samples] == [sample.truth_ns for sample in samples]


def busy(vcpus: int) -> Payload:
    """Return a payload whose vCPUs ask for stolen time and spin until result 0 is set."""
    payload = Payload().call(PvTime.ST).copy(20, 0)
    for index in range(1, vcpus):
        payload.cpu_on(index, "other").await_result(index)
    payload.mov(1, 1).keep(1, 8).await_result(0).power_off()
    payload.label("other").call(PvTime.ST).own_index(10).mov(11, 0x4010_0000)
    return payload.add_register(11, 11, 10, shift=3).store(0, 11).label("spin").b("spin")


def until_all_have_run(guest: Guest[UnicornEngine]) -> list[VcpuSample]:
    """Wait until every vCPU was loaded a few times, and return the figures."""
    guest.until(lambda: all(sample.loads >= 4 for sample in guest.engine.sample()))
    return guest.engine.sample()


@pytest.mark.parametrize("vcpus", [2, 4, 8])
def test_busy_vcpus_wait_for_each_other_and_are_told_so(vcpus: int, internals: str) -> None:
    with boot(busy(vcpus), internals, vcpus) as guest:
        guest.engine.start()
        last = guest.engine.sample()
        # A sample ends a slice: so soon that loads alone do not say that anybody has waited.

        def all_have_waited() -> bool:
            nonlocal last
            now = guest.engine.sample()
            refuse_disagreement(now)
            for before, after in zip(last, now, strict=True):
                if before.enabled:
                    assert after.truth_ns >= before.truth_ns, "stolen time ran backwards"
            last = now
            return all(sample.loads >= 4 and sample.truth_ns for sample in last)

        guest.until(all_have_waited)


def test_what_a_vcpu_ran_and_what_was_stolen_never_exceed_the_time_that_passed(internals: str) -> None:
    began = time.monotonic_ns()
    with boot(busy(3), internals, 3) as guest:
        guest.engine.start()
        samples = until_all_have_run(guest)
        passed = time.monotonic_ns() - began
    assert all(sample.ran_ns + sample.truth_ns <= passed for sample in samples)
    assert sum(sample.ran_ns for sample in samples) <= passed, "one thread ran more than all the time"


def test_a_guest_reads_what_the_host_knows(internals: str) -> None:
    # The last word that each vCPU reads in its structure is the last that was written there: at its load.
    payload = busy(2)
    with boot(payload, internals, 2) as guest:
        guest.engine.start()
        until_all_have_run(guest)
        guest.machine.memory.store_u64(0x4010_0000, 1)
        assert guest.engine.wait(DEADLINE) is Outcome.POWER_OFF
        stolen = [guest.machine.stolen_time.load_u64(STOLEN_TIME.base + 64 * i + COUNT) for i in range(2)]
        samples = guest.engine.sample()
        assert all(early <= late.count_ns for early, late in zip(stolen, samples, strict=True))
        refuse_disagreement(samples)


def test_a_guest_that_writes_its_structure_deceives_only_itself(internals: str) -> None:
    payload = Payload().call(PvTime.ST).mov(1, 1 << 40).store(1, 0, COUNT).store(1, 0).power_off()
    sample = run(payload, internals).samples[0]
    assert sample.count_ns - sample.truth_ns == 1 << 40, "the host's own count was changed, or the lie lost"


def test_kicks_while_vcpus_count_together_lose_and_double_nothing(internals: str) -> None:
    # uc_emu_stop from another thread stops right behind an exclusive store with the program counter on it,
    # so that it is executed twice: 50 000 increments then come out as others.
    rounds = 50_000
    payload = Payload().cpu_on(1, "count").label("count").mov(10, rounds).mov(11, 0x4010_0100)
    payload.label("again").load_exclusive(12, 11).add(12, 12, 1).store_exclusive(13, 12, 11)
    payload.cbnz(13, "again").sub(10, 10, 1).cbnz(10, "again")
    payload.own_index(14).cbnz(14, "second").await_result(1).power_off()
    payload.label("second").mov(1, 1).keep(1, 1).label("rest").wfi().b("rest")
    over = threading.Event()
    with boot(payload, internals, 2) as guest:
        kicker = threading.Thread(target=kick, args=(guest.engine.sample, over))
        kicker.start()
        try:
            guest.finish()
        finally:
            over.set()
            kicker.join()
        assert guest.result(32) == 2 * rounds


def kick(sample: Callable[[], object], over: threading.Event) -> None:
    """Ask for samples, each of which ends a run, until it is over."""
    while not over.is_set():
        sample()


def test_a_store_to_a_device_is_executed_once_though_it_ends_the_run(internals: str) -> None:
    # emu_stop inside a device's callback left the program counter on the store.
    payload = Payload().mov(9, CONSOLE.base).mov(10, 500).mov(1, ord("."))
    payload.label("again").store(1, 9, size=1).sub(10, 10, 1).cbnz(10, "again").power_off()
    with boot(payload, internals) as guest:
        seen = bytearray()

        def transmit(data: bytes) -> None:
            seen.extend(data)
            guest.engine._loop.timer_changed()
            guest.engine.vm.core.kick()

        guest.machine.console._transmit = transmit
        guest.finish()
        assert seen == b"." * 500
        assert guest.engine.sample()[0].loads > 1, "the run was not ended at all"


def test_a_sample_that_must_wait_leaves_the_interrupt_controller_alone(
    internals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It once reset the controller, from the caller's thread, each 50 ms that it waited: the guest then got
    # no more interrupts.
    with boot(busy(1), internals) as guest:
        resets: list[str] = []
        monkeypatch.setattr(
            guest.engine.vm.gic, "reset", lambda: resets.append(threading.current_thread().name)
        )
        guest.engine.start()
        held = threading.Event()
        guest.engine._loop.calls.submit(lambda: held.wait(DEADLINE))
        samples: list[list[VcpuSample]] = []
        asker = threading.Thread(target=lambda: samples.append(guest.engine.sample()))
        asker.start()
        asker.join(0.2)
        held.set()
        asker.join(DEADLINE)
        assert samples
        assert resets == ["pvtime-engine"], "once, at the start"


def test_what_the_host_took_before_pv_time_st_is_not_counted_after_it(
    internals: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, for the slice in which the call came: only at its end was the thread's run_delay looked at."""
    stolen, real = [0], ThreadClock.read

    def read(clock: ThreadClock) -> tuple[int, int, int]:
        now, run_delay, on_cpu = real(clock)
        return now, run_delay + stolen[0], on_cpu

    monkeypatch.setattr(ThreadClock, "read", read)
    payload = Payload().mov(1, 1).keep(1, 0).await_result(1).call(PvTime.ST).power_off()
    with boot(payload, internals) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(0))
        stolen[0] = 10**15
        guest.tell(1)
        guest.end()
        (figures,) = guest.engine.sample()
        assert figures.truth_ns == figures.count_ns < 10**15
