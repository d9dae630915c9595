# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final, TextIO

from rich.text import Text

from pvtime.report.table import open_console
from pvtime.scenario.events import Event, Finding
from pvtime.scenario.model import Scenario
from pvtime.scenario.runner import ScenarioRun
from pvtime.steal.placement import PlacementName

__all__ = ["THREAD", "ScenarioPrinter", "print_list"]

WIDTH: Final = 110
THREAD: Final = "Re: [PATCH 0/9] arm64: Stolen time support, August 2019"
GOOD: Final = ("ok", "green")
BAD: Final = ("NO", "red")


def print_list(scenarios: Iterable[Scenario], output: TextIO) -> None:
    """Print a line for each scenario, with a star if a real kernel can run it too."""
    for scenario in scenarios:
        star = "*" if scenario.real is not None else " "
        print(f"{scenario.name:14}{star} {scenario.shows}", file=output)
    print("\n* also with Debian's kernel: --real", file=output)


class ScenarioPrinter:
    """Prints the events of scenarios as they happen."""

    def __init__(self, output: TextIO) -> None:
        self._console = open_console(output)

    def announce(self, scenario: Scenario) -> None:
        """Print a scenario's name and the claims that it tests."""
        self._line((scenario.name, "bold"), f": {scenario.shows}")
        for claim in scenario.claims:
            self._wrap(f'"{claim.words}"', "  ", "   ")
            self._line(f"      {claim.author}, {THREAD}")

    def begin(self, placement: PlacementName, engine: str) -> None:
        """Print the heading of a run."""
        self._line()
        self._line("  ", (placement.value, "bold"), f" on {engine}")

    def show(self, event: Event) -> None:
        """Print a step or a finding."""
        if isinstance(event, Finding):
            self._verdict(event.holds, f"{event.topic}: {event.observed}")
            if not event.holds:
                self._line(f"        expected: {event.expected}")
            return
        self._wrap(event.text, "    - ", "      ")
        for line in event.lines:
            self._line(f"        {line}")

    def end(self, run: ScenarioRun) -> None:
        """Print the result of a run."""
        took = f"{run.duration_ns / 1e6:.0f} ms"
        if run.refusal is not None:
            self._wrap(f"not possible here: {run.refusal}", "    ", "    ")
        elif run.failure is not None:
            self._verdict(False, f"failed: {run.failure}")
        elif run.holds:
            self._line(f"    all {len(run.findings)} as expected ({took})")
        else:
            wrong = sum(not finding.holds for finding in run.findings)
            self._line(f"    {wrong} of {len(run.findings)} NOT as expected ({took})")
        if run.placement is list(PlacementName)[-1]:
            self._line()

    def _verdict(self, good: bool, text: str) -> None:
        """Print a wrapped line behind a coloured sign."""
        sign = GOOD if good else BAD
        first, *rest = _wrapped(f"{sign[0]}  {text}", "    ", "        ")
        self._line("    ", sign, first.removeprefix(f"    {sign[0]}"))
        for line in rest:
            self._line(line)

    def _wrap(self, text: str, first: str, rest: str) -> None:
        for line in _wrapped(text, first, rest):
            self._line(line)

    def _line(self, *parts: str | tuple[str, str]) -> None:
        """Print a line of texts and of texts with styles; the console knows whether there are colours."""
        self._console.print(Text.assemble(*parts), soft_wrap=True)
        self._console.file.flush()


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
