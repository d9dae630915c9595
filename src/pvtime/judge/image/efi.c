// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Entry as an EFI application (UEFI 2.10): take the device tree from the firmware, and leave it.
 *
 * Nothing here may need a relocation, or the bss, which is cleared later.
 */
#include "judge.h"

#define SUCCESS		0ul
#define MAP_SIZE	65536ul
#define LOADER_DATA	2
#define ATTEMPTS	4
#define FDT_GUID_LOW	0x41a5f19cb1b621d5ul
#define FDT_GUID_HIGH	0xe0aa692c15d90b83ul
#define FDT_TOTAL_SIZE	4

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
	void *protocols[9];
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

void enter_from_efi(const void *tree) __attribute__((noreturn));

static void clean(const void *from, u64 size)
{
	for (u64 at = (u64)from & ~15ul; at < (u64)from + size; at += 16)
		asm volatile("dc civac, %0" :: "r"(at) : "memory");
	asm volatile("dsb sy" ::: "memory");
}

/* Return to the firmware with an error if it has no device tree: it may have ACPI alone. */
u64 efi_main(void *image, const struct system_table *system)
{
	const u8 *tree = NULL;
	void *map;
	u64 key, size, descriptor;
	u32 version;
	int attempt;

	for (u64 i = 0; i < system->entries; i++) {
		const struct configuration *entry = &system->configuration[i];

		if (entry->guid[0] == FDT_GUID_LOW && entry->guid[1] == FDT_GUID_HIGH)
			tree = entry->table;
	}
	if (!tree || system->boot->allocate_pool(LOADER_DATA, MAP_SIZE, &map) != SUCCESS)
		return 1ul << 63 | 3;		/* EFI_UNSUPPORTED */
	for (attempt = 0; attempt < ATTEMPTS; attempt++) {
		size = MAP_SIZE;
		if (system->boot->get_memory_map(&size, map, &key, &descriptor, &version) != SUCCESS)
			continue;
		if (system->boot->exit_boot_services(image, key) == SUCCESS)
			break;
	}
	if (attempt == ATTEMPTS)
		return 1ul << 63 | 3;
	size = (u64)tree[FDT_TOTAL_SIZE] << 24 | (u64)tree[5] << 16 | (u64)tree[6] << 8 | tree[7];
	clean(tree, size);
	clean(_head, (u64)(_end - _head));
	enter_from_efi(tree);
}
