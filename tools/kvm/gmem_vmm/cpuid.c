// SPDX-License-Identifier: GPL-2.0
/*
 * What the guest learns about its processor: all that KVM supports, with the
 * topology of one core per socket.
 *
 * Nothing is hidden from a guest in private memory.  KVM keeps pages of the guest for
 * kvm-clock, steal time, asynchronous page faults and PV EOI, and finds them where
 * the guest has them.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <asm/kvm_para.h>

#include "gmem_vmm.h"

#define MAX_ENTRIES	256
#define BIT(n)		(1U << (n))

struct cpuid {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[MAX_ENTRIES];
};

/* An error that the guest can survive is reported as such; Intel says so elsewhere. */
#define AMD_OVERFLOW_RECOV	BIT(0)
#define AMD_SUCCOR		BIT(1)

static bool is_amd(void)
{
	unsigned int eax, ebx = 0, ecx, edx;

	__get_cpuid(0, &eax, &ebx, &ecx, &edx);
	return ebx == signature_AMD_ebx;
}

static void patch_features(struct vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	bool deadline = ioctl(vcpu->vmm->kvm_fd, KVM_CHECK_EXTENSION,
			      KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	e->ebx = (e->ebx & 0xff00) | vcpu->id << 24 | BIT(16);
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
	case 0x8000001d:
		e->eax &= 0x3fff;
		break;
	case 0xb:				/* no levels: see leaves 1 and 4 */
	case 0x1f:
		e->eax = 0;
		e->ebx = 0;
		e->edx = vcpu->id;
		break;
	case KVM_CPUID_FEATURES:
		/* Conversions are the VMM's to offer, see take_hypercall(). */
		if (has_private(&vcpu->vmm->opt))
			e->eax |= BIT(KVM_FEATURE_HC_MAP_GPA_RANGE);
		break;
	case 0x80000007:
		if (is_amd())
			e->ebx |= AMD_OVERFLOW_RECOV | AMD_SUCCOR;
		break;
	case 0x80000008:
		e->ecx &= ~0xf0ffU;		/* one core per socket */
		break;
	case 0x8000001e:
		e->eax = vcpu->id;
		e->ebx = vcpu->id;
		e->ecx = 0;
		break;
	}
}

void cpuid_set(struct vcpu *vcpu)
{
	static struct cpuid cpuid;
	unsigned int i;

	memset(&cpuid, 0, sizeof(cpuid));
	cpuid.head.nent = MAX_ENTRIES;
	if (ioctl(vcpu->vmm->kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid.head))
		die(1, "KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	for (i = 0; i < cpuid.head.nent; i++)
		patch_entry(vcpu, &cpuid.entries[i]);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, &cpuid.head))
		die(1, "KVM_SET_CPUID2: %s", strerror(errno));
}
