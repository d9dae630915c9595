# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of every vCPU between two samples, with a clock and a /proc of the test's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from pvtime.host.vms import VmFinder
from pvtime.watch.own_machines import OwnVcpu
from pvtime.watch.sampler import WITHOUT_ROOT, Cause, HostSampler, VcpuInterval, parse_cpus
from pvtime.watch.top_view import TopState, own_sentences, sample_to_json, top_table

SECOND = 1_000_000_000


@dataclass
class Host:
    """A host with one VM of two vCPUs."""

    proc: FakeProc
    now: int = 0

    def __post_init__(self) -> None:
        self.proc.process(
            50,
            b"qemu-system-x86",
            [b"qemu-system-x86_64", b"-name", b"web\x1b[31m1"],
            threads={51: b"CPU 0/KVM", 52: b"CPU 1/KVM"},
        )
        self.sampler = HostSampler(VmFinder(self.proc.root), self.proc.root, lambda: self.now)
        self.sampler.sample()

    def later(self, ns: int = SECOND) -> list[VcpuInterval]:
        """Return the vCPUs' intervals after a time."""
        self.now += ns
        (vm,) = self.sampler.sample().vms
        return list(vm.vcpus)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Return the host after its first sample."""
    host = Host(FakeProc(tmp_path / "proc"))
    yield host
    host.sampler.close()


def test_what_ran_was_stolen_and_was_off_adds_up_to_the_time(host: Host) -> None:
    host.proc.times(50, 51, ran=600_000_000, delay=300_000_000, slices=9, state="R", cpu=3)
    first, second = host.later()
    assert (first.ran_ns, first.stolen_ns, first.off_ns, first.cpu) == (
        600_000_000,
        300_000_000,
        100_000_000,
        3,
    )
    assert (second.ran_ns, second.stolen_ns, second.off_ns) == (0, 0, SECOND)
    assert first.cause is Cause.OTHERS
    assert second.cause is Cause.NONE


def test_a_wait_that_does_not_end_is_shown_and_not_counted_twice(host: Host) -> None:
    """A throttled vCPU waited for 3 s: its run_delay stood still, then grew by 3 s at once."""
    host.proc.times(50, 51, slices=1, state="R")
    shown = [host.later()[0].stolen_ns for _ in range(3)]
    host.proc.times(50, 51, ran=100_000_000, delay=3 * SECOND, slices=2, state="R")
    shown.append(host.later()[0].stolen_ns)
    assert shown == [SECOND, SECOND, SECOND, 0]


def test_a_stopped_vcpu_is_neither_idle_nor_stolen_from(host: Host) -> None:
    host.proc.times(50, 51, state="T")
    host.later()
    first, second = host.later()
    assert (first.stopped_ns, first.off_ns, first.stolen_ns) == (SECOND, 0, 0)
    assert second.off_ns == SECOND


def test_quota_is_told_from_neighbours(host: Host, tmp_path: Path) -> None:
    group = tmp_path / "v2/a"
    group.mkdir(parents=True)
    group.joinpath("cpu.max").write_text("50000 100000\n")
    group.joinpath("cpu.stat").write_text("nr_throttled 1\nthrottled_usec 0\n")
    host.proc.mount(f"32 20 0:28 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw")
    host.proc.cgroup(50, "0::/a\n")
    host.sampler.close()
    host.sampler = HostSampler(VmFinder(host.proc.root), host.proc.root, lambda: host.now)
    host.sampler.sample()
    group.joinpath("cpu.stat").write_text("nr_throttled 5\nthrottled_usec 400000\n")
    host.proc.times(50, 51, ran=500_000_000, delay=410_000_000, slices=9)
    assert host.later()[0].cause is Cause.QUOTA
    host.proc.times(50, 51, ran=600_000_000, delay=SECOND, slices=19)
    assert host.later()[0].cause is Cause.OTHERS


def test_vcpus_that_use_up_the_one_cpu_they_may_have_compete_with_each_other(host: Host) -> None:
    for tid in (51, 52):
        host.proc.times(50, tid, ran=500_000_000, delay=500_000_000, slices=9, state="R", cpu=1)
        host.proc.root.joinpath(f"50/task/{tid}/status").write_text("Cpus_allowed_list:\t1\n")
    assert [vcpu.cause for vcpu in host.later()] == [Cause.OWN, Cause.OWN]
    assert parse_cpus("0-2,8\n") == {0, 1, 2, 8}


def test_a_new_process_with_an_old_number_starts_from_nothing(host: Host) -> None:
    host.proc.times(50, 51, ran=9 * SECOND, delay=9 * SECOND, slices=9)
    host.later()
    host.proc.end(50)
    host.proc.process(50, b"firecracker", [b"firecracker"], threads={51: b"fc_vcpu 0"}, start=500)
    host.now += SECOND
    assert host.sampler.sample().vms == ()
    (vcpu,) = host.later()
    assert (vcpu.elapsed_ns, vcpu.ran_ns, vcpu.stolen_ns) == (0, 0, 0)


def test_a_vcpu_whose_thread_ends_is_gone_and_the_others_go_on(host: Host) -> None:
    host.later()
    shutil.rmtree(host.proc.root / "50/task/52")
    host.sampler._threads[50, 100, 52].reader.close()  # the files of a thread that has ended cannot be read
    host.proc.times(50, 51, ran=SECOND // 2, slices=3)
    (first,) = host.later()
    assert (first.vcpu.index, first.ran_ns) == (0, SECOND // 2)
    (first,) = host.later()
    assert first.vcpu.index == 0


def test_a_vcpu_that_was_not_seen_before_has_no_shares(host: Host) -> None:
    """They were 0.0, as if it had neither run nor waited."""
    host.later()
    host.proc.end(50)
    host.proc.process(50, b"firecracker", [b"firecracker"], threads={51: b"fc_vcpu 0"}, start=500)
    host.now += SECOND
    assert host.sampler.sample().vms == ()
    host.now += SECOND
    sample = host.sampler.sample()
    for folded in (False, True):
        table = top_table(sample, TopState(folded=folded))
        assert [list(column.cells) for column in table.columns[3:7]] == [["-"]] * 4


def test_the_table_fits_80_columns_and_has_no_control_characters_of_others(host: Host) -> None:
    from rich.console import Console

    host.proc.times(50, 51, delay=123_456 * SECOND, slices=9)
    host.later()
    host.proc.times(50, 51, delay=123_457 * SECOND, slices=10)
    host.now += SECOND
    sample = host.sampler.sample()
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(top_table(sample, TopState()))
    lines = captured.get().splitlines()
    assert "qemu:web\\x1b[31m1" in lines[2]
    assert max(map(len, lines)) <= 80
    assert "123457 s" in lines[2]
    assert "\x1b" not in captured.get()


def test_the_keys_fold_sort_and_end(host: Host) -> None:
    host.now += SECOND
    sample, state = host.sampler.sample(), TopState()
    assert top_table(sample, state).row_count == 2
    assert state.press("\r", sample)
    assert top_table(sample, state).row_count == 1
    assert state.press("f", sample)
    assert state.press("\r", sample)
    assert top_table(sample, state).row_count == 2
    assert state.press("s", sample)
    assert state.sort == "ran"
    for key in ("j", "k", "up", "down", "x", "\x1b"):
        assert state.press(key, sample)
    assert not state.press("q", sample)


def test_what_cannot_be_seen_without_root_is_said(tmp_path: Path) -> None:
    for root, missing in ((True, ()), (False, (WITHOUT_ROOT,))):
        with closing(HostSampler(VmFinder(tmp_path), tmp_path, root=root)) as sampler:
            assert sampler.sample().missing == missing


def test_a_line_of_json_has_every_figure_as_an_integer(host: Host) -> None:
    host.proc.times(50, 51, ran=600_000_000, delay=300_000_000, slices=9, state="R")
    host.now += SECOND
    line = sample_to_json(host.sampler.sample())
    assert "\n" not in line
    document = json.loads(line)
    assert document["schema"] == 1
    (vm,) = document["vms"]
    first = vm["vcpus"][0]
    assert first["ran_ns"] + first["stolen_ns"] + first["off_ns"] + first["stopped_ns"] == first["elapsed_ns"]


def test_pvtimes_own_machines_have_structure_and_guest_beside_the_truth(host: Host) -> None:
    own = [OwnVcpu("we\x1bb", 9, 0, True, 5 * SECOND, 5 * SECOND, 5 * SECOND - 8_000_000)]
    assert own_sentences(own) == ["pvtime:we\\x1bb vCPU 0: truth 5.000 s, structure 0 ns, guest -8.0 ms"]
    untold = OwnVcpu("web", 9, 1, False, SECOND, None, None)
    assert own_sentences([untold]) == [
        "pvtime:web vCPU 1: truth 1.000 s, structure -, guest -: the guest has not asked for stolen time"
    ]
    document = json.loads(sample_to_json(host.sampler.sample(), own))
    assert document["own"][0]["guest_ns"] == 4_992_000_000
