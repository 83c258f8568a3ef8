// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd as a file: creation, file operations, allocation, lifetime, and
 * the capabilities that announce it.  No guest runs here.
 *
 * Known bugs of other implementations that are checked here:
 *  - the documentation had creation return 0; it returns a descriptor;
 *  - st_blocks was always 0, so nobody could see what a file holds;
 *  - VMs with private memory were offered without the TDP MMU, on which their
 *    faults depend.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kvm_gmem_util.h"
#include "kselftest_harness.h"

/* O_LARGEFILE as the kernel has it; the C library defines it as 0. */
#define KERNEL_O_LARGEFILE		0100000

#define NR_PAGES			16

/* What programs built with other headers hard-code, seccomp filters included. */
TEST(numbers)
{
	ASSERT_EQ(0x40a0ae49, KVM_SET_USER_MEMORY_REGION2);
	ASSERT_EQ(0xc040aed4, KVM_CREATE_GUEST_MEMFD);
	ASSERT_EQ(0x4020aed2, KVM_SET_MEMORY_ATTRIBUTES);
	ASSERT_EQ(4, KVM_MEM_GUEST_MEMFD);
	ASSERT_EQ(8, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	ASSERT_EQ(8, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	ASSERT_EQ(39, KVM_EXIT_MEMORY_FAULT);
	ASSERT_EQ(231, KVM_CAP_USER_MEMORY2);
	ASSERT_EQ(232, KVM_CAP_MEMORY_FAULT_INFO);
	ASSERT_EQ(233, KVM_CAP_MEMORY_ATTRIBUTES);
	ASSERT_EQ(234, KVM_CAP_GUEST_MEMFD);
	ASSERT_EQ(235, KVM_CAP_VM_TYPES);
	ASSERT_EQ(0, KVM_X86_DEFAULT_VM);
	ASSERT_EQ(1, KVM_X86_SW_PROTECTED_VM);

	ASSERT_EQ(32, offsetof(struct kvm_userspace_memory_region2,
			       guest_memfd_offset));
	ASSERT_EQ(40, offsetof(struct kvm_userspace_memory_region2,
			       guest_memfd));
	ASSERT_EQ(8, offsetof(struct kvm_create_guest_memfd, flags));
	ASSERT_EQ(16, offsetof(struct kvm_memory_attributes, attributes));
	ASSERT_EQ(24, offsetof(struct kvm_memory_attributes, flags));
	ASSERT_EQ(32, offsetof(struct kvm_run, memory_fault.flags));
	ASSERT_EQ(40, offsetof(struct kvm_run, memory_fault.gpa));
	ASSERT_EQ(48, offsetof(struct kvm_run, memory_fault.size));
	ASSERT_EQ(288, offsetof(struct kvm_run, kvm_valid_regs));
	ASSERT_EQ(2352, sizeof(struct kvm_run));
}

TEST(system_capabilities)
{
	ASSERT_EQ(1, kvm_check_cap(KVM_CAP_GUEST_MEMFD));
	ASSERT_EQ(1, kvm_check_cap(KVM_CAP_USER_MEMORY2));
	ASSERT_EQ(1, kvm_check_cap(KVM_CAP_MEMORY_FAULT_INFO));
	ASSERT_EQ(KVM_MEMORY_ATTRIBUTE_PRIVATE,
		  kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));
	ASSERT_EQ((1 << KVM_X86_DEFAULT_VM) | (1 << KVM_X86_SW_PROTECTED_VM),
		  kvm_check_cap(KVM_CAP_VM_TYPES));
}

TEST(vm_type_unknown)
{
	int kvm_fd = open_kvm_dev_path_or_exit();
	unsigned long type;

	for (type = KVM_X86_SW_PROTECTED_VM + 1; type; type <<= 1) {
		ASSERT_EQ(EINVAL, errno_of(ioctl(kvm_fd, KVM_CREATE_VM, type))) {
			TH_LOG("type %#lx", type);
		}
		ASSERT_EQ(EINVAL, errno_of(ioctl(kvm_fd, KVM_CREATE_VM, ~type))) {
			TH_LOG("type %#lx", ~type);
		}
	}
	close(kvm_fd);
}

/* The parameter can be changed at run time, and is looked at by each new VM. */
#define TDP_MMU_PARAM	"/sys/module/kvm/parameters/tdp_mmu"

FIXTURE(tdp_mmu) {
	int param;
};

FIXTURE_SETUP(tdp_mmu)
{
	self->param = open(TDP_MMU_PARAM, O_WRONLY);
}

FIXTURE_TEARDOWN(tdp_mmu)
{
	if (self->param >= 0)
		EXPECT_EQ(1, pwrite(self->param, "Y", 1, 0));
	close(self->param);
}

TEST_F(tdp_mmu, off)
{
	int kvm_fd = open_kvm_dev_path_or_exit();

	if (self->param < 0)
		SKIP(return, "cannot write to " TDP_MMU_PARAM);
	ASSERT_EQ(1, pwrite(self->param, "N", 1, 0));

	EXPECT_EQ(1 << KVM_X86_DEFAULT_VM, kvm_check_cap(KVM_CAP_VM_TYPES));
	EXPECT_EQ(0, kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));
	EXPECT_EQ(0, kvm_check_cap(KVM_CAP_GUEST_MEMFD));
	EXPECT_EQ(0, kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS));
	EXPECT_EQ(EINVAL, errno_of(ioctl(kvm_fd, KVM_CREATE_VM,
					 KVM_X86_SW_PROTECTED_VM)));
	close(kvm_fd);
}

