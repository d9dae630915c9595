// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Approach 3, x86's way: the guest registers an address in its own memory.
 *
 * The update is record_steal_time and kvm_steal_time_set_preempted of Linux 6.1's arch/x86/kvm/x86.c, without
 * Xen and remote TLB flushes. The guest registers by calls of pvtime's own (abi/registration.py), for arm64 has
 * no MSR: one address a vCPU, which must be disabled before another one is taken.
 */
#include <kvm/arm_hypercalls.h>

#include "pvtime.h"

#define ENABLE 1
#define RESERVED 0x3e

enum { FEATURES = 0xc6000020, SET = 0xc6000021, GET = 0xc6000022 };
enum { SUCCESS = 0, NOT_SUPPORTED = -1, INVALID_PARAMETER = -3, IN_USE = -4 };

/* Return the structure's address in this process; NULL: it is not in a memory slot now. */
static struct x86_steal_time __user *locate(struct pvtime_vcpu *state)
{
	struct gfn_to_hva_cache *cache = &state->cache;
	struct kvm *kvm = state->vcpu->kvm;
	gpa_t gpa = state->registration & ~(u64)(ENABLE | RESERVED);

	if (unlikely(kvm_memslots(kvm)->generation != cache->generation || gpa != cache->gpa ||
		     kvm_is_error_hva(cache->hva) || !cache->memslot) &&
	    (kvm_gfn_to_hva_cache_init(kvm, cache, gpa, sizeof(struct x86_steal_time)) ||
	     kvm_is_error_hva(cache->hva) || !cache->memslot))
		return NULL;
	return (struct x86_steal_time __user *)cache->hva;
}

void pvtime_x86(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	struct x86_steal_time __user *st;
	u64 run_delay, steal;
	u32 version;
	int idx;

	if (!(state->registration & ENABLE) || current->mm != vcpu->kvm->mm)
		return;
	idx = srcu_read_lock(&vcpu->kvm->srcu);
	st = locate(state);
	if (!st)
		goto unlock;
	if (!user_access_begin(st, sizeof(*st)))
		goto unlock;
	unsafe_put_user(0, &st->preempted, out);
	state->preempted = false;
	unsafe_get_user(version, (u32 __user *)&st->version, out);
	if (version & 1)
		version += 1; /* first time write, random junk */
	version += 1;
	unsafe_put_user(version, (u32 __user *)&st->version, out);
	smp_wmb();
	unsafe_get_user(steal, (u64 __user *)&st->steal, out);
	run_delay = READ_ONCE(current->sched_info.run_delay);
	steal += run_delay - vcpu->arch.steal.last_steal;
	vcpu->arch.steal.last_steal = run_delay;
	unsafe_put_user(steal, (u64 __user *)&st->steal, out);
	smp_wmb(); /* x86 has its stores in order without it */
	version += 1;
	unsafe_put_user(version, (u32 __user *)&st->version, out);
out:
	user_access_end();
	mark_page_dirty_in_slot(vcpu->kvm, state->cache.memslot, gpa_to_gfn(state->cache.gpa));
unlock:
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
}

/* At a put. It must not sleep, and so only writes memory that is there. */
void pvtime_x86_set_preempted(struct pvtime_vcpu *state)
{
	static const u8 preempted = 1; /* KVM_VCPU_PREEMPTED */
	struct kvm_vcpu *vcpu = state->vcpu;
	struct x86_steal_time __user *st;
	int idx;

	if (!(state->registration & ENABLE) || state->preempted || !vcpu->preempted ||
	    current->mm != vcpu->kvm->mm)
		return;
	idx = srcu_read_lock(&vcpu->kvm->srcu);
	if (kvm_memslots(vcpu->kvm)->generation == state->cache.generation && state->cache.memslot &&
	    !kvm_is_error_hva(state->cache.hva)) {
		st = (struct x86_steal_time __user *)state->cache.hva;
		if (!copy_to_user_nofault(&st->preempted, &preempted, sizeof(preempted)))
			state->preempted = true;
		mark_page_dirty_in_slot(vcpu->kvm, state->cache.memslot, gpa_to_gfn(state->cache.gpa));
	}
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
}

/* Leave the guest's memory alone: it has disabled the structure, or the vCPU is reset. */
void pvtime_x86_clear(struct pvtime_vcpu *state)
{
	WRITE_ONCE(state->registration, 0);
	state->vcpu->arch.steal.base = INVALID_BASE;
}

/* Held from the look whether an address is taken to its registration. */
static DEFINE_MUTEX(registrations);

/* Have the structure at an address that can be written now; false: no structure can be there. */
static bool use(struct pvtime_vcpu *state, u64 registration, bool clear)
{
	struct kvm_vcpu *vcpu = state->vcpu;
	struct gfn_to_hva_cache *cache = &state->cache;
	struct x86_steal_time empty = {};
	gpa_t gpa = registration & ~(u64)ENABLE;
	bool good;
	int idx;

	if (registration & RESERVED)
		return false;
	mutex_lock(&registrations);
	idx = srcu_read_lock(&vcpu->kvm->srcu);
	good = !pvtime_is_taken(vcpu, gpa) && !kvm_gfn_to_hva_cache_init(vcpu->kvm, cache, gpa, sizeof(empty)) && cache->memslot &&
	       !kvm_is_error_hva(cache->hva) && !(cache->memslot->flags & KVM_MEM_READONLY) &&
	       (!clear || !kvm_write_guest_cached(vcpu->kvm, cache, &empty, sizeof(empty)));
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
	if (good) {
		state->preempted = false;
		WRITE_ONCE(state->registration, registration);
		vcpu->arch.steal.base = gpa; /* from here on KVM requests an update at each load */
	}
	mutex_unlock(&registrations);
	return good;
}

static long set(struct pvtime_vcpu *state, u64 value)
{
	if (!(value & ENABLE)) {
		pvtime_x86_clear(state);
		return SUCCESS;
	}
	if (state->registration & ENABLE)
		return IN_USE;
	if (!use(state, value, true))
		return INVALID_PARAMETER;
	state->run_delay = READ_ONCE(current->sched_info.run_delay);
	state->vcpu->arch.steal.last_steal = state->run_delay;
	state->starts++;
	return SUCCESS;
}

/* Continue where a saved guest was. The vCPU's mutex is held. */
int pvtime_x86_restore(struct pvtime_vcpu *state, u64 registration)
{
	if (!(registration & ENABLE)) {
		pvtime_x86_clear(state);
		return 0;
	}
	return use(state, registration, false) ? 0 : -EINVAL;
}

bool pvtime_x86_knows(u32 function)
{
	switch (function) {
	case FEATURES:
	case SET:
	case GET:
	case ARM_SMCCC_HV_PV_TIME_FEATURES:
	case ARM_SMCCC_HV_PV_TIME_ST:
		return true;
	}
	return false;
}

/* Answer a call that pvtime_x86_knows. DEN0057A's are not for a vCPU that has x86's structure. */
void pvtime_x86_call(struct pvtime_vcpu *state)
{
	struct kvm_vcpu *vcpu = state->vcpu;
	long answer = NOT_SUPPORTED;

	switch (smccc_get_function(vcpu)) {
	case FEATURES:
		switch ((u32)smccc_get_arg1(vcpu)) {
		case FEATURES:
		case SET:
		case GET:
			answer = SUCCESS;
		}
		break;
	case SET:
		answer = set(state, smccc_get_arg1(vcpu));
		break;
	case GET:
		answer = state->registration;
		break;
	}
	smccc_set_retval(vcpu, answer, 0, 0, 0);
}
