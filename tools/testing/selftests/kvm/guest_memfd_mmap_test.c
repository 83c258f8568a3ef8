// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd that the host may map: the flags, and the mapping as memory of the
 * VMM and of whom it shares the file with.  No guest runs here.
 *
 * Known bugs of other implementations that are checked here:
 *  - a mapping that by itself made the memory accessible, also of VMs that are not
 *    to share it;
 *  - holes punched that left the page mapped;
 *  - khugepaged or MADV_COLLAPSE that replaced the pages by a huge one.
 */
#include "kvm_gmem_util.h"

#include <pthread.h>
#include <string.h>

#include <linux/mman.h>

#include "gmem_harness.h"

#define FLAG_MMAP	GUEST_MEMFD_FLAG_MMAP
#define FLAG_SHARED	GUEST_MEMFD_FLAG_INIT_SHARED
#define FLAG_WRITE	GUEST_MEMFD_FLAG_WRITE

#define NR_PAGES	16ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
#define GPA		0x40000000ULL

#define NR_PUNCHES	100
#define NR_THREADS	3

/* The flags, which depend on the type of the VM. */

FIXTURE(flags) {
	struct kvm_vm *vm;
};

FIXTURE_VARIANT(flags) {
	unsigned long type;
	uint64_t mask;
};

FIXTURE_VARIANT_ADD(flags, default_vm) {
	.type = KVM_X86_DEFAULT_VM,
	.mask = 0xb,
};

/* Its memory starts private, as far as the host is concerned. */
FIXTURE_VARIANT_ADD(flags, sw_protected_vm) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.mask = 0x9,
};

FIXTURE_SETUP(flags)
{
	self->vm = vm_create_barebones_type(variant->type);
}

FIXTURE_TEARDOWN(flags)
{
	kvm_vm_free(self->vm);
}

/* The errno of creation, 0 if there was a file. */
static int create_errno(struct kvm_vm *vm, uint64_t flags)
{
	int fd = __vm_create_guest_memfd(vm, SIZE, flags);

	if (fd < 0)
		return errno;
	TEST_ASSERT_EQ(gmem_allocated_pages(fd), 0UL);
	close(fd);
	return 0;
}

/* What programs built with other headers hard-code. */
TEST(numbers)
{
	ASSERT_EQ(244, KVM_CAP_GUEST_MEMFD_FLAGS);
	ASSERT_EQ(1, GUEST_MEMFD_FLAG_MMAP);
	ASSERT_EQ(2, GUEST_MEMFD_FLAG_INIT_SHARED);
	ASSERT_EQ(8, GUEST_MEMFD_FLAG_WRITE);
	ASSERT_EQ(0xb, kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS));
}

TEST_F(flags, every_bit)
{
	int bit;

	ASSERT_EQ(variant->mask, vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS));
	for (bit = 0; bit < 64; bit++) {
		ASSERT_EQ(variant->mask & (1ULL << bit) ? 0 : EINVAL,
			  create_errno(self->vm, 1ULL << bit)) {
			TH_LOG("flag bit %d", bit);
		}
	}
}

TEST_F(flags, combinations)
{
	uint64_t flags;

	for (flags = 0; flags < 64; flags++) {
		ASSERT_EQ(flags & ~variant->mask ? EINVAL : 0,
			  create_errno(self->vm, flags)) {
			TH_LOG("flags %#lx", flags);
		}
		ASSERT_EQ(EINVAL, create_errno(self->vm, flags | 1ULL << 63));
		ASSERT_EQ(EINVAL, create_errno(self->vm, flags | 1ULL << 32));
	}
}

/* Flags that do not let the file be mapped. */
TEST_F(flags, no_mmap)
{
	static const uint64_t flags[] = { 0, FLAG_SHARED, FLAG_WRITE, FLAG_SHARED | FLAG_WRITE };
	int fd, i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		if (flags[i] & ~variant->mask)
			continue;
		fd = vm_create_guest_memfd(self->vm, SIZE, flags[i]);
		ASSERT_EQ(ENODEV, errno_of((long)mmap(NULL, SIZE, PROT_READ, MAP_SHARED,
						      fd, 0)));
		close(fd);
	}
	fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP);
	munmap(gmem_map(fd, SIZE, 0), SIZE);
	close(fd);
}