FIXTURE(gmem) {
	struct kvm_vm *vm;
	size_t page;
	size_t size;
	int fd;
};

FIXTURE_VARIANT(gmem) {
	unsigned long type;
	int attributes;
	int address_spaces;
};

/* Any VM can have files; only some have private memory and the one space. */
FIXTURE_VARIANT_ADD(gmem, default_vm) {
	.type = KVM_X86_DEFAULT_VM,
	.attributes = 0,
	.address_spaces = 2,
};

FIXTURE_VARIANT_ADD(gmem, sw_protected_vm) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	.address_spaces = 1,
};

FIXTURE_SETUP(gmem)
{
	self->page = getpagesize();
	self->size = NR_PAGES * self->page;
	self->vm = vm_create_barebones_type(variant->type);
	self->fd = vm_create_guest_memfd(self->vm, self->size, 0);
}

FIXTURE_TEARDOWN(gmem)
{
	close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);
}

TEST_F(gmem, vm_capabilities)
{
	ASSERT_EQ(1, vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD));
	ASSERT_EQ(1, vm_check_cap(self->vm, KVM_CAP_USER_MEMORY2));
	ASSERT_EQ(1, vm_check_cap(self->vm, KVM_CAP_MEMORY_FAULT_INFO));
	ASSERT_EQ(variant->attributes,
		  vm_check_cap(self->vm, KVM_CAP_MEMORY_ATTRIBUTES));
	ASSERT_EQ(variant->address_spaces,
		  vm_check_cap(self->vm, KVM_CAP_MULTI_ADDRESS_SPACE));
	ASSERT_EQ(kvm_check_cap(KVM_CAP_VM_TYPES),
		  vm_check_cap(self->vm, KVM_CAP_VM_TYPES));
}

/* There is nothing to switch on: the capabilities only inform. */
TEST_F(gmem, enable_cap)
{
	static const int caps[] = {
		KVM_CAP_USER_MEMORY2, KVM_CAP_MEMORY_FAULT_INFO,
		KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_GUEST_MEMFD,
		KVM_CAP_VM_TYPES,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(caps); i++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_enable_cap(self->vm, caps[i], 1))) {
			TH_LOG("capability %d", caps[i]);
		}
	}
}

