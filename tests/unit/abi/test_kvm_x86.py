# SPDX-License-Identifier: GPL-2.0-or-later
"""x86's requests and structures have the numbers and sizes that the kernel's headers give them."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from pvtime.abi.kvm_x86 import (
    MSR_KVM_STEAL_TIME,
    DescriptorTable,
    MsrEntry,
    MsrList,
    Rflags,
    Segment,
    SegmentRegisters,
    X86Exit,
    X86Ioctl,
    X86Registers,
)
from pvtime.abi.registration import PREEMPTED, KvmStealTime, Registration

REQUESTS = {
    X86Ioctl.SET_TSS_ADDR: 0xAE47,
    X86Ioctl.GET_REGS: 0x8090AE81,
    X86Ioctl.SET_REGS: 0x4090AE82,
    X86Ioctl.GET_SREGS: 0x8138AE83,
    X86Ioctl.SET_SREGS: 0x4138AE84,
    X86Ioctl.GET_MSRS: 0xC008AE88,
    X86Ioctl.SET_MSRS: 0x4008AE89,
}
"""As a C compiler for x86_64 makes them from include/uapi/linux/kvm.h."""

LAYOUTS: dict[str, tuple[type[ctypes.Structure], int, dict[str, int]]] = {
    "kvm_regs": (X86Registers, 144, {"rsp": 48, "rip": 128, "rflags": 136}),
    "kvm_segment": (Segment, 24, {"limit": 8, "selector": 12, "type": 14, "unusable": 22}),
    "kvm_dtable": (DescriptorTable, 16, {"limit": 8}),
    "kvm_sregs": (SegmentRegisters, 312, {"ss": 120, "idt": 208, "cr0": 224, "apic_base": 272}),
    "kvm_msr_entry": (MsrEntry, 16, {"data": 8}),
    "kvm_steal_time": (KvmStealTime, 64, {"version": 8, "flags": 12, "preempted": 16}),
}
"""Of each structure its size, and the offsets of some of its fields."""


def test_every_request_has_the_kernels_number() -> None:
    assert {request: int(request) for request in X86Ioctl} == REQUESTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_structures_are_laid_out_as_the_kernel_has_them(name: str) -> None:
    structure, size, offsets = LAYOUTS[name]
    assert ctypes.sizeof(structure) == size
    assert {field: getattr(structure, field).offset for field in offsets} == offsets


def test_one_register_follows_the_head_of_its_list() -> None:
    assert (MsrList.entry.offset, ctypes.sizeof(MsrList)) == (8, 24)


def test_a_flag_is_always_set() -> None:
    assert Rflags.of(always_1=1) == 2


def said_by_headers(folder: Path) -> list[int]:
    """Return the numbers that the installed headers of the kernel give, in the order of :func:`ours`."""
    lines = [f'printf("%zu\\n", sizeof(struct {name}));' for name in LAYOUTS]
    lines += [
        f'printf("%zu\\n", __builtin_offsetof(struct {name}, {field}));'
        for name, (_, _, offsets) in LAYOUTS.items()
        for field in offsets
    ]
    numbers = [f"KVM_{request.name}" for request in X86Ioctl]
    numbers += ["MSR_KVM_STEAL_TIME", "KVM_MSR_ENABLED", "KVM_VCPU_PREEMPTED", "KVM_STEAL_RESERVED_MASK"]
    numbers += [f"KVM_EXIT_{reason.name}" for reason in X86Exit]
    lines += [f'printf("%lu\\n", (unsigned long)({name}));' for name in numbers]
    source = "#include <stdio.h>\n#include <linux/kvm.h>\n#include <asm/kvm_para.h>\nint main(void)\n{\n"
    (folder / "a.c").write_text(source + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["cc", "-o", folder / "a", folder / "a.c"], check=True)
    done = subprocess.run([folder / "a"], stdout=subprocess.PIPE, check=True)
    return list(map(int, done.stdout.split()))


def ours() -> list[int]:
    """Return our numbers."""
    numbers = [size for _, size, _ in LAYOUTS.values()]
    numbers += [offset for _, _, offsets in LAYOUTS.values() for offset in offsets.values()]
    numbers += [int(request) for request in X86Ioctl]
    reserved = Registration.reserved.place(Registration.reserved.mask)
    return [*numbers, MSR_KVM_STEAL_TIME, Registration.enable.mask, PREEMPTED, reserved, *X86Exit]


INSTALLED = Path("/usr/include/x86_64-linux-gnu/asm/kvm.h").exists() and shutil.which("cc") is not None

if platform.machine() == "x86_64" and INSTALLED:  # else the constants above have to do

    def test_the_installed_headers_say_the_same(tmp_path: Path) -> None:
        assert said_by_headers(tmp_path) == ours()
