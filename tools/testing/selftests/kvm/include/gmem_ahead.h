/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest of tests that map memory ahead of it: it reads or writes some of the pages
 * from GPA on, each of which has a value of its own.
 *
 * Includes what the tests need, with the harness, in the order that they want.
 */
#ifndef SELFTEST_KVM_GMEM_AHEAD_H
#define SELFTEST_KVM_GMEM_AHEAD_H

#include "kvm_gmem_util.h"

#include "gmem_harness.h"

#define SLOT		10
#define GPA		0x40000000ULL
#define MAX_PAGES	1024ULL
#define BYTES(npages)	((npages) * PAGE_SIZE)
#define PAGE_GPA(page)	(GPA + BYTES(page))

/* What is in page @i: the value and @i, or 0 if the value is 0. */
#define WORD(value, i)	((value) ? (value) + (i) : 0)
#define SHARED_VALUE	0x1111000000000000ULL
#define PRIVATE_VALUE	0x2222000000000000ULL
#define NEW_VALUE	0x3333000000000000ULL

enum {
	OP_READ,
	OP_WRITE,
};

/* A command for each entry: each @step-th of @npages. */
struct guest_cmd {
	uint64_t op;
	uint64_t first;
	uint64_t npages;
	uint64_t step;
	uint64_t value;
};

static volatile struct guest_cmd guest_cmd;

static inline void guest_main(void)
{
	volatile struct guest_cmd *cmd = &guest_cmd;
	volatile uint64_t *word;
	uint64_t i, seen;

	for (;;) {
		for (i = cmd->first; i < cmd->first + cmd->npages; i += cmd->step) {
			word = (uint64_t *)PAGE_GPA(i);
			if (cmd->op == OP_WRITE)
				*word = WORD(cmd->value, i);
			seen = *word;
			GUEST_ASSERT_3(seen == WORD(cmd->value, i), i, seen,
				       WORD(cmd->value, i));
		}
		GUEST_SYNC(0);
	}
}

static inline void vm_set_guest_cmd(struct kvm_vm *vm, uint64_t op, uint64_t first,
				    uint64_t npages, uint64_t step, uint64_t value)
{
	volatile struct guest_cmd *cmd = addr_gva2hva(vm, (uint64_t)&guest_cmd);

	cmd->op = op;
	cmd->first = first;
	cmd->npages = npages;
	cmd->step = step;
	cmd->value = value;
}

#endif /* SELFTEST_KVM_GMEM_AHEAD_H */
