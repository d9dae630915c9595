// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Page tables: the first 512 GiB, identity mapped, as devices but for RAM and the stolen-time structures.
 *
 * Without them all memory is device memory, which has no exclusive accesses (Arm DDI0487, D8.2.12).
 */
#include "judge.h"

#define PAGE		4096ul
#define SHIFT_1		30
#define ENTRIES		512
#define TABLES		64

#define VALID		(1ul << 0)
#define TABLE		(1ul << 1)	/* or a page, at the last level */
#define ACCESSED	(1ul << 10)
#define INNER		(3ul << 8)
#define NORMAL		(1ul << 2)	/* MAIR's second attribute */
#define NO_EXECUTE	(3ul << 53)
#define ADDRESS		0x0000fffffffff000ul

#define AS_DEVICE	(VALID | ACCESSED | NO_EXECUTE)
#define AS_NORMAL	(VALID | ACCESSED | INNER | NORMAL)

#define MAIR		0xff00ul	/* device nGnRnE; normal, write-back */
#define TCR_39_BITS	(25ul | 25ul << 16)
#define TCR_CACHED	(1ul << 8 | 1ul << 10 | 3ul << 12)
#define TCR_NO_TTBR1	(1ul << 23)
#define TCR_IPS		32
#define SCTLR_M_C_I	(1ul << 0 | 1ul << 2 | 1ul << 12)

static u64 root[ENTRIES] __attribute__((aligned(4096)));
static u64 tables[TABLES][ENTRIES] __attribute__((aligned(4096)));
static u32 used;
static bool is_on;

/* The compiler calls it. */
void *memset(void *to, int value, size_t size)
{
	volatile u8 *at = to;

	while (size--)
		*at++ = (u8)value;
	return to;
}

static u64 *next_level(u64 *entry, u32 shift)
{
	u64 *table;

	if (*entry & TABLE && shift > 12)
		return (u64 *)(*entry & ADDRESS);
	if (used == TABLES)
		return NULL;
	table = tables[used++];
	for (u64 i = 0; i < ENTRIES; i++)
		table[i] = *entry + (i << (shift - 9)) + (shift == 21 ? TABLE : 0);
	/* Break before make: nobody uses what is in this entry, but the walker may have it. */
	*entry = 0;
	if (is_on)
		asm volatile("dsb ishst; tlbi vmalle1is; dsb ish; isb" ::: "memory");
	*entry = (u64)table | TABLE | VALID;
	return table;
}

/* Map memory as normal memory; the structures are, too (Arm DEN0057A, 3.2.3). */
void map_normal(u64 base, u64 size)
{
	u64 end = (base + size + PAGE - 1) & ~(PAGE - 1);

	base &= ~(PAGE - 1);
	while (base < end && base >> SHIFT_1 < ENTRIES) {
		u64 *entry = &root[base >> SHIFT_1];
		u32 shift = SHIFT_1;

		while (shift > 12 && (base & ((1ul << shift) - 1) || end - base < 1ul << shift)) {
			u64 *table = next_level(entry, shift);

			if (!table)
				return;
			shift -= 9;
			entry = &table[base >> shift & (ENTRIES - 1)];
		}
		if (shift > 12 && *entry & TABLE) {	/* in parts already */
			base += 1ul << shift;
			continue;
		}
		*entry = base | AS_NORMAL | (shift == 12 ? TABLE : 0);
		base += 1ul << shift;
	}
	if (is_on)
		asm volatile("dsb ishst; tlbi vmalle1is; dsb ish; isb" ::: "memory");
}

static void invalidate_image(void)
{
	for (char *at = _head; at < _end; at += 16)
		asm volatile("dc civac, %0" :: "r"(at) : "memory");
	asm volatile("dsb sy; ic iallu; dsb sy; isb" ::: "memory");
}

void build_page_tables(const void *tree)
{
	for (u64 i = 0; i < ENTRIES; i++)
		root[i] = i << SHIFT_1 | AS_DEVICE;
	for (u32 i = 0; i < machine.rams; i++)
		map_normal(machine.ram[i].base, machine.ram[i].size);
	if (tree)
		map_normal((u64)tree, PAGE);
	invalidate_image();
	is_on = true;
}

void enable_mmu(void)
{
	u64 features, sctlr;

	asm volatile("mrs %0, id_aa64mmfr0_el1" : "=r"(features));
	asm volatile("msr mair_el1, %0" :: "r"(MAIR));
	asm volatile("msr tcr_el1, %0" :: "r"(TCR_39_BITS | TCR_CACHED | TCR_NO_TTBR1 | (features & 7) << TCR_IPS));
	asm volatile("msr ttbr0_el1, %0; isb; tlbi vmalle1; dsb nsh; isb" :: "r"((u64)root));
	asm volatile("mrs %0, sctlr_el1" : "=r"(sctlr));
	asm volatile("msr sctlr_el1, %0; isb" :: "r"(sctlr | SCTLR_M_C_I));
}
