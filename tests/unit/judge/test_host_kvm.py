# SPDX-License-Identifier: GPL-2.0-or-later
"""The answers of a host's KVM about stolen time."""

from __future__ import annotations

import itertools

import pytest

from pvtime.judge.console import Verdict
from pvtime.judge.host_kvm import judge_answers


@pytest.mark.parametrize("answers", list(itertools.product((False, True), repeat=3)))
def test_answers_that_differ_are_wrong(answers: tuple[bool, bool, bool]) -> None:
    found = judge_answers(system=answers[0], vm=answers[1], attribute=answers[2])
    expected = Verdict.PASS if all(answers) else Verdict.FAIL if any(answers) else Verdict.SKIP
    assert found.verdict is expected
    assert [detail.rpartition(" ")[2] for detail in found.details] == ["yes" if x else "no" for x in answers]
