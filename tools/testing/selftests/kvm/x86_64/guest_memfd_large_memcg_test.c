// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios of guest_memfd where memory is short: that they are a chance and
 * nobody's need.  Without one to be had at once the guest gets pages of 4 KiB, in a
 * memory cgroup as on a machine that is fragmented, and KVM's counters tell.
 * Nothing of them is left behind.
 */
#include "gmem_large.h"
#include "gmem_memcg.h"

#include <ctype.h>
#include <sys/uio.h>

#define MIB		(1UL << 20)
/* What is left of the limit: too little for a large folio, and some pages. */
#define ROOM		(MIB + MIB / 2)
#define CYCLES		1000
/*
 * With KASAN, where one takes 70 ms.  A quarter of a page for each of them has to be more
 * than what CPUs charge to a group ahead.
 */
#define KASAN_CYCLES		300
#define KASAN_GROUP_CYCLES	600

/* Counters. */

FIXTURE(counters) {
	struct large large;
	struct kvm_vm *other;
};

FIXTURE_VARIANT(counters) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(counters, private) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(counters, inplace) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_WRITE | FLAG_MMAP,
};

FIXTURE_VARIANT_ADD(counters, shared) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_WRITE | FLAG_MMAP | FLAG_SHARED,
};

FIXTURE_SETUP(counters)
{
	large_setup(&self->large, variant->type, variant->flags, ALL);
	expect_counters(self->large.env.vm);
	self->other = vm_create_barebones();
}

FIXTURE_TEARDOWN(counters)
{
	/* Whatever happened was not its business. */
	expect_counters(self->other);
	kvm_vm_free(self->other);
	large_teardown(&self->large);
}

/* Neither a block that is there nor another access to it counts again. */
TEST_F(counters, guest_fault)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, ALL, 0);
	guest_checks(l, 5, 1, 0);
	expect_counters(l->env.vm, .alloc_2m = 1);
	guest_writes(l, 0, LARGE, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 1);
	guest_writes(l, LARGE - 1, 2, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 2);
	guest_writes(l, 0, ALL, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 3);
}

TEST_F(counters, pre_fault)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, ALL, 0);
	vcpu_pre_fault(l->env.vcpu, PAGE_GPA(7), PAGE_SIZE);
	expect_counters(l->env.vm, .alloc_2m = 1);
	vcpu_pre_fault(l->env.vcpu, GPA, BYTES(ALL));
	expect_counters(l->env.vm, .alloc_2m = 3);
	guest_writes(l, 0, ALL, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 3);
}

TEST_F(counters, fallocate)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	gmem_allocate(l->env.fd, BYTES(LARGE + 9), PAGE_SIZE);
	expect_counters(l->env.vm, .alloc_2m = 1);
	gmem_allocate(l->env.fd, 0, BYTES(ALL));
	expect_counters(l->env.vm, .alloc_2m = 3);
	gmem_allocate(l->env.fd, 0, BYTES(ALL));
	expect_counters(l->env.vm, .alloc_2m = 3);
}

/* A part of a block is pages, and as such what was wanted. */
TEST_F(counters, write)
{
	struct large *l = &self->large;
	void *buf = anonymous_pages(BYTES(ALL));

	REQUIRE_LARGE_PAGES();
	ASSERT_EQ(LARGE_SIZE, pwrite(l->env.fd, buf, LARGE_SIZE, LARGE_SIZE));
	expect_counters(l->env.vm, .alloc_2m = 1);
	ASSERT_EQ(BYTES(20), pwrite(l->env.fd, buf, BYTES(20), BYTES(LARGE - 20)));
	expect_counters(l->env.vm, .alloc_2m = 1, .alloc_4k = 20);
	ASSERT_EQ(BYTES(20), pwrite(l->env.fd, buf, BYTES(20), 2 * LARGE_SIZE));
	expect_counters(l->env.vm, .alloc_2m = 1, .alloc_4k = 40);

	/* What was not written counts for nothing. */
	ASSERT_EQ(EEXIST, errno_of(pwrite(l->env.fd, buf, LARGE_SIZE, LARGE_SIZE)));
	ASSERT_EQ(0, mprotect(buf, PAGE_SIZE, PROT_NONE));
	ASSERT_EQ(EFAULT, errno_of(pwrite(l->env.fd, buf, PAGE_SIZE, 0)));
	expect_counters(l->env.vm, .alloc_2m = 1, .alloc_4k = 40);
	munmap(buf, BYTES(ALL));
}

