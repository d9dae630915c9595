# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests beside their hosts: whether they are told, and what they count."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from framework.fake_proc import FakeProc
from framework.wait import wait_until
from pvtime.host.qemu import AgentCpu, Told
from pvtime.host.vmm_socket import VmmSocketError
from pvtime.host.vms import HostVcpu, HostVm, VmFinder
from pvtime.watch import guests
from pvtime.watch.guests import (
    GuestErrors,
    GuestFigures,
    GuestPoller,
    GuestVcpu,
    ask_guests,
    told_from_outside,
)
from pvtime.watch.own_machines import OwnVcpu
from pvtime.watch.sampler import HostSample, VmInterval
from pvtime.watch.told import guest_sentences
from pvtime.watch.top_view import TopState, chosen_guest, guest_lines, sample_to_json, top_table

SECOND = 1_000_000_000
VM = HostVm(50, 1, "qemu", "web\x1b1", (HostVcpu(0, 51), HostVcpu(1, 52)))
OWN = HostVm(60, 1, "pvtime", "box", (HostVcpu(0, 61),))


def figures(*counts: tuple[int, int], told: bool | None = True) -> GuestFigures:
    """Return a guest with what its host and it have counted, in s."""
    vcpus = (
        GuestVcpu(index, host * SECOND, None, guest * SECOND, None)
        for index, (host, guest) in enumerate(counts)
    )
    return GuestFigures(VM, Told(told, "so it is"), "", tuple(vcpus))


