// SPDX-License-Identifier: GPL-2.0-or-later
/* Checks of discovery: the calls by which a guest asks for stolen time, on every CPU. */
#include "checks.h"

#define SMCCC_1_1	0x10001
#define UNUSED_CALL	0xc500003full
#define SMC64		0x40000000u

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

enum verdict all_cpus_start(void)
{
	online = 1;
	for (u32 cpu = 1; cpu < machine.cpus; cpu++) {
		if (!start_cpu(cpu))
			return fail("PSCI CPU_ON did not start every CPU that the device tree or ACPI has");
		online++;
	}
	return PASS;
}

enum verdict smccc_version(void)
{
	s64 version;

	if (call(PSCI_FEATURES, SMCCC_VERSION, 0, 0) < 0)
		return skip("SMCCC is older than 1.1: there is no way to ask for stolen time");
	version = call(SMCCC_VERSION, 0, 0, 0);
	detail("SMCCC_VERSION", (u64)version);
	return version >= SMCCC_1_1 ? PASS : skip("SMCCC is older than 1.1");
}

/* Arm DEN0028, 7.2 to 7.4, and the kernel's drivers/clocksource or arch/arm64/kernel/paravirt.c. */
enum verdict discovery_agrees(void)
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

enum verdict is_announced(void)
{
	return announced ? PASS : skip("this machine announces no stolen time");
}

enum verdict every_cpu_agrees(void)
{
	s64 wanted = announced ? 0 : NOT_SUPPORTED;

	if (!all_answer(PV_TIME_FEATURES, PV_TIME_ST, wanted))
		return fail("PV_TIME_FEATURES(PV_TIME_ST) differs from CPU to CPU: Linux keeps such a CPU offline");
	return PASS;
}

enum verdict unknown_is_refused(void)
{
	if (!all_answer(PV_TIME_FEATURES, UNUSED_CALL, NOT_SUPPORTED))
		return fail("PV_TIME_FEATURES knows a call that does not exist");
	return PASS;
}

enum verdict ids_of_32_bits(void)
{
	s64 features = call(PV_TIME_FEATURES & ~SMC64, PV_TIME_ST & ~SMC64, 0, 0);
	s64 st = call(PV_TIME_ST & ~SMC64, 0, 0, 0);

	if ((int32_t)features != NOT_SUPPORTED || (int32_t)st != NOT_SUPPORTED)
		return fail("the calls are answered with 32-bit ids, which they do not have");
	return PASS;
}

enum verdict live_physical_time(void)
{
	s64 features = call(PV_TIME_FEATURES, PV_TIME_LPT, 0, 0);

	detail("PV_TIME_FEATURES(0xc5000022)", (u64)features);
	if (features == 0 && call(PV_TIME_ST, 0, 0, 0) == NOT_SUPPORTED)
		return fail("stolen time is at 0xc5000022, as in the drafts of 2019: it is 0xc5000021");
	return features == NOT_SUPPORTED ? PASS : skip("something is at 0xc5000022, Live Physical Time's number");
}

enum verdict every_cpu_has_one(void)
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