/* Where the file has no room for a large folio none is wanted. */
TEST_F(counters, tail)
{
	struct large *l = &self->large;
	const uint64_t size = LARGE + 37;

	REQUIRE_LARGE_PAGES();
	if (l->env.mem)
		munmap(l->env.mem, BYTES(ALL));
	close(l->env.fd);
	new_file(l, variant->flags, size);
	bind_at(l, 0, size, 0);
	guest_writes(l, LARGE + 3, 1, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_4k = 1);
	gmem_allocate(l->env.fd, 0, BYTES(LARGE + 10));
	expect_counters(l->env.vm, .alloc_2m = 1, .alloc_4k = 10);
	vcpu_pre_fault(l->env.vcpu, PAGE_GPA(LARGE), BYTES(37));
	expect_counters(l->env.vm, .alloc_2m = 1, .alloc_4k = 37);
}

/* Neither where there is a page already. */
TEST_F(counters, not_empty)
{
	struct large *l = &self->large;
	void *page = anonymous_pages(PAGE_SIZE);

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, ALL, 0);
	ASSERT_EQ(PAGE_SIZE, pwrite(l->env.fd, page, PAGE_SIZE, BYTES(300)));
	expect_counters(l->env.vm, .alloc_4k = 1);
	guest_writes(l, 0, 3, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_4k = 4);
	gmem_allocate(l->env.fd, BYTES(3), BYTES(5));
	expect_counters(l->env.vm, .alloc_4k = 9);
	vcpu_pre_fault(l->env.vcpu, GPA, LARGE_SIZE);
	expect_counters(l->env.vm, .alloc_4k = LARGE);
	munmap(page, PAGE_SIZE);
}

/* A hole splits what it has a part of, once, and is filled by pages. */
TEST_F(counters, split)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, ALL, 0);
	guest_writes(l, 0, ALL, GUEST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 3);

	/* All of one: nothing to split. */
	punch_pages(l, LARGE, LARGE);
	expect_counters(l->env.vm, .alloc_2m = 3);
	guest_checks(l, LARGE, LARGE, 0);
	expect_counters(l->env.vm, .alloc_2m = 4);

	/* Inside one, again in what it has become, and a part of two. */
	punch_pages(l, 100, 50);
	expect_counters(l->env.vm, .alloc_2m = 4, .split = 1);
	punch_pages(l, 300, 10);
	expect_counters(l->env.vm, .alloc_2m = 4, .split = 1);
	punch_pages(l, 2 * LARGE - 7, 20);
	expect_counters(l->env.vm, .alloc_2m = 4, .split = 3);
	guest_checks(l, 100, 50, 0);
	guest_checks(l, 2 * LARGE - 7, 20, 0);
	expect_counters(l->env.vm, .alloc_2m = 4, .split = 3, .alloc_4k = 70);

	/* Nothing is taken back when the memory is. */
	punch_pages(l, 0, ALL);
	guest_checks(l, 0, 1, 0);
	expect_counters(l->env.vm, .alloc_2m = 5, .split = 3, .alloc_4k = 70);
	close(l->env.fd);
	l->env.fd = -1;
	expect_counters(l->env.vm, .alloc_2m = 5, .split = 3, .alloc_4k = 70);
}

/* All files of a VM, and no others. */
TEST_F(counters, per_vm)
{
	struct large *l = &self->large;
	struct kvm_vm *vm = vm_create_barebones();
	int fds[2];

	REQUIRE_LARGE_PAGES();
	fds[0] = vm_create_guest_memfd(l->env.vm, LARGE_SIZE, 0);
	set_max_order("0");
	fds[1] = vm_create_guest_memfd(vm, LARGE_SIZE, 0);
	set_max_order(old_order);
	gmem_allocate(l->env.fd, 0, LARGE_SIZE);
	gmem_allocate(fds[0], 0, LARGE_SIZE);
	gmem_punch_hole(fds[0], 0, PAGE_SIZE);
	expect_counters(l->env.vm, .alloc_2m = 2, .split = 1);
	expect_counters(vm);

	/* Small by intention is no fallback. */
	gmem_allocate(fds[1], BYTES(30), BYTES(50));
	gmem_punch_hole(fds[1], BYTES(30), PAGE_SIZE);
	expect_counters(vm, .alloc_4k = 50);
	expect_counters(l->env.vm, .alloc_2m = 2, .split = 1);
	close(fds[0]);
	close(fds[1]);
	expect_counters(vm, .alloc_4k = 50);
	kvm_vm_free(vm);
}

