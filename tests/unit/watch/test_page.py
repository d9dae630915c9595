# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings as a page: what each command writes is drawn, and nothing in it becomes markup."""

from __future__ import annotations

import contextlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtime.cli.command import main
from pvtime.errors import UsageError
from pvtime.host.vms import HostVcpu, HostVm
from pvtime.watch.causes import CauseKind, CauseRow, VcpuCauses, VmCauses, WhoResult
from pvtime.watch.page import COLUMNS, REST, to_html, to_svg
from pvtime.watch.perfetto import to_perfetto
from pvtime.watch.recordings import Mark, Recording, read_recording
from pvtime.watch.who_view import who_to_json

SECOND = 1_000_000_000
EVIL = '</title><script>alert(1)</script>"\x1b[2J'

HOG = CauseRow(CauseKind.PROCESS, EVIL, 70, SECOND)
VM = HostVm(50, 1, "qemu", "web1", (HostVcpu(0, 51),))
VCPU = VcpuCauses(HostVcpu(0, 51), 2 * SECOND, SECOND, SECOND, 0, 0, 0, SECOND, (HOG,), SECOND, 0)
WHO = WhoResult(
    2 * SECOND,
    (VmCauses(VM, False, 0, (VCPU,)),),
    (),
    5 * SECOND,
    ((51, "ran", 5 * SECOND, 6 * SECOND, None), (51, "stolen", 6 * SECOND, 7 * SECOND, HOG)),
)
TOP: dict[str, Any] = {
    "schema": 1,
    "time_ns": 10 * SECOND,
    "elapsed_ns": SECOND,
    "missing": [],
    "vms": [
        {"vmm": "qemu", "name": EVIL, "pid": 50}
        | {
            "vcpus": [
                {"vcpu": "0", "elapsed_ns": SECOND, "ran_ns": 0, "stolen_ns": SECOND, "off_ns": 0}
                | {"stopped_ns": 0, "cause": "quota"}
            ]
        }
    ],
}
ROW = {"index": 0, "ran_ns": 0, "truth_ns": 0, "structure_ns": 0, "injected_ns": 0, "stolen_ns": 0}
ROW |= {"idle_ns": 0, "stopped_ns": 0, "host_ns": 0, "guest_error_ns": -5}
STREAM: list[dict[str, Any]] = [
    {"schema": 1, "machine": {"name": "web", "engine": "unicorn"}},
    {"sample": {"elapsed_seconds": 1.0, "vcpus": [ROW]}},
    {"event": {"elapsed_seconds": 1.5, "kind": "soft-lockup", "text": EVIL, "vcpu": 1}},
    {"sample": {"elapsed_seconds": 2.0, "vcpus": [ROW | {"stolen_ns": SECOND, "injected_ns": SECOND // 4}]}},
]


class Page(HTMLParser):
    """What is on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href") or name[:2] == "on"
        ]
        if tag not in ("meta", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "line":
            assert self.open.pop() == tag


def page_of(text: str) -> tuple[str, Page]:
    """Return the page of a recording, which is whole, and has no scripts and no addresses."""
    html = to_html(read_recording(text))
    page = Page(html)
    assert page.open == []
    assert page.addresses == []
    assert "script" not in page.tags
    assert "\x1b" not in html
    return html, page


def lines(documents: list[dict[str, Any]]) -> str:
    """Return documents as lines."""
    return "".join(json.dumps(document) + "\n" for document in documents)


def test_a_trace_of_who_is_drawn_slice_by_slice() -> None:
    html, page = page_of(to_perfetto(WHO))
    assert page.tags.count("svg") == 1
    assert page.tags.count("rect") == 2
    assert "0.000 s to 1.000 s: ran 100 %" in html
    assert "qemu:web1 vCPU 0" in html


def test_perfettos_slices_are_in_microseconds_since_the_beginning() -> None:
    events = json.loads(to_perfetto(WHO))["traceEvents"]
    slices = [(event["name"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"]
    assert slices == [("ran", 0.0, 1e6), (f"stolen: {EVIL}", 1e6, 1e6)]
    (counter,) = [event for event in events if event["ph"] == "C"]
    assert (counter["ts"], counter["args"]) == (2e6, {"ms": 1000.0})


def test_the_json_of_who_is_drawn_with_its_verdicts() -> None:
    html, _ = page_of(who_to_json(WHO))
    assert "neighbour: " in html


def test_samples_of_top_are_drawn_one_after_the_other() -> None:
    later = TOP | {"time_ns": 11 * SECOND}
    html, page = page_of(lines([TOP, later]))
    assert page.tags.count("svg") == 1
    assert "0.000 s to 2.000 s: stolen: quota 100 %" in html


def test_a_machines_samples_have_the_injected_part_and_the_events() -> None:
    html, page = page_of(lines(STREAM))
    assert "stolen: on purpose 25 %" in html
    assert "stolen: by the host and other vCPUs 75 %" in html
    assert page.tags.count("line") == 1
    assert "-5 ns" in html
    assert "<td>1.500 s</td><td>soft-lockup: " in html


def test_the_picture_is_well_formed_and_has_the_strips_and_the_marks() -> None:
    picture = ElementTree.fromstring(to_svg(read_recording(lines(STREAM))))
    kinds = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert kinds.count("g") == 2
    assert kinds.count("line") == 1
    assert set(kinds) == {"svg", "rect", "text", "g", "title", "line"}
    assert "2.0 s" in [element.text for element in picture.iter()]


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    whole, cut = lines([TOP]), lines([TOP, TOP | {"time_ns": 11 * SECOND}])[:-40]
    assert to_html(read_recording(cut)) == to_html(read_recording(whole))


def test_many_causes_are_a_few_and_the_rest() -> None:
    recording = Recording("many")
    recording.track("vCPU 0").add(0, 1, {f"stolen: {at}": 0.01 for at in range(100)})
    html = to_html(recording)
    assert REST in html
    assert html.count("<rect") <= COLUMNS


def test_a_long_recording_is_a_page_of_bounded_size() -> None:
    recording = Recording("long")
    track = recording.track("vCPU 0")
    for at in range(20_000):
        track.add(at, at + 1, {"ran": 0.5 + at % 7 / 100, "stolen: a": 0.4})
    recording.marks += [Mark(at, "x" * 1000) for at in range(20_000)]
    assert len(to_html(recording)) < 1 << 20


PYTHONS = re.compile("object|NoneType|subscript|unpack|recursion|operand|attribute|indices|sys[.]|integer")
"""Words of Python's own messages."""

NO_RECORDINGS = (
    *('{"vms": ' + "9" * 5000 + "}", '[{"vms": 1}', '{"notes": [], "elapsed_ns": 1, "vms": [7]}'),
    json.dumps({"traceEvents": [{"ph": "X", "pid": 1, "tid": 1, "name": "ran", "ts": math.inf, "dur": 1}]}),
    *("", "[]", "{}", "null", "1", "[" * 9999, "x\ny", '{"vms": 1}', '{"notes": []}', '{"outcome": 1}'),
    *('{"traceEvents": 1}', '{"traceEvents": [{}]}', '{"machine": 1}'),
    '{"machine": {"name": "a", "engine": "b"}}\n7',
)


@pytest.mark.parametrize("text", NO_RECORDINGS)
def test_what_is_no_recording_gets_one_sentence(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_recording(text)
    assert not PYTHONS.search(str(refused.value))


@settings(max_examples=30)
@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=5), st.text())
def test_a_damaged_recording_is_refused_or_drawn(value: Any, key: str) -> None:
    documents: list[dict[str, Any]] = [
        TOP,
        STREAM[0],
        json.loads(to_perfetto(WHO)),
        json.loads(who_to_json(WHO)),
    ]
    for document in documents:
        for name in document:
            with contextlib.suppress(UsageError):
                to_html(read_recording(json.dumps(document | {name: value, key: value})))


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.json"
    file.write_text(to_perfetto(WHO))
    assert main(["report", str(file), "--html", str(tmp_path / "page.html")]) == 0
    assert tmp_path.joinpath("page.html").read_text().startswith("<!DOCTYPE html>")
    assert main(["report", str(tmp_path / "none"), "--html", str(tmp_path / "page.html")]) == 2
    assert "none" in capsys.readouterr().err
    tmp_path.joinpath("damaged").write_text('{"vms": 1}')
    assert main(["report", str(tmp_path / "damaged"), "--html", str(tmp_path / "page.html")]) == 2
    assert "damaged: the recording is damaged: it has no 'time_ns'" in capsys.readouterr().err


NO_TIMES = [float("nan"), float("inf"), -float("inf"), 1e308, 10**400, "1", [], None, True]


def _values(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a document that have no values in them."""
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    found = [deeper for key, value in items for deeper in _values(value, (*path, key))]
    return found or [path]


def _with(document: Any, path: tuple[Any, ...], value: object) -> Any:
    changed = json.loads(json.dumps(document))
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    "recording",
    [TOP, json.loads(who_to_json(WHO)), json.loads(to_perfetto(WHO)), STREAM],
    ids=["top", "who", "trace", "stream"],
)
def test_no_value_of_a_recording_is_more_than_a_refusal(recording: Any) -> None:
    """A time that is NaN, or a name that is a number, was a traceback."""
    refusals = []
    for path in _values(recording):
        for value in NO_TIMES:
            changed = _with(recording, path, value)
            lines = changed if isinstance(changed, list) else [changed]
            try:
                to_html(read_recording("\n".join(map(json.dumps, lines))))
            except UsageError as error:
                refusals.append(str(error))
    assert refusals
    assert not [text for text in refusals if PYTHONS.search(text)]
