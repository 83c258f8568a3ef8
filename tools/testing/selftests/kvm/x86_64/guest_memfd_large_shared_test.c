// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios of guest_memfd that the VMM has mapped, by PMD where it can: neither
 * a hole, nor what the VMM does to a part of its mapping, nor who holds a page of
 * it changes what guest and VMM see.  And random sequences of all there is.
 *
 * How much a file has, its st_blocks tell; how it is mapped in the guest, the
 * statistics of the VM; how it is mapped in the process, smaps.
 */
#include "gmem_large.h"

#include <sys/syscall.h>
#include <sys/uio.h>

#define STEPS		400

/* Memory that guest and VMM share, all of it in the file. */

FIXTURE(shared) {
	struct large large;
};

FIXTURE_SETUP(shared)
{
	large_setup(&self->large, KVM_X86_DEFAULT_VM,
		    FLAG_MMAP | FLAG_SHARED | FLAG_WRITE, 2 * LARGE);
}

FIXTURE_TEARDOWN(shared)
{
	large_teardown(&self->large);
}

TEST_F(shared, touch)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	ASSERT_EQ(0, (uintptr_t)mem % LARGE_SIZE);
	bind_at(l, 0, 2 * LARGE, 0);
	ASSERT_EQ(0, touch(mem + BYTES(5), -1));
	ASSERT_EQ(LARGE, allocated(l));
	ASSERT_EQ(1, mapped_by_pmd(mem));
	ASSERT_TRUE(pages_are_zero(mem, LARGE));
	ASSERT_EQ(LARGE, allocated(l));
	host_write(mem, 0, LARGE, HOST_VALUE);
	ASSERT_EQ(1, guest_checks(l, 0, LARGE, HOST_VALUE));
	expect_mapped(l, 1, 0);

	guest_writes(l, LARGE, LARGE, GUEST_VALUE);
	expect_mapped(l, 2, 0);
	ASSERT_EQ(2 * LARGE, allocated(l));
	host_check(mem, LARGE, LARGE, GUEST_VALUE);
	ASSERT_EQ(2, mapped_by_pmd(mem));
}

/* With the parameter at 0: the same, page by page. */
TEST_F(shared, small)
{
	struct large *l = &self->large;
	void *mem;

	close(l->env.fd);
	munmap(l->env.mem, 2 * LARGE_SIZE);
	set_max_order("0");
	new_file(l, FLAG_MMAP | FLAG_SHARED, 2 * LARGE);
	mem = l->env.mem;
	bind_at(l, 0, 2 * LARGE, 0);
	ASSERT_EQ(0, touch(mem + BYTES(5), -1));
	ASSERT_EQ(1, allocated(l));
	host_write(mem, 0, 2 * LARGE, HOST_VALUE);
	ASSERT_EQ(2 * LARGE, allocated(l));
	ASSERT_EQ(0, mapped_by_pmd(mem));
	ASSERT_EQ(2 * LARGE, guest_checks(l, 0, 2 * LARGE, HOST_VALUE));
	expect_mapped(l, 0, 2 * LARGE);
	ASSERT_EQ(0, guest_writes(l, 0, 2 * LARGE, GUEST_VALUE));
	host_check(mem, 0, 2 * LARGE, GUEST_VALUE);
}

TEST_F(shared, hole)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	host_write(mem, 0, 2 * LARGE, HOST_VALUE);
	guest_checks(l, 0, 2 * LARGE, HOST_VALUE);
	expect_mapped(l, 2, 0);
	ASSERT_EQ(2, mapped_by_pmd(mem));

	punch_pages(l, 100, 10);
	ASSERT_EQ(2 * LARGE - 10, allocated(l));
	expect_mapped(l, 1, 0);
	ASSERT_EQ(1, mapped_by_pmd(mem));
	host_check(mem, 0, 100, HOST_VALUE);
	host_check(mem, 110, 2 * LARGE - 110, HOST_VALUE);
	ASSERT_EQ(2 * LARGE - 10, allocated(l));
	ASSERT_TRUE(pages_are_zero(mem + BYTES(100), 10));
	ASSERT_EQ(2 * LARGE, allocated(l));
	host_write(mem, 100, 10, OTHER_VALUE);
	guest_checks(l, 100, 10, OTHER_VALUE);
	guest_checks(l, 0, 100, HOST_VALUE);
	guest_checks(l, 110, 2 * LARGE - 110, HOST_VALUE);
	expect_mapped(l, 1, LARGE);
	ASSERT_EQ(1, mapped_by_pmd(mem));

	/* Large again when nothing is left, through the mapping too. */
	ASSERT_EQ(0, madvise(mem, 2 * LARGE_SIZE, MADV_REMOVE));
	ASSERT_EQ(0, allocated(l));
	expect_mapped(l, 0, 0);
	ASSERT_EQ(0, mapped_by_pmd(mem));
	guest_checks(l, 0, 2 * LARGE, 0);
	expect_mapped(l, 2, 0);
	ASSERT_TRUE(pages_are_zero(mem, 2 * LARGE));
}

