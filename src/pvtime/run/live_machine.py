# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine while it runs: what its control socket and the public API may ask of it, from any thread.

The modules that save and migrate are imported at the first use: most runs need neither.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pvtime.engine.base import Outcome
from pvtime.errors import GuestEndedError
from pvtime.inject.schedule import Schedule
from pvtime.report.model import Moment
from pvtime.run.events import EventKind
from pvtime.run.inbox import EngineEnded, Inbox, QuitRequested, StopNow
from pvtime.run.session import Session
from pvtime.run.source import BuiltMachine

if TYPE_CHECKING:
    from pvtime.run.control_protocol import MachineInfo
    from pvtime.run.exporter import Exporter, SaveResult

__all__ = ["LiveMachine"]


class LiveMachine:
    """A machine and its run. The session is set before the machine starts.

    :param steal: the schedule of injected steal at the start.
    """

    def __init__(self, name: str, built: BuiltMachine, inbox: Inbox, steal: Schedule) -> None:
        self.name = name
        self.built = built
        self.session: Session
        self._inbox = inbox
        self._steal = steal
        self._steal_lock = threading.Lock()
        self._exporter_lock = threading.Lock()
        self.used_exporter: Exporter | None = None
        """The exporter; None: nobody has used it."""

    @property
    def exporter(self) -> Exporter:
        """Pauses, saves and migrates the machine."""
        from pvtime.run.exporter import Exporter

        with self._exporter_lock:
            if self.used_exporter is None:
                self.used_exporter = Exporter(
                    self.built.engine,
                    self.built.machine,
                    agent=self.built.agent,
                    release=lambda: self.session.release,
                    ended=lambda outcome: self._inbox.put(EngineEnded(outcome)),
                )
            return self.used_exporter

    @property
    def state(self) -> str:
        """``paused``, ``booting`` or ``running``."""
        exporter = self.used_exporter
        if exporter is not None and exporter.paused:
            return "paused"
        return "booting" if self.built.agent and not self.session.is_up else "running"

    @property
    def steal(self) -> Schedule:
        """The schedule of injected steal."""
        return self._steal

    def info(self) -> MachineInfo:
        """Return what is known of the machine."""
        from pvtime.run.control_protocol import MachineInfo  # a run that nobody asks does not need it

        config, moment = self.built.machine.config, self.session.figures()
        return MachineInfo(
            name=self.name,
            pid=os.getpid(),
            engine=self.built.engine.label,
            placement=config.placement.value,
            kernel=self.session.release,
            vcpus=config.vcpus,
            memory=config.memory,
            state=self.state,
            elapsed_ns=round(moment.elapsed_seconds * 1e9),
            vcpu_elapsed_ns=sum(row.elapsed_ns for row in moment.vcpus),
            stolen_ns=sum(row.stolen_ns for row in moment.vcpus),
            steal=[str(item) for item in self._steal.items],
        )

    def figures(self, *, guest: bool) -> Moment:
        """Return the figures of now.

        :param guest: with the guest's /proc/stat, where it answers in time.
        """
        return self.session.guest_figures() if guest else self.session.figures()

    def set_steal(self, schedule: Schedule) -> Schedule:
        """Inject steal by another schedule from now on, and return the one before.

        :raises UsageError: it names a vCPU that the machine lacks.
        :raises GuestEndedError: the machine has ended.
        """
        with self._steal_lock:
            self._refuse_ended()
            self.built.engine.set_steal(schedule)
            before, self._steal = self._steal, schedule
            self.session.note_steal(", ".join(map(str, schedule.items)) or "off")
        return before

    def pause(self) -> None:
        """Pause the machine; harmless when it is paused.

        :raises PvtimeError: it has ended, or is being saved or migrated.
        """
        self.exporter.pause()
        self.session.add_event(EventKind.PAUSED, "the machine is paused")

    def resume(self) -> None:
        """Resume the machine; harmless when it runs.

        :raises PvtimeError: it has ended, or is being saved or migrated.
        """
        self.exporter.resume()
        self.session.add_event(EventKind.RESUMED, "the machine runs again")

    def reset(self) -> None:
        """Boot the machine again.

        :raises PvtimeError: it is paused, has ended, or is being saved or migrated.
        """
        self.exporter.reset()
        self.session.add_event(EventKind.RESET, "the machine was reset")

    def save(self, directory: Path, *, keep_running: bool) -> SaveResult:
        """Save the machine; see :meth:`Exporter.save`."""
        saved = self.exporter.save(directory, keep_running=keep_running)
        if keep_running:
            self.session.add_event(EventKind.SAVED, f"the machine was saved to {directory}")
        return saved

    def stop(self, *, now: bool) -> Outcome:
        """End the run, and return how the execution ended once nothing executes any more.

        :param now: do not ask the guest to power off first.
        :raises PvtimeError: it is being saved or migrated, or the engine failed.
        """
        exporter = self.used_exporter
        if exporter is not None and exporter.paused:
            exporter.resume()  # a paused guest cannot power off
        self._inbox.put(StopNow() if now else QuitRequested())
        return self.built.engine.wait() or Outcome.STOPPED

    def ended(self) -> Outcome | None:
        """Return how the execution ended; None: it has not.

        :raises PvtimeError: the engine failed.
        """
        return self.built.engine.wait(0)

    def _refuse_ended(self) -> None:
        if self.ended() is not None:
            raise GuestEndedError("the machine has ended")
