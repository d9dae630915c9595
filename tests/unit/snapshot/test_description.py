# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's description: what is sent or read is checked before it is printed or used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from pvtime.abi.image import IMAGE_MAGIC, ImageFlags, ImageHeader
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
    description.check("it")
    return description.with_images(CONFIG.kernel.data, CONFIG.initrd)


def test_a_description_comes_back_as_it_was() -> None:
    assert through_json() == DESCRIPTION


def test_the_images_are_not_in_the_document() -> None:
    text = to_json(encode(DESCRIPTION.without_images()))
    assert encode(DESCRIPTION)["config"]["initrd"] not in text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"config__cpu": "\x1b[2J"}, "cpu: is not the name of a CPU model"),
        ({"config__cpu": "x" * 65}, "cpu: is not the name of a CPU model"),
        ({"release": "6.1\x1b]0;mine\x07"}, "release: is not"),
        ({"release": ""}, "release: is not"),
        ({"config__append": "quiet\0"}, "append: is not a command line"),
        ({"config__append": "\ud800"}, "append: is not a command line"),
        ({"config__append": "é" * 1024}, "append: is not a command line"),  # 2048 bytes, one too many
        ({"config__placement": "everywhere"}, "placement"),
        ({"config__memory": -1}, "memory"),
        ({"config__memory": 10**600}, "memory"),
        ({"config__kernel__text_offset": -4}, "text_offset: is not a multiple of 0x4 from 0"),
        ({"config__kernel__text_offset": 1 << 64}, "text_offset: is not a multiple of 0x4 from 0"),
        ({"config__kernel__text_offset": 1}, "text_offset: is not a multiple of 0x4 from 0"),
        ({"config__kernel__image_size": 5}, "image_size"),
        ({"config__kernel__image_size": 1 << 64}, "image_size"),
        ({"config__kernel__data": "AAAA"}, "kernel.data or initrd"),
        ({"config__initrd": "AAAA"}, "kernel.data or initrd"),
        ({"config__kernel__page_size": 8192}, "page_size: is not 4096, 16384 or 65536"),
        ({"config__stolen_time__name": "\x1b[2J"}, "stolen_time: is not a region for stolen time"),
        ({"config__stolen_time__size": 64}, "stolen_time: is not a region for stolen time"),
        ({"config__stolen_time__base": -65536}, "stolen_time: is not a region for stolen time"),
        ({"config__stolen_time__base": 1 << 128}, "stolen_time: is not a region for stolen time"),
        ({"config__stolen_time__base": 1 << 40}, "stolen_time: is not a region for stolen time"),
        ({"config__stolen_time__base": 0x90A_8000}, "stolen_time: is not a region for stolen time"),
        ({"config__vcpus": "2"}, "vcpus"),
        ({"config__vcpus": 513}, "vcpus: is not a number from 1 to 512"),
        ({"config__no_pvtime": [512]}, "no_pvtime"),
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


@pytest.mark.parametrize(
    ("field", "value"),
    [("text_offset", 0x8_0000), ("page_size", 65536), ("page_size", None), ("image_size", 1 << 22)],
)
def test_what_the_kernels_own_header_contradicts_is_refused(field: str, value: int | None) -> None:
    # It was accepted, and mattered at the guest's next reset.
    header = bytes(ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20, flags=ImageFlags.of(page_size=1)))
    right = Description(
        "unicorn", MachineConfig(1, 64 << 20, KernelImage(b"", 0, 1 << 20, 4096)), False, None
    )
    assert right.with_images(header, b"").config.kernel.data == header
    kernel = replace(right.config.kernel, **cast("Any", {field: value}))
    wrong = replace(right, config=replace(right.config, kernel=kernel))
    with pytest.raises(SavedStateError, match=f"kernel.{field}: it is not what the kernel's own header says"):
        wrong.with_images(header, b"")
