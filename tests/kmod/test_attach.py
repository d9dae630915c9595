# SPDX-License-Identifier: GPL-2.0-or-later
"""/dev/pvtime: what the module refuses."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from framework.bare import BareVm, bare_vm
from pvtime.abi.pvtime_kmod import ATTACH, DEVICE, REGION, AttachPlacement, PvTimeAttach
from pvtime.engine.kvm.pvtime_fd import PvTimeFd
from pvtime.errors import EngineError
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.memory import GuestMemory


@pytest.fixture
def device() -> Iterator[int]:
    """Return an open descriptor of the device."""
    fd = os.open(DEVICE, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def bare() -> Iterator[BareVm]:
    """A VM with two vCPUs."""
    with bare_vm() as bare:
        yield bare


def refused(device: int, vcpu_fd: int, placement: int = 1, ipa: int = 0, offset: int = 0) -> str:
    """Attach; return the name of the error that it is refused with."""
    try:
        fcntl.ioctl(device, ATTACH, PvTimeAttach(vcpu_fd, placement, ipa, offset))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "accepted"


def test_only_a_vcpu_can_be_attached(
    device: int, bare: BareVm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("not") / "kvm-vcpu:0"
    path.touch()
    with path.open() as namesake:
        others = [refused(device, fd) for fd in (-1, device, bare.vm.fd, namesake.fileno())]
    assert others == ["EBADF"] * 4


@pytest.mark.parametrize(
    ("placement", "ipa", "offset"),
    [
        (0, 0, 0),
        (3, 0, 0),
        (AttachPlacement.HYPERVISOR, STOLEN_TIME.base + 32, 0),
        (AttachPlacement.HYPERVISOR, STOLEN_TIME.base, 8),
        (AttachPlacement.HYPERVISOR, STOLEN_TIME.base, REGION),
        (AttachPlacement.HYPERVISOR, STOLEN_TIME.base, 1 << 63),
    ],
)
def test_a_structure_is_aligned_and_within_the_devices_memory(
    placement: int, ipa: int, offset: int, device: int, bare: BareVm
) -> None:
    assert refused(device, bare.vcpus[0].fd, placement, ipa, offset) == "EINVAL"


def test_a_vcpu_is_attached_once_and_not_where_user_space_has_set_an_address(
    device: int, bare: BareVm
) -> None:
    first, second = (vcpu.fd for vcpu in bare.vcpus)
    fcntl.ioctl(device, ATTACH, PvTimeAttach(first, AttachPlacement.HYPERVISOR, STOLEN_TIME.base, 0))
    assert refused(device, first, ipa=STOLEN_TIME.base) == "EEXIST"
    fcntl.ioctl(device, ATTACH, PvTimeAttach(second, AttachPlacement.HYPERVISOR, STOLEN_TIME.base + 64, 64))
    assert refused(device, second, placement=AttachPlacement.GUEST) == "EEXIST"


def test_its_memory_is_shared_and_no_longer_than_it_is(device: int) -> None:
    for length, flags in ((2 * REGION, mmap.MAP_SHARED), (REGION, mmap.MAP_PRIVATE)):
        with pytest.raises(OSError, match="Invalid argument"):
            mmap.mmap(device, length, flags=flags)
    with mmap.mmap(device, REGION) as first, mmap.mmap(device, REGION) as second:
        assert first[:] == bytes(REGION)
        first[:8] = b"the same"
        assert second[:8] == b"the same"
    other = os.open(DEVICE, os.O_RDWR)
    with mmap.mmap(other, REGION) as third:
        assert third[:] == bytes(REGION), "each descriptor has its own"
    os.close(other)


def test_guest_memory_keeps_its_contents_on_the_way_to_the_device_and_back(bare: BareVm) -> None:
    memory = GuestMemory(STOLEN_TIME.base, REGION, "stolen time")
    memory.write(memory.base, b"before")
    device = PvTimeFd(memory)
    assert memory.read(memory.base, 6) == b"before"
    memory.clear()
    assert memory.read(memory.base, 6) == bytes(6)
    memory.write(memory.base, b"after")
    device.attach(bare.vcpus[0], memory.base)
    with pytest.raises(EngineError, match="refuses stolen time of vCPU 0 at 0x90a0000: its stolen time has"):
        device.attach(bare.vcpus[0], memory.base)
    device.close()
    assert memory.read(memory.base, 5) == b"after"
    memory.close()
