# SPDX-License-Identifier: GPL-2.0-or-later
"""Which way to drive the CPU is taken, and that an unknown build of the library is noticed."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from framework.engines import Choice
from framework.traps import NoTraps
from pvtime.abi.arm64 import ExceptionClass
from pvtime.engine.unicorn import context_layout, cores
from pvtime.engine.unicorn.core import Core, CoreConfig
from pvtime.engine.unicorn.cores import make_core
from pvtime.engine.unicorn.el_setup import ABORTING_MODELS, CPU_MODELS
from pvtime.engine.unicorn.internals import LAYOUTS, LibraryLayout
from pvtime.engine.unicorn.internals_core import InternalsCore
from pvtime.engine.unicorn.public_core import PublicCore
from pvtime.errors import EngineError, GuestImageError, UsageError
from pvtime.inject.schedule import NOTHING
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.memory import GuestMemory


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Return some memory."""
    memory = GuestMemory(0x4000_0000, 0x1_0000, "RAM")
    yield memory
    memory.close()


def core(
    memory: GuestMemory,
    options: Mapping[str, str],
    model: str = "cortex-a72",
    layouts: Mapping[str, LibraryLayout] = LAYOUTS,
) -> Core:
    """Make a CPU."""
    return make_core(options, CoreConfig(model, [memory], [], NoTraps()), layouts)


OTHER_LIBRARY = {
    machine: replace(layout, code=layout.code | {"cpu_exit": "00" * 8}) for machine, layout in LAYOUTS.items()
}
"""One function of the library is other code than that which was read."""


def test_this_build_is_known_and_its_internals_are_used(memory: GuestMemory) -> None:
    assert cores.passes()
    for options in {}, {"internals": "auto"}, {"internals": "on"}:
        assert isinstance(core(memory, options), InternalsCore)


def test_the_self_test_runs_until_it_has_passed_once(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A host that lacks memory once is no other library; and each machine took 3 ms to find out the same.
    answers = [False, True]
    monkeypatch.setattr(cores, "passes", lambda: answers.pop(0))
    cores._pass_once.cache_clear()
    assert isinstance(core(memory, {}), PublicCore)
    for _ in range(2):
        assert isinstance(core(memory, {}), InternalsCore)
    assert not answers


def test_internals_off_uses_the_public_interface(memory: GuestMemory) -> None:
    assert isinstance(core(memory, {"internals": "off"}), PublicCore)


def test_an_unknown_build_falls_back_to_the_public_interface(memory: GuestMemory) -> None:
    assert not cores.passes(layouts=OTHER_LIBRARY)
    assert isinstance(core(memory, {}, layouts=OTHER_LIBRARY), PublicCore)


def test_an_unknown_build_and_internals_on_are_refused_in_a_line(memory: GuestMemory) -> None:
    with pytest.raises(EngineError, match="leave out internals=on") as caught:
        core(memory, {"internals": "on"}, layouts=OTHER_LIBRARY)
    assert "\n" not in str(caught.value)


def test_a_host_of_another_architecture_is_refused_by_name(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EngineError, match="needs an x86_64 or aarch64 host, not riscv64"):
        core(memory, {})


def test_a_cpu_that_is_not_where_it_should_be_is_noticed(memory: GuestMemory) -> None:
    layouts = {machine: replace(layout, cpu_env=layout.cpu_env + 8) for machine, layout in LAYOUTS.items()}
    assert isinstance(core(memory, {}, layouts=layouts), PublicCore)


ABORTING = 0x0EDD_1F75
"""An unallocated encoding of FP16, of many."""

CHILD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from framework.payload import Payload, run
for model in sys.argv[2:]:
    payload = Payload().use_vectors().word({ABORTING}).power_off()
    payload.vectors(sync="fault").label("fault").keep_fault(0).power_off()
    print(model, end=" ", flush=True)
    print(run(payload, sys.argv[1], cpu=model).results[0] >> 26, flush=True)
"""


@pytest.mark.parametrize("way", ["on", "off"])
def test_an_encoding_that_max_aborts_on_is_undefined_for_the_other_models(way: str) -> None:
    models = sorted(CPU_MODELS.keys() - ABORTING_MODELS)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, way, *models], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [f"{model} {ExceptionClass.UNKNOWN:d}" for model in models]
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model", sorted(ABORTING_MODELS))
def test_a_model_is_refused_because_a_guest_can_abort_the_process(model: str) -> None:
    # Where this fails the library has been mended, and the model need not be refused any more.
    done = subprocess.run([sys.executable, "-c", CHILD, "on", model], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT


def test_a_self_test_that_sees_something_else_does_not_pass() -> None:
    handler = (0xD280_0015, *cores.PROGRAM[cores.SYNC][1:])  # mov x21, #0: not the syndrome
    assert not cores.passes(cores.PROGRAM | {cores.SYNC: handler})


def test_a_context_with_the_syndrome_in_no_known_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_layout, "_search", lambda *context: [])
    context_layout.context_layout.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"a fault in 0 places, its address in 0: install 2\.1\.4"):
            context_layout.context_layout()
    finally:
        context_layout.context_layout.cache_clear()


@pytest.mark.parametrize("model", CPU_MODELS)
@pytest.mark.parametrize("way", ["on", "off"])
def test_every_cpu_model_can_be_made(model: str, way: str, memory: GuestMemory) -> None:
    assert core(memory, {"internals": way, "allow-abort": "on"}, model).internals is (way == "on")


@pytest.mark.parametrize(
    ("options", "model", "complaint"),
    [
        ({"turbo": "on"}, "max", r"engine option 'turbo': .* internals=auto\|on\|off"),
        ({"internals": "maybe"}, "max", "internals=maybe: give one of auto, on, off"),
        ({"allow-abort": "1"}, "max", "allow-abort=1: give one of off, on"),
        (
            {},
            "max",
            "CPU model 'max': any program .* can make pvtime abort; give the engine option allow-abort=on",
        ),
        ({"allow-abort": "off", "internals": "off"}, "max", "CPU model 'max': any program"),
        ({}, "cortex-m3", "CPU model 'cortex-m3': the unicorn engine has cortex-a53, "),
    ],
)
def test_what_there_is_not_is_refused_by_name(
    options: dict[str, str], model: str, complaint: str, memory: GuestMemory
) -> None:
    with pytest.raises(UsageError, match=complaint):
        core(memory, options, model)


@pytest.mark.parametrize("internals", ["on", "off"])
@pytest.mark.parametrize("model", CPU_MODELS)
def test_a_kernel_with_16k_pages_is_refused_by_name(model: str, internals: str) -> None:
    """No model of the library has that granule. Debian's -16k kernels parked the CPU without a word."""
    options = {"internals": internals, "allow-abort": "on"}
    for size in (4096, 65536, 16384):
        config = MachineConfig(1, 64 << 20, KernelImage(bytes(64), 0, 2 << 20, size), cpu=model)
        machine = Machine(config, lambda _: None, lambda _: None)
        try:
            if size == 16384:
                with pytest.raises(GuestImageError, match=rf"16K pages, but .*{model} has only 4K and 64K"):
                    Choice("unicorn", options).build(machine, NOTHING)
            else:
                Choice("unicorn", options).build(machine, NOTHING).stop()
        finally:
            machine.close()
