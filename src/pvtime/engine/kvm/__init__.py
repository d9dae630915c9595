# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm engine: vCPUs on an arm64 host's /dev/kvm, one thread each, stolen time by the kernel."""
