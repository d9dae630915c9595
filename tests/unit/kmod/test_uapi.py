# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of the kernel module's header against those of abi, and what its sources say of themselves."""

from __future__ import annotations

import ctypes
import re
from enum import IntEnum

import pytest

from pvtime.abi import pvtime_kmod
from pvtime.abi.pvtime_kmod import (
    AttachPlacement,
    PvTimeAttach,
    PvTimeRegistered,
    SamplePart,
    UpdateMethod,
    UpdateSample,
)
from pvtime.abi.registration import RegisterCall, RegisterResult
from pvtime.kmod.build import module_sources

HEADER = module_sources()["pvtime_uapi.h"].decode()
SIZES = {"__s32": 4, "__u32": 4, "__u16": 2, "__u64": 8}


def fields(struct: str) -> list[tuple[str, int]]:
    """Return a structure's fields of the header, each with its size in bytes."""
    body = re.search(rf"struct {struct} {{(.*?)}};", HEADER, re.DOTALL)
    assert body is not None
    return [(name, SIZES[kind]) for kind, name in re.findall(r"(__[su]\d+) (\w+);", body[1])]


@pytest.mark.parametrize(
    ("struct", "ours"),
    [
        ("pvtime_attach", PvTimeAttach),
        ("pvtime_registered", PvTimeRegistered),
        ("pvtime_sample", UpdateSample),
    ],
)
def test_structures_are_the_headers(struct: str, ours: type[ctypes.LittleEndianStructure]) -> None:
    assert fields(struct) == [(name, getattr(ours, name).size) for name, *_ in ours._fields_]
    assert sum(size for _, size in fields(struct)) == ctypes.sizeof(ours), "no padding"


@pytest.mark.parametrize(("enum", "ours"), [("pvtime_method", UpdateMethod), ("pvtime_part", SamplePart)])
def test_enumerations_are_the_headers(enum: str, ours: type[IntEnum]) -> None:
    body = re.search(rf"enum {enum} {{(.*?)}};", HEADER, re.DOTALL)
    assert body is not None
    names = re.findall(r"^\tPVTIME_(\w+)", body[1], re.MULTILINE)
    assert names == [each.name for each in ours]
    assert [each.value for each in ours] == list(range(len(ours)))


def test_the_device_and_its_requests_are_the_headers() -> None:
    defined = dict(re.findall(r"#define PVTIME_(\w+) (\S+)", HEADER))
    assert int(defined["REGION"], 16) == pvtime_kmod.REGION
    assert {each.name: each.value for each in AttachPlacement} == {
        name: int(defined[name]) for name in ("HYPERVISOR", "GUEST")
    }
    assert "_IOW('P', 0xd0, struct pvtime_attach)" in HEADER
    assert 1 << 30 | 24 << 16 | ord("P") << 8 | 0xD0 == pvtime_kmod.ATTACH


def test_the_guests_calls_are_those_of_the_embedded_engine() -> None:
    source = module_sources()["x86.c"].decode()
    numbers = {name: int(value, 0) for name, value in re.findall(r"\b([A-Z_]+) = (-?\w+)[,} ]", source)}
    ours = {each.name: each.value for each in (*RegisterCall, *RegisterResult)}
    assert {name: numbers[name] for name in ours} == ours


def test_every_source_is_compiled_and_free_to_be_loaded() -> None:
    sources = module_sources()
    (objects,) = re.findall(r"^pvtime_kvm-y := (.*)$", sources["Kbuild"].decode(), re.MULTILINE)
    assert sorted(objects.split()) == sorted(f"{name[:-2]}.o" for name in sources if name.endswith(".c"))
    assert all(b"SPDX-License-Identifier: GPL-2.0" in source.splitlines()[0] for source in sources.values())
    assert b'MODULE_LICENSE("GPL")' in sources["main.c"]
