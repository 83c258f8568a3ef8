// SPDX-License-Identifier: GPL-2.0
/*
 * Binding of guest_memfd files to memory slots: what is refused and with which
 * errno, what a refusal leaves behind (nothing), and the death of slot, file and
 * VM in every order.  No guest runs here.
 *
 * Known bugs of other implementations that are checked here:
 *  - use after free when a slot is deleted while its file is being closed;
 *  - GUEST_MEMFD set or cleared on an existing slot, so that the slot's flags and
 *    its binding disagreed;
 *  - a large positive file offset whose sum with the size is negative passed the
 *    check against the file size;
 *  - failed bindings that were left in the file;
 *  - overlap in the file reported as EINVAL rather than EEXIST;
 *  - GUEST_MEMFD accepted together with READONLY;
 *  - descriptors leaked by the tests themselves.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm_gmem_util.h"
#include "kselftest_harness.h"

#define NR_PAGES	16
#define SLOT		1
#define GPA		(1ULL << 32)

/* Pairs of threads that race; the races are short, the grace periods are not. */
#define NR_RACES	200

FIXTURE(bind) {
	struct kvm_vm *vm;
	uint64_t page;
	uint64_t size;
	int fd;
};

FIXTURE_VARIANT(bind) {
	unsigned long type;
	int err_address_space;
};

FIXTURE_VARIANT_ADD(bind, default_vm) {
	.type = KVM_X86_DEFAULT_VM,
	.err_address_space = 0,
};

FIXTURE_VARIANT_ADD(bind, sw_protected_vm) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.err_address_space = EINVAL,
};

FIXTURE_SETUP(bind)
{
	self->page = getpagesize();
	self->size = NR_PAGES * self->page;
	self->vm = vm_create_barebones_type(variant->type);
	self->fd = vm_create_guest_memfd(self->vm, self->size, 0);
}

FIXTURE_TEARDOWN(bind)
{
	close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);
}

/* The errno of a request for a slot with a file, 0 if it was granted. */
static int bind_errno(struct kvm_vm *vm, uint32_t slot, uint64_t gpa,
		      uint64_t size, int fd, uint64_t offset)
{
	return errno_of(__vm_bind_gmem(vm, slot, gpa, size, fd, offset));
}

/*
 * Is the whole file free to be bound?  The answer is given by binding it, which
 * is what a refused request must not have made impossible.
 */
static int rebind_errno(struct kvm_vm *vm, int fd, uint64_t size)
{
	int err = bind_errno(vm, SLOT + 100, 2 * GPA, size, fd, 0);

	if (!err)
		vm_delete_slot(vm, SLOT + 100);
	return err;
}

/* A page to put a struct at the very end of, with nothing mapped behind it. */
static void *page_before_hole(void)
{
	size_t page = getpagesize();
	char *mem = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed, errno: %d", errno);
	TEST_ASSERT(!munmap(mem + page, page), "munmap() failed, errno: %d", errno);
	return mem;
}

TEST_F(bind, region1_reads_32_bytes)
{
	struct kvm_userspace_memory_region *region;
	char *mem = page_before_hole();

	ASSERT_EQ(32, sizeof(*region));
	region = (void *)(mem + self->page - sizeof(*region));
	*region = (struct kvm_userspace_memory_region) {
		.slot = SLOT,
		.guest_phys_addr = GPA,
		.memory_size = self->page,
		.userspace_addr = (uintptr_t)mem,
	};
	ASSERT_EQ(0, __vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION, region));
	region->memory_size = 0;
	ASSERT_EQ(0, __vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION, region));

	/* Flags are checked, and nothing else read, whatever they are. */
	region->memory_size = self->page;
	region->flags = KVM_MEM_GUEST_MEMFD;
	ASSERT_EQ(EINVAL, errno_of(__vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION,
					      region)));
}

TEST_F(bind, region1_has_no_file)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = SLOT,
		.guest_phys_addr = GPA,
		.memory_size = self->page,
		.guest_memfd = self->fd,
	};
	int bit;

	/* As good a binding as any, in a call that has none. */
	for (bit = 2; bit < 32; bit++) {
		region.flags = 1u << bit;
		ASSERT_EQ(EINVAL, errno_of(ioctl(self->vm->fd, KVM_SET_USER_MEMORY_REGION,
						 &region))) {
			TH_LOG("flag bit %d", bit);
		}
	}
	ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(self->vm, SLOT)));
}

