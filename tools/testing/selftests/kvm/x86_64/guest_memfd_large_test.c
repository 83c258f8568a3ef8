// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios of guest_memfd: where memory is allocated and mapped 2 MiB at a
 * time, and that nothing else changes by it.  A hole and a conversion are as exact
 * as they are with small pages, and what is not theirs keeps its contents.
 *
 * How much a file has, its st_blocks tell; how it is mapped in the guest, the
 * statistics of the VM.
 */
#include "gmem_large.h"

#define CYCLES		1000

/* Private memory beside an alias that is shared: slot, file and gpa begin together. */

FIXTURE(private) {
	struct large large;
};

FIXTURE_SETUP(private)
{
	large_setup(&self->large, KVM_X86_SW_PROTECTED_VM, FLAG_WRITE, 2 * LARGE);
}

FIXTURE_TEARDOWN(private)
{
	large_teardown(&self->large);
}

TEST_F(private, touch)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	ASSERT_EQ(1, guest_checks(l, 5, 1, 0));
	ASSERT_EQ(LARGE, allocated(l));
	expect_mapped(l, 1, 0);
	ASSERT_EQ(0, guest_checks(l, 0, LARGE, 0));
	ASSERT_EQ(0, guest_writes(l, 0, LARGE, GUEST_VALUE));
	ASSERT_EQ(1, guest_writes(l, LARGE, LARGE, GUEST_VALUE));
	ASSERT_EQ(2 * LARGE, allocated(l));
	expect_mapped(l, 2, 0);
	ASSERT_EQ(0, guest_checks(l, 0, 2 * LARGE, GUEST_VALUE));

	/* All of it at once, and again. */
	punch_pages(l, 0, LARGE);
	ASSERT_EQ(LARGE, allocated(l));
	expect_mapped(l, 1, 0);
	ASSERT_EQ(1, guest_checks(l, 0, LARGE, 0));
	guest_checks(l, LARGE, LARGE, GUEST_VALUE);
	expect_mapped(l, 2, 0);
}

/* No folio reaches beyond the end. */
TEST_F(private, odd_size)
{
	struct large *l = &self->large;
	const uint64_t size = LARGE + 37;

	REQUIRE_LARGE_PAGES();
	close(l->env.fd);
	new_file(l, 0, size);
	bind_at(l, 0, size, 0);
	guest_writes(l, LARGE + 3, 1, GUEST_VALUE);
	ASSERT_EQ(1, allocated(l));
	expect_mapped(l, 0, 1);
	guest_writes(l, 3, 1, GUEST_VALUE);
	ASSERT_EQ(LARGE + 1, allocated(l));
	expect_mapped(l, 1, 1);
	gmem_allocate(l->env.fd, 0, BYTES(size));
	ASSERT_EQ(size, allocated(l));
	guest_checks(l, LARGE + 3, 1, GUEST_VALUE);
	guest_checks(l, LARGE + 4, 33, 0);
	expect_mapped(l, 1, 34);
}

/* A block that has a page already is completed by small ones. */
TEST_F(private, not_empty)
{
	struct large *l = &self->large;
	void *page = anonymous_pages(PAGE_SIZE);

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	*word_of(page, 0) = WORD(HOST_VALUE, LARGE - 1);
	ASSERT_EQ(PAGE_SIZE, pwrite(l->env.fd, page, PAGE_SIZE, BYTES(LARGE - 1)));
	ASSERT_EQ(1, allocated(l));
	guest_writes(l, 0, 3, GUEST_VALUE);
	ASSERT_EQ(4, allocated(l));
	expect_mapped(l, 0, 3);
	gmem_allocate(l->env.fd, BYTES(4), BYTES(10));
	ASSERT_EQ(14, allocated(l));
	vcpu_pre_fault(l->env.vcpu, GPA, LARGE_SIZE);
	ASSERT_EQ(LARGE, allocated(l));
	expect_mapped(l, 0, LARGE);
	guest_checks(l, 0, 3, GUEST_VALUE);
	guest_checks(l, 3, LARGE - 4, 0);
	guest_checks(l, LARGE - 1, 1, HOST_VALUE);

	/* The next block is not concerned; it is as large as a fallocate makes it. */
	gmem_allocate(l->env.fd, LARGE_SIZE, PAGE_SIZE);
	ASSERT_EQ(2 * LARGE, allocated(l));
	munmap(page, PAGE_SIZE);
}

