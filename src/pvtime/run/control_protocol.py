# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol of the control socket: requests, results, and their lines; docs/control.md has it for people.

A connection carries one request and its answers, each a line of JSON. A request has the protocol's version, a
command, and that command's fields. An answer has one member: ``progress``, any number of times, then
``result`` or ``error``. After the result of ``console`` the connection carries the console's bytes.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Self, TypeAlias

from pvtime.errors import UsageError
from pvtime.schema import length, within
from pvtime.snapshot.codec import JsonObject

if TYPE_CHECKING:
    from pvtime.snapshot.endpoint import Endpoint

__all__ = [
    "MAX_LINE",
    "PROTOCOL",
    "ConsoleRequest",
    "FollowRequest",
    "InfoRequest",
    "MachineInfo",
    "MigrateRequest",
    "PauseRequest",
    "Request",
    "ResetRequest",
    "ResumeRequest",
    "RoundProgress",
    "RunEnd",
    "SaveRequest",
    "StatRequest",
    "StateResult",
    "StealRequest",
    "StealResult",
    "StopRequest",
    "check_path",
    "request_document",
    "send_line",
]

PROTOCOL: Final = 1
"""Version of the protocol; raised when a request or an answer changes its meaning."""

MAX_LINE: Final = 1 << 16
"""Bytes of a request or an answer."""

MAX_ITEMS: Final = 1000
"""Items of a steal schedule."""


@dataclass(frozen=True)
class InfoRequest:
    """Describe the machine; the result is a :class:`MachineInfo`."""

    command: ClassVar = "info"


@dataclass(frozen=True)
class MachineInfo:
    """A machine that runs."""

    name: str
    pid: int
    engine: str
    placement: str
    kernel: str | None
    """Release, as far as the guest has printed it."""
    vcpus: int
    memory: int
    """Bytes of RAM."""
    state: str
    """``booting`` until the stock userland has reported, then ``running``; ``paused``."""
    elapsed_ns: int
    """Since the start here."""
    vcpu_elapsed_ns: int
    """All vCPUs' time since the machine's start."""
    stolen_ns: int
    """The part of it that was stolen."""
    steal: list[str]
    """Items of the present schedule of injected steal."""


@dataclass(frozen=True)
class StatRequest:
    """Return one sample: the result is the sample's document (docs/report.md)."""

    command: ClassVar = "stat"

    guest: bool
    """Ask the guest for its /proc/stat as well, and wait some time for that."""


@dataclass(frozen=True)
class FollowRequest:
    """Send samples and events as progress until the client hangs up; the result is a :class:`RunEnd`."""

    command: ClassVar = "follow"

    interval_ns: Annotated[int, within(10_000_000, 3600 * 10**9)]
    """Time between two samples."""


@dataclass(frozen=True)
class StealRequest:
    """Inject steal by another schedule from now on; the result is a :class:`StealResult`."""

    command: ClassVar = "steal"

    items: Annotated[list[str], length(0, MAX_ITEMS)]
    """None: inject nothing."""


@dataclass(frozen=True)
class StealResult:
    """The schedule that is in force."""

    steal: list[str]


@dataclass(frozen=True)
class PauseRequest:
    """Pause the machine; the result is a :class:`StateResult`."""

    command: ClassVar = "pause"


@dataclass(frozen=True)
class ResumeRequest:
    """Resume the machine; the result is a :class:`StateResult`."""

    command: ClassVar = "resume"


@dataclass(frozen=True)
class ResetRequest:
    """Reset the machine; the result is a :class:`StateResult`."""

    command: ClassVar = "reset"


@dataclass(frozen=True)
class StateResult:
    """The machine's state after a request: see :attr:`MachineInfo.state`."""

    state: str


@dataclass(frozen=True)
class StopRequest:
    """End the run; the result, once nothing executes any more, is a :class:`RunEnd`."""

    command: ClassVar = "stop"

    now: bool
    """Do not ask the guest to power off first."""


@dataclass(frozen=True)
class RunEnd:
    """The end of the machine's execution, as the engine knows it."""

    outcome: str


@dataclass(frozen=True)
class ConsoleRequest:
    """Attach to the guest's console; after the result, ``{}``, the connection carries its bytes."""

    command: ClassVar = "console"

    rows: Annotated[int, within(0, 9999)]
    """Size of the client's terminal; 0: unknown."""
    columns: Annotated[int, within(0, 9999)]


@dataclass(frozen=True)
class SaveRequest:
    """Save the machine to a new directory; the result is a :class:`SaveResult`."""

    command: ClassVar = "save"

    directory: str
    """An absolute path."""
    keep_running: bool


@dataclass(frozen=True)
class MigrateRequest:
    """Migrate the machine to a process that listens; the result is a :class:`MigrationResult`."""

    command: ClassVar = "migrate"

    address: str
    key: str | None
    """An absolute path of a file; None: without TLS."""
    insecure: bool
    """Without TLS in a network."""

    @classmethod
    def to(cls, peer: Endpoint) -> Self:
        """Return the request for a migration to a peer, which has absolute paths."""
        return cls(str(peer.address), None if peer.key is None else str(peer.key), peer.insecure)

    @property
    def peer(self) -> Endpoint:
        """The peer.

        :raises UsageError: it is none.
        """
        from pvtime.snapshot.endpoint import Endpoint

        if self.key is not None:
            check_path(self.key)
        return Endpoint.parse(self.address, None if self.key is None else Path(self.key), self.insecure)


@dataclass(frozen=True)
class RoundProgress:
    """A round of memory that a migration has sent while the machine ran."""

    round: int
    bytes: int


Request: TypeAlias = (
    ConsoleRequest
    | FollowRequest
    | InfoRequest
    | MigrateRequest
    | PauseRequest
    | ResetRequest
    | ResumeRequest
    | SaveRequest
    | StatRequest
    | StealRequest
    | StopRequest
)


def request_document(request: Request) -> JsonObject:
    """Return a request for JSON."""
    return {"protocol": PROTOCOL, "command": request.command, **asdict(request)}


def send_line(connection: socket.socket, document: JsonObject) -> None:
    """Send a line.

    :raises OSError: the peer has gone, or takes nothing.
    """
    connection.sendall(json.dumps(document).encode() + b"\n")


def check_path(path: str) -> None:
    """Check that a path means the same in every process.

    :raises UsageError: it is relative, or none.
    """
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{path!r} is not an absolute path: give one")
