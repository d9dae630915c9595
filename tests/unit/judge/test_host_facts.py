# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of a host, from a made-up /proc; what is not there is absent, never 0."""

from __future__ import annotations

from pathlib import Path

from pvtime.judge.host_facts import host_facts, stat_times

ARM_CPU = """\
processor\t: 0
BogoMIPS\t: 125.00
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

processor\t: 1
CPU implementer\t: 0x42
"""


def test_the_steal_is_that_of_the_judgements_time(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 0 100 0 0 0 50 9 9\ncpu0 1 1 1 1\n")
    since = stat_times(tmp_path)
    assert since == (50, 250)
    stat.write_text("cpu  150 0 0 125 0 0 0 75 9 9\n")
    (tmp_path / "loadavg").write_text("1.50 1.00 0.50 2/100 1234\n")
    (tmp_path / "cpuinfo").write_text(ARM_CPU)
    facts = host_facts(since, tmp_path)
    assert facts["steal_percent"] == 25.0
    assert facts["load"] == 1.5
    assert facts["cpu"] == "0x41 8 0x3 0xd0c 1"


def test_what_is_not_known_is_absent(tmp_path: Path) -> None:
    facts = host_facts(stat_times(tmp_path), tmp_path)
    assert facts["steal_percent"] is facts["load"] is facts["cpu"] is None
    (tmp_path / "stat").write_text("cpu  1 0 0 1 0 0 0 0\n")
    assert host_facts(stat_times(tmp_path), tmp_path)["steal_percent"] is None, "no time has passed"