/* Large in the file, but the guest has it at another distance. */
TEST_F(private, gpa_disagrees)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 1, 2 * LARGE, 0);
	guest_checks(l, 6, 1, 0);
	ASSERT_EQ(LARGE, allocated(l));
	expect_mapped(l, 0, 1);
	guest_writes(l, 1, 2 * LARGE, GUEST_VALUE);
	ASSERT_EQ(2 * LARGE, allocated(l));
	expect_mapped(l, 0, 2 * LARGE);
	guest_checks(l, 1, 2 * LARGE, GUEST_VALUE);

	/* A hole unmaps what it takes, and nothing of what is left of the folio. */
	punch_pages(l, 100, 1);
	expect_mapped(l, 0, 2 * LARGE - 1);
	guest_checks(l, 1, 100, GUEST_VALUE);
	guest_checks(l, 102, 2 * LARGE - 101, GUEST_VALUE);
	expect_mapped(l, 0, 2 * LARGE - 1);
	guest_checks(l, 101, 1, 0);
	expect_mapped(l, 0, 2 * LARGE);
}

/* The guest has no more of a folio than the slot has. */
TEST_F(private, slot_ends_inside)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	close(l->env.fd);
	new_file(l, 0, ALL);
	bind_at(l, 100, ALL - 200, 100);
	guest_checks(l, LARGE - 1, 1, 0);
	guest_checks(l, 2 * LARGE, 1, 0);
	ASSERT_EQ(2 * LARGE, allocated(l));
	expect_mapped(l, 0, 2);
	guest_checks(l, LARGE, 1, 0);
	ASSERT_EQ(ALL, allocated(l));
	expect_mapped(l, 1, 2);
	guest_writes(l, 100, ALL - 200, GUEST_VALUE);
	expect_mapped(l, 1, 2 * (LARGE - 100));
	guest_checks(l, 100, ALL - 200, GUEST_VALUE);

	/* What no slot has can be freed as well. */
	punch_pages(l, 0, 100);
	ASSERT_EQ(ALL - 100, allocated(l));
	guest_checks(l, 100, ALL - 200, GUEST_VALUE);
}

TEST_F(private, pre_fault)
{
	struct large *l = &self->large;
	uint64_t left;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	ASSERT_EQ(0, __vcpu_pre_fault(l->env.vcpu, PAGE_GPA(7), PAGE_SIZE, &left));
	ASSERT_EQ(0, left);
	ASSERT_EQ(LARGE, allocated(l));
	expect_mapped(l, 1, 0);

	/* From within a block to where the slot ends, but not further. */
	ASSERT_EQ(0, __vcpu_pre_fault(l->env.vcpu, PAGE_GPA(2 * LARGE - 12), BYTES(24),
				      &left));
	ASSERT_EQ(BYTES(12), left);
	ASSERT_EQ(2 * LARGE, allocated(l));
	expect_mapped(l, 2, 0);
	ASSERT_EQ(0, guest_writes(l, 0, 2 * LARGE, GUEST_VALUE));

	/* The whole slot, mapped or not. */
	punch_pages(l, 0, LARGE);
	expect_mapped(l, 1, 0);
	ASSERT_EQ(0, __vcpu_pre_fault(l->env.vcpu, GPA, 2 * LARGE_SIZE + PAGE_SIZE,
				      &left));
	ASSERT_EQ(PAGE_SIZE, left);
	expect_mapped(l, 2, 0);
	ASSERT_EQ(0, guest_checks(l, 0, LARGE, 0));
	ASSERT_EQ(0, guest_checks(l, LARGE, LARGE, GUEST_VALUE));
}

