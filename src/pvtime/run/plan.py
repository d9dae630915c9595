# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes into a run and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pvtime.engine.base import Outcome
from pvtime.errors import PvtimeError
from pvtime.report.model import Moment, RunReport

__all__ = ["Ended", "Ending", "Plan", "Quit", "Resized", "Signalled", "View"]


class View(Protocol):
    """What shows a run while it lasts. Called from the main thread only."""

    @property
    def interval(self) -> float | None:
        """Seconds between two moments; None where it wants none."""

    @property
    def console_interval(self) -> float | None:
        """Seconds for which console output may be kept back; None where it is not shown."""

    def console(self, data: bytes) -> None:
        """Show what the guest wrote to its console."""

    def moment(self, moment: Moment) -> None:
        """Show new figures."""


@dataclass(frozen=True)
class Signalled:
    """Event: the process got a signal that asks it to end."""

    number: int


@dataclass(frozen=True)
class Resized:
    """Event: the terminal has another size, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Quit:
    """Event: the user typed the escape key's command."""


@dataclass(frozen=True)
class Ended:
    """Event: the engine has."""

    outcome: Outcome
    error: PvtimeError | None = None


@dataclass(frozen=True)
class Plan:
    """What a run shall be. ``tell_agent`` reaches the stock userland; None: the guest has none."""

    tell_agent: Callable[[bytes], object] | None
    duration: float | None
    """Seconds, from userland on where there is an agent, else from the start; None: until it ends itself."""
    placement: str = "userspace"
    stealing: bool = False
    """Something may be stolen on purpose."""
    resumed: bool = False
    """The machine was saved or moved: its userland, where it has an agent, is up already."""
    release: str | None = None
    """The kernel's release, where it is known before the guest prints it."""
    on_start: Callable[[], object] | None = None
    """Called when the engine has started."""
    save: tuple[float, Callable[[], object]] | None = None
    """Seconds, counted as ``duration`` is, and what begins to save the machine then."""


@dataclass(frozen=True)
class Ending:
    """What is left of a run."""

    report: RunReport
    last: Moment
    notes: tuple[str, ...]
    """Lines that the user should see."""
    signal: int | None
    """The signal that ended it."""
    error: PvtimeError | None
    """Why the engine could not go on."""