/* Memory that is the guest's alone, in a file that can be mapped. */
FIXTURE(unshared) {
	struct kvm_vm *vm;
	void *mem;
	int fd;
};

FIXTURE_VARIANT(unshared) {
	unsigned long type;
};

FIXTURE_VARIANT_ADD(unshared, default_vm) {
	.type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(unshared, sw_protected_vm) {
	.type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_SETUP(unshared)
{
	self->vm = vm_create_barebones_type(variant->type);
	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP);
	self->mem = gmem_map(self->fd, SIZE, 0);
}

FIXTURE_TEARDOWN(unshared)
{
	munmap(self->mem, SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

TEST_F(unshared, sigbus)
{
	void *other;
	uint64_t i;
	pid_t pid;

	other = gmem_map(self->fd, PAGE_SIZE, 3 * PAGE_SIZE);
	for (i = 0; i < NR_PAGES; i++)
		expect_sigbus(self->mem + i * PAGE_SIZE + 8 * i);
	expect_sigbus(other);
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));

	/* Pages that are there are no easier to get at. */
	gmem_allocate(self->fd, 0, SIZE);
	expect_sigbus(self->mem);
	expect_sigbus(self->mem + SIZE - 1);
	expect_sigbus(other);

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		expect_sigbus(self->mem);
		expect_sigbus(other);
		_exit(0);
	}
	wait_for_child(pid);

	ASSERT_EQ(0, __gmem_punch_hole(self->fd, 0, SIZE));
	expect_sigbus(self->mem);
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	munmap(other, PAGE_SIZE);
}

/* Memory that the host shares. */
FIXTURE(shared) {
	struct kvm_vm *vm;
	void *mem;
	int fd;
};

FIXTURE_SETUP(shared)
{
	self->vm = vm_create_barebones();
	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP | FLAG_SHARED);
	self->mem = gmem_map(self->fd, SIZE, 0);
}

FIXTURE_TEARDOWN(shared)
{
	munmap(self->mem, SIZE);
	close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);
}

TEST_F(shared, mmap_refused)
{
	static const int prots[] = { PROT_EXEC, PROT_READ | PROT_EXEC,
				     PROT_READ | PROT_WRITE | PROT_EXEC };
	int i;

	ASSERT_EQ(EINVAL, errno_of((long)mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE, self->fd, 0)));
	ASSERT_EQ(EINVAL, errno_of((long)mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE,
					      self->fd, 0)));
	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_EQ(EPERM, errno_of((long)mmap(NULL, SIZE, prots[i], MAP_SHARED,
						     self->fd, 0)));
		ASSERT_EQ(EACCES, errno_of(mprotect(self->mem, SIZE, prots[i])));
	}
	fill_pages(self->mem, NR_PAGES);
}

TEST_F(shared, zero_filled)
{
	uint64_t i;

	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_TRUE(page_is(self->mem, i, 0));
		ASSERT_EQ(i + 1, gmem_allocated_pages(self->fd));
	}
}

TEST_F(shared, past_the_end)
{
	const size_t page = PAGE_SIZE;
	void *mem, *tail;

	mem = gmem_map(self->fd, SIZE + 3 * page, 0);
	ASSERT_EQ(0, touch(mem + SIZE - 1, PAGE_BYTE(0)));
	expect_sigbus(mem + SIZE);
	expect_sigbus(mem + SIZE + 3 * page - 1);
	munmap(mem, SIZE + 3 * page);

	mem = gmem_map(self->fd, 2 * page, SIZE - page);
	ASSERT_EQ(PAGE_BYTE(0), ((uint8_t *)mem)[page - 1]);
	expect_sigbus(mem + page);

	tail = gmem_map(self->fd, page, SIZE);
	expect_sigbus(tail);
	munmap(tail, page);
	tail = gmem_map(self->fd, page, 1LL << 50);
	expect_sigbus(tail);
	munmap(tail, page);
	munmap(mem, 2 * page);
	ASSERT_EQ(1, gmem_allocated_pages(self->fd));
}

