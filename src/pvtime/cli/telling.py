# SPDX-License-Identifier: GPL-2.0-or-later
"""How scenarios are told to people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final, TextIO

from pvtime.report.live import is_terminal
from pvtime.scenario.perform import Performance
from pvtime.scenario.story import Event, Finding, Scenario
from pvtime.steal.placement import PlacementName

__all__ = ["THREAD", "Teller", "print_list"]

WIDTH: Final = 110
THREAD: Final = "Re: [PATCH 0/9] arm64: Stolen time support, August 2019"
GREEN, RED, BOLD, PLAIN = "\033[32m", "\033[31m", "\033[1m", "\033[0m"


def print_list(scenarios: Iterable[Scenario], output: TextIO) -> None:
    """Print a line for each scenario; a star where a real kernel can do it too."""
    for scenario in scenarios:
        star = "*" if scenario.real is not None else " "
        print(f"{scenario.name:14}{star} {scenario.shows}", file=output)
    print("\n* with --real also with Debian's kernel", file=output)


class Teller:
    """Prints what happens as it happens.

    :param output: None: nowhere.
    """

    def __init__(self, output: TextIO | None) -> None:
        self._output = output
        self._colour = output is not None and is_terminal(output)

    def announce(self, scenario: Scenario) -> None:
        """A scenario begins."""
        self._line(self._paint(BOLD, scenario.name) + f": {scenario.shows}")
        for claim in scenario.claims:
            self._wrap(f'"{claim.words}"', "  ", "   ")
            self._line(f"      {claim.author}, {THREAD}")

    def begin(self, placement: PlacementName, engine: str) -> None:
        """It begins with a placement."""
        self._line("")
        self._line("  " + self._paint(BOLD, placement.value) + f" on {engine}")

    def show(self, event: Event) -> None:
        """Something has happened."""
        if isinstance(event, Finding):
            self._wrap(f"{self._sign(event.holds)}  {event.topic}: {event.seen}", "    ", "        ")
            if not event.holds:
                self._line(f"        expected: {event.expected}")
            return
        self._wrap(event.text, "    - ", "      ")
        for line in event.lines:
            self._line(f"        {line}")

    def end(self, performance: Performance) -> None:
        """It has ended with a placement."""
        took = f"{performance.duration_ns / 1e6:.0f} ms"
        if performance.refusal is not None:
            self._wrap(f"not here: {performance.refusal}", "    ", "    ")
        elif performance.failure is not None:
            self._wrap(f"{self._sign(False)}  failed: {performance.failure}", "    ", "        ")
        elif performance.holds:
            self._line(f"    all {len(performance.findings)} as expected ({took})")
        else:
            wrong = sum(not finding.holds for finding in performance.findings)
            self._line(f"    {wrong} of {len(performance.findings)} NOT as expected ({took})")
        if performance.placement is list(PlacementName)[-1]:
            self._line("")

    def _sign(self, good: bool) -> str:
        return self._paint(GREEN, "ok") if good else self._paint(RED, "NO")

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colour else text

    def _wrap(self, text: str, first: str, rest: str) -> None:
        self._line(
            textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
        )

    def _line(self, text: str) -> None:
        if self._output is not None:
            print(text, file=self._output, flush=True)
