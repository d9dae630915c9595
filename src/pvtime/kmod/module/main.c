// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pvtime_kvm: stolen time on KVM in the ways that were not merged, to be compared with the one that was.
 *
 * For the emulated host of "pvtime lab", whose kernel it is built for. While it is loaded it has probes in KVM;
 * when it is unloaded KVM is as it was.
 */
#include <linux/module.h>

#include "pvtime.h"

#ifndef CONFIG_SCHED_INFO
#error "a kernel without CONFIG_SCHED_INFO does not know what was stolen"
#endif

static void retire(void)
{
	pvtime_params_retire();
	pvtime_probes_exit();
	pvtime_detach_all(NULL);
	srcu_barrier(&pvtime_srcu);
	pvtime_measure_exit();
}

static int __init pvtime_init(void)
{
	int error = pvtime_measure_init();

	if (error)
		return error;
	error = pvtime_probes_init();
	if (error) {
		pvtime_measure_exit();
		return error;
	}
	error = pvtime_params_apply();
	if (!error)
		error = pvtime_device_init();
	if (error)
		retire();
	return error;
}

static void __exit pvtime_exit(void)
{
	pvtime_device_exit();
	retire();
}

module_init(pvtime_init);
module_exit(pvtime_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stolen time on arm64 KVM in hypervisor's, user space's and guest's memory, to be compared");
