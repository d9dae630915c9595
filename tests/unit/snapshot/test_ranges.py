# SPDX-License-Identifier: GPL-2.0-or-later
"""Every field of a saved or sent machine has a range, or a reason for which its type alone has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from pvtime.engine.kvm.state import KvmState
from pvtime.engine.unicorn.saved import UnicornState
from pvtime.schema import Rule
from pvtime.snapshot.manifest import Manifest
from pvtime.snapshot.stream import Hello

THE_MACHINES = "compared with the machine's own, item by item"
NAMES = "compared with the names that this version has"

REASONS = {
    "Manifest.format": "compared with the one there is",
    "Manifest.version": "compared with the one there is",
    "Manifest.architecture": "compared with the one there is",
    "Manifest.pvtime": "only shown, and shortened for that",
    "Manifest.files": "the names are compared with those of a saved machine's files",
    "Manifest.files{name}": "the names are compared with those of a saved machine's files",
    "Manifest.state.engine": "decoded by the engine's own type",
    "Manifest.state.engine{name}": "decoded by the engine's own type",
    "Manifest.state.engine{value}": "decoded by the engine's own type",
    "UnicornState.gicv2.priorities": THE_MACHINES,
    "UnicornState.gicv2.targets": THE_MACHINES,
    "UnicornState.gicv2.cpus": THE_MACHINES,
    "UnicornState.gicv3.priorities": THE_MACHINES,
    "UnicornState.gicv3.routes": THE_MACHINES,
    "UnicornState.gicv3.cpus": THE_MACHINES,
    "UnicornState.vcpus[].cpu.system": NAMES,
    "UnicornState.vcpus[].cpu.system{name}": NAMES,
    "KvmState.counters": "KVM refuses a register that it does not have",
    "KvmState.vcpus[].cpu.registers": "KVM refuses a register that it does not have",
    "KvmState.vgic.distributor": NAMES,
    "KvmState.vgic.distributor{name}": NAMES,
    "KvmState.vgic.cpus": THE_MACHINES,
    "KvmState.vgic.cpus[]": NAMES,
    "KvmState.vgic.cpus[]{name}": NAMES,
    "Hello.format": "compared with the one there is",
}
"""Fields without a range of their own, by path."""

DESCRIBED = {
    "config.kernel.data": "empty: the images are files of their own",
    "config.initrd": "empty: the images are files of their own",
    "config.stolen_time.name": "the region as a whole has a rule",
    "config.stolen_time.base": "the region as a whole has a rule",
    "config.stolen_time.size": "the region as a whole has a rule",
}


def unlimited(kind: Any, path: str, *, ruled: bool = False) -> Iterator[str]:
    """Yield the path of each field that has no rule, where its type alone does not say all."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *annotations = get_args(kind)
        yield from unlimited(inner, path, ruled=any(isinstance(each, Rule) for each in annotations))
    elif origin in (Union, UnionType):
        for each in get_args(kind):
            yield from unlimited(each, path, ruled=ruled)
    elif origin is frozenset:  # no larger than the range of its members
        yield from unlimited(get_args(kind)[0], f"{path}[]")
    elif origin in (list, tuple):
        yield from [] if ruled else [path]
        for each in get_args(kind):
            yield from () if each is Ellipsis else unlimited(each, f"{path}[]")
    elif origin is dict:
        key, value = get_args(kind)
        yield from [] if ruled else [path]
        yield from [*unlimited(key, f"{path}{{name}}"), *unlimited(value, f"{path}{{value}}")]
    elif is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            yield from unlimited(hints[field.name], f"{path}.{field.name}")
    elif kind not in (bool, type(None)) and not (isinstance(kind, type) and issubclass(kind, Enum)):
        yield from [] if ruled else [path]


@pytest.mark.parametrize("kind", [Manifest, Hello, UnicornState, KvmState])
def test_every_field_has_a_range_or_a_reason_to_have_none(kind: type) -> None:
    name = kind.__name__
    found = set(unlimited(kind, name))
    known = {path for path in REASONS if path.partition(".")[0] == name}
    if kind in (Manifest, Hello):
        known |= {f"{name}.description.{path}" for path in DESCRIBED}
    assert found - known == set(), "any value is accepted there"
    assert known - found == set(), "the reason is out of date"
