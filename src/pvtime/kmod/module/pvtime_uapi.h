/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What user space and pvtime_kvm agree on: the device /dev/pvtime.
 *
 * mmap(2) gives PVTIME_REGION bytes of the kernel's own memory for structures of stolen time, new and empty
 * for each open(2). read(2) gives measurements, whole records of struct pvtime_sample, oldest first; 0 bytes:
 * there are none.
 *
 * pvtime's abi/pvtime_kmod.py has the same; tests/unit/kmod compares them.
 */
#ifndef PVTIME_UAPI_H
#define PVTIME_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define PVTIME_REGION 0x10000

/* Placements: who provides a vCPU's structure. */
#define PVTIME_HYPERVISOR 1 /* this device: the kernel stores straight into its own memory */
#define PVTIME_GUEST 2	    /* the guest, which registers an address as on x86 */

struct pvtime_attach {
	__s32 vcpu_fd;
	__u32 placement;
	__u64 ipa;    /* PVTIME_HYPERVISOR: where the guest finds the structure, a multiple of 64 */
	__u64 offset; /* and where it is in this device's memory, a multiple of 64 */
};

/*
 * Have the module write a vCPU's stolen time, until the vCPU or this descriptor is closed. The vCPU must not
 * run meanwhile.
 *
 * EBADF: not a vCPU; EINVAL: misaligned, outside, or no such placement; EEXIST: its stolen time has been set.
 */
#define PVTIME_ATTACH _IOW('P', 0xd0, struct pvtime_attach)

struct pvtime_registered {
	__s32 vcpu_fd;
	__u32 restore;
	__u64 registration; /* the address, and bit 0 where it is enabled */
	__u64 starts;	    /* registrations since the vCPU was attached */
	__u64 run_delay;    /* the vCPU's at the last one, which the count starts from */
};

/*
 * Tell what the guest has registered, of a vCPU that is attached as PVTIME_GUEST. With restore, set it first, and
 * count on from what is in the structure: for a vCPU that has not run.
 *
 * EBADF: not a vCPU; ENOENT: not attached so; EINVAL: no structure can be there.
 */
#define PVTIME_REGISTERED _IOWR('P', 0xd1, struct pvtime_registered)

/* How an update was made. */
enum pvtime_method {
	PVTIME_KVM,	 /* by KVM itself: nothing is measured */
	PVTIME_MERGED,	 /* by KVM's own function, called by the module */
	PVTIME_PARTS,	 /* by a copy of it, each part measured */
	PVTIME_CACHED,	 /* as merged, with the slot kept in a gfn_to_hva_cache */
	PVTIME_STRAIGHT, /* by a store to the kernel's mapping: placement hypervisor */
	PVTIME_X86,	 /* as record_steal_time does: placement guest */
};

/* What of it was measured. */
enum pvtime_part {
	PVTIME_NOTHING, /* a call of an empty function: what a measurement costs */
	PVTIME_WHOLE,
	PVTIME_SRCU_LOCK, /* these by PVTIME_PARTS alone, in their order */
	PVTIME_READ_LOOKUP,
	PVTIME_GET_USER,
	PVTIME_ADD,
	PVTIME_WRITE_LOOKUP,
	PVTIME_PUT_USER,
	PVTIME_MARK_DIRTY,
	PVTIME_SRCU_UNLOCK,
	PVTIME_NO_PART, /* two readings with nothing between them: what a part's measurement costs */
};

struct pvtime_sample {
	__u16 method;
	__u16 part;
	__u32 vcpu;
	__u64 count; /* in the unit that the parameter "unit" names */
};

#endif
