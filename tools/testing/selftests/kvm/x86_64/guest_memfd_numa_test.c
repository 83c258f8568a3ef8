// SPDX-License-Identifier: GPL-2.0
/*
 * NUMA policy of guest_memfd: a VMM places guest memory with mbind() on a mapping
 * of the file, as it does with shmem.  Every page goes where the policy says,
 * whoever allocates it, and stays there.
 *
 * Without the policy all pages would be on the node of the CPU that runs the test;
 * each check of a place is therefore made for two nodes.
 */
#include "kvm_gmem_util.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/mempolicy.h>
#include <linux/mman.h>

#include "gmem_harness.h"

#define SLOT		10
#define GPA		0x40000000ULL
#define NR_PAGES	16UL
#define SIZE		(NR_PAGES * PAGE_SIZE)
/* Enough to tell them from what else goes on in the page cache. */
#define MANY_PAGES	1024UL

/* No system has more nodes. */
#define MAX_NODES	1024
#define BITS		(8 * sizeof(unsigned long))

struct nodes {
	unsigned long bits[MAX_NODES / BITS];
};

/* Two nodes with memory, and one that is not there. */
static int node[2];
static int absent_node;

static struct nodes nodes_of(int a, int b)
{
	struct nodes nodes = {};

	if (a >= 0)
		nodes.bits[a / BITS] |= 1UL << (a % BITS);
	if (b >= 0)
		nodes.bits[b / BITS] |= 1UL << (b % BITS);
	return nodes;
}

static bool node_isset(const struct nodes *nodes, int n)
{
	return nodes->bits[n / BITS] & (1UL << (n % BITS));
}

/* The system calls; @a and @b are the nodes of the policy, -1 for none. */

static int __mbind(void *addr, size_t size, int mode, int a, int b, unsigned int flags)
{
	struct nodes nodes = nodes_of(a, b);

	return syscall(SYS_mbind, addr, size, mode, &nodes, MAX_NODES, flags);
}

static void set_policy(void *addr, size_t size, int mode, int a, int b)
{
	TEST_ASSERT(!__mbind(addr, size, mode, a, b, 0),
		    "mbind() failed, errno: %d", errno);
}

static void set_task_policy(int mode, int a, int b)
{
	struct nodes nodes = nodes_of(a, b);

	TEST_ASSERT(!syscall(SYS_set_mempolicy, mode, &nodes, MAX_NODES),
		    "set_mempolicy() failed, errno: %d", errno);
}

static bool has_policy(void *addr, int mode, int a, int b)
{
	struct nodes want = nodes_of(a, b), seen;
	int seen_mode;

	TEST_ASSERT(!syscall(SYS_get_mempolicy, &seen_mode, &seen, MAX_NODES, addr,
			     MPOL_F_ADDR),
		    "get_mempolicy() failed, errno: %d", errno);
	return seen_mode == mode && !memcmp(&seen, &want, sizeof(want));
}

/* The node of a page, or -ENOENT if @addr maps none. */
static int query_node(void *addr)
{
	int status = -1;

	TEST_ASSERT(!syscall(SYS_move_pages, 0, 1UL, &addr, NULL, &status, 0),
		    "move_pages() failed, errno: %d", errno);
	return status;
}

/* Maps it if need be. */
static int node_of(void *addr)
{
	int seen, status;

	READ_ONCE(*(char *)addr);
	status = query_node(addr);
	TEST_ASSERT(!syscall(SYS_get_mempolicy, &seen, NULL, 0UL, addr,
			     MPOL_F_NODE | MPOL_F_ADDR),
		    "get_mempolicy() failed, errno: %d", errno);
	TEST_ASSERT_EQ(seen, status);
	return status;
}

/* Guest: touches the same pages again and again. */
static void guest_main(uint64_t gpa, uint64_t npages)
{
	uint64_t i;

	for (;;) {
		for (i = 0; i < npages; i++)
			WRITE_ONCE(*(uint64_t *)(gpa + i * PAGE_SIZE), i);
		GUEST_SYNC(0);
	}
}

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	char *mem;
	unsigned long npages;
};

