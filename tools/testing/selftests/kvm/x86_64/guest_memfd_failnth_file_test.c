// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation of the operations on the pages of a guest_memfd fails in turn:
 * fallocate(), holes, write(), mmap(), the first touch, mbind().  What has failed
 * leaves what was there, or a part that is whole, and works when it is tried again.
 *
 * Bugs that others had and that show here: pages that nobody frees; a hole that cannot
 * be made because memory is short, which is when it is wanted.
 *
 * See guest_memfd_failnth_test.
 */
#include "gmem_failnth_run.h"

struct file {
	struct kvm_vm *vm;
	int fd;
	/* Of the whole file, and of a part of it that is not mapped otherwise. */
	void *mem;
	void *part;
	uint64_t first;
	uint64_t npages;
	uint64_t allocated;
	void *source;
	/* What a call did that stopped half way. */
	uint64_t progress;
};

static void file_is_empty(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), 0);
}

static void empty_file(void *arg)
{
	struct file *f = arg;

	gmem_punch_hole(f->fd, 0, BYTES(f->npages));
	file_is_empty(arg);
	f->progress = 0;
}

static int allocate_errno(void *arg)
{
	struct file *f = arg;

	return errno_of(__gmem_allocate(f->fd, BYTES(f->first), BYTES(f->allocated)));
}

/* What is allocated stays. */
static void allocated_some(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT(gmem_allocated_pages(f->fd) < f->allocated, "All of it is there");
}

static void allocated_all(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->allocated);
	TEST_ASSERT(pages_are_zero(f->mem + BYTES(f->first), f->allocated),
		    "Not zeroes");
}

static const struct sweep allocate_op = {
	.begin = empty_file, .act = allocate_errno, .unchanged = allocated_some,
	.done = allocated_all,
};

static void fill_file(void *arg)
{
	struct file *f = arg;

	empty_file(arg);
	gmem_allocate(f->fd, 0, BYTES(f->npages));
	fill_pages(f->mem, f->npages);
}

static int punch_errno(void *arg)
{
	struct file *f = arg;

	return errno_of(__gmem_punch_hole(f->fd, BYTES(f->first), BYTES(f->allocated)));
}

static void file_is_full(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->npages);
	TEST_ASSERT(pages_are_filled(f->mem, f->npages), "Contents are lost");
}

static void hole_is_there(void *arg)
{
	struct file *f = arg;
	uint64_t i;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->npages - f->allocated);
	for (i = 0; i < f->npages; i++) {
		if (i == f->first)
			i += f->allocated;
		if (i < f->npages)
			TEST_ASSERT(page_is(f->mem, i, PAGE_BYTE(i)), "Page %lu", i);
	}
}

static const struct sweep punch_op = {
	.begin = fill_file, .act = punch_errno, .unchanged = file_is_full,
	.done = hole_is_there,
};

/* As a VMM that goes on where it stopped. */
static int write_errno(void *arg)
{
	struct file *f = arg;
	ssize_t n;

	n = pwrite(f->fd, f->source + BYTES(f->progress),
		   BYTES(f->allocated - f->progress), BYTES(f->first + f->progress));
	if (n < 0)
		return errno;
	f->progress += n / PAGE_SIZE;
	return 0;
}

static void written_none(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(f->progress, 0);
	file_is_empty(arg);
}

static void written_all(void *arg)
{
	struct file *f = arg;
	uint64_t some = f->progress;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), some);
	if (some < f->allocated)
		TEST_ASSERT_EQ(write_errno(arg), 0);
	TEST_ASSERT_EQ(f->progress, f->allocated);
	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->allocated);
	TEST_ASSERT(pages_are_filled(f->mem + BYTES(f->first), f->allocated),
		    "Not what was written");
}

static const struct sweep write_op = {
	.begin = empty_file, .act = write_errno, .unchanged = written_none,
	.done = written_all,
};

/* @op with pages of the file.  MAY_FAIL: at least one of the allocations is needed. */
#define MAY_FAIL	false
#define NEVER_FAILS	true

