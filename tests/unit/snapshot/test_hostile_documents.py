# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents of machines in which any field may be anything: refused by file's and field's name, or right.

They are made by structure. Every field of a real document, for both engines, takes every value of a list in
turn; then some take several at random. Nothing but a line for the user may come of it: no other exception, no
native fault.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeAlias

import pytest

from framework.payload import Payload, boot
from framework.saves import DEVICES
from pvtime.abi.kvm_reg import PC, VIRTUAL_COUNTER
from pvtime.engine.kvm.state import KvmCpuState, KvmState, KvmVcpuState
from pvtime.engine.kvm.vgic import VgicState
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.engine.unicorn.saved import save_engine
from pvtime.errors import PvtimeError, SavedStateError
from pvtime.machine.gic import GicVersion
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.snapshot.codec import JsonObject, decode, encode, from_json, to_json
from pvtime.snapshot.description import Description
from pvtime.snapshot.manifest import FileEntry, Manifest
from pvtime.snapshot.state import SavedState
from pvtime.steal.kvm_truth import StolenState
from pvtime.steal.placement import PlacementName

NAME: Final = "d/machine.json"
VCPUS: Final = 2
RANDOM: Final = 3_000
"""Documents with more than one change."""
LEAST: Final = 10_000
"""Documents in all."""
STEPS: Final = {PlacementName.USERSPACE: 1, PlacementName.HYPERVISOR: 5, PlacementName.GUEST: 5}
"""Of a field's hostile values, one in so many: machines differ by placement in a few fields."""
GICS: Final = {
    PlacementName.USERSPACE: GicVersion.V2,
    PlacementName.HYPERVISOR: GicVersion.V3,
    PlacementName.GUEST: GicVersion.V3,
}

Path: TypeAlias = tuple[str | int, ...]