/* A file that is mapped and bound to a slot. */
static void env_setup(struct env *env, unsigned long type, uint64_t flags,
		      unsigned long npages)
{
	env->npages = npages;
	env->vm = vm_create_type_with_one_vcpu(type, &env->vcpu, npages, guest_main);
	vcpu_args_set(env->vcpu, 2, GPA, (uint64_t)npages);
	virt_map(env->vm, GPA, GPA, npages);

	env->fd = vm_create_guest_memfd(env->vm, npages * PAGE_SIZE, flags);
	env->mem = gmem_map(env->fd, npages * PAGE_SIZE, 0);
	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   npages * PAGE_SIZE, env->mem, env->fd, 0);
}

static void env_teardown(struct env *env)
{
	munmap(env->mem, env->npages * PAGE_SIZE);
	close(env->fd);
	kvm_vm_free(env->vm);
}

/* Who allocates the pages of a file. */
enum allocator {
	BY_VMM_READ,
	BY_VMM_WRITE,
	BY_MADVISE,
	BY_FALLOCATE,
	BY_WRITE,
	BY_GUEST,
	BY_PRE_FAULT,
};

static void allocate(struct env *env, enum allocator by)
{
	size_t size = env->npages * PAGE_SIZE;
	unsigned long i;
	char *data;

	switch (by) {
	case BY_VMM_READ:
		for (i = 0; i < env->npages; i++)
			READ_ONCE(env->mem[i * PAGE_SIZE]);
		break;
	case BY_VMM_WRITE:
		for (i = 0; i < env->npages; i++)
			env->mem[i * PAGE_SIZE] = 1;
		break;
	case BY_MADVISE:
		TEST_ASSERT(!madvise(env->mem, size, MADV_POPULATE_WRITE),
			    "madvise() failed, errno: %d", errno);
		break;
	case BY_FALLOCATE:
		gmem_allocate(env->fd, 0, size);
		break;
	case BY_WRITE:
		data = calloc(1, size);
		TEST_ASSERT_EQ(pwrite(env->fd, data, size, 0), (ssize_t)size);
		free(data);
		break;
	case BY_GUEST:
		vcpu_run_to_sync(env->vcpu);
		break;
	case BY_PRE_FAULT:
		vcpu_pre_fault(env->vcpu, GPA, size);
		break;
	}
	TEST_ASSERT_EQ(gmem_allocated_pages(env->fd), env->npages);
}

static void punch_all(struct env *env)
{
	gmem_punch_hole(env->fd, 0, env->npages * PAGE_SIZE);
}

/* An ordinary VM whose memory is all in the file. */
#define SHARED_FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

FIXTURE(by) {
	struct env env;
};

FIXTURE_VARIANT(by) {
	enum allocator by;
};

FIXTURE_VARIANT_ADD(by, vmm_read)	{ .by = BY_VMM_READ };
FIXTURE_VARIANT_ADD(by, vmm_write)	{ .by = BY_VMM_WRITE };
FIXTURE_VARIANT_ADD(by, madvise)	{ .by = BY_MADVISE };
FIXTURE_VARIANT_ADD(by, fallocate)	{ .by = BY_FALLOCATE };
FIXTURE_VARIANT_ADD(by, write)		{ .by = BY_WRITE };
FIXTURE_VARIANT_ADD(by, guest)		{ .by = BY_GUEST };
FIXTURE_VARIANT_ADD(by, pre_fault)	{ .by = BY_PRE_FAULT };

FIXTURE_SETUP(by)
{
	env_setup(&self->env, KVM_X86_DEFAULT_VM,
		  SHARED_FLAGS | GUEST_MEMFD_FLAG_WRITE, NR_PAGES);
}

FIXTURE_TEARDOWN(by)
{
	env_teardown(&self->env);
}

TEST_F(by, bind)
{
	struct env *env = &self->env;
	unsigned long i, n;

	for (n = 0; n < 4; n++) {
		set_policy(env->mem, SIZE, MPOL_BIND, node[n % 2], -1);
		allocate(env, variant->by);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(node[n % 2], node_of(env->mem + i * PAGE_SIZE)) {
				TH_LOG("page %lu", i);
			}
		punch_all(env);
	}
}

