# SPDX-License-Identifier: GPL-2.0-or-later
"""The pieces of ``pvtime who`` in the Trace Event Format, which Perfetto and Chrome's tracing read.

A VM is a process there and a vCPU one of its threads, with a slice for each piece: ran, blocked, stopped, and
stolen with its cause.
"""

from __future__ import annotations

import json
from typing import Any

from pvtime.watch.causes import CauseKind, CauseRow, WhoResult

__all__ = ["to_perfetto"]

COLOURS = {"ran": "good", "blocked": "grey", "stopped": "black", "stolen": "terrible"}
"""Names of the format's colours."""


def to_perfetto(result: WhoResult) -> str:
    """Return the document. Times in it are in us, from the beginning of the window."""
    events: list[dict[str, Any]] = []
    pids = {}
    for vm in result.vms:
        events.append(_name("process_name", vm.vm.pid, 0, vm.vm.label))
        for vcpu in vm.vcpus:
            assert vcpu.vcpu.tid is not None
            pids[vcpu.vcpu.tid] = vm.vm.pid
            events.append(_name("thread_name", vm.vm.pid, vcpu.vcpu.tid, f"vCPU {vcpu.vcpu.label}"))
    stolen = dict.fromkeys(pids, 0)
    for tid, activity, begin, end, cause in sorted(result.spans, key=lambda span: span[2]):
        if activity not in COLOURS:
            continue
        common = {"pid": pids[tid], "tid": tid, "ts": (begin - result.begin_ns) / 1000}
        name = f"stolen: {cause_name(cause)}" if cause else activity
        events.append(
            {
                "ph": "X",
                "name": name,
                "cat": activity,
                "dur": (end - begin) / 1000,
                "cname": COLOURS[activity],
            }
            | common
        )
        if activity == "stolen":
            stolen[tid] += end - begin
            after = common | {"ts": (end - result.begin_ns) / 1000}
            events.append(
                {"ph": "C", "name": f"stolen in all, {tid}", "args": {"ms": stolen[tid] / 1e6}} | after
            )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}) + "\n"


def cause_name(row: CauseRow) -> str:
    """Return a cause in a few words."""
    return row.name if row.kind in (CauseKind.VM, CauseKind.PROCESS, CauseKind.KERNEL) else row.kind.value


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
