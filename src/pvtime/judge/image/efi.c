// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Entry as an EFI application (UEFI 2.10): take the device tree from the firmware, or what ACPI and UEFI say instead,
 * and leave it.
 *
 * Nothing here may need a relocation, or the bss, which is cleared later. Tables are read here, with the firmware's
 * caches: what it wrote need not be in memory.
 */
#include "judge.h"

#define SUCCESS		0ul
#define MAP_SIZE	65536ul
#define LOADER_CODE	1		/* types of memory, from here on */
#define LOADER_DATA	2
#define CONVENTIONAL	7
#define ACPI_TABLES	9
#define ACPI_NVS	10
#define ATTEMPTS	4
#define FDT_GUID_LOW	0x41a5f19cb1b621d5ul
#define FDT_GUID_HIGH	0xe0aa692c15d90b83ul
#define FDT_TOTAL_SIZE	4
#define ACPI_GUID_LOW	0x11d3e4f18868e871ul
#define ACPI_GUID_HIGH	0x81883cc7800022bcul
#define LOADED_GUID_LOW	0x11d295625b1b31a1ul
#define LOADED_GUID_HIGH	0x3b7269c9a0003f8eul
#define UNSUPPORTED	(1ul << 63 | 3)
#define MAX_ARGUMENTS	1024
#define EFI_PAGE	12

struct table_header {
	u64 signature;
	u32 revision, size, crc, reserved;
};

struct configuration {
	u64 guid[2];
	const void *table;
};

struct boot_services {
	struct table_header header;
	void *raise_tpl, *restore_tpl, *allocate_pages, *free_pages;
	u64 (*get_memory_map)(u64 *size, void *map, u64 *key, u64 *descriptor_size, u32 *version);
	u64 (*allocate_pool)(u32 type, u64 size, void **buffer);
	void *free_pool;
	void *events[6];
	void *install, *reinstall, *uninstall;
	u64 (*handle_protocol)(void *handle, const u64 *guid, void *interface);
	void *protocols[5];
	void *load_image, *start_image, *exit, *unload_image;
	u64 (*exit_boot_services)(void *image, u64 key);
};

struct system_table {
	struct table_header header;
	void *vendor;
	u32 revision;
	void *console_in_handle, *console_in, *console_out_handle, *console_out, *error_handle, *error;
	void *runtime_services;
	const struct boot_services *boot;
	u64 entries;
	const struct configuration *configuration;
};

struct loaded_image {
	u64 revision;
	void *parent, *system, *device, *file, *reserved;
	u32 options_size;
	const uint16_t *options;
};

struct memory_descriptor {
	u32 type;
	u64 base, virtual_base, pages;
};

/* Not in the bss. */
static char arguments[MAX_ARGUMENTS] = { ' ' };

void enter_from_efi(const void *tree) __attribute__((noreturn));

static void clean(const void *from, u64 size)
{
	for (u64 at = (u64)from & ~15ul; at < (u64)from + size; at += 16)
		asm volatile("dc civac, %0" :: "r"(at) : "memory");
	asm volatile("dsb sy" ::: "memory");
}

/* The options that the firmware's command line has, in UCS-2. */
static void read_arguments(void *image, const struct boot_services *boot)
{
	const u64 guid[2] = { LOADED_GUID_LOW, LOADED_GUID_HIGH };
	const struct loaded_image *loaded;
	u32 length;

	if (boot->handle_protocol(image, guid, &loaded) != SUCCESS || !loaded->options)
		return;
	length = loaded->options_size / 2;
	if (length > MAX_ARGUMENTS - 1)
		length = MAX_ARGUMENTS - 1;
	for (u32 i = 0; i < length; i++)
		arguments[i] = (char)loaded->options[i];
	arguments[length] = 0;
	read_options(arguments, MAX_ARGUMENTS);
}

/* Memory that a system may use, or finds in use by the firmware: all that is no device's and not reserved. */
static bool is_ram(u32 type)
{
	return (type >= LOADER_CODE && type <= CONVENTIONAL) || type == ACPI_TABLES || type == ACPI_NVS;
}

static void take_ram(u64 base, u64 size)
{
	for (u32 i = 0; i < machine.rams; i++) {
		struct range *ram = &machine.ram[i];

		if (ram->base + ram->size == base || base + size == ram->base) {
			u64 begin = base < ram->base ? base : ram->base;

			size += ram->size;
			*ram = machine.ram[--machine.rams];
			take_ram(begin, size);		/* the whole may touch another */
			return;
		}
	}
	if (machine.rams < MAX_RANGES)
		machine.ram[machine.rams++] = (struct range){ base, size };
}

static void read_memory_map(const u8 *map, u64 size, u64 step)
{
	for (u64 at = 0; at + step <= size; at += step) {
		const struct memory_descriptor *entry = (const struct memory_descriptor *)(map + at);

		if (is_ram(entry->type))
			take_ram(entry->base, entry->pages << EFI_PAGE);
	}
}

/* Return to the firmware with an error if neither a device tree nor ACPI tells of a console. */
u64 efi_main(void *image, const struct system_table *system)
{
	const u8 *tree = NULL, *acpi = NULL;
	void *map;
	u64 key, size, descriptor;
	u32 version;
	int attempt;

	for (u64 i = 0; i < system->entries; i++) {
		const struct configuration *entry = &system->configuration[i];

		if (entry->guid[0] == FDT_GUID_LOW && entry->guid[1] == FDT_GUID_HIGH)
			tree = entry->table;
		else if (entry->guid[0] == ACPI_GUID_LOW && entry->guid[1] == ACPI_GUID_HIGH)
			acpi = entry->table;
	}
	if (!tree && (!acpi || !read_acpi(acpi)))
		return UNSUPPORTED;
	read_options(image_options, OPTIONS_SIZE);
	read_arguments(image, system->boot);
	machine.has_options = true;
	if (system->boot->allocate_pool(LOADER_DATA, MAP_SIZE, &map) != SUCCESS)
		return UNSUPPORTED;
	for (attempt = 0; attempt < ATTEMPTS; attempt++) {
		size = MAP_SIZE;
		if (system->boot->get_memory_map(&size, map, &key, &descriptor, &version) != SUCCESS)
			continue;
		if (system->boot->exit_boot_services(image, key) == SUCCESS)
			break;
	}
	if (attempt == ATTEMPTS)
		return UNSUPPORTED;
	if (tree) {
		size = (u64)tree[FDT_TOTAL_SIZE] << 24 | (u64)tree[5] << 16 | (u64)tree[6] << 8 | tree[7];
		clean(tree, size);
	} else {
		read_memory_map(map, size, descriptor);
	}
	clean(_head, (u64)(_end - _head));
	enter_from_efi(tree);
}
