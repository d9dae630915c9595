# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU goes and comes while time is stolen from it: its count begins again."""

import pvtime

with pvtime.Guest(vcpus=2, warm=True, steal="1:30%") as guest:
    guest.wait_userland()
    online = "/sys/devices/system/cpu/cpu1/online"
    guest.shell(f"echo 0 > {online}; echo 1 > {online}")
    guest.run_for(0.5)
    vcpu = guest.sample().vcpus[1]
    print(f"vCPU 1: {vcpu.starts} starts, truth {vcpu.truth} ns, structure {vcpu.structure} ns")
    assert vcpu.truth == vcpu.structure
    for event in guest.events(timeout=0):
        print(f"{event.elapsed_seconds:7.3f} s {event.kind.value}: {event.text}")