TEST_F(shared, contents)
{
	void *other = gmem_map(self->fd, SIZE / 2, SIZE / 2);

	fill_pages(self->mem, NR_PAGES);
	ASSERT_TRUE(page_is(other, 0, PAGE_BYTE(NR_PAGES / 2)));
	*word_of(other, 1) = 1234;
	ASSERT_EQ(1234, *word_of(self->mem, NR_PAGES / 2 + 1));
	*word_of(self->mem, NR_PAGES - 1) = 5678;
	ASSERT_EQ(5678, *word_of(other, NR_PAGES / 2 - 1));

	/* They are in the file, not in the mapping. */
	munmap(self->mem, SIZE);
	self->mem = gmem_map(self->fd, SIZE, 0);
	ASSERT_EQ(1234, *word_of(self->mem, NR_PAGES / 2 + 1));
	ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES / 2));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	munmap(other, SIZE / 2);
}

/* A mapping is as good as a descriptor, for file and VM. */
TEST_F(shared, closed)
{
	fill_pages(self->mem, NR_PAGES / 2);
	vm_bind_gmem(self->vm, 1, GPA, SIZE, self->fd, 0);
	close(self->fd);
	self->fd = -1;
	ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES / 2));
	kvm_vm_free(self->vm);
	self->vm = NULL;

	ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES / 2));
	ASSERT_TRUE(pages_are_zero(self->mem + SIZE / 2, NR_PAGES / 2));
	fill_pages(self->mem, NR_PAGES);
	ASSERT_EQ(0, madvise(self->mem, PAGE_SIZE, MADV_REMOVE));
	ASSERT_TRUE(pages_are_zero(self->mem, 1));
	ASSERT_TRUE(page_is(self->mem, 1, PAGE_BYTE(1)));
}

/* A slot that knows the file takes no flags, one that has but the mapping does. */
TEST_F(shared, bind_flags)
{
	static const uint32_t flags[] = { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY };
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		ret = __vm_set_user_memory_region2(self->vm, 1,
						   flags[i] | KVM_MEM_GUEST_MEMFD, GPA,
						   SIZE, self->mem, self->fd, 0);
		ASSERT_EQ(-1, ret);
		ASSERT_EQ(EINVAL, errno);
		vm_set_user_memory_region2(self->vm, 1, flags[i], GPA, SIZE, self->mem,
					   -1, 0);
		vm_delete_slot(self->vm, 1);
	}
}

/* The descriptor is all that it takes to map the file. */
TEST_F(shared, map_without_vm)
{
	kvm_vm_free(self->vm);
	self->vm = NULL;
	munmap(self->mem, SIZE);
	self->mem = gmem_map(self->fd, SIZE, 0);
	fill_pages(self->mem, NR_PAGES);
	ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES));
}

TEST_F(shared, allocate)
{
	fill_pages(self->mem, 2);
	gmem_allocate(self->fd, PAGE_SIZE, SIZE - PAGE_SIZE);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	ASSERT_TRUE(pages_are_filled(self->mem, 2));
	ASSERT_TRUE(pages_are_zero(self->mem + 2 * PAGE_SIZE, NR_PAGES - 2));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
}

TEST_F(shared, punch_hole)
{
	void *other = gmem_map(self->fd, SIZE, 0);

	fill_pages(self->mem, NR_PAGES);
	ASSERT_TRUE(pages_are_filled(other, NR_PAGES));
	gmem_punch_hole(self->fd, 4 * PAGE_SIZE, 2 * PAGE_SIZE);
	ASSERT_EQ(NR_PAGES - 2, gmem_allocated_pages(self->fd));

	ASSERT_TRUE(pages_are_zero(self->mem + 4 * PAGE_SIZE, 2));
	ASSERT_TRUE(pages_are_zero(other + 4 * PAGE_SIZE, 2));
	ASSERT_TRUE(pages_are_filled(self->mem, 4));
	ASSERT_TRUE(page_is(self->mem, 6, PAGE_BYTE(6)));
	ASSERT_TRUE(page_is(self->mem, NR_PAGES - 1, PAGE_BYTE(NR_PAGES - 1)));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));

	/* Both have the same new page. */
	*word_of(other, 4) = 1234;
	ASSERT_EQ(1234, *word_of(self->mem, 4));
	munmap(other, SIZE);
}