TEST_F(bind, region2_reads_160_bytes)
{
	struct kvm_userspace_memory_region2 *region;
	char *mem = page_before_hole();

	ASSERT_EQ(160, sizeof(*region));
	region = (void *)(mem + self->page - sizeof(*region));
	region->slot = SLOT;
	region->guest_phys_addr = GPA;
	region->memory_size = self->page;
	region->userspace_addr = (uintptr_t)mem;
	ASSERT_EQ(0, __vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION2, region));
	vm_delete_slot(self->vm, SLOT);

	memmove(mem + self->page - 32, region, 32);
	ASSERT_EQ(EFAULT, errno_of(ioctl(self->vm->fd, KVM_SET_USER_MEMORY_REGION2,
					 mem + self->page - 32)));
}

TEST_F(bind, unknown_flags)
{
	uint32_t flag;
	int bit;

	for (bit = 3; bit < 32; bit++) {
		flag = 1u << bit;
		ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT, flag,
				GPA, self->page, NULL, self->fd, 0))) {
			TH_LOG("flag bit %d", bit);
		}
		ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT,
				flag | KVM_MEM_GUEST_MEMFD, GPA, self->page, NULL,
				self->fd, 0))) {
			TH_LOG("flag bit %d", bit);
		}
	}
	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));
}

/* No dirty log of private pages, and a write to them cannot be made MMIO. */
TEST_F(bind, incompatible_flags)
{
	static const uint32_t flags[] = {
		KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES,
		KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY,
		KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT,
				flags[i], GPA, self->size, NULL, self->fd, 0))) {
			TH_LOG("flags %#x", flags[i]);
		}
	}
	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));
}

/* REGION2 without a file is the old call with a longer struct. */
TEST_F(bind, region2_without_file)
{
	static const uint32_t flags[] = {
		0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
		KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
	};
	char *mem = page_before_hole();
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(0, __vm_set_user_memory_region2(self->vm, SLOT, flags[i], GPA,
							  self->page, mem, -1, 1)) {
			TH_LOG("flags %#x", flags[i]);
		}
		vm_delete_slot(self->vm, SLOT);
	}
}

TEST_F(bind, padding_is_ignored)
{
	struct kvm_userspace_memory_region2 region;

	memset(&region, 0xff, sizeof(region));
	region.slot = SLOT;
	region.flags = KVM_MEM_GUEST_MEMFD;
	region.guest_phys_addr = GPA;
	region.memory_size = self->size;
	region.userspace_addr = 0;
	region.guest_memfd = self->fd;
	region.guest_memfd_offset = 0;
	ASSERT_EQ(0, __vm_ioctl(self->vm, KVM_SET_USER_MEMORY_REGION2, &region));
	vm_delete_slot(self->vm, SLOT);
}

TEST_F(bind, bad_descriptor)
{
	struct kvm_vm *other = vm_create_barebones_type(variant->type);
	int foreign = vm_create_guest_memfd(other, self->size, 0);
	int memfd = kvm_memfd_alloc(self->size, false);
	int closed = dup(self->fd);
	const int not_gmem[] = {
		self->vm->kvm_fd, self->vm->fd, other->fd, memfd, foreign,
	};
	int i;

	close(closed);
	ASSERT_EQ(EBADF, bind_errno(self->vm, SLOT, GPA, self->size, -1, 0));
	ASSERT_EQ(EBADF, bind_errno(self->vm, SLOT, GPA, self->size, closed, 0));
	ASSERT_EQ(EBADF, bind_errno(self->vm, SLOT, GPA, self->size, INT_MAX, 0));

	for (i = 0; i < ARRAY_SIZE(not_gmem); i++) {
		ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, self->size,
					     not_gmem[i], 0)) {
			TH_LOG("descriptor %d of the list", i);
		}
	}

	/* The foreign file is as good as before for the VM that owns it. */
	ASSERT_EQ(0, rebind_errno(other, foreign, self->size));
	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));

	close(foreign);
	close(memfd);
	kvm_vm_free(other);
}

