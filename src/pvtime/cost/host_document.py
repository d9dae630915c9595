# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of an update on this host, as JSON."""

from __future__ import annotations

import json
from typing import Any, Final

from pvtime.cost.host import HostCost, LoadCost
from pvtime.cost.statistics import MedianInterval, Quartiles

__all__ = ["SCHEMA", "to_json"]

SCHEMA: Final = 1


def to_json(cost: HostCost) -> str:
    """Return the document; docs/host-cost.md describes it."""
    document = {
        "schema": SCHEMA,
        "machine": cost.machine,
        "kernel": cost.kernel,
        "cpu": cost.cpu,
        "exit": cost.exit_name,
        "call_ns": _quartiles(cost.call),
        "loads": [_load(load) for load in cost.loads],
    }
    return json.dumps(document, indent=2) + "\n"


def _load(load: LoadCost) -> dict[str, Any]:
    return {
        "name": load.name,
        "rounds": load.rounds,
        "loads": load.loads,
        "updates": load.updates,
        "updates_without": load.updates_without,
        "without_ns": _quartiles(load.without),
        "with_ns": _quartiles(load.with_),
        "difference_ns": _interval(load.difference),
        "control_ns": _interval(load.control),
        "update_ns": _interval(load.update),
        "distinguishable": load.distinguishable,
    }


def _quartiles(figures: Quartiles | None) -> dict[str, float] | None:
    if figures is None:
        return None
    return {
        "count": figures.count,
        "lower_quartile": figures.lower,
        "median": figures.median,
        "upper_quartile": figures.upper,
    }


def _interval(interval: MedianInterval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {
        "median": interval.median,
        "low": interval.low,
        "high": interval.high,
        "confidence": interval.confidence,
    }
