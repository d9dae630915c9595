# SPDX-License-Identifier: GPL-2.0-or-later
"""x86: the third approach as x86 has it, on this host's own KVM.

Source: the kernel's Documentation/virt/kvm/x86/msr.rst, and record_steal_time and
kvm_steal_time_set_preempted in arch/x86/kvm/x86.c.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pvtime.abi.kvm_types import MemoryFlag
from pvtime.abi.registration import PREEMPTED, KvmStealTime, Registration
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.stats import StatsFd
from pvtime.errors import UsageError
from pvtime.machine.layout import Region
from pvtime.probe.affinity import last_cpu, one_cpu
from pvtime.probe.mailbox_client import ProbeError
from pvtime.probe.x86 import STRUCTURES, Entry, X86Vcpu, X86Vm, x86_vm
from pvtime.scenario import claims
from pvtime.scenario.changes import Snapshot, dump, fields_of
from pvtime.scenario.env import EVENT_TIMEOUT_S, MIN_STOLEN_NS, ScenarioEnv
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.model import Scenario
from pvtime.steal.placement import PlacementName
from pvtime.steal.run_delay import Schedstat

__all__ = ["SCENARIO"]

FIRST: Final = STRUCTURES.base
SECOND: Final = STRUCTURES.base + 0x40
"""Addresses of two structures."""
NO_MEMORY: Final = 0x10_0000_0000
"""An address without memory."""
DISABLE: Final = 0
PATTERN: Final = 0x5A
PER_UPDATE: Final = 2
"""The version grows by this with each update."""

VERSION: Final = KvmStealTime.version.offset // 4
"""Index among the 32-bit words of the first structure."""
STEAL: Final = KvmStealTime.steal.offset // 8
"""Index among its 64-bit words."""

FLAG: Final = KvmStealTime.preempted.offset // 4
"""Index among its 32-bit words."""

UNCOUNTED: Final = (
    "This KVM counts no exits or no preemptions, so they are not looked at: it takes Linux 6.0."
)

ENOUGH: Final = 20
"""Preemptions, and entries without one."""
READS: Final = 100
"""Reads before it is asked again whether there were enough."""

TO_THE_NS: Final = "equals run_delay to the ns"
LEFT_ALONE: Final = "no byte changed"
STOPS: Final = "stops, and nobody is told"


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Have a guest register memory by WRMSR; its vCPU's thread, and a vCPU that computes, share a CPU."""
    with x86_vm(vcpus=2) as vm, contextlib.closing(_Host(vm)) as host:
        if env.placement is not PlacementName.GUEST:
            raise UsageError(f"KVM on x86 has the placement {PlacementName.GUEST.value} alone")
        with one_cpu() as cpu, vm.spinning(cpu, vm.vcpus[1]):
            yield from _counts(vm, host)
            yield from _disabled(vm, host)
            yield from _kexec(vm, host)
            yield from _refusals(vm, host)
            yield from _memory_gone(vm, host)
            yield from _two_consumers(vm, host)
    yield from _watched()


