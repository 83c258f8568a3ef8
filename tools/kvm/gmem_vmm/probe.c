// SPDX-License-Identifier: GPL-2.0
/*
 * The VMM's half of the demo guest's checks.  The guest says when (guest/probe.h);
 * here the VMM tries to see what it must not see, and sees what it may.
 *
 * In ordinary and in shared memory the search for the secret must succeed: this
 * shows that it would find the secret in private memory, were it visible.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "gmem_vmm.h"
#include "guest/probe.h"

static uint32_t args[PROBE_MAX_ARGS];
static unsigned int nr_args;
static bool answer;
static uint64_t poisoned;	/* the page that the guest is going to touch */
static int pin[2] = { -1, -1 };	/* a pipe that holds a page of the guest */

void probe_arg(uint32_t value)
{
	if (nr_args < PROBE_MAX_ARGS)
		args[nr_args++] = value;
}

uint32_t probe_answer(void)
{
	return answer;
}

__attribute__((format(printf, 3, 4)))
static bool verdict(struct vmm *vmm, bool good, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("gmem_vmm: %s: %s\n", good ? "ok" : "FAILED", text);
	if (good)
		vmm->proofs_passed++;
	else
		vmm->proofs_failed++;
	return good;
}

static bool user_space_reached(struct vmm *vmm, unsigned int cpus)
{
	uint64_t pages = vmm->opt.mem / PAGE_SIZE;
	unsigned int i;
	bool good;

	if (!vmm->user_space_ns) {
		vmm->user_space_ns = now_ns();
		for (i = 0; i < vmm->opt.cpus; i++)
			stats_faults(&vmm->vcpu[i], &vmm->vcpu[i].at_user_space);
	}
	good = verdict(vmm, cpus == vmm->opt.cpus, "user space is reached with %u vCPUs of %u",
		       cpus, vmm->opt.cpus);
	if (!has_private(&vmm->opt))
		return good;
	good &= verdict(vmm, ram_private_pages(vmm) == pages,
			"user space is reached with all %llu pages of RAM private",
			(unsigned long long)pages);
	return good;
}

static uint64_t count_words(const uint8_t *page, const void *words, size_t size)
{
	const uint8_t *p = page, *end = page + PAGE_SIZE;
	uint64_t found = 0;

	while ((p = memmem(p, end - p, words, size))) {
		p += size;
		found++;
	}
	return found;
}

/*
 * Look through a mapping of RAM, page by page: copies of the secret do not cross
 * pages.  Pages that are not there are left alone, as touching one would allocate
 * it.  Reading by a system call gives an error where touching gives SIGBUS.
 */
struct search search_secret(const uint8_t *mapping, uint64_t size, uint32_t seed)
{
	int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	unsigned long long secret[PROBE_SECRET_WORDS];
	unsigned char *there = malloc(size / PAGE_SIZE);
	struct search result = { };
	uint8_t page[PAGE_SIZE];
	uint64_t i;

	probe_fill(secret, PROBE_SECRET_WORDS, seed);
	if (fd < 0 || !there || mincore((void *)mapping, size, there))
		die(1, "searching the guest's memory: %s", strerror(errno));
	for (i = 0; i < size / PAGE_SIZE; i++) {
		if (!(there[i] & 1))
			continue;
		if (pread(fd, page, PAGE_SIZE, (uintptr_t)mapping + i * PAGE_SIZE) !=
		    (ssize_t)PAGE_SIZE) {
			result.refused++;
			continue;
		}
		result.readable++;
		result.found += count_words(page, secret, sizeof(secret));
	}
	free(there);
	close(fd);
	return result;
}

/* Every way to the file's content must be closed, and for the right reason. */
static bool refused(struct vmm *vmm, const char *what, bool failed, int expected)
{
	int error = errno;

	return verdict(vmm, failed && error == expected,
		       "%s of the guest_memfd is refused with %s: %s", what,
		       strerrorname_np(expected), failed ? strerror(error) : "it worked");
}

/* The VMM may fill private memory, not see it, and not change what is there. */
static bool file_is_closed_to_us(struct vmm *vmm)
{
	static const uint8_t page[PAGE_SIZE];
	int fd = vmm->ram.fd;
	char byte = 0;
	bool good;
	void *p;

	good = refused(vmm, "read()", read(fd, &byte, 1) < 0, EINVAL);
	if (vmm->opt.measure)
		good &= refused(vmm, "write()", write(fd, page, PAGE_SIZE) < 0, EINVAL);
	else
		good &= refused(vmm, "pwrite() to a page",
				pwrite(fd, page, PAGE_SIZE, KERNEL_GPA) < 0, EEXIST);
	p = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	good &= refused(vmm, "mmap()", p == MAP_FAILED, ENODEV);
	return good;
}

