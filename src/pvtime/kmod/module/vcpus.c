// SPDX-License-Identifier: GPL-2.0-or-later
/* The vCPUs whose stolen time the module writes, found by the address of their struct kvm_vcpu. */
#include <linux/hashtable.h>
#include <linux/slab.h>

#include "pvtime.h"

DEFINE_SRCU(pvtime_srcu);

static DEFINE_HASHTABLE(vcpus, 10);
static DEFINE_SPINLOCK(lock); /* for changes; taken in probes too */

/* Hold pvtime_srcu, or the lock. */
struct pvtime_vcpu *pvtime_find(struct kvm_vcpu *vcpu)
{
	struct pvtime_vcpu *state;

	hash_for_each_possible_rcu(vcpus, state, node, (unsigned long)vcpu, srcu_read_lock_held(&pvtime_srcu))
		if (state->vcpu == vcpu)
			return state;
	return NULL;
}

static int add(struct pvtime_vcpu *state)
{
	unsigned long flags;
	int error = 0;

	spin_lock_irqsave(&lock, flags);
	if (pvtime_find(state->vcpu))
		error = -EEXIST;
	else
		hash_add_rcu(vcpus, &state->node, (unsigned long)state->vcpu);
	spin_unlock_irqrestore(&lock, flags);
	return error;
}

static void free_state(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct pvtime_vcpu, rcu));
}

/* Return the state of a vCPU whose structure user space provides; NULL: there is no memory for it now. */
struct pvtime_vcpu *pvtime_adopt(struct kvm_vcpu *vcpu)
{
	struct pvtime_vcpu *state = kzalloc(sizeof(*state), GFP_KERNEL);

	if (!state)
		return NULL;
	state->vcpu = vcpu;
	if (!add(state))
		return state;
	kfree(state);
	return pvtime_find(vcpu);
}

int pvtime_attach(struct kvm_vcpu *vcpu, const struct pvtime_attach *how, struct file *owner, void *memory)
{
	struct pvtime_vcpu *state;
	int error;

	if (how->placement != PVTIME_HYPERVISOR && how->placement != PVTIME_GUEST)
		return -EINVAL;
	if (how->placement == PVTIME_HYPERVISOR &&
	    ((how->ipa | how->offset) % 64 || how->offset >= PVTIME_REGION || how->ipa == INVALID_BASE))
		return -EINVAL;
	state = kzalloc(sizeof(*state), GFP_KERNEL);
	if (!state)
		return -ENOMEM;
	state->vcpu = vcpu;
	state->placement = how->placement;
	state->owner = owner;
	if (how->placement == PVTIME_HYPERVISOR)
		state->mapped = memory + how->offset;
	error = mutex_lock_killable(&vcpu->mutex); /* as every ioctl of a vCPU does */
	if (!error) {
		error = vcpu->arch.steal.base == INVALID_BASE ? add(state) : -EEXIST;
		if (!error && how->placement == PVTIME_HYPERVISOR)
			vcpu->arch.steal.base = how->ipa; /* from here on KVM requests an update at each load */
		mutex_unlock(&vcpu->mutex);
	}
	if (error)
		kfree(state);
	return error;
}

/* PVTIME_REGISTERED */
int pvtime_registered(struct kvm_vcpu *vcpu, struct pvtime_registered *registered)
{
	struct pvtime_vcpu *state;
	int idx, error;

	error = mutex_lock_killable(&vcpu->mutex);
	if (error)
		return error;
	idx = srcu_read_lock(&pvtime_srcu);
	state = pvtime_find(vcpu);
	if (!state || state->placement != PVTIME_GUEST)
		error = -ENOENT;
	else if (registered->restore)
		error = pvtime_x86_restore(state, registered->registration);
	if (!error) {
		registered->registration = state->registration;
		registered->starts = state->starts;
		registered->run_delay = state->run_delay;
	}
	srcu_read_unlock(&pvtime_srcu, idx);
	mutex_unlock(&vcpu->mutex);
	return error;
}

/* For a vCPU that is being destroyed; callable in a probe. */
void pvtime_forget(struct kvm_vcpu *vcpu)
{
	struct pvtime_vcpu *state;
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	state = pvtime_find(vcpu);
	if (state)
		hash_del_rcu(&state->node);
	spin_unlock_irqrestore(&lock, flags);
	if (state)
		call_srcu(&pvtime_srcu, &state->rcu, free_state);
}

/*
 * Detach the vCPUs of a descriptor that is being closed, NULL: all. Nothing of it is in use afterwards. What is
 * left of a vCPU, KVM writes by itself, at the IPA that it has.
 */
void pvtime_detach_all(struct file *owner)
{
	struct pvtime_vcpu *state;
	struct hlist_node *next;
	unsigned long flags;
	int bucket;

	spin_lock_irqsave(&lock, flags);
	hash_for_each_safe(vcpus, bucket, next, state, node) {
		if (owner && state->owner != owner)
			continue;
		hash_del_rcu(&state->node);
		call_srcu(&pvtime_srcu, &state->rcu, free_state);
	}
	spin_unlock_irqrestore(&lock, flags);
	synchronize_srcu(&pvtime_srcu);
}

/* Whether another vCPU of the same VM has registered this address. */
bool pvtime_is_taken(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct pvtime_vcpu *state;
	int bucket;

	hash_for_each_rcu(vcpus, bucket, state, node)
		if (state->vcpu != vcpu && state->vcpu->kvm == vcpu->kvm && state->placement == PVTIME_GUEST &&
		    READ_ONCE(state->registration) == (gpa | 1))
			return true;
	return false;
}