/* What an administrator finds without the VMM's help. */
TEST_F(counters, debugfs)
{
	struct large *l = &self->large;
	char path[128], line[32];

	REQUIRE_LARGE_PAGES();
	gmem_allocate(l->env.fd, 0, BYTES(ALL));
	punch_pages(l, 5, 1);
	gmem_allocate(l->env.fd, BYTES(5), PAGE_SIZE);
	expect_counters(l->env.vm, .alloc_2m = 3, .split = 1, .alloc_4k = 1);
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/gmem_alloc_2m",
		 getpid(), l->env.vm->fd);
	if (access(path, R_OK))
		SKIP(return, "no %s", path);
	read_line(path, line, sizeof(line));
	ASSERT_EQ(3, atoi(line));
}

/* User space has the memory, too. */

FIXTURE(mapped) {
	struct large large;
};

FIXTURE_VARIANT(mapped) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(mapped, inplace) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_MMAP,
};

FIXTURE_VARIANT_ADD(mapped, shared) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED,
};

FIXTURE_SETUP(mapped)
{
	large_setup(&self->large, variant->type, variant->flags, ALL);
	bind_at(&self->large, 0, ALL, 0);
	if (variant->type == KVM_X86_SW_PROTECTED_VM)
		vm_mem_set_shared(self->large.env.vm, GPA, BYTES(ALL));
}

FIXTURE_TEARDOWN(mapped)
{
	large_teardown(&self->large);
}

TEST_F(mapped, user_fault)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	ASSERT_EQ(0, touch(l->env.mem + BYTES(5), -1));
	expect_counters(l->env.vm, .alloc_2m = 1);
	ASSERT_EQ(0, touch(l->env.mem + BYTES(2 * LARGE), 1));
	expect_counters(l->env.vm, .alloc_2m = 2);
	host_write(l->env.mem, 0, ALL, HOST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 3);
	guest_checks(l, 0, ALL, HOST_VALUE);
	expect_counters(l->env.vm, .alloc_2m = 3);
}

/* A page that somebody holds: each hole that fails is one failure. */
TEST_F(mapped, split_fails)
{
	struct large *l = &self->large;
	struct iovec iov = { l->env.mem + BYTES(300), PAGE_SIZE };
	char bytes[PAGE_SIZE];
	int pipes[2], i;

	REQUIRE_LARGE_PAGES();
	host_write(l->env.mem, 0, 2 * LARGE, HOST_VALUE);
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE_SIZE, vmsplice(pipes[1], &iov, 1, 0));
	for (i = 1; i <= 3; i++) {
		ASSERT_EQ(EAGAIN, errno_of(__gmem_punch_hole(l->env.fd, 0, BYTES(5))));
		expect_counters(l->env.vm, .alloc_2m = 2, .split_fail = i);
	}
	ASSERT_EQ(EAGAIN, errno_of(__gmem_punch_hole(l->env.fd, BYTES(400),
						     BYTES(LARGE))));
	expect_counters(l->env.vm, .alloc_2m = 2, .split_fail = 4);

	ASSERT_EQ(PAGE_SIZE, read(pipes[0], bytes, PAGE_SIZE));
	punch_pages(l, 400, LARGE);
	expect_counters(l->env.vm, .alloc_2m = 2, .split_fail = 4, .split = 2);
	close(pipes[0]);
	close(pipes[1]);
}

