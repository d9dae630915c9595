# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of tracepoints, as kernels lay them out."""

from __future__ import annotations

import struct

import pytest

from pvtime.errors import UsageError
from pvtime.host.perf import record_format, samples
from pvtime.host.tracefs import Tracepoint, parse_format

SWITCH = """name: sched_switch
ID: 372
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:char prev_comm[16];	offset:8;	size:16;	signed:0;
	field:pid_t prev_pid;	offset:24;	size:4;	signed:1;
	field:int prev_prio;	offset:28;	size:4;	signed:1;
	field:long prev_state;	offset:32;	size:8;	signed:1;
	field:char next_comm[16];	offset:40;	size:16;	signed:0;
	field:pid_t next_pid;	offset:56;	size:4;	signed:1;
	field:int next_prio;	offset:60;	size:4;	signed:1;

print fmt: "prev_comm=%s"
"""
FIELDS = ("prev_comm", "prev_pid", "prev_state", "next_comm", "next_pid")


def sample(time: int, before: int, after: int) -> bytes:
    """Return a record as perf writes it."""
    data = struct.pack("=8x16siiq16sii", b"a", before, 120, 1, b"b", after, 120)
    body = struct.pack("=IIQI", before, before, time, len(data) + 4) + data + bytes(4)
    return struct.pack("=IHH", 9, 0, 8 + len(body)) + body


def test_a_format_gives_the_places_of_the_fields() -> None:
    found = parse_format("sched_switch", SWITCH)
    assert found.id == 372
    assert found.fields["prev_state"] == (32, 8)
    with pytest.raises(ValueError, match="sched_switch has no ID"):
        parse_format("sched_switch", "nothing")


def test_records_are_taken_apart_at_once() -> None:
    record = record_format(parse_format("sched_switch", SWITCH), FIELDS)
    found, lost = samples(record, sample(5, 1, 2) + sample(6, 2, 1))
    assert lost == 0
    assert found == [
        (5, b"a".ljust(16, b"\0"), 1, 1, b"b".ljust(16, b"\0"), 2),
        (6, b"a".ljust(16, b"\0"), 2, 1, b"b".ljust(16, b"\0"), 1),
    ]


def test_lost_records_are_counted_and_what_is_behind_them_is_read() -> None:
    record = record_format(parse_format("sched_switch", SWITCH), FIELDS)
    loss = struct.pack("=IHHQQ", 2, 0, 24, 7, 41)
    for losses in (1, 4):  # four are as long as a record
        found, lost = samples(record, sample(5, 1, 2) + losses * loss + sample(6, 2, 1))
        assert [each[0] for each in found] == [5, 6]
        assert lost == 41 * losses


@pytest.mark.parametrize("data", [b"", b"\x09", bytes(96), struct.pack("=IHH", 9, 0, 4) * 30])
def test_rubbish_in_a_ring_is_no_record(data: bytes) -> None:
    record = record_format(parse_format("sched_switch", SWITCH), FIELDS)
    assert samples(record, data) == ([], 0)


def test_a_tracepoint_of_another_layout_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="sched_switch has next_pid in another place"):
        record_format(Tracepoint("sched_switch", 1, {"prev_pid": (24, 4)}), ["prev_pid", "next_pid"])
