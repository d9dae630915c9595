# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's dirty log finds exactly what a guest, and the kernel for it, has written."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest

from framework.engines import Choice
from framework.payload import RESULTS, Guest, Payload, boot_on
from framework.wait import wait_until
from pvtime.abi.psci import Psci
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Engine
from pvtime.errors import EngineError
from pvtime.machine.dirty import DirtyTracker
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access

PAGE = mmap.PAGESIZE
FIRST = RAM_BASE + (8 << 20)
TARGETS = [
    FIRST,
    FIRST + 5 * PAGE,
    FIRST + 6 * PAGE,
    FIRST + 63 * PAGE,
    FIRST + 64 * PAGE,
    RAM_BASE + (64 << 20) - PAGE,
]
GO, DONE = 0, 1
"""Results, in a page that is told apart."""


def writer(then: Callable[[Payload], object] = Payload.power_off) -> Payload:
    """Return a payload that writes one word into each target when it is told to."""
    payload = Payload().call(PvTime.ST).mov(1, 1).keep(1, DONE + 1).await_result(GO)
    for target in TARGETS:
        payload.mov(9, target).mov(1, 7).store(1, 9, 8)
    payload.mov(1, 1).keep(1, DONE).await_result(DONE + 2)
    then(payload)
    return payload


def until(guest: Guest[Engine], slot: int) -> None:
    """Wait until the payload has come there."""
    wait_until(lambda: guest.result(slot), guest.engine, message=f"no result {slot}")


def pages(log: DirtyTracker, guest: Guest[Engine]) -> list[int]:
    """Return the address of every page that has changed; none runs meanwhile, so the contents are right."""
    found: list[int] = []
    for base, data in log.changed():
        assert data == guest.machine.memory_at(base, len(data)).read(base, len(data))
        found += range(base, base + len(data), PAGE)
    return found


def test_exactly_the_pages_that_the_payload_writes(engine: Choice) -> None:
    with boot_on(engine, writer()) as guest:
        guest.engine.start()
        until(guest, DONE + 1)
        log = guest.engine.start_dirty_log()
        guest.engine.pause()
        first = pages(log, guest)
        assert first == [ipa for memory in guest.machine.memories for ipa in not_zero(memory)]
        guest.tell(GO)
        guest.engine.resume()
        until(guest, DONE)
        guest.engine.pause()
        changed = pages(log, guest)
        assert [ipa for ipa in changed if ipa >= RAM_BASE] == sorted([*TARGETS, RESULTS])
        assert [ipa for ipa in changed if ipa < RAM_BASE] == [STOLEN_TIME.base], "the kernel's own writes"
        assert pages(log, guest) == [], "nothing runs"
        guest.engine.resume()
        with pytest.raises(EngineError, match="logged already"):
            guest.engine.start_dirty_log()
        log.close()
        log.close()
        guest.engine.start_dirty_log().close()
        guest.tell(DONE + 2)
        guest.end()


def not_zero(memory: GuestMemory) -> list[int]:
    """Return the pages of a region that hold anything."""
    zero = bytes(PAGE)
    return [ipa for ipa in range(memory.base, memory.region.end, PAGE) if memory.read(ipa, PAGE) != zero]


def test_memory_that_is_taken_away_keeps_its_log(engine: Choice) -> None:
    with boot_on(engine, writer()) as guest:
        guest.engine.start()
        until(guest, DONE + 1)
        guest.engine.pause()
        log = guest.engine.start_dirty_log()
        pages(log, guest)

        def go_on() -> None:
            guest.engine.resume()
            guest.engine.pause()

        go_on()
        guest.engine.protect(STOLEN_TIME, Access.NONE)
        assert pages(log, guest) == [STOLEN_TIME.base]
        go_on()
        assert pages(log, guest) == []
        guest.engine.protect(STOLEN_TIME, Access.WRITE)
        go_on()
        assert pages(log, guest) == [STOLEN_TIME.base], "it is logged again"
        guest.engine.resume()
        guest.tell(DONE + 2)
        guest.tell(GO)
        guest.end()


def test_after_a_reset_all_that_was_or_is_has_changed_and_the_new_life_is_logged(
    engine: Choice,
) -> None:
    with boot_on(engine, writer(lambda payload: payload.call(Psci.SYSTEM_RESET).halt())) as guest:
        guest.engine.start()
        until(guest, DONE + 1)
        log = guest.engine.start_dirty_log()
        guest.tell(GO)
        until(guest, DONE)
        guest.engine.pause()
        assert set(TARGETS) <= set(pages(log, guest))
        guest.tell(DONE + 2)
        guest.engine.resume()
        guest.until(lambda: guest.result(DONE + 1) and not guest.result(GO))  # the reset
        guest.engine.pause()
        assert set(TARGETS) <= set(pages(log, guest)), "they are zero now"
        assert pages(log, guest) == []
        guest.tell(GO)
        guest.engine.resume()
        until(guest, DONE)
        guest.engine.pause()
        assert set(TARGETS) <= set(pages(log, guest))