def nested(depth: int) -> list[Any]:
    """Return lists in each other."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: Final[list[Any]] = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        3,
        255,
        256,
        4096,
        65536,
        -65536,
        (1 << 31) - 1,
        1 << 31,
        1 << 32,
        1 << 40,
    ),
    *(
        (1 << 63) - 1,
        1 << 63,
        (1 << 64) - 1,
        1 << 64,
        1 << 128,
        -(1 << 64),
        10**600,
        0.5,
        1e308,
        float("nan"),
    ),
    *("", "x", "max", "\0", "\ud800", "\x1b[2J", "AAAA", "A" * 300, "../x", "0x1", "-1"),
    *([], [[]], [0], [None], ["x"] * 3, nested(50), {}, {"x": 1}, {"": {}}),
]

ALIASES: Final = {
    "base": "stolen",
    "no_pvtime": "no stolen time for vcpu",
    "page_size": "pages",
    "image_size": "kernel",
    "text_offset": "kernel",
    "registration": "stolen time",
    "format": "does not belong to a saved machine",
    "architecture": "architecture",
}
"""Words of messages about fields that are not named as in the document."""


def paths(document: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every field; of a list's items, the first and the last one's."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths(value, (*path, key))
    elif isinstance(document, list) and document:
        for index in sorted({0, len(document) - 1}):
            yield from paths(document[index], (*path, index))


DELETED: Final = object()


@contextmanager
def changed(document: Any, path: Path, value: object) -> Iterator[None]:
    """Give a field another value, or delete it, for the block."""
    place = document
    for step in path[:-1]:
        place = place[step]
    key: Any = path[-1]
    before = place[key]
    if value is not DELETED:
        place[key] = value
    elif isinstance(place, list):
        place.pop(key)
    else:
        del place[key]
    try:
        yield
    finally:
        if value is DELETED and isinstance(place, list):
            place.insert(key if key == 0 else len(place), before)
        else:
            place[key] = before


@dataclass
class Count:
    """Documents by what became of them."""

    refused: int = 0
    accepted: int = 0
    fields: set[Path] = field(default_factory=set)


def names_field(message: str, path: Path) -> bool:
    """Whether a refusal names the field, or the one that it is in."""
    words = [key for key in path if isinstance(key, str)]
    return any(word.lower() in message.lower() for word in [*words[-2:], ALIASES.get(words[-1], words[-1])])


def try_all(document: JsonObject, use: Callable[[], None], step: int = 1) -> Count:
    """Use every variant of a document, or one in ``step``; check each refusal."""
    count = Count()
    chance = random.Random(17)

    def try_one(*changes: tuple[Path, object]) -> None:
        try:
            use()
        except PvtimeError as error:
            message = str(error)
            assert message.startswith((NAME, "d: ")), (message, changes)
            assert "\n" not in message
            assert len(message) < 500, message
            assert any(names_field(message, path) for path, _ in changes), (message, changes)
            count.refused += 1
        else:
            count.accepted += 1

    fields = list(paths(document))
    count.fields.update(fields)
    for path in fields:
        for value in islice([*HOSTILE, DELETED], chance.randrange(step), None, step):
            with changed(document, path, value):
                try_one((path, value))
    for _ in range(RANDOM // step):
        with ExitStack() as stack:
            some = []
            for path in chance.sample(fields, chance.randint(2, 4)):
                with suppress(KeyError, IndexError, TypeError, AttributeError):  # it went with another one
                    value = chance.choice(HOSTILE)
                    stack.enter_context(changed(document, path, value))
                    some.append((path, value))
            try_one(*some)
    use()  # all is as it was
    return count


def manifest_of(description: Description, state: SavedState) -> JsonObject:
    """Return the document of a machine, as it is after JSON."""
    files = {name: FileEntry(0, "0" * 64) for name in ("kernel", "initrd", "memory-40000000")}
    return from_json(to_json(encode(Manifest.of(description, state, files))), NAME)


class Restorer:
    """Restores documents into one machine, or into another one where the description is another."""

    def __init__(self, document: JsonObject, machine: Machine, engine: UnicornEngine) -> None:
        self._document = document
        self._usual = Manifest.decode(document, NAME).description
        self._machine, self._engine = machine, engine

    def restore(self) -> None:
        """Restore the document as it is now, and check what has become of the machine."""
        manifest = Manifest.decode(self._document, NAME)
        if manifest.description.config == self._usual.config:
            self._restore(manifest, self._machine, self._engine)
            return
        try:
            machine = Machine(manifest.description.config, lambda _: None, lambda _: None)
            try:
                engine = UnicornEngine(machine)
                self._restore(manifest, machine, engine)
            finally:
                machine.close()
        except PvtimeError as error:
            raise type(error)(f"d: {error}") from error  # as the run does

    def _restore(self, manifest: Manifest, machine: Machine, engine: UnicornEngine) -> None:
        state = manifest.state
        state.restore(machine, engine, f"{NAME}.state")
        assert machine.state() == state.machine
        saved, now = state.engine, encode(save_engine(engine.vm))
        for before, after in zip(saved["vcpus"], now["vcpus"], strict=True):
            assert before["ran_ns"] == after["ran_ns"]
            assert before["account"]["truth_ns"] == after["account"]["truth_ns"]
            if before["cpu"] is not None:
                for register in ("x", "v", "pc", "sp_el0", "sp_el1"):
                    assert before["cpu"][register] == after["cpu"][register], register
        assert (saved["gicv2"], saved["gicv3"]) == (now["gicv2"], now["gicv3"])


@pytest.mark.parametrize("placement", PlacementName)
def test_a_machine_of_the_embedded_engine(placement: PlacementName) -> None:
    with boot(Payload().cpu_on(1, "rest").label("rest").await_result(0).power_off(), "on", VCPUS) as guest:
        config = MachineConfig(
            VCPUS,
            64 << 20,
            guest.machine.config.kernel,
            append="quiet",
            cpu="cortex-a72",
            placement=placement,
            gic=GICS[placement],
        )
    machine = Machine(config, lambda _: None, lambda _: None)
    engine = UnicornEngine(machine)
    engine.start()
    engine.pause()
    try:
        state = SavedState.of(machine, engine)
    finally:
        engine.stop()
    document = manifest_of(Description("unicorn", config, True, "6.1.0-37-cloud-arm64"), state)
    again = UnicornEngine(machine)
    step = STEPS[placement]
    count = try_all(document, Restorer(document, machine, again).restore, step)
    machine.close()
    assert count.refused + count.accepted >= LEAST // step
    assert count.accepted > 100


def kvm_state() -> KvmState:
    """Return a state as KVM would have it, with few registers."""
    cpu = KvmCpuState({hex(PC): bytes(8)}, stopped=False, serror=False, serror_syndrome=1)
    stolen = StolenState(5, 0, enabled=True, starts=1)
    vcpu = KvmVcpuState(cpu, stolen, ran_ns=7, stolen_ns=6, idle_ns=0, stopped_ns=1, host_ns=2, loads=3)
    vgic = VgicState({"GICD_CTLR": 1}, [{"ICC_PMR_EL1": 0xF8}] * VCPUS)
    return KvmState(62_500_000, {hex(VIRTUAL_COUNTER): bytes(8)}, vgic, [vcpu] * VCPUS, None)


def test_a_machine_on_kvm() -> None:
    config = MachineConfig(VCPUS, 64 << 20, KernelImage(b"kernel", 0, 4096, None))
    state = SavedState(DEVICES, encode(kvm_state()))
    document = manifest_of(Description("kvm", config, False, None), state)

    def use() -> None:
        manifest = Manifest.decode(document, NAME)
        found = decode(KvmState, manifest.state.engine, f"{NAME}.state.engine")
        try:
            found.check(VCPUS, 62_500_000, has_placement=False)
        except SavedStateError as error:
            raise SavedStateError(f"{NAME}.state: {error}") from error
        assert encode(found) == manifest.state.engine

    count = try_all(document, use)
    assert count.refused + count.accepted >= LEAST // 2
    assert count.accepted > 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' * 100_000, "is nested too deeply"),
        (b'{"a": "\xff"}', "is not UTF-8 text: byte 7 is wrong"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8 text: byte 7 is wrong"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8 text"),
        (b'{"a": 1e400}', ""),
        (b'{"a": Infinity, "b": NaN}', ""),
        (b'{"a": %s}' % (b"9" * 5000), "a number has 5000 digits"),
        (b'{"a" 1}', "is not valid JSON: look at line 1, column 6"),
        (b"null", "is not a JSON object"),
    ],
)
def test_text_that_is_no_document(text: bytes, reason: str) -> None:
    with pytest.raises(SavedStateError) as refused:
        decode(Manifest, from_json(text, NAME), NAME)
    assert str(refused.value).startswith(NAME)
    assert reason in str(refused.value)
    for word in ("codec", "recursion", "Expecting", "delimiter", "float"):
        assert word not in str(refused.value)


def test_a_document_is_written_as_it_was_read() -> None:
    state = SavedState(DEVICES, encode(kvm_state()))
    config = MachineConfig(VCPUS, 64 << 20, KernelImage(b"", 0, 4096, None))
    document = manifest_of(Description("kvm", config, False, None), state)
    assert json.loads(to_json(encode(Manifest.decode(document, NAME)))) == document
