/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What to try next.  The state of the model is looked at to make it likely that
 * something happens; what is drawn may be refused all the same, and often is.
 */
#ifndef SELFTEST_KVM_GMEM_FUZZ_GEN_H
#define SELFTEST_KVM_GMEM_FUZZ_GEN_H

#include "gmem_fuzz_model.h"

/* Everything is checked that often. */
#define CHECK_STEPS	10

struct gen {
	struct model *m;
	uint64_t seed;
	/* Where it was in the guest last. */
	uint64_t first, n;
	unsigned long steps;
};

/* A number below @past; the sequence depends on nothing but the seed. */
static inline uint64_t below(struct gen *g, uint64_t past)
{
	g->seed ^= g->seed << 13;
	g->seed ^= g->seed >> 7;
	g->seed ^= g->seed << 17;
	return (g->seed >> 11) % past;
}

static inline bool chance(struct gen *g, unsigned int percent)
{
	return below(g, 100) < percent;
}

static inline void gen_start(struct gen *g, struct model *m, uint64_t seed)
{
	int i;

	memset(g, 0, sizeof(*g));
	g->m = m;
	/* Seeds that are close must not give sequences that are. */
	g->seed = (seed + 1) * 0x9e3779b97f4a7c15ULL;
	if (!g->seed)
		g->seed = 1;
	for (i = 0; i < 8; i++)
		below(g, 1);
}

/* Within @total: small, large, a block of a folio, to its end, or everything. */
static inline void gen_range(struct gen *g, struct op *op, uint64_t total)
{
	op->first = below(g, total);
	switch (below(g, 8)) {
	case 0 ... 3:
		op->n = 1 + below(g, 8);
		break;
	case 4:
		op->n = 1 + below(g, total);
		break;
	case 5:
		op->first = op->first / LARGE * LARGE;
		op->n = LARGE;
		break;
	case 6:
		op->n = LARGE - op->first % LARGE;
		break;
	case 7:
		op->first = 0;
		op->n = total;
	}
	if (op->n > total - op->first)
		op->n = total - op->first;
}

/* The slot or file that has something, if there is one. */
static inline const struct fuzz_slot *gen_slot(struct gen *g)
{
	int i, first = below(g, SLOTS);

	for (i = 0; i < SLOTS; i++) {
		const struct fuzz_slot *slot = &g->m->slots[(first + i) % SLOTS];

		if (slot->npages)
			return slot;
	}
	return NULL;
}

static inline uint8_t gen_file(struct gen *g, bool exists)
{
	int i, first = below(g, FILES);

	for (i = 0; i < FILES; i++) {
		if (file_exists(&g->m->files[(first + i) % FILES]) == exists)
			return (first + i) % FILES;
	}
	return first;
}

/*
 * Of the guest: mostly where there is a slot, and around its ends; or once more where
 * it was before, as somebody may have kept what he found there.
 */
static inline void gen_pages(struct gen *g, struct op *op)
{
	const struct fuzz_slot *slot = gen_slot(g);

	if (g->n && chance(g, 25)) {
		op->first = g->first;
		op->n = g->n;
		return;
	}
	if (!slot || chance(g, 25)) {
		gen_range(g, op, PAGES);
		return;
	}
	if (chance(g, 25)) {
		op->first = slot->page + (chance(g, 50) ? slot->npages : 0);
		op->first -= op->first > 2 ? 2 : op->first;
		op->n = 1 + below(g, 5);
	} else {
		gen_range(g, op, slot->npages);
		op->first += slot->page;
	}
	if (op->n > PAGES - op->first)
		op->n = PAGES - op->first;
	if (!op->n)
		gen_range(g, op, PAGES);
}

/* In a file: also past its end, by a bit. */
static inline void gen_indices(struct gen *g, struct op *op)
{
	uint64_t npages;

	op->who = gen_file(g, true);
	npages = g->m->files[op->who].npages;
	gen_range(g, op, npages ? npages + (chance(g, 10) ? 3 : 0) : 1);
}

