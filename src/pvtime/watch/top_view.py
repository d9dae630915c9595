# SPDX-License-Identifier: GPL-2.0-or-later
"""The samples of ``pvtime top`` as a table of 80 columns, and as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pvtime.host.text import printable
from pvtime.report import units
from pvtime.watch.guests import GuestFigures, GuestVcpu
from pvtime.watch.own_machines import OwnVcpu
from pvtime.watch.sampler import HostSample, VcpuInterval, VmInterval

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SORTS", "TopState", "chosen_guest", "guest_lines", "own_sentences", "sample_to_json", "top_table"]

SCHEMA: Final = 1
SORTS: Final = ("stolen", "ran", "name")
HEADINGS: Final = ("VM", "vCPU", "CPU", "ran", "stolen", "off", "stopped", "stolen in all", "cause")
GUEST_HEADINGS: Final = ("VM", "vCPU", "truth", "structure", "guest", "error", "told")
NAME_WIDTH: Final = 26
GUEST_NAME_WIDTH: Final = 22


@dataclass
class TopState:
    """The user's choice of what to see."""

    sort: str = SORTS[0]
    folded: bool = False
    """One line a VM, but for those in :attr:`turned`."""
    turned: set[tuple[int, int]] = field(default_factory=set)
    selected: int = 0
    """Line of the VM that the keys act on."""
    guests: bool = False
    """The figures of the guests beside the host's, instead of the time's parts."""

    def is_folded(self, vm: VmInterval) -> bool:
        """Whether a VM has one line."""
        return self.folded != (vm.vm.key in self.turned)

    def ordered(self, sample: HostSample) -> list[VmInterval]:
        """Return the VMs in the chosen order."""
        keys = {
            "stolen": lambda vm: (-vm.stolen_ns, vm.vm.label, vm.vm.pid),
            "ran": lambda vm: (-vm.ran_ns, vm.vm.label, vm.vm.pid),
            "name": lambda vm: (vm.vm.label, vm.vm.pid),
        }
        return sorted(sample.vms, key=keys[self.sort])

    def press(self, key: str, sample: HostSample) -> bool:
        """Act on a key; return False where it ends the view."""
        count = len(sample.vms)
        if key in ("q", "Q", "\x03", "\x04"):
            return False
        if key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "f":
            self.folded, self.turned = not self.folded, set()
        elif key == "g":
            self.guests = not self.guests
        elif key in ("j", "down"):
            self.selected = min(self.selected + 1, max(0, count - 1))
        elif key in ("k", "up"):
            self.selected = max(self.selected - 1, 0)
        elif key in ("\r", "\n", " ") and count:
            self.turned ^= {self.ordered(sample)[min(self.selected, count - 1)].vm.key}
        return True


def top_table(
    sample: HostSample,
    state: TopState,
    rows: int | None = None,
    guests: Mapping[int, GuestFigures] | None = None,
) -> Table:
    """Return the table.

    :param rows: lines that fit; None: all.
    :param guests: what the guests have answered, by their VMM's process.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    headings = GUEST_HEADINGS if state.guests else HEADINGS
    width = GUEST_NAME_WIDTH if state.guests else NAME_WIDTH
    for at, heading in enumerate(headings):
        left = at in (0, len(headings) - 1)
        table.add_column(
            heading,
            justify="left" if left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=width if at == 0 else None,
        )
    lines = 0
    for at, vm in enumerate(state.ordered(sample)):
        if state.guests:
            cells = _guest_lines(vm, (guests or {}).get(vm.vm.pid), folded=state.is_folded(vm))
        else:
            cells = _folded(vm) if state.is_folded(vm) else _opened(vm)
        for first, line in enumerate(cells):
            if rows is not None and lines >= rows:
                return table
            style = "reverse" if first == 0 and at == state.selected and rows is not None else None
            table.add_row(*line, style=style)
            lines += 1
    return table


def _guest_lines(vm: VmInterval, figures: GuestFigures | None, *, folded: bool) -> list[tuple[str, ...]]:
    """Return the lines of a VM with its guest's figures."""
    told = "..." if figures is None else {True: "yes", False: "no", None: "?"}[figures.told.told]
    vcpus = [] if figures is None else list(figures.vcpus)
    if not vcpus:  # the host's figures alone
        vcpus = [
            GuestVcpu(vcpu.vcpu.index, vcpu.total_stolen_ns, None, None, None)
            for vcpu in vm.vcpus
            if not vcpu.vcpu.shared
        ]
    if folded:
        sums = [_sum([getattr(vcpu, name) for vcpu in vcpus]) for name in FIGURES]
        return [(vm.vm.label, f"({len(vm.vm.vcpus)})", *_guest_cells(*sums), told)]
    lines = [
        (
            vm.vm.label if at == 0 else "",
            str(vcpu.index),
            *_guest_cells(*(getattr(vcpu, name) for name in FIGURES)),
            told if at == 0 else "",
        )
        for at, vcpu in enumerate(vcpus)
    ]
    return lines or [(vm.vm.label, *["-"] * 5, told)]


