/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A protected VM whose memory is one mapped guest_memfd, and a guest that reads and
 * writes it, as a whole or page by page: for tests of conversion in place.
 *
 * Pages are given by their number in the guest.  set_private() and set_shared()
 * convert them; guest_foo() has the guest do it, host_foo() uses the mapping.  All
 * of it asserts that it worked, with the contents that were wanted.
 *
 * Includes what the tests need, with the harness, in the order that they want.
 */
#ifndef SELFTEST_KVM_GMEM_INPLACE_H
#define SELFTEST_KVM_GMEM_INPLACE_H

#include "kvm_gmem_util.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "gmem_harness.h"

#define GPA		0x40000000ULL
#define NR_PAGES	64UL
#define SIZE		(NR_PAGES * PAGE_SIZE)

/*
 * Two slots, so that neighbours in the guest are none in the file: gfn and index
 * must not be mixed up.  The file begins with pages that no slot has.
 */
#define SLOT		10
#define FIRST_PAGES	20UL
#define UNBOUND_PAGES	3UL
#define FILE_SIZE	((UNBOUND_PAGES + NR_PAGES) * PAGE_SIZE)

#define PAGE_GPA(i)	(GPA + (i) * PAGE_SIZE)

#define PRIVATE		KVM_MEMORY_EXIT_FLAG_PRIVATE

/* How often to repeat what may fail because of a reference that goes away. */
#define MAX_RETRIES	100

/* A page holds a value, and each word of it something of its own. */
#define PAGE_WORDS	(PAGE_SIZE / sizeof(uint64_t))

static inline void fill_page(volatile uint64_t *page, uint64_t val)
{
	unsigned int i;

	for (i = 0; i < PAGE_WORDS; i++)
		page[i] = val ? val + i : 0;
}

/* The index of a word that is wrong, or PAGE_WORDS if the page holds one value. */
static inline unsigned int check_page(volatile uint64_t *page)
{
	uint64_t val = page[0];
	unsigned int i;

	for (i = 0; i < PAGE_WORDS; i++) {
		if (page[i] != (val ? val + i : 0))
			break;
	}
	return i;
}

/* No port of the library. */
#define PORT		0x3000

/* Guest: one command for each entry, shared with the host in slot 0. */

enum {
	/* Whole pages. */
	OP_READ,
	OP_WRITE,
	/* The first word of each page. */
	OP_PEEK,
	OP_POKE,
	/* String I/O with the first byte: KVM itself reads or writes it. */
	OP_OUTS,
	OP_INS,
	OP_COUNT,
};

struct guest_cmd {
	uint64_t op;
	uint64_t page;
	uint64_t npages;
	/* To write, or what was read. */
	uint64_t vals[NR_PAGES];
};

static struct guest_cmd guest_cmd;
static volatile uint64_t guest_stop;

/*
 * A word of every page that belongs to this vCPU alone.  Nothing that happens to
 * the pages may undo a write.
 */
#define COUNTER_WORD	(PAGE_WORDS - 1)

static inline void guest_count(uint64_t page, uint64_t npages)
{
	uint64_t count, i, seen;

	for (count = 0; !guest_stop; count++) {
		for (i = page; i < page + npages; i++) {
			volatile uint64_t *word = (uint64_t *)PAGE_GPA(i) + COUNTER_WORD;

			seen = *word;
			GUEST_ASSERT_3(seen == count, i, seen, count);
			*word = count + 1;
		}
	}
}

static inline void guest_page(volatile struct guest_cmd *cmd, uint64_t i)
{
	volatile uint64_t *page = (uint64_t *)PAGE_GPA(cmd->page + i);

	switch (cmd->op) {
	case OP_READ:
		cmd->vals[i] = *page;
		GUEST_ASSERT_3(check_page(page) == PAGE_WORDS, i, check_page(page),
			       cmd->vals[i]);
		break;
	case OP_WRITE:
		fill_page(page, cmd->vals[i]);
		break;
	case OP_PEEK:
		cmd->vals[i] = *page;
		break;
	case OP_POKE:
		*page = cmd->vals[i];
		break;
	case OP_OUTS:
		asm volatile("outsb" : "+S"(page) : "d"(PORT) : "memory");
		break;
	case OP_INS:
		asm volatile("insb" : "+D"(page) : "d"(PORT) : "memory");
	}
}