static sigjmp_buf touched;

static void on_sigbus(int sig)
{
	siglongjmp(touched, sig);
}

/* Whether this process gets SIGBUS from reading each of the pages. */
static bool touch_is_sigbus(const volatile uint8_t *p, uint64_t size)
{
	struct sigaction sa = { .sa_handler = on_sigbus }, old;
	volatile uint64_t signals = 0, i;

	sigaction(SIGBUS, &sa, &old);
	for (i = 0; i < size; i += PAGE_SIZE) {
		if (sigsetjmp(touched, 1))
			signals++;
		else
			(void)p[i];
	}
	sigaction(SIGBUS, &old, NULL);
	return signals == size / PAGE_SIZE;
}

/* In the file, and there only; and while it is private, in nobody's page tables. */
static bool memory_is_one_copy(struct vmm *vmm)
{
	uint64_t pages = vmm->opt.mem / PAGE_SIZE, mapped, anonymous;
	bool shared = vmm->opt.memory == MEMORY_SHARED;
	int64_t file;

	if (!stats_resident(vmm->ram.mapping, vmm->opt.mem, &mapped, &anonymous))
		return verdict(vmm, false, "the kernel does not tell what is mapped");
	file = ram_file_pages(vmm);
	return verdict(vmm, !anonymous && file > 0 && (uint64_t)file <= pages &&
		       mapped <= (uint64_t)file && !!mapped == shared,
		       "one copy: %lld of %llu pages are in the file, %llu of them in the VMM's mapping, %llu elsewhere",
		       (long long)file, (unsigned long long)pages, (unsigned long long)mapped,
		       (unsigned long long)anonymous);
}

static bool check_privacy(struct vmm *vmm, const struct search *search)
{
	const uint8_t *kernel = ram_in_vmm(vmm, KERNEL_GPA, PAGE_SIZE);
	bool good;

	good = verdict(vmm, !search->found,
		       "the guest's secret is in the VMM's mapping of its RAM %llu times",
		       (unsigned long long)search->found);
	if (vmm->opt.memory == MEMORY_PRIVATE)
		return file_is_closed_to_us(vmm) && good;
	good &= verdict(vmm, search->refused && !search->readable,
			"system calls can read %llu of the %llu pages in this mapping",
			(unsigned long long)search->readable,
			(unsigned long long)(search->readable + search->refused));
	good &= verdict(vmm, touch_is_sigbus(kernel, PAGE_SIZE),
			"touching a private page in this mapping is SIGBUS");
	return memory_is_one_copy(vmm) && good;
}

static bool find_secret(struct vmm *vmm, uint32_t seed)
{
	struct search search = search_secret(vmm->ram.mapping, vmm->opt.mem, seed);
	unsigned long long found;
	bool good;

	if (has_private(&vmm->opt))
		return check_privacy(vmm, &search);
	if (vmm->opt.memory == MEMORY_ORDINARY)
		return verdict(vmm, search.found,
			       "control: the guest's secret is in the VMM's mapping of its ordinary RAM, %llu times",
			       (unsigned long long)search.found);
	good = verdict(vmm, search.found,
		       "the guest's secret is in the VMM's mapping of the file %llu times",
		       (unsigned long long)search.found);
	good &= memory_is_one_copy(vmm);
	if (!vmm->opt.second_process)
		return good;
	found = second_search(seed);
	return verdict(vmm, found && found == search.found,
		       "a second process maps the file and sees the guest's changes: the secret %llu times",
		       found) && good;
}

/* With more vCPUs than processors all at work, some must have waited. */
static bool check_steal(struct vmm *vmm, uint32_t ticks)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	if (processors >= (long)vmm->opt.cpus)
		return true;
	return verdict(vmm, ticks, "%u vCPUs are at work on %ld processors, the guest's stolen time is %u ms",
		       vmm->opt.cpus, processors, ticks * 10);
}

/* What has been spliced into a pipe holds the page, like I/O that is on its way. */
static bool pin_page(struct vmm *vmm, void *p)
{
	struct iovec iov = { .iov_base = p, .iov_len = PAGE_SIZE };

	return verdict(vmm, !pipe2(pin, O_CLOEXEC) &&
		       vmsplice(pin[1], &iov, 1, 0) == (ssize_t)PAGE_SIZE,
		       "the VMM pins a shared page");
}

static bool unpin_page(void)
{
	return !close(pin[0]) & !close(pin[1]);
}

static bool is_zero(const uint8_t *p, uint64_t size)
{
	return !*p && !memcmp(p, p + 1, size - 1);
}

static bool check_absent(struct vmm *vmm, const uint8_t *p, uint64_t size)
{
	if (vmm->opt.memory == MEMORY_INPLACE)
		return verdict(vmm, touch_is_sigbus(p, size), "private pages are SIGBUS here");
	return verdict(vmm, is_zero(p, size), "private pages read zero here");
}

static bool check_pages(struct vmm *vmm, enum probe_cmd cmd)
{
	uint64_t gpa = args[0] * PAGE_SIZE, size = args[1] * PAGE_SIZE;
	unsigned int words = size / sizeof(unsigned long long);
	void *p = size ? ram_in_vmm(vmm, gpa, size) : NULL;

	if (!p)
		return verdict(vmm, false, "the guest names pages that are not RAM");
	switch (cmd) {
	case PROBE_CHECK_ABSENT:
		return check_absent(vmm, p, size);
	case PROBE_CHECK_PATTERN:
		return verdict(vmm, probe_matches(p, words, args[2]),
			       "shared pages read here as the guest wrote them");
	case PROBE_PIN:
		return pin_page(vmm, p);
	default:
		probe_fill(p, words, args[2]);
		return true;
	}
}

static bool poison_guest(struct vmm *vmm, uint32_t pfn)
{
	int ret;

	poisoned = pfn * PAGE_SIZE;
	ret = vmm->opt.poison ? poison_page(vmm, poisoned) : -EPERM;
	return verdict(vmm, !ret, "the page at %#llx is poisoned: %s",
		       (unsigned long long)poisoned, ret ? strerror(-ret) : "done");
}

/* On the vCPU that has touched the page, which has been replaced by now. */
void probe_memory_error(struct vmm *vmm, uint64_t gpa)
{
	verdict(vmm, gpa == poisoned, "KVM_RUN fails with EHWPOISON at %#llx",
		(unsigned long long)gpa);
}

static bool guest_result(struct vmm *vmm, uint32_t which, bool passed)
{
	static const char * const names[PROBE_NR_RESULTS] = {
		[PROBE_CLOCK] = "the guest's clock source is kvm-clock, or a TSC that needs none",
		[PROBE_INTERRUPTS] = "interrupts by IO-APIC and local APIC arrive on all vCPUs",
		[PROBE_SHARED_STARTS_ZERO] = "pages made shared read zero in the guest",
		[PROBE_SHARED_FROM_VMM] = "shared pages read in the guest as written here",
		[PROBE_PRIVATE_STARTS_ZERO] = "pages made private again read zero in the guest",
		[PROBE_SHARED_AGAIN_ZERO] = "pages made shared again read zero in the guest",
		[PROBE_SHARED_KEEPS] = "pages made shared in place keep what the guest wrote",
		[PROBE_PRIVATE_KEEPS] = "pages made private in place keep what was written here",
		[PROBE_PIN_REFUSED] = "a page that the VMM has pinned does not become private",
		[PROBE_PIN_KEEPS] = "and does so, with its content, when it is released",
		[PROBE_ERROR_SIGNAL] = "the process that touched it got SIGBUS with BUS_MCEERR_AR",
		[PROBE_ERROR_NEIGHBOURS] = "and has kept the pages around it",
		[PROBE_ERROR_CORRUPTED] = "the guest's kernel counts one page as lost, and goes on",
	};

	if (which >= PROBE_NR_RESULTS)
		return verdict(vmm, false, "the guest reports an unknown check");
	return verdict(vmm, passed, "%s", names[which]);
}

static bool run_command(struct vmm *vmm, uint32_t cmd)
{
	static const unsigned int wanted[] = {
#define PROBE_CMD(name, args) [PROBE_##name] = (args),
		PROBE_CMDS
#undef PROBE_CMD
	};

	if (!cmd || cmd >= sizeof(wanted) / sizeof(wanted[0]) || nr_args != wanted[cmd])
		return verdict(vmm, false, "the guest sent command %u with %u arguments",
			       cmd, nr_args);
	switch (cmd) {
	case PROBE_USER_SPACE:
		return user_space_reached(vmm, args[0]);
	case PROBE_SECRET:
		return find_secret(vmm, args[0]);
	case PROBE_STEAL:
		return check_steal(vmm, args[0]);
	case PROBE_UNPIN:
		return unpin_page();
	case PROBE_WANT_POISON:
		return vmm->opt.poison;
	case PROBE_POISON:
		return poison_guest(vmm, args[0]);
	case PROBE_RESULT:
		return guest_result(vmm, args[0], args[1]);
	default:
		return check_pages(vmm, cmd);
	}
}

void probe_command(struct vmm *vmm, uint32_t cmd)
{
	answer = run_command(vmm, cmd);
	nr_args = 0;
}