FIGURES: Final = ("host_ns", "structure_ns", "guest_ns", "error_ns")


def _guest_cells(truth: int | None, structure: int | None, guest: int | None, error: int | None) -> list[str]:
    return [*map(_time, (truth, structure, guest)), "-" if error is None else units.difference(error)]


def _sum(figures: list[int | None]) -> int | None:
    """Return the sum; None where one is not known, or there is none."""
    known = [ns for ns in figures if ns is not None]
    return sum(known) if known and len(known) == len(figures) else None


def chosen_guest(sample: HostSample, state: TopState, guests: Mapping[int, GuestFigures]) -> str:
    """Return a line on the guest of the VM that the keys act on."""
    if not sample.vms:
        return ""
    vm = state.ordered(sample)[min(state.selected, len(sample.vms) - 1)].vm
    figures = guests.get(vm.pid)
    if figures is None:
        return f"{vm.label}: not answered yet"
    told = {
        True: "the guest is told",
        False: "the guest was never told",
        None: "not known whether the guest is told",
    }
    note = f"; {figures.note}" if figures.note and figures.note != figures.told.why else ""
    return f"{vm.label}: {told[figures.told.told]}: {figures.told.why}{note}"


def _note(vm: VmInterval) -> str:
    return "frozen" if vm.frozen else "stopped" if vm.stopped else ""


def _opened(vm: VmInterval) -> list[tuple[str, ...]]:
    lines = [
        (vm.vm.label if at == 0 else "", vcpu.vcpu.label, _cpu(vcpu), *_shares(vcpu), _cause(vm, [vcpu]))
        for at, vcpu in enumerate(vm.vcpus)
    ]
    hidden = [vcpu.label for vcpu in vm.vm.vcpus if vcpu.tid is None]
    lines += [("", label, *["?"] * 6, "its thread is not known") for label in hidden]
    return lines or [(vm.vm.label, *["-"] * 7, _note(vm))]


def _folded(vm: VmInterval) -> list[tuple[str, ...]]:
    elapsed = sum(vcpu.elapsed_ns for vcpu in vm.vcpus)
    parts = (
        vm.ran_ns,
        vm.stolen_ns,
        sum(vcpu.off_ns for vcpu in vm.vcpus),
        sum(vcpu.stopped_ns for vcpu in vm.vcpus),
    )
    total = units.time(sum(vcpu.total_stolen_ns for vcpu in vm.vcpus))
    shares = [_share(part, elapsed) for part in parts]
    return [(vm.vm.label, f"({len(vm.vm.vcpus)})", "", *shares, total, _cause(vm, vm.vcpus))]


def _shares(vcpu: VcpuInterval) -> list[str]:
    parts = (vcpu.ran_ns, vcpu.stolen_ns, vcpu.off_ns, vcpu.stopped_ns)
    return [*(_share(part, vcpu.elapsed_ns) for part in parts), units.time(vcpu.total_stolen_ns)]