TEST_F(gmem, create_bad_size)
{
	uint64_t size;

	/* 0, and what is not a multiple of the page size. */
	for (size = 0; size < self->page; size++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_create_guest_memfd(self->vm, size, 0))) {
			TH_LOG("size %#lx", size);
		}
	}
	ASSERT_EQ(EINVAL, errno_of(__vm_create_guest_memfd(self->vm, self->page + 1, 0)));
	ASSERT_EQ(EINVAL, errno_of(__vm_create_guest_memfd(self->vm, LLONG_MAX, 0)));

	/* Negative as a file size, page aligned. */
	ASSERT_EQ(EINVAL, errno_of(__vm_create_guest_memfd(self->vm, 1ULL << 63, 0)));
	ASSERT_EQ(EINVAL, errno_of(__vm_create_guest_memfd(self->vm, -self->page, 0)));
}

/* The size is a limit, not an allocation. */
TEST_F(gmem, create_huge)
{
	const uint64_t sizes[] = {
		1ULL << 40, LLONG_MAX & -self->page,
	};
	struct stat st;
	int fd, i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		fd = __vm_create_guest_memfd(self->vm, sizes[i], 0);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(0, fstat(fd, &st));
		ASSERT_EQ(sizes[i], st.st_size);
		ASSERT_EQ(0, st.st_blocks);
		close(fd);
	}
}

/* A flag is taken if it is announced, and only then. */
TEST_F(gmem, create_flags)
{
	uint64_t flags = vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS);
	int bit, fd;

	for (bit = 0; bit < 64; bit++) {
		fd = __vm_create_guest_memfd(self->vm, self->size, 1ULL << bit);
		ASSERT_EQ(flags & (1ULL << bit) ? 0 : EINVAL, fd < 0 ? errno : 0) {
			TH_LOG("flag bit %d", bit);
		}
		if (fd >= 0)
			close(fd);
	}
}

TEST_F(gmem, create_reserved_is_ignored)
{
	struct kvm_create_guest_memfd args;
	int fd;

	memset(&args, 0xff, sizeof(args));
	args.size = self->size;
	args.flags = 0;
	fd = __vm_ioctl(self->vm, KVM_CREATE_GUEST_MEMFD, &args);
	ASSERT_GE(fd, 0);
	close(fd);
}

TEST_F(gmem, create_bad_pointer)
{
	ASSERT_EQ(EFAULT, errno_of(ioctl(self->vm->fd, KVM_CREATE_GUEST_MEMFD, 1)));
}

TEST_F(gmem, create_without_free_descriptor)
{
	struct rlimit limit = { .rlim_cur = 64, .rlim_max = 64 };
	int last = -1, fd;

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	while ((fd = dup(self->fd)) >= 0)
		last = fd;
	ASSERT_EQ(EMFILE, errno);
	ASSERT_GE(last, 0);
	ASSERT_EQ(EMFILE, errno_of(__vm_create_guest_memfd(self->vm, self->size, 0)));

	/* The failure used up nothing. */
	close(last);
	fd = __vm_create_guest_memfd(self->vm, self->size, 0);
	ASSERT_EQ(last, fd);
	close(fd);
}

TEST_F(gmem, descriptor)
{
	char path[64], name[64] = "";
	int flags;

	flags = fcntl(self->fd, F_GETFL);
	ASSERT_EQ(O_RDWR, flags & O_ACCMODE);
	ASSERT_EQ(KERNEL_O_LARGEFILE, flags & KERNEL_O_LARGEFILE);
	ASSERT_EQ(0, fcntl(self->fd, F_GETFD) & FD_CLOEXEC);

	/* Tools and security policies go by the name. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	ASSERT_GT(readlink(path, name, sizeof(name) - 1), 0);
	ASSERT_STREQ("anon_inode:[kvm-gmem]", name);

	/* One file is one VM's view; there is no second one to be had. */
	ASSERT_EQ(ENXIO, errno_of(open(path, O_RDWR)));
	ASSERT_EQ(ENXIO, errno_of(open(path, O_RDONLY)));
}

