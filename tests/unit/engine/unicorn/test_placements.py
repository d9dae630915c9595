# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded engine with each placement: what a guest is answered, and that truth is the structure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from framework.payload import RESULTS, Guest, Payload
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime, StolenTime
from pvtime.abi.registration import KvmStealTime, RegisterCall, RegisterResult
from pvtime.engine.base import Outcome
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.errors import UsageError
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import CONSOLE, RAM_BASE, STOLEN_TIME, Region
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory_map import Access
from pvtime.steal.placement import PlacementName

GIVEN = RESULTS + 0x10000
"""Where vCPU 0 has its structure; vCPU 1 has it 64 bytes on."""
PAGE = Region("page", GIVEN, 0x1000)
MEMORY = 64 << 20
READY, OVER = 40, 41
PLACEMENTS = list(PlacementName)
NONE = (1 << 64) - 1


@contextmanager
def boot(
    payload: Payload, placement: PlacementName, vcpus: int = 2, no_pvtime: frozenset[int] = frozenset()
) -> Iterator[Guest[UnicornEngine]]:
    """Make a machine with a payload and a placement."""
    kernel = KernelImage(payload.assemble(), 0, 2 << 20, None)
    config = MachineConfig(vcpus, MEMORY, kernel, placement=placement, no_pvtime=no_pvtime)
    machine = Machine(config, lambda _: None, lambda _: None)
    engine = UnicornEngine(machine)
    try:
        yield Guest(machine, engine)
    finally:
        engine.stop()
        machine.close()


def contenders(placement: PlacementName, vcpus: int = 2) -> Payload:
    """Return a payload whose vCPUs enable stolen time and spin until told that it is over."""
    payload = Payload()
    for index in range(1, vcpus):
        payload.cpu_on(index, "count")
    payload.label("count").own_index(10)
    if placement is PlacementName.GUEST:
        payload.mov(1, GIVEN | 1).add_register(1, 1, 10, shift=6).mov(0, RegisterCall.SET).hvc()
    else:
        payload.call(PvTime.ST)
    payload.mov(11, RESULTS).add_register(11, 11, 10, shift=3).mov(1, 1).store(1, 11, 8 * READY)
    payload.await_result(OVER + vcpus).cbnz(10, "rest")
    return payload.power_off().label("rest").halt()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_truth_is_the_structure_and_time_paused_is_not_stolen(placement: PlacementName) -> None:
    with boot(contenders(placement), placement) as guest:
        engine = guest.engine
        engine.start()
        guest.until(lambda: all(guest.result(READY + index) for index in range(2)))
        guest.until(lambda: all(vcpu.truth_ns > 10**6 for vcpu in engine.sample()))
        for _ in range(5):
            assert all(vcpu.truth_ns == vcpu.structure_ns and vcpu.enabled for vcpu in engine.sample())
        engine.pause()
        paused = engine.sample()
        engine.pause()
        assert engine.wait(0.02) is None
        assert engine.sample() == paused, "what is paused is not stolen from, and nothing runs"
        engine.resume()
        engine.resume()
        guest.until(
            lambda: all(v.truth_ns > p.truth_ns for v, p in zip(engine.sample(), paused, strict=True))
        )
        guest.tell(OVER + 2)
        guest.end()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_paused_engine_can_be_stopped(placement: PlacementName) -> None:
    with boot(contenders(placement), placement) as guest:
        guest.engine.start()
        guest.engine.pause()
        guest.engine.stop()
        assert guest.engine.wait(0) is Outcome.STOPPED


@pytest.mark.parametrize(
    ("placement", "answer", "given"),
    [
        (PlacementName.USERSPACE, STOLEN_TIME.base, RegisterResult.NOT_SUPPORTED),
        (PlacementName.HYPERVISOR, STOLEN_TIME.base, RegisterResult.NOT_SUPPORTED),
        (PlacementName.GUEST, NONE, RegisterResult.SUCCESS),
    ],
)
def test_each_placement_answers_its_own_calls(
    placement: PlacementName, answer: int, given: RegisterResult
) -> None:
    payload = Payload().call(PvTime.ST).keep(0, 0).call(RegisterCall.SET, GIVEN | 1).keep(0, 1).power_off()
    with boot(payload, placement, vcpus=1) as guest:
        guest.finish()
        assert guest.result(0) == answer
        assert guest.result(1) == int(given) & NONE


@pytest.mark.parametrize("placement", [PlacementName.USERSPACE, PlacementName.HYPERVISOR])
def test_one_vcpu_without_a_structure_is_told_so_and_the_other_is_not(placement: PlacementName) -> None:
    payload = Payload().call(PvTime.ST).keep(0, 0).cpu_on(1, "second").await_result(3).power_off()
    payload.label("second").call(PvTime.ST).keep(0, 1).call(PvTime.FEATURES, PvTime.ST).keep(0, 2)
    payload.mov(1, 1).keep(1, 3).halt()
    with boot(payload, placement, no_pvtime=frozenset({1})) as guest:
        guest.finish()
        assert [guest.result(slot) for slot in range(3)] == [STOLEN_TIME.base, NONE, NONE]
        assert [vcpu.enabled for vcpu in guest.engine.sample()] == [True, False]


