// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors in large folios of guest_memfd: one page is lost, and its 511
 * neighbours are none the worse for it.
 *
 * The guest's accesses, KVM's own, mapping ahead and those of the VMM are refused at
 * the bad page and nowhere else.  Also where the folio cannot be split because
 * somebody holds a page of it; and what is freed in the end is the folio without the
 * bad page.
 *
 * See gmem_poison.h for what this needs.
 */
#include "gmem_large_model.h"
#include "gmem_poison.h"

#include <sys/uio.h>

#define STEPS		200
#define PAGEMAP		"/proc/self/pagemap"
#define PAGEMAP_PFN	((1ULL << 55) - 1)

/* What somebody holds of a folio. */
#define HELD		300UL

static const struct model_layout whole_layout = {
	"whole", 2 * LARGE, { { 0, 0, 2 * LARGE } }, true,
};

/* Which page of the folio is bad. */
static const uint64_t victims[] = { 0, HELD, LARGE - 1 };

FIXTURE(poison) {
	struct model model;
	struct large large;
	/* In pages, at the start. */
	uint64_t corrupted;
};

FIXTURE_VARIANT(poison) {
	unsigned long type;
	uint64_t flags;
};

/* Shared memory beside it. */
FIXTURE_VARIANT_ADD(poison, private) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(poison, shared) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED | FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(poison, in_place) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_MMAP | FLAG_WRITE,
};

static uint64_t pfn_at(void *addr)
{
	int fd = open(PAGEMAP, O_RDONLY);
	uint64_t entry;

	TEST_ASSERT(!touch(addr, -1), "%p cannot be touched", addr);
	TEST_ASSERT(fd >= 0 && pread(fd, &entry, 8, (uintptr_t)addr / PAGE_SIZE * 8) == 8,
		    "%s: errno %d", PAGEMAP, errno);
	close(fd);
	TEST_ASSERT(entry & PAGEMAP_PFN, "%p has no page", addr);
	return entry & PAGEMAP_PFN;
}

/* Unmaps all from the guest; the pages stay in the file. */
static void bind_again(struct model *m, struct model_slot *slot)
{
	vm_delete_slot(m->l->env.vm, SLOT + (slot - m->slots));
	model_bind(m, slot);
	vcpu_pre_fault(m->l->env.vcpu, 0,
		       memslot2region(m->l->env.vm, 0)->region.memory_size);
}

/* The page of the machine, which a slot must have, and the guest then gets mapped. */
static uint64_t pfn_of(struct model *m, uint64_t index)
{
	struct model_slot *slot = slot_of_index(m, index);
	uint64_t page = index - slot->index + slot->page;

	if (m->mapped && may_touch(m, index))
		return pfn_at(m->l->env.mem + BYTES(index));
	clear_trace();
	bind_again(m, slot);
	model_guest(m, OP_CHECK, page, 1);
	return traced_pfn(PAGE_GPA(page));
}

static void poison(struct model *m, uint64_t index)
{
	uint64_t pfn = pfn_of(m, index);

	TEST_ASSERT_EQ(write_number(POISON, pfn), 0);
	TEST_ASSERT(is_poisoned(pfn), "Page %#lx is not marked", pfn);
	m->file[index].bad = pfn;
}

/* As a step of a sequence. */
static void poison_if_there(struct model *m, uint64_t index)
{
	struct model_slot *slot = slot_of_index(m, index);

	/* Only what the guest has there can be found. */
	if (!file_page(m, index - slot->index + slot->page))
		return;
	if (m->file[index].bad) {
		TEST_ASSERT_EQ(write_number(POISON, m->file[index].bad), EHWPOISON);
		return;
	}
	model_allocate(m, index, 1);
	poison(m, index);
}

/* The guest has written to all, by two entries of its page tables. */
FIXTURE_SETUP(poison)
{
	struct model *m = &self->model;

	memset(m, 0, sizeof(*m));
	m->unpoison = unpoison;
	model_start(m, &self->large, variant->type, variant->flags, &whole_layout, 1);
	self->corrupted = corrupted_pages();
}