TEST_F(gmem, stat)
{
	struct stat st, other;
	int fd;

	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(self->size, st.st_size);
	ASSERT_EQ(self->page, st.st_blksize);
	ASSERT_EQ(0, st.st_blocks);
	ASSERT_EQ(S_IFREG | 0600, st.st_mode);

	fd = vm_create_guest_memfd(self->vm, 2 * self->size, 0);
	ASSERT_EQ(0, fstat(fd, &other));
	ASSERT_EQ(2 * self->size, other.st_size);
	ASSERT_NE(st.st_ino, other.st_ino);
	close(fd);
}

/* Without flags the host can neither look into the file nor write to it. */
TEST_F(gmem, no_content)
{
	int memfd = kvm_memfd_alloc(self->size, false);
	char buf[64] = "";
	struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };

	gmem_allocate(self->fd, 0, self->size);

	ASSERT_EQ(EINVAL, errno_of(read(self->fd, buf, sizeof(buf))));
	ASSERT_EQ(EINVAL, errno_of(write(self->fd, buf, sizeof(buf))));
	ASSERT_EQ(EINVAL, errno_of(readv(self->fd, &iov, 1)));
	ASSERT_EQ(EINVAL, errno_of(writev(self->fd, &iov, 1)));
	ASSERT_EQ(ESPIPE, errno_of(pread(self->fd, buf, sizeof(buf), 0)));
	ASSERT_EQ(ESPIPE, errno_of(pwrite(self->fd, buf, sizeof(buf), 0)));
	ASSERT_EQ(ESPIPE, errno_of(lseek(self->fd, 0, SEEK_SET)));
	ASSERT_EQ(ESPIPE, errno_of(lseek(self->fd, 0, SEEK_DATA)));
	ASSERT_EQ(EINVAL, errno_of(sendfile(memfd, self->fd, NULL, self->page)));
	close(memfd);
}

TEST_F(gmem, no_mmap)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	int i;

	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_EQ(ENODEV, errno_of((long)mmap(NULL, self->page, prots[i],
						      MAP_SHARED, self->fd, 0)));
		ASSERT_EQ(ENODEV, errno_of((long)mmap(NULL, self->page, prots[i],
						      MAP_PRIVATE, self->fd, 0)));
	}
}

TEST_F(gmem, no_attribute_change)
{
	struct stat before, after;

	ASSERT_EQ(0, fstat(self->fd, &before));

	ASSERT_EQ(EINVAL, errno_of(ftruncate(self->fd, 0)));
	ASSERT_EQ(EINVAL, errno_of(ftruncate(self->fd, self->size)));
	ASSERT_EQ(EINVAL, errno_of(ftruncate(self->fd, 2 * self->size)));
	ASSERT_EQ(EINVAL, errno_of(fchmod(self->fd, 0666)));
	ASSERT_EQ(EINVAL, errno_of(fchown(self->fd, getuid(), getgid())));
	ASSERT_EQ(EINVAL, errno_of(futimens(self->fd, NULL)));

	ASSERT_EQ(0, fstat(self->fd, &after));
	ASSERT_EQ(before.st_size, after.st_size);
	ASSERT_EQ(before.st_mode, after.st_mode);
}

TEST_F(gmem, fallocate_modes)
{
	static const int modes[] = {
		0,
		FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_COLLAPSE_RANGE,
		FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_INSERT_RANGE,
		FALLOC_FL_UNSHARE_RANGE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_UNSHARE_RANGE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_KEEP_SIZE | 0x80,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		ASSERT_EQ(EOPNOTSUPP, errno_of(fallocate(self->fd, modes[i], 0,
							 self->page))) {
			TH_LOG("mode %#x", modes[i]);
		}
	}
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
}

/* @pages: what the file holds after the call. */
struct fallocate_case {
	off_t offset;
	off_t len;
	int err;
	uint64_t pages;
};

