// SPDX-License-Identifier: GPL-2.0-or-later
/* The other CPUs: started by PSCI, they do what the first one commands. */
#include "judge.h"

#define AFFINITY_OFF	1
#define START_NS	5000000000ul
#define READ_NS		100000ul
#define MOST_READS	10

char stacks[MAX_CPUS][STACK_SIZE] __attribute__((aligned(16)));
volatile u32 probe_failed;
struct cpu cpus[MAX_CPUS];

u64 counter(void)
{
	u64 value;

	asm volatile("isb; mrs %0, cntvct_el0" : "=r"(value) :: "memory");
	return value;
}

u64 ticks_to_ns(u64 ticks)
{
	u64 frequency;

	asm volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	if (!frequency)
		return 0;
	return ticks / frequency * NS + ticks % frequency * NS / frequency;
}

/* Read a count and the clock close together: who is kept from running in between does so again. */
struct reading read_count(u64 structure)
{
	volatile u64 *count = (volatile u64 *)(structure + 8);
	struct reading best = { 0, 0 };
	u64 least = NONE;

	for (u32 reads = 0; reads < MOST_READS && least > READ_NS; reads++) {
		u64 before = ticks_to_ns(counter()), stolen = *count, after = ticks_to_ns(counter());

		if (after - before < least) {
			least = after - before;
			best = (struct reading){ stolen, after };
		}
	}
	return best;
}

/* Read a count until the counter's value; return by how much it fell at most. */
u64 watch(u64 structure, u64 until, u64 *reads)
{
	volatile u64 *count = (volatile u64 *)(structure + 8);
	u64 last = *count, worst = 0, number = 0;

	while (counter() < until) {
		u64 now = *count;

		if (now < last && last - now > worst)
			worst = last - now;
		last = now;
		number++;
	}
	*reads = number;
	return worst;
}

void secondary_main(u64 index)
{
	struct cpu *cpu = &cpus[index];
	u64 reads = 0;

	cpu->running = true;
	for (;;) {
		switch (cpu->command) {
		case CALL:
			cpu->result = call((u32)cpu->argument, cpu->until, 0, 0);
			break;
		case WATCH:
			cpu->result = (s64)watch(cpu->argument, cpu->until, &reads);
			cpu->reads = reads;
			break;
		case READ:
			cpu->reading = read_count(cpu->argument);
			break;
		case STOP:
			cpu->running = false;
			cpu->command = IDLE;
			call(PSCI_CPU_OFF, 0, 0, 0);
			break;
		default:
			asm volatile("yield");
			continue;
		}
		asm volatile("dmb ish" ::: "memory");
		cpu->command = IDLE;
	}
}

static bool within(u64 since)
{
	return ticks_to_ns(counter() - since) < START_NS;
}

bool start_cpu(u32 cpu)
{
	u64 since = counter();

	if (call(PSCI_CPU_ON, machine.mpidr[cpu], (u64)secondary_cpu, cpu))
		return false;
	while (!cpus[cpu].running && within(since))
		;
	return cpus[cpu].running;
}

bool stop_cpu(u32 cpu)
{
	u64 since = counter();

	cpus[cpu].command = STOP;
	while (call(PSCI_AFFINITY_INFO, machine.mpidr[cpu], 0, 0) != AFFINITY_OFF)
		if (!within(since))
			return false;
	return true;
}

void begin(u32 cpu, enum command command, u64 argument, u64 until)
{
	cpus[cpu].argument = argument;
	cpus[cpu].until = until;
	asm volatile("dmb ish" ::: "memory");
	cpus[cpu].command = command;
}

void await(u32 cpu)
{
	while (cpus[cpu].command != IDLE)
		;
	asm volatile("dmb ish" ::: "memory");
}

s64 call_on(u32 cpu, u32 function, u64 argument)
{
	if (cpu == 0)
		return call(function, argument, 0, 0);
	begin(cpu, CALL, function, argument);
	await(cpu);
	return cpus[cpu].result;
}

struct reading read_on(u32 cpu, u64 structure)
{
	begin(cpu, READ, structure, 0);
	await(cpu);
	return cpus[cpu].reading;
}
