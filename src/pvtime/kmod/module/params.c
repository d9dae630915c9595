// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's parameters: insmod pvtime_kvm.ko method=cached, or /sys/module/pvtime_kvm/parameters/.
 *
 * method	Update of the vCPUs whose structure user space provides: kvm (default: KVM's own, untouched),
 *		merged, parts or cached. Those that are attached to /dev/pvtime have straight stores or x86's way.
 * moment	load (default: as KVM), or entry: at each entry to the guest too, of all vCPUs with stolen time.
 * mistakes	Mistakes to make on purpose, one for each vCPU: see mistakes.c.
 * measure	Y: measure the updates that the module makes; read(2) of /dev/pvtime has the figures.
 * unit		(read-only) instructions or ticks: the figures' unit.
 * updates	(read-only) number of updates that the module has made.
 */
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "pvtime.h"

static const char *const methods[] = { "kvm", "merged", "parts", "cached" };
static const char *const moments[] = { "load", "entry" };

static int method, moment;
static bool measure, started;
static atomic_long_t updates;

enum pvtime_method pvtime_method(void)
{
	return READ_ONCE(method);
}

bool pvtime_measuring(void)
{
	return READ_ONCE(measure);
}

void pvtime_count_update(void)
{
	atomic_long_inc(&updates);
}

static int set_method(const char *value, const struct kernel_param *param)
{
	int index = sysfs_match_string(methods, value);

	if (index < 0)
		return -EINVAL;
	WRITE_ONCE(method, index);
	return 0;
}

static int get_method(char *to, const struct kernel_param *param)
{
	return sysfs_emit(to, "%s\n", methods[method]);
}

static int set_moment(const char *value, const struct kernel_param *param)
{
	int index = sysfs_match_string(moments, value), error = 0;

	if (index < 0)
		return -EINVAL;
	if (started && index != moment) /* else pvtime_params_apply() does it */
		error = pvtime_probe_exits(index);
	if (!error)
		moment = index;
	return error;
}

static int get_moment(char *to, const struct kernel_param *param)
{
	return sysfs_emit(to, "%s\n", moments[moment]);
}

static int get_unit(char *to, const struct kernel_param *param)
{
	return sysfs_emit(to, "%s\n", pvtime_unit());
}

static int get_updates(char *to, const struct kernel_param *param)
{
	return sysfs_emit(to, "%ld\n", atomic_long_read(&updates));
}

static const struct kernel_param_ops method_ops = { .set = set_method, .get = get_method };
static const struct kernel_param_ops moment_ops = { .set = set_moment, .get = get_moment };
static const struct kernel_param_ops unit_ops = { .get = get_unit };
static const struct kernel_param_ops updates_ops = { .get = get_updates };

module_param_cb(method, &method_ops, NULL, 0644);
module_param_cb(moment, &moment_ops, NULL, 0644);
module_param(measure, bool, 0644);
module_param_cb(unit, &unit_ops, NULL, 0444);
module_param_cb(updates, &updates_ops, NULL, 0444);

/* Bring into effect what insmod was given. */
int pvtime_params_apply(void)
{
	int error = 0;

	kernel_param_lock(THIS_MODULE);
	if (moment)
		error = pvtime_probe_exits(true);
	started = !error;
	kernel_param_unlock(THIS_MODULE);
	return error;
}

void pvtime_params_retire(void)
{
	kernel_param_lock(THIS_MODULE);
	if (moment)
		pvtime_probe_exits(false);
	moment = 0;
	started = false;
	kernel_param_unlock(THIS_MODULE);
}