static inline void gen_few(struct gen *g, struct op *op)
{
	if (op->n > 8) {
		op->first += below(g, op->n - 7);
		op->n = 1 + below(g, 8);
	}
}

static inline void gen_create(struct gen *g, struct op *op)
{
	static const uint64_t sizes[] = { 1, 7, LARGE, LARGE + 3, 2 * LARGE, FILE_MAX };

	op->who = gen_file(g, false);
	op->n = chance(g, 20) ? 1 + below(g, FILE_MAX) : sizes[below(g, ARRAY_SIZE(sizes))];
	if (chance(g, 65))
		op->flags |= FLAG_MMAP;
	if (chance(g, g->m->protected ? 5 : 70))
		op->flags |= FLAG_SHARED;
	if (chance(g, 60))
		op->flags |= FLAG_WRITE;
	if (chance(g, 15))
		op->wrong = below(g, CREATE_WRONGS);
}

/* Memory of the process for the slot: its file, the alias, or anything. */
static inline void gen_hpage(struct gen *g, struct op *op)
{
	uint8_t file = gen_file(g, true);

	switch (below(g, 8)) {
	case 0 ... 3:
		op->hpage = op->first;
		break;
	case 4 ... 5:
		if (op->file != NO_FILE)
			file = op->file;
		op->hpage = g->m->files[file].mapped ? FILE_HPAGE(file) + op->index :
						       op->first;
		break;
	case 6:
		op->hpage = below(g, NO_HPAGE);
		break;
	case 7:
		op->hpage = NO_HPAGE;
	}
	if (op->hpage > HPAGES - op->n)
		op->hpage = HPAGES - op->n;
}

static inline void gen_set(struct gen *g, struct op *op)
{
	uint64_t npages = PAGES;
	int i;

	op->who = below(g, SLOTS);
	for (i = 0; i < SLOTS && g->m->slots[op->who].npages && chance(g, 90); i++)
		op->who = (op->who + 1) % SLOTS;

	op->file = NO_FILE;
	if (chance(g, 70)) {
		op->file = gen_file(g, true);
		op->flags = KVM_MEM_GUEST_MEMFD;
		npages = g->m->files[op->file].npages ?: 1;
	} else {
		if (chance(g, 20))
			op->flags |= KVM_MEM_READONLY;
		if (chance(g, 20))
			op->flags |= KVM_MEM_LOG_DIRTY_PAGES;
	}
	gen_range(g, op, npages);
	op->index = op->first;
	op->first = below(g, PAGES - op->n + 1);
	if (chance(g, 50))
		op->first = op->first / LARGE * LARGE + op->index % LARGE;
	if (op->first > PAGES - op->n)
		op->first = PAGES - op->n;
	gen_hpage(g, op);
	/* Perhaps past the end of the file. */
	if (chance(g, 8))
		op->index += 1 + below(g, 8);

	/* What is there, moved or with other flags. */
	if (op->file == NO_FILE && g->m->slots[op->who].npages) {
		op->n = g->m->slots[op->who].npages;
		op->hpage = g->m->slots[op->who].hpage;
		op->first = below(g, PAGES - op->n + 1);
		op->flags ^= g->m->slots[op->who].flags & KVM_MEM_READONLY;
	}
	if (chance(g, 15))
		op->wrong = below(g, SET_WRONGS);
	if (op->wrong >= SET_FD_CLOSED)
		op->flags = KVM_MEM_GUEST_MEMFD;
}

static inline uint8_t gen_wrong(struct gen *g, unsigned int percent, uint8_t past)
{
	return chance(g, percent) ? below(g, past) : 0;
}