TEST_F(bind, bad_offset)
{
	const uint64_t page = self->page, size = self->size;
	const struct {
		uint64_t offset, size;
	} cases[] = {
		/* unaligned */
		{ 1, page },
		{ page - 1, page },
		{ page + 512, page },
		/* past the end */
		{ size, page },
		{ size - page, 2 * page },
		{ page, size },
		{ 0, size + page },
		{ 1ULL << 40, page },
		/* a positive offset, a negative sum */
		{ LLONG_MAX & -page, page },
		{ LLONG_MAX & -page, 2 * page },
		{ (1ULL << 63) - size, size },
		{ (1ULL << 63) - page, size },
		/* a negative offset, a small sum */
		{ 1ULL << 63, page },
		{ -page, page },
		{ -page, 2 * page },
		{ -size, size },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, cases[i].size,
					     self->fd, cases[i].offset)) {
			TH_LOG("offset %#lx size %#lx", cases[i].offset,
			       cases[i].size);
		}
	}
	ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(self->vm, SLOT)));
	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, size));
}

TEST_F(bind, bad_slot)
{
	const int nr_slots = vm_check_cap(self->vm, KVM_CAP_NR_MEMSLOTS);
	const uint64_t page = self->page;
	const struct {
		uint32_t slot;
		uint64_t gpa, size, hva;
	} cases[] = {
		{ SLOT, GPA + 1, page, 0 },
		{ SLOT, GPA, page + 1, 0 },
		{ SLOT, GPA, page - 1, 0 },
		{ SLOT, GPA, page, 1 },
		{ SLOT, GPA, page, 1ULL << 63 },
		{ SLOT, -page, 2 * page, 0 },
		{ SLOT, -page, page, 0 },
		{ SLOT, GPA, -page, 0 },
		{ nr_slots, GPA, page, 0 },
		{ 0xffff, GPA, page, 0 },
		{ SLOT | 2 << 16, GPA, page, 0 },
		{ SLOT | 0xffffu << 16, GPA, page, 0 },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm,
				cases[i].slot, KVM_MEM_GUEST_MEMFD, cases[i].gpa,
				cases[i].size, (void *)cases[i].hva, self->fd, 0))) {
			TH_LOG("case %d", i);
		}
	}
	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));

	ASSERT_EQ(0, bind_errno(self->vm, nr_slots - 1, GPA, self->size, self->fd, 0));
}

/* 2^31 pages are one too many for a slot, however big the file is. */
TEST_F(bind, too_many_pages)
{
	uint64_t size = self->page << 31;
	int fd = vm_create_guest_memfd(self->vm, 2 * size, 0);

	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, size, fd, 0));
	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, 2 * size, fd, 0));
	close(fd);
}

/*
 * The range is fine as far as common code can tell.  It is the architecture that
 * refuses a slot above the last possible guest frame, as late as it gets: after
 * the file has been looked up and its range recorded.
 */
TEST_F(bind, late_failure_leaves_nothing)
{
	uint64_t beyond = 1ULL << 52;

	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, beyond, self->size, self->fd, 0));
	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, beyond - self->page, self->size,
				     self->fd, 0));
	ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(self->vm, SLOT)));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT, GPA, self->size, self->fd, 0));

	/* An odd number of pages at an odd place, for the same reason. */
	vm_delete_slot(self->vm, SLOT);
	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, beyond, 7 * self->page,
				     self->fd, 3 * self->page));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT, GPA, self->size, self->fd, 0));
}

/* The guest's address space comes first, the descriptor after that. */
TEST_F(bind, overlap_in_guest)
{
	struct kvm_vm *other = vm_create_barebones_type(variant->type);
	const uint64_t page = self->page, size = self->size;
	const struct {
		uint64_t gpa, size;
	} cases[] = {
		{ GPA, size },
		{ GPA + page, page },
		{ GPA - page, 2 * page },
		{ GPA + size - page, 2 * page },
		{ GPA - page, size + 2 * page },
	};
	int fd = vm_create_guest_memfd(self->vm, 2 * size, 0);
	int foreign = vm_create_guest_memfd(other, 2 * size, 0);
	int i;

	vm_bind_gmem(self->vm, SLOT, GPA, size, self->fd, 0);

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const uint64_t gpa = cases[i].gpa, len = cases[i].size;

		ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, gpa, len, fd, 0));
		ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, gpa, len, -1, 0));
		ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, gpa, len, foreign, 0));
		ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, gpa, len,
					     self->vm->fd, 0));
		ASSERT_EQ(EEXIST, errno_of(__vm_set_user_memory_region2(self->vm, SLOT + 1,
				0, gpa, len, NULL, -1, 0)));
	}
	ASSERT_EQ(0, rebind_errno(self->vm, fd, 2 * size));

	/* Neighbours do not overlap. */
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 1, GPA + size, page, fd, 0));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 2, GPA - page, page, fd, page));

	close(foreign);
	close(fd);
	kvm_vm_free(other);
}

