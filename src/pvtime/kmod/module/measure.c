// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Measurement points round the updates.
 *
 * Where the CPU counts instructions (an emulated one does under -icount), the count is of instructions; else of
 * ticks of the counter-timer. With each update a call of an empty function is measured in the same way: what is
 * in both is the measurement's own.
 */
#include <linux/perf/arm_pmu.h>
#include <linux/perf_event.h>
#include <linux/timex.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "pvtime.h"

#define INST_RETIRED 0x08 /* Arm ARM, "PMU events" */
#define FIRST_EVENT 1	  /* armpmu's index of PMEVCNTR0; 0 is the cycle counter's */
#define RING (1 << 16)

static DEFINE_PER_CPU(struct perf_event *, events);
static bool instructions;

static struct pvtime_sample *ring;
static unsigned int oldest, newest; /* they run on, modulo 2^32 */
static DEFINE_SPINLOCK(ring_lock);

const char *pvtime_unit(void)
{
	return instructions ? "instructions" : "ticks";
}

/* Monotonic on one CPU. The instruction counter has 32 bits. */
u64 pvtime_counter(void)
{
	if (instructions)
		return read_sysreg(pmxevcntr_el0);
	return get_cycles();
}

/* Have pvtime_counter() read this CPU's counter. perf does not use PMSELR. */
static void select_counter(void)
{
	if (instructions) {
		write_sysreg(this_cpu_read(events)->hw.idx - FIRST_EVENT, pmselr_el0);
		isb();
	}
}

static noinline void nothing(struct kvm_vcpu *vcpu, struct pvtime_vcpu *state)
{
	barrier();
}

/*
 * Make an update, and note what it took unless another task ran meanwhile. An interrupt is not noticed, nor what
 * an emulator's other CPUs execute: the least figure of many is the update's own.
 */
void pvtime_measure(enum pvtime_method method, pvtime_update *update, struct kvm_vcpu *vcpu,
		    struct pvtime_vcpu *state)
{
	pvtime_update *calls[] = { nothing, update };
	enum pvtime_part part;

	for (part = PVTIME_NOTHING; part <= PVTIME_WHOLE; part++) {
		pvtime_update *call = calls[part];
		unsigned long switches = current->nvcsw + current->nivcsw;
		int cpu = raw_smp_processor_id();
		u64 from, to;

		select_counter();
		from = pvtime_counter();
		call(vcpu, state);
		to = pvtime_counter();
		if (method == PVTIME_PARTS && part == PVTIME_WHOLE)
			return; /* it has measured itself, which is most of the whole */
		if (cpu == raw_smp_processor_id() && switches == current->nvcsw + current->nivcsw)
			pvtime_note(method, part, vcpu, to - from);
	}
}

void pvtime_note(enum pvtime_method method, enum pvtime_part part, struct kvm_vcpu *vcpu, u64 count)
{
	unsigned long flags;

	if (instructions)
		count = (u32)count;
	spin_lock_irqsave(&ring_lock, flags);
	ring[newest++ % RING] = (struct pvtime_sample){ method, part, vcpu->vcpu_id, count };
	if (newest - oldest > RING)
		oldest = newest - RING;
	spin_unlock_irqrestore(&ring_lock, flags);
}

static bool take(struct pvtime_sample *sample)
{
	bool found;

	spin_lock_irq(&ring_lock);
	found = oldest != newest;
	if (found)
		*sample = ring[oldest++ % RING];
	spin_unlock_irq(&ring_lock);
	return found;
}

ssize_t pvtime_read_samples(char __user *to, size_t size)
{
	struct pvtime_sample sample;
	ssize_t done = 0;

	while (size - done >= sizeof(sample) && take(&sample)) {
		if (copy_to_user(to + done, &sample, sizeof(sample)))
			return done ? done : -EFAULT;
		done += sizeof(sample);
	}
	return done;
}

static void release_events(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct perf_event *event = per_cpu(events, cpu);

		per_cpu(events, cpu) = NULL;
		if (event)
			perf_event_release_kernel(event);
	}
}

/* Have every CPU count instructions in a counter that is ours until pvtime_measure_exit(). */
static bool count_instructions(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_RAW,
		.size = sizeof(attr),
		.config = INST_RETIRED,
		.pinned = 1,
	};
	int cpu;

	for_each_online_cpu(cpu) {
		struct perf_event *event = perf_event_create_kernel_counter(&attr, cpu, NULL, NULL, NULL);

		if (IS_ERR(event))
			return false;
		per_cpu(events, cpu) = event;
		if (event->state != PERF_EVENT_STATE_ACTIVE || event->hw.idx < FIRST_EVENT)
			return false;
	}
	return true;
}

/* Whether this CPU's counter moves: an emulator may accept the event and not count it. */
static bool counter_moves(void)
{
	u64 before, after;

	preempt_disable();
	select_counter();
	before = pvtime_counter();
	after = pvtime_counter();
	preempt_enable();
	return before != after;
}

int pvtime_measure_init(void)
{
	ring = vzalloc(array_size(RING, sizeof(*ring)));
	if (!ring)
		return -ENOMEM;
	instructions = count_instructions();
	if (instructions && !counter_moves())
		instructions = false;
	if (!instructions)
		release_events();
	return 0;
}

void pvtime_measure_exit(void)
{
	instructions = false;
	release_events();
	vfree(ring);
}