/* User space has a part of a folio and the guest the rest: not one folio. */
TEST(convert)
{
	struct kvm_vm *vm;
	struct large l;

	REQUIRE_LARGE_PAGES();
	large_setup(&l, KVM_X86_SW_PROTECTED_VM, FLAG_MMAP, ALL);
	vm = l.env.vm;
	bind_at(&l, 0, ALL, 0);
	/* An access that is refused allocates nothing. */
	ASSERT_EQ(SIGBUS, touch(l.env.mem, 1));
	expect_counters(vm);
	guest_writes(&l, 0, ALL, GUEST_VALUE);
	vm_mem_set_shared(vm, PAGE_GPA(100), BYTES(10));
	expect_counters(vm, .alloc_2m = 3);
	host_check(l.env.mem, 100, 10, GUEST_VALUE);
	expect_counters(vm, .alloc_2m = 3, .split = 1);
	vm_mem_set_shared(vm, PAGE_GPA(LARGE), LARGE_SIZE);
	host_check(l.env.mem, LARGE, LARGE, GUEST_VALUE);
	expect_counters(vm, .alloc_2m = 3, .split = 1);
	guest_checks(&l, 0, ALL, GUEST_VALUE);
	large_teardown(&l);
}

/* Memory cgroups. */

static bool has_memcg;

FIXTURE(memcg) {
};

FIXTURE_SETUP(memcg)
{
	if (has_memcg)
		ASSERT_EQ(0, mkdir(GROUP, 0755));
}

FIXTURE_TEARDOWN(memcg)
{
	if (has_memcg)
		EXPECT_EQ(0, rmdir(GROUP));
}

#define REQUIRE_MEMCG()							\
do {									\
	if (!has_memcg)							\
		SKIP(return, "no memory cgroups");			\
	REQUIRE_LARGE_PAGES();						\
} while (0)

/* Ways to allocate, each in a block of its own. */
static void near_limit(void)
{
	struct kvm_vm *vm;
	struct large l;

	large_setup(&l, KVM_X86_SW_PROTECTED_VM, 0, ALL);
	vm = l.env.vm;
	bind_at(&l, 0, ALL, 0);
	/* KVM stocks up for page tables. */
	guest_writes(&l, 0, 1, GUEST_VALUE);
	expect_counters(vm, .alloc_2m = 1);
	punch_pages(&l, 0, ALL);

	leave_room(ROOM);
	guest_writes(&l, 0, 80, GUEST_VALUE);
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = 80, .fallback = 1);
	gmem_allocate(l.env.fd, BYTES(LARGE + 40), BYTES(40));
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = 120, .fallback = 2);
	vcpu_pre_fault(l.env.vcpu, PAGE_GPA(2 * LARGE), BYTES(40));
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = 160, .fallback = 3);
	TEST_ASSERT_EQ(allocated(&l), 160UL);
	guest_checks(&l, 0, 80, GUEST_VALUE);
	guest_checks(&l, LARGE + 40, 40, 0);
	guest_checks(&l, 2 * LARGE, 40, 0);
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = 160, .fallback = 3);
	TEST_ASSERT_EQ(group_value("memory.events", "oom"), 0UL);

	/* Where there is room again the next block is large again. */
	write_line(GROUP "/memory.max", "max");
	punch_pages(&l, 0, LARGE);
	guest_checks(&l, 0, 2 * LARGE, 0);
	expect_counters(vm, .alloc_2m = 2, .alloc_4k = 160 + LARGE - 40, .fallback = 3);
	large_teardown(&l);
}

/* What CPUs have charged ahead, and caches of the kernel that outlive the task. */
static uint64_t slack(void)
{
	return sysconf(_SC_NPROCESSORS_CONF) * BYTES(64) + MIB / 2;
}

TEST_F(memcg, near_limit)
{
	REQUIRE_MEMCG();
	ASSERT_EQ(0, in_group(near_limit));
	ASSERT_EQ(0, group_value("memory.events", "oom_kill"));
	ASSERT_GE(slack(), charged());
}

/*
 * A task that is not to be killed lives with the error, and so does its guest.
 * Where nothing is left, no file can be opened and no statistic of a vCPU be had.
 */
