# SPDX-License-Identifier: GPL-2.0-or-later
"""How the guest's figures compare with the host's, report by report."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from framework.fakes import sample
from pvtime.report.model import Moment
from pvtime.run.figures import Figures
from pvtime.userland.protocol import CpuTimes, StatReport

S = 1_000_000_000
OTHERS = dict.fromkeys({field.name for field in fields(CpuTimes)} - {"user_ns", "steal_ns"}, 0)


class Course:
    """A run with one vCPU, of which a test tells the figures."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.figures = Figures(stealing=False, tell=self.told.append)
        self.elapsed = 0.0

    def report(self, truth_ns: int, steal_ns: int | None, *, enabled: bool = True, starts: int = 1) -> Moment:
        """Have a report of the guest arrive; None: the CPU is not in it."""
        self.elapsed += 1
        times = CpuTimes(user_ns=int(self.elapsed) * S, steal_ns=steal_ns or 0, **OTHERS)
        cpus = {} if steal_ns is None else {0: times}
        samples = [replace(sample(truth_ns=truth_ns), enabled=enabled, starts=starts)]
        return self.figures.join(self.elapsed, samples, StatReport(1, cpus))


def test_the_worst_difference_is_kept_when_a_later_report_is_right_again() -> None:
    # A nohz_full guest had 0 steal while seconds were stolen, and the userland's last wake-up repaired it.
    course = Course()
    course.report(1 * S, 1 * S)
    course.report(5 * S, 1 * S)
    row = course.report(6 * S, 6 * S).vcpus[0]
    assert row.guest_error_ns == 0
    assert (row.lowest_guest_error_ns, row.highest_guest_error_ns) == (-4 * S, 0)
    assert row.worst_guest_error_ns == -4 * S


@given(st.lists(st.tuples(st.integers(0, 2**70), st.integers(0, 2**70)), min_size=1))
def test_the_last_error_lies_between_the_lowest_and_the_highest(reports: list[tuple[int, int]]) -> None:
    course = Course()
    for truth_ns, steal_ns in reports:
        row = course.report(truth_ns, steal_ns).vcpus[0]
        lowest, last, highest = row.lowest_guest_error_ns, row.guest_error_ns, row.highest_guest_error_ns
        assert lowest is not None
        assert last is not None
        assert highest is not None
        assert lowest <= last <= highest
        assert row.worst_guest_error_ns in (lowest, highest)


def test_the_worst_difference_is_known_without_a_last_report() -> None:
    course = Course()
    course.report(5 * S, 1 * S)
    row = course.figures.join(2.0, [sample(truth_ns=5 * S)], None).vcpus[0]
    assert (row.guest, row.guest_error_ns, row.worst_guest_error_ns) == (None, None, -4 * S)


def test_after_another_pv_time_st_guest_and_truth_are_compared_from_there_on() -> None:
    # The truth counts from 0 again when a CPU comes online, and the guest's column does not.
    course = Course()
    course.report(7 * S, 7 * S)
    assert course.report(7 * S, None, starts=2).vcpus[0].guest_error_ns is None
    assert course.report(1 * S, 8 * S, starts=2).vcpus[0].guest_error_ns == 0
    row = course.report(9 * S, 15 * S, starts=2).vcpus[0]
    assert (row.guest_error_ns, row.guest_steal_ns) == (-1 * S, 8 * S)


def test_a_column_that_fell_with_the_truth_is_compared_from_0_on() -> None:
    # Linux 6.1 on arm64: the fall of the stolen-time clock wraps into the column.
    course = Course()
    course.report(7 * S, 7 * S)
    assert course.report(1 * S, 7 * S, starts=2).vcpus[0].guest_error_ns == 0, "it has had no tick yet"
    row = course.report(2 * S, 1 * S, starts=2).vcpus[0]
    assert (row.guest_error_ns, row.guest_steal_falls, row.guest_steal_fell_ns) == (-1 * S, 1, 6 * S)


def test_a_resumed_guest_that_had_asked_again_is_compared_from_its_first_report_on() -> None:
    for starts, error in [(1, -4 * S), (2, 0)]:
        course = Course()
        course.figures.resume([replace(sample(truth_ns=7 * S), starts=starts)])
        assert course.report(7 * S, 3 * S, starts=starts).vcpus[0].guest_error_ns == error


def test_another_kernels_columns_begin_at_0() -> None:
    course = Course()
    course.report(7 * S, 7 * S)
    course.figures.start_kernel()
    moment = course.report(2 * S, 1 * S, starts=2)
    row = moment.vcpus[0]
    assert row.guest_error_ns == -1 * S
    assert row.guest_steal_falls == 0
    assert moment.begin is not None
    assert moment.begin.elapsed_seconds == 2.0
    assert course.told == []


def test_what_a_guest_was_not_told_is_no_error_of_its_figure() -> None:
    row = Course().report(7 * S, 0, enabled=False).vcpus[0]
    assert (row.guest_error_ns, row.guest_steal_ns, row.worst_guest_error_ns) == (None, None, None)


def test_a_steal_column_that_runs_backwards_is_told_at_once_and_counted() -> None:
    # It broke node_exporter, telegraf and psutil.
    course = Course()
    course.report(5 * S, 5 * S)
    row = course.report(6 * S, 3 * S).vcpus[0]
    assert (row.guest_steal_falls, row.guest_steal_fell_ns) == (1, 2 * S)
    assert len(course.told) == 1
    assert course.told[0].startswith(
        "vCPU 0: the steal in the guest's /proc/stat ran backwards, from 5.000 s to 3.000 s: "
    )
    course.report(6 * S, 6 * S)
    row = course.report(6 * S, 5 * S).vcpus[0]
    assert (row.guest_steal_falls, row.guest_steal_fell_ns) == (2, 3 * S)
    assert len(course.told) == 1, "once is enough for the console; the report counts"


def test_a_fall_over_reports_without_the_cpu_is_found_too() -> None:
    course = Course()
    course.report(5 * S, 5 * S)
    course.report(5 * S, None)
    assert course.report(5 * S, 4 * S).vcpus[0].guest_steal_falls == 1


def test_the_beginning_is_the_first_report_or_the_resumption() -> None:
    course = Course()
    assert course.figures.join(0.5, [sample(truth_ns=4 * S)], None).begin is None
    first = course.report(5 * S, 5 * S)
    assert first.begin is not None
    assert first.begin.vcpus == first.vcpus
    assert course.report(7 * S, 6 * S).begin == first.begin
    resumed = Course()
    resumed.figures.resume([sample(truth_ns=3 * S)])
    begin = resumed.figures.join(0.5, [sample(truth_ns=4 * S)], None).begin
    assert begin is not None
    assert (begin.elapsed_seconds, begin.vcpus[0].truth_ns) == (0.0, 3 * S)
    first = resumed.report(5 * S, 5 * S)
    assert first.begin is not None
    assert first.begin.from_guest
