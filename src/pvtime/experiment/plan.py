# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan of an experiment: its points, its jobs, and the directory that has both (docs/experiments.md)."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from pvtime.errors import UsageError, oserror_context
from pvtime.inject.schedule import Item
from pvtime.report import output_file
from pvtime.snapshot.codec import decode, from_json
from pvtime.steal.placement import PlacementName

__all__ = ["Job", "Plan", "Point", "merge", "parse_placements", "parse_steals", "report_of"]

SCHEMA: Final = 1
PLAN: Final = "experiment.json"
NOTHING: Final = "0%"

_SHARE: Final = re.compile(r"(?:[0-9-]+:)?([0-9]{1,3}(?:\.[0-9]{1,3})?)%")
_DOTS: Final = ("…", "...")

OWN_OPTIONS: Final = (
    "--report",
    "--steal",
    "--placement",
    "--name",
    "--control",
    "--detach",
    "--interactive",
)
"""Options of the run that are the experiment's to give."""


@dataclass(frozen=True)
class Point:
    """One combination of what is swept."""

    steal: str
    placement: str

    @property
    def name(self) -> str:
        """Name for files."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.steal.rstrip('%')}-{self.placement}")


@dataclass(frozen=True)
class Job:
    """One run of a point."""

    point: Point
    number: int
    """From 1."""

    @property
    def name(self) -> str:
        """Name for files."""
        return f"{self.point.name}-{self.number}"


@dataclass(frozen=True)
class Plan:
    """An experiment."""

    runs: int
    steals: list[str]
    placements: list[str]
    options: list[str]
    """Options of ``pvtime run``."""

    def __post_init__(self) -> None:
        for option in self.options:
            if option.partition("=")[0] in OWN_OPTIONS:
                raise UsageError(f"{option} is the experiment's to give: leave it out of the run's options")

    def has(self, name: str) -> bool:
        """Whether the run has an option."""
        return any(option.partition("=")[0] == name for option in self.options)

    @property
    def points(self) -> list[Point]:
        """Every combination."""
        return [Point(steal, placement) for placement in self.placements for steal in self.steals]

    @property
    def jobs(self) -> list[Job]:
        """Every run, in rounds over all points: what changes on the host with time changes for all."""
        return [Job(point, number + 1) for number in range(self.runs) for point in self.points]

    def command(self, job: Job, report: Path) -> list[str]:
        """Return the command of a job, which writes a report."""
        steal = [] if job.point.steal == NOTHING else ["--steal", job.point.steal]
        warm = [] if any(map(self.has, ("--initrd", "--rootfs", "--share", "--warm"))) else ["--warm"]
        return [
            *(sys.executable, "-m", "pvtime", "run", *self.options, *warm, *steal),
            *("--placement", job.point.placement, "--no-control", "--quiet", "--report", str(report)),
        ]

    def lines(self, directory: Path) -> Iterator[str]:
        """Yield a shell's line for each job."""
        for job in self.jobs:
            yield shlex.join(self.command(job, report_of(directory, job)))

    def keep(self, directory: Path) -> None:
        """Make the directory with the plan in it, or check that it has this one.

        :raises UsageError: it has another plan, or cannot be written.
        """
        with oserror_context(str(directory), UsageError):
            (directory / "reports").mkdir(parents=True, exist_ok=True)
        path = directory / PLAN
        if not path.exists():
            text = json.dumps({"schema": SCHEMA} | asdict(self), indent=2) + "\n"
            output_file.write_whole(path, text, "the plan")
        elif Plan.load(directory) != self:
            raise UsageError(f"{directory} has another experiment: give another --out, or the same options")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the plan in a directory.

        :raises UsageError: there is none, or it is damaged.
        """
        path = directory / PLAN
        with oserror_context(f"{path}", UsageError):
            document = from_json(path.read_bytes(), str(path))
        if document.pop("schema", None) != SCHEMA:
            raise UsageError(f"{path} has another schema: this release reads {SCHEMA}")
        return decode(cls, document, str(path))


def report_of(directory: Path, job: Job) -> Path:
    """Return the path of a job's report."""
    return directory / "reports" / f"{job.name}.json"


def parse_steals(text: str) -> list[str]:
    """Return the steals of a list such as ``0%,10%,...,90%`` or ``0%,1:50%``.

    :raises UsageError: it is none.
    """
    parts = [part.strip() for part in text.split(",")]
    steals: list[str] = []
    for at, part in enumerate(parts):
        if part in _DOTS:
            if not 2 <= at < len(parts) - 1:
                raise UsageError("write ... behind two shares and before the last, such as 0%,10%,...,90%")
            first, second, last = (_share(parts[index]) for index in (at - 2, at - 1, at + 1))
            if second <= first or (last - second) % (second - first):
                raise UsageError(f"{text!r}: its steps do not reach {parts[at + 1]}")
            steals += [f"{share / 1000:g}%" for share in range(2 * second - first, last, second - first)]
        else:
            if _share(part):
                Item.parse(part)
            steals.append(part if _share(part) else NOTHING)
    if len(set(steals)) < len(steals):
        raise UsageError(f"{text!r} names a steal twice")
    return steals


def _share(text: str) -> int:
    """Return a share in thousandths of a per cent."""
    if (match := _SHARE.fullmatch(text)) is None:
        raise UsageError(f"{text!r} is not a share to sweep: write 30% or 1:30%")
    return round(float(match[1]) * 1000)


def parse_placements(text: str) -> list[str]:
    """Return the placements of a list; ``all`` has each.

    :raises UsageError: one is none.
    """
    names = [name.value for name in PlacementName]
    chosen = names if text == "all" else [part.strip() for part in text.split(",")]
    for name in chosen:
        if name not in names:
            raise UsageError(f"{name!r} is not a placement: give all, or some of {', '.join(names)}")
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"{text!r} names a placement twice")
    return chosen


def merge(directory: Path, parts: Sequence[Path]) -> int:
    """Copy the reports of other directories of the same experiment; return how many were new.

    :raises UsageError: one has another experiment, or cannot be read.
    """
    plan = Plan.load(parts[0])
    plan.keep(directory)
    copied = 0
    for part in parts:
        if Plan.load(part) != plan:
            raise UsageError(f"{part} has another experiment than {parts[0]}: merge what belongs together")
        for job in plan.jobs:
            source, target = report_of(part, job), report_of(directory, job)
            if source.exists() and not target.exists():
                with oserror_context(str(source), UsageError):
                    output_file.write_whole(target, source.read_text(), "a report")
                copied += 1
    return copied
