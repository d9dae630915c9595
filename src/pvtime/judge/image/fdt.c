// SPDX-License-Identifier: GPL-2.0-or-later
/* The flattened device tree (Devicetree Specification 0.4, chapter 5): memory, CPUs, PSCI, console, bootargs. */
#include "judge.h"

#define MAGIC		0xd00dfeed
#define BEGIN_NODE	1
#define END_NODE	2
#define PROP		3
#define NOP		4
#define MAX_DEPTH	16
#define MAX_PATH	128

struct machine machine = { .io_width = 1, .seconds = 2 };	/* not in the bss, which is cleared behind efi.c */

struct property {
	const char *name;
	const u8 *value;
	u32 length;
};

/* A node's properties that matter, collected until it ends. */
struct node {
	const char *name;
	u32 path_length;
	u32 address_cells, size_cells;	/* for its children */
	bool is_memory, is_cpu, is_off, is_pl011, is_8250, is_psci, by_smc, is_gic_v2, is_gic_v3, is_timer;
	struct property reg, interrupts;
	u32 reg_shift, io_width;
};

static char path[MAX_PATH];
static char console_path[MAX_PATH];

static u32 word(const u8 *at)
{
	return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
}

static u64 cells(const u8 *at, u32 count)
{
	u64 value = 0;

	while (count--) {
		value = value << 32 | word(at);
		at += 4;
	}
	return value;
}

static bool equal(const char *one, const char *other)
{
	while (*one && *one == *other) {
		one++;
		other++;
	}
	return *one == *other;
}

static bool starts(const char *text, const char *with)
{
	while (*with)
		if (*text++ != *with++)
			return false;
	return true;
}

/* Whether a list of strings has one. */
static bool has(const struct property *list, const char *wanted)
{
	u32 at = 0;

	while (at < list->length) {
		const char *text = (const char *)list->value + at;

		if (equal(text, wanted))
			return true;
		while (at < list->length && list->value[at])
			at++;
		at++;
	}
	return false;
}

static u32 number(const char *text)
{
	u32 value = 0;

	for (; *text >= '0' && *text <= '9' && value < 10000; text++)
		value = value * 10 + (u32)(*text - '0');
	return value;
}

/* Options on the command line, or in the image: words, up to a 0 that must be in the last byte. */
void read_options(const char *text, u32 size)
{
	for (u32 at = 0; at + 1 < size && text[at]; at++) {
		const char *word = text + at;

		if (at && text[at - 1] != ' ')
			continue;
		if (starts(word, "seconds=")) {
			machine.seconds = number(word + 8);
		} else if (starts(word, "wait=")) {
			machine.wait = number(word + 5);
		} else if (starts(word, "reset")) {
			machine.reset = true;
		} else if (starts(word, "checks=")) {
			machine.checks = word + 7;
			for (machine.checks_length = 0; at + 8 + machine.checks_length < size; machine.checks_length++)
				if (!word[7 + machine.checks_length] || word[7 + machine.checks_length] == ' ')
					break;
		}
	}
}

static void read_property(struct node *node, const struct property *property)
{
	const char *name = property->name;

	if (equal(name, "#address-cells"))
		node->address_cells = word(property->value);
	else if (equal(name, "#size-cells"))
		node->size_cells = word(property->value);
	else if (equal(name, "device_type")) {
		node->is_memory = has(property, "memory");
		node->is_cpu = has(property, "cpu");
	} else if (equal(name, "status"))
		node->is_off = !has(property, "okay") && !has(property, "ok");
	else if (equal(name, "compatible")) {
		node->is_pl011 = has(property, "arm,pl011") || has(property, "arm,sbsa-uart");
		node->is_8250 = has(property, "ns16550a") || has(property, "ns16550") || has(property, "ns8250")
			|| has(property, "snps,dw-apb-uart");
		node->is_psci = has(property, "arm,psci-1.0") || has(property, "arm,psci-0.2");
		node->is_gic_v2 = has(property, "arm,cortex-a15-gic") || has(property, "arm,gic-400");
		node->is_gic_v3 = has(property, "arm,gic-v3");
		node->is_timer = has(property, "arm,armv8-timer");
	} else if (equal(name, "method"))
		node->by_smc = has(property, "smc");
	else if (equal(name, "reg"))
		node->reg = *property;
	else if (equal(name, "interrupts"))
		node->interrupts = *property;
	else if (equal(name, "reg-shift"))
		node->reg_shift = word(property->value);
	else if (equal(name, "reg-io-width"))
		node->io_width = word(property->value);
	else if (equal(name, "bootargs") && equal(node->name, "chosen"))
		read_options((const char *)property->value, property->length);
	else if (equal(name, "stdout-path") && equal(node->name, "chosen"))
		for (u32 i = 0; i + 1 < MAX_PATH && i < property->length; i++) {
			char one = (char)property->value[i];

			console_path[i] = one == ':' ? 0 : one;
			if (!console_path[i])
				break;
		}
}

