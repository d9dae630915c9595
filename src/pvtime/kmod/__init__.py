# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime_kvm, a kernel module for the lab's kernel: stolen time on KVM in the ways that were not merged.

Its sources are in ``module/``, its use in ``README.md``; :mod:`pvtime.kmod.build` compiles it.
"""
