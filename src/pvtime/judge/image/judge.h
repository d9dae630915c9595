/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the image's parts know of each other. */
#ifndef JUDGE_H
#define JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define MAX_RANGES 64
#define MPIDR_AFFINITY 0xff00fffffful
#define NS 1000000000ul
#define NONE (~0ul)

/* Everything is in one file: nothing is reached by a table of addresses, which efi.c has not relocated yet. */
#pragma GCC visibility push(hidden)

typedef uint64_t u64;
typedef int64_t s64;
typedef uint32_t u32;
typedef uint8_t u8;

struct range {
	u64 base, size;
};

/* What the device tree, or the firmware, says of the machine. */
struct machine {
	struct range ram[MAX_RANGES];
	u32 rams;
	u64 mpidr[MAX_CPUS];
	u32 cpus;
	bool smc;			/* PSCI and SMCCC by SMC, else by HVC */
	struct range uart;
	bool pl011;
	u32 reg_shift, io_width;
	struct range gic, gic_cpu;	/* the distributor; GICv2's CPU interface or GICv3's redistributors */
	bool gic_v3;
	bool has_timer, timer_is_virtual;	/* else it is the physical one */
	u32 timer_ppi;
	u32 seconds;			/* for each phase that takes time */
	u32 wait;			/* seconds until the first check, for a VMM whose console comes late */
	bool has_options;		/* they were read when the firmware started the image */
	bool reset;			/* reset the machine at the end, by PSCI SYSTEM_RESET */
	const char *checks;		/* names of the checks to make, between commas; NULL: all */
	u32 checks_length;
};

extern struct machine machine;

/* fdt.c */
bool read_device_tree(const void *tree);
void read_options(const char *text, u32 size);

/* acpi.c */
bool read_acpi(const u8 *rsdp);

/* console.c */
void put(const char *text);
void put_hex(u64 value);
void put_dec(u64 value);

/* memory.c */
void *memset(void *to, int value, size_t size);
void build_page_tables(const void *tree);
void map_normal(u64 base, u64 size);
void enable_mmu(void);

/* call.c */
#define SMCCC_VERSION		0x80000000
#define SMCCC_ARCH_FEATURES	0x80000001
#define PV_TIME_FEATURES	0xc5000020
#define PV_TIME_ST		0xc5000021
#define PV_TIME_LPT		0xc5000022
#define PSCI_VERSION		0x84000000
#define PSCI_CPU_OFF		0x84000002
#define PSCI_CPU_ON		0xc4000003
#define PSCI_AFFINITY_INFO	0xc4000004
#define PSCI_SYSTEM_OFF		0x84000008
#define PSCI_SYSTEM_RESET	0x84000009
#define PSCI_FEATURES		0x8400000a
#define NOT_SUPPORTED		(-1)

s64 call(u32 function, u64 x1, u64 x2, u64 x3);
void power_off(void) __attribute__((noreturn));

/* cpus.c */
enum command { IDLE, CALL, WATCH, READ, STOP };

struct reading {
	u64 stolen;			/* a count, in ns */
	u64 clock_ns;			/* the counter's time just behind it */
};

struct cpu {
	volatile u32 command;
	volatile bool running;
	volatile u64 argument;
	volatile s64 result;
	volatile u64 until;		/* the counter's value at which WATCH ends */
	volatile u64 reads;
	struct reading reading;
};

extern struct cpu cpus[MAX_CPUS];

bool start_cpu(u32 cpu);
bool stop_cpu(u32 cpu);
s64 call_on(u32 cpu, u32 function, u64 argument);
void begin(u32 cpu, enum command command, u64 argument, u64 until);
void await(u32 cpu);
struct reading read_count(u64 structure);
struct reading read_on(u32 cpu, u64 structure);
u64 watch(u64 structure, u64 until, u64 *reads);

u64 counter(void);
u64 ticks_to_ns(u64 ticks);

/* idle.c */
bool prepare_sleep(void);
bool sleep_until(u64 until);

/* start.S */
extern char _head[], _end[];
extern const char image_options[OPTIONS_SIZE];
extern volatile u32 probe_failed;
void secondary_cpu(void);
u64 load_exclusive(u64 address);

/* counts.c */
void print_clock(void);

/* checks.c */
void run_checks(void);

#pragma GCC visibility pop

#endif
