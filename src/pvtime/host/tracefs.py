# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's list of tracepoints, from a tracefs that nobody else sees."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtime.errors import UsageError, host_reason
from pvtime.host.mounts import mount_detached

__all__ = ["Tracepoint", "parse_format", "require_host_pids", "tracefs"]

PLACES: Final = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_FIELD: Final = re.compile(r"field:([^;]*?)(\w+)(\[\d*\])?;\s*offset:(\d+);\s*size:(\d+);")


INITIAL_PID_NAMESPACE: Final = "pid:[4026531836]"
"""PROC_PID_INIT_INO (include/linux/proc_ns.h)."""


@dataclass(frozen=True)
class Tracepoint:
    """A tracepoint's number and the places of its fields."""

    name: str
    id: int
    fields: dict[str, tuple[int, int]]
    """Offset and size in bytes, by name."""


def parse_format(name: str, text: str) -> Tracepoint:
    """Parse a tracepoint's ``format``.

    :raises ValueError: it is none.
    """
    number = re.search(r"^ID: (\d+)$", text, re.MULTILINE)
    if number is None:
        raise ValueError(f"the format of {name} has no ID")
    fields = {match[2]: (int(match[4]), int(match[5])) for match in _FIELD.finditer(text)}
    return Tracepoint(name, int(number[1]), fields)


def require_host_pids(command: str) -> None:
    """Check that thread numbers are the host's here, as they are in the events.

    :param command: for the message.
    :raises UsageError: this is a container with numbers of its own.
    """
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return
    if namespace != INITIAL_PID_NAMESPACE:
        raise UsageError(
            f"{command} runs in a container: the kernel traces the host's thread numbers, which have no "
            "meaning here. Run it on the host, or in a container that shares the host's PID namespace"
        )


class Tracefs:
    """A mounted tracefs."""

    def __init__(self, root: str) -> None:
        self._root = root

    def tracepoint(self, name: str) -> Tracepoint:
        """Return a tracepoint of the scheduler.

        :raises UsageError: this kernel does not have it.
        """
        path = f"{self._root}/events/sched/{name}/format"
        try:
            with open(path) as file:
                return parse_format(name, file.read())
        except (OSError, ValueError) as error:
            raise UsageError(f"this kernel does not trace {name}: {error}") from error


@contextlib.contextmanager
def tracefs(places: Sequence[str] = PLACES) -> Iterator[Tracefs]:
    """Have tracefs for a ``with`` block.

    :param places: directories that it may be mounted on, where it cannot be mounted anew.

    :raises UsageError: this kernel has none, or this user may not mount it.
    """
    try:
        mount = mount_detached("tracefs")
        reason = "it has no scheduler events"
    except OSError as error:
        mount, reason = -1, host_reason(error)
    try:
        own = [f"/proc/self/fd/{mount}"] if mount >= 0 else []
        for place in (*own, *places):
            if os.access(f"{place}/events/sched", os.R_OK | os.X_OK):
                yield Tracefs(place)
                return
        raise UsageError(
            "tracing the scheduler needs root, or CAP_PERFMON and a tracefs that can be read at "
            f"{places[0]}, and a kernel with CONFIG_FTRACE (tracefs: {reason}); pvtime top does not"
        )
    finally:
        if mount >= 0:
            os.close(mount)
