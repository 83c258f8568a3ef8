// SPDX-License-Identifier: GPL-2.0
/*
 * 1 GiB of a guest_memfd in one piece: fallocate() with kvm.gmem_max_order=18 takes
 * memory that one entry of the guest's page tables can map, and that is the only
 * difference.  A hole, a conversion and a memory error are as exact as ever, what is
 * not theirs keeps its contents, and all of it can be had again afterwards.
 *
 * That memory is to be had in one piece is asked of hugetlb, which has nothing to do
 * with guest_memfd and finds it the same way.  It takes a machine with 6 GiB.
 */
#include "gmem_large.h"

#include <signal.h>
#include <sys/wait.h>

#ifndef SYS_set_mempolicy_home_node
#define SYS_set_mempolicy_home_node	450
#endif

#define HUGETLB		"/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"

#define TRIES		10

#define HUGE_SIZE	(LARGE * LARGE_SIZE)
#define HUGE		(HUGE_SIZE / PAGE_SIZE)

/* On both sides of where large folios meet, and the ends. */
static const uint64_t places[] = { 0, 5, 511, 512, 1000, 100000, 131071, HUGE - 1 };

struct huge {
	struct env env;
	/* As far from 0 as the gpa is, modulo 1 GiB: KVM wants that. */
	void *alias;
	void *unaligned;
	bool private;
	uint64_t pages_1g;
	uint64_t pages_2m;
	uint64_t pages_4k;
};

static int hugetlb_pages(const char *nr)
{
	char line[32];

	write_line(HUGETLB, nr);
	read_line(HUGETLB, line, sizeof(line));
	return atoi(line);
}

#define REQUIRE_HUGE_PAGE()						\
do {									\
	if (access(HUGETLB, W_OK))					\
		SKIP(return, "no " HUGETLB);				\
	if (hugetlb_pages("1") != 1)					\
		SKIP(return, "no 1 GiB of memory in one piece");	\
	ASSERT_EQ(0, hugetlb_pages("0"));				\
} while (0)

/* Without CONFIG_NUMA there are none. */
static unsigned long all_nodes(void)
{
	unsigned long nodes = 0;
	char path[64];
	int i;

	for (i = 0; i < 64; i++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", i);
		nodes |= (unsigned long)!access(path, F_OK) << i;
	}
	return nodes;
}

static void set_policy_of_nodes(int mode, unsigned long nodes)
{
	TEST_ASSERT(!nodes || !syscall(SYS_set_mempolicy, mode, &nodes, 65),
		    "set_mempolicy(), errno: %d", errno);
}

/* Where it is does not matter. */
static void set_policy(int mode)
{
	set_policy_of_nodes(mode, all_nodes());
}

static void new_huge_file(struct huge *h, uint64_t flags)
{
	set_max_order("18");
	h->env.fd = vm_create_guest_memfd(h->env.vm, HUGE_SIZE, flags);
	set_max_order("9");
	if (flags & FLAG_MMAP)
		TEST_ASSERT(mmap(h->alias, HUGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED, h->env.fd, 0) == h->alias,
			    "mmap(), errno: %d", errno);
}

static void bind_huge(struct huge *h, uint64_t page, uint64_t npages, uint64_t index)
{
	struct env *env = &h->env;

	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, PAGE_GPA(page),
				   BYTES(npages), h->alias + BYTES(page), env->fd,
				   BYTES(index));
	if (h->private)
		vm_mem_set_private(env->vm, PAGE_GPA(page), BYTES(npages));
	/* What is mapped changes by this memory only from here on. */
	vcpu_pre_fault(env->vcpu, 0, memslot2region(env->vm, 0)->region.memory_size);
	h->pages_1g = vm_get_stat(env->vm, "pages_1g");
	h->pages_2m = vm_get_stat(env->vm, "pages_2m");
	h->pages_4k = vm_get_stat(env->vm, "pages_4k");
}

static void __expect_huge(struct huge *h, long huge, long large, long small, int line)
{
	long seen_huge = vm_get_stat(h->env.vm, "pages_1g") - h->pages_1g;
	long seen_large = vm_get_stat(h->env.vm, "pages_2m") - h->pages_2m;
	long seen_small = vm_get_stat(h->env.vm, "pages_4k") - h->pages_4k;

	TEST_ASSERT(seen_huge == huge && seen_large == large && seen_small == small,
		    "Line %d: mapped %ld of 1 GiB, %ld of 2 MiB, %ld pages, not %ld, %ld, %ld",
		    line, seen_huge, seen_large, seen_small, huge, large, small);
}