static inline void guest_main(void)
{
	volatile struct guest_cmd *cmd = &guest_cmd;
	uint64_t i;

	for (;;) {
		GUEST_SYNC(0);

		if (cmd->op == OP_COUNT) {
			guest_count(cmd->page, cmd->npages);
			continue;
		}
		for (i = 0; i < cmd->npages; i++)
			guest_page(cmd, i);
	}
}

/* Host. */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[2];
	int fd;
	uint8_t *mem;
};

/* The index in the file of a page of the guest. */
static inline unsigned long file_index(unsigned long page)
{
	return UNBOUND_PAGES + (page < FIRST_PAGES ? page + NR_PAGES - FIRST_PAGES :
				page - FIRST_PAGES);
}

static inline uint64_t *page_in(void *map, unsigned long page)
{
	return map + file_index(page) * PAGE_SIZE;
}

static inline uint64_t *host_page(struct env *env, unsigned long page)
{
	return page_in(env->mem, page);
}

static inline void env_bind(struct env *env)
{
	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   FIRST_PAGES * PAGE_SIZE, host_page(env, 0),
				   env->fd, file_index(0) * PAGE_SIZE);
	vm_set_user_memory_region2(env->vm, SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   PAGE_GPA(FIRST_PAGES),
				   (NR_PAGES - FIRST_PAGES) * PAGE_SIZE,
				   host_page(env, FIRST_PAGES), env->fd,
				   file_index(FIRST_PAGES) * PAGE_SIZE);
}

static inline void env_unbind(struct env *env)
{
	vm_delete_slot(env->vm, SLOT);
	vm_delete_slot(env->vm, SLOT + 1);
}

static inline void env_setup(struct env *env)
{
	int i;

	env->vm = vm_create_type_with_vcpus(KVM_X86_SW_PROTECTED_VM, 2, NR_PAGES,
					    guest_main, env->vcpus);
	virt_map(env->vm, GPA, GPA, NR_PAGES);
	env->fd = vm_create_guest_memfd(env->vm, FILE_SIZE, GUEST_MEMFD_FLAG_MMAP);
	env->mem = gmem_map(env->fd, FILE_SIZE, 0);
	env_bind(env);
	for (i = 0; i < 2; i++)
		vcpu_run_to_sync(env->vcpus[i]);
}

/* A test may have been ahead of it. */
static inline void env_teardown(struct env *env)
{
	if (env->mem)
		munmap(env->mem, FILE_SIZE);
	if (env->fd >= 0)
		close(env->fd);
	if (env->vm)
		kvm_vm_free(env->vm);
}

static inline struct guest_cmd *guest_cmd_of(struct env *env)
{
	return addr_gva2hva(env->vm, (uint64_t)&guest_cmd);
}

static inline void guest_do(struct env *env, int op, unsigned long page,
			    unsigned long npages)
{
	struct guest_cmd *cmd = guest_cmd_of(env);

	cmd->op = op;
	cmd->page = page;
	cmd->npages = npages;
	vcpu_run_to_sync(env->vcpus[0]);
}

/* The guest writes @vals to its pages, whole or first words only. */
static inline void __guest_write(struct env *env, int op, unsigned long page,
				 unsigned long npages, const uint64_t *vals)
{
	memcpy(guest_cmd_of(env)->vals, vals, npages * sizeof(*vals));
	guest_do(env, op, page, npages);
}

static inline void guest_write(struct env *env, unsigned long page,
			       unsigned long npages, const uint64_t *vals)
{
	__guest_write(env, OP_WRITE, page, npages, vals);
}

/* The guest sees @vals in its pages. */
static inline void __guest_check(struct env *env, int op, unsigned long page,
				 unsigned long npages, const uint64_t *vals)
{
	struct guest_cmd *cmd = guest_cmd_of(env);
	unsigned long i;

	guest_do(env, op, page, npages);
	for (i = 0; i < npages; i++)
		TEST_ASSERT(cmd->vals[i] == vals[i],
			    "Guest, page %lu: %#lx, wanted %#lx", page + i,
			    cmd->vals[i], vals[i]);
}

