// SPDX-License-Identifier: GPL-2.0-or-later
/* From the device tree, or what the firmware said instead, to the power button. */
#include "judge.h"

void report_exception(u64 esr, u64 elr, u64 far)
{
	put("# exception: ESR ");
	put_hex(esr);
	put(" ELR ");
	put_hex(elr - (u64)_head);
	put(" FAR ");
	put_hex(far);
	put("\nBail out! the image took an exception\npvtime-result: exception fail\n");
	power_off();
}

void main(const void *tree)
{
	if (!machine.has_options)
		read_options(image_options, OPTIONS_SIZE);
	if (tree && !read_device_tree(tree))
		power_off();		/* there is no console to complain on */
	build_page_tables(tree);
	enable_mmu();
	for (u64 since = counter(); ticks_to_ns(counter() - since) < machine.wait * NS;)
		;
	run_checks();
	print_clock();
	if (machine.reset) {
		put("pvtime-phase: reset\n");
		call(PSCI_SYSTEM_RESET, 0, 0, 0);
		put("pvtime-result: system_reset fail\n");
	}
	put("pvtime-result: end pass\n");
	power_off();
}
