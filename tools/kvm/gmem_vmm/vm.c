// SPDX-License-Identifier: GPL-2.0
/* /dev/kvm, the VM and what it has besides memory and vCPUs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "gmem_vmm.h"

static int check_extension(struct vmm *vmm, long cap)
{
	int ret = ioctl(vmm->kvm_fd, KVM_CHECK_EXTENSION, cap);

	return ret < 0 ? 0 : ret;
}

/*
 * Ask for exactly what will be used.  All of it at system scope, before the VM
 * exists: its type is one of the questions.
 */
static void require_kvm(struct vmm *vmm)
{
	static const struct {
		long cap;
		int bits;
		bool for_private;
		const char *name;
	} needed[] = {
		{ KVM_CAP_VM_TYPES, 1 << KVM_X86_SW_PROTECTED_VM, true,
		  "KVM_CAP_VM_TYPES with SW_PROTECTED_VM" },
		{ KVM_CAP_USER_MEMORY2, 1, false, "KVM_CAP_USER_MEMORY2" },
		{ KVM_CAP_MEMORY_FAULT_INFO, 1, true, "KVM_CAP_MEMORY_FAULT_INFO" },
		{ KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE, true,
		  "KVM_CAP_EXIT_HYPERCALL with MAP_GPA_RANGE" },
	};
	unsigned int i;

	for (i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (needed[i].for_private && !has_private(&vmm->opt))
			continue;
		if (check_extension(vmm, needed[i].cap) & needed[i].bits)
			continue;
		die(2, "/dev/kvm: no %s: --memory %s needs a kernel with %s and the TDP MMU on; --memory ordinary does not",
		    needed[i].name, memory_names[vmm->opt.memory],
		    has_private(&vmm->opt) ? "CONFIG_KVM_SW_PROTECTED_VM" : "guest_memfd");
	}
}

/*
 * On the VM, not on /dev/kvm: what its memory can be depends on the VM type, and
 * so does the answer to these.
 */
static void require_guest_memfd(struct vmm *vmm)
{
	static const struct {
		uint64_t bit;
		const char *name;
	} flags[] = {
		{ GUEST_MEMFD_FLAG_MMAP, "MMAP" },
		{ GUEST_MEMFD_FLAG_INIT_SHARED, "INIT_SHARED" },
		{ GUEST_MEMFD_FLAG_WRITE, "WRITE" },
	};
	int attributes = ioctl(vmm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_ATTRIBUTES);
	int have = ioctl(vmm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);
	uint64_t missing = ram_file_flags(&vmm->opt) & ~(uint64_t)(have < 0 ? 0 : have);
	unsigned int i;

	if (has_private(&vmm->opt) &&
	    (attributes < 0 || !(attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE)))
		die(2, "/dev/kvm: the VM has no KVM_CAP_MEMORY_ATTRIBUTES with PRIVATE; try --memory ordinary");
	if (ioctl(vmm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD) <= 0)
		die(2, "/dev/kvm: the VM has no KVM_CAP_GUEST_MEMFD; try --memory ordinary");
	for (i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (missing & flags[i].bit)
			die(2, "/dev/kvm: the VM has no KVM_CAP_GUEST_MEMFD_FLAGS with %s, which --memory %s needs",
			    flags[i].name, memory_names[vmm->opt.memory]);
}

static void require_prefault(struct vmm *vmm)
{
	if (ioctl(vmm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY) <= 0)
		die(2, "/dev/kvm: the VM has no KVM_CAP_PRE_FAULT_MEMORY: --prefault needs a kernel with guest_memfd and the TDP MMU on");
}

/* Leave KVM_HC_MAP_GPA_RANGE to us: KVM itself never converts memory. */
static void take_hypercall(struct vmm *vmm)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args[0] = 1 << KVM_HC_MAP_GPA_RANGE,
	};

	if (ioctl(vmm->vm_fd, KVM_ENABLE_CAP, &cap))
		die(1, "KVM_CAP_EXIT_HYPERCALL: %s", strerror(errno));
}

static void create_irqchip(struct vmm *vmm)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity_map = IDENTITY_MAP_GPA;

	/* Pages of KVM's own; Intel processors need them, others ignore them. */
	if (ioctl(vmm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map))
		die(1, "KVM_SET_IDENTITY_MAP_ADDR: %s", strerror(errno));
	if (ioctl(vmm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_GPA))
		die(1, "KVM_SET_TSS_ADDR: %s", strerror(errno));
	if (ioctl(vmm->vm_fd, KVM_CREATE_IRQCHIP, 0UL))
		die(1, "KVM_CREATE_IRQCHIP: %s", strerror(errno));
	if (ioctl(vmm->vm_fd, KVM_CREATE_PIT2, &pit))
		die(1, "KVM_CREATE_PIT2: %s", strerror(errno));
}

void vm_create(struct vmm *vmm)
{
	unsigned long type = KVM_X86_DEFAULT_VM;
	int size;

	vmm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vmm->kvm_fd < 0)
		die(2, "/dev/kvm: %s: load kvm_amd or kvm_intel, or run as a user who may open it",
		    strerror(errno));
	if (ioctl(vmm->kvm_fd, KVM_GET_API_VERSION, 0UL) != KVM_API_VERSION)
		die(2, "/dev/kvm: not the KVM API version %d", KVM_API_VERSION);
	size = ioctl(vmm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0UL);
	if (size < 0)
		die(1, "KVM_GET_VCPU_MMAP_SIZE: %s", strerror(errno));
	vmm->run_size = size;

	if (vmm->opt.memory != MEMORY_ORDINARY)
		require_kvm(vmm);
	if (has_private(&vmm->opt))
		type = KVM_X86_SW_PROTECTED_VM;
	vmm->vm_fd = ioctl(vmm->kvm_fd, KVM_CREATE_VM, type);
	if (vmm->vm_fd < 0)
		die(1, "KVM_CREATE_VM of type %lu: %s", type, strerror(errno));
	if (vmm->opt.memory != MEMORY_ORDINARY)
		require_guest_memfd(vmm);
	if (has_private(&vmm->opt))
		take_hypercall(vmm);
	if (vmm->opt.prefault)
		require_prefault(vmm);
	if (vmm->opt.poison)
		poison_open(vmm);
	vmm->stats_fd = stats_open(vmm->vm_fd);
	create_irqchip(vmm);
}

void vm_irq(struct vmm *vmm, unsigned int irq, bool level)
{
	struct kvm_irq_level line = { .irq = irq, .level = level };

	if (ioctl(vmm->vm_fd, KVM_IRQ_LINE, &line))
		vm_stop(vmm, 1, "KVM_IRQ_LINE failed: %s", strerror(errno));
}
