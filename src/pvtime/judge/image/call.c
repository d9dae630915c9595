// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls to the hypervisor (Arm DEN0028) and the end of the machine (Arm DEN0022). */
#include "judge.h"

s64 call(u32 function, u64 x1, u64 x2, u64 x3)
{
	register u64 r0 asm("x0") = function;
	register u64 r1 asm("x1") = x1;
	register u64 r2 asm("x2") = x2;
	register u64 r3 asm("x3") = x3;

	/* Up to SMCCC 1.0, x4 to x17 are the callee's. */
#define OTHERS "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "memory"
	if (machine.smc)
		asm volatile("smc #0" : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3) :: OTHERS);
	else
		asm volatile("hvc #0" : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3) :: OTHERS);
	return (s64)r0;
}

void power_off(void)
{
	call(PSCI_SYSTEM_OFF, 0, 0, 0);
	for (;;)
		asm volatile("wfi");
}
