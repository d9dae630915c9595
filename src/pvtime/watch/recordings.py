# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of vCPUs' times, whichever command wrote them, as tracks of a timeline.

``pvtime run --report``, ``pvtime stat --follow``, ``pvtime top --json``, ``pvtime who --json`` and
``pvtime who --trace``: each is known by its fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pvtime.errors import UsageError, json_reason
from pvtime.report.document import MAX_NS, MAX_SECONDS, from_json
from pvtime.report.model import VcpuRow

__all__ = ["Mark", "Recording", "Slice", "ThreeFigures", "Track", "read_recording"]

MAX_BYTES: Final = 256 << 20
MAX_TRACKS: Final = 1024
STOLEN: Final = "stolen"


@dataclass(frozen=True)
class Slice:
    """A part of a vCPU's time: from ``begin`` to ``end``, in s, it did ``what`` for ``seconds`` of them."""

    begin: float
    end: float
    what: str
    """``ran``, ``stolen: CAUSE``, ``idle``, ``stopped``, ``blocked`` and so on."""
    seconds: float


@dataclass
class Track:
    """A vCPU's time."""

    name: str
    slices: list[Slice] = field(default_factory=list)

    def add(self, begin: float, end: float, parts: dict[str, float]) -> None:
        """Add an interval by its parts, in s."""
        self.slices += [Slice(begin, end, what, part) for what, part in parts.items() if part > 0]

    def totals(self) -> dict[str, float]:
        """Return the time by what it was spent on, in s."""
        found: dict[str, float] = {}
        for one in self.slices:
            found[one.what] = found.get(one.what, 0.0) + one.seconds
        return found


@dataclass(frozen=True)
class Mark:
    """Something that happened: a line of the console, an event."""

    at: float
    text: str


@dataclass(frozen=True)
class ThreeFigures:
    """A vCPU's three figures at the end, in ns; None: not known."""

    name: str
    truth_ns: int
    structure_ns: int | None
    guest_ns: int | None


@dataclass
class Recording:
    """A timeline, in s since its beginning."""

    title: str
    tracks: list[Track] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    figures: list[ThreeFigures] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def track(self, name: str) -> Track:
        """Return the track of a name, which is made if there is none."""
        for track in self.tracks:
            if track.name == name:
                return track
        if len(self.tracks) >= MAX_TRACKS:
            raise UsageError(f"the recording has more than {MAX_TRACKS} vCPUs")
        self.tracks.append(Track(name))
        return self.tracks[-1]

    @property
    def end(self) -> float:
        """Return the time at which it ends."""
        return max((one.end for track in self.tracks for one in track.slices), default=0.0)


def read_recording(text: str) -> Recording:
    """Return what a command has recorded.

    :raises UsageError: it is no recording of pvtime's, or damaged.
    """
    documents = _documents(text)
    first = documents[0] if documents else None
    kinds: tuple[tuple[str, Callable[[list[Any]], Recording]], ...] = (
        ("traceEvents", _from_trace),
        ("machine", _from_stream),
        ("outcome", lambda _documents: _from_report(text)),
        ("notes", _from_who),
        ("vms", _from_top),
    )
    for key, read in kinds:
        if isinstance(first, dict) and key in first:
            try:
                return _checked(read(documents))
            except KeyError as error:
                raise UsageError(f"the recording is damaged: it has no {error}") from error
            except _WrongValueError as error:
                raise UsageError(f"the recording is damaged: {error}") from error
            except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
                raise UsageError("the recording is damaged: a value in it is of another kind") from error
    raise UsageError(
        "this is no recording: give a file of pvtime run --report, stat --follow, top --json or who --trace"
    )


class _WrongValueError(Exception):
    """A value that no command records."""


def _checked(recording: Recording) -> Recording:
    """Return a recording that can be drawn: JSON may have NaN, numbers without limit, and other types.

    :raises _WrongValueError: a time is no time, or a text no text.
    """
    numbers: list[object] = [mark.at for mark in recording.marks]
    texts: list[object] = [*recording.sentences, *(mark.text for mark in recording.marks)]
    for track in recording.tracks:
        for one in track.slices:
            numbers += (one.begin, one.end, one.seconds)
            texts.append(one.what)
    for number in numbers:
        if not isinstance(number, int | float) or not -MAX_SECONDS <= number <= MAX_SECONDS:
            raise _WrongValueError(f"a time is {number!r:.20}")
    for figures in recording.figures:
        for ns in (figures.truth_ns, figures.structure_ns, figures.guest_ns):
            if ns is not None and (type(ns) is not int or abs(ns) > MAX_NS):
                raise _WrongValueError(f"a time is {ns!r:.20}")
    for text in texts:
        if not isinstance(text, str):
            raise _WrongValueError(f"a name is {text!r:.20}")
    return recording


