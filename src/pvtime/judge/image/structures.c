// SPDX-License-Identifier: GPL-2.0-or-later
/* Checks of the structures: where they are, what is in them, and that a count starts from 0. */
#include "checks.h"

#define MEANINGFUL	16

u64 count_of(u32 cpu)
{
	return *(volatile u64 *)(structure[cpu] + STOLEN);
}

static bool is_in(u64 at, const struct range *range)
{
	return at + ALIGN > range->base && at < range->base + range->size;
}

enum verdict addresses(void)
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
enum verdict normal_memory(void)
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

enum verdict header(void)
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

enum verdict padding(void)
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
enum verdict bounded(void)
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

enum verdict starts_again(void)
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
