# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is taken away from a guest that runs, and a vCPU that has no structure at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from framework.engines import Choice, host_of
from framework.payload import RESULTS, Guest, Payload, boot_on
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime, StolenTime
from pvtime.engine.base import Engine, Outcome
from pvtime.errors import EngineError
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import STOLEN_TIME, Region
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory_map import Access

COUNT = StolenTime.stolen_time.offset
READ, ROUNDS, ASK, ASKED, OVER = 0, 8, 24, 25, 32
"""Results: what each vCPU read in its structure, how often; the question to vCPU 0, its answer; the end."""

THEFT_NS = 200_000
NOT_SUPPORTED = (1 << 64) - 1


def readers() -> Payload:
    """Return a payload of two vCPUs that read their structures; the first asks for it again when told to."""
    payload = Payload().cpu_on(1, "read").label("read").call(PvTime.ST).copy(20, 0).own_index(10)
    payload.mov(11, RESULTS).add_register(11, 11, 10, shift=3).mov(12, RESULTS).mov(13, 0)
    payload.label("again").load(14, 20, COUNT).store(14, 11, 8 * READ).add(13, 13, 1)
    payload.store(13, 11, 8 * ROUNDS).load(15, 12, 8 * OVER).cbnz(15, "over").cbnz(10, "again")
    payload.load(15, 12, 8 * ASK).cbz(15, "again").load(15, 12, 8 * ASKED).cbnz(15, "again")
    payload.call(PvTime.ST).keep(0, ASKED).b("again")
    return payload.label("over").cbnz(10, "rest").power_off().label("rest").halt()


def structure(guest: Guest[Engine], index: int = 0) -> int:
    """Return what the memory holds, whoever may see it."""
    return guest.machine.stolen_time.load_u64(STOLEN_TIME.base + STRUCTURE_STRIDE * index + COUNT)


@contextmanager
def contending(engine: Choice) -> Iterator[Guest[Engine]]:
    """Run the readers on one CPU, from when both have read."""
    with boot_on(engine, readers(), vcpus=2) as guest:
        guest.engine.start()
        host_of(guest.engine).share_one_cpu()
        guest.until(lambda: all(guest.result(ROUNDS + index) for index in range(2)))
        yield guest
        guest.tell(OVER)
        guest.end()


def steal(guest: Guest[Engine]) -> None:
    """Have time stolen from both vCPUs, each of which has read its structure afterwards."""
    host = host_of(guest.engine)
    before = [host.run_delay(index) for index in range(2)]
    guest.until(lambda: all(host.run_delay(i) > before[i] + THEFT_NS for i in range(2)))
    rounds = [guest.result(ROUNDS + index) for index in range(2)]
    guest.until(lambda: all(guest.result(ROUNDS + i) > rounds[i] + 1 for i in range(2)))


@pytest.mark.parametrize(("access", "state"), [(Access.NONE, "not mapped"), (Access.READ, "read-only")])
def test_what_kvm_could_not_write_is_made_up_for_when_the_memory_is_back(
    access: Access, state: str, engine: Choice
) -> None:
    with contending(engine) as guest:
        steal(guest)
        guest.engine.protect(STOLEN_TIME, access)
        held = [structure(guest, index) for index in range(2)]
        steal(guest)
        seen = held if access is Access.READ else [0, 0]
        assert [guest.result(READ + index) for index in range(2)] == seen, "what the guest reads there"
        for index, sample in enumerate(guest.engine.sample()):
            ipa = STOLEN_TIME.base + STRUCTURE_STRIDE * index
            assert sample.fault == f"the structure at {ipa:#x} cannot be written: the memory is {state}"
            assert structure(guest, index) == held[index], "KVM wrote it"
            assert sample.structure_ns == (held[index] if access is Access.READ else None)
            assert sample.truth_ns >= held[index] + THEFT_NS
        guest.engine.protect(STOLEN_TIME, Access.WRITE)
        for index, sample in enumerate(guest.engine.sample()):
            assert sample.fault is None
            assert sample.structure_ns == sample.truth_ns >= held[index] + THEFT_NS


def test_it_is_made_up_for_while_the_guest_is_paused_too_so_that_a_save_has_all(engine: Choice) -> None:
    with contending(engine) as guest:
        guest.engine.protect(STOLEN_TIME, Access.NONE)
        steal(guest)
        guest.engine.pause()
        away = guest.engine.sample()
        assert all(sample.fault and sample.structure_ns is None for sample in away)
        guest.engine.protect(STOLEN_TIME, Access.WRITE)
        for before, sample, vcpu in zip(away, guest.engine.sample(), guest.engine.state().vcpus, strict=True):
            assert sample.fault is None
            assert before.truth_ns <= sample.truth_ns == sample.structure_ns == vcpu.stolen.truth_ns
        guest.engine.protect(STOLEN_TIME, Access.NONE)
        assert all(sample.fault for sample in guest.engine.sample())
        guest.engine.protect(STOLEN_TIME, Access.WRITE)
        guest.engine.resume()


