// SPDX-License-Identifier: GPL-2.0
/*
 * Who pays: pages of a guest_memfd, bindings and memory attributes are charged to
 * the memory cgroup of the task that caused them, and given back with them.
 *
 * Bugs that others had and that show here: attributes that no cgroup pays for,
 * so that a guest that converts page by page takes the host's memory.
 *
 * Needs root and a kernel with CONFIG_MEMCG.  Each test works in a child that has
 * moved itself to a cgroup of its own.
 */
#include "gmem_memcg.h"

#include "kselftest_harness.h"

#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define MIB		(1ULL << 20)
#define PAGES		(16 * MIB / PAGE_SIZE)
#define LIMIT_MIB	24
/* Ranges, the gaps between them, and what a node holds: at least 1 byte each. */
#define RANGES		16384

/* Charges are counted in batches per CPU. */
#define SLACK		(2 * MIB)

FIXTURE(memcg) {
};

FIXTURE_SETUP(memcg)
{
	ASSERT_EQ(0, mkdir(GROUP, 0755));
}

FIXTURE_TEARDOWN(memcg)
{
	EXPECT_EQ(0, rmdir(GROUP));
}

static void fill_and_punch(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd = vm_create_guest_memfd(vm, PAGES * PAGE_SIZE, 0);
	uint64_t before = charged(), full, empty;

	gmem_allocate(fd, 0, PAGES * PAGE_SIZE);
	full = charged();
	TEST_ASSERT(full >= before + PAGES * PAGE_SIZE - SLACK,
		    "%llu pages charged as %llu bytes", PAGES,
		    (unsigned long long)(full - before));

	gmem_punch_hole(fd, 0, PAGES * PAGE_SIZE);
	empty = charged();
	TEST_ASSERT(empty <= full - PAGES * PAGE_SIZE + SLACK,
		    "still %llu bytes charged after the hole",
		    (unsigned long long)(empty - before));
	kvm_vm_free(vm);
	close(fd);
}

TEST_F(memcg, pages_are_charged_and_uncharged)
{
	ASSERT_EQ(0, in_group(fill_and_punch));
}

static void convert_page_by_page(void)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	uint64_t before = charged(), full, i;

	for (i = 0; i < RANGES; i++)
		vm_mem_set_private(vm, 2 * i * PAGE_SIZE, PAGE_SIZE);
	full = charged();
	TEST_ASSERT(full >= before + RANGES, "%d ranges charged as %lld bytes",
		    RANGES, (long long)(full - before));
	kvm_vm_free(vm);
}

TEST_F(memcg, attributes_are_charged)
{
	ASSERT_EQ(0, in_group(convert_page_by_page));
}

static void fill_beyond_limit(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd = vm_create_guest_memfd(vm, 4 * LIMIT_MIB * MIB, 0);

	__gmem_allocate(fd, 0, 4 * LIMIT_MIB * MIB);
	/* Not reached: nothing can be reclaimed. */
}

/* Without the charge the allocation would succeed and the child live. */
TEST_F(memcg, limit_ends_the_task_that_allocates)
{
	char limit[32];
	int status;

	snprintf(limit, sizeof(limit), "%llu", LIMIT_MIB * MIB);
	write_line(GROUP "/memory.max", limit);
	status = in_group(fill_beyond_limit);
	ASSERT_TRUE(WIFSIGNALED(status));
	ASSERT_EQ(SIGKILL, WTERMSIG(status));
	/* All of it went away with the task. */
	ASSERT_LE(charged(), LIMIT_MIB * MIB / 2);
}

int main(int argc, char **argv)
{
	int r;

	TEST_REQUIRE(kvm_has_gmem());
	TEST_REQUIRE(mount_cgroup2());

	r = test_harness_run(argc, argv);
	umount_cgroup2();
	return r;
}
