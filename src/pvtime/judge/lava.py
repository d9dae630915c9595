# SPDX-License-Identifier: GPL-2.0-or-later
"""A job for LAVA, a scheduler of boards, that judges a VMM on a host of the lab."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Final

__all__ = ["lava_job"]

JOB_MINUTES: Final = 30
JUDGE_MINUTES: Final = 15
KTAP: Final = "judge.ktap"
TELL: Final = rf"sed -n 's/^pvtime-result: \(.*\) \(.*\)$/lava-test-case \1 --result \2/p' {KTAP} | sh"
"""Has LAVA note each result."""


def lava_job(device: str, arguments: Sequence[str]) -> str:
    """Return the job's definition: JSON, which is YAML.

    The host is one that LAVA reaches by ssh, with pvtime and the VMM on it.

    :param device: LAVA's type of it.
    :param arguments: those of ``pvtime judge``, the VMM's command at their end.
    """
    judge = shlex.join(["pvtime", "judge", "--ktap", *arguments])
    test = {
        "metadata": {
            "format": "Lava-Test Test Definition 1.0",
            "name": "pvtime-judge",
            "description": "stolen time of a VMM, beside its host's",
        },
        "run": {"steps": [f"{judge} > {KTAP}; cat {KTAP}", TELL]},
    }
    definition = {
        "repository": test,
        "from": "inline",
        "path": "inline/pvtime-judge.yaml",
        "name": "pvtime-judge",
    }
    minutes = {"minutes": JUDGE_MINUTES}
    job = {
        "job_name": "pvtime judge",
        "device_type": device,
        "priority": "medium",
        "visibility": "public",
        "timeouts": {"job": {"minutes": JOB_MINUTES}, "action": minutes, "connection": {"minutes": 2}},
        "actions": [
            {"deploy": {"timeout": minutes, "to": "ssh", "os": "debian"}},
            {"boot": {"timeout": minutes, "method": "ssh", "connection": "ssh"}},
            {"test": {"timeout": minutes, "definitions": [definition]}},
        ],
    }
    return json.dumps(job, indent=2) + "\n"