static void at_limit(void)
{
	struct kvm_vm *vm;
	struct large l;
	uint64_t npages;
	void *buf;

	large_setup(&l, KVM_X86_SW_PROTECTED_VM, FLAG_WRITE, ALL);
	vm = l.env.vm;
	bind_at(&l, 0, ALL, 0);
	guest_writes(&l, 0, 1, GUEST_VALUE);
	punch_pages(&l, 0, ALL);
	expect_counters(vm, .alloc_2m = 1);
	buf = anonymous_pages(BYTES(ALL));
	host_write(buf, 0, ALL, HOST_VALUE);
	write_line("/proc/self/oom_score_adj", "-1000");

	leave_room(ROOM);
	TEST_ASSERT_EQ(errno_of(__gmem_allocate(l.env.fd, 0, BYTES(ALL))), ENOMEM);
	npages = allocated(&l);
	TEST_ASSERT(npages >= ROOM / PAGE_SIZE / 2 && npages < LARGE, "%lu pages",
		    npages);
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = npages, .fallback = 1);
	l.words[LARGE] = WORD(GUEST_VALUE, LARGE);
	set_cmd(&l.env, OP_WRITE, LARGE, 1, 0);
	__vcpu_run_memory_fault(l.env.vcpu, PAGE_GPA(LARGE),
				KVM_MEMORY_EXIT_FLAG_PRIVATE, ENOMEM);
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = npages, .fallback = 1);

	/* A hole makes room for pages, and the guest goes on with what it was at. */
	punch_pages(&l, 20, LARGE - 20);
	run_to_sync(&l.env);
	expect_counters(vm, .alloc_2m = 1, .alloc_4k = npages + 1, .fallback = 2);
	TEST_ASSERT(group_value("memory.events", "oom") > 0, "No event");
	guest_checks(&l, 0, 20, 0);
	guest_checks(&l, LARGE, 1, GUEST_VALUE);

	/* As far as they go. */
	npages = pwrite(l.env.fd, buf + 2 * LARGE_SIZE, LARGE_SIZE, 2 * LARGE_SIZE) /
		 PAGE_SIZE;
	TEST_ASSERT(npages >= ROOM / PAGE_SIZE / 3 && npages < LARGE, "%lu pages",
		    npages);
	TEST_ASSERT_EQ(allocated(&l), 21 + npages);
	TEST_ASSERT_EQ(gmem_counter(vm, "gmem_alloc_fallback"), 3UL);
	TEST_ASSERT_EQ(gmem_counter(vm, "gmem_alloc_2m"), 1UL);
	punch_pages(&l, 2 * LARGE + 50, LARGE - 50);
	guest_checks(&l, 2 * LARGE, 50, HOST_VALUE);

	write_line(GROUP "/memory.max", "max");
	punch_pages(&l, LARGE, LARGE);
	guest_writes(&l, 0, 2 * LARGE, GUEST_VALUE);
	guest_checks(&l, 0, 2 * LARGE, GUEST_VALUE);
	TEST_ASSERT_EQ(gmem_counter(vm, "gmem_alloc_fallback"), 3UL);
	TEST_ASSERT_EQ(gmem_counter(vm, "gmem_alloc_2m"), 2UL);
	munmap(buf, BYTES(ALL));
	large_teardown(&l);
}

TEST_F(memcg, at_limit)
{
	REQUIRE_MEMCG();
	ASSERT_EQ(0, in_group(at_limit));
	ASSERT_EQ(0, group_value("memory.events", "oom_kill"));
	ASSERT_GE(slack(), charged());
}

/* Any other task dies of it, but not of the large folio that it cannot have. */
static void beyond_limit(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd = vm_create_guest_memfd(vm, 2 * LARGE_SIZE, 0);

	leave_room(ROOM);
	gmem_allocate(fd, 0, BYTES(100));
	expect_counters(vm, .alloc_4k = 100, .fallback = 1);
	TEST_ASSERT_EQ(group_value("memory.events", "oom"), 0UL);
	__gmem_allocate(fd, 0, 2 * LARGE_SIZE);
	/* Not reached: nothing can be reclaimed. */
}

TEST_F(memcg, beyond_limit)
{
	int status;

	REQUIRE_MEMCG();
	status = in_group(beyond_limit);
	ASSERT_TRUE(WIFSIGNALED(status));
	ASSERT_EQ(SIGKILL, WTERMSIG(status));
	ASSERT_EQ(1, group_value("memory.events", "oom_kill"));
	ASSERT_GE(slack(), charged());
}

/* Fragmentation. */