/* It is read when a file is created, once. */
TEST_F(private, parameter)
{
	static const char * const small[] = { "0", "1", "8" };
	struct large *l = &self->large;
	int fd, i;

	REQUIRE_LARGE_PAGES();
	for (i = 0; i < ARRAY_SIZE(small); i++) {
		set_max_order(small[i]);
		fd = vm_create_guest_memfd(l->env.vm, LARGE_SIZE, 0);
		gmem_allocate(fd, 0, PAGE_SIZE);
		ASSERT_EQ(1, gmem_allocated_pages(fd));
		set_max_order("9");
		gmem_allocate(fd, BYTES(8), PAGE_SIZE);
		ASSERT_EQ(2, gmem_allocated_pages(fd));
		close(fd);
	}
	set_max_order("0");
	gmem_allocate(l->env.fd, BYTES(8), PAGE_SIZE);
	ASSERT_EQ(LARGE, allocated(l));

	/* More than 2 MiB are not to be had. */
	set_max_order("18");
	fd = vm_create_guest_memfd(l->env.vm, 2 * LARGE_SIZE, 0);
	gmem_allocate(fd, BYTES(8), PAGE_SIZE);
	ASSERT_EQ(LARGE, gmem_allocated_pages(fd));
	close(fd);
}

/* Pages converted out of a mapped folio, and back. */
TEST_F(private, convert)
{
	static const uint64_t pages[] = { 0, 200, LARGE - 1 };
	struct large *l = &self->large;
	uint64_t page;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	host_write(l->alias, 0, 2 * LARGE, HOST_VALUE);
	guest_writes(l, 0, 2 * LARGE, GUEST_VALUE);
	expect_mapped(l, 2, 0);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		page = pages[i];
		vm_mem_set_shared(l->env.vm, PAGE_GPA(page), PAGE_SIZE);
		guest_checks(l, page, 1, HOST_VALUE);
		guest_writes(l, page, 1, OTHER_VALUE);
		host_check(l->alias, page, 1, OTHER_VALUE);
		guest_checks(l, 0, page, GUEST_VALUE);
		guest_checks(l, page + 1, 2 * LARGE - page - 1, GUEST_VALUE);
		expect_mapped(l, 1, LARGE);
		ASSERT_EQ(2 * LARGE, allocated(l));

		/* What is private again was never gone. */
		vm_mem_set_private(l->env.vm, PAGE_GPA(page), PAGE_SIZE);
		ASSERT_EQ(1, guest_checks(l, page, 1, GUEST_VALUE));
		expect_mapped(l, 2, 0);
		ASSERT_EQ(0, guest_checks(l, 0, 2 * LARGE, GUEST_VALUE));
	}
}

/* Holes: first page, and how many. */

FIXTURE(hole) {
	struct large large;
};

FIXTURE_VARIANT(hole) {
	uint64_t first;
	uint64_t npages;
	/* The folios that it leaves alone. */
	unsigned int whole;
};

FIXTURE_VARIANT_ADD(hole, start) { .first = 0, .npages = 10, .whole = 2 };
FIXTURE_VARIANT_ADD(hole, middle) { .first = 100, .npages = 50, .whole = 2 };
FIXTURE_VARIANT_ADD(hole, end) { .first = LARGE - 1, .npages = 1, .whole = 2 };
FIXTURE_VARIANT_ADD(hole, across) { .first = 300, .npages = 400, .whole = 1 };
FIXTURE_VARIANT_ADD(hole, and_a_half) { .first = 256, .npages = 768, .whole = 1 };
FIXTURE_VARIANT_ADD(hole, over_one) { .first = LARGE - 1, .npages = LARGE + 2 };

