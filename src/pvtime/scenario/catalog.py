# SPDX-License-Identifier: GPL-2.0-or-later
"""Every scenario, in the order in which the table has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pvtime.scenario import (
    entries,
    faults,
    hostile,
    hotplug,
    kexec,
    lpt,
    memory,
    migrate,
    overlap,
    partial,
    reset,
    restore,
    save,
    two_consumers,
    x86,
)
from pvtime.scenario.model import Scenario

__all__ = ["SCENARIOS"]

SCENARIOS: Final[Mapping[str, Scenario]] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        kexec,
        two_consumers,
        save,
        restore,
        migrate,
        memory,
        overlap,
        faults,
        hotplug,
        reset,
        partial,
        hostile,
        entries,
        lpt,
        x86,
    )
}