/* Free memory that has no large page in it: a page in each is taken. */
#define FRAGMENTS	32UL
/* A test should not take more. */
#define MOST_MEMORY	(16UL << 30)

#define BUDDYINFO	"/proc/buddyinfo"
#define ORDERS		11
#define TRACE		"/sys/kernel/debug/tracing/instances/gmem_large"

static struct setting {
	const char *path;
	const char *value;
	char old[128];
} settings[] = {
	/* Nobody else makes large pages of small ones meanwhile. */
	{ "/proc/sys/vm/compaction_proactiveness", "0" },
	{ "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "0" },
	/* What is kept for emergencies would be free, and large, afterwards. */
	{ "/proc/sys/vm/min_free_kbytes", "1024" },
	/* As many numbers as the kernel has zones, all of them 0. */
	{ "/proc/sys/vm/lowmem_reserve_ratio", NULL },
	/* All large pages that are free, or become so by compaction. */
	{ "/proc/sys/vm/nr_hugepages", "1000000" },
};

/* Blocks of that order or more. */
static unsigned long free_blocks(int order)
{
	unsigned long sum = 0, n;
	char line[256], *at;
	FILE *file = fopen(BUDDYINFO, "r");
	int i;

	TEST_ASSERT(file, BUDDYINFO ", errno: %d", errno);
	while (fgets(line, sizeof(line), file)) {
		at = strstr(line, "zone ");
		TEST_ASSERT(at, "'%s'", line);
		at += strlen("zone ");
		at += strspn(at, " ");
		at += strcspn(at, " ");
		for (i = 0; i < ORDERS; i++) {
			n = strtoul(at, &at, 10);
			if (i >= order)
				sum += n;
		}
	}
	fclose(file);
	return sum;
}

/* Of this task from now on: what it does to get a large page that is not there. */
static void trace_start(void)
{
	static const char * const events[] = {
		TRACE "/events/compaction/mm_compaction_try_to_compact_pages",
		TRACE "/events/vmscan/mm_vmscan_direct_reclaim_begin",
	};
	char path[160], filter[64];
	int i;

	TEST_ASSERT(!mkdir(TRACE, 0755), TRACE ", errno: %d", errno);
	snprintf(filter, sizeof(filter), "order >= 9 && common_pid == %d", getpid());
	for (i = 0; i < ARRAY_SIZE(events); i++) {
		snprintf(path, sizeof(path), "%s/filter", events[i]);
		write_line(path, filter);
		snprintf(path, sizeof(path), "%s/enable", events[i]);
		write_line(path, "1");
	}
}

static unsigned long traced(void)
{
	FILE *file = fopen(TRACE "/trace", "r");
	unsigned long lines = 0;
	char line[512];

	TEST_ASSERT(file, "trace, errno: %d", errno);
	while (fgets(line, sizeof(line), file))
		lines += *line != '#';
	fclose(file);
	return lines;
}

static void change_setting(const struct setting *setting)
{
	char zeroes[sizeof(setting->old)], *at;

	if (setting->value) {
		write_line(setting->path, setting->value);
		return;
	}
	strcpy(zeroes, setting->old);
	for (at = zeroes; *at; at++) {
		if (isdigit(*at))
			*at = '0';
	}
	write_line(setting->path, zeroes);
}

static int make_fragments(struct kvm_vm *vm)
{
	int fd = vm_create_guest_memfd(vm, FRAGMENTS * LARGE_SIZE, 0), i;

	gmem_allocate(fd, 0, FRAGMENTS * LARGE_SIZE);
	expect_counters(vm, .alloc_2m = FRAGMENTS);
	for (i = 0; i < FRAGMENTS; i++)
		gmem_punch_hole(fd, i * LARGE_SIZE, LARGE_SIZE - PAGE_SIZE);
	expect_counters(vm, .alloc_2m = FRAGMENTS, .split = FRAGMENTS);
	for (i = 0; i < ARRAY_SIZE(settings); i++)
		change_setting(&settings[i]);
	return fd;
}

/* All ways to allocate memory, where there are pages and nothing else. */
static void use_fragments(struct large *l)
{
	struct env *env = &l->env;
	struct gmem_counters want = {};
	void *buf = anonymous_pages(BYTES(ALL));
	int way;

	host_write(buf, 0, ALL, HOST_VALUE);
	for (way = 0; way < 5; way++) {
		TEST_ASSERT_EQ(free_blocks(9), 0UL);
		switch (way) {
		case 0:
			guest_writes(l, 0, ALL, GUEST_VALUE);
			break;
		case 1:
			vcpu_pre_fault(env->vcpu, GPA, BYTES(ALL));
			break;
		case 2:
			gmem_allocate(env->fd, 0, BYTES(ALL));
			break;
		case 3:
			TEST_ASSERT_EQ((size_t)pwrite(env->fd, buf, BYTES(ALL), 0),
				       BYTES(ALL));
			guest_checks(l, 0, ALL, HOST_VALUE);
			break;
		case 4:
			host_write(env->mem, 0, ALL, GUEST_VALUE);
		}
		TEST_ASSERT_EQ(free_blocks(9), 0UL);
		TEST_ASSERT_EQ(allocated(l), ALL);
		want.alloc_4k += ALL;
		want.fallback += 3;
		__expect_counters(env->vm, want, __LINE__);
		guest_writes(l, 0, ALL, GUEST_VALUE);
		host_check(env->mem, 0, ALL, GUEST_VALUE);
		guest_checks(l, 0, ALL, GUEST_VALUE);
		punch_pages(l, 0, ALL);
	}

	/* Nobody went out of his way for it, while others do, and are traced. */
	TEST_ASSERT_EQ(traced(), 0UL);
	write_line("/proc/sys/vm/nr_hugepages", "1000001");
	TEST_ASSERT(traced() > 0, "There is no trace of compaction");
	munmap(buf, BYTES(ALL));
}

static void run_fragmented(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct large l;
	int fd;

	large_setup(&l, KVM_X86_DEFAULT_VM, FLAG_MMAP | FLAG_SHARED | FLAG_WRITE, ALL);
	bind_at(&l, 0, ALL, 0);
	fd = make_fragments(vm);
	trace_start();
	use_fragments(&l);
	large_teardown(&l);
	close(fd);
	kvm_vm_free(vm);
}

/* In a child, for the memory is to be free again however it ends. */
TEST(fragmented)
{
	struct kvm_vm *vm;
	int i, status, fd;
	char total[64];
	pid_t pid;

	read_line("/proc/meminfo", total, sizeof(total));
	if (strtoul(total + strlen("MemTotal:"), NULL, 10) > MOST_MEMORY / 1024)
		SKIP(return, "too much memory to take all of it");
	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		if (access(settings[i].path, W_OK))
			SKIP(return, "no %s", settings[i].path);
		read_line(settings[i].path, settings[i].old, sizeof(settings[i].old));
	}
	if (access("/sys/kernel/debug/tracing/instances", W_OK))
		SKIP(return, "no tracing");
	if (!has_large_pages(FRAGMENTS + 8))
		SKIP(return, "memory is short or fragmented");

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		run_fragmented();
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	while (i--)
		write_line(settings[i].path, settings[i].old);
	rmdir(TRACE);
	ASSERT_EQ(0, status);

	/* It was the memory's fault. */
	ASSERT_TRUE(has_large_pages(8));
	vm = vm_create_barebones();
	fd = vm_create_guest_memfd(vm, BYTES(ALL), 0);
	gmem_allocate(fd, 0, BYTES(ALL));
	expect_counters(vm, .alloc_2m = 3);
	close(fd);
	kvm_vm_free(vm);
}

