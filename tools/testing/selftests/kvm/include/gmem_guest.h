/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VM with a guest_memfd that its VMM may have mapped, and a guest that reads and
 * writes the pages of it: for tests of who sees what.
 *
 * Includes what the tests need, with the harness, in the order that they want.
 */
#ifndef SELFTEST_KVM_GMEM_GUEST_H
#define SELFTEST_KVM_GMEM_GUEST_H

#include "kvm_gmem_util.h"

#include <pthread.h>
#include <string.h>

#include <linux/mman.h>

#include "gmem_harness.h"

#define FLAG_MMAP	GUEST_MEMFD_FLAG_MMAP
#define FLAG_SHARED	GUEST_MEMFD_FLAG_INIT_SHARED
#define FLAG_WRITE	GUEST_MEMFD_FLAG_WRITE

#define SLOT		10
#define GPA		0x40000000ULL
#define NR_PAGES	64ULL
#define MAX_PAGES	1024ULL
#define BYTES(npages)	((npages) * PAGE_SIZE)
#define SIZE		BYTES(NR_PAGES)
#define PAGE_GPA(page)	(GPA + BYTES(page))
/* The slot does not start where the file does. */
#define FILE_OFFSET	BYTES(3)

/* What is in page @i: the value and @i, or 0 if the value is 0. */
#define WORD(value, i)	((value) ? (value) + (i) : 0)
#define HOST_VALUE	0x1111000000000000ULL
#define GUEST_VALUE	0x2222000000000000ULL
#define OTHER_VALUE	0x3333000000000000ULL
#define CANARY		0xee

/* Guest: a command for each entry. */

enum {
	OP_CHECK,
	OP_WRITE,
	/* Until told to stop. */
	OP_COUNT,
};

struct guest_cmd {
	uint64_t op;
	uint64_t first;
	uint64_t npages;
	uint64_t value;
	uint64_t stop;
	uint64_t done;
};

static volatile struct guest_cmd guest_cmd;

/* Numbers, to the first two pages, and to where the host can see how far it is. */
static inline void guest_count(void)
{
	volatile uint64_t *word = (uint64_t *)GPA, *next = (uint64_t *)PAGE_GPA(1);
	uint64_t number = 0;

	while (!guest_cmd.stop) {
		number++;
		*word = number;
		*next = number;
		guest_cmd.done = number;
	}
}

static inline void guest_main(void)
{
	volatile struct guest_cmd *cmd = &guest_cmd;
	volatile uint64_t *word;
	uint64_t i, seen;

	for (;;) {
		if (cmd->op == OP_COUNT)
			guest_count();
		for (i = cmd->first; i < cmd->first + cmd->npages; i++) {
			word = (uint64_t *)PAGE_GPA(i);
			if (cmd->op == OP_WRITE) {
				*word = WORD(cmd->value, i);
				continue;
			}
			seen = *word;
			GUEST_ASSERT_3(seen == WORD(cmd->value, i), i, seen,
				       WORD(cmd->value, i));
		}
		GUEST_SYNC(0);
	}
}

/* Host. */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	volatile struct guest_cmd *cmd;
	/* From FILE_OFFSET on, what the slot has. */
	void *mem;
	int fd;
};

/* The file is there, and the VM runs; there is no slot yet. */
static inline void env_setup(struct env *env, unsigned long type, uint64_t flags)
{
	env->vm = vm_create_type_with_one_vcpu(type, &env->vcpu, MAX_PAGES, guest_main);
	virt_map(env->vm, GPA, GPA, MAX_PAGES);
	env->cmd = addr_gva2hva(env->vm, (uint64_t)&guest_cmd);
	/* No fault is left but those on the memory that the test is about. */
	vcpu_pre_fault(env->vcpu, 0, memslot2region(env->vm, 0)->region.memory_size);

	env->fd = vm_create_guest_memfd(env->vm, FILE_OFFSET + SIZE, flags);
	if (flags & FLAG_MMAP)
		env->mem = gmem_map(env->fd, SIZE, FILE_OFFSET);
}

static inline void env_teardown(struct env *env)
{
	if (env->mem)
		munmap(env->mem, SIZE);
	if (env->fd >= 0)
		close(env->fd);
	kvm_vm_free(env->vm);
}

static inline void bind_slot(struct env *env, void *hva)
{
	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, SIZE, hva,
				   env->fd, FILE_OFFSET);
}

/* A slot that knows the mapping only, like any other memory. */
static inline void add_plain_slot(struct env *env, uint32_t flags)
{
	vm_set_user_memory_region(env->vm, SLOT, flags, GPA, SIZE, env->mem);
}

static inline void punch(struct env *env, uint64_t page, uint64_t npages)
{
	gmem_punch_hole(env->fd, FILE_OFFSET + BYTES(page), BYTES(npages));
}

static inline void set_cmd(struct env *env, uint64_t op, uint64_t first,
			   uint64_t npages, uint64_t value)
{
	env->cmd->op = op;
	env->cmd->first = first;
	env->cmd->npages = npages;
	env->cmd->value = value;
}

static inline void run_to_sync(struct env *env)
{
	vcpu_run_to_sync(env->vcpu);
}

/* Have the guest do it; returns how many page faults it took. */
static inline uint64_t guest_do(struct env *env, uint64_t op, uint64_t first,
				uint64_t npages, uint64_t value)
{
	uint64_t before = vcpu_get_stat(env->vcpu, "pf_taken");

	set_cmd(env, op, first, npages, value);
	run_to_sync(env);
	return vcpu_get_stat(env->vcpu, "pf_taken") - before;
}

static inline void host_write(void *mem, uint64_t first, uint64_t npages,
			      uint64_t value)
{
	uint64_t i;

	for (i = first; i < first + npages; i++)
		*word_of(mem, i) = WORD(value, i);
}

static inline void host_check(void *mem, uint64_t first, uint64_t npages,
			      uint64_t value)
{
	uint64_t i;

	for (i = first; i < first + npages; i++)
		TEST_ASSERT_EQ(*word_of(mem, i), WORD(value, i));
}

#endif /* SELFTEST_KVM_GMEM_GUEST_H */
