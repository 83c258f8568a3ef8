// SPDX-License-Identifier: GPL-2.0-only
/*
 * An ordinary VM whose memory is one guest_memfd that the VMM has mapped. The quick start
 * of Documentation/virt/kvm/guest-memfd.rst shows this file. It is a program by itself:
 * nothing of the selftests is in it.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/kvm.h>

#define PAGE	0x1000
#define SIZE	0x10000
#define CODE	0x1000
#define DATA	0x2000

/* The code of the guest, which starts in real mode. */
static const unsigned char guest[] = {
	0xc6, 0x06, 0, DATA >> 8, 41,	/* movb $41, DATA */
	0xe6, 0x10,			/* outb %al, $0x10 */
	0xfe, 0x06, 0, DATA >> 8,	/* incb DATA */
	0xf4,				/* hlt */
};

static void *map(size_t size, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void run_until(int vcpu, struct kvm_run *run, __u32 reason)
{
	if (ioctl(vcpu, KVM_RUN, 0))
		err(1, "KVM_RUN");
	if (run->exit_reason != reason)
		errx(1, "exit reason %u", run->exit_reason);
}

int main(void)
{
	struct kvm_create_guest_memfd create = {
		.size = SIZE,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD,
		.memory_size = SIZE,
	};
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *run;
	int kvm, vm, fd, vcpu, flags;
	char *ram;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	flags = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);
	if ((flags & create.flags) != create.flags)
		errx(4, "KVM has no guest_memfd that can be mapped");

	/* Map the file, and tell KVM where: that is for KVM's own accesses. */
	fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	if (fd < 0)
		err(1, "KVM_CREATE_GUEST_MEMFD");
	ram = map(SIZE, fd);
	region.guest_memfd = fd;
	region.userspace_addr = (uintptr_t)ram;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION2");
	memcpy(ram + CODE, guest, sizeof(guest));

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	run = map(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), vcpu);
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs.selector = 0;
	sregs.cs.base = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");

	run_until(vcpu, run, KVM_EXIT_IO);
	printf("data: %d\n", ram[DATA]);
	if (ram[DATA] != 41)
		return 1;

	/* Lock the page away from ourselves.  The guest goes on using it. */
	if (mprotect(ram + DATA, PAGE, PROT_NONE))
		err(1, "mprotect");
	run_until(vcpu, run, KVM_EXIT_HLT);
	if (mprotect(ram + DATA, PAGE, PROT_READ))
		err(1, "mprotect");
	printf("data: %d\n", ram[DATA]);
	return ram[DATA] != 42;
}
