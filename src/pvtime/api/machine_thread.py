# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a guest that a program runs: its thread, and the machine that other threads use meanwhile."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import NoReturn

from pvtime.api.console import GuestConsole
from pvtime.errors import GuestEndedError, PvtimeError, UsageError
from pvtime.report.views import QuietView
from pvtime.run.inbox import Inbox, StopNow
from pvtime.run.live_machine import LiveMachine
from pvtime.run.options import RunOptions
from pvtime.run.run_control import RunControl
from pvtime.run.session import RunResult, Session
from pvtime.run.source import NO_SCREEN, MachineSource

__all__ = ["MachineThread"]


class MachineThread:
    """A machine on a thread of its own, from :meth:`start` to its end. Used once; for any thread.

    At the interpreter's end, machines that still run are stopped.

    :param name: name of the machine's control socket; None: it has none.
    """

    def __init__(self, source: MachineSource, options: RunOptions, name: str | None) -> None:
        self._source = source
        self._options = options
        self._name = name
        self._changed = threading.Condition()
        """Guards what follows."""
        self._thread: threading.Thread | None = None
        self._live: LiveMachine | None = None
        """The machine, from its start to its end."""
        self._users = 0
        """Threads that use the machine, which is kept for them."""
        self._session: Session | None = None
        self._console: GuestConsole | None = None
        self._inbox: Inbox | None = None
        self._closing = False
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        """Nothing executes any more, and there is a result or an error."""

    def start(self) -> None:
        """Build the machine, and return when it has started.

        :raises UsageError: the machine cannot be, or it was started before.
        :raises EngineError: this host cannot run it.
        """
        with self._changed:
            if self._thread is not None:
                raise UsageError("a guest is used once: make another one")
            self._thread = threading.Thread(target=self._run, name="pvtime-guest", daemon=True)
            self._thread.start()
            _running.add(self)
            try:
                self._changed.wait_for(lambda: self._session is not None or self._over.is_set())
            except BaseException:
                self._request_stop()
                raise
        if self._session is None:
            self.close()
            assert self._error is not None, "it could not start"
            raise self._error

    def close(self) -> None:
        """End the machine where it is, and return when nothing of it is left; harmless when it has ended."""
        if self._thread is not None:
            with self._changed:
                self._request_stop()
            self._thread.join()
        _running.discard(self)

    @contextlib.contextmanager
    def using(self) -> Iterator[LiveMachine]:
        """Use the machine for the time of a ``with`` block.

        :raises GuestEndedError: it has ended.
        :raises UsageError: it was not started.
        """
        with self._changed:
            if self._live is None:
                self.raise_ended()
            live = self._live
            self._users += 1
        try:
            yield live
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @property
    def session(self) -> Session:
        """The session, also of a machine that has ended.

        :raises UsageError: it was not started.
        """
        if self._session is None:
            raise _not_started()
        return self._session

    @property
    def console(self) -> GuestConsole:
        """The machine's console.

        :raises UsageError: it was not started.
        """
        if self._console is None:
            raise _not_started()
        return self._console

    @property
    def result(self) -> RunResult | None:
        """The result of a machine that has ended; None: it runs, or could not start."""
        return self._result

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing executes any more; return whether that is so.

        :param timeout: seconds; None: without limit.
        :raises UsageError: the machine was not started.
        """
        if self._session is None:
            raise _not_started()
        return self._over.wait(timeout)

    def join(self) -> None:
        """Wait until nothing of a machine that has ended is left.

        :raises EngineError: the engine failed.
        """
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error

    def refuse_ended(self) -> None:
        """Check that the machine has not ended.

        :raises GuestEndedError: it has.
        """
        if self._over.is_set():
            self.raise_ended()

    def raise_ended(self) -> NoReturn:
        """Raise the end of the machine.

        :raises GuestEndedError: always, but for a machine that was not started.
        :raises UsageError: it was not started.
        """
        if self._session is None:
            raise _not_started()
        if isinstance(self._error, PvtimeError):
            raise GuestEndedError(f"the guest has ended: {self._error}") from self._error
        result = self._result
        outcome = result.report.outcome.value if result is not None else None
        notes = "; ".join(result.notes) if result is not None else ""
        raise GuestEndedError(f"the guest has ended: {outcome}{notes and ': '}{notes}")

    def _request_stop(self) -> None:
        self._closing = True
        if self._inbox is not None:
            self._inbox.put(StopNow())

    # The thread.

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                inbox = Inbox()
                stack.callback(inbox.close)
                listener = None
                if self._name is not None:
                    from pvtime.run.runtime_dir import listen_as

                    listener = stack.enter_context(listen_as(self._name))
                built = self._source.build(self._options, inbox, NO_SCREEN)
                stack.callback(built.machine.close)
                live = LiveMachine(self._name or "guest", built, inbox, self._options.steal)
                control = RunControl(live, inbox, listener, lambda: self._begin(live, inbox))
                live.session = Session(
                    built, inbox, QuietView(), self._options, on_start=control.begin, save=control.save
                )
                stack.callback(self._release)
                with contextlib.closing(control):
                    self._result = live.session.run()
                self._error = self._result.error
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._over.set()
                self._changed.notify_all()

    def _begin(self, live: LiveMachine, inbox: Inbox) -> None:
        """Let other threads use the machine, which runs."""
        with self._changed:
            self._live, self._inbox, self._session = live, inbox, live.session
            receive = live.built.machine.console.receive
            self._console = GuestConsole(live.session.console, receive, self.refuse_ended)
            if self._closing:
                self._request_stop()
            self._changed.notify_all()

    def _release(self) -> None:
        """Let nobody use the machine any more."""
        with self._changed:
            self._live = self._inbox = None
            self._over.set()
            self._changed.wait_for(lambda: not self._users)


def _not_started() -> UsageError:
    return UsageError("the guest was not started: use it in a with block, or call start()")


_running: weakref.WeakSet[MachineThread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leave nothing behind at the interpreter's end, where threads are cut off wherever they are."""
    for machine in list(_running):
        machine.close()