/* The VMM changes a part of its mapping, the guest goes on. */
TEST_F(shared, mapping_changes)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;
	pid_t pid;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	host_write(mem, 0, 2 * LARGE, HOST_VALUE);
	guest_checks(l, 0, 2 * LARGE, HOST_VALUE);

	ASSERT_EQ(0, madvise(mem + BYTES(7), BYTES(100), MADV_DONTNEED));
	host_check(mem, 0, 2 * LARGE, HOST_VALUE);
	ASSERT_EQ(0, mprotect(mem + BYTES(LARGE + 50), BYTES(3), PROT_READ));
	expect_mapped(l, 2, 0);
	ASSERT_EQ(0, guest_writes(l, 0, 2 * LARGE, GUEST_VALUE));
	host_check(mem, 0, 2 * LARGE, GUEST_VALUE);
	ASSERT_EQ(0, touch(mem + BYTES(LARGE + 49), 1));
	ASSERT_EQ(SIGSEGV, touch(mem + BYTES(LARGE + 50), 1));
	ASSERT_EQ(SIGSEGV, touch(mem + BYTES(LARGE + 52), 1));
	ASSERT_EQ(0, touch(mem + BYTES(LARGE + 53), 1));
	ASSERT_EQ(0, mprotect(mem, 2 * LARGE_SIZE, PROT_READ | PROT_WRITE));

	host_write(mem, 0, 2 * LARGE, HOST_VALUE);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		host_check(mem, 0, 2 * LARGE, HOST_VALUE);
		host_write(mem, 0, LARGE + 9, OTHER_VALUE);
		_exit(0);
	}
	wait_for_child(pid);
	host_check(mem, 0, LARGE + 9, OTHER_VALUE);
	guest_checks(l, 0, LARGE + 9, OTHER_VALUE);
	guest_checks(l, LARGE + 9, LARGE - 9, HOST_VALUE);
	ASSERT_EQ(2 * LARGE, allocated(l));
	/* Not to be said of the ordinary memory, which is copied on write now. */
	ASSERT_EQ(l->pages_2m + 2, vm_get_stat(l->env.vm, "pages_2m"));
}

/* A folio with a page that somebody has cannot be split, but it can be freed. */
TEST_F(shared, held)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;
	struct iovec iov = { mem + BYTES(300), PAGE_SIZE };
	uint64_t seen[PAGE_SIZE / 8];
	int pipes[2][2], i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, 2 * LARGE, 0);
	for (i = 0; i < 2; i++) {
		host_write(mem, 0, 2 * LARGE, HOST_VALUE);
		ASSERT_EQ(0, pipe(pipes[i]));
		ASSERT_EQ(PAGE_SIZE, vmsplice(pipes[i][1], &iov, 1, 0));
		guest_checks(l, 0, 2 * LARGE, HOST_VALUE);
		expect_mapped(l, 2, 0);

		ASSERT_EQ(EAGAIN, errno_of(__gmem_punch_hole(l->env.fd, 0, BYTES(5))));
		/* Neither is the half of a range freed that could be. */
		ASSERT_EQ(EAGAIN, errno_of(__gmem_punch_hole(l->env.fd, BYTES(400),
							     BYTES(LARGE))));
		ASSERT_EQ(2 * LARGE, allocated(l));
		host_check(mem, 0, 2 * LARGE, HOST_VALUE);
		guest_checks(l, 0, 2 * LARGE, HOST_VALUE);

		if (i)
			break;
		punch_pages(l, 0, 2 * LARGE);
		ASSERT_EQ(0, allocated(l));
		ASSERT_TRUE(pages_are_zero(mem, 2 * LARGE));
	}

	/* What was taken is what it was when it was freed. */
	ASSERT_EQ(PAGE_SIZE, read(pipes[0][0], seen, PAGE_SIZE));
	ASSERT_EQ(WORD(HOST_VALUE, 300), seen[0]);
	ASSERT_EQ(PAGE_SIZE, read(pipes[1][0], seen, PAGE_SIZE));
	punch_pages(l, 0, 5);
	punch_pages(l, 400, LARGE);
	ASSERT_EQ(LARGE - 5, allocated(l));
	host_check(mem, 5, 395, HOST_VALUE);
	guest_checks(l, LARGE + 400, LARGE - 400, HOST_VALUE);
	for (i = 0; i < 2; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
}

