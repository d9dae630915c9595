# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs of this host, whoever runs them: their threads, scheduler statistics and cgroups.

It changes nothing: it reads, and asks QEMU and guest agents.
"""
