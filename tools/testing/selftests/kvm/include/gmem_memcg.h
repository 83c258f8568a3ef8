/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A memory cgroup (version 2) for tests of what memory is charged to, and processes
 * in it.  Needs root and a kernel with CONFIG_MEMCG.
 *
 * What a process leaves charged after its end is not exactly nothing: each CPU
 * charges a batch of pages at a time.
 */
#ifndef SELFTEST_KVM_GMEM_MEMCG_H
#define SELFTEST_KVM_GMEM_MEMCG_H

#include "kvm_gmem_util.h"

#include <sys/mount.h>
#include <sys/wait.h>

#define CGROUP2		"/tmp/kvm_gmem_cgroup2"
#define GROUP		CGROUP2 "/test"

/* How many bytes the group pays for. */
static inline uint64_t charged(void)
{
	char bytes[32];

	read_line(GROUP "/memory.current", bytes, sizeof(bytes));
	return strtoull(bytes, NULL, 10);
}

/* The group may have that many bytes more than it has now. */
static inline void leave_room(uint64_t bytes)
{
	char limit[32];

	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)(charged() + bytes));
	write_line(GROUP "/memory.max", limit);
}

/* Line @name of memory.events or memory.stat. */
static inline uint64_t group_value(const char *file, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), GROUP "/%s", file);
	return number_in(path, name);
}

/* Run @body in the group; return the status of its end. */
static inline int in_group(void (*body)(void))
{
	int status;
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		write_line(GROUP "/cgroup.procs", "0");
		body();
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");
	return status;
}

/* Can there be a group? */
static inline bool mount_cgroup2(void)
{
	mkdir(CGROUP2, 0755);
	if (mount("none", CGROUP2, "cgroup2", 0, NULL)) {
		rmdir(CGROUP2);
		return false;
	}

	if (!__write_line(CGROUP2 "/cgroup.subtree_control", "+memory"))
		return true;
	umount(CGROUP2);
	return false;
}

static inline void umount_cgroup2(void)
{
	umount(CGROUP2);
	rmdir(CGROUP2);
}

#endif /* SELFTEST_KVM_GMEM_MEMCG_H */