static inline void guest_check(struct env *env, unsigned long page,
			       unsigned long npages, const uint64_t *vals)
{
	__guest_check(env, OP_READ, page, npages, vals);
}

/* The access of the guest fails, and KVM_RUN with it. */
static inline void guest_fails(struct env *env, unsigned long page, uint64_t flags)
{
	struct guest_cmd *cmd = guest_cmd_of(env);

	cmd->op = OP_READ;
	cmd->page = page;
	cmd->npages = 1;
	vcpu_run_memory_fault(env->vcpus[0], PAGE_GPA(page), flags);
}

/* After guest_fails(): the cause being removed, the guest sees @val. */
static inline void guest_goes_on(struct env *env, uint64_t val)
{
	vcpu_run_to_sync(env->vcpus[0]);
	TEST_ASSERT_EQ(guest_cmd_of(env)->vals[0], val);
}

static inline void host_check(struct env *env, unsigned long page, uint64_t val)
{
	uint64_t *p = host_page(env, page);

	TEST_ASSERT(!touch(p, -1), "Page %lu: SIGBUS", page);
	TEST_ASSERT(*p == val && check_page(p) == PAGE_WORDS,
		    "Page %lu: %#lx, wrong at %u, wanted %#lx", page, *p,
		    check_page(p), val);
}

static inline int __set_private(struct env *env, unsigned long page,
				unsigned long npages)
{
	return __vm_set_memory_attributes(env->vm, PAGE_GPA(page),
					  npages * PAGE_SIZE,
					  KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static inline void set_private(struct env *env, unsigned long page,
			       unsigned long npages)
{
	vm_mem_set_private(env->vm, PAGE_GPA(page), npages * PAGE_SIZE);
}

static inline void set_shared(struct env *env, unsigned long page,
			      unsigned long npages)
{
	vm_mem_set_shared(env->vm, PAGE_GPA(page), npages * PAGE_SIZE);
}

/* For conversions that others disturb for a moment.  Returns how often they did. */
static inline int set_private_retry(struct env *env, unsigned long page,
				    unsigned long npages)
{
	int retries;

	for (retries = 0; __set_private(env, page, npages); retries++)
		TEST_ASSERT(errno == EAGAIN && retries < MAX_RETRIES,
			    "errno %d after %d retries", errno, retries);
	return retries;
}

#define VAL(tag, page)	(((uint64_t)(tag) << 32) | ((page) + 1) << 16)

static inline void make_vals(uint64_t *vals, uint64_t tag)
{
	unsigned long i;

	for (i = 0; i < NR_PAGES; i++)
		vals[i] = VAL(tag, i);
}

static inline void host_fill(struct env *env, const uint64_t *vals)
{
	unsigned long i;

	for (i = 0; i < NR_PAGES; i++)
		fill_page(host_page(env, i), vals[i]);
}

static inline void all_sigbus(void *map)
{
	unsigned long i;

	for (i = 0; i < NR_PAGES; i++)
		expect_sigbus(page_in(map, i));
}

/* Until another thread has counted @n more. */
static inline void wait_for_count(unsigned long *count, unsigned long n)
{
	n += READ_ONCE(*count);
	while (READ_ONCE(*count) < n)
		sched_yield();
}

/* Kernels without CONFIG_CROSS_MEMORY_ATTACH do not have it. */
static inline bool has_process_vm(void)
{
	return !syscall(SYS_process_vm_readv, getpid(), NULL, 0UL, NULL, 0UL, 0UL);
}

FIXTURE(inplace) {
	struct env env;
	uint64_t vals[NR_PAGES];
};

FIXTURE_SETUP(inplace)
{
	env_setup(&self->env);
	make_vals(self->vals, 1);
}

FIXTURE_TEARDOWN(inplace)
{
	env_teardown(&self->env);
}

#endif /* SELFTEST_KVM_GMEM_INPLACE_H */
