# SPDX-License-Identifier: GPL-2.0-or-later
r"""The protocol between the stock userland's agent and the host, on the second serial port.

Both sides write lines of ASCII that end with a newline. Guest to host::

    ready RELEASE                 once a kernel: userland is up; `uname -r`
    stat begin N [final]          report N, the kernel's last if final
    stat cpuC F1 .. F10 SUM       the cpuC line of /proc/stat, in USER_HZ, and the sum of its ten numbers
    stat end N
    ok COMMAND | failed COMMAND   the answer to a command, which it repeats; to stop, as it begins
    out N TEXT                    a piece of the output of command N of a shell, in base64
    exit N CODE                   its exit code, after its output

A report comes after ``ready``, then every second, and on request; N is any number. Host to guest::

    stat             report now
    busy N           a busy loop pinned to each of CPUs 0..N-1, instead of those that run
    idle             stop the busy loops
    offline C        CPU hotplug: take the CPU down,
    online C         and bring it up
    size ROWS COLS   the console's size
    stop             stop the busy loops, let what is pending be accounted, send a final report, power off
    poweroff         power off
    seed A B C D     fresh numbers for the kernel's random pool, of a guest that is resumed again and again
    kexec            as stop, but instead of powering off start the kernel in /kexec, if any
    exec N TEXT      run a command of a shell, in base64, in the background; answered by its output alone
    share N          write /share to its disk, in the background; answered by exit alone

The guest is hostile: :class:`AgentDecoder` accepts any bytes, keeps a bounded number of them, and drops lines
that are not in the table above. A report counts only as a whole; without one of its lines or digits it is
dropped.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import astuple, field, replace
from typing import Final

from pvtime.records import dataclass

__all__ = [
    "COMMANDS",
    "MAX_SHELL_COMMAND",
    "AgentDecoder",
    "CpuTimes",
    "Message",
    "Ready",
    "Reply",
    "ShellExit",
    "ShellOutput",
    "StatReport",
    "encode",
    "encode_share",
    "encode_shell",
]

NS_PER_TICK: Final = 10_000_000
"""USER_HZ is 100 on arm64, whatever the kernel's own HZ is."""

MAX_LINE: Final = 300
"""Bytes: 'stat cpuC' and eleven 64-bit numbers fit."""

MAX_SHELL_COMMAND: Final = 4096
"""Bytes of a command for a shell."""

MAX_CPUS: Final = 512
"""As many as a machine can have (layout.MAX_VCPUS, which is above this package)."""
MAX_NUMBER: Final = 2**64 - 1

COMMANDS: Final[Mapping[str, int]] = {
    "busy": 1,
    "idle": 0,
    "kexec": 0,
    "offline": 1,
    "online": 1,
    "poweroff": 0,
    "seed": 4,
    "size": 2,
    "stat": 0,
    "stop": 0,
}
"""Each command of the host, and how many numbers it takes."""

# Not compiled here: that would take 4 ms of each start.
_READY: Final = r"ready ([!-~]{1,64})"
_BEGIN: Final = r"stat begin ([0-9]{1,20})(?: (final))?"
_CPU: Final = r"stat cpu([0-9]{1,3})((?: [0-9]{1,20}){11})"
_END: Final = r"stat end ([0-9]{1,20})"
_REPLY: Final = r"(ok|failed) ([a-z]{1,16}(?: [0-9]{1,20}){0,4})"
_OUTPUT: Final = r"out ([0-9]{1,9}) ([A-Za-z0-9+/]{1,256}={0,2})"
_EXIT: Final = r"exit ([0-9]{1,9}) ([0-9]{1,3})"


@dataclass(frozen=True)
class CpuTimes:
    """A CPU's line of /proc/stat: time since it booted, in nanoseconds, in steps of 10 ms."""

    user_ns: int
    nice_ns: int
    system_ns: int
    idle_ns: int
    iowait_ns: int
    irq_ns: int
    softirq_ns: int
    steal_ns: int
    guest_ns: int
    """Part of user_ns."""
    guest_nice_ns: int
    """Part of nice_ns."""

    @property
    def busy_ns(self) -> int:
        """Time in which the CPU executed, as the guest counts it."""
        return self.user_ns + self.nice_ns + self.system_ns + self.irq_ns + self.softirq_ns

    @property
    def unused_ns(self) -> int:
        """Time in which it had nothing to execute."""
        return self.idle_ns + self.iowait_ns

    @property
    def total_ns(self) -> int:
        """The sum of the columns that exclude each other: the CPU's whole time, if the guest counts well."""
        return self.busy_ns + self.unused_ns + self.steal_ns

    def __sub__(self, before: CpuTimes) -> CpuTimes:
        """Return the growth of each column since ``before``."""
        return CpuTimes(*(own - other for own, other in zip(astuple(self), astuple(before), strict=True)))


@dataclass(frozen=True)
class Ready:
    """Userland is up, on kernel ``release``."""

    release: str


