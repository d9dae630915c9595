# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls run on their thread, in order, once, and nobody waits for a thread that is not alive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pvtime.engine.call_queue import CallQueue


class Worker:
    """A thread that runs calls until one of them raises or ends it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.running = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.calls = CallQueue(self.thread.is_alive)

    def _run(self) -> None:
        try:
            while self.running:
                self.calls.run_pending()
                if self.running:
                    self.calls.wait(None)
        except ZeroDivisionError as error:
            self.error = error

    def end(self) -> None:
        """End after the calls that are pending."""
        self.running = False


@contextmanager
def started() -> Iterator[Worker]:
    """Start a worker, and end it."""
    worker = Worker()
    worker.thread.start()
    yield worker
    worker.calls.submit(worker.end)
    worker.thread.join()


def test_calls_run_in_order_on_their_thread() -> None:
    order: list[tuple[int, threading.Thread]] = []
    with started() as worker:
        waits = [
            worker.calls.submit(lambda n=n: order.append((n, threading.current_thread())))  # type: ignore[misc]
            for n in range(100)
        ]
        assert all(wait() for wait in waits)
        assert worker.calls.call(threading.current_thread) is worker.thread
    assert order == [(n, worker.thread) for n in range(100)]


def test_each_call_of_many_threads_runs_once() -> None:
    counts = [0] * 8
    with started() as worker:

        def add(index: int) -> None:
            counts[index] += 1

        def submit(index: int) -> None:
            for _ in range(200):
                worker.calls.call(lambda: add(index))

        threads = [threading.Thread(target=submit, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [200] * 8


def test_an_exception_of_a_call_with_a_result_is_the_callers() -> None:
    with started() as worker:
        with pytest.raises(ZeroDivisionError):
            worker.calls.call(lambda: 1 // 0)
        assert worker.calls.call(lambda: 2) == 2, "the thread has survived"


def test_an_exception_of_a_submitted_call_is_the_threads_and_its_wait_ends() -> None:
    worker = Worker()
    worker.thread.start()
    wait = worker.calls.submit(lambda: 1 // 0)
    assert wait()
    worker.thread.join()
    assert isinstance(worker.error, ZeroDivisionError)


def test_a_call_for_a_thread_that_has_not_started_runs_here_and_only_here() -> None:
    runs: list[threading.Thread] = []
    worker = Worker()
    worker.calls.call(lambda: runs.append(threading.current_thread()))
    assert not worker.calls.submit(lambda: runs.append(threading.current_thread()))()
    worker.thread.start()
    worker.calls.call(worker.end)
    worker.thread.join()
    assert runs == [threading.current_thread()]


def test_calls_before_the_threads_start_are_run_in_order() -> None:
    runs: list[int] = []
    worker = Worker()
    worker.calls.submit(lambda: runs.append(1))
    worker.calls.call(lambda: runs.append(2))
    worker.calls.submit(lambda: runs.append(3))
    worker.thread.start()
    worker.calls.call(worker.end)
    worker.thread.join()
    assert runs == [1, 2, 3]


def test_the_calls_that_a_thread_leaves_are_withdrawn() -> None:
    entered, exit_now = threading.Event(), threading.Event()
    worker = Worker()

    def last() -> None:
        entered.set()
        exit_now.wait()
        raise ZeroDivisionError

    worker.thread.start()
    worker.calls.submit(last)
    entered.wait()
    wait = worker.calls.submit(lambda: None)
    exit_now.set()
    assert not wait()
    assert not worker.calls
    worker.thread.join()
    assert worker.calls.call(threading.current_thread) is threading.current_thread()


def test_a_thread_is_preempted_until_it_runs_the_call() -> None:
    preemptions = 0
    enough = threading.Event()

    def preempt() -> bool:
        nonlocal preemptions
        preemptions += 1
        if preemptions == 3:
            enough.set()
        return True

    calls = CallQueue(preempt)

    def busy() -> None:
        enough.wait()
        calls.run_pending()

    thread = threading.Thread(target=busy)
    thread.start()
    assert calls.submit(lambda: None)()
    thread.join()
    assert preemptions >= 3
