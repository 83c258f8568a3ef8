/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of failing allocations have in common: they run all of their cases
 * in a memory cgroup of their own, and look whether that leaves anything.
 *
 * Includes what the tests need, with the harness, in the order that they want.
 */
#ifndef SELFTEST_KVM_GMEM_FAILNTH_RUN_H
#define SELFTEST_KVM_GMEM_FAILNTH_RUN_H

#include "gmem_large.h"
#include "gmem_failnth.h"
#include "gmem_memcg.h"

/* Files that are too small for large folios. */
#define FEW		16ULL
#define SOME		120ULL

#define nr_dying()		number_in(CGROUP2 "/cgroup.stat", "nr_dying_descendants")

static int nr_args;
static char **args;

static inline void run_tests(void)
{
	exit(large_main(nr_args, args));
}

/* With what each processor has counted and not yet added to the sum. */
static inline uint64_t nr_page_tables(void)
{
	write_line("/proc/sys/vm/stat_refresh", "1");
	return number_in("/proc/vmstat", "nr_sec_page_table_pages");
}

/* A page that is charged to a group keeps it from going away. */
static inline bool leaves_nothing(int *status)
{
	uint64_t page_tables, groups;
	int i;

	page_tables = nr_page_tables();
	groups = nr_dying();
	TEST_ASSERT(!mkdir(GROUP, 0755), "mkdir(), errno: %d", errno);
	*status = in_group(run_tests);
	TEST_ASSERT(!rmdir(GROUP), "rmdir(), errno: %d", errno);

	/* It takes some grace periods. */
	for (i = 0; i < 100; i++) {
		if (nr_dying() == groups && nr_page_tables() == page_tables)
			return true;
		usleep(100000);
	}
	printf("# left: %lu groups, %lu pages for page tables\n", nr_dying() - groups,
	       nr_page_tables() - page_tables);
	return false;
}

static inline int failnth_main(int argc, char *argv[])
{
	bool clean;
	int status;

	TEST_REQUIRE(kvm_has_private_vms());
	__TEST_REQUIRE(can_fail_nth(),
		       "the kernel has no fault injection: FAILSLAB, FAIL_PAGE_ALLOC, debugfs");

	nr_args = argc;
	args = argv;
	allow_failures();
	if (!mount_cgroup2()) {
		atexit(forbid_failures);
		return large_main(argc, argv);
	}
	clean = leaves_nothing(&status);
	umount_cgroup2();
	forbid_failures();
	if (!WIFEXITED(status))
		return 1;
	return WEXITSTATUS(status) ? : !clean;
}

#endif /* SELFTEST_KVM_GMEM_FAILNTH_RUN_H */