TEST_F(bind, overlap_in_file)
{
	const uint64_t page = self->page, size = self->size;
	const uint64_t start = 4 * page, len = 8 * page;
	const struct {
		uint64_t offset, size;
	} cases[] = {
		{ start, len },
		{ start, page },
		{ start + len - page, page },
		{ start + page, 3 * page },
		{ start - page, 2 * page },
		{ start + len - page, 2 * page },
		{ start - page, len + 2 * page },
		{ 0, size },
	};
	int i;

	vm_bind_gmem(self->vm, SLOT, GPA, len, self->fd, start);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, 2 * GPA, cases[i].size,
					     self->fd, cases[i].offset)) {
			TH_LOG("case %d", i);
		}
	}

	/* The rest of the file is free, up to and from the very page. */
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 1, 2 * GPA, start, self->fd, 0));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 2, 3 * GPA, size - start - len,
				self->fd, start + len));

	/* A slot in the middle gives back its range and nothing else. */
	vm_delete_slot(self->vm, SLOT);
	ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT, GPA, len + page, self->fd, start));
	ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT, GPA, len + page, self->fd,
				     start - page));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT, GPA, len, self->fd, start));
}

/* One file, a slot per page, in the opposite order. */
TEST_F(bind, many_slots)
{
	int i;

	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_EQ(0, bind_errno(self->vm, SLOT + i, GPA + i * self->page,
					self->page, self->fd,
					(NR_PAGES - 1 - i) * self->page));
	}
	gmem_allocate(self->fd, 0, self->size);
	gmem_punch_hole(self->fd, 0, self->size);
	for (i = 0; i < NR_PAGES; i += 2)
		vm_delete_slot(self->vm, SLOT + i);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_EQ(i & 1 ? EEXIST : 0,
			  bind_errno(self->vm, SLOT + 100, 2 * GPA, self->page, self->fd,
				     (NR_PAGES - 1 - i) * self->page));
		if (!(i & 1))
			vm_delete_slot(self->vm, SLOT + 100);
	}
}

/* No change at all to a slot that has a file, not even to what it is. */
TEST_F(bind, modify)
{
	const uint64_t page = self->page, len = 4 * page;
	void *mem = page_before_hole();
	const struct {
		uint32_t flags;
		uint64_t gpa, size, offset;
		void *hva;
		int fd;
	} cases[] = {
		{ KVM_MEM_GUEST_MEMFD, GPA, len, page, NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD, GPA + page, len, page, NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD, 2 * GPA, len, page, NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD, GPA, len, 8 * page, NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD, GPA, page, page, NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD, GPA, len + page, page, NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD, GPA, len, page, mem, self->fd },
		{ KVM_MEM_GUEST_MEMFD, GPA, len, page, NULL, -1 },
		{ KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES, GPA, len, page,
		  NULL, self->fd },
		{ KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY, GPA, len, page, NULL,
		  self->fd },
		{ 0, GPA, len, page, NULL, self->fd },
		{ 0, GPA, len, 0, NULL, -1 },
		{ 0, 2 * GPA, len, 0, NULL, -1 },
		{ KVM_MEM_LOG_DIRTY_PAGES, GPA, len, 0, NULL, -1 },
		{ KVM_MEM_READONLY, GPA, len, 0, NULL, -1 },
	};
	int i;

	vm_bind_gmem(self->vm, SLOT, GPA, len, self->fd, page);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT,
				cases[i].flags, cases[i].gpa, cases[i].size,
				cases[i].hva, cases[i].fd, cases[i].offset))) {
			TH_LOG("case %d", i);
		}
	}
	ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region(self->vm, SLOT, 0, GPA,
							       len, NULL)));

	/* The slot is where it was, and bound to what it was. */
	ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, GPA + len - page, page,
				     self->fd, 0));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 1, GPA + len, page, self->fd, 0));
	ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 2, 2 * GPA, page, self->fd, len));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 2, 2 * GPA, page, self->fd, len + page));
}