#define expect_huge(h, huge, large, small)				\
	__expect_huge(h, huge, large, small, __LINE__)

/* At all of the places but @but; returns the page faults. */
static uint64_t at_places(struct huge *h, uint64_t op, uint64_t but, uint64_t value)
{
	uint64_t faults = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(places); i++) {
		if (places[i] != but)
			faults += guest_do(&h->env, op, places[i], 1, value);
	}
	return faults;
}

#define check_places(h, value)	at_places(h, OP_CHECK, -1, value)
#define write_places(h, value)	at_places(h, OP_WRITE, -1, value)

/*
 * All of the file, in one piece.  The kernel may have put something into the only
 * suitable place that moves away, or not, a moment later.
 */
static void allocate_huge(struct huge *h)
{
	uint64_t before = vm_get_stat(h->env.vm, "gmem_alloc_1g");
	int i;

	for (i = 0; i < TRIES; i++) {
		gmem_allocate(h->env.fd, 0, HUGE_SIZE);
		TEST_ASSERT_EQ(gmem_allocated_pages(h->env.fd), HUGE);
		if (vm_get_stat(h->env.vm, "gmem_alloc_1g") == before + 1)
			return;
		gmem_punch_hole(h->env.fd, 0, HUGE_SIZE);
		write_line("/proc/sys/vm/compact_memory", "1");
	}
	TEST_FAIL("hugetlb has got it, but %d tries got none", TRIES);
}

