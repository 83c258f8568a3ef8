/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For tests of large folios of guest_memfd: a VM whose file may have some, how much
 * the file has and how that is mapped, and the parameter that limits them.
 *
 * Includes what the tests need, with the harness, in the order that they want.
 */
#ifndef SELFTEST_KVM_GMEM_LARGE_H
#define SELFTEST_KVM_GMEM_LARGE_H

#include "gmem_guest.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include <sys/syscall.h>

#include <linux/kvm_gmem_soft.h>
#include <linux/mempolicy.h>

#define PARAMETER	"/sys/module/kvm/parameters/gmem_max_order"
#define COMPACT_LOCKED	"/proc/sys/vm/compact_unevictable_allowed"
#define THP		"/sys/kernel/mm/transparent_hugepage/enabled"
#define SOFT_DEVICE	"/dev/kvm-gmem-soft"
#define NODE_SIZE	"/sys/kernel/slab/radix_tree_node/object_size"

/* Pages of a large folio, and what the guest can address from GPA on. */
#define LARGE_ORDER	9
#define LARGE		512UL
#define LARGE_SIZE	BYTES(LARGE)
#define ALL		(3 * LARGE)

#define RACES		20

/* The parameter. */

static inline void set_max_order(const char *order)
{
	write_line(PARAMETER, order);
}

/* What the files had, and the process that restores it. */
static char old_order[16];
static char old_compact[16];
static pid_t main_pid;

/* The harness ends the process, and a test that fails ends its own. */
static inline void restore_parameters(void)
{
	if (getpid() != main_pid)
		return;
	set_max_order(old_order);
	if (*old_compact)
		write_line(COMPACT_LOCKED, old_compact);
}

static inline unsigned long mapped_by_pmd(void *addr)
{
	return smaps_kb(addr, "FilePmdMapped:") / (LARGE_SIZE / 1024);
}

/*
 * Take memory from the node with the most free blocks that are large: a guest_memfd
 * takes no large folio from another node than the preferred one.
 */
static inline void prefer_roomy_node(void)
{
	unsigned long nodes, most = 0, two_mib, four_mib;
	FILE *file = fopen("/proc/buddyinfo", "r");
	unsigned long free[64] = {};
	int node, best = 0;
	char line[512];

	TEST_ASSERT(file, "buddyinfo: errno %d", errno);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Node %d, zone %*s %*u %*u %*u %*u %*u %*u %*u %*u %*u %lu %lu",
			   &node, &two_mib, &four_mib) == 3 && node < 64)
			free[node] += two_mib + 2 * four_mib;
	}
	fclose(file);

	for (node = 0; node < 64; node++) {
		if (free[node] > most) {
			most = free[node];
			best = node;
		}
	}
	nodes = 1UL << best;
	/* Without CONFIG_NUMA there is one. */
	TEST_ASSERT(!syscall(SYS_set_mempolicy, MPOL_PREFERRED, &nodes, 65) ||
		    errno == ENOSYS, "set_mempolicy(), errno: %d", errno);
}

/*
 * Can that many large pages be had?  Asks for memory that has nothing to do with
 * guest_memfd, and makes the kernel gather some if need be.
 */
static inline bool has_large_pages(unsigned long nr)
{
	const size_t size = (nr + 1) * LARGE_SIZE;
	unsigned long i, kb = 0;
	void *mem, *start;
	int try;

	prefer_roomy_node();
	for (try = 0; try < 3 && kb < nr * LARGE_SIZE / 1024; try++) {
		if (try)
			write_line("/proc/sys/vm/compact_memory", "1");
		mem = anonymous_pages(size);
		start = align_ptr_up(mem, LARGE_SIZE);
		madvise(start, nr * LARGE_SIZE, MADV_HUGEPAGE);
		for (i = 0; i < nr; i++)
			*(volatile char *)(start + i * LARGE_SIZE) = 1;
		kb = smaps_kb(start, "AnonHugePages:");
		munmap(mem, size);
	}
	return kb >= nr * LARGE_SIZE / 1024;
}

