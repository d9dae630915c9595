# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine was made as: what is sent or read is checked before it is printed or used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pvtime.errors import SavedStateError
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import MachineConfig
from pvtime.snapshot.contents import SavedMachine
from pvtime.snapshot.description import about, config_of, to_saved
from pvtime.steal.placement import PlacementName

CONFIG = MachineConfig(
    2,
    64 << 20,
    KernelImage(b"kernel", 0, 4096, None),
    b"initrd",
    "quiet root=/dev/\udcff",
    "cortex-a72",
    PlacementName.GUEST,
    frozenset({1}),
)


def saved(**changed: Any) -> SavedMachine:
    """Return a saved machine with a changed configuration."""
    machine = to_saved("unicorn", CONFIG, True, "6.1.0-37-cloud-arm64", {})
    return replace(machine, config={**machine.config, **changed})


def test_a_configuration_comes_back_as_it_was() -> None:
    assert config_of(saved()) == CONFIG
    assert about(saved()).release == "6.1.0-37-cloud-arm64"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cpu": "\x1b[2J"}, "CPU model"),
        ({"cpu": "x" * 65}, "CPU model"),
        ({"release": "6.1\x1b]0;mine\x07"}, "kernel release"),
        ({"release": ""}, "kernel release"),
        ({"append": "quiet\0"}, "command line"),
        ({"append": "\ud800"}, "command line"),
        ({"placement": "everywhere"}, "placement"),
        ({"memory": -1}, "memory"),
        ({"memory": 10**600}, "memory"),
        ({"text_offset": -1}, "text offset"),
        ({"text_offset": 1 << 64}, "text offset"),
        ({"image_size": 5}, "image size"),
        ({"image_size": 1 << 64}, "image size"),
        ({"vcpus": "2"}, "vcpus"),
        ({"disks": 1}, "disks"),
    ],
)
def test_what_no_machine_has_is_refused_by_name_and_not_repeated(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(SavedStateError, match=named) as caught:
        config_of(saved(**changed))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_an_engine_that_is_no_name_is_refused() -> None:
    with pytest.raises(SavedStateError, match="engine"):
        about(replace(saved(), engine="\x1b[2J"))
