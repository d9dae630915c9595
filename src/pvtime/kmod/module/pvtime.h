/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of pvtime_kvm share. */
#ifndef PVTIME_H
#define PVTIME_H

#include <linux/kvm_host.h>
#include <linux/srcu.h>
#include <asm/pvclock-abi.h>

#include "pvtime_uapi.h"

/* steal.base of a vCPU without stolen time */
#ifdef GPA_INVALID
#define INVALID_BASE GPA_INVALID /* its name up to Linux 6.1 */
#else
#define INVALID_BASE INVALID_GPA
#endif

/* struct kvm_steal_time of x86 (arch/x86/include/uapi/asm/kvm_para.h). */
struct x86_steal_time {
	__le64 steal;
	__le32 version;
	__le32 flags;
	__u8 preempted;
	__u8 u8_pad[3];
	__le32 pad[11];
};

/* A vCPU whose stolen time the module writes. */
struct pvtime_vcpu {
	struct hlist_node node;
	struct rcu_head rcu;
	struct kvm_vcpu *vcpu;
	u32 placement; /* 0: user space provides the structure, as merged */
	struct file *owner;			/* PVTIME_HYPERVISOR and _GUEST: the descriptor of /dev/pvtime */
	struct pvclock_vcpu_stolen_time *mapped; /* PVTIME_HYPERVISOR: in the kernel's own mapping */
	u64 registration;			/* PVTIME_GUEST: the address, and bit 0 where it is enabled */
	u64 starts, run_delay;			/* PVTIME_GUEST: struct pvtime_registered */
	bool preempted;				/* PVTIME_GUEST: the structure says so */
	struct gfn_to_hva_cache cache;		/* the others */
};

typedef void pvtime_update(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state);

/* params.c */
enum pvtime_method pvtime_method(void);
bool pvtime_measuring(void);
void pvtime_count_update(void);
int pvtime_params_apply(void);
void pvtime_params_retire(void);

/* vcpus.c */
extern struct srcu_struct pvtime_srcu; /* held from a probe's hit to the end of the function that it calls */
struct pvtime_vcpu *pvtime_find(struct kvm_vcpu *vcpu);
struct pvtime_vcpu *pvtime_adopt(struct kvm_vcpu *vcpu);
int pvtime_attach(struct kvm_vcpu *vcpu, const struct pvtime_attach *how, struct file *owner, void *memory);
int pvtime_registered(struct kvm_vcpu *vcpu, struct pvtime_registered *registered);
void pvtime_forget(struct kvm_vcpu *vcpu);
void pvtime_detach_all(struct file *owner);
bool pvtime_is_taken(struct kvm_vcpu *vcpu, gpa_t gpa);

/* update.c */
extern pvtime_update *pvtime_kvms_own; /* kvm_update_stolen_time itself, behind the probe */
extern pvtime_update pvtime_merged, pvtime_parts, pvtime_cached, pvtime_straight;

/* mistakes.c */
bool pvtime_mistaken(struct kvm_vcpu *vcpu);
extern pvtime_update pvtime_mistake;

/* x86.c */
extern pvtime_update pvtime_x86;
void pvtime_x86_set_preempted(struct pvtime_vcpu *state);
void pvtime_x86_clear(struct pvtime_vcpu *state);
bool pvtime_x86_knows(u32 function);
void pvtime_x86_call(struct pvtime_vcpu *state);
int pvtime_x86_restore(struct pvtime_vcpu *state, u64 registration);

/* measure.c */
u64 pvtime_counter(void);
const char *pvtime_unit(void);
void pvtime_measure(enum pvtime_method method, pvtime_update *update, struct kvm_vcpu *vcpu,
		    struct pvtime_vcpu *state);
void pvtime_note(enum pvtime_method method, enum pvtime_part part, struct kvm_vcpu *vcpu, u64 count);
ssize_t pvtime_read_samples(char __user *to, size_t size);
int pvtime_measure_init(void);
void pvtime_measure_exit(void);

/* probes.c */
int pvtime_probes_init(void);
void pvtime_probes_exit(void);
int pvtime_probe_guest_calls(bool on);
int pvtime_probe_exits(bool on);

/* device.c */
int pvtime_device_init(void);
void pvtime_device_exit(void);

#endif