FIXTURE_TEARDOWN(poison)
{
	model_end(&self->model);
}

static void fill(struct model *m)
{
	m->step++;
	model_guest(m, OP_WRITE, 0, 2 * LARGE);
	expect_mapped(m->l, 2, 0);
	TEST_ASSERT_EQ(allocated(m->l), 2 * LARGE);
}

/* To those who may have it: with a VMM that may touch none or all of it. */
static void check_sides(struct model *m)
{
	int shared;

	for (shared = 0; shared < 2; shared++) {
		model_guest(m, OP_CHECK, 0, 2 * LARGE);
		model_guest(m, OP_OUTS, 0, 4);
		model_guest(m, OP_OUTS, HELD - 2, 4);
		model_guest(m, OP_OUTS, LARGE - 2, 4);
		if (m->mapped) {
			model_host(m, m->l->env.mem, false, 0, 2 * LARGE);
			model_host(m, m->disagreeing, false, 0, 2 * LARGE);
		}
		if (m->l->type == KVM_X86_DEFAULT_VM)
			break;
		/* A page that is bad can be shared, but not be made private in place. */
		model_convert(m, shared, 0, 2 * LARGE);
	}
}

/* With all there is of it. */
static void close_file(struct model *m)
{
	struct env *env = &m->l->env;

	if (m->mapped) {
		munmap(env->mem, 2 * LARGE_SIZE);
		munmap(m->disagreeing, 2 * LARGE_SIZE);
		env->mem = NULL;
		m->mapped = false;
	}
	close(env->fd);
	env->fd = -1;
}

TEST_F(poison, one_page)
{
	struct model *m = &self->model;
	uint64_t victim, pfn;
	int i;

	REQUIRE_LARGE_PAGES();
	for (i = 0; i < ARRAY_SIZE(victims); i++) {
		victim = victims[i];
		fill(m);
		pfn = pfn_of(m, victim);
		fill(m);
		ASSERT_EQ(0, write_number(POISON, pfn));
		ASSERT_TRUE(is_poisoned(pfn));
		ASSERT_EQ(self->corrupted + 1, corrupted_pages());
		m->file[victim].bad = pfn;

		/* The other folio stays mapped. */
		expect_mapped(m->l, 1, 0);
		model_guest(m, OP_CHECK, 0, LARGE);
		expect_mapped(m->l, 1, LARGE - 1);
		m->step++;
		model_guest(m, OP_WRITE, 0, 2 * LARGE);
		ASSERT_EQ(2 * LARGE, allocated(m->l));

		/* Mapped again, one by one or ahead. */
		if (m->mapped && m->l->type == KVM_X86_SW_PROTECTED_VM)
			model_convert(m, false, 0, 2 * LARGE);
		bind_again(m, m->slots);
		model_guest(m, OP_CHECK, 0, 2 * LARGE);
		expect_mapped(m->l, 1, LARGE - 1);
		bind_again(m, m->slots);
		model_pre_fault(m, 0, 2 * LARGE);
		expect_mapped(m->l, 1, LARGE - 1);
		check_sides(m);

		/* It is in the file, whatever one tries. */
		model_allocate(m, 0, 2 * LARGE);
		ASSERT_EQ(EEXIST, errno_of(pwrite(m->l->env.fd, m->buf, PAGE_SIZE,
						  BYTES(victim))));
		ASSERT_EQ(EHWPOISON, write_number(POISON, pfn));
		ASSERT_EQ(EBUSY, write_number(UNPOISON, pfn));
		ASSERT_EQ(2 * LARGE, allocated(m->l));
		ASSERT_EQ(self->corrupted + 1, corrupted_pages());

		/* But for a hole, which brings a fresh one. */
		punch_pages(m->l, victim, 1);
		ASSERT_EQ(2 * LARGE - 1, allocated(m->l));
		m->file[victim] = (struct model_page) {};
		model_guest(m, OP_CHECK_ALL, victim, 1);
		ASSERT_EQ(2 * LARGE, allocated(m->l));
		ASSERT_NE(pfn, pfn_of(m, victim));
		model_check_all(m);
		unpoison(pfn);
		ASSERT_EQ(self->corrupted, corrupted_pages());

		/* And one over all brings back a whole one. */
		model_empty(m);
	}
}

