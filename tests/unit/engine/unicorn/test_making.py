# SPDX-License-Identifier: GPL-2.0-or-later
"""No CPU executes while another one is made."""

from __future__ import annotations

import threading

from framework.engines import Choice
from framework.wait import DEADLINE, wait_until
from pvtime.engine.unicorn.making import Executor, alone
from pvtime.probe.guest import boot, guest
from pvtime.probe.mailbox import Command
from pvtime.probe.mailbox_client import MailboxClient


class FakeCpu:
    """A CPU that executes until it is kicked, again and again, on a thread of its own."""

    def __init__(self) -> None:
        self.inside = False
        self.runs = 0
        self.ends = threading.Event()
        self._kicked = threading.Event()
        with alone():
            self._executor = Executor(self._kicked.set)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ends.is_set():
            self._executor.begin()
            self.inside = True
            self.runs += 1
            self._kicked.wait(DEADLINE)
            self._kicked.clear()
            self.inside = False
            self._executor.end()

    def close(self) -> None:
        """End the thread."""
        self.ends.set()
        self._kicked.set()
        self.thread.join(DEADLINE)


def test_a_cpu_that_executes_is_kicked_and_does_not_begin_again_before_the_other_is_made() -> None:
    cpus = [FakeCpu(), FakeCpu()]
    try:
        for _ in range(20):
            wait_until(lambda: all(cpu.inside for cpu in cpus))
            with alone():
                runs = [cpu.runs for cpu in cpus]
                assert not any(cpu.inside for cpu in cpus)
                threading.Event().wait(0.002)
                assert [cpu.runs for cpu in cpus] == runs
            wait_until(lambda: all(cpu.inside for cpu in cpus))
            assert all(cpu.runs > before for cpu, before in zip(cpus, runs, strict=True))
    finally:
        for cpu in cpus:
            cpu.close()


def test_a_guest_stands_still_meanwhile_and_goes_on(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        mailboxes = MailboxClient(probe.machine.memory, probe.engine, probe.base, DEADLINE)
        with alone():
            mailboxes.send(0, Command.LOAD, probe.base, 4)
            threading.Event().wait(0.01)
            assert not mailboxes.ready(0), "it executes"
        assert mailboxes.results(0, "a load")[0] == probe.load(0, probe.base, 4)
