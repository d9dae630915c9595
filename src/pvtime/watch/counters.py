# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters for a monitoring system: they never fall.

A thread's figures start from 0 when a VM restarts, and a guest's when it resets. A counter belongs to a name,
of the VM and the vCPU, and goes on from where it was.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from pvtime.watch.own_machines import OwnVcpu
from pvtime.watch.sampler import Cause, HostSample, VcpuInterval, VmInterval

__all__ = ["CounterBook", "Labels", "MetricReading", "readings", "thread_labels", "told_readings"]

Labels: TypeAlias = tuple[str, ...]
REMEMBERED: Final = 100_000
"""Counters that are known, those of VMs that have ended too."""
CAUSES: Final = {Cause.OWN: "own_vcpus", Cause.OTHERS: "others"}


class CounterBook:
    """Values that never fall, by metric and labels."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Labels], tuple[object, int, int]] = OrderedDict()
        """The source's identity, its last value, and the counter."""

    def follow(self, metric: str, labels: Labels, source: object, value: int) -> int:
        """Return the counter that follows a source's value.

        :param source: another one starts from 0. None: it cannot be told from the one before, and starts from
            0 when its value falls. The value of one that can be told does not really fall: a wait that lasts
            was taken for longer than it was.
        """
        before, last, total = self._known.pop((metric, labels), (source, 0, 0))
        if before != source or (source is None and value < last):
            last = 0
        total += max(0, value - last)
        self._remember(metric, labels, (source, max(value, last), total))
        return total

    def add(self, metric: str, labels: Labels, increment: int) -> int:
        """Return a counter after an increment."""
        _, _, total = self._known.pop((metric, labels), (None, 0, 0))
        self._remember(metric, labels, (None, 0, total + max(0, increment)))
        return total + max(0, increment)

    def _remember(self, metric: str, labels: Labels, entry: tuple[object, int, int]) -> None:
        self._known[metric, labels] = entry
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


@dataclass(frozen=True)
class MetricReading:
    """A sample of a metric."""

    metric: str
    labels: Labels
    value: float


def vm_labels(sample: HostSample) -> dict[int, Labels]:
    """Return each VM's VMM and name by its process; where two have the same, with that."""
    counted = Counter(vm.vm.label for vm in sample.vms)
    return {
        vm.vm.pid: (
            vm.vm.vmm,
            vm.vm.name if counted[vm.vm.label] == 1 else f"{vm.vm.name}#{vm.vm.pid}",
        )
        for vm in sample.vms
    }


def thread_labels(sample: HostSample) -> dict[int, Labels]:
    """Return the labels of each vCPU by its thread."""
    names = vm_labels(sample)
    return {
        vcpu.vcpu.tid: (*names[vm.vm.pid], vcpu.vcpu.label)
        for vm in sample.vms
        for vcpu in vm.vcpus
        if vcpu.vcpu.tid is not None
    }


def told_readings(sample: HostSample, told: Mapping[int, bool]) -> Iterator[MetricReading]:
    """Return whether each vCPU's guest is told, of VMs of which it is known, by their processes."""
    names = vm_labels(sample)
    for vm in sample.vms:
        if vm.vm.pid in told:
            for vcpu in vm.vcpus:
                labels = (*names[vm.vm.pid], vcpu.vcpu.label)
                yield MetricReading("pvtime_vcpu_told", labels, float(told[vm.vm.pid]))


def readings(sample: HostSample, own: Iterable[OwnVcpu], book: CounterBook) -> Iterator[MetricReading]:
    """Return all metrics of a sample of the host; times in s. See docs/export.md."""
    names = vm_labels(sample)
    yield MetricReading("pvtime_vms", (), len(sample.vms))
    for vm in sample.vms:
        labels = names[vm.vm.pid]
        yield MetricReading("pvtime_vm_halted", labels, float(vm.stopped or vm.frozen))
        if vm.throttled_ns is not None:
            total = book.add("pvtime_vm_throttled_seconds", labels, vm.throttled_ns)
            yield MetricReading("pvtime_vm_throttled_seconds", labels, total / 1e9)
        for vcpu in vm.vcpus:
            yield from _vcpu(vm, vcpu, (*labels, vcpu.vcpu.label), book)
    for one in own:
        own_labels = ("pvtime", one.machine, str(one.index))
        yield MetricReading("pvtime_vcpu_told", own_labels, float(one.told))
        figures = {"truth": one.truth_ns, "stolen": one.structure_ns, "guest_steal": one.guest_ns}
        for figure, ns in figures.items():
            if ns is not None:
                metric = f"pvtime_vcpu_{figure}_seconds"
                yield MetricReading(metric, own_labels, book.follow(metric, own_labels, None, ns) / 1e9)


def _vcpu(vm: VmInterval, vcpu: VcpuInterval, labels: Labels, book: CounterBook) -> Iterator[MetricReading]:
    source = (*vm.vm.key, vcpu.vcpu.tid)
    totals = {"delay": vcpu.total_stolen_ns, "running": vcpu.total_ran_ns}
    for figure, ns in totals.items():
        metric = f"pvtime_vcpu_{figure}_seconds"
        yield MetricReading(metric, labels, book.follow(metric, labels, source, ns) / 1e9)
    stopped = book.add("pvtime_vcpu_stopped_seconds", labels, vcpu.stopped_ns)
    yield MetricReading("pvtime_vcpu_stopped_seconds", labels, stopped / 1e9)
    for cause, ns in _causes(vm, vcpu).items():
        metric = "pvtime_vcpu_delay_cause_seconds"
        yield MetricReading(metric, (*labels, cause), book.add(metric, (*labels, cause), ns) / 1e9)


def _causes(vm: VmInterval, vcpu: VcpuInterval) -> dict[str, int]:
    """Divide a vCPU's stolen time: the VM's throttled time in proportion, the rest by its main cause."""
    share = 0
    if vm.throttled_ns and vm.stolen_ns:
        share = min(vcpu.stolen_ns, vm.throttled_ns * vcpu.stolen_ns // vm.stolen_ns)
    found = {"quota": share, "own_vcpus": 0, "others": 0}
    found[CAUSES.get(vcpu.cause, "others")] += vcpu.stolen_ns - share
    return found
