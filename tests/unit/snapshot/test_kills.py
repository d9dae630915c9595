# SPDX-License-Identifier: GPL-2.0-or-later
"""A save that is killed leaves a whole saved machine or none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from framework import saves
from framework.saves import Found

KILLS = 60


def kill(*arguments: object) -> Found:
    """Run the killing program."""
    command = [sys.executable, saves.__file__, *map(str, arguments)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    return Found(**json.loads(shown.stdout))


def test_killed_at_any_moment(tmp_path: Path) -> None:
    found = kill("random", KILLS, tmp_path, 2026)
    assert found.kills == KILLS
    assert found.leftovers > KILLS / 10, "the kills missed the saves"
    assert found.complete > 1, "no save ever came through"
    assert found.loaded_leftovers == found.wrong == 0
    assert found.most_leftovers == 1, "the next save to the same name removes what is left"


def test_killed_before_each_step(tmp_path: Path) -> None:
    found = kill("steps", tmp_path)
    # Before the first two, which open the parent and make the directory, nothing is there; before the last,
    # which has the parent on the disk, all is, as after the save that is not killed.
    assert found.kills > 20
    assert found.leftovers == found.kills - 3
    assert found.complete == 2
    assert found.loaded_leftovers == found.wrong == 0