static void sweep_pages(struct file *f, struct sweep op, const char *name,
			uint64_t first, uint64_t npages, bool never_fails)
{
	f->first = first;
	f->allocated = npages;
	op.name = name;
	op.never_fails = never_fails;
	sweep(&op, f);
}

static int map_errno(void *arg)
{
	struct file *f = arg;

	f->part = mmap(NULL, BYTES(FEW), PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	return f->part == MAP_FAILED ? errno : 0;
}

static void part_is_mapped(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT(pages_are_filled(f->part, FEW), "Not the file");
}

static void unmap_part(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT(!munmap(f->part, BYTES(FEW)), "munmap(), errno: %d", errno);
}

static void map_anew(struct file *f)
{
	munmap(f->mem, BYTES(f->npages));
	f->mem = gmem_map(f->fd, BYTES(f->npages), 0);
}

static void empty_unmapped(void *arg)
{
	empty_file(arg);
	map_anew(arg);
}

static void full_unmapped(void *arg)
{
	fill_file(arg);
	map_anew(arg);
}

/* 6.1 takes such a fault again, until there is memory. */
static int touch_page(void *arg)
{
	struct file *f = arg;

	return touch(f->mem + BYTES(f->first), -1);
}

static void touched_empty(void *arg)
{
	struct file *f = arg;
	uint64_t nr = gmem_allocated_pages(f->fd);

	TEST_ASSERT(nr == 1 || nr == f->npages, "%lu pages", nr);
	TEST_ASSERT(pages_are_zero(f->mem, f->npages), "Not zeroes");
}

static int policy_of(void *addr)
{
	unsigned long nodes[16] = {};
	int mode;

	TEST_ASSERT(!syscall(SYS_get_mempolicy, &mode, nodes, 1024UL, addr, MPOL_F_ADDR),
		    "get_mempolicy(), errno: %d", errno);
	TEST_ASSERT_EQ(nodes[0], mode == MPOL_DEFAULT ? 0 : 1);
	return mode;
}

static int bind_policy(struct file *f, uint64_t first, uint64_t npages, int mode)
{
	unsigned long nodes = 1;

	return errno_of(syscall(SYS_mbind, f->mem + BYTES(first), BYTES(npages), mode,
				&nodes, mode == MPOL_DEFAULT ? 1UL : 64UL, 0));
}

static int mbind_errno(void *arg)
{
	struct file *f = arg;

	return bind_policy(f, 10, 20, MPOL_BIND);
}

static void expect_policy(struct file *f, int middle)
{
	static const uint64_t pages[] = { 0, 9, 10, 29, 30, 49 };
	uint64_t i;

	for (i = 0; i < ARRAY_SIZE(pages); i++)
		TEST_ASSERT_EQ(policy_of(f->mem + BYTES(pages[i])),
			       pages[i] >= 10 && pages[i] < 30 ? middle : MPOL_PREFERRED);
	TEST_ASSERT_EQ(policy_of(f->mem + BYTES(50)), MPOL_DEFAULT);
}

static void policy_unchanged(void *arg)
{
	expect_policy(arg, MPOL_PREFERRED);
}

static void policy_bound(void *arg)
{
	expect_policy(arg, MPOL_BIND);
}

/* Split by the one that is going to be in its middle. */
static void mbind_begin(void *arg)
{
	struct file *f = arg;

	empty_unmapped(arg);
	TEST_ASSERT_EQ(bind_policy(f, 0, f->npages, MPOL_DEFAULT), 0);
	TEST_ASSERT_EQ(bind_policy(f, 0, 50, MPOL_PREFERRED), 0);
	policy_unchanged(arg);
}

FIXTURE(file) {
	struct file f;
};

FIXTURE_VARIANT(file) {
	uint64_t npages;
};

FIXTURE_VARIANT_ADD(file, small)
{
	.npages = SOME,
};

FIXTURE_VARIANT_ADD(file, large)
{
	.npages = LARGE,
};

/* A default VM, where all of it may be touched. */
FIXTURE_SETUP(file)
{
	struct file *f = &self->f;

	f->npages = variant->npages;
	f->vm = vm_create_barebones();
	f->fd = vm_create_guest_memfd(f->vm, BYTES(f->npages),
				      FLAG_MMAP | FLAG_SHARED | FLAG_WRITE);
	f->mem = gmem_map(f->fd, BYTES(f->npages), 0);
	vm_bind_gmem(f->vm, SLOT, GPA, BYTES(f->npages), f->fd, 0);
	f->source = anonymous_pages(BYTES(f->npages));
	fill_pages(f->source, f->npages);
}

FIXTURE_TEARDOWN(file)
{
	struct file *f = &self->f;

	munmap(f->source, BYTES(f->npages));
	munmap(f->mem, BYTES(f->npages));
	close(f->fd);
	kvm_vm_free(f->vm);
	EXPECT_EQ(0, nr_own_vms());
}

TEST_F(file, fallocate)
{
	if (variant->npages < LARGE) {
		sweep_pages(&self->f, allocate_op, "fallocate(), a page", 3, 1, MAY_FAIL);
		/* Past what is in one node. */
		sweep_pages(&self->f, allocate_op, "fallocate(), pages", 56, FEW, MAY_FAIL);
		return;
	}
	REQUIRE_LARGE_PAGES();
	sweep_pages(&self->f, allocate_op, "fallocate(), 2 MiB", 0, LARGE, NEVER_FAILS);
}

TEST_F(file, hole)
{
	if (variant->npages < LARGE) {
		sweep_pages(&self->f, punch_op, "hole in pages", 56, FEW, NEVER_FAILS);
		return;
	}
	REQUIRE_LARGE_PAGES();
	sweep_pages(&self->f, punch_op, "hole, 2 MiB", 0, LARGE, NEVER_FAILS);
	/* To split the folio takes memory; it tries more than once. */
	sweep_pages(&self->f, punch_op, "hole in 2 MiB", 100, FEW, NEVER_FAILS);
}

TEST_F(file, write)
{
	if (variant->npages < LARGE) {
		sweep_pages(&self->f, write_op, "write(), a page", 3, 1, MAY_FAIL);
		sweep_pages(&self->f, write_op, "write(), pages", 56, FEW, MAY_FAIL);
		return;
	}
	REQUIRE_LARGE_PAGES();
	sweep_pages(&self->f, write_op, "write(), 2 MiB", 0, LARGE, NEVER_FAILS);
}

TEST_F(file, mmap)
{
	static const struct sweep map_op = {
		.name = "mmap()", .begin = fill_file, .act = map_errno,
		.unchanged = file_is_full, .done = part_is_mapped, .end = unmap_part,
	};
	static const struct sweep touch_op = {
		.name = "touch in user space", .begin = empty_unmapped,
		.act = touch_page, .done = touched_empty, .never_fails = true,
		.waits = true,
	};
	static const struct sweep map_page_op = {
		.name = "touch in user space of what is there", .begin = full_unmapped,
		.act = touch_page, .done = file_is_full, .never_fails = true,
		.waits = true,
	};

	if (variant->npages == LARGE)
		REQUIRE_LARGE_PAGES();
	self->f.first = 7;
	sweep(&map_op, &self->f);
	sweep(&touch_op, &self->f);
	sweep(&map_page_op, &self->f);
}

TEST_F(file, mbind)
{
	static const struct sweep op = {
		.name = "mbind()", .begin = mbind_begin, .act = mbind_errno,
		.unchanged = policy_unchanged, .done = policy_bound,
	};
	unsigned long nodes;
	int mode;

	if (syscall(SYS_get_mempolicy, &mode, &nodes, 64UL, NULL, 0UL))
		SKIP(return, "no NUMA policies");
	if (variant->npages == LARGE)
		SKIP(return, "makes no difference");
	sweep(&op, &self->f);
}

int main(int argc, char *argv[])
{
	return failnth_main(argc, argv);
}
