/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes that the assembler and the compiler need. */
#define MAX_CPUS 64
#define STACK_SIZE 8192
#define OPTIONS_SIZE 1024