/* Leaks. */

/* What the kernel may have more of afterwards. */
static const char * const leaks[] = {
	"not free", "nr_file_pages", "nr_unevictable", "nr_anon_pages", "nr_mapped",
	"nr_page_table_pages", "nr_slab_unreclaimable",
};

/* A file that has large and small folios, by all ways, and loses some of them. */
static void cycle(struct kvm_vm *vm, void *buf, int i)
{
	const uint64_t size = 2 * LARGE + 8;
	int fd = vm_create_guest_memfd(vm, BYTES(size), FLAG_MMAP | FLAG_SHARED |
				       FLAG_WRITE);
	void *mem = gmem_map(fd, BYTES(size), 0);

	gmem_allocate(fd, 0, PAGE_SIZE);
	TEST_ASSERT_EQ(pwrite(fd, buf, BYTES(4), BYTES(LARGE + i % 500)),
		       (ssize_t)BYTES(4));
	*word_of(mem, i % LARGE) = i;
	*word_of(mem, LARGE + (i + 100) % LARGE) = i;
	*word_of(mem, 2 * LARGE + i % 8) = i;
	gmem_punch_hole(fd, BYTES(1 + i % 400), BYTES(1 + i % 111));
	gmem_punch_hole(fd, BYTES(LARGE + i % 500), BYTES(2));
	if (i % 2)
		munmap(mem, BYTES(size));
	close(fd);
	if (!(i % 2))
		munmap(mem, BYTES(size));
}

