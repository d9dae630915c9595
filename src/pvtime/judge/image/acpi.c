// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ACPI's tables (ACPI 6.5; SPCR: Microsoft's specification 1.10), where the firmware gives no device tree: console,
 * CPUs, interrupt controller, timer, PSCI. Its memory is UEFI's map.
 *
 * All this runs before relocations are applied: see efi.c.
 */
#include "judge.h"

#define RSDP_XSDT		24
#define HEADER			36		/* bytes of a table's header */
#define LENGTH			4
#define SIGNATURE(a, b, c, d)	((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

#define SPCR_TYPE		36
#define SPCR_WIDTH		41		/* bits of a register */
#define SPCR_ACCESS		43
#define SPCR_ADDRESS		44
#define SPCR_16550		0x00
#define SPCR_16450		0x01
#define SPCR_PL011		0x03
#define SPCR_SBSA_32		0x0d
#define SPCR_SBSA		0x0e
#define SPCR_16550_BY_ADDRESS	0x12
#define ACCESS_4_BYTES		3
#define UART_SIZE		0x1000

#define MADT_ENTRIES		44
#define MADT_GICC		0x0b
#define MADT_GICD		0x0c
#define MADT_GICR		0x0e
#define GICC_FLAGS		12
#define GICC_BASE		32
#define GICC_GICR		60
#define GICC_MPIDR		68
#define GICC_SIZE		76
#define ENABLED			(1u << 0)
#define GICD_BASE		8
#define GICD_VERSION		20
#define GICR_BASE		4
#define GICR_LENGTH		12
#define FRAME			0x10000ul

#define FADT_ARM_FLAGS		129
#define FADT_USES_HVC		(1u << 1)

#define GTDT_PHYSICAL		56
#define GTDT_VIRTUAL		64
#define FIRST_PPI		16

static u64 number(const u8 *at, u32 bytes)
{
	u64 value = 0;

	while (bytes--)
		value = value << 8 | at[bytes];
	return value;
}

static void read_spcr(const u8 *table)
{
	u32 type = table[SPCR_TYPE];

	machine.pl011 = type == SPCR_PL011 || type == SPCR_SBSA_32 || type == SPCR_SBSA;
	if (!machine.pl011 && type != SPCR_16550 && type != SPCR_16450 && type != SPCR_16550_BY_ADDRESS)
		return;
	machine.uart.base = number(table + SPCR_ADDRESS, 8);
	machine.uart.size = UART_SIZE;
	if (table[SPCR_WIDTH] == 32 || table[SPCR_ACCESS] == ACCESS_4_BYTES) {	/* as Linux's "mmio32" */
		machine.io_width = 4;
		machine.reg_shift = 2;
	}
}

static void read_gicc(const u8 *entry, u32 size)
{
	u64 redistributor = number(entry + GICC_GICR, 8), mpidr;

	if (size < GICC_SIZE || !(number(entry + GICC_FLAGS, 4) & ENABLED) || machine.cpus == MAX_CPUS)
		return;
	machine.mpidr[machine.cpus++] = number(entry + GICC_MPIDR, 8);
	asm volatile("mrs %0, mpidr_el1" : "=r"(mpidr));
	if ((mpidr & MPIDR_AFFINITY) != machine.mpidr[machine.cpus - 1] || machine.gic_cpu.base)
		return;
	machine.gic_cpu.base = redistributor ? redistributor : number(entry + GICC_BASE, 8);
	machine.gic_cpu.size = 2 * FRAME;
}

static void read_madt(const u8 *table)
{
	u32 length = (u32)number(table + LENGTH, 4);

	for (u32 at = MADT_ENTRIES; at + 2 <= length && table[at + 1] >= 2; at += table[at + 1]) {
		const u8 *entry = table + at;

		if (entry[0] == MADT_GICC) {
			read_gicc(entry, entry[1]);
		} else if (entry[0] == MADT_GICD) {
			machine.gic.base = number(entry + GICD_BASE, 8);
			machine.gic.size = FRAME;
			machine.gic_v3 = entry[GICD_VERSION] >= 3;
		} else if (entry[0] == MADT_GICR) {
			machine.gic_cpu.base = number(entry + GICR_BASE, 8);
			machine.gic_cpu.size = number(entry + GICR_LENGTH, 4);
		}
	}
}

static void read_gtdt(const u8 *table)
{
	u32 virtual = (u32)number(table + GTDT_VIRTUAL, 4), physical = (u32)number(table + GTDT_PHYSICAL, 4);

	machine.timer_is_virtual = virtual >= FIRST_PPI;
	machine.has_timer = machine.timer_is_virtual || physical >= FIRST_PPI;
	machine.timer_ppi = (machine.timer_is_virtual ? virtual : physical) - FIRST_PPI;
}

/* Read what matters; false: there is no console that is known, or no CPU. */
bool read_acpi(const u8 *rsdp)
{
	const u8 *xsdt = (const u8 *)number(rsdp + RSDP_XSDT, 8);
	u32 length = xsdt ? (u32)number(xsdt + LENGTH, 4) : 0;

	for (u32 at = HEADER; at + 8 <= length; at += 8) {
		const u8 *table = (const u8 *)number(xsdt + at, 8);
		u32 signature = (u32)number(table, 4);

		if (signature == SIGNATURE('S', 'P', 'C', 'R'))
			read_spcr(table);
		else if (signature == SIGNATURE('A', 'P', 'I', 'C'))
			read_madt(table);
		else if (signature == SIGNATURE('G', 'T', 'D', 'T'))
			read_gtdt(table);
		else if (signature == SIGNATURE('F', 'A', 'C', 'P'))
			machine.smc = !(number(table + FADT_ARM_FLAGS, 2) & FADT_USES_HVC);
	}
	return machine.uart.base && machine.cpus;
}