class _Host:
    """The first vCPU, on the thread that runs it, and that thread's clock."""

    def __init__(self, vm: X86Vm) -> None:
        self._vm = vm
        self._clock = Schedstat(threading.get_native_id())
        self.vcpu: X86Vcpu = vm.vcpus[0]

    def load(self) -> None:
        """Load the vCPU, enter its guest, and leave."""
        self.vcpu.start_at(Entry.LEAVE)
        self.vcpu.enter()

    def await_stolen(self) -> None:
        """Load the vCPU until :data:`MIN_STOLEN_NS` more have been stolen, and then once more.

        :raises ProbeError: it takes too long.
        """
        enough = self._clock.run_delay() + MIN_STOLEN_NS
        end = time.monotonic() + EVENT_TIMEOUT_S
        while self._clock.run_delay() < enough:
            if time.monotonic() > end:
                raise ProbeError(f"not within {EVENT_TIMEOUT_S} s: stolen time")
            self.load()
        self.load()  # for what was stolen after the last

    def run_delay_of_load(self) -> int:
        """Load the vCPU, and return the run_delay that its thread had during the load."""
        while True:
            before = self._clock.run_delay()
            self.load()
            if self._clock.run_delay() == before:
                return before

    def behind(self, address: int) -> int:
        """Load the vCPU, and return the run_delay of its thread less the count at an address, in ns."""
        return self.run_delay_of_load() - int(self._vm.structure(address).steal)

    def changed_by_loads(self) -> tuple[list[str], tuple[str, ...]]:
        """Load the vCPU until time has been stolen; return what of the first structure's page was written.

        The names of its fields, and lines with the bytes.
        """
        before = Snapshot(self._vm.structures, Region("nothing", STRUCTURES.end, 0))
        self.await_stolen()
        changes = before.changes()
        return fields_of(KvmStealTime, FIRST, changes), dump(changes)

    def close(self) -> None:
        """Close the clock."""
        self._clock.close()


def _compared(behind: int) -> str:
    return f"is {behind} ns behind run_delay" if behind else TO_THE_NS


def _written(fields: list[str]) -> str:
    return f"overwritten: {', '.join(fields)}" if fields else LEFT_ALONE


def _counts(vm: X86Vm, host: _Host) -> Iterator[Event]:
    host.await_stolen()
    vm.write_msr(host.vcpu, FIRST | 1)
    behind, count = host.behind(FIRST), vm.structure(FIRST).steal
    yield Step(
        f"The guest writes {FIRST | 1:#x} to MSR_KVM_STEAL_TIME. At the next load the count is {count} ns, "
        f"and the thread's run_delay, since its start, {count + behind} ns."
    )
    yield Finding("the count once enabled", _compared(behind), TO_THE_NS)
    host.await_stolen()
    behind, count = host.behind(FIRST), vm.structure(FIRST).steal
    yield Step(f"Later run_delay is {count + behind} ns, and the count {count} ns.")
    yield Finding("the count later", _compared(behind), TO_THE_NS)


def _disabled(vm: X86Vm, host: _Host) -> Iterator[Event]:
    vm.write_msr(host.vcpu, DISABLE)
    before = vm.structure(FIRST)
    fields, lines = host.changed_by_loads()
    yield Step(f"The guest writes {DISABLE}, and {MIN_STOLEN_NS} ns or more are stolen from it.", lines)
    yield Finding("the structure while disabled", _written(fields), LEFT_ALONE)
    vm.write_msr(host.vcpu, FIRST | 1)
    behind, count = host.behind(FIRST), vm.structure(FIRST).steal
    yield Step(
        f"It enables the same address again: the count was {before.steal} ns and is {count} ns, and "
        f"run_delay is {count + behind} ns."
    )
    yield Finding("enabled again: the count", _compared(behind), TO_THE_NS)


def _kexec(vm: X86Vm, host: _Host) -> Iterator[Event]:
    data = bytes([PATTERN]) * STRUCTURES.size
    vm.structures.write(STRUCTURES.base, data)
    fields, lines = host.changed_by_loads()
    yield Step(
        f"A second kernel fills its data at {STRUCTURES.base:#x}..{STRUCTURES.end - 1:#x}, where the first "
        f"one's structure is still enabled, with {PATTERN:x}.",
        lines,
    )
    corrupted = "overwritten: steal, version, preempted"
    yield Finding("not disabled before kexec", _written(fields), corrupted)
    vm.write_msr(host.vcpu, DISABLE)
    vm.structures.write(STRUCTURES.base, data)
    fields, lines = host.changed_by_loads()
    yield Step("The same, with the first kernel's structure disabled before.", lines)
    yield Finding("disabled before kexec", _written(fields), LEFT_ALONE)
    vm.structures.clear()


