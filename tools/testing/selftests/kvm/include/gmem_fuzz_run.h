/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VM next to a model of it: accesses of the guest and of the host, and what comes
 * of them compared with what should.
 */
#ifndef SELFTEST_KVM_GMEM_FUZZ_RUN_H
#define SELFTEST_KVM_GMEM_FUZZ_RUN_H

#include "gmem_fuzz_model.h"

#include <stdarg.h>
#include <stdlib.h>

#include "../kselftest.h"

#define GPA		0x40000000UL
#define PAGE_GPA(page)	(GPA + BYTES(page))
#define FIRST_SLOT	10
/* No port of the library. */
#define PORT		0x3000
#define LAST_WORD	(4096 / sizeof(uint64_t) - 1)

/* Ends of what is no memory that a check looks at. */
#define CHECK_EDGES	8

enum outcome {
	READ_MEMORY,
	READ_FAULT,
	READ_MMIO,
	READ_NOTHING,
	WROTE_MEMORY,
	WROTE_FAULT,
	WROTE_MMIO,
	WROTE_NOTHING,
	READ_BY_KVM,
	HOST_MEMORY,
	HOST_SIGNAL,
	DONE,
	REFUSED,
	FOLIOS,
	OUTCOMES,
};

/* Shared between the process that runs a sequence and the one that wants to know. */
struct report {
	unsigned long step;
	char text[300];
	unsigned long counts[OUTCOMES];
	unsigned long nr_ops;
	struct op ops[];
};

struct fuzz {
	struct model m;
	struct report *report;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[VCPUS];
	struct kvm_regs starts[VCPUS];
	int fds[FILES];
	/* A file of another VM. */
	int other_fd;
	/* Of the process, and a buffer for write(). */
	void *arena, *buf;
	unsigned long step;
};

/* Guest. */

enum {
	GUEST_READ,
	GUEST_WRITE,
	/* The first word, in one access. */
	GUEST_PEEK,
	GUEST_POKE,
	/* The first byte, to a port: KVM reads it. */
	GUEST_OUTS,
};

struct guest_cmd {
	uint64_t op, n;
	uint64_t pages[PAGES], first[PAGES], last[PAGES];
};

static struct guest_cmd guest_cmds[VCPUS];

static inline void guest_main(uint64_t vcpu)
{
	volatile struct guest_cmd *cmd = &guest_cmds[vcpu];
	uint64_t i;

	for (i = 0; i < cmd->n; i++) {
		volatile uint64_t *page = (uint64_t *)PAGE_GPA(cmd->pages[i]);

		switch (cmd->op) {
		case GUEST_READ:
			cmd->first[i] = page[0];
			cmd->last[i] = page[LAST_WORD];
			break;
		case GUEST_WRITE:
			page[0] = cmd->first[i];
			page[LAST_WORD] = cmd->last[i];
			break;
		case GUEST_PEEK:
			cmd->first[i] = page[0];
			break;
		case GUEST_POKE:
			page[0] = cmd->first[i];
			break;
		case GUEST_OUTS:
			asm volatile("outsb" : "+S"(page) : "d"(PORT) : "memory");
		}
	}
	GUEST_SYNC(0);
}

/* The comparison. */

static void __attribute__((format(printf, 2, 3), noreturn))
mismatch(struct fuzz *f, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(f->report->text, sizeof(f->report->text), fmt, args);
	va_end(args);
	_exit(KSFT_FAIL);
}

