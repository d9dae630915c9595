# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of QEMU's gdbstub: packets, whatever comes, and what it says to a stub."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.lab.gdbstub import GdbStub, PacketReader, StubRegisters, checksum, packet
from pvtime.lab.qemu import LabError

BODIES = st.lists(st.binary(max_size=40).map(lambda body: body.translate(None, b"#$*}+")), max_size=5)


@given(BODIES, st.data())
def test_packets_are_found_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(b"+" + packet(body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    reader, found = PacketReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == bodies


@given(st.binary(max_size=60))
def test_whatever_comes_is_a_packet_or_a_refusal(data: bytes) -> None:
    reader = PacketReader()
    with contextlib.suppress(LabError):
        assert all(packet(body) in data for body in reader.feed(data) if not set(b"*}") & set(body))


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b"0* ", b"0000"),  # three more: 29 + 3
        (b"a}\x03b", b"a#b"),
        (b"*a", b"*a"),  # nothing to repeat
        (b"a}", b"a}"),
    ],
)
def test_run_lengths_and_escapes_are_expanded(sent: bytes, body: bytes) -> None:
    assert PacketReader().feed(b"$" + sent + b"#" + checksum(sent)) == [body]


def test_a_wrong_sum_is_refused() -> None:
    with pytest.raises(LabError, match="wrong sum"):
        PacketReader().feed(b"$OK#00")


def test_registers_are_read_in_the_packets_order() -> None:
    data = struct.pack("<33QI", *range(33), 0x3C9)
    registers = StubRegisters.parse(data.hex().encode() + b"00" * 100)
    assert (registers.x, registers.sp, registers.pc) == (tuple(range(31)), 31, 32)
    assert registers.cpsr.level == 2


@given(st.binary(max_size=600))
def test_what_are_no_registers_is_refused(body: bytes) -> None:
    try:
        assert len(bytes.fromhex(body.decode("ascii"))) >= 268
    except (ValueError, AssertionError):
        with pytest.raises(LabError, match="no registers"):
            StubRegisters.parse(body)


class FakeStub:
    """A stub whose CPU is at ``pc``, steps by four, and stops at once wherever it is let run.

    Before each step it stops so many times without having executed anything.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pc = 0x1000
        self.idle_stops = self._left = 0
        self.commands: list[bytes] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        pending = b""
        while data := self._connection.recv(4096):
            pending += data
            while b"\x03" in pending or b"#" in pending:
                if pending.lstrip(b"+")[:1] == b"\x03":
                    pending = pending.lstrip(b"+")[1:]
                    self._reply(b"T02thread:01;")
                    continue
                if len(pending) < pending.index(b"#") + 3:
                    break
                body, pending = pending.lstrip(b"+$").split(b"#", 1)[0], pending[pending.index(b"#") + 3 :]
                self.commands.append(body)
                self._reply(self._answer(body))

    def _answer(self, body: bytes) -> bytes:
        if body.startswith(b"vCont"):
            if body.startswith(b"vCont;s") and self._left:
                self._left -= 1
            else:
                self.pc, self._left = self.pc + 4, self.idle_stops
            return b"T05thread:02;"
        if body == b"g":
            return struct.pack("<33QI", *[0] * 32, self.pc, 9).hex().encode()
        if body[:1] == b"m":
            return b"1f2003d5" if body == b"m1000,4" else b"E14"
        return b"OK" if body[:1] in b"ZzQ" else b""

    def _reply(self, body: bytes) -> None:
        self._connection.sendall(b"+" + packet(body))


@pytest.fixture
def pair() -> Iterator[tuple[GdbStub, FakeStub]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fake = FakeStub(theirs)
        yield GdbStub(ours, timeout_s=60), fake
        ours.shutdown(socket.SHUT_RDWR)
        fake.thread.join()


def test_the_cpu_that_stopped_is_the_one_that_is_stepped(pair: tuple[GdbStub, FakeStub]) -> None:
    stub, fake = pair
    stub.interrupt()
    stub.step(stub.step(stub.registers()))
    assert [each for each in fake.commands if each.startswith(b"vCont")] == [b"vCont;s:01", b"vCont;s:02"]


def test_a_stop_without_progress_is_no_step(pair: tuple[GdbStub, FakeStub]) -> None:
    # Once in some thousand: an update had 257 instructions, one address twice; a mark was come to twice, and
    # what followed was taken for what came between two others.
    stub, fake = pair
    fake.idle_stops = fake._left = 3
    assert stub.step(stub.registers()).pc == 0x1004
    stub.set_breakpoint(0x1004)
    stub.resume()
    stub.wait_stop()
    assert stub.registers().pc == 0x100C


def test_a_cpu_that_does_not_get_on_is_told(pair: tuple[GdbStub, FakeStub]) -> None:
    stub, fake = pair
    fake._left = 10**6
    with pytest.raises(LabError, match="does not get on from 0x1000"):
        stub.step(stub.registers())


def test_a_cpu_at_a_breakpoint_is_stepped_past_it_before_it_runs(pair: tuple[GdbStub, FakeStub]) -> None:
    stub, fake = pair
    stub.set_breakpoint(0x1000)
    stub.resume()
    stub.wait_stop()
    assert fake.commands == [b"Z0,1000,4", b"g", b"vCont;s:1", b"g", b"vCont;c"]


def test_memory_that_is_not_there_is_refused(pair: tuple[GdbStub, FakeStub]) -> None:
    stub, _ = pair
    assert stub.read(0x1000, 4) == bytes.fromhex("1f2003d5")
    with pytest.raises(LabError, match="no 4 bytes at 0x2000"):
        stub.read(0x2000, 4)


def test_a_stub_that_has_ended_is_told(pair: tuple[GdbStub, FakeStub]) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(LabError, match="ended"):
        GdbStub(ours).wait_stop()


def test_a_stop_that_does_not_come_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(LabError, match="did not stop within 0 s"):
        GdbStub(ours).wait_stop(0)
