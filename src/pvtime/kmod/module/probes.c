// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The places in KVM where the module steps in.
 *
 * A kprobe at a function's first instruction moves the PC to a function of ours, which has the same first
 * argument and returns to the same caller: so it runs in the caller's context, and may sleep. KVM's own function
 * can still be called, behind the two instructions that a kprobe and ftrace patch.
 */
#include <linux/kprobes.h>
#include <linux/tracepoint.h>
#include <kvm/arm_hypercalls.h>
#include <asm/insn.h>

#include "pvtime.h"

#define NOP 0xd503201f
#define MOV_X9_LR 0xaa1e03e9 /* what ftrace makes of the first of a function's two NOPs */

static int redirect(struct pt_regs *regs, struct pvtime_vcpu *state, int idx, void *to)
{
	regs->regs[1] = (unsigned long)state;
	regs->regs[2] = idx;
	instruction_pointer_set(regs, (unsigned long)to);
	return 1;
}

/* kvm_update_stolen_time */

static pvtime_update *const updates[] = {
	[PVTIME_MERGED] = pvtime_merged,
	[PVTIME_PARTS] = pvtime_parts,
	[PVTIME_CACHED] = pvtime_cached,
	[PVTIME_STRAIGHT] = pvtime_straight,
	[PVTIME_X86] = pvtime_x86,
};

static void update(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state, int idx)
{
	enum pvtime_method method = pvtime_method();

	if (!state)
		state = pvtime_adopt(vcpu);
	if (state && state->placement)
		method = state->placement == PVTIME_GUEST ? PVTIME_X86 : PVTIME_STRAIGHT;
	if ((!state || !state->placement) && pvtime_mistaken(vcpu))
		pvtime_mistake(vcpu, state);
	else if (!state || method == PVTIME_KVM)
		pvtime_kvms_own(vcpu, state);
	else if (method == PVTIME_PARTS || pvtime_measuring())
		pvtime_measure(method, updates[method], vcpu, state);
	else
		updates[method](vcpu, state);
	pvtime_count_update();
	srcu_read_unlock(&pvtime_srcu, idx);
}

static int on_update(struct kprobe *probe, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)regs->regs[0];
	int idx = srcu_read_lock(&pvtime_srcu);
	struct pvtime_vcpu *state = pvtime_find(vcpu);

	if (pvtime_method() == PVTIME_KVM && !pvtime_mistaken(vcpu) && (!state || !state->placement)) {
		srcu_read_unlock(&pvtime_srcu, idx);
		return 0;
	}
	return redirect(regs, state, idx, update);
}

/* kvm_init_stolen_time: PV_TIME_ST */

static gpa_t init(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state, int idx)
{
	gpa_t base = vcpu->arch.steal.base;

	vcpu->arch.steal.last_steal = READ_ONCE(current->sched_info.run_delay);
	memset(state->mapped, 0, sizeof(*state->mapped));
	srcu_read_unlock(&pvtime_srcu, idx);
	return base;
}

static int on_init(struct kprobe *probe, struct pt_regs *regs)
{
	int idx = srcu_read_lock(&pvtime_srcu);
	struct pvtime_vcpu *state = pvtime_find((struct kvm_vcpu *)regs->regs[0]);

	if (state && state->placement == PVTIME_HYPERVISOR)
		return redirect(regs, state, idx, init);
	srcu_read_unlock(&pvtime_srcu, idx);
	return 0;
}

/* kvm_arch_vcpu_destroy */

static int on_destroy(struct kprobe *probe, struct pt_regs *regs)
{
	pvtime_forget((struct kvm_vcpu *)regs->regs[0]);
	return 0;
}

/* For the placement guest alone: kvm_hvc_call_handler, kvm_arch_vcpu_put, kvm_reset_vcpu */

static int call(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state, int idx)
{
	pvtime_x86_call(state);
	srcu_read_unlock(&pvtime_srcu, idx);
	return 1; /* back to the guest */
}

static int on_call(struct kprobe *probe, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)regs->regs[0];
	int idx = srcu_read_lock(&pvtime_srcu);
	struct pvtime_vcpu *state = pvtime_find(vcpu);

	if (state && state->placement == PVTIME_GUEST && pvtime_x86_knows(smccc_get_function(vcpu)))
		return redirect(regs, state, idx, call);
	srcu_read_unlock(&pvtime_srcu, idx);
	return 0;
}