/* More than any test needs. */
#define REQUIRE_LARGE_PAGES()						\
do {									\
	if (!has_large_pages(8))					\
		SKIP(return, "memory is short or fragmented");		\
} while (0)

/* Guest. */

/* What each page from GPA on is to hold, by the host. */
static volatile uint64_t guest_words[ALL];

/* Numbers to all of the pages, each of which must hold the one before. */
static inline void guest_count_on(volatile struct guest_cmd *cmd)
{
	volatile uint64_t *word;
	uint64_t number, i;

	for (number = 0; !cmd->stop; cmd->done = ++number) {
		for (i = cmd->first; i < cmd->first + cmd->npages; i++) {
			word = (uint64_t *)PAGE_GPA(i);
			GUEST_ASSERT_3(*word == number, i, *word, number);
			*word = number + 1;
		}
	}
}

static inline void large_guest(void)
{
	volatile struct guest_cmd *cmd = &guest_cmd;
	volatile uint64_t *word;
	uint64_t i;

	for (;;) {
		if (cmd->op == OP_COUNT)
			guest_count_on(cmd);
		for (i = cmd->first; i < cmd->first + cmd->npages; i++) {
			word = (uint64_t *)PAGE_GPA(i);
			if (cmd->op == OP_WRITE)
				*word = guest_words[i];
			else if (cmd->op == OP_CHECK)
				GUEST_ASSERT_3(*word == guest_words[i], i, *word,
					       guest_words[i]);
		}
		GUEST_SYNC(0);
	}
}

/* Host. */

struct large {
	struct env env;
	unsigned long type;
	volatile uint64_t *words;
	/* What is shared if the memory has two sides. */
	void *alias;
	void *unaligned;
	uint64_t nr_file;
	uint64_t pages_2m;
	uint64_t pages_4k;
};

static inline void new_file(struct large *l, uint64_t flags, uint64_t npages)
{
	l->nr_file = npages;
	l->env.fd = vm_create_guest_memfd(l->env.vm, BYTES(npages), flags);
	if (flags & FLAG_MMAP)
		l->env.mem = gmem_map(l->env.fd, BYTES(npages), 0);
}

/* @dev is a back end for the VM, or -1. */
static inline void __large_setup(struct large *l, unsigned long type,
				 uint64_t flags, uint64_t npages, int dev)
{
	struct kvm_gmem_soft_attach args = { .max_order = 18 };
	struct userspace_mem_region *program;
	struct env *env = &l->env;

	memset(l, 0, sizeof(*l));
	l->type = type;
	kvm_vm_type = type;
	env->vm = __vm_create(VM_MODE_DEFAULT, 1, ALL);
	kvm_vm_type = 0;
	if (dev >= 0) {
		args.vm_fd = env->vm->fd;
		TEST_ASSERT(!ioctl(dev, KVM_GMEM_SOFT_ATTACH, &args) &&
			    !ioctl(dev, KVM_GMEM_SOFT_FINALISE), "errno %d", errno);
	}
	env->vcpu = vm_vcpu_add(env->vm, 0, large_guest);
	virt_map(env->vm, GPA, GPA, ALL);
	env->cmd = addr_gva2hva(env->vm, (uint64_t)&guest_cmd);
	l->words = addr_gva2hva(env->vm, (uint64_t)&guest_words);
	/*
	 * What is mapped changes by the memory that the test is about only: nothing
	 * else is made huge, or moved by compaction.
	 */
	program = memslot2region(env->vm, 0);
	madvise(program->host_mem, program->region.memory_size, MADV_NOHUGEPAGE);
	TEST_ASSERT(!mlock(program->host_mem, program->region.memory_size),
		    "mlock(), errno: %d", errno);
	vcpu_pre_fault(env->vcpu, 0, program->region.memory_size);
	/* KVM wants addresses to agree with gpas, also if it does not use them. */
	l->unaligned = anonymous_pages(BYTES(ALL + LARGE));
	l->alias = align_ptr_up(l->unaligned, LARGE_SIZE);
	/* A test that failed may have left another. */
	set_max_order(old_order);
	new_file(l, flags, npages);
}

