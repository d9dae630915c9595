// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Checks of the counts while the host steals. What only the host can know is printed as data: each vCPU's count at two
 * moments, for the host to compare with what it took from the vCPU's thread.
 */
#include "checks.h"

#define SETTLE_NS	80000000ul
#define LINE_NS		25000000ul
#define LINES		4
#define ROUNDS		2
#define OFF_ROUNDS	5
#define NAPS		10
#define NAP_MS		20

/* Give the host time to read its own figures, and the console time to arrive. */
static void settle(u64 ns)
{
	u64 since = counter();

	while (ticks_to_ns(counter() - since) < ns)
		;
}

static void print_count(const char *moment, u32 cpu, struct reading reading)
{
	put("pvtime-data: ");
	put(moment);
	put(" cpu=");
	put_dec(cpu);
	put(" stolen_ns=");
	put_dec(reading.stolen);
	put(" clock_ns=");
	put_dec(reading.clock_ns);
	put("\n");
}

/* Print the clock: no line comes before it was printed, and the later ones tell the host more of the clock. */
void print_clock(void)
{
	put("pvtime-data: clock_ns=");
	put_dec(ticks_to_ns(counter()));
	put("\n");
}

/*
 * Print the counts for the host to compare. A CPU that runs reads its own: then it is up to date. The other CPUs are off
 * while it is printed, and are read again: the host's figures stay what they are, however long the console takes, but a
 * thread that had to wait on its way to its sleep has a wait that is not counted before the CPU is on again.
 *
 * By its lines' clock the host finds the moment of each reading: a line may come late on a busy host, not all of them.
 */
static bool print_counts_once(const char *moment)
{
	static struct reading own[MAX_CPUS];

	settle(SETTLE_NS);
	for (u32 cpu = online - 1; cpu; cpu--) {
		own[cpu] = read_on(cpu, structure[cpu]);
		if (!stop_cpu(cpu))
			return false;
	}
	settle(SETTLE_NS);
	for (u32 cpu = 1; cpu < online; cpu++) {
		print_count(moment, cpu, own[cpu]);
		print_count(moment, cpu, read_count(structure[cpu]));
	}
	for (u32 line = 0; line < LINES; line++) {
		print_count(moment, 0, read_count(structure[0]));
		settle(LINE_NS);
	}
	settle(SETTLE_NS);
	for (u32 cpu = 1; cpu < online; cpu++)
		if (!start_cpu(cpu))
			return false;
	return true;
}

/* More than once: the host takes the readings that fit best. */
static bool print_counts(const char *moment)
{
	for (u32 round = 0; round < ROUNDS; round++)
		if (!print_counts_once(moment))
			return false;
	return true;
}

/* Every CPU computes and one reads its neighbour's count meanwhile, for the host to steal from them. */
enum verdict never_falls(void)
{
	u64 frequency, until, reads = 0, worst;
	u32 watcher = online - 1;

	asm volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	if (!print_counts("begin"))
		return fail("a CPU did not go off and on again");
	put("pvtime-phase: load\n");
	until = counter() + frequency * machine.seconds;
	for (u32 cpu = 1; cpu < online; cpu++)
		begin(cpu, WATCH, structure[cpu - 1], until);
	worst = watch(structure[watcher], until, &reads);
	for (u32 cpu = 1; cpu < online; cpu++) {
		await(cpu);
		reads += cpus[cpu].reads;
		if ((u64)cpus[cpu].result > worst)
			worst = (u64)cpus[cpu].result;
	}
	detail("reads", reads);
	if (worst) {
		detail("fell by ns", worst);
		return fail("a count fell under a reader");
	}
	return PASS;
}

/* Without a PV_TIME_ST, a CPU's count goes on where it was when the CPU went off. */
enum verdict off_and_on_under_load(void)
{
	u32 last = online - 1;

	if (online < 2)
		return skip("it takes two CPUs");
	for (u32 round = 0; round < OFF_ROUNDS; round++) {
		u64 before = count_of(last), after;

		if (!stop_cpu(last))
			return fail("PSCI CPU_OFF did not end a CPU");
		if (!start_cpu(last))
			return fail("PSCI CPU_ON did not start a CPU again");
		after = count_of(last);
		if (after < before) {
			detail("before", before);
			detail("after", after);
			return fail("a count fell when its CPU went off and on, without a PV_TIME_ST");
		}
	}
	return PASS;
}

/*
 * Sleep on the first CPU, for the host to see in the counts whether that was stolen. What a busy host steals at
 * the wake-ups cannot be told from it here.
 */
enum verdict idle_is_not_stolen(void)
{
	u64 frequency, until, slept = 0;
	bool is_ready = prepare_sleep(), asleep = is_ready;

	asm volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
	for (u32 naps = 0; naps < NAPS && asleep; naps++) {
		u64 nap = frequency / 1000 * NAP_MS;

		until = counter() + nap;
		asleep = sleep_until(until);
		slept += nap;		/* a wake-up may be late on a busy host, and that is stolen */
	}
	if (asleep) {
		put("pvtime-data: idle cpu=0 ns=");
		put_dec(ticks_to_ns(slept));
		put("\n");
	}
	put("pvtime-phase: calm\n");
	if (!print_counts("end"))
		return fail("a CPU did not go off and on again");
	if (!is_ready)
		return skip("no timer, or no interrupt controller that is known, is in the device tree or ACPI");
	return asleep ? PASS : skip("WFI does not sleep until a timer's interrupt");
}

enum verdict off_and_on(void)
{
	u32 last = online - 1;

	if (online < 2)
		return skip("it takes two CPUs");
	if (!stop_cpu(last))
		return fail("PSCI CPU_OFF did not end a CPU");
	if (!start_cpu(last))
		return fail("PSCI CPU_ON did not start a CPU again");
	asked_at[last] = counter();
	if ((u64)call_on(last, PV_TIME_ST, 0) != structure[last])
		return fail("a CPU that was off has another structure");
	return bounded();
}
