# SPDX-License-Identifier: GPL-2.0-or-later
"""The job for LAVA: it has all that LAVA's own schema asks for, and tells LAVA each result."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.document import to_ktap
from pvtime.judge.lava import lava_job
from pvtime.judge.session import Judgement

COMMAND = ["qemu", "-append", "it's $HOME", "-kernel", "{image}"]
LAVA = Path("/usr/lib/python3/dist-packages/lava_common")
"""Debian's lava-common, for Debian's Python."""
VALIDATE = """
import json, sys
from lava_common.schemas import validate
validate(json.load(sys.stdin), strict=True)
"""


def steps() -> list[str]:
    """Return the commands of a job."""
    job = json.loads(lava_job("ssh", ["--migrate", "--", *COMMAND]))
    *_, test = (dict(*action.values()) for action in job["actions"])
    found = test["definitions"][0]["repository"]["run"]["steps"]
    assert all(isinstance(step, str) for step in found)
    return list(found)


def validated(job: str) -> subprocess.CompletedProcess[str]:
    """Have LAVA's own schema look at a job."""
    command = ["/usr/bin/python3", "-c", VALIDATE]
    return subprocess.run(command, input=job, capture_output=True, text=True, check=False)


def test_lavas_own_schema_accepts_the_job() -> None:
    if not LAVA.exists():
        pytest.skip("LAVA's schema is not installed (Debian: apt install lava-common)")
    job = lava_job("ssh", ["--migrate", "--", *COMMAND])
    done = validated(job)
    assert done.returncode == 0, done.stderr
    assert validated(job.replace('"to": "ssh"', '"to": "nowhere"')).returncode != 0


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
