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

static inline void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	TEST_ASSERT(fd >= 0, "%s cannot be opened", path);
	TEST_ASSERT(write(fd, text, strlen(text)) == strlen(text),
		    "%s does not take '%s'", path, text);
	close(fd);
}

/* How many bytes the group pays for. */
static inline uint64_t charged(void)
{
	unsigned long long bytes;
	FILE *f = fopen(GROUP "/memory.current", "r");

	TEST_ASSERT(f, "memory.current cannot be opened");
	TEST_ASSERT(fscanf(f, "%llu", &bytes) == 1, "memory.current has no number");
	fclose(f);
	return bytes;
}

/* The group may have that many bytes more than it has now. */
static inline void leave_room(uint64_t bytes)
{
	char limit[32];

	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)(charged() + bytes));
	write_file(GROUP "/memory.max", limit);
}

/* Line @name of memory.events or memory.stat. */
static inline uint64_t group_value(const char *file, const char *name)
{
	unsigned long long value;
	char path[128], item[64];
	FILE *f;

	snprintf(path, sizeof(path), GROUP "/%s", file);
	f = fopen(path, "r");
	TEST_ASSERT(f, "%s cannot be opened", path);
	while (fscanf(f, "%63s %llu", item, &value) == 2) {
		if (!strcmp(item, name)) {
			fclose(f);
			return value;
		}
	}
	TEST_FAIL("No %s in %s", name, path);
	return 0;
}

/* Run @body in the group; return the status of its end. */
static inline int in_group(void (*body)(void))
{
	int status;
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		write_file(GROUP "/cgroup.procs", "0");
		body();
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");
	return status;
}

/* Can there be a group? */
static inline bool mount_cgroup2(void)
{
	bool memcg = true;
	int fd;

	mkdir(CGROUP2, 0755);
	if (mount("none", CGROUP2, "cgroup2", 0, NULL)) {
		rmdir(CGROUP2);
		return false;
	}

	fd = open(CGROUP2 "/cgroup.subtree_control", O_WRONLY);
	if (fd >= 0) {
		memcg = write(fd, "+memory", 7) == 7;
		close(fd);
	}
	if (!memcg)
		umount(CGROUP2);
	return memcg;
}

static inline void umount_cgroup2(void)
{
	umount(CGROUP2);
	rmdir(CGROUP2);
}

#endif /* SELFTEST_KVM_GMEM_MEMCG_H */
