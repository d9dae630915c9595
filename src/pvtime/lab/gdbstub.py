# SPDX-License-Identifier: GPL-2.0-or-later
"""Client of QEMU's gdbstub: breakpoints, single steps and memory of the emulated host.

QEMU steps one CPU by one instruction while the others stand still, and takes no interrupt meanwhile
(``qqemu.sstep``, docs/system/gdb.rst), so that what is stepped through is the path of the code alone.

Source: QEMU 7.2, gdbstub/gdbstub.c; GDB's manual, appendix E.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from pvtime.abi.arm64 import Pstate
from pvtime.lab.qemu import LabError

__all__ = ["GdbStub", "PacketReader", "StubRegisters", "checksum", "packet"]

ANSWER_TIMEOUT_S: Final = 60.0
"""Longest wait for an answer; it takes less than a millisecond on a quiet machine."""

MAX_STOPS: Final = 100
"""Stops without progress after which a CPU is given up."""

GENERAL: Final = 31
"""X0 to X30 are the first registers of the packet; SP, PC and the 32-bit CPSR follow."""

_REGISTERS: Final = struct.Struct(f"<{GENERAL}Q2QI")
_INTERRUPT: Final = b"\x03"
_ESCAPE: Final = 0x7D

_STEP: Final = 0x3
"""A step is one instruction (1) without interrupts (2). By default no timer expires either (4): with
``-icount`` QEMU then waits for ever as soon as one is due, as the CPU's time is not to pass it."""


def checksum(body: bytes) -> bytes:
    """Return the two digits behind a packet."""
    return b"%02x" % (sum(body) & 0xFF)


def packet(body: bytes) -> bytes:
    """Return the packet of a command; none of ours has a byte that must be escaped."""
    return b"$" + body + b"#" + checksum(body)


class PacketReader:
    """Finds packets in what comes from the gdbstub."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies of the packets that ``data`` completes; acknowledgements are dropped.

        :raises LabError: it is not a packet, or its sum is wrong.
        """
        self._pending += data
        found: list[bytes] = []
        while True:
            self._pending = self._pending.lstrip(b"+")
            if not self._pending:
                return found
            if self._pending[:1] != b"$":
                raise LabError(f"QEMU's gdbstub sent no packet: {self._pending[:32]!r}")
            end = self._pending.find(b"#")
            if end < 0 or len(self._pending) < end + 3:
                return found
            body, digits = self._pending[1:end], self._pending[end + 1 : end + 3]
            if digits != checksum(body):
                raise LabError(f"QEMU's gdbstub sent a packet with a wrong sum: {body[:32]!r}")
            self._pending = self._pending[end + 3 :]
            found.append(_expanded(body))


def _expanded(body: bytes) -> bytes:
    """Return a body without run lengths (``*`` and the number of repetitions + 29) and escapes."""
    out = bytearray()
    at = 0
    while at < len(body):
        byte = body[at]
        if byte == ord("*") and out and at + 1 < len(body):
            out += out[-1:] * (body[at + 1] - 29)
            at += 2
        elif byte == _ESCAPE and at + 1 < len(body):
            out.append(body[at + 1] ^ 0x20)
            at += 2
        else:
            out.append(byte)
            at += 1
    return bytes(out)


@dataclass(frozen=True)
class StubRegisters:
    """Registers of a stopped CPU."""

    x: tuple[int, ...]
    """X0 to X30."""
    sp: int
    pc: int
    cpsr: Pstate

    @classmethod
    def parse(cls, body: bytes) -> StubRegisters:
        """Read the answer to the command ``g``.

        :raises LabError: it is none.
        """
        try:
            data = bytes.fromhex(body.decode("ascii"))
            *general, sp, pc, cpsr = _REGISTERS.unpack_from(data)
        except (ValueError, struct.error):
            raise LabError(f"QEMU's gdbstub sent no registers: {body[:32]!r}") from None
        return cls(tuple(general), sp, pc, Pstate(cpsr))