static inline void large_setup(struct large *l, unsigned long type,
			       uint64_t flags, uint64_t npages)
{
	__large_setup(l, type, flags, npages, -1);
}

static inline void large_teardown(struct large *l)
{
	munmap(l->unaligned, BYTES(ALL + LARGE));
	if (l->env.mem)
		munmap(l->env.mem, BYTES(l->nr_file));
	close(l->env.fd);
	kvm_vm_free(l->env.vm);
}

/* @npages of the file from @index on, at @page of the guest. */
static inline void bind_at(struct large *l, uint64_t page, uint64_t npages,
			   uint64_t index)
{
	struct env *env = &l->env;
	void *hva = env->mem ? env->mem + BYTES(index) : l->alias + BYTES(page);

	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, PAGE_GPA(page),
				   BYTES(npages), hva, env->fd, BYTES(index));
	if (l->type == KVM_X86_SW_PROTECTED_VM)
		vm_mem_set_private(env->vm, PAGE_GPA(page), BYTES(npages));
	l->pages_2m = vm_get_stat(env->vm, "pages_2m");
	l->pages_4k = vm_get_stat(env->vm, "pages_4k");
}

static inline uint64_t guest_pages(struct large *l, uint64_t op, uint64_t first,
				   uint64_t npages, uint64_t value)
{
	uint64_t i;

	for (i = first; i < first + npages; i++)
		l->words[i] = WORD(value, i);
	return guest_do(&l->env, op, first, npages, 0);
}

#define guest_writes(l, first, npages, value)				\
	guest_pages(l, OP_WRITE, first, npages, value)
#define guest_checks(l, first, npages, value)				\
	guest_pages(l, OP_CHECK, first, npages, value)

static inline void __expect_mapped(struct large *l, long huge, long small, int line)
{
	long seen_huge = vm_get_stat(l->env.vm, "pages_2m") - l->pages_2m;
	long seen_small = vm_get_stat(l->env.vm, "pages_4k") - l->pages_4k;

	TEST_ASSERT(seen_huge == huge && seen_small == small,
		    "Line %d: mapped %ld large and %ld small pages, not %ld and %ld",
		    line, seen_huge, seen_small, huge, small);
}

#define expect_mapped(l, huge, small)	__expect_mapped(l, huge, small, __LINE__)

/* What KVM has counted of the files of a VM. */
struct gmem_counters {
	uint64_t alloc_4k;
	uint64_t alloc_2m;
	uint64_t fallback;
	uint64_t split;
	uint64_t split_fail;
};

static inline uint64_t gmem_counter(struct kvm_vm *vm, const char *name)
{
	uint64_t value = UINT64_MAX;

	__vm_get_stat(vm, name, &value, 1);
	TEST_ASSERT(value != UINT64_MAX, "No VM statistic '%s'", name);
	return value;
}

static inline void __expect_counters(struct kvm_vm *vm, struct gmem_counters want,
				     int line)
{
	struct gmem_counters seen = {
		.alloc_4k = gmem_counter(vm, "gmem_alloc_4k"),
		.alloc_2m = gmem_counter(vm, "gmem_alloc_2m"),
		.fallback = gmem_counter(vm, "gmem_alloc_fallback"),
		.split = gmem_counter(vm, "gmem_split"),
		.split_fail = gmem_counter(vm, "gmem_split_fail"),
	};

	TEST_ASSERT(!memcmp(&seen, &want, sizeof(seen)),
		    "Line %d: counted 4k %lu, 2m %lu, fallback %lu, split %lu, split_fail %lu, not %lu, %lu, %lu, %lu, %lu",
		    line, seen.alloc_4k, seen.alloc_2m, seen.fallback, seen.split,
		    seen.split_fail, want.alloc_4k, want.alloc_2m, want.fallback,
		    want.split, want.split_fail);
}

