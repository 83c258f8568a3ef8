// SPDX-License-Identifier: GPL-2.0
/*
 * Map RAM before the guest touches it (--prefault).
 *
 * KVM_PRE_FAULT_MEMORY is a call on a vCPU, but all vCPUs of a VM run on the same
 * second-level page tables: what one maps is mapped for all.  So each vCPU takes
 * a share of RAM, in a thread of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "gmem_vmm.h"

/*
 * The call maps a part and says in its argument what is left.  0 or -errno.
 * EAGAIN: another thread changes the VM's memory at this moment.
 */
static int prefault(struct vcpu *vcpu, uint64_t gpa, uint64_t size)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = size };

	while (range.size) {
		if (!ioctl(vcpu->fd, KVM_PRE_FAULT_MEMORY, &range))
			continue;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	return 0;
}

/*
 * Map again what a conversion has taken from the guest: of a huge page, all.  0 or
 * -errno.
 */
int prefault_converted(struct vcpu *vcpu, uint64_t gpa, uint64_t size)
{
	const struct region *r = ram_region(&vcpu->vmm->ram, gpa, size);
	uint64_t start = gpa & ~(HUGE_SIZE - 1);
	uint64_t end = (gpa + size + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1);

	if (end > r->gpa + r->size)
		end = r->gpa + r->size;
	return prefault(vcpu, start, end - start);
}

/* Shares begin where a huge page can. */
static uint64_t share_start(const struct region *r, unsigned int i, unsigned int count)
{
	return i == count ? r->size : r->size / count * i & ~(HUGE_SIZE - 1);
}

static void *prefault_share(void *arg)
{
	struct vcpu *vcpu = arg;
	struct vmm *vmm = vcpu->vmm;
	const struct region *r;
	uint64_t start, end;
	unsigned int i;

	for (i = 0; i < vmm->ram.nr_regions && !vcpu->prefault_error; i++) {
		r = &vmm->ram.region[i];
		start = share_start(r, vcpu->id, vmm->opt.cpus);
		end = share_start(r, vcpu->id + 1, vmm->opt.cpus);
		vcpu->prefault_error = prefault(vcpu, r->gpa + start, end - start);
	}
	return NULL;
}

/* No vCPU runs.  What the guest's page tables gain is KVM's count, not ours. */
void prefault_ram(struct vmm *vmm)
{
	struct map_stats before = { }, after = { };
	unsigned int i;
	int ret;

	stats_mappings(vmm, &before);
	for (i = 0; i < vmm->opt.cpus; i++) {
		ret = pthread_create(&vmm->vcpu[i].thread, NULL, prefault_share,
				     &vmm->vcpu[i]);
		if (ret)
			die(1, "thread of vCPU %u: %s", i, strerror(ret));
	}
	for (i = 0; i < vmm->opt.cpus; i++)
		pthread_join(vmm->vcpu[i].thread, NULL);
	for (i = 0; i < vmm->opt.cpus; i++)
		if (vmm->vcpu[i].prefault_error)
			die(1, "KVM_PRE_FAULT_MEMORY: %s",
			    strerror(-vmm->vcpu[i].prefault_error));
	stats_mappings(vmm, &after);
	vmm->prefaulted = (struct map_stats){
		.pages_4k = after.pages_4k - before.pages_4k,
		.pages_2m = after.pages_2m - before.pages_2m,
		.pages_1g = after.pages_1g - before.pages_1g,
	};
}
