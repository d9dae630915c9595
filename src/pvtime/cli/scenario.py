# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime scenario``: run what can happen to the memory that stolen time is written to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from pvtime.cli.params import engine_option
from pvtime.engine.registry import AUTO, EngineKind, choose
from pvtime.errors import UsageError
from pvtime.steal.placement import PlacementName

if TYPE_CHECKING:
    from pvtime.cli.telling import Teller
    from pvtime.scenario.perform import Performance
    from pvtime.scenario.stage import Stage
    from pvtime.scenario.story import Event, Scenario

__all__ = ["scenario_command"]

ALL: Final = "all"
TABLE: Final = "table"
EMBEDDED: Final = "unicorn"
FAILED: Final = 1


@click.command("scenario")
@click.argument("name", required=False)
@click.option(
    "--placement",
    type=click.Choice([*(placement.value for placement in PlacementName), ALL]),
    default=ALL,
    show_default=True,
    help="Who provides the memory for stolen time.",
)
@engine_option
@click.option("--real", is_flag=True, help="Debian's kernel, and not the small guest, where it can do it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def scenario_command(name: str | None, placement: str, engine: str, real: bool, as_json: bool) -> int:
    """Run the scenario NAME, for each placement, and explain what is done and seen.

    Without NAME it lists them; "all" runs all; "table" prints what they have shown as Markdown. Exits with 0
    only if everything is as expected.
    """
    from pvtime.cli.telling import Teller, print_list
    from pvtime.scenario.catalog import SCENARIOS
    from pvtime.scenario.document import to_json
    from pvtime.scenario.table import markdown

    if name is None:
        print_list(SCENARIOS.values(), sys.stdout)
        return 0
    kind = _engine(engine, real)
    table = name == TABLE
    if table and as_json:
        raise UsageError("the table is Markdown: pvtime scenario all --json has what it is made of")
    scenarios = list(SCENARIOS.values()) if name in (ALL, TABLE) else [_known(SCENARIOS.get(name), name)]
    if real:
        scenarios = _real(scenarios, name)
    teller = Teller(None if as_json or table else sys.stdout)
    placements = [PlacementName(placement)] if placement != ALL else list(PlacementName)
    wishes = _Wishes(kind, scenarios, placements, real)
    performances = list(wishes.perform(teller))
    refused = [one for one in performances if one.refusal is not None]
    if len(refused) == len(performances):
        raise UsageError(refused[0].refusal or "")
    if as_json:
        sys.stdout.write(to_json(kind.name, performances, real=real))
    if table:
        sys.stdout.write(markdown(performances))
        for one in performances:
            if one.failure is not None:
                print(f"pvtime: {one.scenario.name}, {one.placement.value}: {one.failure}", file=sys.stderr)
    return 0 if all(one.holds for one in performances) else FAILED


@dataclass(frozen=True)
class _Wishes:
    kind: EngineKind
    scenarios: Sequence[Scenario]
    placements: Sequence[PlacementName]
    real: bool

    def perform(self, teller: Teller) -> Iterator[Performance]:
        """Run each."""
        from pvtime.report.progress import shown
        from pvtime.scenario.perform import perform

        with shown(sys.stderr if self.real else None) as progress:
            for scenario in self.scenarios:
                teller.announce(scenario)
                for placement in self.placements:
                    events: Iterator[Event]
                    if self.real and scenario.real is not None:
                        events = scenario.real(progress, placement)
                    else:
                        events = scenario.tell(self._stage(placement))
                    teller.begin(placement, self.kind.name)
                    performance = perform(scenario, placement, events, teller.show)
                    teller.end(performance)
                    yield performance

    def _stage(self, placement: PlacementName) -> Stage:
        from pvtime.scenario.stage import Stage

        return Stage(lambda machine: self.kind.build(machine, {}), placement)


def _engine(name: str, real: bool) -> EngineKind:
    """Return the engine; a real kernel is watched from inside of the embedded one.

    :raises UsageError: it cannot be used here, or not for this.
    """
    if real and name not in (AUTO, EMBEDDED):
        raise UsageError(f"--real with --engine {name}: it is for the engine {EMBEDDED} alone")
    return choose(EMBEDDED if real else name)[0]


def _known(scenario: Scenario | None, name: str) -> Scenario:
    if scenario is None:
        raise UsageError(f"there is no scenario {name!r}: pvtime scenario lists them")
    return scenario


def _real(scenarios: Sequence[Scenario], name: str) -> list[Scenario]:
    """Return those that a real kernel can do.

    :raises UsageError: none can.
    """
    able = [scenario for scenario in scenarios if scenario.real is not None]
    if not able:
        raise UsageError(f"the scenario {name} is for the small guest alone: leave --real out")
    return able