static void setup_huge(struct huge *h, unsigned long type, uint64_t flags)
{
	struct env *env = &h->env;

	set_policy(MPOL_BIND);
	memset(h, 0, sizeof(*h));
	h->private = type == KVM_X86_SW_PROTECTED_VM;
	kvm_vm_type = type;
	env->vm = __vm_create(VM_MODE_DEFAULT, 1, MAX_PAGES);
	kvm_vm_type = 0;
	env->vcpu = vm_vcpu_add(env->vm, 0, guest_main);
	virt_map_level(env->vm, GPA, GPA, HUGE_SIZE, PG_LEVEL_2M);
	env->cmd = addr_gva2hva(env->vm, (uint64_t)&guest_cmd);
	/* For numbers of large pages that are those of the file. */
	madvise(memslot2region(env->vm, 0)->host_mem,
		memslot2region(env->vm, 0)->region.memory_size, MADV_NOHUGEPAGE);
	h->unaligned = mmap(NULL, 2 * HUGE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(h->unaligned != MAP_FAILED, "mmap(), errno: %d", errno);
	h->alias = align_ptr_up(h->unaligned, HUGE_SIZE);
	new_huge_file(h, flags);
}

static void teardown_huge(struct huge *h)
{
	munmap(h->unaligned, 2 * HUGE_SIZE);
	close(h->env.fd);
	kvm_vm_free(h->env.vm);
}

FIXTURE(huge) {
	struct huge huge;
};

FIXTURE_VARIANT(huge) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(huge, private) {
	.type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(huge, shared) {
	.flags = FLAG_MMAP | FLAG_SHARED,
};

FIXTURE_SETUP(huge)
{
	setup_huge(&self->huge, variant->type, variant->flags);
}

FIXTURE_TEARDOWN(huge)
{
	teardown_huge(&self->huge);
}

TEST_F(huge, touch)
{
	struct huge *h = &self->huge;

	REQUIRE_HUGE_PAGE();
	allocate_huge(h);
	bind_huge(h, 0, HUGE, 0);
	ASSERT_EQ(1, check_places(h, 0));
	expect_huge(h, 1, 0, 0);
	ASSERT_EQ(0, write_places(h, GUEST_VALUE));
	ASSERT_EQ(0, check_places(h, GUEST_VALUE));

	/* There is no more to allocate. */
	gmem_allocate(h->env.fd, 0, HUGE_SIZE);
	ASSERT_EQ(HUGE, gmem_allocated_pages(h->env.fd));
	ASSERT_EQ(0, check_places(h, GUEST_VALUE));
}

TEST_F(huge, pre_fault)
{
	struct huge *h = &self->huge;
	uint64_t left;

	REQUIRE_HUGE_PAGE();
	allocate_huge(h);
	bind_huge(h, 0, HUGE, 0);
	ASSERT_EQ(0, __vcpu_pre_fault(h->env.vcpu, PAGE_GPA(7), PAGE_SIZE, &left));
	ASSERT_EQ(0, left);
	expect_huge(h, 1, 0, 0);
	/* Up to where the slot ends. */
	ASSERT_EQ(0, __vcpu_pre_fault(h->env.vcpu, GPA + 3 * LARGE_SIZE, HUGE_SIZE, &left));
	ASSERT_EQ(3 * LARGE_SIZE, left);
	vcpu_map_memory(h->env.vcpu, GPA, HUGE_SIZE);
	expect_huge(h, 1, 0, 0);
	ASSERT_EQ(0, check_places(h, 0));
}

/* The guest has it at another distance, or not all of it. */
TEST_F(huge, slot_disagrees)
{
	struct huge *h = &self->huge;

	REQUIRE_HUGE_PAGE();
	allocate_huge(h);
	bind_huge(h, 0, HUGE - LARGE, LARGE);
	guest_do(&h->env, OP_CHECK, 7, 1, 0);
	guest_do(&h->env, OP_WRITE, HUGE - LARGE - 1, 1, GUEST_VALUE);
	expect_huge(h, 0, 2, 0);
	vm_delete_slot(h->env.vm, SLOT);
	bind_huge(h, LARGE, HUGE - LARGE, LARGE);
	guest_do(&h->env, OP_CHECK, HUGE - 1, 1, GUEST_VALUE - LARGE);
	expect_huge(h, 0, 1, 0);
	vm_delete_slot(h->env.vm, SLOT);
	bind_huge(h, 0, HUGE, 0);
	guest_do(&h->env, OP_CHECK, HUGE - 1, 1, GUEST_VALUE - LARGE);
	expect_huge(h, 1, 0, 0);
}

TEST_F(huge, hole)
{
	struct huge *h = &self->huge;
	const uint64_t first = 990, npages = 9;

	REQUIRE_HUGE_PAGE();
	allocate_huge(h);
	bind_huge(h, 0, HUGE, 0);
	write_places(h, GUEST_VALUE);
	guest_do(&h->env, OP_WRITE, first - 1, npages + 2, OTHER_VALUE);
	expect_huge(h, 1, 0, 0);
	gmem_punch_hole(h->env.fd, BYTES(first), BYTES(npages));
	ASSERT_EQ(HUGE - npages, gmem_allocated_pages(h->env.fd));
	expect_huge(h, 0, 0, 0);
	/* Only pages where the hole is, 512 and 1000 of the places among them. */
	ASSERT_EQ(6, check_places(h, GUEST_VALUE));
	expect_huge(h, 0, 4, 2);
	ASSERT_EQ(HUGE - npages, gmem_allocated_pages(h->env.fd));
	guest_do(&h->env, OP_CHECK, first - 1, 1, OTHER_VALUE);
	guest_do(&h->env, OP_CHECK, first, npages, 0);
	guest_do(&h->env, OP_CHECK, first + npages, 1, OTHER_VALUE);
	ASSERT_EQ(HUGE, gmem_allocated_pages(h->env.fd));

	/* Each of the others is one of 2 MiB. */
	vcpu_map_memory(h->env.vcpu, GPA, HUGE_SIZE);
	expect_huge(h, 0, 511, 512);
	ASSERT_EQ(0, check_places(h, GUEST_VALUE));
}

/* At the ends, where nothing follows or precedes. */
TEST_F(huge, hole_at_ends)
{
	struct huge *h = &self->huge;

	REQUIRE_HUGE_PAGE();
	allocate_huge(h);
	bind_huge(h, 0, HUGE, 0);
	write_places(h, GUEST_VALUE);
	gmem_punch_hole(h->env.fd, BYTES(HUGE - 1), PAGE_SIZE);
	expect_huge(h, 0, 0, 0);
	guest_do(&h->env, OP_CHECK, 5, 1, GUEST_VALUE);
	guest_do(&h->env, OP_CHECK, 512, 1, GUEST_VALUE);
	expect_huge(h, 0, 2, 0);
	gmem_punch_hole(h->env.fd, 0, LARGE_SIZE);
	expect_huge(h, 0, 1, 0);
	guest_do(&h->env, OP_CHECK, 100000, 1, GUEST_VALUE);
	guest_do(&h->env, OP_CHECK, 1000, 1, GUEST_VALUE);
	expect_huge(h, 0, 2, 0);
	ASSERT_EQ(HUGE - LARGE - 1, gmem_allocated_pages(h->env.fd));
	guest_do(&h->env, OP_CHECK, HUGE - 1, 1, 0);
	guest_do(&h->env, OP_CHECK, 5, 1, 0);

	/* All of it, and again. */
	gmem_punch_hole(h->env.fd, 0, HUGE_SIZE);
	ASSERT_EQ(0, gmem_allocated_pages(h->env.fd));
	expect_huge(h, 0, 0, 0);
	allocate_huge(h);
	ASSERT_EQ(1, check_places(h, 0));
	expect_huge(h, 1, 0, 0);
}

TEST(convert)
{
	const uint64_t page = 1000;
	struct huge h;

	REQUIRE_HUGE_PAGE();
	setup_huge(&h, KVM_X86_SW_PROTECTED_VM, 0);
	allocate_huge(&h);
	bind_huge(&h, 0, HUGE, 0);
	*word_of(h.alias, page) = WORD(HOST_VALUE, page);
	write_places(&h, GUEST_VALUE);
	expect_huge(&h, 1, 0, 0);
	vm_mem_set_shared(h.env.vm, PAGE_GPA(page), PAGE_SIZE);
	expect_huge(&h, 0, 0, 0);
	guest_do(&h.env, OP_CHECK, page, 1, HOST_VALUE);
	at_places(&h, OP_CHECK, page, GUEST_VALUE);
	/* By pages where it is: 512 of the places, and the other side of it. */
	expect_huge(&h, 0, 4, 2);
	vm_mem_set_private(h.env.vm, PAGE_GPA(page), PAGE_SIZE);
	ASSERT_EQ(1, guest_do(&h.env, OP_CHECK, page, 1, GUEST_VALUE));
	expect_huge(&h, 1, 0, 0);
	ASSERT_EQ(0, check_places(&h, GUEST_VALUE));
	ASSERT_EQ(HUGE, gmem_allocated_pages(h.env.fd));
	teardown_huge(&h);
}

/* In place, with the page mapped by user space meanwhile, which splits its folio. */
TEST(convert_in_place)
{
	const uint64_t page = 1000;
	struct huge h;

	REQUIRE_HUGE_PAGE();
	setup_huge(&h, KVM_X86_SW_PROTECTED_VM, FLAG_MMAP);
	allocate_huge(&h);
	bind_huge(&h, 0, HUGE, 0);
	write_places(&h, GUEST_VALUE);
	expect_huge(&h, 1, 0, 0);
	vm_mem_set_shared(h.env.vm, PAGE_GPA(page), PAGE_SIZE);
	expect_huge(&h, 0, 0, 0);
	/* A PMD would map its neighbours, too: the folio is split. */
	host_check(h.alias, page, 1, GUEST_VALUE);
	host_write(h.alias, page, 1, HOST_VALUE);
	guest_do(&h.env, OP_CHECK, page, 1, HOST_VALUE);
	at_places(&h, OP_CHECK, page, GUEST_VALUE);
	expect_huge(&h, 0, 4, 2);
	vm_mem_set_private(h.env.vm, PAGE_GPA(page), PAGE_SIZE);
	guest_do(&h.env, OP_CHECK, page, 1, HOST_VALUE);
	at_places(&h, OP_CHECK, page, GUEST_VALUE);
	expect_huge(&h, 0, 4, 2);
	teardown_huge(&h);
}

/* The parameter does not ask for it, or the request does not reach that far. */
TEST_F(huge, not_asked_for)
{
	struct huge *h = &self->huge;

	REQUIRE_HUGE_PAGE();
	/* A page of it is there already. */
	gmem_allocate(h->env.fd, BYTES(100000), PAGE_SIZE);
	ASSERT_GE(LARGE, gmem_allocated_pages(h->env.fd));
	gmem_allocate(h->env.fd, 0, HUGE_SIZE);
	ASSERT_EQ(HUGE, gmem_allocated_pages(h->env.fd));
	bind_huge(h, 0, HUGE, 0);
	check_places(h, 0);
	expect_huge(h, 0, 5, 0);
	vm_delete_slot(h->env.vm, SLOT);
	gmem_punch_hole(h->env.fd, 0, HUGE_SIZE);

	/* Not where pages are to alternate between nodes. */
	set_policy(MPOL_INTERLEAVE);
	gmem_allocate(h->env.fd, 0, HUGE_SIZE);
	set_policy(MPOL_BIND);
	bind_huge(h, 0, HUGE, 0);
	check_places(h, 0);
	expect_huge(h, 0, 5, 0);
	ASSERT_EQ(0, vm_get_stat(h->env.vm, "gmem_alloc_1g"));
}

/* How many pieces of 1 GiB the file has got, by the policy that is set. */
static uint64_t allocate_again(struct huge *h)
{
	uint64_t before = vm_get_stat(h->env.vm, "gmem_alloc_1g");

	gmem_allocate(h->env.fd, 0, HUGE_SIZE);
	TEST_ASSERT_EQ(gmem_allocated_pages(h->env.fd), HUGE);
	gmem_punch_hole(h->env.fd, 0, HUGE_SIZE);
	TEST_ASSERT_EQ(gmem_allocated_pages(h->env.fd), 0);
	return vm_get_stat(h->env.vm, "gmem_alloc_1g") - before;
}

/* Some node has it, and that is asked for it. */
TEST_F(huge, preferred_node)
{
	struct huge *h = &self->huge;
	unsigned long nodes = all_nodes(), node;
	uint64_t got = 0;
	int i;

	if (!nodes)
		SKIP(return, "no NUMA");
	REQUIRE_HUGE_PAGE();
	for (i = 0; i < TRIES && !got; i++) {
		for (node = 1; node && node <= nodes; node <<= 1) {
			if (!(nodes & node))
				continue;
			set_policy_of_nodes(MPOL_PREFERRED, node);
			got += allocate_again(h);
		}
	}
	set_policy(MPOL_BIND);
	ASSERT_LE(1, got);
}

/* The policy of the file goes before that of the task.  In one piece it has one. */
TEST_F(huge, policy_of_file)
{
	struct huge *h = &self->huge;
	unsigned long nodes = all_nodes();
	uint64_t got = 0;
	int i;

	if (!nodes)
		SKIP(return, "no NUMA");
	if (!(variant->flags & FLAG_MMAP))
		SKIP(return, "no mapping to set a policy of");
	REQUIRE_HUGE_PAGE();
	ASSERT_EQ(0, syscall(SYS_mbind, h->alias + 5 * LARGE_SIZE, LARGE_SIZE,
			     MPOL_BIND, &nodes, 65, 0));
	ASSERT_EQ(0, allocate_again(h));

	ASSERT_EQ(0, syscall(SYS_mbind, h->alias, HUGE_SIZE, MPOL_INTERLEAVE, &nodes,
			     65, 0));
	ASSERT_EQ(0, allocate_again(h));

	ASSERT_EQ(0, syscall(SYS_mbind, h->alias, HUGE_SIZE, MPOL_BIND, &nodes, 65, 0));
	ASSERT_EQ(0, syscall(SYS_set_mempolicy_home_node, h->alias, HUGE_SIZE,
			     __builtin_ctzl(nodes), 0));
	for (i = 0; i < TRIES && !got; i++)
		got = allocate_again(h);
	ASSERT_EQ(1, got);
}

/* None is to be had: 2 MiB at a time, with nothing else to notice. */
TEST_F(huge, fallback)
{
	struct huge *h = &self->huge;

	REQUIRE_HUGE_PAGE();
	ASSERT_LE(1, hugetlb_pages("1000"));
	if (number_in("/proc/meminfo", "MemAvailable:") < 1200 * 1024) {
		hugetlb_pages("0");
		SKIP(return, "too little memory beside that");
	}
	gmem_allocate(h->env.fd, 0, HUGE_SIZE);
	hugetlb_pages("0");
	ASSERT_EQ(HUGE, gmem_allocated_pages(h->env.fd));
	ASSERT_EQ(0, vm_get_stat(h->env.vm, "gmem_alloc_1g"));
	ASSERT_EQ(1, vm_get_stat(h->env.vm, "gmem_alloc_1g_fallback"));
	bind_huge(h, 0, HUGE, 0);
	check_places(h, 0);
	ASSERT_EQ(h->pages_1g, vm_get_stat(h->env.vm, "pages_1g"));
	write_places(h, GUEST_VALUE);
	check_places(h, GUEST_VALUE);
}

/* Where guest memory is, it stays: the second file gets its own elsewhere. */
TEST_F(huge, second_file)
{
	struct huge *h = &self->huge;
	uint64_t before;
	int fd;

	REQUIRE_HUGE_PAGE();
	allocate_huge(h);
	bind_huge(h, 0, HUGE, 0);
	write_places(h, GUEST_VALUE);
	before = vm_get_stat(h->env.vm, "gmem_alloc_1g") +
		 vm_get_stat(h->env.vm, "gmem_alloc_1g_fallback");

	set_max_order("18");
	fd = vm_create_guest_memfd(h->env.vm, HUGE_SIZE, variant->flags);
	set_max_order("9");
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, HUGE_SIZE)) {
		ASSERT_EQ(ENOMEM, errno);
		close(fd);
		SKIP(return, "too little memory for two");
	}
	ASSERT_EQ(HUGE, gmem_allocated_pages(fd));
	ASSERT_EQ(before + 1, vm_get_stat(h->env.vm, "gmem_alloc_1g") +
			      vm_get_stat(h->env.vm, "gmem_alloc_1g_fallback"));
	check_places(h, GUEST_VALUE);
	expect_huge(h, 1, 0, 0);
	close(fd);
}

