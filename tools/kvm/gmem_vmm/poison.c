// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors.  A page of the guest that the hardware, or --poison, has broken
 * stays in the file, and KVM_RUN fails with EHWPOISON when the guest touches it.  Then
 *
 * 1. the guest is told by a machine check on the vCPU that was about to use the
 *    page, as the processor would have done.  Its kernel ends the process, or
 *    panics if it was the kernel itself.
 * 2. a hole is punched there, so that the guest has a page again: Linux does not use
 *    it any more, but may have to read it, for a dump of memory for instance.
 *
 * In this order: a guest that cannot be told must not go on with zeroes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gmem_vmm.h"

/* Banks 0 to 8 have quirks on some processors, so guests do not enable all of them. */
#define NR_BANKS	10
#define BANK		9

#define MCG_CTL_P	(1ULL << 8)	/* of the capabilities */
#define MCG_SER_P	(1ULL << 24)	/* software may recover */

#define MCG_RIPV	(1ULL << 0)	/* the guest could go on where it was, */
#define MCG_EIPV	(1ULL << 1)	/* and that is what has failed */
#define MCG_MCIP	(1ULL << 2)

#define MCI_VAL		(1ULL << 63)
#define MCI_UC		(1ULL << 61)
#define MCI_EN		(1ULL << 60)
#define MCI_MISCV	(1ULL << 59)
#define MCI_ADDRV	(1ULL << 58)
#define MCI_S		(1ULL << 56)	/* signalled, */
#define MCI_AR		(1ULL << 55)	/* and something has to be done */
#define MCI_DATA_LOAD	0x134ULL

#define MISC_ADDRESS	(2ULL << 6 | 12)	/* physical, of a page */

/* Before the vCPU runs. */
void error_reports_on(struct vcpu *vcpu)
{
	uint64_t cap;

	if (ioctl(vcpu->vmm->kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap))
		die(1, "KVM_X86_GET_MCE_CAP_SUPPORTED: %s", strerror(errno));
	cap = (cap & (MCG_CTL_P | MCG_SER_P)) | NR_BANKS;
	if (ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &cap))
		die(1, "KVM_X86_SETUP_MCE: %s", strerror(errno));
}

/* If the guest has machine checks off, KVM ends it by a triple fault. */
static int tell_guest(struct vcpu *vcpu, uint64_t gpa)
{
	struct kvm_x86_mce mce = {
		.status = MCI_VAL | MCI_UC | MCI_EN | MCI_MISCV | MCI_ADDRV | MCI_S |
			  MCI_AR | MCI_DATA_LOAD,
		.mcg_status = MCG_MCIP | MCG_RIPV | MCG_EIPV,
		.addr = gpa,
		.misc = MISC_ADDRESS,
		.bank = BANK,
	};

	return ioctl(vcpu->fd, KVM_X86_SET_MCE, &mce) ? -errno : 0;
}

/* KVM_RUN has failed with EHWPOISON. */
void handle_memory_error(struct vcpu *vcpu)
{
	uint64_t gpa = gmem_memory_fault(vcpu->run)->gpa;
	struct vmm *vmm = vcpu->vmm;
	int ret = -EFAULT;

	if (vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
		ret = tell_guest(vcpu, gpa);
		if (!ret)
			ret = ram_replace_page(vmm, gpa);
	}
	if (ret) {
		vm_stop(vmm, 1, "memory error at gpa %#llx on vCPU %u: %s",
			(unsigned long long)gpa, vcpu->id, strerror(-ret));
		return;
	}
	vcpu->memory_errors++;
	if (vmm->opt.verbose)
		warn("vCPU %u: memory error at gpa %#llx: machine check, and a fresh page",
		     vcpu->id, (unsigned long long)gpa);
	if (vmm->opt.poison)
		probe_memory_error(vmm, gpa);
}

/* The file belongs to the VM: whoever made it, and the descriptor there. */
void poison_open(struct vmm *vmm)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/gmem_poison", getpid(),
		 vmm->vm_fd);
	vmm->poison_fd = open(path, O_WRONLY | O_CLOEXEC);
	if (vmm->poison_fd < 0)
		die(2, "--poison: %s: %s: needs root, debugfs, and a kernel with CONFIG_KVM_GMEM_INJECT_ERRORS",
		    path, strerror(errno));
}

/* As if the hardware had said that the page is bad.  0 or -errno. */
int poison_page(struct vmm *vmm, uint64_t gpa)
{
	return dprintf(vmm->poison_fd, "%#llx %#llx", (unsigned long long)gpa,
		       PAGE_SIZE) < 0 ? -errno : 0;
}
