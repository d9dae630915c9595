# SPDX-License-Identifier: GPL-2.0-or-later
"""A judgement as JSON, JUnit and lines, and its exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from pvtime.judge.console import CheckResult, Verdict
from pvtime.judge.document import lines, to_json, to_junit, to_ktap
from pvtime.judge.growth import NAME
from pvtime.judge.session import ExitCode, Judgement

RESULTS = (
    CheckResult("header", Verdict.PASS),
    CheckResult("padding", Verdict.FAIL, "it is \x1b[2J not 0", ("cpu 0: word 0x1",)),
    CheckResult("off_and_on", Verdict.SKIP, "it takes two CPUs"),
)


def judgement(*results: CheckResult) -> Judgement:
    return Judgement("a-vmm", results, b"console \xff", "complaint", {"kernel": "6.1", "cpus": 2})


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({NAME: Verdict.PASS, "header": Verdict.PASS, "off_and_on": Verdict.SKIP}, ExitCode.RIGHT),
        ({NAME: Verdict.PASS, "header": Verdict.FAIL}, ExitCode.WRONG),
        ({NAME: Verdict.SKIP, "header": Verdict.PASS}, ExitCode.CANNOT_TELL),
        ({"header": Verdict.PASS}, ExitCode.CANNOT_TELL),
        ({NAME: Verdict.FAIL}, ExitCode.WRONG),
        ({"image_starts": Verdict.FAIL}, ExitCode.CANNOT_TELL),
        ({NAME: Verdict.PASS, "image_ends": Verdict.FAIL}, ExitCode.CANNOT_TELL),
        ({"exception": Verdict.FAIL, "image_ends": Verdict.FAIL}, ExitCode.WRONG),
    ],
)
def test_the_exit_code_is_the_verdict(verdicts: dict[str, Verdict], code: ExitCode) -> None:
    given = judgement(*(CheckResult(name, verdict) for name, verdict in verdicts.items()))
    assert given.exit_code is code
    assert json.loads(to_json(given))["verdict"] == code.name.lower().replace("_", "-")


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict.PASS, ExitCode.RIGHT), (Verdict.SKIP, ExitCode.CANNOT_TELL), (Verdict.FAIL, ExitCode.WRONG)],
)
def test_where_checks_were_chosen_the_verdict_is_theirs(verdict: Verdict, code: ExitCode) -> None:
    results = (CheckResult("off_and_on", Verdict.SKIP), CheckResult("padding", verdict))
    given = replace(judgement(*results), chosen=frozenset({"padding"}))
    assert given.exit_code is code
    assert ("the chosen checks pass" in [*lines(given)][-1]) is (code is ExitCode.RIGHT)
    unmade = replace(judgement(), chosen=frozenset({"padding"}))
    assert unmade.exit_code is ExitCode.CANNOT_TELL


def test_json_has_every_check_and_the_console() -> None:
    document = json.loads(to_json(judgement(*RESULTS)))
    assert document["schema"] == 1
    assert [each["verdict"] for each in document["checks"]] == ["pass", "fail", "skip"]
    assert document["checks"][1]["details"] == ["cpu 0: word 0x1"]
    assert document["console"] == "console \ufffd"
    assert document["host"] == {"kernel": "6.1", "cpus": 2}


def test_junit_is_xml_whatever_a_guest_says() -> None:
    suite = ElementTree.fromstring(to_junit(judgement(*RESULTS)))
    assert suite.attrib == {"name": "pvtime judge", "tests": "3", "failures": "1", "skipped": "1"}
    failure = suite.find("testcase[@name='padding']/failure")
    assert failure is not None
    assert failure.get("message") == "it is ?[2J not 0"


def test_ktap_has_lavas_lines_and_no_lines_of_the_guests() -> None:
    wrong = CheckResult("header", Verdict.FAIL, "first\nok 2 header", ("a\nb",))
    assert to_ktap(judgement(wrong, RESULTS[2])).splitlines() == [
        "KTAP version 1",
        "1..2",
        "# a b",
        "not ok 1 header",
        "# first ok 2 header",
        "pvtime-result: header fail",
        "ok 2 off_and_on # SKIP it takes two CPUs",
        "pvtime-result: off_and_on skip",
        "# a-vmm: stolen time is wrong",
    ]


def test_lines_have_no_control_characters() -> None:
    text = list(lines(judgement(*RESULTS)))
    assert text[0] == "pass  header"
    assert text[1] == "FAIL  padding     it is ?[2J not 0"
    assert text[2].strip() == "cpu 0: word 0x1"
    assert text[-1] == "a-vmm: stolen time is wrong"
