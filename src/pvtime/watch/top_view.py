# SPDX-License-Identifier: GPL-2.0-or-later
"""The samples of ``pvtime top`` as a table of 80 columns, and as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pvtime.host.text import printable
from pvtime.report import units
from pvtime.watch.own_machines import OwnVcpu
from pvtime.watch.sampler import HostSample, VcpuInterval, VmInterval

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SORTS", "TopState", "own_sentences", "sample_to_json", "top_table"]

SCHEMA: Final = 1
SORTS: Final = ("stolen", "ran", "name")
HEADINGS: Final = ("VM", "vCPU", "CPU", "ran", "stolen", "off", "stopped", "stolen in all", "cause")
NAME_WIDTH: Final = 26


@dataclass
class TopState:
    """What the user has chosen to see."""

    sort: str = SORTS[0]
    folded: bool = False
    """One line a VM, but for those in :attr:`turned`."""
    turned: set[tuple[int, int]] = field(default_factory=set)
    selected: int = 0
    """Line of the VM that the keys act on."""

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
        elif key in ("j", "down"):
            self.selected = min(self.selected + 1, max(0, count - 1))
        elif key in ("k", "up"):
            self.selected = max(self.selected - 1, 0)
        elif key in ("\r", "\n", " ") and count:
            self.turned ^= {self.ordered(sample)[min(self.selected, count - 1)].vm.key}
        return True


def top_table(sample: HostSample, state: TopState, rows: int | None = None) -> Table:
    """Return the table.

    :param rows: lines that fit; None: all.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for at, heading in enumerate(HEADINGS):
        left = at in (0, len(HEADINGS) - 1)
        table.add_column(
            heading,
            justify="left" if left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=NAME_WIDTH if at == 0 else None,
        )
    lines = 0
    for at, vm in enumerate(state.ordered(sample)):
        cells = _folded(vm) if state.is_folded(vm) else _opened(vm)
        for first, line in enumerate(cells):
            if rows is not None and lines >= rows:
                return table
            style = "reverse" if first == 0 and at == state.selected and rows is not None else None
            table.add_row(*line, style=style)
            lines += 1
    return table


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


def _beside(ns: int | None, truth_ns: int) -> str:
    return "-" if ns is None else units.difference(ns - truth_ns)


def sample_to_json(sample: HostSample, own: Sequence[OwnVcpu] = ()) -> str:
    """Return a sample as one line of JSON, without the newline; docs/top.md has the fields."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "time_ns": sample.time_ns,
        "elapsed_ns": sample.elapsed_ns,
        "missing": list(sample.missing),
        "vms": [_vm_to_json(vm) for vm in sample.vms],
        "own": [asdict(one) for one in own],
    }
    return json.dumps(document)


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
