// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The checks of stolen time, in KTAP and as one plain line each.
 *
 * A rule is Arm DEN0057A's where no other source is named. What only the host can know is printed as data:
 * each vCPU's count at two moments, for the host to compare with what it took from the vCPU's thread.
 */
#include "judge.h"

#define ALIGN		64
#define MEANINGFUL	16
#define STOLEN		8
#define SMCCC_1_1	0x10001
#define UNUSED_CALL	0xc500003full
#define SMC64		0x40000000u
#define SETTLE_NS	200000000ul
#define ROUNDS		2
#define OFF_ROUNDS	5
#define NAPS		10
#define NAP_MS		20

enum verdict { PASS, FAIL, SKIP };

static u64 structure[MAX_CPUS];
static u64 asked_at[MAX_CPUS];		/* the counter before the last PV_TIME_ST */
static u32 online;			/* CPUs that were started */
static bool announced;			/* PV_TIME_ST is, on the first CPU */
static u32 number;
static const char *reason;

static u64 count_of(u32 cpu)
{
	return *(volatile u64 *)(structure[cpu] + STOLEN);
}

static void detail(const char *name, u64 value)
{
	put("# ");
	put(name);
	put(" ");
	put_hex(value);
	put("\n");
}

static enum verdict fail(const char *why)
{
	reason = why;
	return FAIL;
}

static enum verdict skip(const char *why)
{
	reason = why;
	return SKIP;
}

static void detail_of(u32 cpu, const char *name, u64 value)
{
	put("# cpu ");
	put_dec(cpu);
	put(": ");
	put(name);
	put(" ");
	put_hex(value);
	put("\n");
}

/* Every answer of every CPU must be the first one's. */
static bool all_answer(u32 function, u64 argument, s64 wanted)
{
	bool right = true;

	for (u32 cpu = 0; cpu < online; cpu++) {
		s64 answer = call_on(cpu, function, argument);

		if (answer != wanted) {
			detail_of(cpu, "answered", (u64)answer);
			right = false;
		}
	}
	return right;
}

static enum verdict all_cpus_start(void)
{
	online = 1;
	for (u32 cpu = 1; cpu < machine.cpus; cpu++) {
		if (!start_cpu(cpu))
			return fail("PSCI CPU_ON did not start every CPU that the device tree or ACPI has");
		online++;
	}
	return PASS;
}

static enum verdict smccc_version(void)
{
	s64 version;

	if (call(PSCI_FEATURES, SMCCC_VERSION, 0, 0) < 0)
		return skip("SMCCC is older than 1.1: there is no way to ask for stolen time");
	version = call(SMCCC_VERSION, 0, 0, 0);
	detail("SMCCC_VERSION", (u64)version);
	return version >= SMCCC_1_1 ? PASS : skip("SMCCC is older than 1.1");
}

/* Arm DEN0028, 7.2 to 7.4, and the kernel's drivers/clocksource or arch/arm64/kernel/paravirt.c. */
static enum verdict discovery_agrees(void)
{
	s64 arch = call(SMCCC_ARCH_FEATURES, PV_TIME_FEATURES, 0, 0);
	s64 itself = call(PV_TIME_FEATURES, PV_TIME_FEATURES, 0, 0);
	s64 st = call(PV_TIME_FEATURES, PV_TIME_ST, 0, 0);

	detail("ARCH_FEATURES(PV_TIME_FEATURES)", (u64)arch);
	detail("PV_TIME_FEATURES(PV_TIME_FEATURES)", (u64)itself);
	detail("PV_TIME_FEATURES(PV_TIME_ST)", (u64)st);
	announced = arch >= 0 && st == 0;
	if (arch < 0 && (itself == 0 || st == 0))
		return fail("ARCH_FEATURES says no where PV_TIME_FEATURES says yes");
	if (st == 0 && itself != 0)
		return fail("PV_TIME_FEATURES does not know itself");
	return PASS;
}

static enum verdict is_announced(void)
{
	return announced ? PASS : skip("this machine announces no stolen time");
}

static enum verdict every_cpu_agrees(void)
{
	s64 wanted = announced ? 0 : NOT_SUPPORTED;

	if (!all_answer(PV_TIME_FEATURES, PV_TIME_ST, wanted))
		return fail("PV_TIME_FEATURES(PV_TIME_ST) differs from CPU to CPU: Linux keeps such a CPU offline");
	return PASS;
}

static enum verdict unknown_is_refused(void)
{
	if (!all_answer(PV_TIME_FEATURES, UNUSED_CALL, NOT_SUPPORTED))
		return fail("PV_TIME_FEATURES knows a call that does not exist");
	return PASS;
}

static enum verdict ids_of_32_bits(void)
{
	s64 features = call(PV_TIME_FEATURES & ~SMC64, PV_TIME_ST & ~SMC64, 0, 0);
	s64 st = call(PV_TIME_ST & ~SMC64, 0, 0, 0);

	if ((int32_t)features != NOT_SUPPORTED || (int32_t)st != NOT_SUPPORTED)
		return fail("the calls are answered with 32-bit ids, which they do not have");
	return PASS;
}