class GdbStub:
    """The gdbstub at the other end of ``connection``; the emulated host stands still at first."""

    def __init__(self, connection: socket.socket, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._reader = PacketReader()
        self._bodies: list[bytes] = []
        self._breakpoints: set[int] = set()
        self._thread = b"1"
        """The CPU that stopped last."""

    def interrupt(self) -> None:
        """Stop the emulated host.

        :raises LabError: it does not stop.
        """
        self._connection.sendall(_INTERRUPT)
        self.wait_stop(self._timeout_s)
        self._command(b"Qqemu.sstep=%x" % _STEP)

    def resume(self) -> None:
        """Let all CPUs run; :meth:`wait_stop` or :meth:`interrupt` follows.

        A CPU that stands at a breakpoint would stop there again at once: it is stepped past it.

        :raises LabError: the gdbstub does not answer.
        """
        if self._breakpoints and (registers := self.registers()).pc in self._breakpoints:
            self.step(registers)
        self._connection.sendall(packet(b"vCont;c"))

    def wait_stop(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until a CPU has come to a breakpoint.

        :raises LabError: it takes too long.
        """
        if not self.stopped(timeout_s):
            raise LabError(f"the emulated host did not stop within {timeout_s:g} s")

    def stopped(self, timeout_s: float) -> bool:
        """Whether a CPU has come to a breakpoint, now or within a time.

        :raises LabError: the gdbstub has ended.
        """
        body = self._receive(timeout_s)
        if body is None:
            return False
        if body[:1] != b"T":
            raise LabError(f"QEMU's gdbstub answers {body[:32]!r} instead of a stop")
        for field in body[3:].split(b";"):
            name, _, value = field.partition(b":")
            if name == b"thread":
                self._thread = value
        return True

    def step(self, before: StubRegisters) -> StubRegisters:
        """Execute one instruction of the CPU that stopped last; return its registers.

        Now and then (once in some thousand) QEMU 7.2 stops without having executed the instruction, and all
        registers are as they were: then it is asked again.

        :param before: the CPU's registers.
        :raises LabError: the gdbstub does not answer, or the CPU does not get on.
        """
        for _ in range(MAX_STOPS):
            self._connection.sendall(packet(b"vCont;s:" + self._thread))
            self.wait_stop(self._timeout_s)
            if (after := self.registers()) != before:
                return after
        raise LabError(f"the emulated CPU does not get on from {before.pc:#x}")

    def registers(self) -> StubRegisters:
        """Return the registers of the CPU that stopped last.

        :raises LabError: the gdbstub does not answer.
        """
        return StubRegisters.parse(self._ask(b"g"))

    def set_breakpoint(self, address: int) -> None:
        """Have a CPU that comes to ``address`` stop before the instruction.

        :raises LabError: the gdbstub refuses.
        """
        self._command(b"Z0,%x,4" % address)
        self._breakpoints.add(address)

    def delete_breakpoint(self, address: int) -> None:
        """Take a breakpoint away.

        :raises LabError: the gdbstub refuses.
        """
        self._command(b"z0,%x,4" % address)
        self._breakpoints.discard(address)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes at a virtual address of the CPU that stopped last.

        :raises LabError: there is no memory at the address.
        """
        body = self._ask(b"m%x,%x" % (address, size))
        try:
            data = bytes.fromhex(body.decode("ascii"))
        except ValueError:
            data = b""
        if len(data) != size:
            raise LabError(f"the emulated host has no {size} bytes at {address:#x}")
        return data

    def _command(self, body: bytes) -> None:
        if (answer := self._ask(body)) != b"OK":
            raise LabError(f"QEMU's gdbstub answers {answer[:32]!r} to {body!r}")

    def _ask(self, body: bytes) -> bytes:
        self._connection.sendall(packet(body))
        answer = self._receive(self._timeout_s)
        if answer is None:
            raise LabError(f"QEMU's gdbstub does not answer within {self._timeout_s:g} s")
        return answer

    def _receive(self, timeout_s: float) -> bytes | None:
        """Return the next packet's body; None: none came in time."""
        end = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            while not self._bodies:
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                data = self._connection.recv(65536)
                if not data:
                    raise LabError("QEMU has ended")
                self._bodies += self._reader.feed(data)
                if self._bodies:
                    self._connection.sendall(b"+")
        return self._bodies.pop(0)