TEST_F(gmem, allocate_ranges)
{
	const off_t page = self->page, size = self->size;
	const struct fallocate_case cases[] = {
		{ 0, page, 0, 1 },
		{ 0, size, 0, NR_PAGES },
		{ page, 2 * page, 0, 2 },
		{ size - page, page, 0, 1 },
		{ 1, page, EINVAL, 0 },
		{ 0, 1, EINVAL, 0 },
		{ 0, page - 1, EINVAL, 0 },
		{ page - 1, page, EINVAL, 0 },
		{ page, page + 1, EINVAL, 0 },
		{ 0, 0, EINVAL, 0 },
		{ -page, page, EINVAL, 0 },
		{ 0, -page, EINVAL, 0 },
		{ size, page, EINVAL, 0 },
		{ size + page, page, EINVAL, 0 },
		{ size - page, 2 * page, EINVAL, 0 },
		{ 0, size + page, EINVAL, 0 },
		{ page, LLONG_MAX & -page, EFBIG, 0 },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(cases[i].err, errno_of(__gmem_allocate(self->fd, cases[i].offset,
								 cases[i].len))) {
			TH_LOG("case %d", i);
		}
		ASSERT_EQ(cases[i].pages, gmem_allocated_pages(self->fd)) {
			TH_LOG("case %d", i);
		}
		gmem_punch_hole(self->fd, 0, size);
		ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	}
}

TEST_F(gmem, punch_ranges)
{
	const off_t page = self->page, size = self->size;
	const struct fallocate_case cases[] = {
		{ 0, page, 0, NR_PAGES - 1 },
		{ 0, size, 0, 0 },
		{ page, 2 * page, 0, NR_PAGES - 2 },
		{ size - page, page, 0, NR_PAGES - 1 },
		{ size - page, 4 * page, 0, NR_PAGES - 1 },
		{ page, LLONG_MAX & -page & ~page, 0, 1 },
		{ size, page, 0, NR_PAGES },
		{ size + page, page, 0, NR_PAGES },
		{ 1LL << 62, page, 0, NR_PAGES },
		{ 1, page, EINVAL, NR_PAGES },
		{ 0, 1, EINVAL, NR_PAGES },
		{ 0, page - 1, EINVAL, NR_PAGES },
		{ page - 1, page, EINVAL, NR_PAGES },
		{ page, page + 1, EINVAL, NR_PAGES },
		{ size + 1, page, EINVAL, NR_PAGES },
		{ 0, 0, EINVAL, NR_PAGES },
		{ -page, page, EINVAL, NR_PAGES },
		{ page, LLONG_MAX & -page, EFBIG, NR_PAGES },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		gmem_allocate(self->fd, 0, size);
		ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
		ASSERT_EQ(cases[i].err, errno_of(__gmem_punch_hole(self->fd, cases[i].offset,
								   cases[i].len))) {
			TH_LOG("case %d", i);
		}
		ASSERT_EQ(cases[i].pages, gmem_allocated_pages(self->fd)) {
			TH_LOG("case %d", i);
		}
	}
}

/* st_blocks counts the pages that the file holds, each once. */
TEST_F(gmem, blocks)
{
	const uint64_t per_page = self->page / 512;
	struct stat st;

	gmem_allocate(self->fd, 0, 2 * self->page);
	gmem_allocate(self->fd, self->page, 2 * self->page);
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(3 * per_page, st.st_blocks);

	gmem_punch_hole(self->fd, self->page, self->page);
	gmem_punch_hole(self->fd, self->page, self->page);
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(2 * per_page, st.st_blocks);

	/* A hole can be filled again. */
	gmem_allocate(self->fd, 0, self->size);
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(NR_PAGES * per_page, st.st_blocks);
	ASSERT_EQ(self->size, st.st_size);

	gmem_punch_hole(self->fd, 0, self->size);
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(0, st.st_blocks);
}

