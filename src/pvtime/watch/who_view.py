# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of ``pvtime who`` as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TextIO

from pvtime.report import units
from pvtime.watch.causes import CauseRow, VcpuCauses, VmCauses, WhoResult
from pvtime.watch.verdict import verdicts

__all__ = ["print_who", "who_to_json"]

SCHEMA: Final = 1
MOST_ROWS: Final = 15
AGREES: Final = 0.001
"""Share of run_delay that may be missing without a word."""


def print_who(result: WhoResult, file: TextIO, untold: Mapping[int, str] | None = None) -> None:
    """Print every VM's vCPUs, causes and verdicts.

    :param untold: sentences on guests that are not told of stolen time, by their VMM's process.
    """
    from rich.table import Table

    from pvtime.report.table import figures_table, open_console

    console = open_console(file)
    for vm in result.vms:
        headings = ("vCPU", "ran", "stolen", "blocked", "stopped", "longest\nwait")
        rows = [(_cells(vcpu), True) for vcpu in vm.vcpus]
        title = f"{vm.vm.label} (process {vm.vm.pid}), {result.elapsed_ns / 1e9:.2f} s"
        console.print(figures_table(title, headings, rows))
        if causes := vm.rows():
            table = Table(box=None, pad_edge=False, show_header=False)
            for justify in ("right", "right", "left", "left"):
                table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
            for row in causes[:MOST_ROWS]:
                table.add_row(units.time(row.ns), units.percent(row.ns, vm.stolen_ns), row.kind, _who(row))
            if rest := causes[MOST_ROWS:]:
                ns = sum(row.ns for row in rest)
                table.add_row(units.time(ns), units.percent(ns, vm.stolen_ns), f"{len(rest)} more", "")
            console.print("\nstolen by (time, per cent):")
            console.print(table)
        found = (f"=> {verdict}" for verdict in _verdicts(vm, untold))
        for sentence in (*_shared(vm), *_disagreements(vm), *found):
            console.print(sentence, soft_wrap=True)
        console.print()
    for note in result.notes:
        console.print(note, soft_wrap=True)


def _verdicts(vm: VmCauses, untold: Mapping[int, str] | None) -> list[str]:
    return verdicts(vm) + ([untold[vm.vm.pid]] if untold and vm.vm.pid in untold else [])


def _cells(vcpu: VcpuCauses) -> list[str]:
    figures = (vcpu.ran_ns, vcpu.stolen_ns, vcpu.blocked_ns, vcpu.stopped_ns, vcpu.longest_ns)
    return [vcpu.vcpu.label, *(units.time(figure) for figure in figures)]


def _who(row: CauseRow) -> str:
    return f"{row.name} (process {row.pid})" if row.pid and row.name else row.name


def _shared(vm: VmCauses) -> list[str]:
    if not any(vcpu.vcpu.shared for vcpu in vm.vcpus):
        return []
    return ["its vCPUs share this thread: what they waited for each other is in the report of its run alone"]


def _disagreements(vm: VmCauses) -> list[str]:
    """Return a sentence for each vCPU whose rows do not sum to what the kernel counted."""
    return [
        f"vCPU {vcpu.vcpu.label}: the kernel counted {units.time(vcpu.run_delay_ns)} in the time that both "
        f"counted, and these rows have {units.difference(abs(vcpu.missing_ns)).removeprefix('+')} "
        f"{'less' if vcpu.missing_ns > 0 else 'more'}"
        for vcpu in vm.vcpus
        if abs(vcpu.missing_ns) > AGREES * vcpu.run_delay_ns
    ]


def who_to_json(result: WhoResult, untold: Mapping[int, str] | None = None) -> str:
    """Return the figures as a JSON object with a newline at its end; docs/who.md has the fields.

    :param untold: see :func:`print_who`.
    """
    document = {
        "schema": SCHEMA,
        "elapsed_ns": result.elapsed_ns,
        "notes": list(result.notes),
        "vms": [
            {
                "vmm": vm.vm.vmm,
                "name": vm.vm.name,
                "pid": vm.vm.pid,
                "ended": vm.ended,
                "frozen_ns": vm.frozen_ns,
                "verdicts": _verdicts(vm, untold),
                "vcpus": [_vcpu_to_json(vcpu) for vcpu in vm.vcpus],
            }
            for vm in result.vms
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _vcpu_to_json(vcpu: VcpuCauses) -> dict[str, Any]:
    return {
        "vcpu": vcpu.vcpu.label,
        "tid": vcpu.vcpu.tid,
        "elapsed_ns": vcpu.elapsed_ns,
        "ran_ns": vcpu.ran_ns,
        "stolen_ns": vcpu.stolen_ns,
        "blocked_ns": vcpu.blocked_ns,
        "stopped_ns": vcpu.stopped_ns,
        "faults_ns": vcpu.faults_ns,
        "longest_ns": vcpu.longest_ns,
        "run_delay_ns": vcpu.run_delay_ns,
        "missing_ns": vcpu.missing_ns,
        "causes": [
            {"kind": row.kind.value, "name": row.name, "pid": row.pid, "ns": row.ns} for row in vcpu.rows
        ],
    }
