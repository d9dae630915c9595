# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's description: what is sent or read is checked before it is printed or used."""

from __future__ import annotations

from typing import Any

import pytest

from pvtime.errors import SavedStateError
from pvtime.machine.image import KernelImage
from pvtime.machine.machine import MachineConfig
from pvtime.snapshot.codec import decode, encode, from_json, to_json
from pvtime.snapshot.description import Description
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
DESCRIPTION = Description("unicorn", CONFIG, agent=True, release="6.1.0-37-cloud-arm64")


def through_json(**changed: Any) -> Description:
    """Return the description as a peer gets it; ``config__cpu=...`` changes a member of ``config``."""
    document = encode(DESCRIPTION.without_images())
    for path, value in changed.items():
        *parents, name = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[name] = value
    description = decode(Description, from_json(to_json(document), "it"), "it")
    description.check()
    return description.with_images(CONFIG.kernel.data, CONFIG.initrd)


def test_a_description_comes_back_as_it_was() -> None:
    assert through_json() == DESCRIPTION


def test_the_images_are_not_in_the_document() -> None:
    text = to_json(encode(DESCRIPTION.without_images()))
    assert encode(DESCRIPTION)["config"]["initrd"] not in text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"config__cpu": "\x1b[2J"}, "CPU model"),
        ({"config__cpu": "x" * 65}, "CPU model"),
        ({"release": "6.1\x1b]0;mine\x07"}, "kernel release"),
        ({"release": ""}, "kernel release"),
        ({"config__append": "quiet\0"}, "command line"),
        ({"config__append": "\ud800"}, "command line"),
        ({"config__placement": "everywhere"}, "placement"),
        ({"config__memory": -1}, "memory"),
        ({"config__memory": 10**600}, "memory"),
        ({"config__kernel__text_offset": -1}, "text offset"),
        ({"config__kernel__text_offset": 1 << 64}, "text offset"),
        ({"config__kernel__image_size": 5}, "image size"),
        ({"config__kernel__image_size": 1 << 64}, "image size"),
        ({"config__kernel__data": "AAAA"}, "kernel"),
        ({"config__initrd": "AAAA"}, "kernel"),
        ({"config__stolen_time__name": "\x1b[2J"}, "stolen time region"),
        ({"config__stolen_time__size": 64}, "stolen time region"),
        ({"config__vcpus": "2"}, "vcpus"),
        ({"config__no_pvtime": [True]}, "no_pvtime"),
        ({"config__disks": 1}, "disks"),
        ({"engine": "\x1b[2J"}, "engine"),
    ],
)
def test_what_no_machine_has_is_refused_by_name_and_not_repeated(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(SavedStateError, match=named) as caught:
        through_json(**changed)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
