/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The trace events of guest memory, recorded in a trace of the test's own, so that it is
 * in nobody's way.
 *
 * Needs root, and CONFIG_FTRACE with CONFIG_ENABLE_DEFAULT_TRACERS.
 */
#ifndef SELFTEST_KVM_GMEM_TRACE_H
#define SELFTEST_KVM_GMEM_TRACE_H

#include "kvm_gmem_util.h"

#include <stdarg.h>
#include <sys/stat.h>

#define GMEM_INSTANCES	"/sys/kernel/debug/tracing/instances"
#define GMEM_INSTANCE	GMEM_INSTANCES "/gmem_events"
#define GMEM_EVENTS	GMEM_INSTANCE "/events/kvm_gmem/enable"

/* Begin to record; false if the kernel has no tracing. */
static inline bool gmem_trace_start(void)
{
	if (access(GMEM_INSTANCES, W_OK))
		return false;

	/* Of a test that has failed. */
	rmdir(GMEM_INSTANCE);
	TEST_ASSERT(!mkdir(GMEM_INSTANCE, 0700), "%s, errno: %d", GMEM_INSTANCE, errno);
	write_line(GMEM_EVENTS, "1");

	return true;
}

/* Has a line with this event and these fields been recorded?  Says what is missing. */
static inline bool __attribute__((format(printf, 1, 2)))
gmem_traced(const char *format, ...)
{
	char line[512], want[256];
	bool found = false;
	va_list args;
	FILE *file;

	va_start(args, format);
	vsnprintf(want, sizeof(want), format, args);
	va_end(args);
	file = fopen(GMEM_INSTANCE "/trace", "r");
	TEST_ASSERT(file, "trace, errno: %d", errno);
	while (!found && fgets(line, sizeof(line), file))
		found = strstr(line, want);
	fclose(file);
	if (!found)
		fprintf(stderr, "# No event '%s'\n", want);

	return found;
}

/* Forget what was recorded. */
static inline void gmem_trace_stop(void)
{
	write_line(GMEM_EVENTS, "0");
	TEST_ASSERT(!rmdir(GMEM_INSTANCE), "%s, errno: %d", GMEM_INSTANCE, errno);
}

/* As the events call a file. */
static inline unsigned long gmem_inode_number(int fd)
{
	struct stat stat;

	TEST_ASSERT(!fstat(fd, &stat), "fstat(), errno: %d", errno);

	return stat.st_ino;
}

#endif /* SELFTEST_KVM_GMEM_TRACE_H */
