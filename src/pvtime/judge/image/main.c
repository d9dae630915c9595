// SPDX-License-Identifier: GPL-2.0-or-later
/* From the device tree to the power button. */
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
	if (!read_device_tree(tree))
		power_off();		/* there is no console to complain on */
	build_page_tables(tree);
	enable_mmu();
	run_checks();
	put("pvtime-result: end pass\n");
	power_off();
}