static int with_guests_structure(struct pt_regs *regs, void (*what)(struct pvtime_vcpu *state))
{
	int idx = srcu_read_lock(&pvtime_srcu);
	struct pvtime_vcpu *state = pvtime_find((struct kvm_vcpu *)regs->regs[0]);

	if (state && state->placement == PVTIME_GUEST)
		what(state);
	srcu_read_unlock(&pvtime_srcu, idx);
	return 0;
}

static int on_put(struct kprobe *probe, struct pt_regs *regs)
{
	return with_guests_structure(regs, pvtime_x86_set_preempted);
}

static int on_reset(struct kprobe *probe, struct pt_regs *regs)
{
	return with_guests_structure(regs, pvtime_x86_clear);
}

#define PROBE(name, handler, when) { .symbol_name = name, .pre_handler = handler, .flags = when }

static struct kprobe probes[] = {
	PROBE("kvm_update_stolen_time", on_update, 0),
	PROBE("kvm_init_stolen_time", on_init, 0),
	PROBE("kvm_arch_vcpu_destroy", on_destroy, 0),
	PROBE("kvm_hvc_call_handler", on_call, KPROBE_FLAG_DISABLED),
	PROBE("kvm_arch_vcpu_put", on_put, KPROBE_FLAG_DISABLED),
	PROBE("kvm_reset_vcpu", on_reset, KPROBE_FLAG_DISABLED),
};

static DEFINE_MUTEX(guests_lock);
static int guests;

/* Count those who need the probes of the placement guest. They cost every vCPU a trap at each put and call. */
int pvtime_probe_guest_calls(bool on)
{
	int error = 0, index;

	mutex_lock(&guests_lock);
	if (on ? guests++ == 0 : --guests == 0)
		for (index = 0; index < ARRAY_SIZE(probes) && !error; index++)
			if (probes[index].pre_handler == on_call || probes[index].pre_handler == on_put ||
			    probes[index].pre_handler == on_reset)
				error = on ? enable_kprobe(&probes[index]) : disable_kprobe(&probes[index]);
	mutex_unlock(&guests_lock);
	return error;
}

/* kvm_exit: so that there is an update at the next entry */

static struct tracepoint *exits;

static void on_exit(void *data, int ret, unsigned int esr_ec, unsigned long pc)
{
	struct kvm_vcpu *vcpu = kvm_get_running_vcpu();

	if (vcpu && vcpu->arch.steal.base != INVALID_BASE)
		kvm_make_request(KVM_REQ_RECORD_STEAL, vcpu);
}

static void compare(struct tracepoint *tracepoint, void *data)
{
	if (!strcmp(tracepoint->name, "kvm_exit"))
		exits = tracepoint;
}

int pvtime_probe_exits(bool on)
{
	int error;

	if (!exits)
		for_each_kernel_tracepoint(compare, NULL);
	if (!exits) {
		pr_err("pvtime_kvm: this kernel has no tracepoint kvm_exit: updates at entries cannot be had\n");
		return -ENOENT;
	}
	if (on)
		return tracepoint_probe_register(exits, on_exit, NULL);
	error = tracepoint_probe_unregister(exits, on_exit, NULL);
	tracepoint_synchronize_unregister();
	return error;
}

int pvtime_probes_init(void)
{
	int index, error;
	u32 *code;

	for (index = 0; index < ARRAY_SIZE(probes); index++) {
		error = register_kprobe(&probes[index]);
		if (error) {
			pr_err("pvtime_kvm: %s cannot be replaced in this kernel (%pe): it may be inlined there\n",
			       probes[index].symbol_name, ERR_PTR(error));
			goto out;
		}
	}
	code = (u32 *)probes[0].addr;
	if ((probes[0].opcode != NOP && probes[0].opcode != MOV_X9_LR) || code[1] != NOP) {
		pr_err("pvtime_kvm: %s does not begin with ftrace's two NOPs: it is traced now, or this kernel has none\n",
		       probes[0].symbol_name);
		error = -EOPNOTSUPP;
		goto out;
	}
	pvtime_kvms_own = (pvtime_update *)(code + 2);
	return 0;
out:
	while (index--)
		unregister_kprobe(&probes[index]);
	return error;
}

void pvtime_probes_exit(void)
{
	int index;

	for (index = 0; index < ARRAY_SIZE(probes); index++)
		unregister_kprobe(&probes[index]);
	/* unregister_kprobe() has waited for the handlers; this is for the functions that they have called. */
	synchronize_srcu(&pvtime_srcu);
	synchronize_rcu(); /* and for the few instructions after srcu_read_unlock(), which do not sleep */
}