static void *add_to_all(void *mem)
{
	uint64_t i;

	for (i = 0; i < NR_PAGES; i++)
		__atomic_fetch_add(word_of(mem, i), 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* All who touch a page first get the same one. */
TEST_F(shared, first_touch)
{
	pthread_t threads[NR_THREADS];
	void *mems[NR_THREADS];
	int round, i;

	for (i = 0; i < NR_THREADS; i++)
		mems[i] = gmem_map(self->fd, SIZE, 0);
	for (round = 0; round < NR_PUNCHES; round++) {
		for (i = 0; i < NR_THREADS; i++)
			ASSERT_EQ(0, pthread_create(&threads[i], NULL, add_to_all,
						    mems[i]));
		for (i = 0; i < NR_THREADS; i++)
			pthread_join(threads[i], NULL);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(NR_THREADS, *word_of(self->mem, i));
		ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
		gmem_punch_hole(self->fd, 0, SIZE);
	}
	for (i = 0; i < NR_THREADS; i++)
		munmap(mems[i], SIZE);
}

struct writer {
	void *mem;
	volatile uint64_t done;
	volatile bool stop;
};

/* Writes numbers to two pages, and tells which one it has written to both. */
static void *write_numbers(void *arg)
{
	struct writer *writer = arg;
	uint64_t number = 0;

	while (!writer->stop) {
		number++;
		*word_of(writer->mem, 0) = number;
		*word_of(writer->mem, 1) = number;
		writer->done = number;
	}
	return NULL;
}

/* No write may go to the page that has just been removed. */
TEST_F(shared, punch_hole_while_writing)
{
	struct writer writer = { .mem = self->mem };
	void *other = gmem_map(self->fd, SIZE, 0);
	pthread_t thread;
	uint64_t before;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, write_numbers, &writer));
	for (i = 0; i < NR_PUNCHES; i++) {
		gmem_punch_hole(self->fd, 0, PAGE_SIZE);
		before = writer.done;
		/* One write may have been under way, the next one was not. */
		while (writer.done < before + 2)
			sched_yield();
		EXPECT_GT(*word_of(other, 0), before);
		EXPECT_GT(*word_of(other, 1), before);
	}
	writer.stop = true;
	pthread_join(thread, NULL);
	ASSERT_EQ(writer.done, *word_of(other, 0));
	ASSERT_EQ(writer.done, *word_of(other, 1));
	ASSERT_EQ(2, gmem_allocated_pages(self->fd));
	munmap(other, SIZE);
}

TEST_F(shared, madvise)
{
	const struct {
		int advice;
		int err;
	} cases[] = {
		{ MADV_DONTNEED, 0 },
		{ MADV_COLD, 0 },
		{ MADV_PAGEOUT, 0 },
		{ MADV_WILLNEED, 0 },
		{ MADV_FREE, EINVAL },
		{ MADV_HUGEPAGE, 0 },
		{ MADV_COLLAPSE, EINVAL },
		{ MADV_NOHUGEPAGE, 0 },
		{ MADV_COLLAPSE, EINVAL },
		{ MADV_POPULATE_READ, 0 },
		{ MADV_POPULATE_WRITE, 0 },
	};
	int i;

	fill_pages(self->mem, NR_PAGES);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(cases[i].err, errno_of(madvise(self->mem, SIZE,
							 cases[i].advice))) {
			TH_LOG("advice %d", cases[i].advice);
		}
		ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
		ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES)) {
			TH_LOG("advice %d", cases[i].advice);
		}
	}
}

TEST_F(shared, madvise_remove)
{
	fill_pages(self->mem, NR_PAGES);
	ASSERT_EQ(0, madvise(self->mem + PAGE_SIZE, PAGE_SIZE, MADV_REMOVE));
	ASSERT_EQ(NR_PAGES - 1, gmem_allocated_pages(self->fd));
	ASSERT_TRUE(page_is(self->mem, 0, PAGE_BYTE(0)));
	ASSERT_TRUE(page_is(self->mem, 1, 0));
	ASSERT_TRUE(page_is(self->mem, 2, PAGE_BYTE(2)));
}

/* A huge page would fit, and all of it is there: it must not be made. */
TEST_F(shared, collapse)
{
	const size_t huge = 2 << 20;
	int fd = vm_create_guest_memfd(self->vm, 2 * huge, FLAG_MMAP | FLAG_SHARED);
	void *mem, *at;

	mem = gmem_map(fd, 2 * huge, 0);
	at = (void *)(((uintptr_t)mem + huge - 1) & -huge);
	/* The file's offset is to be aligned as well. */
	at = mmap(at, huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, huge);
	ASSERT_NE(MAP_FAILED, at);
	fill_pages(at, huge / PAGE_SIZE);
	ASSERT_EQ(0, madvise(at, huge, MADV_HUGEPAGE));
	ASSERT_EQ(EINVAL, errno_of(madvise(at, huge, MADV_COLLAPSE)));
	ASSERT_TRUE(pages_are_filled(at, huge / PAGE_SIZE));
	ASSERT_EQ(huge / PAGE_SIZE, gmem_allocated_pages(fd));
	munmap(mem, 2 * huge);
	munmap(at, huge);
	close(fd);
}