TEST_F(bind, add_file_to_slot)
{
	void *mem = page_before_hole();

	vm_set_user_memory_region(self->vm, SLOT, 0, GPA, self->page, mem);
	ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT,
			KVM_MEM_GUEST_MEMFD, GPA, self->page, mem, self->fd, 0)));
	ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT,
			KVM_MEM_GUEST_MEMFD, 2 * GPA, self->page, mem, self->fd, 0)));

	/* The slot can still do what slots without a file can. */
	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));
	vm_set_user_memory_region(self->vm, SLOT, KVM_MEM_LOG_DIRTY_PAGES, GPA,
				  self->page, mem);
	vm_set_user_memory_region(self->vm, SLOT, 0, 2 * GPA, self->page, mem);
}

TEST_F(bind, delete)
{
	int i;

	ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(self->vm, SLOT)));
	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, 0, self->fd, 0));

	gmem_allocate(self->fd, 0, self->size);
	for (i = 0; i < 4; i++) {
		vm_bind_gmem(self->vm, SLOT, GPA, self->size, self->fd, 0);

		/* Flag and descriptor mean nothing here. */
		switch (i) {
		case 0:
			ASSERT_EQ(0, bind_errno(self->vm, SLOT, GPA, 0, self->fd, 0));
			break;
		case 1:
			ASSERT_EQ(0, bind_errno(self->vm, SLOT, GPA, 0, -1, 0));
			break;
		case 2:
			ASSERT_EQ(0, __vm_delete_slot(self->vm, SLOT));
			break;
		case 3:
			ASSERT_EQ(0, __vm_set_user_memory_region(self->vm, SLOT, 0,
								 GPA, 0, NULL));
			break;
		}
		ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(self->vm, SLOT)));
		ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, 0, -1, 0));
		ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));
	}

	/* Pages belong to the file, not to slots. */
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
}

TEST_F(bind, close_then_delete)
{
	int fd;

	vm_bind_gmem(self->vm, SLOT, GPA, self->size, self->fd, 0);
	gmem_allocate(self->fd, 0, self->size);
	close(self->fd);

	/* What is left is a slot that can only be deleted. */
	fd = vm_create_guest_memfd(self->vm, self->size, 0);
	self->fd = fd;
	ASSERT_EQ(EINVAL, bind_errno(self->vm, SLOT, GPA, self->size, fd, 0));
	ASSERT_EQ(EINVAL, errno_of(__vm_set_user_memory_region2(self->vm, SLOT, 0, GPA,
								self->size, NULL, -1, 0)));
	ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, GPA, self->size, fd, 0));
	ASSERT_EQ(0, __vm_delete_slot(self->vm, SLOT));
	ASSERT_EQ(0, bind_errno(self->vm, SLOT, GPA, self->size, fd, 0));
}

/* The second slot is deleted first, the file dies in between. */
TEST_F(bind, delete_close_delete)
{
	vm_bind_gmem(self->vm, SLOT, GPA, 4 * self->page, self->fd, 0);
	vm_bind_gmem(self->vm, SLOT + 1, 2 * GPA, 4 * self->page, self->fd,
		     4 * self->page);
	gmem_allocate(self->fd, 0, self->size);

	vm_delete_slot(self->vm, SLOT + 1);
	close(self->fd);
	self->fd = -1;
	vm_delete_slot(self->vm, SLOT);
	ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(self->vm, SLOT)));
}

TEST_F(bind, duplicate_keeps_binding)
{
	int fd = dup(self->fd);

	ASSERT_GE(fd, 0);
	vm_bind_gmem(self->vm, SLOT, GPA, self->size, self->fd, 0);
	close(self->fd);
	self->fd = fd;
	ASSERT_EQ(EEXIST, bind_errno(self->vm, SLOT + 1, 2 * GPA, self->size, fd, 0));
	vm_delete_slot(self->vm, SLOT);
	ASSERT_EQ(0, bind_errno(self->vm, SLOT + 1, 2 * GPA, self->size, fd, 0));
}

TEST_F(bind, vm_closed_first)
{
	vm_bind_gmem(self->vm, SLOT, GPA, self->size, self->fd, 0);
	gmem_allocate(self->fd, 0, self->size);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	gmem_punch_hole(self->fd, 0, self->page);
	ASSERT_EQ(NR_PAGES - 1, gmem_allocated_pages(self->fd));
	ASSERT_EQ(0, close(self->fd));
	self->fd = -1;
}

