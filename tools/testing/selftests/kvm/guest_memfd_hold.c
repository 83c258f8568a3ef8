// SPDX-License-Identifier: GPL-2.0
/*
 * Creates a VM with a guest_memfd, closes everything, and if asked to unloads KVM
 * at once: the program behind guest_memfd_unload_test.sh.
 *
 * The file pins the VM, and both pin the modules.  The last close gives all of
 * them up; nothing of the file may be left to be done in a module by then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kvm.h>

#define MAX_MODULES	4
#define GPA		0x40000000ULL

static const char usage[] =
"Usage: guest_memfd_hold [-p PAGES] [-v] [-u MODULE]...\n"
"Create a VM and a guest_memfd that is bound to it, allocate pages, close all.\n"
"\n"
"  -p PAGES   pages of 4 KiB to allocate, default 64\n"
"  -v         close the VM after the file, instead of before\n"
"  -u MODULE  unload MODULE right after the last close; may be repeated, in the\n"
"             order of unloading.  Before the last close the first one must be\n"
"             refused with EWOULDBLOCK\n"
"  -h         print this\n"
"\n"
"Exit status: 0 done, 1 failure, 2 wrong arguments, 4 KVM has no guest_memfd.\n";

static void die(const char *what)
{
	fprintf(stderr, "guest_memfd_hold: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int unload(const char *module)
{
	return syscall(SYS_delete_module, module, O_NONBLOCK);
}

static int create_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR), vm;

	if (kvm < 0)
		die("/dev/kvm");
	if (!(ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) &
	      (1 << KVM_X86_SW_PROTECTED_VM)) ||
	    ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD) <= 0) {
		fputs("guest_memfd_hold: KVM has no guest_memfd\n", stderr);
		exit(4);
	}
	vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm < 0)
		die("KVM_CREATE_VM");
	close(kvm);
	return vm;
}

static int create_file(int vm, unsigned long size)
{
	struct kvm_create_guest_memfd args = { .size = size };
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = GPA,
		.memory_size = size,
	};
	int file = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);

	if (file < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	region.guest_memfd = file;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region))
		die("KVM_SET_USER_MEMORY_REGION2");
	if (fallocate(file, FALLOC_FL_KEEP_SIZE, 0, size))
		die("fallocate");
	return file;
}

int main(int argc, char *argv[])
{
	const char *modules[MAX_MODULES];
	int nr_modules = 0, vm, file, i, opt;
	unsigned long pages = 64;
	bool vm_last = false;
	char *end;

	while ((opt = getopt(argc, argv, "p:vu:h")) != -1) {
		switch (opt) {
		case 'p':
			pages = strtoul(optarg, &end, 0);
			if (*end || !pages)
				goto bad_usage;
			break;
		case 'v':
			vm_last = true;
			break;
		case 'u':
			if (nr_modules == MAX_MODULES)
				goto bad_usage;
			modules[nr_modules++] = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			goto bad_usage;
		}
	}
	if (optind != argc)
		goto bad_usage;

	vm = create_vm();
	file = create_file(vm, pages * 4096);
	close(vm_last ? file : vm);

	if (nr_modules) {
		if (!unload(modules[0])) {
			fprintf(stderr, "guest_memfd_hold: %s could be unloaded while in use\n",
				modules[0]);
			return 1;
		}
		if (errno != EWOULDBLOCK)
			die(modules[0]);
	}

	close(vm_last ? vm : file);
	for (i = 0; i < nr_modules; i++)
		if (unload(modules[i]))
			die(modules[i]);
	return 0;

bad_usage:
	fputs(usage, stderr);
	return 2;
}