TEST_F(by, preferred)
{
	struct env *env = &self->env;
	unsigned long i, n;

	for (n = 0; n < 2; n++) {
		set_policy(env->mem, SIZE, MPOL_PREFERRED, node[n], -1);
		allocate(env, variant->by);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(node[n], node_of(env->mem + i * PAGE_SIZE));
		punch_all(env);
	}
}

TEST_F(by, interleave)
{
	struct env *env = &self->env;
	unsigned long i;

	set_policy(env->mem, SIZE, MPOL_INTERLEAVE, node[0], node[1]);
	allocate(env, variant->by);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(node[i % 2], node_of(env->mem + i * PAGE_SIZE)) {
			TH_LOG("page %lu", i);
		}
}

/* The policy of the allocating task, where the file has none. */
TEST_F(by, task)
{
	struct env *env = &self->env;
	unsigned long i, n;

	for (n = 0; n < 4; n++) {
		set_task_policy(MPOL_BIND, node[n % 2], -1);
		allocate(env, variant->by);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(node[n % 2], node_of(env->mem + i * PAGE_SIZE)) {
				TH_LOG("page %lu", i);
			}
		punch_all(env);
	}
}

/* The policy of the file has precedence, and only where it has one. */
TEST_F(by, task_and_file)
{
	struct env *env = &self->env;
	unsigned long i;

	set_task_policy(MPOL_BIND, node[1], -1);
	set_policy(env->mem + 4 * PAGE_SIZE, 8 * PAGE_SIZE, MPOL_BIND, node[0], -1);
	allocate(env, variant->by);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i >= 4 && i < 12 ? node[0] : node[1],
			  node_of(env->mem + i * PAGE_SIZE)) {
			TH_LOG("page %lu", i);
		}
}

FIXTURE(numa) {
	struct env env;
};

FIXTURE_SETUP(numa)
{
	env_setup(&self->env, KVM_X86_DEFAULT_VM, SHARED_FLAGS, NR_PAGES);
}

FIXTURE_TEARDOWN(numa)
{
	env_teardown(&self->env);
}

/* By the index in the file: neither order nor mapping nor task matter. */
TEST_F(numa, interleave_by_index)
{
	char *mem = self->env.mem;
	char *odd = gmem_map(self->env.fd, SIZE - 3 * PAGE_SIZE, 3 * PAGE_SIZE);
	static const unsigned int order[] = {
		15, 0, 2, 4, 7, 5, 3, 6, 14, 12, 10, 1, 13, 11, 9, 8,
	};
	unsigned int i;

	/* Neither does it matter with which page the range begins. */
	set_policy(odd, SIZE - 3 * PAGE_SIZE, MPOL_INTERLEAVE, node[0], node[1]);
	set_policy(mem, 3 * PAGE_SIZE, MPOL_INTERLEAVE, node[0], node[1]);

	for (i = 0; i < NR_PAGES; i++) {
		if (order[i] >= 3 && i % 4)
			odd[(order[i] - 3) * PAGE_SIZE] = 1;
		else
			mem[order[i] * PAGE_SIZE] = 1;
		ASSERT_EQ(i + 1, gmem_allocated_pages(self->env.fd));
	}
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(node[i % 2], node_of(mem + i * PAGE_SIZE)) {
			TH_LOG("page %u", i);
		}
	munmap(odd, SIZE - 3 * PAGE_SIZE);
}