static void cycles(int n)
{
	void *buf = anonymous_pages(BYTES(4));
	struct kvm_vm *vm = vm_create_barebones();
	uint64_t large, split;
	int i;

	for (i = 0, large = 0, split = 0; i < n; i++) {
		cycle(vm, buf, i);
		if (i % 10 && i + 1 < n)
			continue;
		large += gmem_counter(vm, "gmem_alloc_2m");
		split += gmem_counter(vm, "gmem_split");
		kvm_vm_free(vm);
		prefer_roomy_node();
		vm = vm_create_barebones();
	}
	kvm_vm_free(vm);
	/*
	 * Else nothing would have been shown.  A debug kernel has its own memory all
	 * over the place in the end.
	 */
	TEST_ASSERT(large >= n / 4 && split == large, "%lu large folios, %lu split",
		    large, split);
	munmap(buf, BYTES(4));
}

/* Pages of the system that are free, those that CPUs keep for themselves included. */
static long free_pages(void)
{
	long sum = vmstat_value("/proc/vmstat", "nr_free_pages"), count;
	FILE *file = fopen("/proc/zoneinfo", "r");
	char line[256];

	TEST_ASSERT(file, "zoneinfo, errno: %d", errno);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " count: %ld", &count) == 1)
			sum += count;
	}
	fclose(file);
	return sum;
}

static void count_pages(long pages[])
{
	int i;

	for (i = 0; i < ARRAY_SIZE(leaks); i++)
		pages[i] = i ? vmstat_value("/proc/vmstat", leaks[i]) : -free_pages();
}

FIXTURE(leak) {
};

FIXTURE_SETUP(leak)
{
}

FIXTURE_TEARDOWN(leak)
{
}

/* Its quarantine keeps what is freed for a while, and shadows use memory, too. */
static bool has_kasan(void)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[256];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, " kasan_report\n");
	if (file)
		fclose(file);
	return found;
}

/* The last one, see above.  A page of each cycle is four times what is allowed. */
TEST_F(leak, none)
{
	long before[ARRAY_SIZE(leaks)], after[ARRAY_SIZE(leaks)], more;
	bool kasan = has_kasan();
	const int n = kasan ? KASAN_CYCLES : CYCLES;
	int i;

	REQUIRE_LARGE_PAGES();
	cycles(100);
	count_pages(before);
	cycles(n);
	count_pages(after);
	for (i = 0; i < ARRAY_SIZE(leaks); i++) {
		more = after[i] - before[i];
		TH_LOG("%s: %ld more", leaks[i], more);
		if (kasan && (!strcmp(leaks[i], "not free") ||
			      !strcmp(leaks[i], "nr_slab_unreclaimable")))
			continue;
		EXPECT_GT(n / 4, more);
	}
}

static void cycles_in_group(void)
{
	const int n = has_kasan() ? KASAN_GROUP_CYCLES : CYCLES;
	uint64_t before, after;

	cycles(100);
	before = charged();
	cycles(n);
	after = charged();
	TEST_ASSERT(after < before + BYTES(n / 4), "%lu bytes more are charged",
		    after - before);
}

TEST_F(memcg, no_leak)
{
	REQUIRE_MEMCG();
	ASSERT_EQ(0, in_group(cycles_in_group));
	ASSERT_GE(slack(), charged());
}

int main(int argc, char *argv[])
{
	int r;

	has_memcg = mount_cgroup2();
	r = large_main(argc, argv);
	if (has_memcg)
		umount_cgroup2();
	return r;
}
