# SPDX-License-Identifier: GPL-2.0-or-later
"""What vCPUs that share a CPU are told that was stolen: truth to the ns, and the kernel's selftest."""

from __future__ import annotations

import pytest

from framework.engines import Choice, Host, host_of
from framework.payload import Guest, Payload, boot_on
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime, StolenTime
from pvtime.engine.base import Engine, VcpuSample
from pvtime.machine.layout import STOLEN_TIME

COUNT = StolenTime.stolen_time.offset
READ = 0
"""From this result on: what each vCPU has just read in its structure."""
ROUNDS = 16
"""From this result on: how often it has."""
OVER = 32
"""This result ends the payload."""
READY = 40

THEFT_NS = 200_000
"""What the kernel's tools/testing/selftests/kvm/steal_time.c waits for (MIN_RUN_DELAY_NS)."""


def readers(vcpus: int) -> Payload:
    """Return a payload whose vCPUs ask for stolen time and read their structure for ever."""
    payload = Payload()
    for index in range(1, vcpus):
        payload.cpu_on(index, "read")
    payload.label("read").call(PvTime.ST).copy(20, 0).own_index(10).mov(11, 0x4010_0000)
    payload.add_register(11, 11, 10, shift=3).mov(12, 0x4010_0000 + 8 * OVER).mov(13, 0)
    payload.label("again").load(14, 20, COUNT).store(14, 11, 8 * READ).add(13, 13, 1)
    payload.store(13, 11, 8 * ROUNDS).load(15, 12).cbz(15, "again").cbnz(10, "rest")
    return payload.power_off().label("rest").halt()


def structure(index: int) -> int:
    """Return the IPA of a vCPU's structure."""
    return STOLEN_TIME.base + STRUCTURE_STRIDE * index


def refuse_disagreement(samples: list[VcpuSample]) -> None:
    """Check that each structure is what the host knows."""
    assert [sample.structure_ns for sample in samples] == [sample.truth_ns for sample in samples]


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_truth_is_the_structure_and_neither_runs_backwards(vcpus: int, engine: Choice) -> None:
    with boot_on(engine, readers(vcpus), vcpus) as guest:
        guest.engine.start()
        host_of(guest.engine).share_one_cpu()
        guest.until(lambda: all(guest.result(ROUNDS + index) for index in range(vcpus)))
        last = guest.engine.sample()
        refuse_disagreement(last)
        for _ in range(20):
            now = guest.engine.sample()
            refuse_disagreement(now)
            for before, after in zip(last, now, strict=True):
                assert after.enabled
                assert after.truth_ns >= before.truth_ns, "stolen time ran backwards"
            last = now
        guest.tell(OVER)
        guest.end()
        refuse_disagreement(guest.engine.sample())


def steal_and_compare(guest: Guest[Engine], host: Host, index: int) -> None:
    """Hold one vCPU's stolen time against its run_delay, at rest and while it grows."""
    # In this order what was stolen is the older figure, and run_delay its upper bound.
    stolen = guest.machine.stolen_time.load_u64(structure(index) + COUNT)
    told = guest.result(READ + index)
    delay = host.run_delay(index)
    assert stolen <= delay
    assert told <= delay
    guest.until(lambda: host.run_delay(index) - delay >= THEFT_NS)
    grown = host.run_delay(index) - delay
    # In this order what was stolen is the younger one.
    assert guest.engine.sample()[index].count_ns - stolen >= grown
    guest.until(lambda: guest.result(READ + index) - stolen >= grown)
    told = guest.result(READ + index)
    assert told <= host.run_delay(index)


def test_four_vcpus_on_one_cpu_as_the_kernels_selftest_has_it(engine: Choice) -> None:
    vcpus = range(4)
    with boot_on(engine, readers(len(vcpus)), len(vcpus)) as guest:
        guest.engine.start()
        host = host_of(guest.engine)
        host.share_one_cpu()
        guest.until(lambda: all(guest.result(ROUNDS + index) for index in vcpus))
        for index in vcpus:
            assert guest.machine.stolen_time.load_u64(structure(index)) == 0, "revision and attributes"
        for index in vcpus:
            steal_and_compare(guest, host, index)
        guest.tell(OVER)
        guest.end()


@pytest.mark.parametrize("vcpus", [2, 4])
def test_stolen_time_grows_where_vcpus_contend_for_a_cpu(vcpus: int, engine: Choice) -> None:
    with boot_on(engine, readers(vcpus), vcpus) as guest:
        guest.engine.start()
        host_of(guest.engine).share_one_cpu()
        guest.until(lambda: all(guest.result(ROUNDS + index) for index in range(vcpus)))
        before = [guest.result(READ + index) for index in range(vcpus)]
        guest.until(
            lambda: all(guest.result(READ + index) > before[index] + THEFT_NS for index in range(vcpus)),
        )
        guest.tell(OVER)
        guest.end()


@pytest.mark.parametrize("idling", ["wfi", "CPU_SUSPEND"])
def test_who_idles_is_not_stolen_from_however_busy_another_is(idling: str, engine: Choice) -> None:
    payload = Payload().cpu_on(1, "idle").await_result(READY).label("spin").await_result(READY + 1)
    payload.spin(2_000_000).mov(1, 1).keep(1, READY + 2).await_result(OVER).power_off()
    payload.label("idle").call(PvTime.ST).mov(1, 1).keep(1, READY).label("rest")
    _ = payload.wfi() if idling == "wfi" else payload.call(Psci.CPU_SUSPEND, 0)
    payload.b("rest")
    with boot_on(engine, payload, vcpus=2) as guest:
        guest.engine.start()
        host = host_of(guest.engine)
        host.share_one_cpu()
        guest.until(lambda: guest.result(READY) != 0 and host.asleep(1))
        # Nobody brings it out of the guest from here on: not a nanosecond may be added.
        before = host.run_delay(1), guest.machine.stolen_time.read(structure(1), 16)
        guest.tell(READY + 1)
        guest.until(lambda: guest.result(READY + 2) != 0)
        after = host.run_delay(1), guest.machine.stolen_time.read(structure(1), 16)
        assert after == before
        guest.tell(OVER)
        guest.end()
        refuse_disagreement(guest.engine.sample())