static void take_uart(const struct node *node, const struct node *parent)
{
	u32 step = parent->address_cells + parent->size_cells;

	if (node->reg.length < 4 * step)
		return;
	/* The console that the tree names, else the first one. */
	if (machine.uart.base && !equal(path, console_path))
		return;
	machine.uart.base = cells(node->reg.value, parent->address_cells);
	machine.uart.size = cells(node->reg.value + 4 * parent->address_cells, parent->size_cells);
	machine.pl011 = node->is_pl011;
	machine.reg_shift = node->reg_shift;
	machine.io_width = node->io_width ? node->io_width : 1;
}

static struct range nth_range(const struct node *node, const struct node *parent, u32 number)
{
	u32 step = 4 * (parent->address_cells + parent->size_cells);
	const u8 *at = node->reg.value + number * step;
	struct range range = { 0, 0 };

	if (step && (number + 1) * step <= node->reg.length) {
		range.base = cells(at, parent->address_cells);
		range.size = cells(at + 4 * parent->address_cells, parent->size_cells);
	}
	return range;
}

/* Secure physical, physical, virtual (timer/arm,arch_timer.yaml), each three cells: a PPI, its number, flags. */
static void take_timer(const struct node *node)
{
	u32 number = node->interrupts.length / 12;

	if (number < 2)
		return;
	machine.has_timer = true;
	machine.timer_is_virtual = number > 2;
	machine.timer_ppi = word(node->interrupts.value + 12 * (number > 2 ? 2 : 1) + 4);
}

static void end_node(const struct node *node, const struct node *parent)
{
	u32 step = 4 * (parent->address_cells + parent->size_cells);

	if (node->is_psci)
		machine.smc = node->by_smc;
	if (node->is_off)
		return;
	if (node->is_memory && step)
		for (u32 at = 0; at + step <= node->reg.length && machine.rams < MAX_RANGES; at += step) {
			struct range *ram = &machine.ram[machine.rams++];

			ram->base = cells(node->reg.value + at, parent->address_cells);
			ram->size = cells(node->reg.value + at + 4 * parent->address_cells, parent->size_cells);
		}
	if (node->is_cpu && node->reg.length >= 4 * parent->address_cells && machine.cpus < MAX_CPUS)
		machine.mpidr[machine.cpus++] = cells(node->reg.value, parent->address_cells);
	if ((node->is_gic_v2 || node->is_gic_v3) && !machine.gic.base) {
		machine.gic = nth_range(node, parent, 0);
		machine.gic_cpu = nth_range(node, parent, 1);
		machine.gic_v3 = node->is_gic_v3;
	}
	if (node->is_timer)
		take_timer(node);
	if (node->is_pl011 || node->is_8250)
		take_uart(node, parent);
}

static u32 append_path(u32 length, const char *name)
{
	if (*name && length + 1 < MAX_PATH)
		path[length++] = '/';
	while (*name && length + 1 < MAX_PATH)
		path[length++] = *name++;
	path[length] = 0;
	return length;
}

/* The aliases node has a path for a name: stdout-path may be such a name. */
static void resolve_alias(const struct node *node, const struct property *property)
{
	if (!equal(node->name, "aliases") || !equal(property->name, console_path) || property->length >= MAX_PATH)
		return;
	for (u32 i = 0; i < property->length; i++)
		console_path[i] = (char)property->value[i];
}

static bool walk(const u8 *tree, bool only_console)
{
	const u8 *at = tree + word(tree + 8);
	const char *strings = (const char *)tree + word(tree + 12);
	struct node nodes[MAX_DEPTH];
	u32 depth = 0;

	for (;;) {
		u32 token = word(at);

		at += 4;
		if (token == BEGIN_NODE) {
			u32 length = depth ? nodes[depth - 1].path_length : 0;

			if (depth == MAX_DEPTH)
				return false;
			nodes[depth] = (struct node){
				.name = (const char *)at,
				.path_length = append_path(length, (const char *)at),
				.address_cells = 2,
				.size_cells = 1,
			};
			depth++;
			while (*at)
				at++;
			at = (const u8 *)(((uintptr_t)at + 4) & ~3ul);
		} else if (token == PROP && depth) {
			struct property property = { strings + word(at + 4), at + 8, word(at) };

			if (only_console) {
				if (equal(nodes[depth - 1].name, "chosen"))
					read_property(&nodes[depth - 1], &property);
			} else {
				resolve_alias(&nodes[depth - 1], &property);
				read_property(&nodes[depth - 1], &property);
			}
			at += 8 + ((property.length + 3) & ~3u);
		} else if (token == END_NODE && depth) {
			depth--;
			if (depth && !only_console) {
				path[nodes[depth].path_length] = 0;
				end_node(&nodes[depth], &nodes[depth - 1]);
			}
		} else if (token != NOP) {
			return depth == 0;
		}
	}
}

/* Read what matters; twice, as the console's name may come behind the console. */
bool read_device_tree(const void *tree)
{
	if (((uintptr_t)tree & 7) || word(tree) != MAGIC)
		return false;
	return walk(tree, true) && walk(tree, false) && machine.cpus && machine.rams;
}