TEST_F(shared, mprotect)
{
	fill_pages(self->mem, NR_PAGES);
	ASSERT_EQ(0, mprotect(self->mem, PAGE_SIZE, PROT_READ));
	ASSERT_EQ(0, touch(self->mem, -1));
	ASSERT_EQ(SIGSEGV, touch(self->mem, 0));
	ASSERT_EQ(0, mprotect(self->mem, PAGE_SIZE, PROT_NONE));
	expect_signal(self->mem, SIGSEGV, SEGV_ACCERR);
	ASSERT_EQ(0, mprotect(self->mem, SIZE, PROT_READ | PROT_WRITE));
	ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES));
}

TEST_F(shared, mremap)
{
	const size_t page = PAGE_SIZE;
	void *mem = gmem_map(self->fd, 2 * page, 0), *moved, *copy;
	void *place = anonymous_pages(SIZE);

	fill_pages(self->mem, NR_PAGES);

	/* Grow, past the end of the file too. */
	mem = mremap(mem, 2 * page, SIZE + page, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_TRUE(pages_are_filled(mem, NR_PAGES));
	expect_sigbus(mem + SIZE);

	moved = mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	ASSERT_EQ(place, moved);
	ASSERT_TRUE(pages_are_filled(moved, NR_PAGES));
	expect_signal(mem, SIGSEGV, SEGV_MAPERR);
	expect_sigbus(mem + SIZE);

	ASSERT_EQ(moved, mremap(moved, SIZE, page, 0));
	ASSERT_TRUE(pages_are_filled(moved, 1));
	expect_signal(moved + page, SIGSEGV, SEGV_MAPERR);

	/* A second one of the same memory. */
	copy = mremap(moved, 0, page, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, copy);
	*word_of(copy, 0) = 1234;
	ASSERT_EQ(1234, *word_of(moved, 0));
	ASSERT_EQ(1234, *word_of(self->mem, 0));
	gmem_punch_hole(self->fd, 0, SIZE);
	ASSERT_TRUE(pages_are_zero(copy, 1));
	ASSERT_TRUE(pages_are_zero(moved, 1));

	munmap(copy, page);
	munmap(moved, page);
	munmap(mem + SIZE, page);
}

TEST_F(shared, fork)
{
	int pipefd[2];
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(pipefd));
	fill_pages(self->mem, NR_PAGES);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(pipefd[1]);
		TEST_ASSERT(!read(pipefd[0], &c, 1), "the parent closes its end");
		TEST_ASSERT_EQ(*word_of(self->mem, 0), 1234UL);
		TEST_ASSERT(page_is(self->mem, 1, 0), "the parent's hole");
		*word_of(self->mem, 2) = 5678;
		gmem_punch_hole(self->fd, 3 * PAGE_SIZE, PAGE_SIZE);
		_exit(0);
	}
	*word_of(self->mem, 0) = 1234;
	gmem_punch_hole(self->fd, PAGE_SIZE, PAGE_SIZE);
	close(pipefd[1]);
	wait_for_child(pid);
	ASSERT_EQ(5678, *word_of(self->mem, 2));
	ASSERT_TRUE(page_is(self->mem, 3, 0));
	ASSERT_TRUE(page_is(self->mem, 4, PAGE_BYTE(4)));
	close(pipefd[0]);
}

TEST_F(shared, truncate)
{
	char path[64];

	fill_pages(self->mem, NR_PAGES);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	ASSERT_EQ(EINVAL, errno_of(ftruncate(self->fd, 0)));
	ASSERT_EQ(EINVAL, errno_of(ftruncate(self->fd, SIZE / 2)));
	ASSERT_EQ(EINVAL, errno_of(truncate(path, 0)));
	ASSERT_EQ(ENXIO, errno_of(open(path, O_RDWR | O_TRUNC)));
	ASSERT_TRUE(pages_are_filled(self->mem, NR_PAGES));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_MMAP | FLAG_SHARED));

	return test_harness_run(argc, argv);
}