static inline uint8_t gen_kind(struct gen *g)
{
	static const uint8_t weights[OP_KINDS] = {
		[OP_CREATE] = 6, [OP_CLOSE] = 1, [OP_MMAP] = 5, [OP_MUNMAP] = 1,
		[OP_SET] = 12, [OP_DELETE] = 3, [OP_ATTR] = 16, [OP_FALLOC] = 6,
		[OP_PUNCH] = 8, [OP_WRITE] = 6, [OP_PREFAULT] = 9, [OP_GUEST] = 18,
		[OP_KVM] = 6, [OP_HOST] = 14, [OP_DONTNEED] = 3,
	};
	int sum = 0, at, i;

	/* Without files and slots there is not much to be seen. */
	if (!file_exists(&g->m->files[gen_file(g, true)]) && chance(g, 50))
		return OP_CREATE;
	if (!gen_slot(g) && chance(g, 50))
		return OP_SET;
	for (i = 0; i < OP_KINDS; i++)
		sum += weights[i];
	at = below(g, sum);
	for (i = 0; at >= weights[i]; i++)
		at -= weights[i];
	return i;
}

/* Of a file that is mapped, or of the alias. */
static inline void gen_hpages(struct gen *g, struct op *op)
{
	if (chance(g, 75)) {
		gen_indices(g, op);
		op->first += FILE_HPAGE(op->who);
		op->who = 0;
	} else if (chance(g, 90)) {
		gen_pages(g, op);
	} else {
		gen_range(g, op, HPAGES);
	}
	gen_few(g, op);
}

static inline bool is_of_guest(const struct op *op)
{
	return op->kind == OP_ATTR || op->kind == OP_PREFAULT || op->kind == OP_GUEST ||
	       op->kind == OP_KVM;
}

static inline void gen_op(struct gen *g, struct op *op)
{
	int i;

	memset(op, 0, sizeof(*op));
	op->file = NO_FILE;
	if (++g->steps % CHECK_STEPS == 0) {
		op->kind = OP_CHECK;
		op->who = below(g, VCPUS);
		/* Which of what is no memory. */
		op->first = below(g, PAGES);
		return;
	}
	op->kind = gen_kind(g);

	switch (op->kind) {
	case OP_CREATE:
		gen_create(g, op);
		break;
	case OP_CLOSE:
	case OP_MUNMAP:
		op->who = gen_file(g, true);
		break;
	case OP_MMAP:
		op->who = gen_file(g, true);
		op->wrong = gen_wrong(g, 15, MMAP_WRONGS);
		break;
	case OP_SET:
		gen_set(g, op);
		break;
	case OP_DELETE:
		op->who = below(g, SLOTS);
		break;
	case OP_ATTR:
		gen_pages(g, op);
		op->write = chance(g, 55);
		op->wrong = gen_wrong(g, 12, ATTR_WRONGS);
		break;
	case OP_FALLOC:
		gen_indices(g, op);
		op->wrong = gen_wrong(g, 15, FALLOC_WRONGS);
		break;
	case OP_PUNCH:
		gen_indices(g, op);
		op->wrong = gen_wrong(g, 30, PUNCH_WRONGS);
		break;
	case OP_WRITE:
		gen_indices(g, op);
		op->wrong = gen_wrong(g, 15, WRITE_WRONGS);
		break;
	case OP_PREFAULT:
		gen_pages(g, op);
		op->who = below(g, VCPUS);
		op->write = chance(g, 50);
		op->wrong = gen_wrong(g, 15, PREFAULT_WRONGS);
		break;
	case OP_GUEST:
		gen_pages(g, op);
		/* Memory is more interesting than what is none. */
		for (i = 0; i < 3 && !is_memory(guest_place(g->m, op->first, false)); i++)
			gen_pages(g, op);
		if (chance(g, 80))
			gen_few(g, op);
		else if (op->n > LARGE)
			op->n = LARGE;
		op->who = below(g, VCPUS);
		op->write = chance(g, 60);
		break;
	case OP_KVM:
		gen_pages(g, op);
		gen_few(g, op);
		op->who = below(g, VCPUS);
		break;
	case OP_HOST:
	case OP_DONTNEED:
		for (i = 0; i < 4; i++) {
			gen_hpages(g, op);
			if (is_memory(host_place(g->m, op->first)))
				break;
		}
		op->write = chance(g, 60);
	}
	if (is_of_guest(op)) {
		g->first = op->first;
		g->n = op->n;
	}
}

#endif /* SELFTEST_KVM_GMEM_FUZZ_GEN_H */
