// SPDX-License-Identifier: GPL-2.0
/*
 * What the guest learns about its processor: what KVM supports, minus a few
 * things, with the topology of one core per socket.
 *
 * Hidden, because KVM keeps a guest page for them that it reads and writes
 * through userspace_addr, the shared side, while the guest uses the private one:
 *   kvm-clock (both versions), steal time (and PV TLB flush, which needs it),
 *   asynchronous page faults, PV EOI.
 * Hidden, because a nested guest's page tables would be read from the shared
 * side as well: SVM and VMX.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <asm/kvm_para.h>

#include "gmem_vmm.h"

#define MAX_ENTRIES	256
#define BIT(n)		(1U << (n))

/* A list of what is safe, so that features KVM gains later stay hidden. */
#define PV_FEATURES	(BIT(KVM_FEATURE_NOP_IO_DELAY) | BIT(KVM_FEATURE_PV_SEND_IPI) | \
			 BIT(KVM_FEATURE_PV_UNHALT))

struct cpuid {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[MAX_ENTRIES];
};

static void patch_features(struct vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	bool deadline = ioctl(vcpu->vmm->kvm_fd, KVM_CHECK_EXTENSION,
			      KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	e->ebx = (e->ebx & 0xff00) | vcpu->id << 24 | BIT(16);
	e->ecx &= ~BIT(5);			/* VMX */
	e->ecx |= BIT(31);			/* under a hypervisor */
	if (deadline)
		e->ecx |= BIT(24);		/* TSC deadline timer */
	e->edx &= ~BIT(28);			/* one thread per socket */
}

static void patch_entry(struct vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 1:
		patch_features(vcpu, e);
		break;
	case 4:					/* caches: shared with nobody */
		e->eax &= 0x3fff;
		break;
	case KVM_CPUID_FEATURES:
		e->eax &= PV_FEATURES;
		if (vcpu->vmm->opt.private)
			e->eax |= BIT(KVM_FEATURE_HC_MAP_GPA_RANGE);
		break;
	case 0x80000001:
		e->ecx &= ~(BIT(2) | BIT(22));	/* SVM, topology extensions */
		break;
	case 0x80000008:
		e->ecx &= ~0xffU;		/* one core per socket */
		break;
	}
}

/* Topology leaves describe the host; without them Linux asks leaves 1 and 4. */
static bool is_host_topology(uint32_t function)
{
	return function == 0xb || function == 0x1f || function == 0x8000001e ||
	       function == 0x80000026;
}

void cpuid_set(struct vcpu *vcpu)
{
	static struct cpuid cpuid;
	unsigned int i, kept = 0;

	memset(&cpuid, 0, sizeof(cpuid));
	cpuid.head.nent = MAX_ENTRIES;
	if (ioctl(vcpu->vmm->kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid.head))
		die(1, "KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	for (i = 0; i < cpuid.head.nent; i++) {
		if (is_host_topology(cpuid.entries[i].function))
			continue;
		patch_entry(vcpu, &cpuid.entries[i]);
		cpuid.entries[kept++] = cpuid.entries[i];
	}
	cpuid.head.nent = kept;
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, &cpuid.head))
		die(1, "KVM_SET_CPUID2: %s", strerror(errno));
}
