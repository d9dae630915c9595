// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sleep on the first CPU: WFI until a timer's interrupt is pending, which is not taken, as PSTATE masks it.
 *
 * A hypervisor wakes a CPU for an interrupt that its interrupt controller would deliver: GICv2 (Arm IHI0048) or
 * GICv3 (IHI0069) is told to, for the timer's alone.
 */
#include "judge.h"

#define GICD_CTLR		0x000
#define GICD_IGROUPR0		0x080
#define GICD_ISENABLER0		0x100
#define GICD_IPRIORITYR		0x400
#define GICD_GROUP1_AND_ARE	0x12
#define GICC_CTLR		0x00
#define GICC_PMR		0x04
#define GICC_IAR		0x0c
#define GICC_EOIR		0x10
#define GICR_TYPER		0x08
#define GICR_WAKER		0x14
#define GICR_SGI		0x10000		/* the frame with the registers of SGIs and PPIs */
#define GICR_FRAMES		0x20000
#define GICR_FRAMES_V4		0x40000
#define TYPER_VLPIS		(1ul << 1)
#define TYPER_LAST		(1ul << 4)
#define WAKER_SLEEPS		(1u << 1)
#define WAKER_IS_ASLEEP		(1u << 2)
#define ANY_PRIORITY		0xff
#define FIRST_PPI		16
#define NO_INTERRUPT		1020	/* and above: none is pending */
#define INTERRUPT		0xffffff
#define PATIENCE		1000000
#define TIMER_ON		1ul
#define MOST_WAKES		1000

static u32 read(u64 at)
{
	return *(volatile u32 *)at;
}

static void write(u64 at, u32 value)
{
	*(volatile u32 *)at = value;
}

static void enable(u64 frame, u32 interrupt)
{
	*(volatile u8 *)(frame + GICD_IPRIORITYR + interrupt) = 0;
	write(frame + GICD_ISENABLER0, 1u << interrupt);
}

static bool set_up_v3(u32 interrupt)
{
	u64 mpidr, frame = machine.gic_cpu.base, size, typer;
	u32 patience = PATIENCE;

	asm volatile("mrs %0, mpidr_el1" : "=r"(mpidr));
	mpidr = (mpidr & 0xffffff) | (mpidr >> 8 & 0xff000000);
	for (;;) {
		typer = *(volatile u64 *)(frame + GICR_TYPER);
		size = typer & TYPER_VLPIS ? GICR_FRAMES_V4 : GICR_FRAMES;
		if (typer >> 32 == mpidr)
			break;
		frame += size;
		if (typer & TYPER_LAST || frame >= machine.gic_cpu.base + machine.gic_cpu.size)
			return false;
	}
	write(machine.gic.base + GICD_CTLR, GICD_GROUP1_AND_ARE);
	write(frame + GICR_WAKER, read(frame + GICR_WAKER) & ~WAKER_SLEEPS);
	while (read(frame + GICR_WAKER) & WAKER_IS_ASLEEP && --patience)
		;
	write(frame + GICR_SGI + GICD_IGROUPR0, ~0u);
	enable(frame + GICR_SGI, interrupt);
	asm volatile("msr s3_0_c12_c12_5, %0; isb" :: "r"(1ul));		/* ICC_SRE_EL1: system registers */
	asm volatile("msr s3_0_c4_c6_0, %0" :: "r"((u64)ANY_PRIORITY));		/* ICC_PMR_EL1 */
	asm volatile("msr s3_0_c12_c12_7, %0; isb" :: "r"(1ul));		/* ICC_IGRPEN1_EL1 */
	return true;
}

static bool set_up_v2(u32 interrupt)
{
	write(machine.gic.base + GICD_CTLR, 1);
	enable(machine.gic.base, interrupt);
	write(machine.gic_cpu.base + GICC_PMR, ANY_PRIORITY);
	write(machine.gic_cpu.base + GICC_CTLR, 1);
	return true;
}

/* Prepare the timer's interrupt; false: the device tree has no timer or no interrupt controller that is known. */
bool prepare_sleep(void)
{
	u32 interrupt = machine.timer_ppi + FIRST_PPI;

	if (!machine.has_timer || !machine.gic.base || !machine.gic_cpu.base || interrupt >= 32)
		return false;
	return machine.gic_v3 ? set_up_v3(interrupt) : set_up_v2(interrupt);
}

static void set_timer(u64 control)
{
	if (machine.timer_is_virtual)
		asm volatile("msr cntv_ctl_el0, %0; isb" :: "r"(control));
	else
		asm volatile("msr cntp_ctl_el0, %0; isb" :: "r"(control));
}

/* Take the interrupt from the controller, switch the timer off, and end it: it would stay pending on KVM. */
static void end_interrupt(void)
{
	u64 interrupt;

	if (machine.gic_v3)
		asm volatile("mrs %0, s3_0_c12_c12_0; dsb sy" : "=r"(interrupt));	/* ICC_IAR1_EL1 */
	else
		interrupt = read(machine.gic_cpu.base + GICC_IAR);
	set_timer(0);
	if ((interrupt & INTERRUPT) >= NO_INTERRUPT)
		return;
	if (machine.gic_v3)
		asm volatile("msr s3_0_c12_c12_1, %0; isb" :: "r"(interrupt));		/* ICC_EOIR1_EL1 */
	else
		write(machine.gic_cpu.base + GICC_EOIR, (u32)interrupt);
}

/* Sleep until the counter has a value; false: WFI came back at once, again and again. */
bool sleep_until(u64 until)
{
	u32 wakes = 0;

	if (machine.timer_is_virtual)
		asm volatile("msr cntv_cval_el0, %0; isb" :: "r"(until));
	else
		asm volatile("msr cntp_cval_el0, %0; isb" :: "r"(until));
	set_timer(TIMER_ON);
	while (counter() < until && ++wakes < MOST_WAKES)
		asm volatile("dsb sy; wfi" ::: "memory");
	end_interrupt();
	return wakes < MOST_WAKES;
}