@dataclass(frozen=True)
class StatReport:
    """One whole report: the online CPUs by index. ``final`` if this kernel ends now."""

    number: int
    cpus: Mapping[int, CpuTimes]
    final: bool = False

    def steal_ns(self, cpu: int) -> int | None:
        """Return the guest's count of time stolen from ``cpu``, in ns; None if the report has no such CPU."""
        times = self.cpus.get(cpu)
        return None if times is None else times.steal_ns


@dataclass(frozen=True)
class Reply:
    """The guest's answer to ``command``: done, or failed."""

    command: str
    ok: bool


@dataclass(frozen=True)
class ShellOutput:
    """A piece of the output of a shell's command, by the command's number."""

    number: int
    data: bytes


@dataclass(frozen=True)
class ShellExit:
    """The end of a shell's command, by its number."""

    number: int
    code: int


Message = Ready | StatReport | Reply | ShellOutput | ShellExit


def encode(verb: str, *numbers: int) -> bytes:
    """Return the line of a command to the guest.

    :raises ValueError: there is no such command, or it takes other numbers.
    """
    if COMMANDS.get(verb) != len(numbers) or any(number < 0 for number in numbers):
        raise ValueError(f"not a command of the agent: {verb} {numbers}")
    return " ".join([verb, *map(str, numbers)]).encode() + b"\n"


def encode_shell(number: int, command: str) -> bytes:
    """Return the line that has a shell in the guest run a command.

    :param number: below 10^9; the answers have it.
    :raises ValueError: the command is longer than :data:`MAX_SHELL_COMMAND`.
    """
    data = command.encode()
    if len(data) > MAX_SHELL_COMMAND:
        raise ValueError(f"a command of {len(data)} bytes: at most {MAX_SHELL_COMMAND} are possible")
    return b"exec %d %s" % (number, binascii.b2a_base64(data or b":"))


def encode_share(number: int) -> bytes:
    """Return the line that has the guest write /share to its disk.

    :param number: see :func:`encode_shell`.
    """
    return b"share %d\n" % number


@dataclass
class AgentDecoder:
    """Turns bytes from the guest into messages, however they are divided."""

    dropped: int = 0
    """Number of lines that were no message, or part of an incomplete report."""

    _line: bytearray = field(default_factory=bytearray)
    _report: StatReport | None = None
    _cpus: dict[int, CpuTimes] = field(default_factory=dict)

    def feed(self, data: bytes) -> list[Message]:
        """Take received bytes and return the messages that they complete. Never raises."""
        *ended, rest = data.split(b"\n")
        messages = []
        for piece in ended:
            self._keep(piece)
            message = self._parse(self._line) if self._line else None
            self._line.clear()
            if message is not None:
                messages.append(message)
        self._keep(rest)
        return messages

    def _keep(self, piece: bytes) -> None:
        """Add to the line; a byte beyond the maximum marks it as too long."""
        self._line += piece[: MAX_LINE + 1 - len(self._line)]

    def _parse(self, line: bytearray) -> Message | None:
        text = line.decode("ascii", "replace").removesuffix("\r") if len(line) <= MAX_LINE else ""
        if match := re.fullmatch(_CPU, text):
            self._cpu(int(match[1]), [int(number) for number in match[2].split()])
            return None
        if match := re.fullmatch(_END, text):
            return self._end(int(match[1]))
        # From another process than the reports: between their lines.
        if match := re.fullmatch(_OUTPUT, text):
            return self._output(int(match[1]), match[2])
        if match := re.fullmatch(_EXIT, text):
            return ShellExit(int(match[1]), int(match[2]))
        self._abandon()
        if match := re.fullmatch(_BEGIN, text):
            self._report = StatReport(int(match[1]), {}, final=match[2] is not None)
        elif match := re.fullmatch(_READY, text):
            return Ready(match[1])
        elif match := re.fullmatch(_REPLY, text):
            return Reply(match[2], match[1] == "ok")
        else:
            self.dropped += 1
        return None

    def _output(self, number: int, text: str) -> ShellOutput | None:
        try:
            return ShellOutput(number, binascii.a2b_base64(text, strict_mode=True))
        except binascii.Error:
            self.dropped += 1
            return None

    def _cpu(self, cpu: int, numbers: list[int]) -> None:
        *times, total = numbers
        sane = cpu < MAX_CPUS and cpu not in self._cpus and sum(times) == total <= MAX_NUMBER
        if self._report is None or not sane:
            self.dropped += 1
            self._abandon()
        else:
            self._cpus[cpu] = CpuTimes(*(ticks * NS_PER_TICK for ticks in times))

    def _end(self, number: int) -> StatReport | None:
        report, cpus = self._report, self._cpus
        if report is None or report.number != number or not cpus:
            self.dropped += 1
            self._abandon()
            return None
        self._report, self._cpus = None, {}
        return replace(report, cpus=cpus)

    def _abandon(self) -> None:
        """Drop the incomplete report."""
        if self._report is not None:
            self.dropped += 1 + len(self._cpus)
            self._report, self._cpus = None, {}
