# SPDX-License-Identifier: GPL-2.0-or-later
"""Twenty real machines at once: each has its own socket, its own steal, and the truth in its memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

import pvtime
from framework.wait import DEADLINE, wait_until
from pvtime.abi.image import IMAGE_MAGIC, ImageHeader
from pvtime.machine.layout import RAM_BASE
from pvtime.probe.assembler import Program
from pvtime.run.control_client import ask
from pvtime.run.control_protocol import StatRequest
from pvtime.run.roll_call import call_the_roll
from pvtime.run.runtime_dir import named_sockets, socket_of

MACHINES = 20
MS = 10**6
B_OVER_THE_HEADER = 0x1400_0010
"""``b .+64``: what the header of an Image has in the place of its first instruction."""


def busy_image() -> bytes:
    """Return an Image that computes for ever."""
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    header.code[:] = B_OVER_THE_HEADER.to_bytes(8, "little")
    loop = Program(RAM_BASE + len(bytes(header))).label("for ever").b("for ever")
    return bytes(header) + loop.assemble()


def vcpu_of(name: str) -> dict[str, Any]:
    """Ask a machine for the figures of its vCPU."""
    answer: dict[str, Any] = ask(socket_of(name), StatRequest(guest=False), None, timeout_s=DEADLINE)
    (vcpu,) = answer["sample"]["vcpus"]
    return dict(vcpu)


def await_injected(name: str, ns: int) -> dict[str, Any]:
    """Ask a machine until a time was injected, and return the figures of its vCPU."""

    def injected() -> dict[str, Any] | None:
        vcpu = vcpu_of(name)
        return vcpu if vcpu["injected_ns"] == ns else None

    return wait_until(injected)


def test_each_answers_for_itself_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    image = tmp_path / "Image"
    image.write_bytes(busy_image())
    (tmp_path / "initrd").write_bytes(b"initrd")
    numbers = {f"m{number}": number + 1 for number in range(MACHINES)}
    descriptors = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        guests = {}
        for name, number in numbers.items():
            guest = pvtime.Guest(
                kernel=image, initrd=tmp_path / "initrd", memory=64 << 20, engine="unicorn", name=name
            )
            guests[name] = stack.enter_context(guest)
            guest.steal(f"{number}ms")
            vcpu = await_injected(name, number * MS)
            assert vcpu["truth_ns"] == vcpu["structure_ns"] >= number * MS
            guest.steal(f"{1000 + number}s")  # a vCPU that is held costs the others nothing
        answers = {answer.name: answer.info for answer in call_the_roll(DEADLINE)}
        assert sorted(answers) == sorted(numbers)
        for name, number in numbers.items():
            info, vcpu = answers[name], vcpu_of(name)
            assert info is not None
            assert info.steal == [f"{1000 + number}s"]
            assert vcpu["truth_ns"] == vcpu["structure_ns"] >= vcpu["injected_ns"] >= number * MS
        with pytest.raises(pvtime.UsageError, match="m7"):
            pvtime.Guest(kernel=image, initrd=tmp_path / "initrd", engine="unicorn", name="m7").start()
        (info,) = (answer.info for answer in call_the_roll(DEADLINE, {"m7"}))
        assert info is not None
        assert info.steal == ["1008s"], "the one that was refused has its place"
        guests["m3"].close()
        assert len(call_the_roll(DEADLINE)) == MACHINES - 1
    assert list(named_sockets()) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors
