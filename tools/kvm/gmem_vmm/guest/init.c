// SPDX-License-Identifier: GPL-2.0
/*
 * init - the only program of the gmem_vmm demo guest
 *
 * Says that user space is reached, looks at the clock, interrupts and stolen time,
 * fills memory with a secret from every vCPU and asks the VMM to look for it, loads
 * gmem_probe.ko for the conversions, and ends the VM.  The value it ends with is 0
 * only if all went well.
 *
 * The environment variable gmem_memory (gmem_vmm puts it on the kernel command
 * line) says which kind of memory this guest runs in.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "probe.h"

#define SECRET_BYTES	(256UL << 10)	/* per vCPU */
#define BUSY_NS		300000000LL
#define CLOCKSOURCES	"/sys/devices/system/clocksource/clocksource0/"

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

static void tell_vmm(enum probe_result result, int passed)
{
	outl(result, PROBE_PORT_ARG);
	outl(passed, PROBE_PORT_ARG);
	outl(PROBE_RESULT, PROBE_PORT_CMD);
	failures += !passed;
}

/* The first line of a file, without its end. */
static const char *read_line(const char *path, char *line, size_t size)
{
	FILE *file = fopen(path, "re");

	*line = '\0';
	if (!file || !fgets(line, size, file))
		fail(path);
	if (file)
		fclose(file);
	line[strcspn(line, "\n")] = '\0';
	return line;
}

/* Where the TSC is known to be invariant, Linux does without kvm-clock. */
static int tsc_is_invariant(void)
{
	unsigned int eax, ebx, ecx, edx = 0;

	return __get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) && edx & 1 << 8;
}

static void prove_clock(void)
{
	char current[32], available[128];

	read_line(CLOCKSOURCES "current_clocksource", current, sizeof(current));
	read_line(CLOCKSOURCES "available_clocksource", available, sizeof(available));
	say("the clock source is %s, of %s", current, available);
	tell_vmm(PROBE_CLOCK, strstr(available, "kvm-clock") &&
		 (!strcmp(current, "kvm-clock") || tsc_is_invariant()));
}

/* A line of /proc/interrupts: name, a count per vCPU, the rest. */
static int count_interrupts(char *line, int cpus, unsigned long *count)
{
	char *p = strchr(line, ':'), *end;
	int i;

	for (i = 0; p && i < cpus; i++) {
		count[i] = strtoul(++p, &end, 10);
		if (end == p)
			return 0;
		p = end;
	}
	return !!p;
}

/* The serial port, by the IO-APIC, and the timer of each local APIC. */
static void prove_interrupts(int cpus)
{
	FILE *file = fopen("/proc/interrupts", "re");
	unsigned long serial = 0, timers[CPU_SETSIZE] = { }, count[CPU_SETSIZE];
	int i, quiet = 0;
	char line[512];

	if (!file)
		fail("/proc/interrupts");
	while (file && fgets(line, sizeof(line), file)) {
		if (!count_interrupts(line, cpus, count))
			continue;
		if (strstr(line, "IO-APIC") && strstr(line, "ttyS0"))
			for (i = 0; i < cpus; i++)
				serial += count[i];
		if (strstr(line, "LOC:"))
			memcpy(timers, count, sizeof(timers));
	}
	if (file)
		fclose(file);
	for (i = 0; i < cpus; i++)
		quiet += !timers[i];
	say("%lu interrupts of the serial port by the IO-APIC, %d vCPUs without timer interrupts",
	    serial, quiet);
	tell_vmm(PROBE_INTERRUPTS, serial && !quiet);
}

