// SPDX-License-Identifier: GPL-2.0
/*
 * init - the only program of the gmem_vmm demo guest
 *
 * Says that user space is reached, fills memory with a secret from every vCPU
 * and asks the VMM to look for it, loads gmem_probe.ko for the conversions,
 * and ends the VM.  The value it ends with is 0 only if all went well.
 *
 * The environment variable gmem_memory (gmem_vmm puts it on the kernel command
 * line) says which kind of memory this guest runs in.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <termios.h>
#include <unistd.h>
#include <x86intrin.h>

#include "probe.h"

#define SECRET_BYTES	(256UL << 10)	/* per vCPU */

static int failures;

/* Waits until the line is out, so that no other message ends up inside it. */
__attribute__((format(printf, 1, 2)))
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("init: ", stdout);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
}

static void fail(const char *what)
{
	say("FAILED: %s: %s", what, strerror(errno));
	failures++;
}

static void end_vm(void)
{
	say("done, %d failures", failures);
	outb(failures ? 1 : 0, PROBE_PORT_EXIT);
	for (;;)
		pause();
}

/* One copy after the other, written by the given vCPU. */
static void write_secret(int cpu, unsigned int seed)
{
	unsigned long long *words;
	cpu_set_t set;
	size_t i;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return fail("sched_setaffinity");
	words = mmap(NULL, SECRET_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED)
		return fail("mmap");
	for (i = 0; i < SECRET_BYTES / sizeof(*words); i += PROBE_SECRET_WORDS)
		probe_fill(words + i, PROBE_SECRET_WORDS, seed);
}

static void prove_secret(int cpus, const char *memory)
{
	unsigned int seed = __rdtsc();
	int cpu;

	for (cpu = 0; cpu < cpus; cpu++)
		write_secret(cpu, seed);
	outl(seed, PROBE_PORT_ARG);
	outl(PROBE_SECRET, PROBE_PORT_CMD);
	if (inl(PROBE_PORT_CMD)) {
		say("ok: the VMM's search for the secret ended as it must for %s memory",
		    memory);
	} else {
		say("FAILED: the VMM's search for the secret, see its messages");
		failures++;
	}
}

static void prove_conversion(void)
{
	int fd = open("/gmem_probe.ko", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail("/gmem_probe.ko");
	if (syscall(SYS_finit_module, fd, "", 0))
		fail("gmem_probe");
	close(fd);
}

int main(void)
{
	const char *memory = getenv("gmem_memory");
	struct utsname name;
	cpu_set_t set;
	int cpus;

	if (!memory)
		memory = "unknown";
	if (ioperm(PROBE_PORT_CMD, PROBE_PORT_COUNT, 1) ||
	    ioperm(PROBE_PORT_EXIT, 1, 1)) {
		/* No way to end the VM either; the kernel will panic and reset. */
		fail("ioperm");
		return 1;
	}
	outl(PROBE_USER_SPACE, PROBE_PORT_CMD);
	if (uname(&name) || sched_getaffinity(0, sizeof(set), &set)) {
		fail("uname, sched_getaffinity");
		end_vm();
	}
	cpus = CPU_COUNT(&set);
	say("user space reached: Linux %s, %d vCPU%s, %s memory",
	    name.release, cpus, cpus == 1 ? "" : "s", memory);

	prove_secret(cpus, memory);
	if (!strcmp(memory, "private"))
		prove_conversion();
	end_vm();
}
