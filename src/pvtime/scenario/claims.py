# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotations from the thread about the three placements; each scenario names those that it tests."""

from __future__ import annotations

from typing import Final

from pvtime.scenario.model import Claim

__all__ = [
    "ABI",
    "ARBITRATION",
    "AWARE",
    "ENCAPSULATED",
    "KERNEL_MEMORY",
    "KEXEC",
    "LOAD",
    "LPT",
    "OVERLAP",
    "PUT_USER",
    "REAL_MEMORY",
    "RETURN",
    "SAVE",
    "X86",
]

PRICE: Final = "Steven Price"
ZYNGIER: Final = "Marc Zyngier"

KERNEL_MEMORY: Final = Claim(
    ZYNGIER,
    "My current concern with this series is around the fact that we allocate memory from the kernel on "
    "behalf of the guest.",
)
PUT_USER: Final = Claim(
    ZYNGIER, "Yes, put_user is more expensive than a straight store, but this isn't done too often either."
)
ENCAPSULATED: Final = Claim(
    PRICE,
    "1. Hypervisor allocates memory and adds it to the virtual machine. This means that everything to do "
    "with the 'device' is encapsulated behind the KVM_CREATE_DEVICE / KVM_[GS]ET_DEVICE_ATTR ioctls.",
)
REAL_MEMORY: Final = Claim(
    PRICE,
    "But since we want the stolen time structure to be fast it cannot be a trapping region and has to be "
    "backed by real memory",
)
AWARE: Final = Claim(
    PRICE,
    "2. Host user space allocates memory. [...] kvmtool/QEMU needs to be much more aware of what is going on "
    "(e.g. how to size the memory region).",
)
KEXEC: Final = Claim(
    PRICE,
    "3. [...] a) kexec becomes much more tricky - there needs to be a disabling mechanism for the guest to "
    "stop the hypervisor scribbling on memory before starting the new kernel.",
)
ARBITRATION: Final = Claim(
    PRICE,
    "3. [...] b) If there is more than one entity that is interested in the information (e.g. firmware and "
    "kernel) then this requires some form of arbitration in the guest because the hypervisor doesn't want to "
    "have to track an arbitrary number of regions to update.",
)
RETURN: Final = Claim(
    PRICE,
    "3. [...] c) Performance can suffer if the host kernel doesn't have a suitably aligned/sized area to "
    "use. [...] The structure is updated on every return to the VM.",
)
X86: Final = Claim(PRICE, "Of course x86 does prove the third approach can work")
OVERLAP: Final = Claim(
    ZYNGIER,
    "(2): [...] We don't need a new mechanism to track pages or deal with overlapping IPA ranges",
)
SAVE: Final = Claim(ZYNGIER, "(2): [...] We can get rid of the save/restore interface")
ABI: Final = Claim(
    ZYNGIER,
    "The drawback is that the amount of memory required per vcpu becomes ABI. I don't think that's a huge "
    "deal, as the hypervisor has the same contract with the guest.",
)
LOAD: Final = Claim(
    ZYNGIER,
    "We also take a small hit with put_user(), but this is only done as a consequence of vcpu_load() (and "
    "not on every entry as you suggest above).",
)
LPT: Final = Claim(
    PRICE,
    "Although many of the conversations about this were also tied up with Live Physical Time which adds its "
    "own complications.",
)