static int run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* All vCPUs at once, so that they are in each other's way if they have to be. */
static void keep_busy(int cpus)
{
	long long until = now_ns() + BUSY_NS;
	int cpu;

	for (cpu = 0; cpu < cpus; cpu++) {
		if (fork())
			continue;
		if (!run_on(cpu))
			while (now_ns() < until)
				;
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
}

/* The VMM knows whether there must be any. */
static void prove_steal(int cpus)
{
	unsigned long ticks = 0;
	char line[256];

	keep_busy(cpus);
	read_line("/proc/stat", line, sizeof(line));
	if (sscanf(line, "cpu %*u %*u %*u %*u %*u %*u %*u %lu", &ticks) != 1)
		fail("stolen time in /proc/stat");
	say("stolen time: %lu ms", ticks * 10);
	outl(ticks, PROBE_PORT_ARG);
	outl(PROBE_STEAL, PROBE_PORT_CMD);
	failures += !inl(PROBE_PORT_CMD);
}

/* One copy after the other, written by the given vCPU. */
static void write_secret(int cpu, unsigned int seed)
{
	unsigned long long *words;
	size_t i;

	if (run_on(cpu))
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

static sigjmp_buf touched;
static siginfo_t touch_info;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	touch_info = *info;
	siglongjmp(touched, 1);
}

/* Where an address of this process is in the guest's memory; 0 if nowhere. */
static unsigned int pfn_of(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned long long entry = 0;

	if (pread(fd, &entry, sizeof(entry), (uintptr_t)p / 4096 * sizeof(entry)) < 0)
		entry = 0;
	close(fd);
	return entry >> 63 ? entry : 0;
}

/* The middle one of three pages breaks. */
static void run_into_error(unsigned long long *pages)
{
	const unsigned int words = 4096 / sizeof(*pages);
	struct sigaction action = {
		.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO,
	};
	unsigned long long *bad = pages + words;

	probe_fill(pages, 3 * words, 6);
	sigaction(SIGBUS, &action, NULL);
	outl(pfn_of(bad), PROBE_PORT_ARG);
	outl(PROBE_POISON, PROBE_PORT_CMD);
	if (!inl(PROBE_PORT_CMD)) {
		failures++;
		return;
	}
	if (!sigsetjmp(touched, 1))
		say("FAILED: the poisoned page reads %#llx",
		    *(volatile unsigned long long *)bad);
	tell_vmm(PROBE_ERROR_SIGNAL, touch_info.si_signo == SIGBUS &&
		 touch_info.si_code == BUS_MCEERR_AR && touch_info.si_addr == bad);
	tell_vmm(PROBE_ERROR_NEIGHBOURS, probe_matches(pages, words, 6) &&
		 pages[2 * words] == probe_word(6, 2 * words));
}

static unsigned long corrupted_kb(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	unsigned long kb = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "HardwareCorrupted: %lu", &kb);
	if (file)
		fclose(file);
	return kb;
}

/* A page of a process is lost: the process is told, and nobody else is harmed. */
static void prove_memory_error(void)
{
	unsigned long long *pages;
	int status;

	outl(PROBE_WANT_POISON, PROBE_PORT_CMD);
	if (!inl(PROBE_PORT_CMD))
		return;
	if (!fork()) {
		failures = 0;
		pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED)
			fail("mmap");
		else
			run_into_error(pages);
		_exit(!!failures);
	}
	if (wait(&status) < 0 || status) {
		say("FAILED: the process with the poisoned page ended with %#x", status);
		failures++;
	}
	say("%lu kB of memory are lost", corrupted_kb());
	tell_vmm(PROBE_ERROR_CORRUPTED, corrupted_kb() == 4);
}

static void prove_conversion(const char *parameters)
{
	int fd = open("/gmem_probe.ko", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail("/gmem_probe.ko");
	if (syscall(SYS_finit_module, fd, parameters, 0))
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
	if (uname(&name) || sched_getaffinity(0, sizeof(set), &set)) {
		fail("uname, sched_getaffinity");
		end_vm();
	}
	cpus = CPU_COUNT(&set);
	outl(cpus, PROBE_PORT_ARG);
	outl(PROBE_USER_SPACE, PROBE_PORT_CMD);
	failures += !inl(PROBE_PORT_CMD);
	say("user space reached: Linux %s, %d vCPU%s, %s memory",
	    name.release, cpus, cpus == 1 ? "" : "s", memory);

	if (mount("proc", "/proc", "proc", 0, NULL) || mount("sysfs", "/sys", "sysfs", 0, NULL))
		fail("mount");
	prove_clock();
	prove_interrupts(cpus);
	prove_steal(cpus);
	prove_secret(cpus, memory);
	prove_memory_error();
	if (!strcmp(memory, "private"))
		prove_conversion("");
	if (!strcmp(memory, "inplace"))
		prove_conversion("inplace=1");
	end_vm();
}