/* One policy per page of the file, for everybody and for as long as it lives. */
TEST_F(numa, belongs_to_file)
{
	struct env *env = &self->env;
	char *second = gmem_map(env->fd, SIZE, 0), *third;
	pid_t pid;

	set_policy(env->mem + 2 * PAGE_SIZE, 4 * PAGE_SIZE, MPOL_INTERLEAVE, node[0],
		   node[1]);
	set_policy(env->mem + 6 * PAGE_SIZE, 2 * PAGE_SIZE, MPOL_BIND, node[1], -1);

	ASSERT_TRUE(has_policy(second + PAGE_SIZE, MPOL_DEFAULT, -1, -1));
	ASSERT_TRUE(has_policy(second + 2 * PAGE_SIZE, MPOL_INTERLEAVE, node[0],
			       node[1]));
	ASSERT_TRUE(has_policy(second + 6 * PAGE_SIZE, MPOL_BIND, node[1], -1));
	ASSERT_TRUE(has_policy(second + 8 * PAGE_SIZE, MPOL_DEFAULT, -1, -1));

	/* Another process sees it, and sets one that this process sees. */
	pid = fork();
	if (!pid) {
		third = gmem_map(env->fd, SIZE, 0);
		if (!has_policy(second + 6 * PAGE_SIZE, MPOL_BIND, node[1], -1) ||
		    !has_policy(third + 6 * PAGE_SIZE, MPOL_BIND, node[1], -1) ||
		    __mbind(third + 8 * PAGE_SIZE, PAGE_SIZE, MPOL_BIND, node[1], -1, 0))
			_exit(1);
		_exit(0);
	}
	wait_for_child(pid);
	ASSERT_TRUE(has_policy(env->mem + 8 * PAGE_SIZE, MPOL_BIND, node[1], -1));
	ASSERT_TRUE(has_policy(second + 8 * PAGE_SIZE, MPOL_BIND, node[1], -1));

	/* Survives the last mapping. */
	munmap(second, SIZE);
	munmap(env->mem, SIZE);
	set_task_policy(MPOL_BIND, node[0], -1);
	gmem_allocate(env->fd, 0, SIZE);
	env->mem = gmem_map(env->fd, SIZE, 0);
	ASSERT_TRUE(has_policy(env->mem + 6 * PAGE_SIZE, MPOL_BIND, node[1], -1));
	ASSERT_TRUE(has_policy(env->mem + 8 * PAGE_SIZE, MPOL_BIND, node[1], -1));
	ASSERT_EQ(node[0], node_of(env->mem + PAGE_SIZE));
	ASSERT_EQ(node[1], node_of(env->mem + 6 * PAGE_SIZE));
	ASSERT_EQ(node[1], node_of(env->mem + 7 * PAGE_SIZE));
	ASSERT_EQ(node[1], node_of(env->mem + 8 * PAGE_SIZE));
	ASSERT_EQ(node[0], node_of(env->mem + 9 * PAGE_SIZE));
}

/* A range within a range, and one within that. */
TEST_F(numa, split)
{
	char *mem = self->env.mem;
	unsigned int i;

	set_task_policy(MPOL_BIND, node[1], -1);
	set_policy(mem, SIZE, MPOL_BIND, node[0], -1);
	set_policy(mem + 4 * PAGE_SIZE, 8 * PAGE_SIZE, MPOL_INTERLEAVE, node[0],
		   node[1]);
	set_policy(mem + 6 * PAGE_SIZE, 3 * PAGE_SIZE, MPOL_DEFAULT, -1, -1);

	for (i = 0; i < NR_PAGES; i++) {
		char *page = mem + i * PAGE_SIZE;
		bool outer = i < 4 || i >= 12, inner = i >= 6 && i < 9;

		ASSERT_TRUE(outer ? has_policy(page, MPOL_BIND, node[0], -1) :
			    inner ? has_policy(page, MPOL_DEFAULT, -1, -1) :
			    has_policy(page, MPOL_INTERLEAVE, node[0], node[1]));

		page[0] = 1;
		ASSERT_EQ(outer ? node[0] : inner ? node[1] : node[i % 2],
			  node_of(page)) {
			TH_LOG("page %u", i);
		}
	}
}

/* MPOL_DEFAULT removes the policy of a range; the task's applies again. */
TEST_F(numa, default_removes)
{
	struct env *env = &self->env;
	unsigned int i;

	set_policy(env->mem, SIZE, MPOL_BIND, node[0], -1);
	set_task_policy(MPOL_BIND, node[1], -1);
	allocate(env, BY_FALLOCATE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(node[0], node_of(env->mem + i * PAGE_SIZE));
	punch_all(env);

	set_policy(env->mem, SIZE, MPOL_DEFAULT, -1, -1);
	allocate(env, BY_FALLOCATE);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_TRUE(has_policy(env->mem + i * PAGE_SIZE, MPOL_DEFAULT, -1, -1));
		ASSERT_EQ(node[1], node_of(env->mem + i * PAGE_SIZE));
	}
}

