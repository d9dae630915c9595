# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters that never fall, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from framework.fake_proc import FakeProc
from pvtime.host.qemu import Told
from pvtime.host.vms import HostVm, VmFinder
from pvtime.watch.counters import CounterBook
from pvtime.watch.exporter import HostCollector
from pvtime.watch.guests import told_from_outside
from pvtime.watch.own_machines import OwnVcpu, parse_sample
from pvtime.watch.sampler import HostSampler

SECOND = 1_000_000_000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**12)), max_size=40))
def test_a_counter_never_falls_whatever_its_source_does(values: list[tuple[int, int]]) -> None:
    book = CounterBook()
    last = 0
    for source, value in values:
        total = book.follow("metric", ("a",), source or None, value)
        assert total >= last
        last = total


def test_a_new_source_is_added_to_the_old_ones_total() -> None:
    book = CounterBook()
    assert book.follow("metric", ("a",), "first", 10) == 10
    assert book.follow("metric", ("a",), "first", 15) == 15
    assert book.follow("metric", ("a",), "first", 14) == 15  # a wait was taken for longer than it was
    assert book.follow("metric", ("a",), "first", 16) == 16
    assert book.follow("metric", ("a",), "second", 3) == 19
    assert book.follow("metric", ("b",), "first", 1) == 1


@dataclass
class Fleet:
    """A host, and its metrics."""

    proc: FakeProc
    now: int = 0
    own: list[OwnVcpu] = field(default_factory=list)
    libvirt_names: bool = False
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sampler = HostSampler(VmFinder(self.proc.root), self.proc.root, lambda: self.now)
        self.registry = CollectorRegistry()
        names = self.libvirt_names
        collector = HostCollector(self.sampler, libvirt_names=names, own=lambda: self.own, told=self.told)
        self.registry.register(collector)

    def told(self, vm: HostVm) -> Told:
        """Return what a VM's command line says of its guest."""
        self.asked.append(vm.pid)
        return told_from_outside(vm, self.proc.root)

    def vm(self, pid: int, name: bytes, start: int = 100) -> None:
        """Start a VM of one vCPU."""
        arguments = [b"qemu-system-x86_64", b"-name", name]
        self.proc.process(pid, b"qemu-system-x86", arguments, threads={pid + 1: b"CPU 0/KVM"}, start=start)

    def scrape(self, name: str, **labels: str) -> float | None:
        """Return a metric's value, one second later."""
        self.now += SECOND
        text = generate_openmetrics(self.registry).decode()  # type: ignore[no-untyped-call]
        assert text.endswith("# EOF\n")
        for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return a host with one VM."""
    fleet = Fleet(FakeProc(tmp_path / "proc"))
    fleet.vm(50, b"web1")
    yield fleet
    fleet.sampler.close()


def test_the_delay_of_a_vm_that_restarts_goes_on(fleet: Fleet) -> None:
    fleet.proc.times(50, 51, delay=7 * SECOND, slices=5)
    delay = "pvtime_vcpu_delay_seconds_total"
    assert fleet.scrape(delay, vm="web1", vcpu="0", vmm="qemu") == 7.0
    fleet.proc.end(50)
    assert fleet.scrape(delay, vm="web1") is None
    fleet.vm(60, b"web1", start=500)
    fleet.proc.times(60, 61, delay=2 * SECOND, slices=5)
    assert fleet.scrape(delay, vm="web1") == 9.0


def test_the_delay_by_cause_is_the_delay_since_the_first_scrape(fleet: Fleet) -> None:
    assert fleet.scrape("pvtime_vms") == 1
    fleet.proc.times(50, 51, delay=400_000_000, slices=5)
    assert fleet.scrape("pvtime_vcpu_delay_cause_seconds_total", cause="others") == 0.4
    assert fleet.scrape("pvtime_vcpu_delay_cause_seconds_total", cause="quota") == 0.0


def test_two_vms_of_one_name_are_two_series(fleet: Fleet) -> None:
    fleet.vm(60, b"web1")
    fleet.proc.times(60, 61, delay=2 * SECOND, slices=5)
    assert fleet.scrape("pvtime_vcpu_delay_seconds_total", vm="web1#60") == 2.0
    assert fleet.scrape("pvtime_vcpu_delay_seconds_total", vm="web1#50") == 0.0


def test_a_hostile_name_stays_in_its_label(fleet: Fleet) -> None:
    fleet.vm(70, b'a"} 1\npvtime_vms 9\\')
    assert fleet.scrape("pvtime_vms") == 2
    assert fleet.scrape("pvtime_vcpu_delay_seconds_total", vm='a"} 1\\npvtime_vms 9\\') == 0.0


def test_libvirts_names_are_there_where_they_are_asked_for(tmp_path: Path) -> None:
    fleet = Fleet(FakeProc(tmp_path / "proc"), libvirt_names=True)
    fleet.vm(50, b"web1")
    fleet.proc.times(50, 51, ran=SECOND, delay=7 * SECOND, slices=5)
    assert fleet.scrape("libvirt_domain_vcpu_delay_seconds_total", domain="web1", vcpu="0") == 7.0
    assert fleet.scrape("libvirt_domain_vcpu_time_seconds_total", domain="web1") == 1.0
    fleet.sampler.close()
    assert b"libvirt" not in generate_latest(Fleet(FakeProc(tmp_path / "other")).registry)


def test_a_guest_that_resets_its_count_lets_no_counter_fall(fleet: Fleet) -> None:
    fleet.own = [OwnVcpu("a", 9, 0, True, 5 * SECOND, 5 * SECOND, None)]
    assert fleet.scrape("pvtime_vcpu_stolen_seconds_total", vm="a") == 5.0
    fleet.own = [OwnVcpu("a", 9, 0, True, 1 * SECOND, 1 * SECOND, 2 * SECOND)]
    assert fleet.scrape("pvtime_vcpu_stolen_seconds_total", vm="a") == 6.0
    assert fleet.scrape("pvtime_vcpu_guest_steal_seconds_total", vm="a") == 2.0
    assert fleet.scrape("pvtime_vcpu_told", vm="a") == 1.0


def test_whether_another_vmms_guest_is_told_is_read_once_and_absent_where_it_is_not_known(
    fleet: Fleet,
) -> None:
    fleet.proc.process(
        60, b"lkvm", [b"lkvm", b"run", b"--name", b"k", b"--no-pvtime"], threads={61: b"kvm-vcpu-0"}
    )
    fleet.proc.process(70, b"firecracker", [b"firecracker", b"--id", b"f"], threads={71: b"fc_vcpu 0"})
    for _ in range(3):
        assert fleet.scrape("pvtime_vcpu_told", vmm="kvmtool", vm="k", vcpu="0") == 0.0
    assert fleet.scrape("pvtime_vcpu_told", vm="f") is None
    assert sorted(fleet.asked) == [50, 60, 70]
    fleet.proc.end(60)
    assert fleet.scrape("pvtime_vcpu_told", vm="k") is None


def test_a_sample_of_a_machine_is_read_and_rubbish_is_none() -> None:
    row = {"index": 1, "enabled": True, "truth_ns": 9, "structure_ns": None, "guest_error_ns": -2}
    assert parse_sample("a", 9, {"sample": {"vcpus": [row]}}) == [OwnVcpu("a", 9, 1, True, 9, None, 7)]
    for rubbish in (
        {},
        {"sample": None},
        {"sample": {"vcpus": [1]}},
        {"sample": {"vcpus": [{"index": "x"}]}},
    ):
        assert parse_sample("a", 9, rubbish) == []