def _refusals(vm: X86Vm, host: _Host) -> Iterator[Event]:
    bits = [
        1 << bit for bit in range(6) if Registration.reserved.place(Registration.reserved.mask) >> bit & 1
    ]
    values = [FIRST | bit | 1 for bit in bits]
    faults = [not vm.write_msr(host.vcpu, value) for value in values]
    refused = [not host.vcpu.set_msr(value) for value in values]
    kept = host.vcpu.get_msr() == DISABLE
    yield Step(
        "The guest writes "
        + ", ".join(f"{value:#x}" for value in values)
        + ": misaligned, or with a reserved "
        "bit, which is the same. Then the VMM does (KVM_SET_MSRS)."
    )
    seen = "a fault in the guest" if all(faults) else f"{sum(faults)} of {len(faults)} are a fault"
    yield Finding("misaligned, or reserved bits: WRMSR", seen, "a fault in the guest")
    seen = "refused" if all(refused) and kept else f"{sum(refused)} of {len(refused)} are refused"
    yield Finding("misaligned, or reserved bits: KVM_SET_MSRS", seen, "refused")
    accepted = vm.write_msr(host.vcpu, NO_MEMORY | 1)
    fields, lines = host.changed_by_loads()
    yield Step(f"The guest writes {NO_MEMORY | 1:#x}, an address without memory, and goes on.", lines)
    answer = "accepted" if accepted else "refused"
    yield Finding("an address without memory", f"{answer}; {_written(fields)}", f"accepted; {LEFT_ALONE}")


def _memory_gone(vm: X86Vm, host: _Host) -> Iterator[Event]:
    for name, flags in (("gone", None), ("read-only", MemoryFlag.READONLY)):
        vm.write_msr(host.vcpu, FIRST | 1)
        behind, count = host.behind(FIRST), vm.structure(FIRST).steal
        vm.take_structures()
        if flags is not None:
            vm.give_structures(flags)
        fields, lines = host.changed_by_loads()
        yield Step(f"The VMM has the memory slot {name}, and {MIN_STOLEN_NS} ns or more are stolen.", lines)
        yield Finding(f"memory {name}: the count", STOPS if not fields else _written(fields), STOPS)
        if flags is not None:
            vm.take_structures()
        vm.give_structures()
        missing = host.behind(FIRST) - behind
        yield Step(f"With the memory back the count goes from {count} ns to {vm.structure(FIRST).steal} ns.")
        expected = "has what was stolen meanwhile, to the ns"
        yield Finding(
            f"memory {name}, then back: the count",
            f"lacks {missing} ns" if missing else expected,
            expected,
        )


def _two_consumers(vm: X86Vm, host: _Host) -> Iterator[Event]:
    vm.write_msr(host.vcpu, FIRST | 1)
    host.await_stolen()
    behind = host.behind(FIRST)
    granted = vm.write_msr(host.vcpu, SECOND | 1)
    first = vm.structure(FIRST)
    host.await_stolen()
    stolen = host.run_delay_of_load() - behind - first.steal
    count = vm.structure(SECOND).steal
    yield Step(
        f"Firmware has registered {FIRST:#x}, and a kernel registers {SECOND:#x}. From then on {stolen} ns "
        f"are stolen: the kernel's count goes from 0 to {count} ns, and the firmware's from {first.steal} ns "
        f"to {vm.structure(FIRST).steal} ns."
    )
    yield Finding("the second consumer's request", "granted" if granted else "refused", "granted")
    same = bytes(vm.structure(FIRST)) == bytes(first)
    yield Finding("the first consumer's count then", STOPS if same else "continues", STOPS)
    starts = "starts from zero" if count == stolen else f"differs by {count - stolen} ns"
    yield Finding("the second consumer's count", starts, "starts from zero")
    vm.write_msr(host.vcpu, DISABLE)


@dataclass
class _Reads:
    """Reads of a structure by a thread that does not run its vCPU."""

    counts: dict[int, set[int]]
    """By even version, the counts that were read between two reads of that version."""
    preempted: set[int]
    """Values of the flag."""
    total: int = 0
    odd: int = 0


