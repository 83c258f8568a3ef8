// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU: how often which code of the guest is executed between marks,
 * which guest_memfd_bench sets around each operation that it measures.
 *
 * For each pair of marks the file that the argument out=FILE names gets lines
 *
 *	NUMBER ADDRESS INSTRUCTIONS
 *
 * with the number of the pair, the address of a piece of code, and how many
 * instructions were executed there.
 *
 * Debian has no header for plugins, so what is used of their interface (version 1)
 * stands here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

#define CB_NO_REGS	0
#define INLINE_ADD_U64	0

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
		void (*cb)(plugin_id id, struct qemu_plugin_tb *tb));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb,
		int op, void *counter, uint64_t add);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int vcpu, void *data), int flags, void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *
qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* nopl 0x67(%rax) and nopl 0x68(%rax): no compiler makes these. */
static const uint8_t mark[2][4] = {
	{ 0x0f, 0x1f, 0x40, 0x67 },
	{ 0x0f, 0x1f, 0x40, 0x68 },
};

/* A translated block.  QEMU adds to it, so it stays where it is. */
struct block {
	uint64_t address;
	uint64_t instructions;
	struct block *next;
};

static struct block *blocks;
static unsigned int pairs;
static FILE *out;

static void begin(unsigned int vcpu, void *data)
{
	struct block *block;

	for (block = blocks; block; block = block->next)
		block->instructions = 0;
}

static void end(unsigned int vcpu, void *data)
{
	struct block *block;

	pairs++;
	for (block = blocks; block; block = block->next) {
		if (block->instructions)
			fprintf(out, "%u %" PRIx64 " %" PRIu64 "\n", pairs,
				block->address, block->instructions);
	}
	fflush(out);
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
	size_t i, nr = qemu_plugin_tb_n_insns(tb);
	struct block *block = calloc(1, sizeof(*block));
	struct qemu_plugin_insn *insn;

	if (!block)
		abort();
	block->address = qemu_plugin_tb_vaddr(tb);
	block->next = blocks;
	blocks = block;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64,
						 &block->instructions, nr);

	for (i = 0; i < nr; i++) {
		insn = qemu_plugin_tb_get_insn(tb, i);
		if (qemu_plugin_insn_size(insn) != sizeof(mark[0]))
			continue;
		if (!memcmp(qemu_plugin_insn_data(insn), mark[0], sizeof(mark[0])))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, CB_NO_REGS, NULL);
		else if (!memcmp(qemu_plugin_insn_data(insn), mark[1], sizeof(mark[1])))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, CB_NO_REGS, NULL);
	}
}

__attribute__((visibility("default")))
int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "insn_profile: wants out=FILE\n");
		return 1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
