// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM with private memory, from KVM_CREATE_VM to what the guest has computed. The quick
 * start of Documentation/virt/kvm/guest-memfd.rst shows this file. It is a program by
 * itself: nothing of the selftests is in it.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>

#define PAGE	0x1000
#define SIZE	0x10000		/* the memory of the guest: */
#define CODE	0x1000		/* what it runs, */
#define SECRET	0x2000		/* what it keeps to itself, */
#define ANSWER	0x3000		/* what it lets us read, */
#define LATE	0x8000		/* and what is there only when it is needed */

/* The code of the guest, which starts in real mode. */
static const unsigned char guest[] = {
	0xc6, 0x06, 0, SECRET >> 8, 41,			/* movb $41, SECRET */
	0x66, 0xb8, KVM_HC_MAP_GPA_RANGE, 0, 0, 0,	/* movl $..., %eax */
	0x66, 0xbb, 0, ANSWER >> 8, 0, 0,		/* movl $ANSWER, %ebx */
	0x66, 0xb9, 1, 0, 0, 0,				/* movl $1, %ecx: one page */
	0x66, 0xba, 0, 0, 0, 0,				/* movl $0, %edx: shared */
	0x0f, 0x01, 0xc1,				/* vmcall */
	0xa0, 0, SECRET >> 8,				/* movb SECRET, %al */
	0xfe, 0xc0,					/* incb %al */
	0xa2, 0, ANSWER >> 8,				/* movb %al, ANSWER */
	0xa2, 0, LATE >> 8,				/* movb %al, LATE */
	0xf4,						/* hlt */
};

static int vm, memory;
static char *shared;

static void *map(size_t size, int flags, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

/* Let the guest have a half of its memory, at the same offset of the file. */
static void add_memory(__u32 slot, __u64 gpa)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = SIZE / 2,
		.userspace_addr = (uintptr_t)shared + gpa,
		.guest_memfd = memory,
		.guest_memfd_offset = gpa,
	};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION2");
}

static void set_attributes(__u64 gpa, __u64 size, __u64 attributes)
{
	struct kvm_memory_attributes attr = {
		.address = gpa,
		.size = size,
		.attributes = attributes,
	};

	if (ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attr))
		err(1, "KVM_SET_MEMORY_ATTRIBUTES");
}

/* Do what the guest asks for.  What it asks for need not make sense. */
static __u64 convert(__u64 gpa, __u64 pages, __u64 flags)
{
	__u64 size = pages * PAGE;

	if (pages > SIZE / PAGE || gpa > SIZE - size)
		return -KVM_EINVAL;

	/* First the attributes, then the side that is not used any more. */
	if (flags & KVM_MAP_GPA_RANGE_ENCRYPTED) {
		set_attributes(gpa, size, KVM_MEMORY_ATTRIBUTE_PRIVATE);
		madvise(shared + gpa, size, MADV_DONTNEED);
	} else {
		set_attributes(gpa, size, 0);
		fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, gpa, size);
	}
	return 0;
}

int main(void)
{
	struct kvm_create_guest_memfd create = {
		.size = SIZE,
		.flags = GUEST_MEMFD_FLAG_WRITE,
	};
	struct kvm_enable_cap hypercalls = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args = { 1 << KVM_HC_MAP_GPA_RANGE },
	};
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *run;
	char page[PAGE] = { };
	int kvm, vcpu;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	if (!(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) &
	      1 << KVM_X86_SW_PROTECTED_VM))
		errx(4, "KVM has no software-protected VMs");
	vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	if (ioctl(vm, KVM_ENABLE_CAP, &hypercalls))
		err(1, "KVM_CAP_EXIT_HYPERCALL");

	/* The file, and room for what the guest will share: no memory until then. */
	memory = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	if (memory < 0)
		err(1, "KVM_CREATE_GUEST_MEMFD");
	shared = map(SIZE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	add_memory(0, 0);
	set_attributes(0, SIZE, KVM_MEMORY_ATTRIBUTE_PRIVATE);

	/* Put the code there, in whole pages.  It cannot be read back. */
	memcpy(page, guest, sizeof(guest));
	if (pwrite(memory, page, PAGE, CODE) != PAGE)
		err(1, "pwrite");

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	run = map(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), MAP_SHARED, vcpu);
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs.selector = 0;
	sregs.cs.base = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");

	do {
		/* With EFAULT there may be a reason that can be mended. */
		if (ioctl(vcpu, KVM_RUN, 0) &&
		    (errno != EFAULT || run->exit_reason != KVM_EXIT_MEMORY_FAULT))
			err(1, "KVM_RUN");

		switch (run->exit_reason) {
		case KVM_EXIT_MEMORY_FAULT:
			printf("no memory at %#llx\n", run->memory_fault.gpa);
			if (run->memory_fault.gpa != LATE)
				return 1;
			add_memory(1, LATE);
			break;
		case KVM_EXIT_HYPERCALL:
			printf("to be shared or private: %#llx\n",
			       run->hypercall.args[0]);
			run->hypercall.ret = convert(run->hypercall.args[0],
						     run->hypercall.args[1],
						     run->hypercall.args[2]);
			break;
		case KVM_EXIT_HLT:
			break;
		default:
			errx(1, "exit reason %u", run->exit_reason);
		}
	} while (run->exit_reason != KVM_EXIT_HLT);

	printf("secret: %d, answer: %d\n", shared[SECRET], shared[ANSWER]);
	return shared[SECRET] != 0 || shared[ANSWER] != 42;
}
