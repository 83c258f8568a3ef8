// SPDX-License-Identifier: GPL-2.0
/*
 * The VMM's half of the privacy checks.  The guest says when (guest/probe.h);
 * here the VMM tries to see what it must not see, and sees what it may.
 *
 * In ordinary memory the search for the secret must succeed: this shows that it
 * would find the secret in private memory, were it visible.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gmem_vmm.h"
#include "guest/probe.h"

static uint32_t args[PROBE_MAX_ARGS];
static unsigned int nr_args;
static bool answer;

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
	char text[128];
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

static bool user_space_reached(struct vmm *vmm)
{
	uint64_t pages = vmm->opt.mem / PAGE_SIZE;
	unsigned int i;

	if (!vmm->user_space_ns) {
		vmm->user_space_ns = now_ns();
		for (i = 0; i < vmm->opt.cpus; i++)
			stats_faults(&vmm->vcpu[i], &vmm->vcpu[i].at_user_space);
	}
	if (!vmm->opt.private)
		return true;
	return verdict(vmm, ram_private_pages(vmm) == pages,
		       "user space is reached with all %llu pages of RAM private",
		       (unsigned long long)pages);
}

static uint64_t count_secret(struct vmm *vmm, const void *secret, size_t size)
{
	const uint8_t *p = vmm->ram.mapping, *end = p + vmm->opt.mem;
	uint64_t found = 0;

	while ((p = memmem(p, end - p, secret, size))) {
		p += size;
		found++;
	}
	return found;
}

static bool refused(struct vmm *vmm, const char *what, bool failed, int expected)
{
	int error = errno;

	return verdict(vmm, failed && error == expected,
		       "%s of the guest_memfd is refused with %s: %s", what,
		       strerrorname_np(expected), failed ? strerror(error) : "it worked");
}

static bool file_is_closed_to_us(struct vmm *vmm)
{
	int fd = vmm->ram.fd;
	char byte = 0;
	bool good;
	void *p;

	good = refused(vmm, "read()", read(fd, &byte, 1) < 0, EINVAL);
	good &= refused(vmm, "write()", write(fd, &byte, 1) < 0, EINVAL);
	p = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	good &= refused(vmm, "mmap()", p == MAP_FAILED, ENODEV);
	return good;
}

static bool find_secret(struct vmm *vmm, uint32_t seed)
{
	unsigned long long secret[PROBE_SECRET_WORDS];
	unsigned long long found;
	bool good;

	probe_fill(secret, PROBE_SECRET_WORDS, seed);
	found = count_secret(vmm, secret, sizeof(secret));
	if (!vmm->opt.private)
		return verdict(vmm, found,
			       "control: the guest's secret is in the VMM's mapping of its ordinary RAM, %llu times",
			       found);
	good = verdict(vmm, !found,
		       "the guest's secret is in the VMM's mapping of its RAM %llu times", found);
	return file_is_closed_to_us(vmm) && good;
}

static bool is_zero(const uint8_t *p, uint64_t size)
{
	return !*p && !memcmp(p, p + 1, size - 1);
}

static bool check_pages(struct vmm *vmm, enum probe_cmd cmd)
{
	uint64_t gpa = args[0] * PAGE_SIZE, size = args[1] * PAGE_SIZE;
	unsigned int words = size / sizeof(unsigned long long);
	void *p = size ? ram_shared_side(vmm, gpa, size) : NULL;

	if (!p)
		return verdict(vmm, false, "the guest names pages that are not RAM");
	switch (cmd) {
	case PROBE_CHECK_ZERO:
		return verdict(vmm, is_zero(p, size), "private pages read zero here");
	case PROBE_CHECK_PATTERN:
		return verdict(vmm, probe_matches(p, words, args[2]),
			       "shared pages read here as the guest wrote them");
	default:
		probe_fill(p, words, args[2]);
		return true;
	}
}

static bool guest_result(struct vmm *vmm, uint32_t which, bool passed)
{
	static const char * const names[PROBE_NR_RESULTS] = {
		[PROBE_SHARED_STARTS_ZERO] = "pages made shared read zero in the guest",
		[PROBE_SHARED_FROM_VMM] = "shared pages read in the guest as written here",
		[PROBE_PRIVATE_STARTS_ZERO] = "pages made private again read zero in the guest",
		[PROBE_SHARED_AGAIN_ZERO] = "pages made shared again read zero in the guest",
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
		return user_space_reached(vmm);
	case PROBE_SECRET:
		return find_secret(vmm, args[0]);
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