static enum verdict live_physical_time(void)
{
	s64 features = call(PV_TIME_FEATURES, PV_TIME_LPT, 0, 0);

	detail("PV_TIME_FEATURES(0xc5000022)", (u64)features);
	if (features == 0 && call(PV_TIME_ST, 0, 0, 0) == NOT_SUPPORTED)
		return fail("stolen time is at 0xc5000022, as in the drafts of 2019: it is 0xc5000021");
	return features == NOT_SUPPORTED ? PASS : skip("something is at 0xc5000022, Live Physical Time's number");
}

static enum verdict every_cpu_has_one(void)
{
	bool right = true;

	for (u32 cpu = 0; cpu < online; cpu++) {
		s64 answer;

		asked_at[cpu] = counter();
		answer = call_on(cpu, PV_TIME_ST, 0);
		detail_of(cpu, "PV_TIME_ST", (u64)answer);
		if (answer < 0)
			right = false;
		structure[cpu] = answer < 0 ? NONE : (u64)answer;
	}
	if (!announced) {
		for (u32 cpu = 0; cpu < online; cpu++)
			if (structure[cpu] != NONE)
				return fail("PV_TIME_ST gives an address and nothing announces it");
		return skip("this machine announces no stolen time");
	}
	return right ? PASS : fail("PV_TIME_ST gives no address where PV_TIME_FEATURES announces it");
}

static bool is_in(u64 at, const struct range *range)
{
	return at + ALIGN > range->base && at < range->base + range->size;
}

static enum verdict addresses(void)
{
	for (u32 cpu = 0; cpu < online; cpu++) {
		u64 at = structure[cpu];

		if (at & (ALIGN - 1))
			return fail("a structure is not aligned to 64 bytes");
		for (u32 i = 0; i < machine.rams; i++)
			if (is_in(at, &machine.ram[i])) {
				detail_of(cpu, "structure", at);
				detail("RAM begins", machine.ram[i].base);
				detail("RAM ends", machine.ram[i].base + machine.ram[i].size);
				return fail("a structure is in what the device tree or UEFI calls RAM: Linux would use it as such");
			}
		for (u32 other = 0; other < cpu; other++)
			if (at < structure[other] + ALIGN && structure[other] < at + ALIGN)
				return fail("two CPUs have one structure: each counts what is stolen from the other");
		if (is_in(at, &machine.uart) || is_in(at, &machine.gic) || is_in(at, &machine.gic_cpu))
			return fail("a structure is in the registers of the console, or of the interrupt controller");
	}
	return PASS;
}

/* Exclusive accesses work on normal, cacheable memory alone. */
static enum verdict normal_memory(void)
{
	for (u32 cpu = 0; cpu < online; cpu++) {
		map_normal(structure[cpu], ALIGN);
		for (u64 offset = 0; offset < ALIGN; offset += 8) {
			probe_failed = 0;
			load_exclusive(structure[cpu] + offset);
			if (probe_failed) {
				detail_of(cpu, "fault at", structure[cpu] + offset);
				return fail("there is no memory at a structure's address");
			}
		}
	}
	return PASS;
}

static enum verdict header(void)
{
	for (u32 cpu = 0; cpu < online; cpu++) {
		u64 first = *(volatile u64 *)structure[cpu];

		if (first) {
			detail_of(cpu, "revision and attributes", first);
			return fail("revision and attributes must be 0");
		}
	}
	return PASS;
}

static enum verdict padding(void)
{
	bool right = true;

	for (u32 cpu = 0; cpu < online; cpu++)
		for (u64 offset = MEANINGFUL; offset < ALIGN; offset += 8) {
			u64 word = *(volatile u64 *)(structure[cpu] + offset);

			if (word) {
				detail_of(cpu, "offset in the structure", offset);
				detail_of(cpu, "word there", word);
				right = false;
			}
		}
	return right ? PASS : fail("something was written beyond a structure's 16 bytes");
}

/* No CPU can have lost more than the time since its PV_TIME_ST, which starts its count anew. */
static enum verdict bounded(void)
{
	for (u32 cpu = 0; cpu < online; cpu++) {
		u64 count = count_of(cpu);
		u64 passed = ticks_to_ns(counter() - asked_at[cpu] + 1);

		if (count > passed) {
			detail_of(cpu, "count in ns", count);
			detail_of(cpu, "ns since PV_TIME_ST", passed);
			return fail("more was stolen than time has passed");
		}
	}
	return PASS;
}

static enum verdict starts_again(void)
{
	for (u32 cpu = 0; cpu < online; cpu++) {
		u64 before = counter();
		s64 answer = call_on(cpu, PV_TIME_ST, 0);
		u64 count = count_of(cpu);
		u64 passed = ticks_to_ns(counter() - before + 1);

		asked_at[cpu] = before;
		if ((u64)answer != structure[cpu])
			return fail("a second PV_TIME_ST gives another address");
		if (count > passed) {
			detail_of(cpu, "count in ns", count);
			return fail("PV_TIME_ST did not start the count at 0");
		}
	}
	return PASS;
}

/*
 * Give the host time to read its own figures between a PV_TIME_ST and a count, or the reverse, and the console
 * time to arrive. Nobody steals meanwhile.
 */
