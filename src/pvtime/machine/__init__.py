# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine around the vCPUs: memory, memory map, devices, device tree, boot protocol."""
