// SPDX-License-Identifier: GPL-2.0
/*
 * --stats: what KVM and the kernel say of the VM while it runs, a line at a time.
 *
 * Nothing here is counted by the VMM: folios are those in /proc/self/fdinfo of the
 * guest_memfd, the rest is from the statistics files of KVM.  So any process that may
 * look into this one can have the same.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gmem_vmm.h"

#define LINES_PER_TITLE	20
#define MAX_LINE	256

enum source {
	OF_FILE,
	OF_VM,
	OF_VCPUS,		/* the sum over all of them */
};

static const struct column {
	const char *title;
	enum source source;
	const char *name;
} columns[] = {
	{ "file-4K", OF_FILE, "gmem-folios-4k:" },
	{ "file-2M", OF_FILE, "gmem-folios-2m:" },
	{ "map-4K", OF_VM, "pages_4k" },
	{ "map-2M", OF_VM, "pages_2m" },
	{ "priv-4K", OF_VM, "private_pages_4k" },
	{ "priv-2M", OF_VM, "private_pages_2m" },
	{ "to-priv", OF_VM, "gmem_to_private" },
	{ "to-shared", OF_VM, "gmem_to_shared" },
	{ "faults", OF_VCPUS, "pf_fixed" },
	{ "exits", OF_VCPUS, "memory_fault_exits" },
};

static bool file_value(int fd, const char *name, uint64_t *value)
{
	char path[64], line[256];
	bool found = false;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = fopen(path, "re");
	while (info && !found && fgets(line, sizeof(line), info)) {
		found = !strncmp(line, name, strlen(name));
		if (found)
			*value = strtoull(line + strlen(name), NULL, 0);
	}
	if (info)
		fclose(info);
	return found;
}

static bool sum_of_vcpus(const struct vmm *vmm, const char *name, uint64_t *value)
{
	uint64_t one;
	unsigned int i;

	*value = 0;
	for (i = 0; i < vmm->opt.cpus; i++) {
		if (!stats_value(vmm->vcpu[i].stats_fd, name, &one))
			return false;
		*value += one;
	}
	return true;
}

static bool column_value(const struct vmm *vmm, const struct column *column,
			 uint64_t *value)
{
	switch (column->source) {
	case OF_FILE:
		return file_value(vmm->ram.fd, column->name, value);
	case OF_VM:
		return stats_value(vmm->stats_fd, column->name, value);
	default:
		return sum_of_vcpus(vmm, column->name, value);
	}
}

/* What this kernel does not tell is "-". */
void live_line(struct vmm *vmm)
{
	const size_t nr = sizeof(columns) / sizeof(columns[0]);
	static unsigned int lines;
	char line[MAX_LINE];
	uint64_t value;
	size_t i, len;

	if (lines++ % LINES_PER_TITLE == 0) {
		len = snprintf(line, sizeof(line), "%8s", "seconds");
		for (i = 0; i < nr; i++)
			len += snprintf(line + len, sizeof(line) - len, " %9s",
					columns[i].title);
		warn("%s", line);
	}
	len = snprintf(line, sizeof(line), "%8.1f", (now_ns() - vmm->start_ns) / 1e9);
	for (i = 0; i < nr; i++) {
		if (column_value(vmm, &columns[i], &value))
			len += snprintf(line + len, sizeof(line) - len, " %9llu",
					(unsigned long long)value);
		else
			len += snprintf(line + len, sizeof(line) - len, " %9s", "-");
	}
	warn("%s", line);
}