def _documents(text: str) -> list[Any]:
    """Parse one JSON document, or a line of JSON each; a last line may be cut off."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        pass
    found = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if at + 1 < len(lines) or not found:
                reason = json_reason(error)
                raise UsageError(f"line {at + 1} of the recording is not JSON: {reason}") from error
    return found


def _from_report(text: str) -> Recording:
    report = from_json(text)
    recording = Recording(f"{report.kernel or 'a guest'} on {report.engine}, {report.elapsed_seconds:.1f} s")
    middle = report.begin.elapsed_seconds if report.begin else 0.0
    for at, row in enumerate(report.vcpus):
        track = recording.track(f"vCPU {row.index}")
        begin = report.begin.vcpus[at] if report.begin else None
        if begin is not None:
            track.add(0, middle, _row_parts(None, begin))
        track.add(middle, report.sampled_seconds, _row_parts(begin, row))
    if report.begin:
        recording.marks.append(Mark(middle, "userland reports" if report.begin.from_guest else "runs here"))
    recording.figures = [
        ThreeFigures(f"vCPU {row.index}", row.truth_ns, row.structure_ns, row.guest_steal_ns)
        for row in report.vcpus
    ]
    recording.sentences.append(f"outcome: {report.outcome.value}; placement: {report.placement}")
    return recording


def _row_parts(before: VcpuRow | None, row: VcpuRow) -> dict[str, float]:
    times = row.times - before.times if before else row.times
    injected = row.injected_ns - before.injected_ns if before else row.injected_ns
    injected = min(max(0, injected), times.stolen_ns)
    parts = {
        "ran": times.ran_ns,
        "stolen: by the host and other vCPUs": times.stolen_ns - injected,
        "stolen: on purpose": injected,
        "idle": times.idle_ns,
        "stopped": times.stopped_ns,
        "held up by the host": times.host_ns,
    }
    return {what: ns / 1e9 for what, ns in parts.items()}


def _from_stream(documents: list[Any]) -> Recording:
    machine = documents[0]["machine"]
    recording = Recording(f"machine {machine['name']} on {machine['engine']}")
    before: dict[int, dict[str, Any]] = {}
    then = None
    for document in documents[1:]:
        if event := document.get("event"):
            recording.marks.append(Mark(float(event["elapsed_seconds"]), f"{event['kind']}: {event['text']}"))
        if "sample" not in document:
            continue
        now = float(document["sample"]["elapsed_seconds"])
        for row in document["sample"]["vcpus"]:
            if then is not None and (old := before.get(row["index"])):
                grown = {key: row[key] - old[key] for key in _STREAM}
                injected = min(max(0, row["injected_ns"] - old["injected_ns"]), grown["stolen_ns"])
                parts = {_STREAM[key]: ns / 1e9 for key, ns in grown.items() if key != "stolen_ns"}
                parts["stolen: by the host and other vCPUs"] = (grown["stolen_ns"] - injected) / 1e9
                parts["stolen: on purpose"] = injected / 1e9
                recording.track(f"vCPU {row['index']}").add(then, now, parts)
            before[row["index"]] = row
        then = now
    recording.figures = [
        ThreeFigures(
            f"vCPU {row['index']}",
            row["truth_ns"],
            row["structure_ns"],
            None if row["guest_error_ns"] is None else row["truth_ns"] + row["guest_error_ns"],
        )
        for row in before.values()
    ]
    return recording


_STREAM: Final = {
    "ran_ns": "ran",
    "stolen_ns": STOLEN,
    "idle_ns": "idle",
    "stopped_ns": "stopped",
    "host_ns": "held up by the host",
}


def _from_top(documents: list[Any]) -> Recording:
    begin = documents[0]["time_ns"] - documents[0]["elapsed_ns"]
    recording = Recording("the VMs of a host")
    for document in documents:
        now = (document["time_ns"] - begin) / 1e9
        for vm in document["vms"]:
            for vcpu in vm["vcpus"]:
                track = recording.track(f"{vm['vmm']}:{vm['name']} ({vm['pid']}) vCPU {vcpu['vcpu']}")
                parts = {
                    "ran": vcpu["ran_ns"] / 1e9,
                    f"stolen: {vcpu['cause'] or 'little'}": vcpu["stolen_ns"] / 1e9,
                    "off the CPU": vcpu["off_ns"] / 1e9,
                    "stopped": vcpu["stopped_ns"] / 1e9,
                }
                track.add(now - vcpu["elapsed_ns"] / 1e9, now, parts)
    return recording


def _from_who(documents: list[Any]) -> Recording:
    (document,) = documents
    elapsed = document["elapsed_ns"] / 1e9
    recording = Recording(f"who had the CPU, {elapsed:.1f} s")
    for vm in document["vms"]:
        label = f"{vm['vmm']}:{vm['name']} ({vm['pid']})"
        for vcpu in vm["vcpus"]:
            parts = {name: vcpu[f"{name}_ns"] / 1e9 for name in ("ran", "blocked", "stopped")}
            for cause in vcpu["causes"]:
                what = f"stolen: {cause['name'] or cause['kind']}"
                parts[what] = parts.get(what, 0.0) + cause["ns"] / 1e9
            recording.track(f"{label} vCPU {vcpu['vcpu']}").add(0, elapsed, parts)
        recording.sentences += [f"{label}: {verdict}" for verdict in vm["verdicts"]]
    return recording


def _from_trace(documents: list[Any]) -> Recording:
    (document,) = documents
    events = document["traceEvents"]
    names = {(event["name"], event["pid"], event["tid"]): event["args"]["name"] for event in _of(events, "M")}
    recording = Recording("a trace of who had the CPU")
    for event in _of(events, "X"):
        pid, tid = event["pid"], event["tid"]
        vm, vcpu = names.get(("process_name", pid, 0), pid), names.get(("thread_name", pid, tid), tid)
        begin, length = event["ts"] / 1e6, event["dur"] / 1e6
        recording.track(f"{vm} {vcpu}").add(begin, begin + length, {event["name"]: length})
    return recording


def _of(events: Iterable[dict[str, Any]], phase: str) -> Iterable[dict[str, Any]]:
    return (event for event in events if event["ph"] == phase)