TEST_F(shared, hole_while_counting)
{
	REQUIRE_LARGE_PAGES();
	punch_while_counting(&self->large);
}

static void set_policy(void *mem, uint64_t npages, int mode, unsigned long nodes)
{
	TEST_ASSERT(!syscall(SYS_mbind, mem, BYTES(npages), mode, &nodes, 8UL, 0),
		    "mbind(), errno: %d", errno);
}

static void expect_node(void *mem, uint64_t first, uint64_t npages, int node)
{
	void *addr;
	uint64_t i;
	int status;

	for (i = first; i < first + npages; i++) {
		addr = mem + BYTES(i);
		TEST_ASSERT(!touch(addr, -1) &&
			    !syscall(SYS_move_pages, 0, 1UL, &addr, NULL, &status, 0),
			    "page %lu, errno: %d", i, errno);
		TEST_ASSERT(status == node, "page %lu: node %d, not %d", i, status,
			    node);
	}
}

static bool has_two_nodes(void)
{
	return !access("/sys/devices/system/node/node1", F_OK);
}

/* Where a policy wants it. */
TEST_F(shared, numa)
{
	struct large *l = &self->large;
	int i;

	REQUIRE_LARGE_PAGES();
	if (!has_two_nodes())
		SKIP(return, "one node");
	bind_at(l, 0, 2 * LARGE, 0);
	for (i = 0; i < 4; i++) {
		set_policy(l->env.mem, 2 * LARGE, MPOL_BIND, 1UL << (i % 2));
		guest_writes(l, 5, 1, GUEST_VALUE);
		ASSERT_EQ(LARGE, allocated(l));
		expect_node(l->env.mem, 0, LARGE, i % 2);
		punch_pages(l, 0, LARGE);
	}

	/* The unit is a folio. */
	set_policy(l->env.mem, 2 * LARGE, MPOL_INTERLEAVE, 3);
	guest_writes(l, LARGE + 5, 1, GUEST_VALUE);
	guest_writes(l, 5, 1, GUEST_VALUE);
	ASSERT_EQ(2 * LARGE, allocated(l));
	expect_node(l->env.mem, 0, LARGE, 0);
	expect_node(l->env.mem, LARGE, LARGE, 1);
}

/* Each page goes where its policy wants it, if they differ within a block. */
TEST_F(shared, numa_parts)
{
	const uint64_t past = LARGE + 77;
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	if (!has_two_nodes())
		SKIP(return, "one node");
	bind_at(l, 0, 2 * LARGE, 0);
	set_policy(l->env.mem, 2 * LARGE, MPOL_BIND, 1);
	set_policy(l->env.mem + BYTES(LARGE), past - LARGE, MPOL_BIND, 2);
	guest_writes(l, 2 * LARGE - 1, 1, GUEST_VALUE);
	ASSERT_EQ(1, allocated(l));
	guest_writes(l, 0, 2 * LARGE, GUEST_VALUE);
	expect_mapped(l, 1, LARGE);
	expect_node(l->env.mem, 0, LARGE, 0);
	expect_node(l->env.mem, LARGE, past - LARGE, 1);
	expect_node(l->env.mem, past, 2 * LARGE - past, 0);
	host_check(l->env.mem, 0, 2 * LARGE, GUEST_VALUE);
}

/*
 * Anything, at random, against a model: what each page of the file and of the
 * alias holds, and which pages the file has, at least and at most, for a large
 * folio may always be replaced by small ones.
 */

#define RANDOM_FILE	(2 * LARGE + 37)

struct model {
	struct large *l;
	unsigned int seed;
	/* Where the slot is, and by index in it. */
	uint64_t page, npages, index;
	uint64_t value[RANDOM_FILE], shared_value[RANDOM_FILE];
	bool shared[RANDOM_FILE];
	/* By index in the file. */
	bool must[RANDOM_FILE], may[RANDOM_FILE];
};

static uint64_t random_below(struct model *m, uint64_t past)
{
	m->seed = m->seed * 1103515245 + 12345;
	return (m->seed >> 8) % past;
}

/* The page at @index of the file has been used. */
static void model_add(struct model *m, uint64_t index)
{
	uint64_t start = index / LARGE * LARGE, i;
	bool empty = true;

	if (m->must[index])
		return;
	for (i = start; i < start + LARGE && i < RANDOM_FILE; i++)
		empty &= !m->must[i];
	if (empty && start + LARGE <= RANDOM_FILE)
		memset(&m->may[start], true, LARGE);
	m->must[index] = true;
	m->may[index] = true;
}

static void model_check_size(struct model *m)
{
	uint64_t seen = allocated(m->l), least = 0, most = 0, i;

	for (i = 0; i < RANDOM_FILE; i++) {
		least += m->must[i];
		most += m->may[i];
	}
	TEST_ASSERT(seen >= least && seen <= most, "%lu pages, not %lu to %lu", seen,
		    least, most);
}

