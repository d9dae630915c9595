/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The checks of stolen time: each returns a verdict, and the reason for one that is not PASS by fail() or skip().
 *
 * A rule is Arm DEN0057A's where no other source is named.
 */
#ifndef CHECKS_H
#define CHECKS_H

#include "judge.h"

#define ALIGN	64		/* of a structure, and the distance between two */
#define STOLEN	8		/* offset of the count in a structure */

enum verdict { PASS, FAIL, SKIP };

#pragma GCC visibility push(hidden)

extern u64 structure[MAX_CPUS];
extern u64 asked_at[MAX_CPUS];		/* the counter before the last PV_TIME_ST */
extern u32 online;			/* CPUs that were started */
extern bool announced;			/* PV_TIME_ST is, on the first CPU */

/* checks.c */
void detail(const char *name, u64 value);
void detail_of(u32 cpu, const char *name, u64 value);
enum verdict fail(const char *why);
enum verdict skip(const char *why);

/* discovery.c */
enum verdict all_cpus_start(void);
enum verdict smccc_version(void);
enum verdict discovery_agrees(void);
enum verdict is_announced(void);
enum verdict every_cpu_agrees(void);
enum verdict unknown_is_refused(void);
enum verdict ids_of_32_bits(void);
enum verdict live_physical_time(void);
enum verdict every_cpu_has_one(void);

/* structures.c */
enum verdict addresses(void);
enum verdict normal_memory(void);
enum verdict header(void);
enum verdict padding(void);
enum verdict bounded(void);
enum verdict starts_again(void);
u64 count_of(u32 cpu);

/* counts.c */
enum verdict never_falls(void);
enum verdict off_and_on_under_load(void);
enum verdict idle_is_not_stolen(void);
enum verdict off_and_on(void);

#pragma GCC visibility pop

#endif