TEST_F(numa, refused)
{
	char *mem = self->env.mem;
	unsigned int bit;

	set_policy(mem, SIZE, MPOL_BIND, node[1], -1);

	/* Nodes that are not there, or none, or some where none belong. */
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_BIND, absent_node, -1, 0)));
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_INTERLEAVE, absent_node, -1,
					   0)));
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_BIND, MAX_NODES - 2, -1,
					   0)));
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_BIND, -1, -1, 0)));
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_INTERLEAVE, -1, -1, 0)));
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_DEFAULT, node[0], -1, 0)));

	/* Modes and flags. */
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, 99, node[0], -1, 0)));
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_BIND | MPOL_F_STATIC_NODES |
					   MPOL_F_RELATIVE_NODES, node[0], -1, 0)));
	for (bit = 3; bit < 32; bit++)
		ASSERT_EQ(EINVAL, errno_of(__mbind(mem, SIZE, MPOL_BIND, node[0], -1,
						   1U << bit))) {
			TH_LOG("flag %#x", 1U << bit);
		}
	ASSERT_EQ(EINVAL, errno_of(__mbind(mem + 1, PAGE_SIZE, MPOL_BIND, node[0], -1,
					   0)));

	/* The old one stays. */
	ASSERT_TRUE(has_policy(mem, MPOL_BIND, node[1], -1));
	ASSERT_TRUE(has_policy(mem + SIZE - PAGE_SIZE, MPOL_BIND, node[1], -1));
	mem[0] = 1;
	ASSERT_EQ(node[1], node_of(mem));

	/* Nodes that are not there do no harm next to one that is. */
	set_policy(mem, SIZE, MPOL_BIND, node[0], absent_node);
	ASSERT_TRUE(has_policy(mem, MPOL_BIND, node[0], -1));
}

/* Pages stay where they are, with and without being asked to move. */
TEST_F(numa, pages_stay)
{
	struct env *env = &self->env;
	char *mem = env->mem;
	unsigned int i;

	set_policy(mem, SIZE, MPOL_BIND, node[0], -1);
	for (i = 0; i < NR_PAGES / 2; i++)
		mem[i * PAGE_SIZE + 8] = 'a' + i;

	set_policy(mem, SIZE, MPOL_BIND, node[1], -1);
	ASSERT_EQ(0, __mbind(mem, SIZE, MPOL_BIND, node[1], -1, MPOL_MF_MOVE));
	ASSERT_EQ(0, __mbind(mem, SIZE, MPOL_BIND, node[1], -1, MPOL_MF_MOVE_ALL));
	for (i = 0; i < NR_PAGES / 2; i++) {
		ASSERT_EQ(node[0], node_of(mem + i * PAGE_SIZE));
		ASSERT_EQ('a' + i, mem[i * PAGE_SIZE + 8]);
	}
	ASSERT_EQ(NR_PAGES / 2, gmem_allocated_pages(env->fd));

	/* Those that do not exist go where the new policy says, also the guest's. */
	vcpu_run_to_sync(env->vcpu);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_EQ(node[i >= NR_PAGES / 2], node_of(mem + i * PAGE_SIZE));
		ASSERT_EQ(i, *(uint64_t *)(mem + i * PAGE_SIZE));
		if (i < NR_PAGES / 2)
			ASSERT_EQ('a' + i, mem[i * PAGE_SIZE + 8]);
	}

	/* With the guest's mappings in place.  It goes on in the same pages. */
	ASSERT_EQ(0, __mbind(mem, SIZE, MPOL_BIND, node[1], -1, MPOL_MF_MOVE));
	memset(mem, 0, SIZE);
	vcpu_run_to_sync(env->vcpu);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_EQ(node[i >= NR_PAGES / 2], node_of(mem + i * PAGE_SIZE));
		ASSERT_EQ(i, *(uint64_t *)(mem + i * PAGE_SIZE));
	}
}