static void model_guest(struct model *m, uint64_t op, uint64_t first, uint64_t n)
{
	uint64_t i, *value;

	for (i = first; i < first + n; i++) {
		value = m->shared[i] ? &m->shared_value[i] : &m->value[i];
		if (op == OP_WRITE)
			*value = m->seed + i;
		m->l->words[m->page + i] = *value;
		if (!m->shared[i])
			model_add(m, m->index + i);
	}
	guest_do(&m->l->env, op, m->page + first, n, 0);
}

static void model_host(struct model *m, bool write, uint64_t first, uint64_t n)
{
	uint64_t i;

	for (i = first; i < first + n; i++) {
		model_add(m, m->index + i);
		if (write) {
			m->value[i] = m->seed + i;
			*word_of(m->l->env.mem, m->index + i) = m->value[i];
		}
		TEST_ASSERT_EQ(*word_of(m->l->env.mem, m->index + i), m->value[i]);
	}
}

static void model_step(struct model *m)
{
	uint64_t first = random_below(m, m->npages), n, i;
	struct env *env = &m->l->env;
	bool two_sided = !env->mem;

	/* Most are small, some end with a block. */
	n = random_below(m, random_below(m, 4) ? 8 : LARGE) + 1;
	if (!random_below(m, 4))
		n = LARGE - (m->index + first) % LARGE;
	if (n > m->npages - first)
		n = m->npages - first;

	switch (random_below(m, 8)) {
	case 0 ... 1:
		model_guest(m, OP_WRITE, first, n);
		break;
	case 2:
		model_guest(m, OP_CHECK, first, n);
		break;
	case 3 ... 4:
		punch_pages(m->l, m->index + first, n);
		for (i = first; i < first + n; i++) {
			m->value[i] = 0;
			m->must[m->index + i] = false;
			m->may[m->index + i] = false;
		}
		break;
	case 5:
		gmem_allocate(env->fd, BYTES(m->index + first), BYTES(n));
		for (i = first; i < first + n; i++)
			model_add(m, m->index + i);
		break;
	case 6:
		vcpu_pre_fault(env->vcpu, PAGE_GPA(m->page + first), BYTES(n));
		for (i = first; i < first + n; i++) {
			if (!m->shared[i])
				model_add(m, m->index + i);
		}
		break;
	case 7:
		if (!two_sided) {
			model_host(m, random_below(m, 2), first, n);
			break;
		}
		memset(&m->shared[first], !m->shared[first], n);
		vm_set_memory_attributes(env->vm, PAGE_GPA(m->page + first), BYTES(n),
					 m->shared[first] ? 0 :
					 KVM_MEMORY_ATTRIBUTE_PRIVATE);
	}
	model_check_size(m);
}

FIXTURE(random) {
	struct large large;
	struct model model;
};

FIXTURE_VARIANT(random) {
	unsigned long type;
	uint64_t flags;
	uint64_t page;
	uint64_t index;
};

FIXTURE_VARIANT_ADD(random, private) {
	.type = KVM_X86_SW_PROTECTED_VM, .page = 0, .index = 0,
};

FIXTURE_VARIANT_ADD(random, private_inside) {
	.type = KVM_X86_SW_PROTECTED_VM, .page = 30, .index = 30,
};

FIXTURE_VARIANT_ADD(random, private_odd) {
	.type = KVM_X86_SW_PROTECTED_VM, .page = 5, .index = 60,
};

FIXTURE_VARIANT_ADD(random, shared) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED,
	.page = 30, .index = 30,
};

FIXTURE_VARIANT_ADD(random, shared_odd) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED,
	.page = 5, .index = 60,
};

FIXTURE_SETUP(random)
{
	large_setup(&self->large, variant->type, variant->flags, RANDOM_FILE);
}

FIXTURE_TEARDOWN(random)
{
	large_teardown(&self->large);
}

TEST_F(random, steps)
{
	struct model *m = &self->model;
	int i;

	REQUIRE_LARGE_PAGES();
	memset(m, 0, sizeof(*m));
	m->l = &self->large;
	m->seed = 1 + variant->page;
	m->page = variant->page;
	m->index = variant->index;
	m->npages = RANDOM_FILE - variant->index;
	bind_at(m->l, m->page, m->npages, m->index);
	for (i = 0; i < STEPS; i++) {
		model_step(m);
		if (i % 50 == 49)
			model_guest(m, OP_CHECK, 0, m->npages);
	}
	if (m->l->env.mem)
		model_host(m, false, 0, m->npages);
}

int main(int argc, char *argv[])
{
	return large_main(argc, argv);
}