FIXTURE_SETUP(hole)
{
	large_setup(&self->large, KVM_X86_SW_PROTECTED_VM, 0, ALL);
}

FIXTURE_TEARDOWN(hole)
{
	large_teardown(&self->large);
}

TEST_F(hole, exact)
{
	uint64_t first = variant->first, past = first + variant->npages;
	uint64_t block = (past - 1) & -LARGE;
	/* Its last page comes back with all of a block that has become empty. */
	uint64_t back = first <= block && past == block + LARGE ? LARGE : 1;
	struct large *l = &self->large;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, ALL, 0);
	for (i = 0; i < 3; i++) {
		guest_writes(l, 0, ALL, GUEST_VALUE);
		ASSERT_EQ(ALL, allocated(l));
		expect_mapped(l, 3, 0);
		punch_pages(l, first, past - first);
		ASSERT_EQ(ALL - variant->npages, allocated(l));
		expect_mapped(l, variant->whole, 0);
		guest_checks(l, 0, first, GUEST_VALUE);
		guest_checks(l, past, ALL - past, GUEST_VALUE);
		ASSERT_EQ(ALL - variant->npages, allocated(l));
		guest_checks(l, past - 1, 1, 0);
		ASSERT_EQ(ALL - variant->npages + back, allocated(l));
		guest_checks(l, first, past - first, 0);
		ASSERT_EQ(ALL, allocated(l));
		punch_pages(l, 0, ALL);
		ASSERT_EQ(0, allocated(l));
		expect_mapped(l, 0, 0);
	}
}

TEST_F(private, hole_while_counting)
{
	REQUIRE_LARGE_PAGES();
	punch_while_counting(&self->large);
}

/* write() */

TEST_F(private, write)
{
	struct large *l = &self->large;
	void *buf = anonymous_pages(BYTES(ALL));
	uint64_t size = BYTES(100 + LARGE + 50);

	REQUIRE_LARGE_PAGES();
	close(l->env.fd);
	new_file(l, FLAG_WRITE, ALL);
	bind_at(l, 0, ALL, 0);
	host_write(buf, 0, ALL, HOST_VALUE);

	/* What is not a whole block stays small, and exact. */
	ASSERT_EQ(size, pwrite(l->env.fd, buf + BYTES(LARGE - 100), size,
			       BYTES(LARGE - 100)));
	ASSERT_EQ(size, BYTES(allocated(l)));
	guest_checks(l, LARGE - 100, 100 + LARGE + 50, HOST_VALUE);
	expect_mapped(l, 1, 150);
	ASSERT_EQ(EEXIST, errno_of(pwrite(l->env.fd, buf, LARGE_SIZE, LARGE_SIZE)));

	/* A page that is there ends it. */
	ASSERT_EQ(BYTES(LARGE - 100), pwrite(l->env.fd, buf, LARGE_SIZE, 0));
	guest_checks(l, 0, 2 * LARGE + 50, HOST_VALUE);
	ASSERT_EQ(2 * LARGE + 50, allocated(l));
	munmap(buf, BYTES(ALL));
}

TEST_F(private, write_bad_buffer)
{
	struct large *l = &self->large;
	void *buf = anonymous_pages(2 * LARGE_SIZE);

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	host_write(buf, 0, 2 * LARGE, HOST_VALUE);
	ASSERT_EQ(0, mprotect(buf + BYTES(LARGE + 300), PAGE_SIZE, PROT_NONE));
	ASSERT_EQ(BYTES(LARGE + 300), pwrite(l->env.fd, buf, 2 * LARGE_SIZE, 0));
	ASSERT_EQ(LARGE + 300, allocated(l));
	ASSERT_EQ(EFAULT, errno_of(pwrite(l->env.fd, buf + BYTES(LARGE + 300),
					  BYTES(212), BYTES(LARGE + 300))));
	ASSERT_EQ(LARGE + 300, allocated(l));
	guest_checks(l, 0, LARGE + 300, HOST_VALUE);
	expect_mapped(l, 1, 300);
	guest_checks(l, LARGE + 300, 212, 0);
	munmap(buf, 2 * LARGE_SIZE);
}