/* Who insists on it is told, the new policy being in force if it was to move. */
TEST_F(numa, strict)
{
	char *mem = self->env.mem;

	set_policy(mem, SIZE, MPOL_BIND, node[0], -1);
	ASSERT_EQ(0, __mbind(mem, SIZE, MPOL_BIND, node[0], -1, MPOL_MF_STRICT));
	mem[0] = 'x';

	ASSERT_EQ(0, __mbind(mem, SIZE, MPOL_BIND, node[0], -1, MPOL_MF_STRICT));
	ASSERT_EQ(EIO, errno_of(__mbind(mem, SIZE, MPOL_BIND, node[1], -1,
					MPOL_MF_STRICT)));
	ASSERT_TRUE(has_policy(mem, MPOL_BIND, node[0], -1));

	ASSERT_EQ(EIO, errno_of(__mbind(mem, SIZE, MPOL_BIND, node[1], -1,
					MPOL_MF_STRICT | MPOL_MF_MOVE)));
	ASSERT_TRUE(has_policy(mem, MPOL_BIND, node[1], -1));
	ASSERT_EQ('x', mem[0]);
	ASSERT_EQ(node[0], node_of(mem));
	mem[PAGE_SIZE] = 'y';
	ASSERT_EQ(node[1], node_of(mem + PAGE_SIZE));
}

/* move_pages() tells where pages are, and moves none of them. */
TEST_F(numa, move_pages)
{
	char *mem = self->env.mem;
	int nodes[NR_PAGES], status[NR_PAGES];
	void *pages[NR_PAGES];
	unsigned int i;

	set_policy(mem, SIZE, MPOL_INTERLEAVE, node[0], node[1]);
	for (i = 0; i < NR_PAGES; i++) {
		pages[i] = mem + i * PAGE_SIZE;
		ASSERT_EQ(-ENOENT, query_node(pages[i]));
		/* The last two stay empty. */
		if (i < NR_PAGES - 2)
			mem[i * PAGE_SIZE] = 'a' + i;
	}

	memset(status, 0x55, sizeof(status));
	ASSERT_EQ(0, syscall(SYS_move_pages, 0, NR_PAGES, pages, NULL, status, 0));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < NR_PAGES - 2 ? node[i % 2] : -ENOENT, status[i]);
	ASSERT_EQ(NR_PAGES - 2, gmem_allocated_pages(self->env.fd));

	/* To where they are: nothing to do. */
	for (i = 0; i < NR_PAGES; i++)
		nodes[i] = node[i % 2];
	memset(status, 0x55, sizeof(status));
	ASSERT_EQ(0, syscall(SYS_move_pages, 0, NR_PAGES, pages, nodes, status,
			     MPOL_MF_MOVE));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < NR_PAGES - 2 ? node[i % 2] : -ENOENT, status[i]);

	/*
	 * To another node, one by one: the return value is the number of pages that
	 * were not moved, and says nothing about them in the status.
	 */
	for (i = 0; i < NR_PAGES - 2; i++) {
		nodes[i] = node[!(i % 2)];
		status[i] = 0x55;
		ASSERT_EQ(1, syscall(SYS_move_pages, 0, 1UL, &pages[i], &nodes[i],
				     &status[i], MPOL_MF_MOVE));
		ASSERT_EQ(0x55, status[i]);
	}
	for (i = 0; i < NR_PAGES - 2; i++) {
		ASSERT_EQ(node[i % 2], node_of(pages[i]));
		ASSERT_EQ('a' + i, mem[i * PAGE_SIZE]);
	}
}

/* The pages of the page cache that lie on a node. */
static long file_pages(int n)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/vmstat", n);
	return vmstat_value(path, "nr_file_pages");
}

