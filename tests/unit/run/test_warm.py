# SPDX-License-Identifier: GPL-2.0-or-later
"""Warm starts: a kept guest's place depends on all that it depends on, and old guests make room."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from framework.fakes import FakeEngine
from pvtime.engine.base import COUNTER_FREQUENCY
from pvtime.engine.registry import choose, preferred
from pvtime.errors import EngineError
from pvtime.images import manifest
from pvtime.machine.gic import GicVersion
from pvtime.run import warm
from pvtime.run.options import GuestOptions, RunOptions
from pvtime.run.warm import Booted, WarmGuest, evict
from pvtime.steal.placement import PlacementName

IMAGE = manifest.Image(file="file", package="package", version="1", size=1, sha256="0" * 64)
GUEST = GuestOptions(engine="unicorn")
CHANGES = {
    "vcpus": 2,
    "memory": 256 << 20,
    "cpu": "cortex-a53",
    "placement": PlacementName.GUEST,
    "no_pvtime": frozenset({0}),
    "busy": 0,
    "append": "quiet",
    "gic": GicVersion.V3,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache with stock images on record."""
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path))
    manifest.folder(tmp_path).mkdir()
    manifest.write(tmp_path, dict.fromkeys(manifest.STOCK, IMAGE))
    return tmp_path


def place(guest: GuestOptions = GUEST, **options: str) -> Path:
    """Return the place of a guest."""
    return WarmGuest.of(guest, RunOptions(engine_options=options)).directory


def test_the_same_guest_has_the_same_place() -> None:
    assert place() == place(GuestOptions(engine="unicorn"))
    assert place(replace(GUEST, no_pvtime=frozenset({0, 1}))) == place(
        replace(GUEST, no_pvtime=frozenset({1, 0}))
    )


def test_every_option_of_a_guest_is_tried() -> None:
    fields = set(GuestOptions.__dataclass_fields__)
    # A root file system and a shared directory are of a command, which has no warm start.
    no_warm_start = {"rootfs", "share", "share_size"}
    assert fields == {*CHANGES, *no_warm_start, "engine", "kernel", "initrd"}, (
        "a new option: is it in the place?"
    )


@pytest.mark.parametrize("change", CHANGES)
def test_another_guest_has_another_place(change: str) -> None:
    assert place(replace(GUEST, **{change: CHANGES[change]})) != place()  # type: ignore[arg-type]


def test_another_engine_or_option_of_it_has_another_place() -> None:
    before = place()
    assert place(internals="off") != before
    for options in (RunOptions(engine_options={COUNTER_FREQUENCY: "25000000"}), RunOptions(lpt=True)):
        assert WarmGuest.of(GUEST, options).directory != before
    kind, _ = choose(GUEST.engine)
    with preferred(replace(kind, identity=lambda: "another release")):
        assert place() != before


def test_another_kernel_or_userland_has_another_place(cache: Path) -> None:
    places = {place()}
    kernel = cache / "Image"
    for data in (b"one", b"two"):
        kernel.write_bytes(data)
        places.add(place(replace(GUEST, kernel=kernel)))
    for name in manifest.STOCK:
        images = dict.fromkeys(manifest.STOCK, IMAGE) | {name: replace(IMAGE, sha256="1" * 64)}
        manifest.write(cache, images)
        places.add(place())
    assert len(places) == 5


def test_another_pvtime_has_another_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = place()
    monkeypatch.setattr(warm, "__file__", str(tmp_path / "run" / "warm.py"))
    assert place() != before


def keep(folder: Path, name: str, size: int, used: int) -> Path:
    """Create a kept guest that was used at a time."""
    path = folder / name
    path.mkdir()
    (path / "memory").write_bytes(b"x" * size)
    path.with_suffix(".lock").touch()
    os.utime(path, (used, used))
    return path


def test_the_guests_that_were_used_the_longest_time_ago_make_room(tmp_path: Path) -> None:
    folder = tmp_path / "warm"
    folder.mkdir()
    unit = 1 << 20
    old, middle, new = (keep(folder, name, unit, used) for used, name in enumerate(("a", "b", "c")))
    evict(folder, 3 * unit + (1 << 16), keep=new)
    assert all(path.is_dir() for path in (old, middle, new))
    evict(folder, 2 * unit + (1 << 16), keep=old)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "a.lock", "c", "c.lock"]
    evict(folder, 0, keep=old)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["a"]


def test_a_guest_that_ends_before_its_userland_is_told_with_its_last_line() -> None:
    booted = Booted()
    booted.console(b"Linux\r\nKernel panic - not syncing: no init\r\n\r\n")
    booted.agent(b"stat begin 1\nstat cpu0 0 0 0 0 0 0 0 0 0 0 0\nstat end 1\n")  # before it was ready
    engine = FakeEngine()
    engine.power_off()
    with pytest.raises(EngineError, match="its console, whose last line is: Kernel panic - not syncing"):
        booted.wait(engine, 60)


def test_a_guest_is_kept_at_its_first_report() -> None:
    booted = Booted()
    booted.agent(b"ready 6.1.0\nstat begin 1\nstat cpu0 0 0 0 0 0 0 0 0 0 0 0\nstat end 1\n")
    booted.wait(FakeEngine(), 0)
    assert booted.release == "6.1.0"
