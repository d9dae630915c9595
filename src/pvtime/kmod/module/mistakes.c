// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Updates that are wrong on purpose, for pvtime judge to be tried on: a kernel could make these mistakes.
 *
 * The parameter mistakes has one for each vCPU, by its number: mistakes=microseconds,lost,beyond,none
 */
#include <linux/moduleparam.h>
#include <linux/string.h>

#include "pvtime.h"

#define COUNT offsetof(struct pvclock_vcpu_stolen_time, stolen_time)
#define MEANINGFUL (COUNT + sizeof(u64))
#define MOST 8

enum mistake { NONE, MICROSECONDS, LOST, BEYOND };

static const char *const names[] = { "none", "microseconds", "lost", "beyond" };
static int mistakes[MOST], number;

bool pvtime_mistaken(struct kvm_vcpu *vcpu)
{
	return vcpu->vcpu_id < READ_ONCE(number) && READ_ONCE(mistakes[vcpu->vcpu_id]) != NONE;
}

/* Another update than kvm_update_stolen_time; the dirty mark is kvm_write_guest's. */
void pvtime_mistake(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	u64 base = vcpu->arch.steal.base, run_delay = READ_ONCE(current->sched_info.run_delay), count, delta;
	int idx, mistake = READ_ONCE(mistakes[vcpu->vcpu_id]);
	__le64 value;

	if (base == INVALID_BASE)
		return;
	delta = run_delay - vcpu->arch.steal.last_steal;
	vcpu->arch.steal.last_steal = run_delay;
	idx = srcu_read_lock(&vcpu->kvm->srcu);
	if (kvm_read_guest(vcpu->kvm, base + COUNT, &value, sizeof(value)))
		goto out;
	count = le64_to_cpu(value);
	if (mistake == MICROSECONDS)
		count += delta / 1000;
	else if (mistake != LOST || !(run_delay & 1024)) /* about every other one */
		count += delta;
	value = cpu_to_le64(count);
	if (!kvm_write_guest(vcpu->kvm, base + COUNT, &value, sizeof(value)) && mistake == BEYOND)
		kvm_write_guest(vcpu->kvm, base + MEANINGFUL, &value, sizeof(value));
out:
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
}

static int set_mistakes(const char *value, const struct kernel_param *param)
{
	char *copy = kstrdup(value, GFP_KERNEL), *rest, *word;
	int found[MOST], count = 0, index, error = 0;

	if (!copy)
		return -ENOMEM;
	rest = strim(copy);
	while (!error && (word = strsep(&rest, ","))) {
		index = match_string(names, ARRAY_SIZE(names), word);
		if (index < 0 || count == MOST)
			error = -EINVAL;
		else
			found[count++] = index;
	}
	kfree(copy);
	if (error)
		return error;
	WRITE_ONCE(number, 0);
	for (index = 0; index < count; index++)
		WRITE_ONCE(mistakes[index], found[index]);
	smp_wmb();
	WRITE_ONCE(number, count);
	return 0;
}

static int get_mistakes(char *to, const struct kernel_param *param)
{
	int index, length = 0;

	for (index = 0; index < number; index++)
		length += sysfs_emit_at(to, length, "%s%s", index ? "," : "", names[mistakes[index]]);
	return length + sysfs_emit_at(to, length, "\n");
}

static const struct kernel_param_ops mistakes_ops = { .set = set_mistakes, .get = get_mistakes };

module_param_cb(mistakes, &mistakes_ops, NULL, 0644);