/* With designated initialisers; what is not named is 0. */
#define expect_counters(vm, ...)					\
	__expect_counters(vm, (struct gmem_counters) { __VA_ARGS__ }, __LINE__)

static inline void punch_pages(struct large *l, uint64_t index, uint64_t npages)
{
	gmem_punch_hole(l->env.fd, BYTES(index), BYTES(npages));
}

static inline uint64_t allocated(struct large *l)
{
	return gmem_allocated_pages(l->env.fd);
}

static inline void *count_on(void *arg)
{
	run_to_sync(arg);
	return NULL;
}

static inline void __punch_while_counting(struct large *l)
{
	static const uint64_t first[] = { 0, LARGE - 20, 255, 17, 100 };
	struct env *env = &l->env;
	uint64_t before, gone;
	pthread_t thread;
	int i;

	set_cmd(env, OP_COUNT, 200, 20, 0);
	env->cmd->stop = 0;
	env->cmd->done = 0;
	TEST_ASSERT(!pthread_create(&thread, NULL, count_on, env), "No thread");
	while (!env->cmd->done)
		sched_yield();
	TEST_ASSERT_EQ(allocated(l), LARGE);
	expect_mapped(l, 1, 0);
	for (i = 0, gone = 0; i < ARRAY_SIZE(first); i++) {
		punch_pages(l, first[i], 20);
		gone += i == 3 ? 17 : 20;
		/* Pages 17 to 19 were gone. */
		TEST_ASSERT_EQ(allocated(l), LARGE - gone);
		before = env->cmd->done;
		while (env->cmd->done < before + 2)
			sched_yield();
	}
	env->cmd->stop = 1;
	pthread_join(thread, NULL);
	for (i = 200; i < 220; i++)
		l->words[i] = env->cmd->done;
	guest_do(env, OP_CHECK, 200, 20, 0);
	guest_checks(l, 0, 37, 0);
	punch_pages(l, 0, l->nr_file);
}

/* The folio is split under a guest that goes on writing to what stays. */
static inline void punch_while_counting(struct large *l)
{
	int i;

	bind_at(l, 0, 2 * LARGE, 0);
	for (i = 0; i < RACES; i++)
		__punch_while_counting(l);
}

/*
 * With CONFIG_BASE_SMALL the nodes of an XArray are so small that a large entry
 * cannot be split, and the parameter has no effect.
 */
static inline bool xarray_has_full_nodes(void)
{
	char size[32];

	if (access(NODE_SIZE, R_OK))
		return true;
	read_line(NODE_SIZE, size, sizeof(size));
	return atoi(size) >= 64 * (int)sizeof(void *);
}

static inline int large_main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_MMAP | FLAG_SHARED | FLAG_WRITE));
	TEST_REQUIRE(!access(PARAMETER, W_OK));
	TEST_REQUIRE(!access(THP, R_OK));
	TEST_REQUIRE(xarray_has_full_nodes());

	read_line(PARAMETER, old_order, sizeof(old_order));
	/* Its default: set to less, it would have the tests show nothing. */
	TEST_ASSERT(atoi(old_order) >= LARGE_ORDER, "%s is %s", PARAMETER, old_order);
	main_pid = getpid();
	if (!access(COMPACT_LOCKED, W_OK)) {
		read_line(COMPACT_LOCKED, old_compact, sizeof(old_compact));
		write_line(COMPACT_LOCKED, "0");
	}
	atexit(restore_parameters);

	return test_harness_run(argc, argv);
}

#endif /* SELFTEST_KVM_GMEM_LARGE_H */