/* st_mtime is that of the last change, and no refused call is one. */
TEST_F(gmem, times)
{
	uint64_t created, allocated, punched;

	created = gmem_mtime(self->fd);
	gmem_allocate(self->fd, 0, self->page);
	allocated = gmem_mtime(self->fd);
	ASSERT_LT(created, allocated);

	gmem_punch_hole(self->fd, 0, self->page);
	punched = gmem_mtime(self->fd);
	ASSERT_LT(allocated, punched);

	ASSERT_EQ(EINVAL, errno_of(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, self->size,
					     self->page)));
	ASSERT_EQ(EINVAL, errno_of(__gmem_punch_hole(self->fd, 1, self->page)));
	ASSERT_EQ(punched, gmem_mtime(self->fd));
}

static void ignore_signal(int sig)
{
}

/* A signal stops an allocation, what has been allocated stays. */
TEST_F(gmem, allocate_interrupted)
{
	const uint64_t size = 512ULL << 20;
	const struct sigaction action = { .sa_handler = ignore_signal };
	/* Much shorter than it takes to allocate so much memory. */
	struct itimerval timer = {
		.it_value.tv_usec = 500,
		.it_interval.tv_usec = 500,
	};
	int fd = vm_create_guest_memfd(self->vm, size, 0);
	uint64_t pages;

	gmem_allocate(fd, 0, self->page);
	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));
	ASSERT_EQ(EINTR, errno_of(__gmem_allocate(fd, 0, size)));
	memset(&timer, 0, sizeof(timer));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));

	pages = gmem_allocated_pages(fd);
	ASSERT_GE(pages, 1);
	ASSERT_LT(pages, size / self->page);

	gmem_allocate(fd, 0, size);
	ASSERT_EQ(size / self->page, gmem_allocated_pages(fd));
	close(fd);
}

TEST_F(gmem, duplicate_keeps_pages)
{
	int fd = dup(self->fd);

	ASSERT_GE(fd, 0);
	gmem_allocate(self->fd, 0, self->size);
	close(self->fd);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(fd));
	gmem_punch_hole(fd, 0, self->page);
	ASSERT_EQ(NR_PAGES - 1, gmem_allocated_pages(fd));
	self->fd = fd;
}

/* The file works in any process, the VM's ioctls only in the one it is of. */
TEST_F(gmem, other_process)
{
	int pipefd[2], status;
	pid_t pid;
	char c;

	gmem_allocate(self->fd, 0, self->size);
	vm_bind_gmem(self->vm, 0, 0, self->size, self->fd, 0);
	ASSERT_EQ(0, pipe(pipefd));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(pipefd[1]);
		TEST_ASSERT(!read(pipefd[0], &c, 1), "the parent closes its end");
		TEST_ASSERT_EQ(gmem_allocated_pages(self->fd), (uint64_t)NR_PAGES);
		TEST_ASSERT_EQ(errno_of(__vm_create_guest_memfd(self->vm, self->size, 0)),
			       EIO);
		gmem_punch_hole(self->fd, self->page, self->page);
		TEST_ASSERT_EQ(gmem_allocated_pages(self->fd), (uint64_t)NR_PAGES - 1);
		_exit(0);
	}

	/* From here on the child has the last descriptors of file and VM. */
	kvm_vm_free(self->vm);
	self->vm = NULL;
	close(self->fd);
	self->fd = -1;
	close(pipefd[0]);
	close(pipefd[1]);

	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(0, WEXITSTATUS(status));
}

/* The file pins the VM, so that holes have something to be unmapped from. */
TEST_F(gmem, outlives_the_vm_descriptor)
{
	vm_bind_gmem(self->vm, 0, 0, self->size, self->fd, 0);
	gmem_allocate(self->fd, 0, 2 * self->page);

	kvm_vm_free(self->vm);
	self->vm = NULL;

	ASSERT_EQ(2, gmem_allocated_pages(self->fd));
	gmem_punch_hole(self->fd, 0, self->page);
	ASSERT_EQ(1, gmem_allocated_pages(self->fd));
	gmem_allocate(self->fd, 0, self->size);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	ASSERT_EQ(0, close(self->fd));
	self->fd = -1;
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_gmem());

	return test_harness_run(argc, argv);
}