/* Nobody has it mapped but the file. */
TEST_F(poison, not_mapped)
{
	struct model *m = &self->model;
	uint64_t victim = HELD, pfn;

	REQUIRE_LARGE_PAGES();
	fill(m);
	pfn = pfn_of(m, victim);
	bind_again(m, m->slots);
	if (m->mapped)
		madvise(m->l->env.mem, LARGE_SIZE, MADV_DONTNEED);
	ASSERT_EQ(0, write_number(POISON, pfn));
	m->file[victim].bad = pfn;
	check_sides(m);

	/* Gone with its file. */
	close_file(m);
	unpoison(pfn);
	ASSERT_EQ(self->corrupted, corrupted_pages());
}

/* More than one in a folio, some while others are bad already. */
TEST_F(poison, many)
{
	struct model *m = &self->model;
	uint64_t i;

	REQUIRE_LARGE_PAGES();
	fill(m);
	for (i = 0; i < 2 * LARGE; i += 97)
		poison(m, i);
	ASSERT_EQ(self->corrupted + 11, corrupted_pages());
	check_sides(m);
	model_pre_fault(m, 0, 2 * LARGE);
	ASSERT_EQ(2 * LARGE, allocated(m->l));
	model_empty(m);
	ASSERT_EQ(self->corrupted, corrupted_pages());
	fill(m);
}

/* Refused as for a page, and nothing is lost. */
TEST_F(poison, soft_offline)
{
	struct model *m = &self->model;
	uint64_t pfn, i;

	REQUIRE_LARGE_PAGES();
	for (i = 0; i < ARRAY_SIZE(victims); i++) {
		fill(m);
		pfn = pfn_of(m, victims[i]);
		fill(m);
		ASSERT_EQ(EBUSY, write_number(SOFT_OFFLINE, pfn * PAGE_SIZE));
		ASSERT_FALSE(is_poisoned(pfn));
		model_guest(m, OP_CHECK_ALL, 0, 2 * LARGE);
		bind_again(m, m->slots);
		check_sides(m);
		ASSERT_EQ(2 * LARGE, allocated(m->l));
		ASSERT_EQ(pfn, pfn_of(m, victims[i]));
		model_empty(m);
	}
	ASSERT_EQ(self->corrupted, corrupted_pages());
}

/* How many pages around @pfn, of the block that it is in, are free. */
static uint64_t free_around(uint64_t pfn)
{
	uint64_t i, nr = 0;

	for (i = pfn / LARGE * LARGE; i < (pfn / LARGE + 1) * LARGE; i++)
		nr += is_free(i);
	return nr;
}

