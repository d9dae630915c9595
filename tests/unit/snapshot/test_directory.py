# SPDX-License-Identifier: GPL-2.0-or-later
"""A save makes a directory with what a restore needs, or nothing at all."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.saves import EXTENTS, HOST_CALLS, RAM, SmallMachine, load_number, write_number
from pvtime.errors import SavedStateError
from pvtime.machine import pages
from pvtime.machine.memory import GuestMemory
from pvtime.machine.pages import BLOCK, CHUNK, Extent, extents


def names(path: Path) -> list[str]:
    """Return what is in a directory."""
    return sorted(os.listdir(path))


def test_a_saved_machine_is_what_was_saved(tmp_path: Path) -> None:
    write_number(tmp_path / "machine", 3)
    assert load_number(tmp_path / "machine") == 3
    assert names(tmp_path) == ["machine"]


def test_a_file_is_sparse_and_the_owners_alone(tmp_path: Path) -> None:
    size = write_number(tmp_path / "machine", 3)
    ram = (tmp_path / "machine" / "memory-40000000").stat()
    data = sum(length for _, length in EXTENTS)
    assert ram.st_size == RAM
    assert data <= ram.st_blocks * 512 < RAM / 10, "most of it is a hole"
    assert size == data + BLOCK + sum(
        (tmp_path / "machine" / n).stat().st_size for n in ("kernel", "machine.json")
    )
    assert stat.S_IMODE((tmp_path / "machine").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "machine").iterdir()} == {0o600}


@pytest.mark.parametrize("there", ["directory", "file", "link"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    path = tmp_path / "machine"
    match there:
        case "directory":
            path.mkdir()
        case "file":
            path.touch()
        case _:
            path.symlink_to("nowhere")
    with pytest.raises(SavedStateError, match="exists already, and nothing is overwritten"):
        write_number(path, 1)
    assert names(tmp_path) == ["machine"]


def test_a_name_that_no_load_would_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SavedStateError, match="the name of an unfinished save"):
        write_number(tmp_path / ".machine.partial-01234567", 1)
    assert names(tmp_path) == []


@pytest.mark.parametrize("parent", ["absent", "file"])
def test_a_place_that_is_no_directory_is_refused(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SavedStateError, match=f"{parent} cannot be written to: N"):
        write_number(tmp_path / parent / "machine", 1)


def test_room_is_asked_for_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096, f_blocks=9))
    monkeypatch.setattr(os, "mkdir", lambda *_, **__: pytest.fail("it began to write"))
    with pytest.raises(SavedStateError, match="needs 0 MiB, and 0 MiB are free: make room"):
        write_number(tmp_path / "machine", 1)


def test_a_file_system_without_a_size_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ramfs, as an initramfs may be, says 0 for everything.
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=0))
    write_number(tmp_path / "machine", 3)
    assert load_number(tmp_path / "machine") == 3


def fail_at(patch: pytest.MonkeyPatch, last: int, error: BaseException) -> None:
    """Have the host fail in the call of this number."""
    calls = count()

    def failing(call: Callable[..., object]) -> Callable[..., object]:
        def fail_or_call(*arguments: object, **named: object) -> object:
            if next(calls) == last:
                raise error
            return call(*arguments, **named)

        return fail_or_call

    for name in HOST_CALLS:
        patch.setattr(os, name, failing(getattr(os, name)))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_at_any_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    steps = 26
    for step in range(steps):
        with monkeypatch.context() as patch:
            fail_at(patch, step, error)
            with pytest.raises((SavedStateError, KeyboardInterrupt), match=r"on device: make room there$|^$"):
                write_number(tmp_path / "machine", 1)
        if step < steps - 1:
            assert names(tmp_path) == []
    assert load_number(tmp_path / "machine") == 1, "the last step is after the renaming"


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    dead = tmp_path / ".machine.partial-00000000"
    dead.mkdir()
    (dead / "kernel").touch()
    (dead / "memory-40000000").touch()
    write_number(tmp_path / "machine", 1)
    assert names(tmp_path) == ["machine"]


def test_what_is_not_surely_dead_is_left_alone(tmp_path: Path) -> None:
    alive, strange, other = (
        tmp_path / f".{name}" for name in ("machine.partial-1", "machine.partial-2", "m")
    )
    alive, strange = alive.with_name(alive.name + "0000000"), strange.with_name(strange.name + "0000000")
    other = other.with_name(".machine2.partial-00000000")
    link = tmp_path / ".machine.partial-30000000"
    for path in (alive, strange, other):
        path.mkdir()
    link.symlink_to(other)
    (strange / "kernel").touch()
    (strange / "thesis.tex").touch()
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_number(tmp_path / "machine", 1)
    os.close(lock)
    assert names(tmp_path) == sorted([alive.name, strange.name, other.name, link.name, "machine"])
    assert names(strange) == ["kernel", "thesis.tex"]


@given(blocks=st.sets(st.integers(0, 3 * CHUNK // BLOCK - 1)), last=st.booleans())
def test_extents_are_what_is_not_zero(blocks: set[int], last: bool) -> None:
    memory = GuestMemory(0, 3 * CHUNK, "RAM")
    for block in blocks:
        memory.write(block * BLOCK + (BLOCK - 1 if last else 0), b"x")
    found = extents(memory)
    memory.close()
    assert {at // BLOCK + n for at, length in found for n in range(length // BLOCK)} == blocks
    assert all(at // CHUNK == (at + length - 1) // CHUNK for at, length in found)
    assert all(end < start or start % CHUNK == 0 for end, start in joints(found)), "neighbours are one extent"


def joints(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return each extent's end with the next one's start."""
    return [(at + length, after) for (at, length), (after, _) in pairwise(found)]


def refuse(*_: object, **__: object) -> None:
    """Be a host without /proc."""
    raise FileNotFoundError


def test_extents_without_the_kernels_help(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmallMachine() as machine:
        machine.set(1)
        told = [extents(memory) for memory in machine.memories]
        monkeypatch.setitem(vars(pages), "open", refuse)
        assert [extents(memory) for memory in machine.memories] == told


def test_untouched_memory_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def look(data: memoryview, offset: int) -> Iterator[Extent]:
        looked.append((offset, len(data)))
        return iter(())

    monkeypatch.setattr(pages, "nonzero", look)
    memory = GuestMemory(0, 64 * CHUNK, "RAM")
    memory.write(5 * CHUNK, b"x")
    extents(memory)
    memory.close()
    assert looked == [(5 * CHUNK, BLOCK)]
