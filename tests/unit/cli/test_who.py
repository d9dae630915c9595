# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM that an operator names, and what he reads where there is none, or no root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pvtime.cli.who import MOST_NAMED, chosen_vms
from pvtime.errors import UsageError
from pvtime.host import tracefs
from pvtime.host.vms import HostVcpu, HostVm
from pvtime.watch.sampler import WITHOUT_ROOT

WEB = HostVm(50, 100, "qemu", "web1", (HostVcpu(0, 51),))
OTHER = HostVm(60, 100, "firecracker", "web1", (HostVcpu(0, 61),))


def message(every: list[HostVm], name: str | None) -> str:
    """Return why there is no such VM."""
    with pytest.raises(UsageError) as refused:
        chosen_vms(every, name)
    return str(refused.value)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every user's processes seen."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_vm_is_named_by_its_name_its_label_or_its_process() -> None:
    for name in ("qemu:web1", "50"):
        assert chosen_vms([WEB, OTHER], name) == [WEB]
    assert chosen_vms([WEB, OTHER], None) == [WEB, OTHER]
    assert message([WEB, OTHER], "web1").endswith("give the number of its process: 50 or 60")


@pytest.mark.usefixtures("as_root")
def test_who_has_no_such_vm_reads_which_there_are() -> None:
    assert message([WEB, OTHER], "web2") == (
        "no VM has the name 'web2': this host has qemu:web1, firecracker:web1"
    )
    assert message([WEB], "1") == "process 1 runs no VM: this host has qemu:web1"
    assert message([WEB] * (MOST_NAMED + 3), "a").endswith("qemu:web1 and 3 more")
    for name in (None, "web1"):
        assert message([], name).startswith("no VM is seen on this host: start one first, or ")


def test_without_root_it_is_said_that_vms_may_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert message([], None).endswith(WITHOUT_ROOT)
    assert message([WEB], "a").endswith(WITHOUT_ROOT)


def test_who_may_not_trace_reads_what_it_needs_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(tracefs, "mount_detached", refuse)
    with pytest.raises(UsageError) as refused, tracefs.tracefs(["/nonexistent"]):
        pass
    assert str(refused.value) == (
        "tracing the scheduler needs root, or CAP_PERFMON and a tracefs that can be read at /nonexistent, "
        "and a kernel with CONFIG_FTRACE (tracefs: Operation not permitted); pvtime top does not"
    )


def test_in_a_container_with_thread_numbers_of_its_own_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "readlink", lambda _path: Path("pid:[4026532345]"))
    with pytest.raises(
        UsageError, match=r"^pvtime who runs in a container: .* shares the host's PID namespace$"
    ):
        tracefs.require_host_pids("pvtime who")
