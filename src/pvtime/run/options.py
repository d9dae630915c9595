# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of a run, as the command line has parsed them; checked before anything is built."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Final, TextIO

from pvtime.engine.registry import AUTO
from pvtime.inject.schedule import Schedule
from pvtime.machine.gic import GicVersion
from pvtime.records import dataclass
from pvtime.steal.placement import PlacementName

__all__ = ["DEFAULT_SHARE_SIZE", "STDOUT", "GuestOptions", "RunOptions", "SaveAt"]

DEFAULT_SHARE_SIZE: Final = 256 << 20

STDOUT: Final = Path("-")
"""As the path of a report: standard output. What people read then goes to standard error."""


@dataclass(frozen=True)
class SaveAt:
    """Save the machine to ``directory`` and end the run; ``seconds`` count as those of the duration do."""

    seconds: float
    directory: Path


@dataclass(frozen=True)
class RunOptions:
    """Options of every run, wherever its machine comes from."""

    engine_options: Mapping[str, str] = field(default_factory=dict)
    lpt: bool = False
    """Offer Live Physical Time (never merged)."""
    steal: Schedule = field(default_factory=Schedule)
    """The schedule of time to steal on purpose."""
    duration: float | None = None
    """Seconds, from userland on where the guest has an agent, else from the start; None: no limit."""
    boot_timeout: float | None = None
    """Seconds from the start for userland to come up: if it has not, the duration counts from then, and a run
    without one ends. None: the session's default with a duration, no limit without."""
    save_at: SaveAt | None = None
    name: str | None = None
    """Name of the machine in the user's directory of control sockets; None: one with the process's number."""
    control: Path | None = None
    """Path of the control socket; None: one in that directory."""
    no_control: bool = False
    """Make no control socket."""
    detach: bool = False
    """Run in the background once the machine runs."""
    report: Path | None = None
    report_stream: Path | None = None
    """File for samples and events while the machine runs; :data:`STDOUT` as for the report."""
    stream_interval: float = 1.0
    """Seconds between two samples of it."""
    execute: str | None = None
    """Command for a shell of the stock guest; the run ends with it, and has its exit code."""
    quiet: bool = False
    interactive: bool = False
    """Connect the guest's console to the user's terminal."""

    @property
    def _takes_stdout(self) -> bool:
        """Whether standard output has something for programs."""
        return self.execute is not None or STDOUT in (self.report, self.report_stream)

    @property
    def output(self) -> TextIO:
        """The stream for what people read."""
        return sys.stderr if self._takes_stdout else sys.stdout

    @property
    def progress_output(self) -> TextIO | None:
        """The stream for what people read while the machine is built and runs; None when quiet."""
        return None if self.quiet else self.output

    @property
    def report_only(self) -> bool:
        """Whether the report is the only output."""
        return self.quiet and self._takes_stdout


@dataclass(frozen=True)
class GuestOptions:
    """Options of a machine that boots a kernel: the machine, its images, and the stock userland's work."""

    kernel: Path | None = None
    """None: the stock kernel."""
    initrd: Path | None = None
    """None: the stock userland, which has an agent."""
    rootfs: Path | None = None
    """Directory or tar that is the root of the commands in the stock guest."""
    share: Path | None = None
    """Directory whose files the stock guest has below /share, and that gets what its commands changed."""
    share_size: int = DEFAULT_SHARE_SIZE
    """Bytes that the guest may have there at most, with the heads of a tar."""
    append: str = ""
    """Words for the kernel's command line, behind those for the stock kernel and userland."""
    vcpus: int = 1
    memory: int = 512 << 20
    """Bytes of RAM."""
    cpu: str | None = None
    """CPU model; None: the engine's default."""
    engine: str = AUTO
    placement: PlacementName = PlacementName.USERSPACE
    no_pvtime: frozenset[int] = frozenset()
    """vCPUs without stolen time."""
    gic: GicVersion = GicVersion.AUTO
    busy: int | None = None
    """Number of vCPUs that the stock userland keeps busy; None: all, or none with ``interactive`` or a
    command."""
