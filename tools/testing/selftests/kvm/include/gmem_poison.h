/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory errors without hardware that is broken, for tests of guest_memfd: which page
 * of the machine a guest has, how to poison it, and what the kernel says of it.
 *
 * Nothing maps private memory but the guest, so nothing but KVM's trace tells which
 * page it is.
 *
 * Needs root, CONFIG_HWPOISON_INJECT, CONFIG_MEMORY_HOTPLUG (for the sysfs file) and
 * CONFIG_FTRACE with CONFIG_ENABLE_DEFAULT_TRACERS.
 */
#ifndef SELFTEST_KVM_GMEM_POISON_H
#define SELFTEST_KVM_GMEM_POISON_H

#include "kvm_gmem_util.h"

#include <stdlib.h>
#include <sys/mount.h>

#define TRACEFS		"/sys/kernel/tracing"
#define TRACE		TRACEFS "/trace"
#define TRACE_EVENT	TRACEFS "/events/kvmmmu/kvm_mmu_set_spte/enable"
#define DEBUGFS		"/sys/kernel/debug"
#define POISON		DEBUGFS "/hwpoison/corrupt-pfn"
#define UNPOISON	DEBUGFS "/hwpoison/unpoison-pfn"
#define SOFT_OFFLINE	"/sys/devices/system/memory/soft_offline_page"
#define PAGEFLAGS	"/proc/kpageflags"
#define KPF_BUDDY	10
#define KPF_HWPOISON	19

/* Returns the errno of the write, or 0. */
static inline int write_number(const char *path, uint64_t number)
{
	int fd = open(path, O_WRONLY), len, err = 0;
	char buf[32];

	TEST_ASSERT(fd >= 0, "%s: errno %d", path, errno);
	len = snprintf(buf, sizeof(buf), "%lu", number);
	if (write(fd, buf, len) != len)
		err = errno;
	close(fd);
	return err;
}

static inline void clear_trace(void)
{
	int fd = open(TRACE, O_WRONLY | O_TRUNC);

	TEST_ASSERT(fd >= 0, "%s: errno %d", TRACE, errno);
	close(fd);
}

/* The page of the machine that @gpa was mapped to last. */
static inline uint64_t traced_pfn(uint64_t gpa)
{
	uint64_t gfn = gpa / getpagesize(), base, spte, npages, pfn = 0;
	FILE *f = fopen(TRACE, "r");
	char line[512], *p;
	int level;

	TEST_ASSERT(f, "%s: errno %d", TRACE, errno);
	while (fgets(line, sizeof(line), f)) {
		p = strstr(line, "kvm_mmu_set_spte: gfn ");
		if (!p || sscanf(p, "kvm_mmu_set_spte: gfn %lx spte %lx (%*[^)]) level %d",
				 &base, &spte, &level) != 3)
			continue;
		npages = 1ULL << (9 * (level - 1));
		if (gfn - base < npages)
			pfn = PTE_GET_PFN(spte) + gfn - base;
	}
	fclose(f);
	TEST_ASSERT(pfn, "gpa %#lx was not mapped", gpa);
	return pfn;
}

static inline uint64_t page_flags(uint64_t pfn)
{
	int fd = open(PAGEFLAGS, O_RDONLY);
	uint64_t flags;

	TEST_ASSERT(fd >= 0 && pread(fd, &flags, 8, pfn * 8) == 8, "%s: errno %d",
		    PAGEFLAGS, errno);
	close(fd);
	return flags;
}

static inline bool is_poisoned(uint64_t pfn)
{
	return page_flags(pfn) & (1ULL << KPF_HWPOISON);
}

/* The allocator has it. */
static inline bool is_free(uint64_t pfn)
{
	return page_flags(pfn) & (1ULL << KPF_BUDDY);
}

/* What the kernel says that it has lost, in pages. */
static inline uint64_t corrupted_pages(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	uint64_t kb = -1ULL;
	char line[128];

	TEST_ASSERT(file, "meminfo, errno: %d", errno);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "HardwareCorrupted: %lu", &kb);
	fclose(file);
	TEST_ASSERT(kb != -1ULL, "No HardwareCorrupted");
	return kb / 4;
}

/* A page that was freed is still lost. */
static inline void unpoison(uint64_t pfn)
{
	TEST_ASSERT(is_poisoned(pfn), "Page %#lx is not marked any more", pfn);
	TEST_ASSERT(!is_free(pfn), "Page %#lx is back in the allocator", pfn);
	TEST_ASSERT_EQ(write_number(UNPOISON, pfn), 0);
	TEST_ASSERT(!is_poisoned(pfn), "Page %#lx is still marked", pfn);
}

/* The parent's business; a child that fails must not stop the others' trace. */
static pid_t trace_pid;

static inline void stop_trace(void)
{
	if (getpid() == trace_pid)
		write_number(TRACE_EVENT, 0);
}

/* For main(): ends the program if pages cannot be poisoned and restored. */
static inline void require_hwpoison(void)
{
	/* Harmless, and refused, where it is mounted already. */
	if (access(POISON, F_OK))
		mount("debugfs", DEBUGFS, "debugfs", 0, NULL);

	__TEST_REQUIRE(!access(POISON, W_OK), "%s cannot be written", POISON);
	__TEST_REQUIRE(!access(PAGEFLAGS, R_OK), "%s cannot be read", PAGEFLAGS);
}

/* The same, and which page the guest has is to be known as well. */
static inline void require_poison(void)
{
	require_hwpoison();
	if (access(TRACE_EVENT, F_OK))
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);

	__TEST_REQUIRE(!access(TRACE_EVENT, W_OK), "%s cannot be written", TRACE_EVENT);
	__TEST_REQUIRE(!access(SOFT_OFFLINE, W_OK), "%s cannot be written", SOFT_OFFLINE);

	TEST_ASSERT(!write_number(TRACE_EVENT, 1), "%s: no trace", TRACE_EVENT);
	trace_pid = getpid();
	atexit(stop_trace);
}

#endif /* SELFTEST_KVM_GMEM_POISON_H */