def errors(found: dict[int, GuestFigures]) -> list[int | None]:
    """Return the errors in s."""
    return [None if vcpu.error_ns is None else vcpu.error_ns // SECOND for vcpu in found[50].vcpus]


def test_the_error_of_a_guest_is_what_its_count_grew_more_than_its_hosts() -> None:
    book = GuestErrors()
    assert errors(book.add({50: figures((100, 7), (200, 9))})) == [None, None]
    assert errors(book.add({50: figures((104, 11), (206, 9))})) == [0, -6]
    assert errors(book.add({50: figures((105, 2), (206, 9))})) == [None, -6]  # vCPU 0's guest was reset
    assert errors(book.add({50: figures((107, 4), (206, 10))})) == [0, -5]
    again = replace(figures((1, 1)), vm=replace(VM, start_ticks=2))
    assert errors(book.add({50: again})) == [None]


def test_a_guest_that_was_never_told_or_does_not_look_is_named() -> None:
    start = figures((0, 0), (0, 0))
    assert guest_sentences(start, figures((5, 5), (4, 4))) == []
    assert guest_sentences(start, figures((5, 5), (4, 0))) == [
        "told, but its kernel does not look: vCPU 1 shows next to no steal"
    ]
    assert guest_sentences(start, figures((5, 0), told=False)) == ["the guest was never told: so it is"]
    assert guest_sentences(start, figures((5, 0), told=None)) == [
        "not known whether the guest is told: so it is"
    ]
    assert guest_sentences(start, figures((5, 5), told=None)) == []  # it counts steal: somebody has told it


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """Return a /proc with a QEMU VM and a machine of pvtime's."""
    found = FakeProc(tmp_path / "proc")
    found.process(
        50,
        b"qemu-system-x86",
        [b"qemu-system-x86_64", b"-name", b"web", b"-cpu", b"host,kvm-steal-time=off", b"-qmp", b"unix:/m",
         b"-chardev", b"socket,id=c,path=/a,server=on",
         b"-device", b"virtserialport,chardev=c,name=org.qemu.guest_agent.0"],
        threads={51: b"CPU 0/KVM"},
    )  # fmt: skip
    found.times(50, 51, delay=5 * SECOND)
    found.process(60, b"pvtime", [b"pvtime", b"--name", b"box"], threads={61: b"pvtime-engine"})
    found.process(70, b"kvmtool", [b"lkvm", b"run", b"--no-pvtime"], threads={71: b"kvm-vcpu-0"})
    found.process(80, b"firecracker", [b"firecracker"], threads={81: b"fc_vcpu 0"})
    found.process(90, b"qemu-system-x86", [b"qemu-system-x86_64"], threads={91: b"CPU 0/TCG"})
    return found


def test_each_vmm_is_known_by_its_command_line(proc: FakeProc, tmp_path: Path) -> None:
    vms = {vm.pid: vm for vm in VmFinder(proc.root, tmp_path).find()}
    told = {pid: told_from_outside(vm, proc.root) for pid, vm in vms.items()}
    assert {pid: each.told for pid, each in told.items()} == {
        50: False,
        60: None,
        70: False,
        80: None,
        90: False,
    }
    assert told[80].why == "firecracker has no option or socket that says so"


def test_guests_are_asked_by_what_their_command_lines_name(
    proc: FakeProc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def monitor(pid: int, path: str, _timeout_s: float, _proc: Path) -> Told:
        assert (pid, path) == (50, "/m")
        return Told(True, "QEMU says so")

    monkeypatch.setattr(guests, "ask_monitor", monitor)
    monkeypatch.setattr(guests, "ask_agent", lambda *_arguments: [AgentCpu(0, 4 * SECOND), AgentCpu(7, 1)])
    vms = VmFinder(proc.root, tmp_path).find()
    own = [OwnVcpu("box", 60, 0, True, 9, 9, 7)]
    found = ask_guests(vms, own, proc=proc.root)
    assert found[50].told == Told(True, "QEMU says so")
    assert found[50].vcpus == (
        GuestVcpu(0, 5 * SECOND, None, 4 * SECOND, None),
        GuestVcpu(7, None, None, 1, None),
    )
    assert found[60].vcpus == (GuestVcpu(0, 9, 9, 7, -2),)
    assert found[80].note == "firecracker has no guest agent that is known"
    assert ask_guests(vms, [], proc=proc.root)[60].told.told is None

    def refuse(*_arguments: object) -> Told:
        raise VmmSocketError("nobody answers at its socket")

    monkeypatch.setattr(guests, "ask_monitor", refuse)
    monkeypatch.setattr(guests, "ask_agent", refuse)
    found = ask_guests(vms, own, proc=proc.root)
    assert found[50].told.told is False  # the command line's answer
    assert found[50].note == "the guest agent: nobody answers at its socket"


def test_nobody_waits_for_a_guest_that_does_not_answer() -> None:
    asked, answer = threading.Event(), threading.Event()

    def ask(vms: Sequence[HostVm]) -> dict[int, GuestFigures]:
        asked.set()
        answer.wait(60)
        return {vm.pid: figures((1, 1)) for vm in vms}

    poller = GuestPoller(ask)
    poller.request([VM])
    assert asked.wait(60)
    poller.request([VM])  # while the first question has no answer
    assert poller.answers() == {}
    answer.set()
    assert wait_until(poller.answers)[50].told.told
    poller.close()


def sample() -> HostSample:
    """Return a sample of the VMs without time."""
    return HostSample(0, 0, tuple(VmInterval(vm, False, False, None, ()) for vm in (OWN, VM)), ())


def test_the_view_has_the_guests_in_80_columns_beside_their_hosts() -> None:
    from rich.console import Console

    state = TopState()
    assert state.press("g", sample())
    own = GuestVcpu(0, 123_456 * SECOND, 123_456 * SECOND, 123_455 * SECOND, -SECOND)
    answers = {
        50: GuestErrors().add({50: figures((100, 7), (200, 9))})[50],
        60: GuestFigures(OWN, Told(True, "it has asked"), "", (own,)),
    }
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(top_table(sample(), state, 20, answers))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["VM", "vCPU", "truth", "structure", "guest", "error", "told"]
    assert lines[2].split() == ["pvtime:box", "0", *["123456", "s"] * 2, "123455", "s", "-1.0", "s", "yes"]
    assert lines[4].split() == ["1", "200.0", "s", "-", "9.000", "s", "-"]
    state.press("f", sample())
    folded = top_table(sample(), state, 20, answers)
    assert list(folded.columns[4].cells) == ["123455 s", "16.000 s"]
    assert list(top_table(sample(), state, 20).columns[6].cells) == ["...", "..."]
    assert chosen_guest(sample(), state, answers) == "pvtime:box: the guest is told: it has asked"
    assert chosen_guest(sample(), state, {}) == "pvtime:box: not answered yet"


def test_a_line_under_the_table_and_the_json_have_the_guests_of_others() -> None:
    answers = {50: figures((100, 7)), 60: GuestFigures(OWN, Told(None, "?"), "", ())}
    (line,) = guest_lines(answers)
    assert line.endswith("vCPU 0: stolen 100.0 s since its thread started, guest 7.000 s since its boot")
    text = sample_to_json(sample(), (), answers)
    assert (
        '"told": true, "why": "so it is", "note": "", "vcpus": [{"index": 0, "host_ns": 100000000000' in text
    )