def test_a_call_while_the_memory_is_away_loses_its_zeroes(engine: Choice) -> None:
    with contending(engine) as guest:
        steal(guest)
        guest.engine.protect(STOLEN_TIME, Access.NONE)
        held = structure(guest)
        steal(guest)
        missed = guest.engine.sample()[0].truth_ns - held
        guest.tell(ASK)
        guest.until(lambda: guest.result(ASKED) != 0)
        assert guest.result(ASKED) == STOLEN_TIME.base, "KVM says no word"
        called_at = guest.engine.sample()[0].truth_ns
        guest.engine.protect(STOLEN_TIME, Access.WRITE)
        sample = guest.engine.sample()[0]
        # The old count is there, and what was stolen before the call is missing from it.
        assert held < sample.count_ns <= sample.truth_ns - missed
        assert sample.count_ns >= held + sample.truth_ns - called_at
        guest.machine.memory.store_u64(RESULTS + 8 * ASKED, 0)
        guest.until(lambda: guest.result(ASKED) != 0)
        sample = guest.engine.sample()[0]
        assert sample.structure_ns == sample.truth_ns, "the next call makes it right"


def test_only_whole_slots_can_be_limited_and_the_message_names_them(engine: Choice) -> None:
    with contending(engine) as guest:
        half = Region("half of it", STOLEN_TIME.base, STOLEN_TIME.size // 2)
        with pytest.raises(
            EngineError, match=r"whole regions alone \(RAM .* and stolen time.*half of it \(0x90a0000"
        ):
            guest.engine.protect(half, Access.NONE)
        rounds = guest.result(ROUNDS)
        guest.until(lambda: guest.result(ROUNDS) > rounds)


def test_ram_can_be_read_only_for_a_while(engine: Choice) -> None:
    with contending(engine) as guest:
        ram = guest.machine.memory.region
        guest.engine.protect(ram, Access.READ)
        rounds = guest.result(ROUNDS)
        assert [sample.fault for sample in guest.engine.sample()] == [None, None]
        assert guest.result(ROUNDS) == rounds, "the guest wrote to read-only memory"
        guest.engine.protect(ram, Access.WRITE)
        guest.until(lambda: guest.result(ROUNDS) > rounds)


def test_a_guest_without_its_memory_is_not_saved_and_can_be_stopped(engine: Choice) -> None:
    with boot_on(engine, readers(), vcpus=2) as guest:
        guest.engine.protect(STOLEN_TIME, Access.NONE)
        guest.engine.start()
        guest.until(lambda: all(guest.result(ROUNDS + index) for index in range(2)))
        guest.engine.pause()
        with pytest.raises(EngineError, match=r"stolen time \(0x90a0000.* is taken away"):
            guest.engine.state()
        guest.engine.stop()
        assert guest.engine.wait(0) is Outcome.STOPPED
        assert all(sample.fault for sample in guest.engine.sample())


def test_what_is_away_is_away_after_a_reset_too(engine: Choice) -> None:
    payload = Payload().call(PvTime.ST).load(1, 0, 4, size=4).mov(1, 1).keep(1, 0).await_result(1)
    with boot_on(engine, payload.call(Psci.SYSTEM_RESET).halt()) as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(0) != 0)
        guest.engine.protect(STOLEN_TIME, Access.NONE)
        guest.tell(1)
        guest.until(lambda: guest.result(1) == 0 and guest.result(0) != 0)
        sample = guest.engine.sample()[0]
        assert sample.fault is not None
        assert sample.structure_ns is None


def test_a_vcpu_without_a_structure_is_told_so_and_the_other_one_counts(engine: Choice) -> None:
    payload = Payload().cpu_on(1, "ask").label("ask").own_index(10).mov(11, RESULTS)
    payload.add_register(11, 11, 10, shift=3).call(PvTime.FEATURES, PvTime.ST).store(0, 11, 8 * 8)
    payload.call(PvTime.ST).store(0, 11).cbnz(10, "rest").await_result(1).power_off().label("rest").halt()
    kernel = KernelImage(payload.assemble(), 0, 2 << 20, None)
    config = MachineConfig(2, 64 << 20, kernel, no_pvtime=frozenset({1}))
    machine = Machine(config, lambda _: None, lambda _: None)
    guest = Guest(machine, engine.build(machine))
    try:
        guest.finish()
        assert [guest.result(slot) for slot in (0, 1)] == [STOLEN_TIME.base, NOT_SUPPORTED]
        assert [guest.result(slot) for slot in (8, 9)] == [0, NOT_SUPPORTED]
        counted, uncounted = guest.engine.sample()
        assert counted.enabled
        assert counted.truth_ns == counted.structure_ns
        assert (uncounted.enabled, uncounted.structure_ns) == (False, None)
        assert machine.stolen_time.read(STOLEN_TIME.base + STRUCTURE_STRIDE, STRUCTURE_STRIDE) == bytes(64)
    finally:
        guest.engine.stop()
        machine.close()
