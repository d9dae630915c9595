# SPDX-License-Identifier: GPL-2.0-or-later
"""A 32-bit program under a 64-bit kernel that is saved and restored at any moment, and counts on."""

from __future__ import annotations

import random
import re
import time
from typing import Final

import pytest

from framework.armhf import BUSYBOX_32, armhf_files
from framework.linux import LinuxGuest
from framework.moved import put, take
from framework.moving_linux import moving_linux
from framework.wait import wait_until
from integration.test_saved_linux import LOOKS, look_often
from pvtime.abi.arm64 import Pstate
from pvtime.errors import EngineError, ImagesError
from pvtime.images.cache import cache_directory
from pvtime.images.store import StockImages

STRIDE: Final = 500
MOVES: Final = 8
COUNTING: Final = (
    f"{BUSYBOX_32} sh -c 'i=0; while :; do i=$((i+1)); [ $((i % {STRIDE})) != 0 ] || echo at $i; done'"
)


@pytest.fixture(scope="module")
def armhf() -> bytes:
    """Return the 32-bit userland."""
    try:
        return armhf_files(cache_directory())
    except ImagesError as error:
        pytest.skip(f"no busybox of armhf: {error}")


def counts(guest: LinuxGuest) -> list[int]:
    """Return what the program has printed; a line that has not ended is no count yet."""
    return [int(count) for count in re.findall(r"^at (\d+)\r?\n", guest.console, re.MULTILINE)]


def move_when_possible(guest: LinuxGuest) -> bool:
    """Move the guest to another engine, as soon as it is not refused; return whether that met the program."""
    while True:
        try:
            image = take(guest.machine, guest.engine)
            break
        except EngineError as error:
            if "try again" not in str(error):
                raise
            guest.engine.resume()
            time.sleep(0.001)
    guest.engine.stop()
    guest.machine.close()
    cpu = image.document()["vcpus"][0]["cpu"]
    guest.machine, guest.engine = put(image, {"internals": "on"}, guest.on_console, guest.on_agent)
    guest.engine.start()
    return bool(Pstate(cpu["system"]["SPSR_EL1"]).aarch32)


@pytest.mark.parametrize("model", ["cortex-a53", "cortex-a72"])
def test_no_register_is_lost_and_a_32_bit_program_counts_on(
    model: str, stock_images: StockImages, armhf: bytes
) -> None:
    # PSTATE and PC of such a program are stale: one went back from 15,096,782 to 1,632,462.
    chance = random.Random(model)
    with moving_linux(
        stock_images, "on", vcpus=1, cpu=model, append="pvtime.shell", more_files=armhf
    ) as guest:
        assert look_often(guest, chance) > 0, "nobody had registers"
        guest.ready()
        guest.tell("busy", 1)
        assert look_often(guest, chance) == LOOKS
        guest.tell("idle")
        guest.type(COUNTING)
        in_program = 0
        for _ in range(MOVES):
            seen = len(counts(guest))
            wait_until(lambda seen=seen: len(counts(guest)) > seen, guest.engine)  # type: ignore[misc]
            time.sleep(chance.random() / 16)
            in_program += move_when_possible(guest)
        seen = len(counts(guest))
        wait_until(lambda: len(counts(guest)) > seen + 2, guest.engine)
        found = counts(guest)
        assert found == list(range(STRIDE, STRIDE * len(found) + 1, STRIDE)), "it lost or repeated a count"
        assert in_program > 0, "no save met the program"
        assert not re.search("Oops|BUG|Segmentation|Illegal|undefined instruction", guest.console)