static long system_pages(const char *item)
{
	return vmstat_value("/proc/vmstat", item);
}

static unsigned int create_and_close(struct large *l, int n)
{
	unsigned int large = 0;
	int i, fd;

	for (i = 0; i < n; i++) {
		fd = vm_create_guest_memfd(l->env.vm, LARGE_SIZE, 0);
		gmem_allocate(fd, 0, PAGE_SIZE);
		large += gmem_allocated_pages(fd) == LARGE;
		gmem_allocate(fd, 0, LARGE_SIZE);
		gmem_punch_hole(fd, BYTES(1 + i % 400), BYTES(1 + i % 111));
		TEST_ASSERT_EQ(gmem_allocated_pages(fd), LARGE - 1 - i % 111);
		close(fd);
	}
	return large;
}

/* One page of each file lost would be as many pages as there are cycles. */
TEST_F(private, no_leak)
{
	struct large *l = &self->large;
	long files, unevictable;

	REQUIRE_LARGE_PAGES();
	create_and_close(l, 10);
	files = system_pages("nr_file_pages");
	unevictable = system_pages("nr_unevictable");
	ASSERT_LE(CYCLES / 2, create_and_close(l, CYCLES));
	ASSERT_GT(files + CYCLES / 2, system_pages("nr_file_pages"));
	ASSERT_GT(unevictable + CYCLES / 2, system_pages("nr_unevictable"));
	ASSERT_LT(unevictable - CYCLES / 2, system_pages("nr_unevictable"));
	ASSERT_TRUE(has_large_pages(8));
}

static void expect_pages(int dev, uint64_t prepared, uint64_t invalidated)
{
	struct kvm_gmem_soft_status status;

	TEST_ASSERT(!ioctl(dev, KVM_GMEM_SOFT_STATUS, &status), "errno %d", errno);
	TEST_ASSERT_EQ(status.violations, 0ULL);
	TEST_ASSERT_EQ(status.prepared, prepared);
	TEST_ASSERT_EQ(status.invalidated, invalidated);
	TEST_ASSERT_EQ(status.owned, prepared - invalidated);
}

/* A back end hears of every page once, whatever folio it is in. */
TEST(back_end)
{
	int dev = open(SOFT_DEVICE, O_RDWR | O_CLOEXEC);
	struct large l;

	REQUIRE_LARGE_PAGES();
	if (dev < 0)
		SKIP(return, "no " SOFT_DEVICE);
	__large_setup(&l, KVM_X86_SW_PROTECTED_VM, 0, ALL, dev);
	bind_at(&l, 100, ALL - 100, 100);
	guest_writes(&l, LARGE, LARGE, GUEST_VALUE);
	expect_mapped(&l, 1, 0);
	expect_pages(dev, LARGE, 0);
	guest_writes(&l, 200, 1, GUEST_VALUE);
	guest_writes(&l, 400, 1, GUEST_VALUE);
	ASSERT_EQ(2 * LARGE, allocated(&l));
	guest_writes(&l, 100, ALL - 100, GUEST_VALUE);
	expect_pages(dev, ALL - 100, 0);
	punch_pages(&l, LARGE + 7, 10);
	expect_pages(dev, ALL - 100, 10);
	guest_checks(&l, LARGE + 7, 5, 0);
	expect_pages(dev, ALL - 95, 10);
	punch_pages(&l, 0, LARGE + 1);
	expect_pages(dev, ALL - 95, 10 + LARGE - 100 + 1);
	close(l.env.fd);
	expect_pages(dev, ALL - 95, ALL - 95);
	l.env.fd = -1;
	large_teardown(&l);
	close(dev);
}

int main(int argc, char *argv[])
{
	return large_main(argc, argv);
}