/* Who is killed half way leaves the file with whole folios, and loses nothing else. */
TEST_F(huge, killed)
{
	struct huge *h = &self->huge;
	uint64_t pages = 0;
	int i, status;
	pid_t pid;

	REQUIRE_HUGE_PAGE();
	for (i = 0; i < TRIES && (!pages || pages == HUGE); i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			gmem_allocate(h->env.fd, 0, HUGE_SIZE);
			_exit(0);
		}
		while (!gmem_allocated_pages(h->env.fd))
			usleep(500);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		pages = gmem_allocated_pages(h->env.fd);
		ASSERT_EQ(0, pages % LARGE);
		gmem_punch_hole(h->env.fd, 0, HUGE_SIZE);
		ASSERT_EQ(0, gmem_allocated_pages(h->env.fd));
	}
	ASSERT_EQ(1, hugetlb_pages("1"));
	ASSERT_EQ(0, hugetlb_pages("0"));
	if (pages == HUGE)
		SKIP(return, "never met it at work");
}

/*
 * Free, or page cache, which counts as available: to get 1 GiB in one piece the kernel
 * drops some of it, and others read files meanwhile.
 */
static long available_pages(void)
{
	return number_in("/proc/meminfo", "MemAvailable:") * 1024 / PAGE_SIZE;
}