/* A file that only the guest may touch is placed through its mapping as well. */
TEST(private_file)
{
	long before[2], n;
	struct env env;

	env_setup(&env, KVM_X86_DEFAULT_VM, GUEST_MEMFD_FLAG_MMAP, MANY_PAGES);

	for (n = 0; n < 4; n++) {
		set_policy(env.mem, MANY_PAGES * PAGE_SIZE, MPOL_BIND, node[n % 2], -1);
		ASSERT_TRUE(has_policy(env.mem, MPOL_BIND, node[n % 2], -1));

		before[0] = file_pages(node[0]);
		before[1] = file_pages(node[1]);
		allocate(&env, BY_GUEST);
		ASSERT_NEAR(MANY_PAGES, file_pages(node[n % 2]) - before[n % 2]);
		ASSERT_NEAR(0, file_pages(node[!(n % 2)]) - before[!(n % 2)]);
		/* The mapping has none of them. */
		ASSERT_EQ(-ENOENT, query_node(env.mem));
		punch_all(&env);
	}

	set_policy(env.mem, MANY_PAGES * PAGE_SIZE, MPOL_INTERLEAVE, node[0], node[1]);
	before[0] = file_pages(node[0]);
	before[1] = file_pages(node[1]);
	allocate(&env, BY_GUEST);
	ASSERT_NEAR(MANY_PAGES / 2, file_pages(node[0]) - before[0]);
	ASSERT_NEAR(MANY_PAGES / 2, file_pages(node[1]) - before[1]);

	env_teardown(&env);
}

/* Private pages that become shared later tell where they are. */
TEST(protected_vm)
{
	struct env env;
	unsigned int i;

	if (!kvm_has_private_vms())
		SKIP(return, "no VMs with private memory");

	env_setup(&env, KVM_X86_SW_PROTECTED_VM, GUEST_MEMFD_FLAG_MMAP, NR_PAGES);
	vm_mem_set_private(env.vm, GPA, SIZE);

	set_policy(env.mem, SIZE, MPOL_INTERLEAVE, node[0], node[1]);
	set_policy(env.mem, 2 * PAGE_SIZE, MPOL_BIND, node[1], -1);
	set_policy(env.mem + 2 * PAGE_SIZE, 2 * PAGE_SIZE, MPOL_BIND, node[0], -1);
	allocate(&env, BY_GUEST);

	vm_mem_set_shared(env.vm, GPA, SIZE);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(i < 2 ? node[1] : i < 4 ? node[0] : node[i % 2],
			  node_of(env.mem + i * PAGE_SIZE)) {
			TH_LOG("page %u", i);
		}

	env_teardown(&env);
}

/* For kmemleak: files die with policies in them, also with split ones. */
TEST(no_leak)
{
	struct kvm_vm *vm = vm_create_barebones();
	unsigned int i;
	char *mem;
	int fd;

	for (i = 0; i < 1000; i++) {
		fd = vm_create_guest_memfd(vm, SIZE, SHARED_FLAGS);
		mem = gmem_map(fd, SIZE, 0);
		set_policy(mem, SIZE, MPOL_INTERLEAVE, node[0], node[1]);
		set_policy(mem + PAGE_SIZE, PAGE_SIZE, MPOL_BIND, node[i % 2], -1);
		set_policy(mem + 3 * PAGE_SIZE, PAGE_SIZE, MPOL_DEFAULT, -1, -1);
		mem[PAGE_SIZE] = 1;
		ASSERT_EQ(node[i % 2], node_of(mem + PAGE_SIZE));
		/* The last user is the file or the mapping. */
		if (i % 2)
			close(fd);
		munmap(mem, SIZE);
		if (!(i % 2))
			close(fd);
	}
	kvm_vm_free(vm);
}

static bool find_nodes(void)
{
	struct nodes allowed;
	int found = 0, n;

	if (syscall(SYS_get_mempolicy, NULL, &allowed, MAX_NODES, NULL,
		    MPOL_F_MEMS_ALLOWED))
		return false;

	absent_node = -1;
	for (n = 0; n < MAX_NODES; n++) {
		if (!node_isset(&allowed, n)) {
			if (absent_node < 0)
				absent_node = n;
		} else if (found < 2) {
			node[found++] = n;
		}
	}
	return found == 2;
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_gmem());
	TEST_REQUIRE((kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & SHARED_FLAGS) ==
		     SHARED_FLAGS);
	TEST_REQUIRE(find_nodes());

	return test_harness_run(argc, argv);
}
