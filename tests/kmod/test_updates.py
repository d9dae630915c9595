# SPDX-License-Identifier: GPL-2.0-or-later
"""The module's updates in a kernel's KVM: whether they write the truth, when they are made, what they take.

The lab counts instructions, so that the figures do not depend on this machine (tests/lab/test_module.py).
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.bare import bare_vm
from framework.engines import Choice
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime_kmod import SamplePart, UpdateMethod
from pvtime.engine.kvm.pvtime_fd import PvTimeFd, read_samples
from pvtime.machine.layout import RAM_BASE
from pvtime.probe.assembler import Program
from pvtime.probe.probe import Probe
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen
from pvtime.steal.placement import PlacementName

PARAMETERS = Path("/sys/module/pvtime_kvm/parameters")
DEFAULTS = {"method": "kvm", "moment": "load", "measure": "N"}
MEMORY = RAM_BASE + (16 << 20)
OTHERS = [PlacementName.HYPERVISOR, PlacementName.GUEST]
CALLS = 200
LOADS = 20
PARTS = range(SamplePart.SRCU_LOCK, SamplePart.SRCU_UNLOCK + 1)


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Have the module's parameters as they are at its load, before and after, and no samples."""
    configure(**DEFAULTS)
    read_samples()
    yield
    configure(**DEFAULTS)


def configure(**parameters: str) -> None:
    """Set parameters of the module."""
    for name, value in parameters.items():
        (PARAMETERS / name).write_text(value)


def updates() -> int:
    """Return the number of updates that the module has made."""
    return int((PARAMETERS / "updates").read_text())


def agree(probe: Probe) -> None:
    """Have time stolen from two vCPUs, and compare the structures with the truth."""
    for index, sample in enumerate(await_stolen(probe, 0, 1)):
        assert sample.fault is None
        assert sample.structure_ns == sample.truth_ns > 0, f"vCPU {index}"


def counts(placement: PlacementName, engine: Choice) -> dict[tuple[UpdateMethod, SamplePart], list[int]]:
    """Measure the updates of two vCPUs that steal from each other."""
    env = ScenarioEnv(engine.build_with, placement)
    with env.boot() as probe:
        for index in range(2):
            env.guest_side(MEMORY).enable(probe, index)
        agree(probe)
        await_loads(probe, 0, LOADS)
        read_samples()
        await_loads(probe, 0, LOADS)
        samples = read_samples()
    found = defaultdict(list)
    for sample in samples:
        found[UpdateMethod(sample.method), SamplePart(sample.part)].append(sample.count)
    return found


@pytest.mark.parametrize("method", ["merged", "parts", "cached"])
@pytest.mark.parametrize("moment", ["load", "entry"])
def test_every_update_of_user_spaces_structure_writes_the_truth(
    method: str, moment: str, engine: Choice
) -> None:
    env = ScenarioEnv(engine.build_with, PlacementName.USERSPACE)
    with env.boot() as probe:
        configure(method=method, moment=moment)
        before = updates()
        for index in range(2):
            env.guest_side(MEMORY).enable(probe, index)
        agree(probe)
        assert updates() > before


def test_kvms_own_update_is_left_alone_by_default(engine: Choice) -> None:
    with ScenarioEnv(engine.build_with, PlacementName.USERSPACE).boot() as probe:
        before = updates()
        agree(probe)
        assert updates() == before


@pytest.mark.parametrize(
    "placement", [PlacementName.HYPERVISOR, PlacementName.GUEST], ids=lambda each: each.value
)
@pytest.mark.parametrize("moment", ["load", "entry"])
def test_the_kernels_own_structure_and_the_guests_have_the_truth(
    moment: str, placement: PlacementName, engine: Choice
) -> None:
    configure(moment=moment)
    env = ScenarioEnv(engine.build_with, placement)
    with env.boot() as probe:
        before = updates()
        for index in range(2):
            env.guest_side(MEMORY).enable(probe, index)
        agree(probe)
        assert updates() > before, "the module makes no updates"


def calls(count: int) -> Program:
    """Return a guest that makes hypervisor calls, each an exit and an entry, and then powers off."""
    program = Program(RAM_BASE).mov(20, count).label("again").mov(0, Psci.VERSION).hvc()
    return program.sub(20, 20, 1).cbnz(20, "again").mov(0, Psci.SYSTEM_OFF).hvc().halt()


def switches() -> int:
    """Return how often this thread has left the CPU."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nvcsw + usage.ru_nivcsw


@pytest.mark.parametrize("moment", ["load", "entry"])
def test_updates_are_made_at_loads_or_at_every_entry(moment: str) -> None:
    configure(moment=moment)
    with bare_vm(1) as bare:
        device = PvTimeFd(bare.structures)
        device.attach(bare.vcpus[0], bare.structures.base)
        before, off_cpu = updates(), switches()
        bare.run(calls(CALLS))
        made, loads = updates() - before, 1 + switches() - off_cpu
        device.close()
    if moment == "load":
        assert 1 <= made <= loads < CALLS
    else:
        assert made > CALLS  # an interrupt is an exit too


def test_a_straight_store_takes_less_than_a_cached_mapping_and_that_less_than_the_merged_update(
    engine: Choice,
) -> None:
    assert (PARAMETERS / "unit").read_text() == "instructions\n", "the lab's CPU counts them under --icount"
    configure(measure="Y")
    found = counts(PlacementName.HYPERVISOR, engine) | counts(PlacementName.GUEST, engine)
    for method in ("cached", "merged", "parts"):
        configure(method=method)
        found |= counts(PlacementName.USERSPACE, engine)
    least = {key: min(values) for key, values in found.items()}
    empty = {
        least[method, SamplePart.NOTHING] for method in UpdateMethod if (method, SamplePart.NOTHING) in least
    }
    assert len(empty) == 1, "a measurement's own cost"
    straight, cached, merged, x86 = (
        least[method, SamplePart.WHOLE] - min(empty)
        for method in (UpdateMethod.STRAIGHT, UpdateMethod.CACHED, UpdateMethod.MERGED, UpdateMethod.X86)
    )
    assert 0 < straight < cached < merged
    assert straight < x86
    reading = least[UpdateMethod.PARTS, SamplePart.NO_PART]
    parts = [least[UpdateMethod.PARTS, SamplePart(part)] - reading for part in PARTS]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= merged + straight, "the parts are of the whole"
