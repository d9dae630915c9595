# SPDX-License-Identifier: GPL-2.0-or-later
"""The job for LAVA: it has all that LAVA's own schema asks for, and tells LAVA each result."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.document import to_ktap
from pvtime.judge.lava import lava_job
from pvtime.judge.session import Judgement

COMMAND = ["qemu", "-append", "it's $HOME", "-kernel", "{image}"]


def steps() -> list[str]:
    """Return the commands of a job."""
    job = json.loads(lava_job("ssh", ["--migrate", "--", *COMMAND]))
    # What LAVA 2023.01's lava-schema.py was seen to accept, and to refuse with another value.
    deploy, boot, test = (dict(*action.values()) for action in job["actions"])
    assert (deploy["to"], boot["method"], boot["connection"]) == ("ssh", "ssh", "ssh")
    assert {"job_name", "device_type", "priority", "visibility", "timeouts"} < job.keys()
    found = test["definitions"][0]["repository"]["run"]["steps"]
    assert all(isinstance(step, str) for step in found)
    return list(found)


def test_the_vmms_command_reaches_the_judge_as_it_was_given() -> None:
    words = shlex.split(steps()[0].partition(" > ")[0])
    assert words == ["pvtime", "judge", "--ktap", "--migrate", "--", *COMMAND]


def test_every_result_is_told(tmp_path: Path) -> None:
    results = (CheckResult("header", Verdict.PASS), CheckResult("padding", Verdict.SKIP, "a reason"))
    (tmp_path / "judge.ktap").write_text(to_ktap(Judgement("vmm", results, b"", "", {})))
    case = tmp_path / "lava-test-case"
    case.write_text('#!/bin/sh\necho "$@"\n')
    case.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(
        steps()[1], shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert told.stdout.splitlines() == ["header --result pass", "padding --result skip"]