TEST_F(bind, file_closed_first)
{
	vm_bind_gmem(self->vm, SLOT, GPA, self->size, self->fd, 0);
	gmem_allocate(self->fd, 0, self->size);
	ASSERT_EQ(0, close(self->fd));
	self->fd = -1;
	kvm_vm_free(self->vm);
	self->vm = NULL;
}

/* Attributes know one address space: the other is refused where they matter. */
TEST_F(bind, second_address_space)
{
	void *mem = page_before_hole();
	uint32_t slot = SLOT | 1 << 16;

	ASSERT_EQ(variant->err_address_space,
		  errno_of(__vm_set_user_memory_region(self->vm, slot, 0, GPA,
						       self->page, mem)));
	if (!variant->err_address_space)
		vm_delete_slot(self->vm, slot);

	ASSERT_EQ(variant->err_address_space,
		  bind_errno(self->vm, slot, GPA, self->size, self->fd, 0));
	if (!variant->err_address_space)
		vm_delete_slot(self->vm, slot);

	ASSERT_EQ(0, rebind_errno(self->vm, self->fd, self->size));
}

/*
 * Races.  Two threads meet at a barrier, one does something to the slot and the
 * other to the file.  The tools that look for damage are in the kernel.
 */
enum race {
	RACE_DELETE_CLOSE,
	RACE_DELETE_PUNCH,
	RACE_BIND_CLOSE,
};

struct racer {
	struct kvm_vm *vm;
	uint64_t size;
	enum race race;
	pthread_barrier_t barrier;
	int fd;
	int bind_err;
};

static void *slot_racer(void *arg)
{
	struct racer *r = arg;
	int i;

	for (i = 0; i < NR_RACES; i++) {
		pthread_barrier_wait(&r->barrier);
		if (r->race == RACE_BIND_CLOSE)
			r->bind_err = bind_errno(r->vm, SLOT, GPA, r->size, r->fd, 0);
		else
			vm_delete_slot(r->vm, SLOT);
		pthread_barrier_wait(&r->barrier);
	}
	return NULL;
}

static void race(struct kvm_vm *vm, uint64_t size, enum race race)
{
	struct racer r = { .vm = vm, .size = size, .race = race };
	pthread_t thread;
	int i, err;

	pthread_barrier_init(&r.barrier, NULL, 2);
	TEST_ASSERT(!pthread_create(&thread, NULL, slot_racer, &r), "no thread");

	for (i = 0; i < NR_RACES; i++) {
		r.fd = vm_create_guest_memfd(vm, size, 0);
		gmem_allocate(r.fd, 0, size);
		if (race != RACE_BIND_CLOSE)
			vm_bind_gmem(vm, SLOT, GPA, size, r.fd, 0);

		pthread_barrier_wait(&r.barrier);
		if (race == RACE_DELETE_PUNCH)
			gmem_punch_hole(r.fd, 0, size);
		else
			TEST_ASSERT(!close(r.fd), "close() failed, errno: %d", errno);
		pthread_barrier_wait(&r.barrier);

		switch (race) {
		case RACE_DELETE_CLOSE:
			break;
		case RACE_DELETE_PUNCH:
			TEST_ASSERT_EQ(gmem_allocated_pages(r.fd), 0ul);
			close(r.fd);
			break;
		case RACE_BIND_CLOSE:
			TEST_ASSERT(!r.bind_err || r.bind_err == EBADF,
				    "bind while closing: errno %d", r.bind_err);
			if (!r.bind_err)
				vm_delete_slot(vm, SLOT);
			break;
		}
		err = errno_of(__vm_delete_slot(vm, SLOT));
		TEST_ASSERT_EQ(err, EINVAL);
	}
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&r.barrier);
}

TEST_F_TIMEOUT(bind, race_delete_close, 600)
{
	race(self->vm, self->size, RACE_DELETE_CLOSE);
}

TEST_F_TIMEOUT(bind, race_delete_punch, 600)
{
	race(self->vm, self->size, RACE_DELETE_PUNCH);
}

TEST_F_TIMEOUT(bind, race_bind_close, 600)
{
	race(self->vm, self->size, RACE_BIND_CLOSE);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_gmem());

	return test_harness_run(argc, argv);
}
