# SPDX-License-Identifier: GPL-2.0-or-later
"""Other people's VMs: what their vCPUs wait for, and who has the CPU meanwhile."""