#define must(f, cond, fmt, ...)					\
do {								\
	if (!(cond))						\
		mismatch(f, fmt, ##__VA_ARGS__);		\
} while (0)

static inline void count(struct fuzz *f, enum outcome outcome)
{
	f->report->counts[outcome]++;
}

/* @want is negative. */
static inline void expect_errno(struct fuzz *f, int want, int seen)
{
	must(f, -want == seen, "errno %d (%s), wanted %d (%s)", seen, strerror(seen),
	     -want, strerror(-want));
	count(f, want ? REFUSED : DONE);
}

static inline void check_sizes(struct fuzz *f)
{
	uint64_t seen, least, most;
	int i;

	for (i = 0; i < FILES; i++) {
		if (!f->m.files[i].open)
			continue;
		seen = gmem_allocated_pages(f->fds[i]);
		must(f, learn_size(&f->m.files[i], seen, &least, &most),
		     "file %d has %lu pages, wanted %lu to %lu", i, seen, least, most);
		if (seen == most && most - least >= LARGE / 2)
			count(f, FOLIOS);
	}
}

/* The guest. */

static inline struct guest_cmd *set_cmd(struct fuzz *f, int vcpu, uint64_t op)
{
	struct guest_cmd *cmd = addr_gva2hva(f->vm, (uintptr_t)&guest_cmds[vcpu]);
	struct kvm_regs regs = f->starts[vcpu];

	/* An access that failed is given up. */
	regs.rdi = vcpu;
	vcpu_regs_set(f->vcpus[vcpu], &regs);
	cmd->op = op;
	cmd->n = 0;
	return cmd;
}

static inline void run_to_end(struct fuzz *f, int vcpu)
{
	struct kvm_run *run = f->vcpus[vcpu]->run;
	int ret = _vcpu_run(f->vcpus[vcpu]);
	struct ucall uc;

	must(f, !ret, "KVM_RUN: errno %d, exit %u (%s), gpa %#llx, wanted memory",
	     errno, run->exit_reason, exit_reason_str(run->exit_reason),
	     run->exit_reason == KVM_EXIT_MEMORY_FAULT ? run->memory_fault.gpa : 0);
	must(f, get_ucall(f->vcpus[vcpu], &uc) == UCALL_SYNC,
	     "exit %u (%s) at %#llx, wanted memory", run->exit_reason,
	     exit_reason_str(run->exit_reason),
	     run->exit_reason == KVM_EXIT_MMIO ? run->mmio.phys_addr : 0);
}

/* Pages that are memory, at once. */
static inline void guest_memory(struct fuzz *f, int vcpu, struct guest_cmd *cmd)
{
	bool write = cmd->op == GUEST_WRITE;
	struct place place;
	uint64_t i, want;

	for (i = 0; i < cmd->n; i++) {
		place = guest_place(&f->m, cmd->pages[i], write);
		use_place(&f->m, place);
		if (!write)
			continue;
		cmd->first[i] = new_value(&f->m);
		cmd->last[i] = cmd->first[i];
		*value_at(&f->m, place) = cmd->first[i];
	}
	run_to_end(f, vcpu);
	for (i = 0; i < cmd->n; i++) {
		want = *value_at(&f->m, guest_place(&f->m, cmd->pages[i], write));
		/* Written twice, if the process has a page at two places. */
		must(f, write || (cmd->first[i] == want && cmd->last[i] == want),
		     "vCPU %d reads %#lx and %#lx in page %lu, wanted %#lx", vcpu,
		     cmd->first[i], cmd->last[i], cmd->pages[i], want);
		count(f, write ? WROTE_MEMORY : READ_MEMORY);
	}
}

static inline void guest_mmio(struct fuzz *f, int vcpu, struct guest_cmd *cmd, bool write)
{
	struct kvm_run *run = f->vcpus[vcpu]->run;
	uint64_t value = new_value(&f->m);

	must(f, run->mmio.phys_addr == PAGE_GPA(cmd->pages[0]) &&
	     run->mmio.is_write == write && run->mmio.len == sizeof(value),
	     "MMIO at %#llx, write %u, %u bytes", run->mmio.phys_addr,
	     run->mmio.is_write, run->mmio.len);
	if (write)
		must(f, !memcmp(run->mmio.data, &cmd->first[0], sizeof(value)),
		     "MMIO with another value");
	else
		memcpy(run->mmio.data, &value, sizeof(value));
	run_to_end(f, vcpu);
	must(f, write || cmd->first[0] == value, "the guest got another MMIO value");
}

/* The exit of an access that was given up. */
static inline void expect_fault(struct fuzz *f, const struct kvm_run *run, int ret,
				uint64_t page, uint64_t flags)
{
	must(f, ret == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT,
	     "page %lu: errno %d, exit %u (%s), wanted EFAULT and a memory fault", page,
	     ret, run->exit_reason, exit_reason_str(run->exit_reason));
	must(f, run->memory_fault.gpa == PAGE_GPA(page) &&
	     run->memory_fault.size == 4096 && run->memory_fault.flags == flags,
	     "page %lu: memory fault at %#llx, size %llu, flags %#llx, wanted %#lx",
	     page, run->memory_fault.gpa, run->memory_fault.size,
	     run->memory_fault.flags, flags);
}

/* One page that is something else. */
static inline void guest_other(struct fuzz *f, int vcpu, uint64_t page,
			       enum where want, bool write)
{
	struct guest_cmd *cmd = set_cmd(f, vcpu, write ? GUEST_POKE : GUEST_PEEK);
	struct kvm_run *run = f->vcpus[vcpu]->run;
	enum outcome outcome = write ? WROTE_MEMORY : READ_MEMORY;
	uint64_t flags = 0;
	int ret;

	cmd->pages[0] = page;
	cmd->first[0] = new_value(&f->m);
	cmd->n = 1;
	ret = _vcpu_run(f->vcpus[vcpu]) ? errno : 0;

	if (want == MMIO) {
		must(f, !ret && run->exit_reason == KVM_EXIT_MMIO,
		     "page %lu: errno %d, exit %u (%s), wanted MMIO", page, ret,
		     run->exit_reason, exit_reason_str(run->exit_reason));
		guest_mmio(f, vcpu, cmd, write);
		count(f, outcome + READ_MMIO);
		return;
	}
	if (want == NOTHING) {
		must(f, ret == EFAULT && run->exit_reason == KVM_EXIT_UNKNOWN,
		     "page %lu: errno %d, exit %u (%s), wanted EFAULT and unknown", page,
		     ret, run->exit_reason, exit_reason_str(run->exit_reason));
		count(f, outcome + READ_NOTHING);
		return;
	}
	if (want == FAULT_PRIVATE)
		flags = KVM_MEMORY_EXIT_FLAG_PRIVATE;
	expect_fault(f, run, ret, page, flags);
	count(f, outcome + READ_FAULT);
}

static inline void do_guest(struct fuzz *f, const struct op *op)
{
	struct guest_cmd *cmd;
	uint64_t page, past = op->first + op->n;
	struct place place;

	for (page = op->first; page < past; ) {
		place = guest_place(&f->m, page, op->write);
		if (!is_memory(place)) {
			guest_other(f, op->who, page, place.where, op->write);
			page++;
			continue;
		}
		cmd = set_cmd(f, op->who, op->write ? GUEST_WRITE : GUEST_READ);
		for (; page < past && is_memory(guest_place(&f->m, page, op->write));
		     page++)
			cmd->pages[cmd->n++] = page;
		guest_memory(f, op->who, cmd);
	}
}

/* Private memory that is not there is a fault; what else is none does not matter. */
static inline void do_kvm(struct fuzz *f, const struct op *op)
{
	struct kvm_run *run = f->vcpus[op->who]->run;
	struct guest_cmd *cmd;
	struct place place;
	uint64_t page;
	uint8_t byte;
	int ret;

	for (page = op->first; page < op->first + op->n; page++) {
		place = kvm_place(&f->m, page);
		if (!is_memory(place) && place.where != FAULT_PRIVATE)
			continue;
		use_place(&f->m, place);
		cmd = set_cmd(f, op->who, GUEST_OUTS);
		cmd->pages[0] = page;
		cmd->n = 1;
		ret = _vcpu_run(f->vcpus[op->who]) ? errno : 0;
		if (place.where == FAULT_PRIVATE) {
			expect_fault(f, run, ret, page, KVM_MEMORY_EXIT_FLAG_PRIVATE);
			count(f, READ_FAULT);
			continue;
		}
		must(f, !ret && run->exit_reason == KVM_EXIT_IO && run->io.port == PORT,
		     "page %lu: errno %d, exit %u (%s), wanted output", page, ret,
		     run->exit_reason, exit_reason_str(run->exit_reason));
		byte = *((uint8_t *)run + run->io.data_offset);
		must(f, byte == (uint8_t)*value_at(&f->m, place),
		     "KVM reads %#x in page %lu, wanted %#lx", byte, page,
		     *value_at(&f->m, place) & 0xff);
		run_to_end(f, op->who);
		count(f, READ_BY_KVM);
	}
}

/* The host. */

static inline volatile uint64_t *host_words(struct fuzz *f, uint64_t hpage)
{
	return f->arena + BYTES(hpage);
}

static inline void host_check(struct fuzz *f, uint64_t hpage, uint64_t want)
{
	volatile uint64_t *page = host_words(f, hpage);

	must(f, page[0] == want && page[LAST_WORD] == want,
	     "the host reads %#lx and %#lx in hpage %lu, wanted %#lx", page[0],
	     page[LAST_WORD], hpage, want);
}

static inline void do_host(struct fuzz *f, const struct op *op)
{
	uint64_t i, *value;
	struct place place;
	int want, seen;

	for (i = op->first; i < op->first + op->n; i++) {
		place = host_place(&f->m, i);
		want = is_memory(place) ? 0 : host_signal(&f->m, i);
		seen = touch((void *)host_words(f, i), op->write ? 0 : -1);
		must(f, seen == want, "hpage %lu brings signal %d, wanted %d", i, seen,
		     want);
		count(f, want ? HOST_SIGNAL : HOST_MEMORY);
		if (want)
			continue;
		use_place(&f->m, place);
		value = value_at(&f->m, place);
		if (op->write) {
			*value = new_value(&f->m);
			host_words(f, i)[0] = *value;
			host_words(f, i)[LAST_WORD] = *value;
		}
		host_check(f, i, *value);
	}
}

/* Everything. */

/*
 * What is there already, so that nothing changes; at the end of a sequence also what
 * the looking brings there.
 */
static inline bool is_checked(struct fuzz *f, struct place at, bool all)
{
	return is_memory(at) && (all || at.where == IN_ALIAS ||
				    f->m.files[at.file].pages[at.index].must);
}

static inline void check_guest(struct fuzz *f, const struct op *op, bool all)
{
	int vcpu = op->who;
	struct guest_cmd *cmd = set_cmd(f, vcpu, GUEST_READ);
	uint64_t edges[2 * PAGES], nr = 0, i, page;
	struct place place, prev = {}, next;

	for (page = 0; page < PAGES; page++) {
		place = guest_place(&f->m, page, false);
		if (is_checked(f, place, all))
			cmd->pages[cmd->n++] = page;
		next = guest_place(&f->m, page + 1 < PAGES ? page + 1 : 0, false);
		if (!is_memory(place) &&
		    (!page || place.where != prev.where || place.where != next.where))
			edges[nr++] = page;
		prev = place;
	}
	guest_memory(f, vcpu, cmd);

	for (i = 0; i < nr && (all || i < CHECK_EDGES); i++) {
		page = edges[(i + op->first) % nr];
		place = guest_place(&f->m, page, false);
		guest_other(f, vcpu, page, place.where, false);
	}
}

/* What must not be touched, where it begins and where it ends. */
static inline bool is_host_edge(struct fuzz *f, uint64_t hpage)
{
	return !is_memory(host_place(&f->m, hpage)) &&
	       host_signal(&f->m, hpage) == SIGBUS &&
	       (is_memory(host_place(&f->m, hpage - 1)) ||
		is_memory(host_place(&f->m, hpage + 1)));
}

static inline void check_host(struct fuzz *f, bool all)
{
	struct place place;
	uint64_t i;
	int seen;

	for (i = 0; i < NO_HPAGE; i++) {
		place = host_place(&f->m, i);
		if (is_checked(f, place, all)) {
			use_place(&f->m, place);
			host_check(f, i, *value_at(&f->m, place));
		} else if (i && is_host_edge(f, i)) {
			seen = touch((void *)host_words(f, i), -1);
			must(f, seen == SIGBUS, "hpage %lu brings signal %d, wanted %d",
			     i, seen, SIGBUS);
			count(f, HOST_SIGNAL);
		}
	}
}

static inline void check_all(struct fuzz *f, const struct op *op, bool all)
{
	check_guest(f, op, all);
	check_host(f, all);
	check_sizes(f);
}

#endif /* SELFTEST_KVM_GMEM_FUZZ_RUN_H */
