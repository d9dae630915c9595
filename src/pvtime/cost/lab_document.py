# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's figures as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from pvtime.cost.lab_cost import (
    LabCost,
)
from pvtime.cost.lab_frequencies import (
    INSTRUCTION_NS,
    WorkloadRate,
)
from pvtime.cost.lab_updates import (
    GrowthPoint,
    UpdateCost,
)

__all__ = ["LAB_SCHEMA", "to_lab_json"]

LAB_SCHEMA: Final = 1


def to_lab_json(cost: LabCost) -> str:
    """Return the document; docs/cost.md describes it."""
    document = {
        "schema": LAB_SCHEMA,
        "kernel": cost.kernel,
        "qemu": cost.qemu,
        "cpu": cost.cpu,
        "date": cost.date,
        "instruction_ns": INSTRUCTION_NS,
        "updates": [_update(update) for update in cost.updates],
        "absent": cost.absent,
        "growth": [_point(point) for point in cost.growth],
        "rates": [_rate(rate) for rate in cost.rates],
        "entries": [asdict(rate) for rate in cost.entries],
        "ticks": [asdict(tick) for tick in cost.ticks],
    }
    return json.dumps(document, indent=2) + "\n"


def _update(update: UpdateCost) -> dict[str, Any]:
    return {
        "name": update.name,
        "function": update.function,
        "instructions": update.instructions,
        "calls": list(update.calls),
        "parts": {part.value: count for part, count in update.parts.items()},
        "functions": update.functions,
        "listing": [
            {"offset": offset, "word": word, "executed": times}
            for offset, (word, times) in update.listing.items()
        ],
    }


def _point(point: GrowthPoint) -> dict[str, Any]:
    return {"axis": point.axis, "value": point.value, "calls": list(point.calls)}


def _rate(rate: WorkloadRate) -> dict[str, Any]:
    entries, exits, counted = rate.traced
    return {
        "workload": rate.workload,
        "vcpus": rate.vcpus,
        "window_s": rate.window_s,
        "loads_per_s": rate.loads,
        "entries_per_s": rate.entries,
        "user_exits_per_s": rate.user_exits,
        "uncounted_entries_per_s": rate.uncounted_entries,
        "traced": {"entries": entries, "exits": exits, "statistics": counted},
    }
