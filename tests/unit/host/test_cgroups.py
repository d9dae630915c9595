# SPDX-License-Identifier: GPL-2.0-or-later
"""Quota and freezer in cgroup version 1, version 2 and both."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from pvtime.host.cgroups import CgroupMounts, CpuQuota, Throttling


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """Return a /proc with version 1's cpu and freezer and version 2's hierarchy mounted."""
    proc = FakeProc(tmp_path / "proc")
    proc.mount(
        f"30 20 0:26 / {tmp_path}/v1\\040cpu rw - cgroup cgroup rw,cpu,cpuacct",
        f"31 20 0:27 / {tmp_path}/freezer rw - cgroup cgroup rw,freezer",
        f"32 20 0:28 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw",
    )
    proc.process(50, b"vmm")
    return proc


def write(directory: Path, **files: str) -> None:
    """Make a cgroup's directory; an underscore in a name is a dot."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        directory.joinpath(name.replace("_", ".", 1)).write_text(text)


def test_quotas_of_a_cgroup_and_of_those_above_it_are_found_in_version_1(
    proc: FakeProc, tmp_path: Path
) -> None:
    write(tmp_path / "v1 cpu", cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    write(tmp_path / "v1 cpu/vms", cpu_cfs_quota_us="50000\n", cpu_cfs_period_us="100000\n")
    write(
        tmp_path / "v1 cpu/vms/a b",
        cpu_cfs_quota_us="-1\n",
        cpu_cfs_period_us="100000\n",
    )
    write(tmp_path / "v1 cpu/vms", cpu_stat="nr_periods 9\nnr_throttled 4\nthrottled_time 77\n")
    proc.cgroup(50, "4:cpu,cpuacct:/vms/a b\n")
    mounts = CgroupMounts(proc.root)
    (quota,) = mounts.quotas(mounts.membership(50))
    assert quota == CpuQuota(f"{tmp_path}/v1 cpu/vms", 1, 50_000_000, 100_000_000)
    assert quota.throttling() == Throttling(4, 77)


def test_version_2_counts_in_microseconds(proc: FakeProc, tmp_path: Path) -> None:
    write(tmp_path / "v2/a", cpu_max="25000 100000\n", cpu_stat="nr_throttled 2\nthrottled_usec 5\n")
    write(tmp_path / "v2/a/vcpu0", cpu_max="max 100000\n")
    proc.cgroup(50, "0::/a/vcpu0\n")
    mounts = CgroupMounts(proc.root)
    (quota,) = mounts.quotas(mounts.membership(50, 50))
    assert (quota.version, quota.quota_ns, quota.throttling()) == (2, 25_000_000, Throttling(2, 5000))


def test_frozen_by_either_version(proc: FakeProc, tmp_path: Path) -> None:
    write(tmp_path / "freezer/a", freezer_state="FROZEN\n")
    write(tmp_path / "v2/a", cgroup_events="populated 1\nfrozen 0\n")
    proc.cgroup(50, "3:freezer:/a\n0::/\n")
    mounts = CgroupMounts(proc.root)
    assert mounts.frozen(mounts.membership(50))
    proc.cgroup(50, "3:freezer:/\n0::/a\n")
    assert not mounts.frozen(mounts.membership(50))
    write(tmp_path / "v2/a", cgroup_events="populated 1\nfrozen 1\n")
    assert mounts.frozen(mounts.membership(50))


def test_a_hybrid_host_has_its_quota_in_version_1_and_its_freezer_in_version_2(
    proc: FakeProc, tmp_path: Path
) -> None:
    write(tmp_path / "v1 cpu/vm", cpu_cfs_quota_us="50000\n", cpu_cfs_period_us="100000\n")
    write(tmp_path / "v2/machine.slice/vm", cgroup_events="populated 1\nfrozen 1\n")
    proc.cgroup(50, "4:cpu,cpuacct:/vm\n1:name=systemd:/vm\n0::/machine.slice/vm\n")
    mounts = CgroupMounts(proc.root)
    membership = mounts.membership(50)
    assert [quota.version for quota in mounts.quotas(membership)] == [1]
    assert mounts.frozen(membership)


@pytest.mark.parametrize("group", ["/../../etc", "/gone (deleted)", "relative", "", "/" + "x/" * 2100])
def test_a_cgroup_that_cannot_be_seen_has_no_quota(proc: FakeProc, group: str) -> None:
    proc.cgroup(50, f"4:cpu:{group}\n")
    mounts = CgroupMounts(proc.root)
    assert mounts.quotas(mounts.membership(50)) == []


def test_in_a_container_the_mounts_root_is_a_cgroup_and_others_are_outside(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.mount(f"32 20 0:28 /pod1 {tmp_path}/v2 rw - cgroup2 cgroup2 rw")
    proc.process(50, b"vmm")
    write(tmp_path / "v2/a", cpu_max="25000 100000\n")
    mounts = CgroupMounts(proc.root)
    proc.cgroup(50, "0::/pod1/a\n")
    assert [quota.directory for quota in mounts.quotas(mounts.membership(50))] == [f"{tmp_path}/v2/a"]
    proc.cgroup(50, "0::/pod11/a\n")
    assert mounts.quotas(mounts.membership(50)) == []


def test_a_host_without_cgroups_has_neither(tmp_path: Path) -> None:
    mounts = CgroupMounts(tmp_path)
    assert mounts.quotas(mounts.membership(1)) == []
    assert not mounts.frozen(mounts.membership(1))
