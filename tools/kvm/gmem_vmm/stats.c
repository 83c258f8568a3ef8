// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's own counters, from the binary statistics files of the VM and its vCPUs.
 *
 * Such a file describes itself: a header says where the descriptors are, each
 * descriptor has the name of a counter and says where its value is.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gmem_vmm.h"

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

static bool read_value(int fd, const char *name, uint64_t *value)
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
		if (!read_value(vcpu->stats_fd, fault_stat_names[i], &stats->count[i]))
			return false;
	return true;
}

bool stats_mappings(const struct vmm *vmm, struct map_stats *stats)
{
	return read_value(vmm->stats_fd, "pages_4k", &stats->pages_4k) &&
	       read_value(vmm->stats_fd, "pages_2m", &stats->pages_2m) &&
	       read_value(vmm->stats_fd, "pages_1g", &stats->pages_1g);
}
