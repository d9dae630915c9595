// SPDX-License-Identifier: GPL-2.0-or-later
/* Output on the first console: Arm's PL011 (DDI0183) or an 8250. */
#include "judge.h"

#define PL011_DR	0x00
#define PL011_FR	0x18
#define PL011_FR_TXFF	(1 << 5)
#define PL011_ICR	0x44
#define THR		0
#define LSR		5
#define LSR_THRE	(1 << 5)
#define PATIENCE	1000000

static u32 read_8250(u32 reg)
{
	u64 at = machine.uart.base + ((u64)reg << machine.reg_shift);

	return machine.io_width == 4 ? *(volatile u32 *)at : *(volatile u8 *)at;
}

static void write_8250(u32 reg, u32 value)
{
	u64 at = machine.uart.base + ((u64)reg << machine.reg_shift);

	if (machine.io_width == 4)
		*(volatile u32 *)at = value;
	else
		*(volatile u8 *)at = (u8)value;
}

static void put_byte(char one)
{
	u32 patience = PATIENCE;

	if (!machine.uart.base)
		return;
	if (machine.pl011) {
		while (*(volatile u32 *)(machine.uart.base + PL011_FR) & PL011_FR_TXFF && --patience)
			;
		*(volatile u32 *)(machine.uart.base + PL011_DR) = (u8)one;
	} else {
		while (!(read_8250(LSR) & LSR_THRE) && --patience)
			;
		write_8250(THR, (u8)one);
	}
}

/*
 * A hypervisor may collect what is written until the VMM has something to do (KVM_CAP_COALESCED_MMIO): no interrupt
 * is cleared here, but the host sees the line now.
 */
static void flush(void)
{
	if (machine.uart.base && machine.pl011)
		*(volatile u32 *)(machine.uart.base + PL011_ICR) = 0;
}

void put(const char *text)
{
	for (; *text; text++) {
		if (*text == '\n')
			put_byte('\r');
		put_byte(*text);
		if (*text == '\n')
			flush();
	}
}

void put_hex(u64 value)
{
	int shift = 60;

	put("0x");
	while (shift && !(value >> shift & 0xf))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put_byte("0123456789abcdef"[value >> shift & 0xf]);
}

void put_dec(u64 value)
{
	char digits[20];
	int count = 0;

	do
		digits[count++] = (char)('0' + value % 10);
	while (value /= 10);
	while (count)
		put_byte(digits[--count]);
}
