# SPDX-License-Identifier: GPL-2.0-or-later
"""kexec with Debian's kernel, told as a scenario."""

from __future__ import annotations

from collections.abc import Iterator

from pvtime.images.cache import FetchProgress
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.linux_kexec import explain, run
from pvtime.steal.placement import PlacementName

__all__ = ["real"]


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Let it kexec into itself; see :attr:`Scenario.real`."""
    course = run(progress, placement=placement)
    for line in explain(course):
        yield Step(line.strip())
    observed = "uses stolen time" if course.second.found else "does not find it"
    yield Finding("the second kernel", observed, "uses stolen time")
    calls = course.second.calls
    zero = calls and all(call.after.count_ns == 0 < call.before.count_ns for call in calls)
    yield Finding("the second kernel's count", "starts from zero" if zero else "goes on", "starts from zero")
    exact = all(end.truth_ns == end.structure_ns for end in course.second.end)
    yield Finding("truth and structure at its end", "equal" if exact else "different", "equal")
