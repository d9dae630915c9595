// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The updates of DEN0057A's structure: KVM's own, the same in parts, with a cached mapping, and straight.
 *
 * The merged one is kvm_update_stolen_time in the kernel's arch/arm64/kvm/pvtime.c.
 */
#include "pvtime.h"

#define COUNT offsetof(struct pvclock_vcpu_stolen_time, stolen_time)

pvtime_update *pvtime_kvms_own;

void pvtime_merged(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	pvtime_kvms_own(vcpu, state);
}

/* Approach 1: the structure is the kernel's own memory. It is one store, as the guest reads it with one load. */
void pvtime_straight(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	u64 last_steal = vcpu->arch.steal.last_steal;
	u64 run_delay = READ_ONCE(current->sched_info.run_delay);
	__le64 *count = &state->mapped->stolen_time;

	vcpu->arch.steal.last_steal = run_delay;
	WRITE_ONCE(*count, cpu_to_le64(le64_to_cpu(READ_ONCE(*count)) + run_delay - last_steal));
}

/* As merged, but the slot is looked up when the slots have changed, and not twice at each update. */
void pvtime_cached(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	struct gfn_to_hva_cache *cache = &state->cache;
	struct kvm *kvm = vcpu->kvm;
	u64 base = vcpu->arch.steal.base;
	u64 last_steal = vcpu->arch.steal.last_steal;
	__le64 __user *count;
	__le64 value;
	u64 run_delay;
	int idx;

	if (base == INVALID_BASE)
		return;
	idx = srcu_read_lock(&kvm->srcu);
	if (unlikely(kvm_memslots(kvm)->generation != cache->generation || cache->gpa != base || !cache->memslot) &&
	    (kvm_gfn_to_hva_cache_init(kvm, cache, base, sizeof(struct pvclock_vcpu_stolen_time)) ||
	     !cache->memslot))
		goto out;
	if (unlikely(kvm_is_error_hva(cache->hva)))
		goto out;
	count = (__le64 __user *)(cache->hva + COUNT);
	if (get_user(value, count))
		goto out;
	run_delay = READ_ONCE(current->sched_info.run_delay);
	/* Only now: what could not be written is added when the memory is back. */
	if (put_user(cpu_to_le64(le64_to_cpu(value) + run_delay - last_steal), count))
		goto out;
	vcpu->arch.steal.last_steal = run_delay;
	mark_page_dirty_in_slot(kvm, cache->memslot, gpa_to_gfn(base));
out:
	srcu_read_unlock(&kvm->srcu, idx);
}

/* kvm_update_stolen_time as it is in Linux 6.1, with kvm_get_guest and kvm_put_guest written out. */
void pvtime_parts(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	u64 at[PVTIME_NO_PART + 1];
	struct kvm *kvm = vcpu->kvm;
	u64 base = vcpu->arch.steal.base;
	u64 last_steal = vcpu->arch.steal.last_steal;
	gfn_t gfn = gpa_to_gfn(base + COUNT);
	unsigned long hva;
	__le64 value = 0;
	u64 steal;
	int error = -EFAULT, idx, part;

	if (base == INVALID_BASE)
		return;
	at[0] = pvtime_counter();
	at[PVTIME_SRCU_LOCK - 1] = pvtime_counter();
	idx = srcu_read_lock(&kvm->srcu);
	at[PVTIME_SRCU_LOCK] = pvtime_counter();
	hva = gfn_to_hva(kvm, gfn);
	at[PVTIME_READ_LOOKUP] = pvtime_counter();
	if (!kvm_is_error_hva(hva))
		error = get_user(value, (__le64 __user *)(hva + offset_in_page(base + COUNT)));
	at[PVTIME_GET_USER] = pvtime_counter();
	if (!error) {
		steal = le64_to_cpu(value);
		vcpu->arch.steal.last_steal = READ_ONCE(current->sched_info.run_delay);
		steal += vcpu->arch.steal.last_steal - last_steal;
		value = cpu_to_le64(steal);
		at[PVTIME_ADD] = pvtime_counter();
		hva = gfn_to_hva(kvm, gfn);
		at[PVTIME_WRITE_LOOKUP] = pvtime_counter();
		error = -EFAULT;
		if (!kvm_is_error_hva(hva))
			error = put_user(value, (__le64 __user *)(hva + offset_in_page(base + COUNT)));
		at[PVTIME_PUT_USER] = pvtime_counter();
		if (!error)
			mark_page_dirty(kvm, gfn);
		at[PVTIME_MARK_DIRTY] = pvtime_counter();
	}
	srcu_read_unlock(&kvm->srcu, idx);
	at[PVTIME_SRCU_UNLOCK] = pvtime_counter();
	if (error)
		return;
	for (part = PVTIME_SRCU_LOCK; part <= PVTIME_SRCU_UNLOCK; part++)
		pvtime_note(PVTIME_PARTS, part, vcpu, at[part] - at[part - 1]);
	pvtime_note(PVTIME_PARTS, PVTIME_NO_PART, vcpu, at[PVTIME_SRCU_LOCK - 1] - at[0]);
}
