# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime scenario``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from pvtime.cli.params import engine_option
from pvtime.engine.registry import AUTO, EngineKind, choose
from pvtime.errors import UsageError
from pvtime.steal.placement import PlacementName

if TYPE_CHECKING:
    from pvtime.scenario.model import Scenario

__all__ = ["scenario_command", "show"]

ALL: Final = "all"
TABLE: Final = "table"
EMBEDDED: Final = "unicorn"
FAILED: Final = 1


@click.command("scenario", short_help="Show what can go wrong with stolen time's memory")
@click.argument("name", required=False)
@click.option(
    "--placement",
    type=click.Choice([*(placement.value for placement in PlacementName), ALL]),
    default=ALL,
    show_default=True,
    help="Who provides the memory for stolen time.",
)
@engine_option
@click.option("--real", is_flag=True, help="Run Debian's kernel where a scenario can.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of sentences.")
def scenario_command(name: str | None, placement: str, engine: str, real: bool, as_json: bool) -> int:
    """Run the scenario NAME with each placement, and explain what happens step by step.

    Without NAME, list the scenarios. NAME can be "all", or "table" for all findings as a Markdown table. The
    exit code is 0 only if every finding is as expected.

    \b
    Examples:
        pvtime scenario
        pvtime scenario kexec --placement guest
    """  # noqa: D301 (click wants the character)
    from pvtime.scenario.catalog import SCENARIOS

    return show(SCENARIOS, name, placement, engine, real=real, as_json=as_json)


def show(
    catalog: Mapping[str, Scenario],
    name: str | None,
    placement: str = ALL,
    engine: str = AUTO,
    *,
    real: bool = False,
    as_json: bool = False,
) -> int:
    """Run a scenario of a catalogue, or list them; return the exit code.

    The other parameters are the command's.

    :raises UsageError: what is asked for cannot be.
    """
    from pvtime.cli.scenario_output import ScenarioPrinter, print_list
    from pvtime.report.image_progress import image_progress
    from pvtime.scenario.document import to_json
    from pvtime.scenario.runner import run_scenarios
    from pvtime.scenario.table import markdown

    if name is None:
        if as_json:
            raise UsageError("--json needs the name of a scenario, or all: pvtime scenario lists them")
        print_list(catalog.values(), sys.stdout)
        return 0
    kind = _engine(engine, real)
    table = name == TABLE
    if table and as_json:
        raise UsageError("the table is Markdown: for its figures as JSON use pvtime scenario all --json")
    scenarios = list(catalog.values()) if name in (ALL, TABLE) else [_known(catalog.get(name), name)]
    if real:
        scenarios = _real(scenarios, name)
    placements = [PlacementName(placement)] if placement != ALL else list(PlacementName)
    printer = None if as_json or table else ScenarioPrinter(sys.stdout)
    with image_progress(sys.stderr if real else None) as progress:
        runs = run_scenarios(kind, scenarios, placements, printer, real=progress if real else None)
    if all(run.refusal is not None for run in runs):
        raise UsageError(runs[0].refusal or "")
    if as_json:
        sys.stdout.write(to_json(kind.name, runs, real=real))
    if table:
        sys.stdout.write(markdown(runs))
        for run in runs:
            if run.failure is not None:
                print(f"pvtime: {run.scenario.name}, {run.placement.value}: {run.failure}", file=sys.stderr)
    return 0 if all(run.holds for run in runs) else FAILED


def _engine(name: str, real: bool) -> EngineKind:
    """Return the engine; a real kernel needs the embedded one, which can watch it from inside.

    :raises UsageError: the engine cannot be used on this host, or not with --real.
    """
    if real and name not in (AUTO, EMBEDDED):
        raise UsageError(f"--real needs the engine {EMBEDDED}: leave out --engine {name}")
    return choose(EMBEDDED if real else name)[0]


def _known(scenario: Scenario | None, name: str) -> Scenario:
    if scenario is None:
        raise UsageError(f"there is no scenario {name!r}: pvtime scenario lists them")
    return scenario


def _real(scenarios: Sequence[Scenario], name: str) -> list[Scenario]:
    """Return the scenarios that a real kernel can run.

    :raises UsageError: there is none.
    """
    with_kernel = [scenario for scenario in scenarios if scenario.real is not None]
    if not with_kernel:
        raise UsageError(f"a real kernel cannot run the scenario {name}: leave out --real")
    return with_kernel
