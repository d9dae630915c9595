# SPDX-License-Identifier: GPL-2.0-or-later
"""The events that a scenario yields: steps, and findings that are compared with what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Event", "Finding", "Step"]


@dataclass(frozen=True)
class Step:
    """One action and its result, with lines that must not be wrapped, such as a hexdump."""

    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One observation, in words that are the same in every run: a cell of the table in docs/placements.md."""

    topic: str
    """The row."""
    observed: str
    expected: str

    @property
    def holds(self) -> bool:
        """Whether the observation is the expected one."""
        return self.observed == self.expected


Event: TypeAlias = Step | Finding