def _watched() -> Iterator[Event]:
    """Have two vCPUs compute on one CPU, and read one's structure from another thread meanwhile."""
    with x86_vm(vcpus=2) as vm, contextlib.ExitStack() as stack:
        try:
            stats = stack.enter_context(contextlib.closing(StatsFd(vm.vcpus[0].fd.stats_fd())))
        except KvmError:
            yield Step(UNCOUNTED)
            return
        exits, reported, other = map(stats.counter, ("exits", "preemption_reported", "preemption_other"))
        if exits is None or reported is None or other is None:
            yield Step(UNCOUNTED)
            return
        vm.vcpus[0].set_msr(FIRST | 1)
        reads = _Reads({}, set())
        with _structure_words(vm) as (words, longs):
            with (
                vm.spinning(last_cpu(), *vm.vcpus) as (thread, _),
                contextlib.closing(Schedstat(thread)) as clock,
            ):
                end = time.monotonic() + EVENT_TIMEOUT_S
                while True:
                    _read(words, longs, reads)
                    # In this order: KVM counts a preemption before it sets the flag, and a load comes before
                    # its update, and that before its entry.
                    entries, updates = exits(), words[VERSION] // PER_UPDATE
                    told, untold, loads = reported(), other(), clock.timeslices() + 1
                    seen = PREEMPTED in reads.preempted
                    if told + untold >= ENOUGH and entries - updates >= ENOUGH and (seen or not told):
                        break
                    if time.monotonic() > end:
                        raise ProbeError(
                            f"only {told + untold} preemptions and {entries - updates} entries without an "
                            f"update came within {EVENT_TIMEOUT_S} s"
                        )
            version = words[VERSION]
    yield Step(
        f"Two vCPUs compute on one CPU. One of them was put on it {loads} times at most, left its guest and "
        f"entered it again {entries} times at least, and its structure was updated {updates} times."
    )
    yield Finding("the structure is updated", "at loads" if updates <= loads else "more often", "at loads")
    yield Step(
        f"Of {reads.total} reads by another thread {reads.odd} found the version odd; the others are of "
        f"{len(reads.counts)} versions."
    )
    yield Finding("version, when the vCPU is out", "odd" if version & 1 else "even", "even")
    one = all(len(counts) == 1 for counts in reads.counts.values())
    yield Finding("counts under one even version", "one" if one else "several", "one")
    was = "was set meanwhile" if seen else "was never set"
    yield Step(
        f"KVM counts {told} preemptions as reported to the guest, and {untold} others. The flag preempted "
        f"{was}."
    )
    expected = "set if KVM's statistics say so"
    agrees = seen is (told > 0)
    yield Finding("preempted, while the vCPU waits", expected if agrees else f"it {was}", expected)


@contextlib.contextmanager
def _structure_words(vm: X86Vm) -> Iterator[tuple[memoryview, memoryview]]:
    """Return the first structure as words of 32 and of 64 bits."""
    view = vm.structures.view(FIRST, STRUCTURES.size)
    words, longs = view.cast("I"), view.cast("Q")
    try:
        yield words, longs
    finally:
        for each in (words, longs, view):
            each.release()


def _read(words: memoryview, longs: memoryview, reads: _Reads) -> None:
    """Read the structure as a guest does, and the flag."""
    for _ in range(READS):
        version, count, again = words[VERSION], longs[STEAL], words[VERSION]
        reads.total += 1
        reads.odd += version & 1
        if version == again and not version & 1:
            reads.counts.setdefault(version, set()).add(count)
    reads.preempted.add(words[FLAG] & 0xFF)


SCENARIO: Final = Scenario(
    "x86",
    "the third approach as x86 has it, on this host's own KVM",
    events,
    (claims.X86, claims.KEXEC, claims.ARBITRATION, claims.RETURN, claims.LOAD),
    runs_on="this host's KVM",
)
