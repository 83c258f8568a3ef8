// SPDX-License-Identifier: GPL-2.0
/*
 * Counters that are not ours.
 *
 * KVM's come from the binary statistics files of the VM and its vCPUs.  Such a file
 * describes itself: a header says where the descriptors are, each descriptor has
 * the name of a counter and says where its value is.  What of a mapping is in memory
 * comes from /proc/self/pagemap.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define PAGEMAP_PRESENT	(1ULL << 63)
#define PAGEMAP_FILE	(1ULL << 61)

const char * const fault_stat_names[NR_FAULT_STATS] = {
	[PF_TAKEN] = "pf_taken",
	[PF_FIXED] = "pf_fixed",
	[PF_SPURIOUS] = "pf_spurious",
	[PF_EMULATE] = "pf_emulate",
	[PF_MMIO_SPTE_CREATED] = "pf_mmio_spte_created",
};

/* For a VM or a vCPU; -1 if this KVM has no such files. */
int stats_open(int fd)
{
	return ioctl(fd, KVM_GET_STATS_FD, 0UL);
}

static bool read_at(int fd, void *buf, size_t size, off_t offset)
{
	return pread(fd, buf, size, offset) == (ssize_t)size;
}

bool stats_value(int fd, const char *name, uint64_t *value)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	bool found = false;
	size_t size;
	uint32_t i;

	if (!read_at(fd, &header, sizeof(header), 0))
		return false;
	size = sizeof(*desc) + header.name_size;
	desc = malloc(size);
	for (i = 0; desc && !found && i < header.num_desc; i++) {
		if (!read_at(fd, desc, size, header.desc_offset + i * size))
			break;
		found = !strncmp(desc->name, name, header.name_size) &&
			read_at(fd, value, sizeof(*value),
				header.data_offset + desc->offset);
	}
	free(desc);
	return found;
}

bool stats_faults(const struct vcpu *vcpu, struct fault_stats *stats)
{
	unsigned int i;

	for (i = 0; i < NR_FAULT_STATS; i++)
		if (!stats_value(vcpu->stats_fd, fault_stat_names[i], &stats->count[i]))
			return false;
	return true;
}

bool stats_huge(const struct vmm *vmm, struct huge_stats *stats)
{
	return stats_value(vmm->stats_fd, "gmem_alloc_2m", &stats->allocated) &&
	       stats_value(vmm->stats_fd, "gmem_split", &stats->split) &&
	       stats_value(vmm->stats_fd, "gmem_alloc_fallback", &stats->fallback);
}

bool stats_mappings(const struct vmm *vmm, struct map_stats *stats)
{
	return stats_value(vmm->stats_fd, "pages_4k", &stats->pages_4k) &&
	       stats_value(vmm->stats_fd, "pages_2m", &stats->pages_2m) &&
	       stats_value(vmm->stats_fd, "pages_1g", &stats->pages_1g);
}

/*
 * Pages of this process's mappings in the range that are in memory: those that
 * belong to a file, and the others.
 */
bool stats_resident(const void *start, uint64_t size, uint64_t *file, uint64_t *anonymous)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entries[512], first = (uintptr_t)start / PAGE_SIZE;
	uint64_t i, j, count, pages = size / PAGE_SIZE;
	bool good = fd >= 0;

	*file = 0;
	*anonymous = 0;
	for (i = 0; good && i < pages; i += count) {
		count = pages - i < 512 ? pages - i : 512;
		good = read_at(fd, entries, count * sizeof(*entries),
			       (first + i) * sizeof(*entries));
		for (j = 0; good && j < count; j++) {
			if (!(entries[j] & PAGEMAP_PRESENT))
				continue;
			if (entries[j] & PAGEMAP_FILE)
				++*file;
			else
				++*anonymous;
		}
	}
	if (fd >= 0)
		close(fd);
	return good;
}
