# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics of ``pvtime export``, for Prometheus.

It needs prometheus_client, which is an extra of the package: ``pip install 'pvtime[export]'``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pvtime.host.qemu import Told
from pvtime.host.vms import HostVm
from pvtime.watch.counters import CounterBook, MetricReading, readings, thread_labels, told_readings
from pvtime.watch.guests import told_from_outside
from pvtime.watch.own_machines import OwnVcpu, ask_own_machines
from pvtime.watch.sampler import HostSample, HostSampler
from pvtime.watch.wait_histogram import WaitTracer

__all__ = ["HostCollector"]

_VM: Final = ("vmm", "vm")
_VCPU: Final = (*_VM, "vcpu")
COUNTERS: Final = {
    "pvtime_vcpu_delay_seconds": (
        _VCPU,
        "Time for which the vCPU's thread was runnable and waited.",
    ),
    "pvtime_vcpu_running_seconds": (_VCPU, "Time for which the vCPU's thread was on a CPU."),
    "pvtime_vcpu_stopped_seconds": (_VCPU, "Time for which the vCPU was stopped or frozen."),
    "pvtime_vcpu_delay_cause_seconds": ((*_VCPU, "cause"), "The delay by cause: quota, own_vcpus or others."),
    "pvtime_vm_throttled_seconds": (
        _VM,
        "Time for which quotas kept the VM's threads from running.",
    ),
    "pvtime_vcpu_truth_seconds": (_VCPU, "Stolen time as the host knows it, of a machine of pvtime's."),
    "pvtime_vcpu_stolen_seconds": (_VCPU, "Stolen time in the vCPU's structure, of a machine of pvtime's."),
    "pvtime_vcpu_guest_steal_seconds": (_VCPU, "Steal in the guest's /proc/stat, of a machine of pvtime's."),
}
GAUGES: Final = {
    "pvtime_vms": ((), "VMs that are seen on this host."),
    "pvtime_vm_halted": (_VM, "1 where the VM is stopped or frozen."),
    "pvtime_vcpu_told": (
        _VCPU,
        "1 where the guest has stolen time, 0 where it has none, as far as is known.",
    ),
}
WAITS: Final = "pvtime_vcpu_wait_seconds"
"""Name of the histogram."""
LIBVIRT: Final = {
    "pvtime_vcpu_delay_seconds": "libvirt_domain_vcpu_delay_seconds",
    "pvtime_vcpu_running_seconds": "libvirt_domain_vcpu_time_seconds",
}
"""Names of libvirt's exporter for the same figures."""


class HostCollector(Collector):
    """Samples the host when it is scraped.

    :param libvirt_names: have the figures that libvirt's exporter has under its names too.
    :param waits: have its histograms too, of the vCPUs that each sample finds.
    """

    def __init__(
        self,
        sampler: HostSampler,
        *,
        libvirt_names: bool = False,
        waits: WaitTracer | None = None,
        own: Callable[[], Sequence[OwnVcpu]] = ask_own_machines,
        told: Callable[[HostVm], Told] = told_from_outside,
    ) -> None:
        self._sampler = sampler
        self._libvirt = libvirt_names
        self._waits = waits
        self._own = own
        self._ask_told = told
        self._told: dict[tuple[int, int], bool | None] = {}
        self._book = CounterBook()
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        with self._lock:
            sample = self._sampler.sample()
            own = self._own()
            found = [*readings(sample, own, self._book), *told_readings(sample, self._told_of(sample))]
            if self._waits is not None:
                self._waits.follow(thread_labels(sample))
        yield from families(found, libvirt_names=self._libvirt)
        if self._waits is not None:
            yield from wait_families(self._waits)

    def _told_of(self, sample: HostSample) -> dict[int, bool]:
        """Return what VMMs' command lines say, by process: each is read once."""
        keys = {vm.vm.key for vm in sample.vms}
        self._told = {key: told for key, told in self._told.items() if key in keys}
        for vm in sample.vms:
            if vm.vm.vmm != "pvtime" and vm.vm.key not in self._told:
                self._told[vm.vm.key] = self._ask_told(vm.vm).told
        return {key[0]: told for key, told in self._told.items() if told is not None}

    def describe(self) -> list[Metric]:
        """Return nothing: a registry then does not sample when this is registered."""
        return []


def wait_families(waits: WaitTracer) -> Iterator[Metric]:
    """Return the histogram of the waits, and how many records it lacks."""
    family = HistogramMetricFamily(WAITS, "Waits of the vCPU's thread for a CPU.", labels=_VCPU)
    for labels, buckets, seconds in waits.histograms():
        family.add_metric(labels, buckets, seconds)
    yield family
    lost = CounterMetricFamily("pvtime_wait_records_lost", "Records that the kernel had no room for.")
    lost.add_metric((), waits.lost)
    yield lost


def families(found: Iterable[MetricReading], *, libvirt_names: bool) -> Iterator[Metric]:
    """Return the readings as metrics."""
    metrics: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, (labels, text) in COUNTERS.items():
        metrics[name] = CounterMetricFamily(name, text, labels=labels)
    for name, (labels, text) in GAUGES.items():
        metrics[name] = GaugeMetricFamily(name, text, labels=labels)
    if libvirt_names:
        for name, theirs in LIBVIRT.items():
            metrics[theirs] = CounterMetricFamily(theirs, COUNTERS[name][1], labels=("domain", "vcpu"))
    for reading in found:
        metrics[reading.metric].add_metric(reading.labels, reading.value)
        if libvirt_names and reading.metric in LIBVIRT:
            metrics[LIBVIRT[reading.metric]].add_metric(reading.labels[1:], reading.value)
    yield from metrics.values()
