# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that preempts: whoever asks it for its turn has been off the CPU."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from pvtime.cost.neighbour import Neighbour
from pvtime.errors import EngineError
from pvtime.probe.affinity import one_cpu

TURNS = 20


def switches() -> int:
    """Return how often this thread was taken from its CPU, or left it."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nvcsw + usage.ru_nivcsw


def test_each_of_its_turns_takes_the_cpu_away() -> None:
    with one_cpu(), Neighbour() as neighbour:
        for _ in range(TURNS):
            before = switches()
            neighbour.take_cpu()
            assert switches() > before


def test_it_runs_where_its_caller_does() -> None:
    with one_cpu() as cpu, Neighbour() as neighbour:
        assert os.sched_getaffinity(neighbour.pid) == {cpu}


def test_one_that_has_ended_is_told() -> None:
    with Neighbour() as neighbour:
        os.kill(neighbour.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="the process that preempts the vCPU has ended"):
            neighbour.take_cpu()


def test_nothing_of_it_is_left() -> None:
    with Neighbour() as neighbour:
        pid = neighbour.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
