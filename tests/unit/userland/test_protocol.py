# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's protocol: the guest is hostile, and serial lines lose bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.machine.layout import MAX_VCPUS
from pvtime.userland.protocol import (
    COMMANDS,
    MAX_LINE,
    AgentDecoder,
    CpuTimes,
    Ready,
    Reply,
    ShellExit,
    ShellOutput,
    StatReport,
    encode,
    encode_shell,
)

TICKS = st.lists(st.integers(0, 2**40), min_size=10, max_size=10)
CPUS = st.dictionaries(st.integers(0, 7), TICKS, min_size=1, max_size=8)


def frame(cpus: dict[int, list[int]], number: int = 1, final: bool = False) -> bytes:
    """Write a report as the agent does."""
    lines = [f"stat begin {number}" + " final" * final]
    lines += [f"stat cpu{cpu} {' '.join(map(str, ticks))} {sum(ticks)}" for cpu, ticks in cpus.items()]
    return ("\n" + "\n".join([*lines, f"stat end {number}"]) + "\n").encode()


def report(cpus: dict[int, list[int]], number: int = 1, final: bool = False) -> StatReport:
    """Say what :func:`frame` means: USER_HZ is 100, so a tick is 10 ms."""
    times = {cpu: CpuTimes(*(tick * 10_000_000 for tick in ticks)) for cpu, ticks in cpus.items()}
    return StatReport(number, times, final)


@given(CPUS, st.booleans(), st.lists(st.integers(0, 400)))
def test_a_report_arrives_however_it_is_cut(cpus: dict[int, list[int]], final: bool, cuts: list[int]) -> None:
    decoder, data = AgentDecoder(), frame(cpus, 7, final)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    messages = [m for start, end in itertools.pairwise(edges) for m in decoder.feed(data[start:end])]
    assert messages == [report(cpus, 7, final)]
    assert decoder.dropped == 0


def test_the_largest_machine_reports_every_cpu() -> None:
    # Each report of more than 64 CPUs was dropped: the guest had no figures, and never answered.
    cpus = {cpu: [1] * 10 for cpu in range(MAX_VCPUS)}
    assert AgentDecoder().feed(frame(cpus)) == [report(cpus)]


@given(CPUS, st.data())
def test_a_report_that_lost_a_byte_is_dropped_or_still_true(
    cpus: dict[int, list[int]], data: st.DataObject
) -> None:
    whole = frame(cpus)
    at = data.draw(st.integers(1, len(whole) - 1))
    decoder = AgentDecoder()
    torn = decoder.feed(whole[:at] + whole[at + 1 :])
    for message in torn:
        assert isinstance(message, StatReport)
        got = [times for _, times in sorted(message.cpus.items())]
        assert sorted(map(repr, got)) == sorted(repr(times) for times in report(cpus).cpus.values())
    assert report({0: [1] * 10}, 2) in decoder.feed(frame({0: [1] * 10}, 2)), (
        "the next report must come through"
    )


@given(st.lists(st.binary(max_size=400)))
def test_garbage_never_raises_and_is_not_kept(pieces: list[bytes]) -> None:
    decoder = AgentDecoder()
    for piece in pieces:
        decoder.feed(piece)
        assert len(decoder._line) <= MAX_LINE + 1
    assert decoder.feed(b"\nready 6.1.0\n") == [Ready("6.1.0")]


WORDS = st.sampled_from(
    [
        b"stat",
        b"begin",
        b"end",
        b"cpu0",
        b"cpu1",
        b"final",
        b"ready",
        b"ok",
        b" ",
        b"\n",
        b"1",
        b"-1",
        b"9" * 30,
        b"\xff",
    ]
)


@given(st.lists(WORDS, max_size=200))
def test_near_misses_never_raise(words: list[bytes]) -> None:
    for message in AgentDecoder().feed(b"".join(words)):
        assert isinstance(message, Ready | Reply | ShellExit | ShellOutput)


def test_a_guest_that_never_ends_a_report_fills_no_memory() -> None:
    decoder = AgentDecoder()
    decoder.feed(b"stat begin 1\n")
    for cpu in range(1000):
        decoder.feed(f"stat cpu{cpu} {'0 ' * 10}0\n".encode())
        assert len(decoder._cpus) <= MAX_VCPUS
    assert decoder.feed(b"stat end 1\n") == []
    assert decoder.dropped > 0


