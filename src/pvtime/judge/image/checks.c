// SPDX-License-Identifier: GPL-2.0-or-later
/* The table of checks, the choice among them, and their results in KTAP and as one plain line each. */
#include "checks.h"

u64 structure[MAX_CPUS];
u64 asked_at[MAX_CPUS];
u32 online;
bool announced;
static u32 number;
static const char *reason;

void detail(const char *name, u64 value)
{
	put("# ");
	put(name);
	put(" ");
	put_hex(value);
	put("\n");
}

enum verdict fail(const char *why)
{
	reason = why;
	return FAIL;
}

enum verdict skip(const char *why)
{
	reason = why;
	return SKIP;
}

void detail_of(u32 cpu, const char *name, u64 value)
{
	put("# cpu ");
	put_dec(cpu);
	put(": ");
	put(name);
	put(" ");
	put_hex(value);
	put("\n");
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
	/* Before PV_TIME_ST is made again, at which a hypervisor may clear the whole structure. */
	{ "padding_under_load", padding, true, false },
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