def test_a_structure_that_was_given_is_left_alone_after_cpu_off() -> None:
    payload = Payload().cpu_on(1, "second").await_result(0).label("wait")
    payload.call(Psci.AFFINITY_INFO_64, 1, 0).cbz(0, "wait").power_off()
    payload.label("second").call(RegisterCall.SET, GIVEN | 1).keep(0, 1).mov(1, 1).keep(1, 0).cpu_off()
    with boot(payload, PlacementName.GUEST) as guest:
        guest.finish()
        assert guest.result(1) == 0
        second = guest.engine.sample()[1]
        assert not second.enabled
        assert second.structure_ns is None
        left = KvmStealTime.from_buffer_copy(guest.machine.memory.read(GIVEN, 64))
        assert left.steal <= second.truth_ns


@pytest.mark.parametrize("access", [Access.NONE, Access.READ])
def test_what_the_guest_gave_and_has_lost_stops_the_count_of_that_vcpu_alone(access: Access) -> None:
    with boot(contenders(PlacementName.GUEST), PlacementName.GUEST) as guest:
        engine = guest.engine
        engine.start()
        guest.until(lambda: all(guest.result(READY + index) for index in range(2)))
        engine.protect(PAGE, access)
        guest.until(lambda: all(vcpu.fault is not None for vcpu in engine.sample()))
        lost = engine.sample()
        assert [vcpu.structure_ns for vcpu in lost] == [None, None]
        assert not any(vcpu.enabled for vcpu in lost)
        engine.protect(PAGE, Access.WRITE)
        guest.tell(OVER + 2)
        guest.end()
        ended = engine.sample()
        assert [vcpu.structure_ns for vcpu in ended] == [None, None], "what was given up stays given up"
        assert all(now.truth_ns >= then.truth_ns for now, then in zip(ended, lost, strict=True))


def test_user_spaces_memory_that_was_taken_away_is_made_up_for_when_it_is_back() -> None:
    with boot(contenders(PlacementName.USERSPACE), PlacementName.USERSPACE) as guest:
        engine = guest.engine
        engine.start()
        guest.until(lambda: all(guest.result(READY + index) for index in range(2)))
        engine.protect(STOLEN_TIME, Access.NONE)
        guest.until(lambda: all(vcpu.fault is not None for vcpu in engine.sample()))
        engine.protect(STOLEN_TIME, Access.WRITE)
        guest.until(lambda: all(vcpu.fault is None for vcpu in engine.sample()))
        assert all(vcpu.truth_ns == vcpu.structure_ns for vcpu in engine.sample())
        guest.tell(OVER + 2)
        guest.end()


@pytest.mark.parametrize(
    ("access", "read", "kept"), [(Access.NONE, 0, 0x1234), (Access.READ, 0x1234, 0x1234)]
)
def test_a_guest_that_uses_memory_that_is_gone_or_read_only_goes_on(
    access: Access, read: int, kept: int
) -> None:
    payload = Payload().mov(20, GIVEN).mov(1, 0x1234).store(1, 20).mov(1, 1).keep(1, READY).await_result(OVER)
    payload.load(1, 20).keep(1, 0).mov(1, 0x9999).store(1, 20).mov(1, 1).keep(1, 1).await_result(OVER + 1)
    payload.load(1, 20).keep(1, 2).power_off()
    with boot(payload, PlacementName.GUEST, vcpus=1) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(READY) != 0)
        guest.engine.protect(PAGE, access)
        guest.tell(OVER)
        guest.until(lambda: guest.result(1) != 0)
        assert guest.result(0) == read
        guest.engine.protect(PAGE, Access.WRITE)
        guest.tell(OVER + 1)
        guest.end()
        assert guest.result(2) == kept


@pytest.mark.parametrize("placement", [PlacementName.USERSPACE, PlacementName.HYPERVISOR])
@pytest.mark.parametrize("base", [RAM_BASE, CONSOLE.base, 0x0800_0000])
def test_a_region_over_ram_or_a_device_is_refused_and_both_are_named(
    placement: PlacementName, base: int
) -> None:
    region = Region("stolen time", base, STOLEN_TIME.size)
    config = MachineConfig(
        1, MEMORY, KernelImage(bytes(64), 0, 4096, None), placement=placement, stolen_time=region
    )
    with pytest.raises(UsageError, match="overlaps") as refusal:
        UnicornEngine(Machine(config, lambda _: None, lambda _: None))
    assert "stolen time" in str(refusal.value)


def test_a_reset_disables_what_the_guest_gave() -> None:
    payload = Payload().mov(20, GIVEN).load(1, 20, 8).cbnz(1, "over").call(RegisterCall.GET).keep(0, 0)
    payload.call(RegisterCall.SET, GIVEN | 1).await_result(READY).call(Psci.SYSTEM_RESET).halt()
    payload.label("over").halt()
    with boot(payload, PlacementName.GUEST, vcpus=1) as guest:
        guest.engine.start()
        guest.until(lambda: guest.engine.sample()[0].enabled)
        guest.tell(READY)
        guest.until(lambda: guest.result(READY) == 0)
        guest.until(lambda: guest.engine.sample()[0].enabled)
        assert guest.result(0) == 0, "the second life finds nothing given"
        assert guest.machine.memory.read(GIVEN + StolenTime.padding.offset, 48) == bytes(48)
