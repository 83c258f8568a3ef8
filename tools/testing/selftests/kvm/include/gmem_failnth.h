/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every allocation of an operation fails in turn, see
 * Documentation/fault-injection/fault-injection.rst: the first, then only the second,
 * and so on until the operation asks for no more.  Needs root, and a kernel with
 * CONFIG_FAULT_INJECTION_DEBUG_FS, CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC.
 *
 * The debugging of a kernel allocates, too, and does without where it gets nothing.
 * So an operation may work although an allocation has failed, and is the same as any
 * other then.  How many fail is a matter of the configuration.
 */
#ifndef SELFTEST_KVM_GMEM_FAILNTH_H
#define SELFTEST_KVM_GMEM_FAILNTH_H

#include "kvm_gmem_util.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#define FAIL_NTH	"/proc/self/fail-nth"
#define FAIL_ALL	"/proc/self/make-it-fail"
#define DEBUGFS		"/sys/kernel/debug"

/* More than any operation has. */
#define MAX_ALLOCATIONS	10000

/*
 * An operation.  All but @act assert, and what is NULL is left out.  Only what @act
 * does itself meets the failures; it returns an errno, or 0.
 */
struct sweep {
	const char *name;
	/* Before each try. */
	void (*begin)(void *arg);
	int (*act)(void *arg);
	/* It has failed; it is tried again after that, and must work. */
	void (*unchanged)(void *arg);
	/* It has worked, all of it. */
	void (*done)(void *arg);
	/* Back to what was before @begin. */
	void (*end)(void *arg);
	/* It gets along without one of the allocations, or needs none. */
	bool never_fails;
	/* What it needs may have been kept from the last time. */
	bool keeps;
	/* Not to be tried with all failing: it is taken again until there is memory. */
	bool waits;
	/* If not 0, after so many allocations each tenth is enough: all are alike. */
	unsigned int dense;
};

static inline void fault_attribute(const char *fault, const char *name,
				   const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), DEBUGFS "/%s/%s", fault, name);
	write_line(path, value);
}

static inline bool can_fail_nth(void)
{
	return !access(FAIL_NTH, W_OK) && !access(FAIL_ALL, W_OK) &&
	       !access(DEBUGFS "/failslab/cache-filter", W_OK) &&
	       !access(DEBUGFS "/fail_page_alloc/min-order", W_OK);
}

/*
 * Any allocation, those that may wait included, and no message for each: the nth, or
 * all of a process that has asked for that.
 */
static inline void allow_failures(void)
{
	static const char * const faults[] = { "failslab", "fail_page_alloc" };
	int i;

	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		fault_attribute(faults[i], "verbose", "0");
		fault_attribute(faults[i], "ignore-gfp-wait", "N");
		fault_attribute(faults[i], "task-filter", "Y");
		fault_attribute(faults[i], "times", "-1");
		fault_attribute(faults[i], "probability", "100");
	}
	fault_attribute("failslab", "cache-filter", "N");
	fault_attribute("fail_page_alloc", "ignore-gfp-highmem", "N");
	fault_attribute("fail_page_alloc", "min-order", "0");
}

static inline void forbid_failures(void)
{
	fault_attribute("failslab", "probability", "0");
	fault_attribute("fail_page_alloc", "probability", "0");
}

/* Of the calling thread, which must be the process's first.  0 for none. */
static inline void set_fail_nth(int fd, unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	TEST_ASSERT(pwrite(fd, text, len, 0) == len, FAIL_NTH ", errno: %d", errno);
}

/* What is left to count; 0 if the allocation has failed. */
static inline unsigned int get_fail_nth(int fd)
{
	char text[16] = {};

	TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0,
		    FAIL_NTH ", errno: %d", errno);
	return atoi(text);
}

/* How many of KVM's VMs are this process's. */
static inline int nr_own_vms(void)
{
	DIR *dir = opendir(DEBUGFS "/kvm");
	struct dirent *entry;
	char prefix[16];
	int nr = 0;

	TEST_ASSERT(dir, DEBUGFS "/kvm, errno: %d", errno);
	snprintf(prefix, sizeof(prefix), "%d-", getpid());
	while ((entry = readdir(dir)))
		nr += !strncmp(entry->d_name, prefix, strlen(prefix));
	closedir(dir);
	return nr;
}

static inline void sweep_call(void (*fn)(void *arg), void *arg)
{
	if (fn)
		fn(arg);
}

/* It has worked or not; @text says when. */
static inline void sweep_result(const struct sweep *op, void *arg, int err,
				const char *text)
{
	if (err) {
		TEST_ASSERT(err == ENOMEM, "%s: errno %d, %s", op->name, err, text);
		sweep_call(op->unchanged, arg);
		err = op->act(arg);
		TEST_ASSERT(!err, "%s: errno %d when tried again, %s", op->name, err,
			    text);
	}
	sweep_call(op->done, arg);
	sweep_call(op->end, arg);
}

/* Nor is there memory to undo with. */
static inline void sweep_all(const struct sweep *op, void *arg)
{
	int fd = open(FAIL_ALL, O_RDWR);
	int err;

	TEST_ASSERT(fd >= 0, FAIL_ALL ", errno: %d", errno);
	sweep_call(op->begin, arg);
	TEST_ASSERT(pwrite(fd, "1", 1, 0) == 1, FAIL_ALL ", errno: %d", errno);
	err = op->act(arg);
	TEST_ASSERT(pwrite(fd, "0", 1, 0) == 1, FAIL_ALL ", errno: %d", errno);
	sweep_result(op, arg, err, "all allocations failing");
	close(fd);
}

static inline void sweep(const struct sweep *op, void *arg)
{
	unsigned int n, step, last = 0, tried = 0, failed = 0;
	bool injected;
	char text[64];
	int fd, err;

	fd = open(FAIL_NTH, O_RDWR);
	TEST_ASSERT(fd >= 0, FAIL_NTH ", errno: %d", errno);

	/* The first time may be special; n is 0. */
	for (n = 0, injected = true; injected; n += step) {
		TEST_ASSERT(n < MAX_ALLOCATIONS, "%s: no end", op->name);
		sweep_call(op->begin, arg);

		set_fail_nth(fd, n);
		err = op->act(arg);
		injected = !get_fail_nth(fd);
		set_fail_nth(fd, 0);

		TEST_ASSERT(!err || (n && injected && !op->never_fails),
			    "%s: errno %d, allocation %u%s failed", op->name, err, n,
			    injected ? "" : " was not reached and not");
		failed += !!err;
		if (n && injected) {
			tried++;
			last = n;
		}
		step = op->dense && n >= op->dense ? 10 : 1;
		snprintf(text, sizeof(text), "allocation %u failing", n);
		sweep_result(op, arg, err, text);
	}
	close(fd);

	printf("# %s: %u allocations, %u made fail, failed with %u of them\n", op->name,
	       last, tried, failed);
	fflush(stdout);
	TEST_ASSERT(tried || op->never_fails || op->keeps, "%s: no allocation", op->name);
	TEST_ASSERT(failed || op->never_fails || op->keeps, "%s: never failed", op->name);

	if (!op->waits)
		sweep_all(op, arg);
}

#endif /* SELFTEST_KVM_GMEM_FAILNTH_H */