static void settle(void)
{
	u64 since = counter();

	while (ticks_to_ns(counter() - since) < SETTLE_NS)
		;
}

/*
 * Print the counts for the host to compare. The other CPUs are off then: their counts are up to date, which those
 * of CPUs that wait are not, and the host's figures stay what they are, however long the console takes.
 */
static bool print_counts_once(const char *moment)
{
	for (u32 cpu = online - 1; cpu; cpu--)
		if (!stop_cpu(cpu))
			return false;
	settle();
	for (u32 cpu = 0; cpu < online; cpu++) {
		put("pvtime-data: ");
		put(moment);
		put(" cpu=");
		put_dec(cpu);
		put(" stolen_ns=");
		put_dec(count_of(cpu));
		put(" clock_ns=");
		put_dec(ticks_to_ns(counter()));
		put("\n");
	}
	settle();
	for (u32 cpu = 1; cpu < online; cpu++)
		if (!start_cpu(cpu))
			return false;
	return true;
}

/*
 * More than once: a thread that had to wait on its way from the guest to its sleep has a wait that is not counted
 * before the CPU is on again. The host takes the readings that fit best.
 */
static bool print_counts(const char *moment)
{
	for (u32 round = 0; round < ROUNDS; round++)
		if (!print_counts_once(moment))
			return false;
	return true;
}

/* Every CPU computes and one reads its neighbour's count meanwhile, for the host to steal from them. */
static enum verdict never_falls(void)
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
static enum verdict off_and_on_under_load(void)
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
static enum verdict idle_is_not_stolen(void)
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

static enum verdict off_and_on(void)
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

struct check {
	const char *name;
	enum verdict (*run)(void);
	bool needs_structures;
	bool is_needed;			/* by others: it is made whatever is chosen */
};

static const struct check checks[] = {
	{ "cpus_start", all_cpus_start, false, true },
	{ "smccc_version", smccc_version, false, true },
	{ "discovery_agrees", discovery_agrees, false, true },
	{ "announced", is_announced, false, false },
	{ "every_cpu_agrees", every_cpu_agrees, false, false },
	{ "unknown_call_refused", unknown_is_refused, false, false },
	{ "ids_of_32_bits_refused", ids_of_32_bits, false, false },
	{ "no_live_physical_time", live_physical_time, false, false },
	{ "every_cpu_has_structure", every_cpu_has_one, false, true },
	{ "addresses", addresses, true, false },
	{ "normal_memory", normal_memory, true, true },
	{ "header", header, true, false },
	{ "padding", padding, true, false },
	{ "bounded_by_time", bounded, true, false },
	{ "starts_again", starts_again, true, false },
	{ "never_falls", never_falls, true, false },
	{ "off_and_on_under_load", off_and_on_under_load, true, false },
	{ "idle_is_not_stolen", idle_is_not_stolen, true, false },
	{ "bounded_under_load", bounded, true, false },
	{ "off_and_on", off_and_on, true, false },
	{ "padding_at_the_end", padding, true, false },
	{ "header_at_the_end", header, true, false },
};

static bool have_structures(void)
{
	for (u32 cpu = 0; cpu < online; cpu++)
		if (structure[cpu] == NONE)
			return false;
	return announced;
}

static void report(const struct check *check, enum verdict verdict)
{
	put(verdict == FAIL ? "not ok " : "ok ");
	put_dec(++number);
	put(" ");
	put(check->name);
	if (verdict == SKIP) {
		put(" # SKIP ");
		put(reason);
	}
	put("\n");
	if (verdict == FAIL) {
		put("# ");
		put(reason);
		put("\n");
	}
	put("pvtime-result: ");
	put(check->name);
	put(verdict == PASS ? " pass\n" : verdict == FAIL ? " fail\n" : " skip\n");
}

/* Whether a check is to be made. */
static bool is_chosen(const struct check *check)
{
	const char *list = machine.checks, *end = list + machine.checks_length;

	if (!list || check->is_needed)
		return true;
	while (list < end) {
		const char *name = check->name;

		while (list < end && *name && *list == *name) {
			list++;
			name++;
		}
		if (!*name && (list == end || *list == ','))
			return true;
		while (list < end && *list++ != ',')
			;
	}
	return false;
}

static bool normal_memory_failed;

void run_checks(void)
{
	const u32 count = sizeof(checks) / sizeof(checks[0]);

	u32 chosen = 0;

	for (u32 i = 0; i < count; i++)
		chosen += is_chosen(&checks[i]);
	put("KTAP version 1\n1..");
	put_dec(chosen);
	put("\n");
	for (u32 i = 0; i < count; i++) {
		const struct check *check = &checks[i];
		enum verdict verdict;

		if (!is_chosen(check))
			continue;
		if (check->needs_structures && (normal_memory_failed || !have_structures()))
			verdict = skip(announced ? "not every CPU has a structure in memory"
					: "this machine announces no stolen time");
		else
			verdict = check->run();
		if (verdict == FAIL && check->run == normal_memory)
			normal_memory_failed = true;
		report(check, verdict);
	}
}