static int take_page(struct large *l, uint64_t page)
{
	return __vm_set_memory_attributes(l->env.vm, PAGE_GPA(page), PAGE_SIZE,
					  KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

enum {
	HOLE_AT_PAGE,
	HOLE_OVER_FOLIO,
	CLOSE,
	NR_ENDS,
};

/*
 * The folio cannot be split while somebody holds a page of it: the bad one, or
 * another one.
 */
TEST_F(poison, held)
{
	struct model *m = &self->model;
	struct large *l = m->l;
	struct iovec iov;
	int pipes[2], end, i;
	uint64_t victim, pfn;

	REQUIRE_LARGE_PAGES();
	if (!m->mapped)
		SKIP(return, "nobody can hold private memory");
	for (i = 0; i < NR_ENDS * ARRAY_SIZE(victims); i++) {
		end = i / ARRAY_SIZE(victims);
		victim = victims[i % ARRAY_SIZE(victims)];
		/* The file is new to that. */
		if (!m->mapped) {
			model_end(m);
			memset(m, 0, sizeof(*m));
			m->unpoison = unpoison;
			model_start(m, l, variant->type, variant->flags, &whole_layout, 1);
		}
		fill(m);
		if (l->type == KVM_X86_SW_PROTECTED_VM)
			model_convert(m, false, 0, 2 * LARGE);
		pfn = pfn_of(m, victim);
		iov.iov_base = l->env.mem + BYTES(HELD);
		iov.iov_len = PAGE_SIZE;
		ASSERT_EQ(0, pipe(pipes));
		ASSERT_EQ(PAGE_SIZE, vmsplice(pipes[1], &iov, 1, 0));
		ASSERT_EQ(EBUSY, write_number(POISON, pfn));
		ASSERT_TRUE(is_poisoned(pfn));
		ASSERT_EQ(self->corrupted + 1, corrupted_pages());
		m->file[victim].bad = pfn;

		/* Who has not mapped it yet does not get it, neither in one piece. */
		bind_again(m, m->slots);
		ASSERT_EQ(0, madvise(l->env.mem, LARGE_SIZE, MADV_DONTNEED));
		model_pre_fault(m, 0, 2 * LARGE);
		expect_mapped(l, 1, LARGE - 1);
		model_guest(m, OP_CHECK, 0, 2 * LARGE);
		model_guest(m, OP_OUTS, victim, 1);
		expect_mapped(l, 1, LARGE - 1);
		model_host(m, l->env.mem, false, 0, 2 * LARGE);
		ASSERT_EQ(1, mapped_by_pmd(l->env.mem));
		model_host(m, m->disagreeing, false, 0, 2 * LARGE);
		ASSERT_EQ(EAGAIN, errno_of(__gmem_punch_hole(l->env.fd, BYTES(victim),
							     PAGE_SIZE)));
		if (l->type == KVM_X86_SW_PROTECTED_VM)
			ASSERT_EQ(EAGAIN, errno_of(take_page(l, 7)));
		ASSERT_EQ(2 * LARGE, allocated(l));

		close(pipes[0]);
		close(pipes[1]);
		if (end == HOLE_AT_PAGE) {
			punch_pages(l, victim, 1);
			ASSERT_EQ(2 * LARGE - 1, allocated(l));
		} else if (end == HOLE_OVER_FOLIO) {
			punch_pages(l, 0, LARGE);
			ASSERT_EQ(LARGE, allocated(l));
			memset(m->file, 0, LARGE * sizeof(*m->file));
		} else {
			close_file(m);
		}
		m->file[victim] = (struct model_page) {};

		/*
		 * Which also makes the allocator merge what is free.  The page is not
		 * among it, as no reference of memory failure was there to be dropped.
		 */
		unpoison(pfn);
		ASSERT_FALSE(is_free(pfn));
		if (end != HOLE_AT_PAGE)
			ASSERT_LT(LARGE / 2, free_around(pfn));
		ASSERT_EQ(self->corrupted, corrupted_pages());
		if (m->mapped) {
			model_check_all(m);
			model_empty(m);
		}
	}
}

/* Anything, at random, with memory errors among it. */

static void run(FIXTURE_DATA(poison) *self, const FIXTURE_VARIANT(poison) *variant,
		const struct model_layout *layout)
{
	struct model *m = &self->model;

	model_end(m);
	memset(m, 0, sizeof(*m));
	m->poison = poison_if_there;
	m->unpoison = unpoison;
	model_start(m, &self->large, variant->type, variant->flags, layout, 20261122);
	model_run(m, STEPS);
	TEST_ASSERT_EQ(corrupted_pages(), self->corrupted);
}

TEST_F(poison, random_inside)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &inside_layout);
}

TEST_F(poison, random_odd)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &odd_layout);
}

TEST_F(poison, random_two_slots)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &two_layout);
}

int main(int argc, char *argv[])
{
	require_poison();
	return large_main(argc, argv);
}