@pytest.mark.parametrize(
    "line",
    [
        b"ready",
        b"ready two words",
        b"ready " + b"x" * 65,
        b"ready \x1b[2J",
        b"stat end 1",
        b"stat cpu0 0 0 0 0 0 0 0 0 0 0 0",
        b"ok rm -rf",
        b"x" * 10_000,
        "ready 6.1.0 \u0661".encode(),
    ],
)
def test_a_line_out_of_place_is_counted(line: bytes) -> None:
    decoder = AgentDecoder()
    assert decoder.feed(line + b"\n") == []
    assert decoder.dropped == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"stat cpu0 1 0 0 0 0 0 0 0 0 0 2\n",
        b"stat cpu0 0 0 0 0 0 0 0 0 0 0 0\n" * 2,
        b"stat cpu512 0 0 0 0 0 0 0 0 0 0 0\n",
        b"stat cpu0 " + b"18446744073709551615 " * 10 + b"184467440737095516150\n",
        b"[   1.0] oops\nstat cpu0 0 0 0 0 0 0 0 0 0 0 0\n",
    ],
    ids=["empty", "sum", "twice", "index", "beyond u64", "interrupted"],
)
def test_a_report_that_does_not_hold_together_is_dropped(body: bytes) -> None:
    assert AgentDecoder().feed(b"stat begin 1\n" + body + b"stat end 1\n") == []


def test_ready_and_replies() -> None:
    messages = AgentDecoder().feed(b"ready 6.1.0-56-cloud-arm64\r\nok offline 1\nfailed size 1 2\n")
    assert messages == [Ready("6.1.0-56-cloud-arm64"), Reply("offline 1", True), Reply("size 1 2", False)]


def test_steal_of_a_cpu_that_is_offline_is_unknown() -> None:
    got = report({1: [0, 0, 0, 0, 0, 0, 0, 3, 0, 0]})
    assert got.steal_ns(1) == 30_000_000
    assert got.steal_ns(0) is None


def test_the_columns_that_exclude_each_other_add_up_to_the_total() -> None:
    # Time in a guest is in user and nice as well (account_guest_time), and does not count twice.
    times = CpuTimes(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert (times.busy_ns, times.unused_ns, times.total_ns) == (1 + 2 + 4 + 32 + 64, 8 + 16, 255)
    assert times - CpuTimes(*[1] * 10) == CpuTimes(0, 1, 3, 7, 15, 31, 63, 127, 255, 511)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_takes_its_numbers_and_no_others(verb: str) -> None:
    numbers = range(1, COMMANDS[verb] + 1)
    assert encode(verb, *numbers) == " ".join([verb, *map(str, numbers)]).encode() + b"\n"
    with pytest.raises(ValueError, match="not a command"):
        encode(verb, *numbers, 9)


def test_no_other_command_is_sent() -> None:
    for verb, numbers in (("rm", ()), ("busy", (-1,))):
        with pytest.raises(ValueError, match="not a command"):
            encode(verb, *numbers)


def test_a_shells_command_goes_there_and_its_output_comes_back() -> None:
    assert encode_shell(7, "echo 'ä' &&\nfalse") == b"exec 7 ZWNobyAnw6QnICYmCmZhbHNl\n"
    assert encode_shell(8, "") == b"exec 8 Og==\n", "an empty word would get lost"
    with pytest.raises(ValueError, match="4097 bytes"):
        encode_shell(9, "x" * 4097)
    messages = AgentDecoder().feed(b"out 7 w6QK\nexit 7 1\nout 8 w\nexit 7\nexit 7 1000\n")
    assert messages == [ShellOutput(7, "ä\n".encode()), ShellExit(7, 1)]


def test_a_shells_output_comes_between_two_lines_of_a_report_and_spoils_neither() -> None:
    sent = frame({0: list(range(10))})
    head, end = sent[: sent.index(b"stat end")], sent[sent.index(b"stat end") :]
    assert AgentDecoder().feed(head + b"out 1 eA==\n" + end) == [
        ShellOutput(1, b"x"),
        report({0: list(range(10))}),
    ]
