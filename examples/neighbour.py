# SPDX-License-Identifier: GPL-2.0-or-later
"""A noisy neighbour takes half of vCPU 1 for a while: what the host knows, and what the guest makes of it."""

import pvtime

with pvtime.Guest(vcpus=2, warm=True) as guest:
    guest.wait_userland()
    for share in ("off", "1:50%"):
        with guest.steal(share):
            before = guest.sample(guest=True)
            guest.run_for(0.5)
            grown = guest.sample(guest=True) - before
        for vcpu in grown.vcpus:
            told = "no answer" if vcpu.guest_steal is None else f"{vcpu.guest_steal / 1e9:.2f} s"
            ran, stolen, injected = (ns / 1e9 for ns in (vcpu.ran, vcpu.stolen, vcpu.injected or 0))
            print(
                f"steal {share}: vCPU {vcpu.index} ran {ran:.2f} s, stolen {stolen:.2f} s, of that "
                f"{injected:.2f} s on purpose; /proc/stat: {told}"
            )