/* All of it is free again, and in one piece: nothing is held, and nothing is lost. */
TEST_F(huge, no_leak)
{
	struct huge *h = &self->huge;
	long before, after;
	int i;

	REQUIRE_HUGE_PAGE();
	before = available_pages();
	for (i = 0; i < 3; i++) {
		allocate_huge(h);
		ASSERT_GT(before - (long)HUGE / 2, available_pages());
		if (i)
			gmem_punch_hole(h->env.fd, BYTES(3 + i), BYTES(17 * i));
		munmap(h->alias, HUGE_SIZE);
		close(h->env.fd);
		after = available_pages();
		/* Others use memory meanwhile. */
		ASSERT_GT(8192, labs(after - before));
		new_huge_file(h, variant->flags);
	}
	ASSERT_EQ(1, hugetlb_pages("1"));
	ASSERT_EQ(0, hugetlb_pages("0"));
}

FIXTURE(last) {
};

FIXTURE_SETUP(last)
{
}

FIXTURE_TEARDOWN(last)
{
}

/* The page is lost, and with it what may be the only place for 1 GiB in one piece. */
TEST_F(last, memory_error)
{
	const uint64_t page = 1000;
	struct huge h;

	REQUIRE_HUGE_PAGE();
	setup_huge(&h, KVM_X86_DEFAULT_VM, FLAG_MMAP | FLAG_SHARED);
	allocate_huge(&h);
	bind_huge(&h, 0, HUGE, 0);
	write_places(&h, GUEST_VALUE);
	expect_huge(&h, 1, 0, 0);
	if (madvise(h.alias + BYTES(page), PAGE_SIZE, MADV_HWPOISON)) {
		ASSERT_EQ(EINVAL, errno);
		SKIP(return, "no CONFIG_MEMORY_FAILURE");
	}
	expect_huge(&h, 0, 0, 0);
	at_places(&h, OP_CHECK, page, GUEST_VALUE);
	expect_huge(&h, 0, 4, 1);
	set_cmd(&h.env, OP_CHECK, page, 1, GUEST_VALUE);
	__vcpu_run_memory_fault(h.env.vcpu, PAGE_GPA(page), 0, EHWPOISON);
	teardown_huge(&h);
}

int main(int argc, char *argv[])
{
	return large_main(argc, argv);
}
