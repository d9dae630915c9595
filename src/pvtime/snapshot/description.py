# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine was made as, in a form that is saved and sent."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from pvtime.errors import SavedStateError
from pvtime.machine.codec import JsonObject, decode, encode
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import STOLEN_TIME, Region
from pvtime.machine.machine import MachineConfig
from pvtime.snapshot.contents import SavedMachine
from pvtime.steal.placement import PlacementName

__all__ = ["Description", "about", "config_of", "describe", "to_saved"]


@dataclass(frozen=True)
class Description:
    """:class:`MachineConfig` without the images' bytes, and what its user knows of the guest."""

    vcpus: int
    memory: int
    append: str
    cpu: str | None
    placement: str
    no_pvtime: list[int]
    stolen_time: int
    """Base IPA of the structures."""
    text_offset: int
    image_size: int
    page_size: int | None
    agent: bool
    """The stock userland answers on the second serial port."""
    release: str | None
    """The kernel's, as the guest printed it."""

    def check(self, saved: SavedMachine) -> None:
        """Check what :class:`Machine` does not; some of it is printed, some used at a reset only.

        :raises SavedStateError: no machine has this.
        """
        possible = {
            "engine": _WORD.fullmatch(saved.engine),
            "CPU model": self.cpu is None or _WORD.fullmatch(self.cpu),
            "placement": self.placement in {name.value for name in PlacementName},
            "kernel release": self.release is None or _WORD.fullmatch(self.release),
            "command line": _is_command_line(self.append),
            "memory": 0 <= self.memory <= _U64,
            "text offset": 0 <= self.text_offset <= _U64,
            "image size": len(saved.kernel) <= self.image_size <= _U64,
        }
        for name, is_possible in possible.items():
            if not is_possible:
                raise SavedStateError(f"the saved machine has an impossible {name}")


_WORD: Final = re.compile("[!-~]{1,64}")
_U64: Final = (1 << 64) - 1


def _is_command_line(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeError:
        return False


def describe(config: MachineConfig, agent: bool, release: str | None) -> Description:
    """Return what is to be saved of a configuration."""
    return Description(
        vcpus=config.vcpus,
        memory=config.memory,
        append=config.append,
        cpu=config.cpu,
        placement=config.placement.value,
        no_pvtime=sorted(config.no_pvtime),
        stolen_time=config.stolen_time.base,
        text_offset=config.kernel.text_offset,
        image_size=config.kernel.image_size,
        page_size=config.kernel.page_size,
        agent=agent,
        release=release,
    )


def about(saved: SavedMachine) -> Description:
    """Return the description in a saved machine.

    :raises SavedStateError: it is none.
    """
    its = decode(Description, saved.config, "the saved machine's configuration")
    its.check(saved)
    return its


def config_of(saved: SavedMachine) -> MachineConfig:
    """Return the configuration of a saved machine. :class:`Machine` checks its values.

    :raises SavedStateError: it is none.
    """
    its = about(saved)
    return MachineConfig(
        vcpus=its.vcpus,
        memory=its.memory,
        kernel=KernelImage(saved.kernel, its.text_offset, its.image_size, its.page_size),
        initrd=saved.initrd,
        append=its.append,
        cpu=its.cpu,
        placement=PlacementName(its.placement),
        no_pvtime=frozenset(its.no_pvtime),
        stolen_time=Region(STOLEN_TIME.name, its.stolen_time, STOLEN_TIME.size),
    )


def to_saved(
    engine: str, config: MachineConfig, agent: bool, release: str | None, state: JsonObject
) -> SavedMachine:
    """Put a saved machine together."""
    description = encode(describe(config, agent, release))
    return SavedMachine(engine, description, state, config.kernel.data, config.initrd)