def _share(part: int, elapsed: int) -> str:
    """Return a part of the time in per cent; of a vCPU that is new, none is known."""
    return units.percent(part, elapsed) if elapsed else "-"


def _cpu(vcpu: VcpuInterval) -> str:
    return "-" if vcpu.cpu is None else str(vcpu.cpu)


def _cause(vm: VmInterval, vcpus: tuple[VcpuInterval, ...] | list[VcpuInterval]) -> str:
    worst = max(vcpus, key=lambda vcpu: vcpu.stolen_ns, default=None)
    return _note(vm) or (worst.cause.value if worst else "-")


def own_sentences(own: Sequence[OwnVcpu]) -> list[str]:
    """Return a line for each vCPU of pvtime's own machines: what its guest believes, beside the truth."""
    return [
        f"pvtime:{printable(one.machine)} vCPU {one.index}: truth {units.time(one.truth_ns)}, structure "
        f"{_beside(one.structure_ns, one.truth_ns)}, guest {_beside(one.guest_ns, one.truth_ns)}"
        f"{'' if one.told else ': the guest has not asked for stolen time'}"
        for one in own
    ]


def guest_lines(guests: Mapping[int, GuestFigures]) -> list[str]:
    """Return a line for each vCPU of other VMMs of which the guest's own count is known."""
    return [
        f"{figures.vm.label} vCPU {vcpu.index}: stolen {_time(vcpu.host_ns)} since its thread started, guest "
        f"{_time(vcpu.guest_ns)} since its boot"
        for figures in guests.values()
        if figures.vm.vmm != "pvtime"
        for vcpu in figures.vcpus
    ]


def _time(ns: int | None) -> str:
    return "-" if ns is None else units.time(ns)


def _beside(ns: int | None, truth_ns: int) -> str:
    return "-" if ns is None else units.difference(ns - truth_ns)


def sample_to_json(
    sample: HostSample, own: Sequence[OwnVcpu] = (), guests: Mapping[int, GuestFigures] | None = None
) -> str:
    """Return a sample as one line of JSON, without the newline; docs/top.md has the fields."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "time_ns": sample.time_ns,
        "elapsed_ns": sample.elapsed_ns,
        "missing": list(sample.missing),
        "vms": [_vm_to_json(vm) for vm in sample.vms],
        "own": [asdict(one) for one in own],
        "guests": [_guest_to_json(figures) for figures in (guests or {}).values()],
    }
    return json.dumps(document)


def _guest_to_json(figures: GuestFigures) -> dict[str, Any]:
    return {
        "vmm": figures.vm.vmm,
        "name": figures.vm.name,
        "pid": figures.vm.pid,
        "told": figures.told.told,
        "why": figures.told.why,
        "note": figures.note,
        "vcpus": [asdict(vcpu) for vcpu in figures.vcpus],
    }


def _vm_to_json(vm: VmInterval) -> dict[str, Any]:
    return {
        "vmm": vm.vm.vmm,
        "name": vm.vm.name,
        "pid": vm.vm.pid,
        "stopped": vm.stopped,
        "frozen": vm.frozen,
        "throttled_ns": vm.throttled_ns,
        "vcpus": [
            {
                "vcpu": vcpu.vcpu.label,
                "tid": vcpu.vcpu.tid,
                "cpu": vcpu.cpu,
                "state": vcpu.state,
                "elapsed_ns": vcpu.elapsed_ns,
                "ran_ns": vcpu.ran_ns,
                "stolen_ns": vcpu.stolen_ns,
                "off_ns": vcpu.off_ns,
                "stopped_ns": vcpu.stopped_ns,
                "total_ran_ns": vcpu.total_ran_ns,
                "total_stolen_ns": vcpu.total_stolen_ns,
                "cause": None if vcpu.cause == "-" else vcpu.cause.value,
            }
            for vcpu in vm.vcpus
        ],
    }
