// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation of every operation on guest memory fails in turn.  The operation
 * then either works as if nothing had been, or returns ENOMEM and has changed
 * nothing, and works when it is tried again.  Nothing is left behind.
 *
 * Bugs that others had and that show here: a slot, a binding or a descriptor that
 * stays taken after an error; a range that is half converted; pages that nobody
 * frees; a warning because an allocation "cannot fail".
 */
#include "gmem_large.h"
#include "gmem_failnth.h"
#include "gmem_memcg.h"

/* Files that are too small for large folios. */
#define FEW		16ULL
#define SOME		120ULL

/* What is free again, whichever number it is. */
static int next_fd(void)
{
	int fd = dup(0);

	TEST_ASSERT(fd >= 0, "dup(), errno: %d", errno);
	close(fd);
	return fd;
}

/*
 * Making VMs and files.
 */

struct maker {
	struct kvm_vm *vm;
	int kvm_fd;
	uint64_t flags;
	int fd;
	int next;
	int nr_vms;
};

static void maker_begin(void *arg)
{
	struct maker *m = arg;

	m->next = next_fd();
	m->nr_vms = nr_own_vms();
}

static void maker_unchanged(void *arg)
{
	struct maker *m = arg;

	TEST_ASSERT_EQ(next_fd(), m->next);
	TEST_ASSERT_EQ(nr_own_vms(), m->nr_vms);
}

static void maker_end(void *arg)
{
	struct maker *m = arg;

	close(m->fd);
	maker_unchanged(arg);
}

static int create_vm(void *arg)
{
	struct maker *m = arg;

	return errno_of(m->fd = ioctl(m->kvm_fd, KVM_CREATE_VM,
				      KVM_X86_SW_PROTECTED_VM));
}

static void created_vm(void *arg)
{
	struct maker *m = arg;
	struct kvm_memory_attributes attributes = {
		.size = PAGE_SIZE,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};

	TEST_ASSERT_EQ(m->fd, m->next);
	TEST_ASSERT(!ioctl(m->fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes),
		    "errno %d", errno);
}

static int create_file(void *arg)
{
	struct maker *m = arg;

	return errno_of(m->fd = __vm_create_guest_memfd(m->vm, BYTES(LARGE), m->flags));
}

static void created_file(void *arg)
{
	struct maker *m = arg;

	TEST_ASSERT_EQ(m->fd, m->next);
	TEST_ASSERT_EQ(gmem_allocated_pages(m->fd), 0);
	vm_bind_gmem(m->vm, SLOT, GPA, BYTES(LARGE), m->fd, 0);
	gmem_allocate(m->fd, 0, BYTES(1));
	vm_delete_slot(m->vm, SLOT);
}

static int close_file(void *arg)
{
	struct maker *m = arg;

	return errno_of(close(m->fd));
}

/* Bound and filled; the slot outlives it. */
static void close_begin(void *arg)
{
	struct maker *m = arg;

	maker_begin(arg);
	m->fd = vm_create_guest_memfd(m->vm, BYTES(LARGE), 0);
	gmem_allocate(m->fd, 0, BYTES(LARGE));
	vm_bind_gmem(m->vm, SLOT, GPA, BYTES(LARGE), m->fd, 0);
}

static void closed_file(void *arg)
{
	struct maker *m = arg;

	TEST_ASSERT_EQ(next_fd(), m->next);
	vm_delete_slot(m->vm, SLOT);
}

FIXTURE(maker) {
	struct maker m;
};

FIXTURE_SETUP(maker)
{
	self->m.vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->m.kvm_fd = open_kvm_dev_path_or_exit();
}

FIXTURE_TEARDOWN(maker)
{
	close(self->m.kvm_fd);
	kvm_vm_free(self->m.vm);
	EXPECT_EQ(0, nr_own_vms());
}

TEST_F(maker, create_vm)
{
	static const struct sweep op = {
		.name = "KVM_CREATE_VM", .begin = maker_begin, .act = create_vm,
		.unchanged = maker_unchanged, .done = created_vm, .end = maker_end,
		/* Then come the files of the statistics in debugfs. */
		.dense = 60,
	};

	sweep(&op, &self->m);
}

TEST_F(maker, create_file)
{
	static const struct sweep op = {
		.name = "KVM_CREATE_GUEST_MEMFD", .begin = maker_begin,
		.act = create_file, .unchanged = maker_unchanged,
		.done = created_file, .end = maker_end,
	};

	sweep(&op, &self->m);
	self->m.flags = FLAG_MMAP | FLAG_WRITE;
	sweep(&op, &self->m);
}

TEST_F(maker, close_file)
{
	static const struct sweep op = {
		.name = "close() of a file in a memslot", .begin = close_begin,
		.act = close_file, .done = closed_file, .never_fails = true,
	};

	sweep(&op, &self->m);
}

/*
 * Memslots.  A file of SOME pages, all of which are there, at GPA.
 */

struct slots {
	struct kvm_vm *vm;
	void *mem;
	int fd;
};

/* Neither the gfns nor the pages of the file can be had twice. */
static bool is_bound(struct slots *s)
{
	int gfns, pages;

	gfns = errno_of(__vm_bind_gmem(s->vm, SLOT + 1, PAGE_GPA(SOME - 1), BYTES(1),
				       s->fd, BYTES(SOME)));
	if (!gfns)
		vm_delete_slot(s->vm, SLOT + 1);
	pages = errno_of(__vm_bind_gmem(s->vm, SLOT + 1, PAGE_GPA(2 * SOME), BYTES(1),
					s->fd, BYTES(SOME - 1)));
	if (!pages)
		vm_delete_slot(s->vm, SLOT + 1);
	TEST_ASSERT(gfns == pages && (!gfns || gfns == EEXIST), "errno %d, %d", gfns,
		    pages);
	return gfns;
}

static int bind_slot_errno(void *arg)
{
	struct slots *s = arg;

	return errno_of(__vm_set_user_memory_region2(s->vm, SLOT, KVM_MEM_GUEST_MEMFD,
						     GPA, BYTES(SOME), s->mem, s->fd,
						     0));
}

static int delete_slot_errno(void *arg)
{
	struct slots *s = arg;

	return errno_of(__vm_delete_slot(s->vm, SLOT));
}

static void slot_is_bound(void *arg)
{
	struct slots *s = arg;

	TEST_ASSERT(is_bound(s), "there is no slot");
	TEST_ASSERT_EQ(gmem_allocated_pages(s->fd), SOME);
}

static void slot_is_gone(void *arg)
{
	struct slots *s = arg;

	TEST_ASSERT(!is_bound(s), "there is a slot");
	TEST_ASSERT_EQ(gmem_allocated_pages(s->fd), SOME);
}

static void bind_it(void *arg)
{
	TEST_ASSERT_EQ(bind_slot_errno(arg), 0);
}

static void delete_it(void *arg)
{
	TEST_ASSERT_EQ(delete_slot_errno(arg), 0);
}

FIXTURE(slots) {
	struct slots s;
};

FIXTURE_SETUP(slots)
{
	self->s.vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->s.fd = vm_create_guest_memfd(self->s.vm, BYTES(SOME + 1), FLAG_MMAP);
	self->s.mem = gmem_map(self->s.fd, BYTES(SOME), 0);
	gmem_allocate(self->s.fd, 0, BYTES(SOME));
}

FIXTURE_TEARDOWN(slots)
{
	munmap(self->s.mem, BYTES(SOME));
	close(self->s.fd);
	kvm_vm_free(self->s.vm);
	EXPECT_EQ(0, nr_own_vms());
}

static const struct sweep bind_op = {
	.name = "bind a file", .act = bind_slot_errno, .unchanged = slot_is_gone,
	.done = slot_is_bound, .end = delete_it,
};

static const struct sweep delete_op = {
	.name = "delete a memslot", .begin = bind_it, .act = delete_slot_errno,
	.unchanged = slot_is_bound, .done = slot_is_gone,
};

TEST_F(slots, first)
{
	sweep(&bind_op, &self->s);
	sweep(&delete_op, &self->s);
}

/* Neighbours, and half of the gfns are private. */
TEST_F(slots, with_others)
{
	struct kvm_vm *vm = self->s.vm;
	int other = vm_create_guest_memfd(vm, BYTES(FEW), 0);

	vm_bind_gmem(vm, 0, GPA - BYTES(FEW), BYTES(FEW), other, 0);
	vm_bind_gmem(vm, 1, PAGE_GPA(SOME + 1), BYTES(1), self->s.fd, BYTES(SOME));
	vm_delete_slot(vm, 1);
	vm_mem_set_private(vm, GPA, BYTES(SOME / 2));
	sweep(&bind_op, &self->s);
	sweep(&delete_op, &self->s);
	close(other);
}

/*
 * Attributes.  All is in one file that is mapped and converted in place, so that a
 * touch tells what a page is; each has a value.
 */

struct attributes {
	struct slots s;
	bool before[SOME];
	/* What to do, and what is private after it. */
	uint64_t first;
	uint64_t npages;
	bool private;
	/* The tree may have kept what the next store needs. */
	bool few;
	bool after[SOME];
};

static void expect_private(struct attributes *a, const bool *want)
{
	uint64_t i;
	int sig;

	for (i = 0; i < SOME; i++) {
		sig = touch((void *)word_of(a->s.mem, i), -1);
		TEST_ASSERT(sig == (want[i] ? SIGBUS : 0),
			    "Page %lu is %s", i, sig ? "private" : "shared");
		if (!sig)
			TEST_ASSERT_EQ(*word_of(a->s.mem, i), WORD(HOST_VALUE, i));
	}
	TEST_ASSERT_EQ(gmem_allocated_pages(a->s.fd), SOME);
}

static void attributes_unchanged(void *arg)
{
	struct attributes *a = arg;

	expect_private(a, a->before);
}

static void attributes_set(void *arg)
{
	struct attributes *a = arg;

	expect_private(a, a->after);
}

static int set_attributes_errno(void *arg)
{
	struct attributes *a = arg;

	return errno_of(__vm_set_memory_attributes(a->s.vm, PAGE_GPA(a->first),
						   BYTES(a->npages),
						   a->private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0));
}

/* As before, page by page. */
static void restore_attributes(void *arg)
{
	struct attributes *a = arg;
	uint64_t i;

	for (i = a->first; i < a->first + a->npages; i++)
		vm_set_memory_attributes(a->s.vm, PAGE_GPA(i), BYTES(1),
					 a->before[i] ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	/* Mapped, so that it has to be unmapped. */
	expect_private(a, a->before);
}

/* What sweep_attributes() starts with. */
static void set_before(struct attributes *a, uint64_t first, uint64_t npages,
		       bool private)
{
	memset(a->before + first, private, npages);
	vm_set_memory_attributes(a->s.vm, PAGE_GPA(first), BYTES(npages),
				 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
}

static void sweep_attributes(struct attributes *a, const char *name, uint64_t first,
			     uint64_t npages, bool private)
{
	const struct sweep op = {
		.name = name, .begin = restore_attributes, .act = set_attributes_errno,
		.unchanged = attributes_unchanged, .done = attributes_set,
		/* Nodes of a small tree, for the worst case. */
		.keeps = a->few,
	};

	a->first = first;
	a->npages = npages;
	a->private = private;
	memcpy(a->after, a->before, sizeof(a->before));
	memset(a->after + first, private, npages);
	sweep(&op, a);
	restore_attributes(a);
}

FIXTURE(attributes) {
	struct attributes a;
};

FIXTURE_SETUP(attributes)
{
	struct slots *s = &self->a.s;

	s->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	s->fd = vm_create_guest_memfd(s->vm, BYTES(SOME), FLAG_MMAP);
	s->mem = gmem_map(s->fd, BYTES(SOME), 0);
	bind_it(s);
	host_write(s->mem, 0, SOME, HOST_VALUE);
}

FIXTURE_TEARDOWN(attributes)
{
	munmap(self->a.s.mem, BYTES(SOME));
	close(self->a.s.fd);
	kvm_vm_free(self->a.s.vm);
	EXPECT_EQ(0, nr_own_vms());
}

TEST_F(attributes, few_ranges)
{
	struct attributes *a = &self->a;

	a->few = true;
	sweep_attributes(a, "make the first range private", 50, 3, true);
	set_before(a, 50, 50, true);
	sweep_attributes(a, "share the middle of a private range", 70, 20, false);
	sweep_attributes(a, "share a private range and around it", 40, 70, false);
	set_before(a, 70, 20, false);
	sweep_attributes(a, "fill the gap between private ranges", 70, 20, true);
}

TEST_F(attributes, many_ranges)
{
	struct attributes *a = &self->a;
	uint64_t i;

	for (i = 0; i < SOME; i += 2)
		set_before(a, i, 1, true);
	sweep_attributes(a, "one of many ranges shared", 60, 1, false);
	sweep_attributes(a, "a gap between many ranges filled", 61, 1, true);
	sweep_attributes(a, "many ranges made one", 3, 110, true);
	sweep_attributes(a, "many ranges shared", 3, 110, false);
}

/*
 * The file: allocation, holes, write(), mappings, policies.
 */

struct file {
	struct kvm_vm *vm;
	int fd;
	/* Of the whole file, and of a part of it that is not mapped otherwise. */
	void *mem;
	void *part;
	uint64_t first;
	uint64_t npages;
	uint64_t allocated;
	void *source;
	/* What a call did that stopped half way. */
	uint64_t progress;
};

static void file_is_empty(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), 0);
}

static void empty_file(void *arg)
{
	struct file *f = arg;

	gmem_punch_hole(f->fd, 0, BYTES(f->npages));
	file_is_empty(arg);
	f->progress = 0;
}

static int allocate_errno(void *arg)
{
	struct file *f = arg;

	return errno_of(__gmem_allocate(f->fd, BYTES(f->first), BYTES(f->allocated)));
}

/* What is allocated stays. */
static void allocated_some(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT(gmem_allocated_pages(f->fd) < f->allocated, "All of it is there");
}

static void allocated_all(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->allocated);
	TEST_ASSERT(pages_are_zero(f->mem + BYTES(f->first), f->allocated),
		    "Not zeroes");
}

static void sweep_allocate(struct file *f, const char *name, uint64_t first,
			   uint64_t npages, bool never_fails)
{
	const struct sweep op = {
		.name = name, .begin = empty_file, .act = allocate_errno,
		.unchanged = allocated_some, .done = allocated_all,
		.never_fails = never_fails,
	};

	f->first = first;
	f->allocated = npages;
	sweep(&op, f);
}

static void fill_file(void *arg)
{
	struct file *f = arg;

	empty_file(arg);
	gmem_allocate(f->fd, 0, BYTES(f->npages));
	fill_pages(f->mem, f->npages);
}

static int punch_errno(void *arg)
{
	struct file *f = arg;

	return errno_of(__gmem_punch_hole(f->fd, BYTES(f->first), BYTES(f->allocated)));
}

static void file_is_full(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->npages);
	TEST_ASSERT(pages_are_filled(f->mem, f->npages), "Contents are lost");
}

static void hole_is_there(void *arg)
{
	struct file *f = arg;
	uint64_t i;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->npages - f->allocated);
	for (i = 0; i < f->npages; i++) {
		if (i == f->first)
			i += f->allocated;
		if (i < f->npages)
			TEST_ASSERT(page_is(f->mem, i, PAGE_BYTE(i)), "Page %lu", i);
	}
}

static void sweep_punch(struct file *f, const char *name, uint64_t first,
			uint64_t npages, bool never_fails)
{
	const struct sweep op = {
		.name = name, .begin = fill_file, .act = punch_errno,
		.unchanged = file_is_full, .done = hole_is_there,
		.never_fails = never_fails,
	};

	f->first = first;
	f->allocated = npages;
	sweep(&op, f);
}

/* As a VMM that goes on where it stopped. */
static int write_errno(void *arg)
{
	struct file *f = arg;
	ssize_t n;

	n = pwrite(f->fd, f->source + BYTES(f->progress),
		   BYTES(f->allocated - f->progress), BYTES(f->first + f->progress));
	if (n < 0)
		return errno;
	f->progress += n / PAGE_SIZE;
	return 0;
}

static void written_none(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT_EQ(f->progress, 0);
	file_is_empty(arg);
}

static void written_all(void *arg)
{
	struct file *f = arg;
	uint64_t some = f->progress;

	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), some);
	if (some < f->allocated)
		TEST_ASSERT_EQ(write_errno(arg), 0);
	TEST_ASSERT_EQ(f->progress, f->allocated);
	TEST_ASSERT_EQ(gmem_allocated_pages(f->fd), f->allocated);
	TEST_ASSERT(pages_are_filled(f->mem + BYTES(f->first), f->allocated),
		    "Not what was written");
}

static void sweep_write(struct file *f, const char *name, uint64_t first,
			uint64_t npages, bool never_fails)
{
	const struct sweep op = {
		.name = name, .begin = empty_file, .act = write_errno,
		.unchanged = written_none, .done = written_all,
		.never_fails = never_fails,
	};

	f->first = first;
	f->allocated = npages;
	sweep(&op, f);
}

static int map_errno(void *arg)
{
	struct file *f = arg;

	f->part = mmap(NULL, BYTES(FEW), PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	return f->part == MAP_FAILED ? errno : 0;
}

static void part_is_mapped(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT(pages_are_filled(f->part, FEW), "Not the file");
}

static void unmap_part(void *arg)
{
	struct file *f = arg;

	TEST_ASSERT(!munmap(f->part, BYTES(FEW)), "munmap(), errno: %d", errno);
}

static void empty_unmapped(void *arg)
{
	struct file *f = arg;

	empty_file(arg);
	munmap(f->mem, BYTES(f->npages));
	f->mem = gmem_map(f->fd, BYTES(f->npages), 0);
}

static void full_unmapped(void *arg)
{
	struct file *f = arg;

	fill_file(arg);
	munmap(f->mem, BYTES(f->npages));
	f->mem = gmem_map(f->fd, BYTES(f->npages), 0);
}

/* 6.1 takes such a fault again, until there is memory. */
static int touch_page(void *arg)
{
	struct file *f = arg;

	return touch(f->mem + BYTES(f->first), -1);
}

static void touched_empty(void *arg)
{
	struct file *f = arg;
	uint64_t nr = gmem_allocated_pages(f->fd);

	TEST_ASSERT(nr == 1 || nr == f->npages, "%lu pages", nr);
	TEST_ASSERT(pages_are_zero(f->mem, f->npages), "Not zeroes");
}

static int policy_of(void *addr)
{
	unsigned long nodes[16] = {};
	int mode;

	TEST_ASSERT(!syscall(SYS_get_mempolicy, &mode, nodes, 1024UL, addr, MPOL_F_ADDR),
		    "get_mempolicy(), errno: %d", errno);
	TEST_ASSERT_EQ(nodes[0], mode == MPOL_DEFAULT ? 0 : 1);
	return mode;
}

static int bind_policy(struct file *f, uint64_t first, uint64_t npages, int mode)
{
	unsigned long nodes = 1;

	return errno_of(syscall(SYS_mbind, f->mem + BYTES(first), BYTES(npages), mode,
				&nodes, mode == MPOL_DEFAULT ? 1UL : 64UL, 0));
}

static int mbind_errno(void *arg)
{
	struct file *f = arg;

	return bind_policy(f, 10, 20, MPOL_BIND);
}

static void expect_policy(struct file *f, int middle)
{
	static const uint64_t pages[] = { 0, 9, 10, 29, 30, 49 };
	uint64_t i;

	for (i = 0; i < ARRAY_SIZE(pages); i++)
		TEST_ASSERT_EQ(policy_of(f->mem + BYTES(pages[i])),
			       pages[i] >= 10 && pages[i] < 30 ? middle : MPOL_PREFERRED);
	TEST_ASSERT_EQ(policy_of(f->mem + BYTES(50)), MPOL_DEFAULT);
}

static void policy_unchanged(void *arg)
{
	expect_policy(arg, MPOL_PREFERRED);
}

static void policy_bound(void *arg)
{
	expect_policy(arg, MPOL_BIND);
}

/* Split by the one that is going to be in its middle. */
static void mbind_begin(void *arg)
{
	struct file *f = arg;

	empty_unmapped(arg);
	TEST_ASSERT_EQ(bind_policy(f, 0, f->npages, MPOL_DEFAULT), 0);
	TEST_ASSERT_EQ(bind_policy(f, 0, 50, MPOL_PREFERRED), 0);
	policy_unchanged(arg);
}

FIXTURE(file) {
	struct file f;
};

FIXTURE_VARIANT(file) {
	uint64_t npages;
};

FIXTURE_VARIANT_ADD(file, small)
{
	.npages = SOME,
};

FIXTURE_VARIANT_ADD(file, large)
{
	.npages = LARGE,
};

/* A default VM, where all of it may be touched. */
FIXTURE_SETUP(file)
{
	struct file *f = &self->f;

	f->npages = variant->npages;
	f->vm = vm_create_barebones();
	f->fd = vm_create_guest_memfd(f->vm, BYTES(f->npages),
				      FLAG_MMAP | FLAG_SHARED | FLAG_WRITE);
	f->mem = gmem_map(f->fd, BYTES(f->npages), 0);
	vm_bind_gmem(f->vm, SLOT, GPA, BYTES(f->npages), f->fd, 0);
	f->source = anonymous_pages(BYTES(f->npages));
	fill_pages(f->source, f->npages);
}

FIXTURE_TEARDOWN(file)
{
	struct file *f = &self->f;

	munmap(f->source, BYTES(f->npages));
	munmap(f->mem, BYTES(f->npages));
	close(f->fd);
	kvm_vm_free(f->vm);
	EXPECT_EQ(0, nr_own_vms());
}

TEST_F(file, fallocate)
{
	if (variant->npages < LARGE) {
		sweep_allocate(&self->f, "fallocate(), a page", 3, 1, false);
		/* Past what is in one node. */
		sweep_allocate(&self->f, "fallocate(), pages", 56, FEW, false);
		return;
	}
	REQUIRE_LARGE_PAGES();
	sweep_allocate(&self->f, "fallocate(), 2 MiB", 0, LARGE, true);
}

TEST_F(file, hole)
{
	if (variant->npages < LARGE) {
		sweep_punch(&self->f, "hole in pages", 56, FEW, true);
		return;
	}
	REQUIRE_LARGE_PAGES();
	sweep_punch(&self->f, "hole, 2 MiB", 0, LARGE, true);
	/* To split the folio takes memory; it tries more than once. */
	sweep_punch(&self->f, "hole in 2 MiB", 100, FEW, true);
}

TEST_F(file, write)
{
	if (variant->npages < LARGE) {
		sweep_write(&self->f, "write(), a page", 3, 1, false);
		sweep_write(&self->f, "write(), pages", 56, FEW, false);
		return;
	}
	REQUIRE_LARGE_PAGES();
	sweep_write(&self->f, "write(), 2 MiB", 0, LARGE, true);
}

TEST_F(file, mmap)
{
	static const struct sweep map_op = {
		.name = "mmap()", .begin = fill_file, .act = map_errno,
		.unchanged = file_is_full, .done = part_is_mapped, .end = unmap_part,
	};
	static const struct sweep touch_op = {
		.name = "touch in user space", .begin = empty_unmapped,
		.act = touch_page, .done = touched_empty, .never_fails = true,
		.waits = true,
	};
	static const struct sweep map_page_op = {
		.name = "touch in user space of what is there", .begin = full_unmapped,
		.act = touch_page, .done = file_is_full, .never_fails = true,
		.waits = true,
	};

	if (variant->npages == LARGE)
		REQUIRE_LARGE_PAGES();
	self->f.first = 7;
	sweep(&map_op, &self->f);
	sweep(&touch_op, &self->f);
	sweep(&map_page_op, &self->f);
}

TEST_F(file, mbind)
{
	static const struct sweep op = {
		.name = "mbind()", .begin = mbind_begin, .act = mbind_errno,
		.unchanged = policy_unchanged, .done = policy_bound,
	};
	unsigned long nodes;
	int mode;

	if (syscall(SYS_get_mempolicy, &mode, &nodes, 64UL, NULL, 0UL))
		SKIP(return, "no NUMA policies");
	if (variant->npages == LARGE)
		SKIP(return, "makes no difference");
	sweep(&op, &self->f);
}

/*
 * vCPUs.  No paging; the code is in the memory that the test is about.
 */

#define CODE		0x1000
#define DATA		0x4000
#define PORT		0x10

static const uint8_t tiny_code[] = {
	0xc6, 0x06, DATA & 0xff, DATA >> 8, 0x5a,	/* movb $0x5a, DATA */
	0xf4,						/* hlt */
	0xa0, DATA & 0xff, DATA >> 8,			/* movb DATA, %al */
	0xe6, PORT,					/* outb %al, $PORT */
};

struct tiny {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	/* The back end, if there is one. */
	bool soft;
	int dev;
	void *alias;
	void *code;
	struct kvm_pre_fault_memory range;
	struct kvm_memory_mapping mapping;
	struct kvm_gmem_soft_populate populate;
	bool private;
};

/* Without a vCPU, if there is a back end. */
static void tiny_vm(struct tiny *t)
{
	t->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	t->fd = vm_create_guest_memfd(t->vm, BYTES(FEW), t->soft ? 0 : FLAG_WRITE);
	vm_set_user_memory_region2(t->vm, SLOT, KVM_MEM_GUEST_MEMFD, 0, BYTES(FEW),
				   t->alias, t->fd, 0);
	if (t->private)
		vm_mem_set_private(t->vm, 0, BYTES(FEW));
	if (t->soft) {
		t->dev = open(SOFT_DEVICE, O_RDWR);
		TEST_ASSERT(t->dev >= 0, SOFT_DEVICE ", errno: %d", errno);
	}
}

static void tiny_start(struct tiny *t)
{
	struct kvm_regs regs;

	vcpu_regs_get(t->vcpu, &regs);
	regs.rip = CODE;
	vcpu_regs_set(t->vcpu, &regs);
}

static void tiny_vcpu(struct tiny *t)
{
	struct kvm_sregs sregs;

	t->vcpu = __vm_vcpu_add(t->vm, 0);
	vcpu_sregs_get(t->vcpu, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	vcpu_sregs_set(t->vcpu, &sregs);
	tiny_start(t);
	/* Mapped, as no fault of the host is the matter here. */
	READ_ONCE(t->vcpu->run->exit_reason);
}

static void tiny_load(struct tiny *t)
{
	TEST_ASSERT_EQ(pwrite(t->fd, t->code, BYTES(CODE / PAGE_SIZE + 1), 0),
		       BYTES(CODE / PAGE_SIZE + 1));
}

static struct kvm_gmem_soft_status soft_status(struct tiny *t)
{
	struct kvm_gmem_soft_status status;

	TEST_ASSERT(!ioctl(t->dev, KVM_GMEM_SOFT_STATUS, &status), "errno %d", errno);
	TEST_ASSERT_EQ(status.violations, 0);
	return status;
}

static int soft_attach_errno(void *arg)
{
	struct tiny *t = arg;
	struct kvm_gmem_soft_attach args = { .vm_fd = t->vm->fd };

	return errno_of(ioctl(t->dev, KVM_GMEM_SOFT_ATTACH, &args));
}

static int soft_populate_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(ioctl(t->dev, KVM_GMEM_SOFT_POPULATE, &t->populate));
}

static void soft_begin(void *arg)
{
	struct tiny *t = arg;

	tiny_vm(t);
	t->populate = (struct kvm_gmem_soft_populate) {
		.size = BYTES(FEW / 2),
		.source = (uintptr_t)t->code,
	};
}

static void soft_begin_attached(void *arg)
{
	soft_begin(arg);
	TEST_ASSERT_EQ(soft_attach_errno(arg), 0);
}

static void tiny_begin(void *arg)
{
	struct tiny *t = arg;

	if (t->soft) {
		soft_begin_attached(t);
		TEST_ASSERT_EQ(soft_populate_errno(t), 0);
		TEST_ASSERT(!ioctl(t->dev, KVM_GMEM_SOFT_FINALISE), "errno %d", errno);
	} else {
		tiny_vm(t);
		tiny_load(t);
	}
	tiny_vcpu(t);
	t->range = (struct kvm_pre_fault_memory) { .size = BYTES(FEW) };
	t->mapping = (struct kvm_memory_mapping) { .size = BYTES(FEW) };
}

static void tiny_end(void *arg)
{
	struct tiny *t = arg;

	if (t->soft)
		close(t->dev);
	close(t->fd);
	kvm_vm_free(t->vm);
	TEST_ASSERT_EQ(nr_own_vms(), 0);
}

/* A new root for the MMU, and nothing in the file. */
static void tiny_again(void *arg)
{
	struct tiny *t = arg;

	vm_delete_slot(t->vm, SLOT);
	gmem_punch_hole(t->fd, 0, BYTES(FEW));
	madvise(t->alias, BYTES(FEW), MADV_DONTNEED);
	vm_set_user_memory_region2(t->vm, SLOT, KVM_MEM_GUEST_MEMFD, 0, BYTES(FEW),
				   t->alias, t->fd, 0);
	t->range = (struct kvm_pre_fault_memory) { .size = BYTES(FEW) };
	t->mapping = (struct kvm_memory_mapping) { .size = BYTES(FEW) };
	if (t->soft)
		TEST_ASSERT_EQ(soft_status(t).owned, 0);
}

static void tiny_run_again(void *arg)
{
	tiny_again(arg);
	tiny_load(arg);
	tiny_start(arg);
}

static int run_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(__vcpu_run(t->vcpu));
}

/* No page but the ones that it has touched. */
static void tiny_unchanged(void *arg)
{
	struct tiny *t = arg;
	uint64_t nr = gmem_allocated_pages(t->fd);

	TEST_ASSERT(nr == 2 || nr == 3, "%lu pages", nr);
}

/* It has got to the next instruction, not further, and what it wrote is there. */
static void tiny_has_run(void *arg)
{
	struct tiny *t = arg;
	struct kvm_run *run = t->vcpu->run;

	TEST_ASSERT(run->exit_reason == KVM_EXIT_HLT, "Exit %u (%s)", run->exit_reason,
		    exit_reason_str(run->exit_reason));
	if (!t->soft)
		TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), 3);
	TEST_ASSERT_EQ(run_errno(t), 0);
	TEST_ASSERT(run->exit_reason == KVM_EXIT_IO && run->io.port == PORT,
		    "Exit %u (%s)", run->exit_reason, exit_reason_str(run->exit_reason));
	TEST_ASSERT_EQ(*((uint8_t *)run + run->io.data_offset), 0x5a);
}

static int pre_fault_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(ioctl(t->vcpu->fd, KVM_PRE_FAULT_MEMORY, &t->range));
}

static void mapped_none(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT(!t->range.gpa && t->range.size == BYTES(FEW), "gpa %#llx size %#llx",
		    t->range.gpa, t->range.size);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), 0);
}

static void mapped_all(void *arg)
{
	struct tiny *t = arg;

	/* It is no error to have mapped a part. */
	TEST_ASSERT_EQ(t->range.gpa + t->range.size, BYTES(FEW));
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), t->range.gpa / PAGE_SIZE);
	if (t->range.size)
		TEST_ASSERT_EQ(pre_fault_errno(arg), 0);
	TEST_ASSERT_EQ(t->range.size, 0);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), FEW);
	if (t->private)
		TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), FEW);
}

static int map_memory_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(ioctl(t->vcpu->fd, KVM_MAP_MEMORY, &t->mapping));
}

/* It is an error, and the part is told. */
static void mapped_part(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT(t->mapping.size &&
		    t->mapping.base_address + t->mapping.size == BYTES(FEW),
		    "base %#llx size %#llx", t->mapping.base_address, t->mapping.size);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"),
		       t->mapping.base_address / PAGE_SIZE);
}

static void mapped_whole(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT_EQ(t->mapping.size, 0);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), FEW);
	if (t->private)
		TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), FEW);
}

/* Writable pages of its own are what mapping ahead of the guest promises. */
static void mapped_alias(void *arg)
{
	struct tiny *t = arg;
	uint64_t i;

	mapped_all(arg);
	TEST_ASSERT_EQ(smaps_kb(t->alias, "Private_Dirty:"), BYTES(FEW) / 1024);
	for (i = 0; i < FEW; i++)
		*word_of(t->alias, i) = 1;
	/* Else that would have taken it out of the guest. */
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), FEW);
}

FIXTURE(tiny) {
	struct tiny t;
};

FIXTURE_SETUP(tiny)
{
	struct tiny *t = &self->t;

	t->private = true;
	t->alias = anonymous_pages(BYTES(FEW));
	t->code = anonymous_pages(BYTES(FEW));
	memset(t->code, CANARY, BYTES(FEW));
	memcpy(t->code + CODE, tiny_code, sizeof(tiny_code));
}

FIXTURE_TEARDOWN(tiny)
{
	munmap(self->t.alias, BYTES(FEW));
	munmap(self->t.code, BYTES(FEW));
}

TEST_F(tiny, run)
{
	static const struct sweep op = {
		.name = "KVM_RUN", .begin = tiny_run_again, .act = run_errno,
		.unchanged = tiny_unchanged, .done = tiny_has_run,
	};
	/* A VM for each try, as a vCPU keeps much of what it has allocated. */
	static const struct sweep first_op = {
		.name = "KVM_RUN, the first", .begin = tiny_begin, .act = run_errno,
		.unchanged = tiny_unchanged, .done = tiny_has_run, .end = tiny_end,
		.dense = 20,
	};

	tiny_begin(&self->t);
	sweep(&op, &self->t);
	tiny_end(&self->t);
	sweep(&first_op, &self->t);
}

TEST_F(tiny, pre_fault)
{
	static const struct sweep op = {
		.name = "KVM_PRE_FAULT_MEMORY", .begin = tiny_again,
		.act = pre_fault_errno, .unchanged = mapped_none, .done = mapped_all,
	};

	tiny_begin(&self->t);
	sweep(&op, &self->t);
	tiny_end(&self->t);
}

TEST_F(tiny, pre_fault_shared)
{
	static const struct sweep op = {
		.name = "KVM_PRE_FAULT_MEMORY, shared", .begin = tiny_again,
		.act = pre_fault_errno, .unchanged = mapped_none, .done = mapped_alias,
		/* KVM asks for a page of the alias twice, and then to read it only. */
		.never_fails = true,
	};

	self->t.private = false;
	/* One by one. */
	madvise(self->t.alias, BYTES(FEW), MADV_NOHUGEPAGE);
	tiny_begin(&self->t);
	sweep(&op, &self->t);
	tiny_end(&self->t);
}

TEST_F(tiny, map_memory)
{
	static const struct sweep op = {
		.name = "KVM_MAP_MEMORY", .begin = tiny_again, .act = map_memory_errno,
		.unchanged = mapped_part, .done = mapped_whole,
	};

	tiny_begin(&self->t);
	sweep(&op, &self->t);
	tiny_end(&self->t);
}

/*
 * The back end.
 */

static void soft_not_attached(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT_EQ(errno_of(ioctl(t->dev, KVM_GMEM_SOFT_FINALISE)), EINVAL);
}

static void soft_attached(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT_EQ(soft_status(t).finalised, 0);
	TEST_ASSERT_EQ(soft_attach_errno(arg), EBUSY);
}

static void soft_end(void *arg)
{
	struct tiny *t = arg;

	close(t->dev);
	close(t->fd);
	kvm_vm_free(t->vm);
	TEST_ASSERT_EQ(nr_own_vms(), 0);
}

static uint8_t undisturbed_digest[32];

static void populated_none(void *arg)
{
	struct tiny *t = arg;
	struct kvm_gmem_soft_status status = soft_status(t);

	TEST_ASSERT_EQ(t->populate.gpa, 0);
	TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), 0);
	TEST_ASSERT_EQ(status.populated, 0);
	TEST_ASSERT_EQ(status.owned, 0);
}

/* The same contents are measured, in the same order. */
static void populated_all(void *arg)
{
	struct tiny *t = arg;
	struct kvm_gmem_soft_status status = soft_status(t);
	uint64_t some = t->populate.gpa / PAGE_SIZE;

	TEST_ASSERT_EQ(status.populated, some);
	TEST_ASSERT_EQ(status.owned, some);
	TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), some);
	if (t->populate.size)
		TEST_ASSERT_EQ(soft_populate_errno(arg), 0);
	TEST_ASSERT_EQ(t->populate.size, 0);
	status = soft_status(t);
	TEST_ASSERT_EQ(status.populated, FEW / 2);
	TEST_ASSERT_EQ(status.owned, FEW / 2);
	TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), FEW / 2);
	TEST_ASSERT(!memcmp(status.digest, undisturbed_digest, sizeof(status.digest)),
		    "Another measurement");
}

/* As many pages are the guest's as it has, none is twice. */
static void soft_mapped_all(void *arg)
{
	struct tiny *t = arg;

	mapped_all(arg);
	TEST_ASSERT_EQ(soft_status(t).owned, FEW);
}

TEST_F(tiny, back_end)
{
	static const struct sweep attach_op = {
		.name = "attach a back end", .begin = soft_begin,
		.act = soft_attach_errno, .unchanged = soft_not_attached,
		.done = soft_attached, .end = soft_end,
	};
	static const struct sweep populate_op = {
		.name = "populate", .begin = soft_begin_attached,
		.act = soft_populate_errno, .unchanged = populated_none,
		.done = populated_all, .end = soft_end,
	};
	static const struct sweep pre_fault_op = {
		.name = "KVM_PRE_FAULT_MEMORY, back end", .begin = tiny_again,
		.act = pre_fault_errno, .unchanged = mapped_none,
		.done = soft_mapped_all,
	};
	struct tiny *t = &self->t;

	if (access(SOFT_DEVICE, R_OK | W_OK))
		SKIP(return, "no " SOFT_DEVICE);
	t->soft = true;
	sweep(&attach_op, t);

	soft_begin_attached(t);
	TEST_ASSERT_EQ(soft_populate_errno(t), 0);
	memcpy(undisturbed_digest, soft_status(t).digest, sizeof(undisturbed_digest));
	soft_end(t);
	sweep(&populate_op, t);

	tiny_begin(t);
	sweep(&pre_fault_op, t);
	tiny_end(t);
}

/*
 * A guest that has 2 MiB mapped by one entry.
 */

static int share_one_errno(void *arg)
{
	struct large *l = arg;

	return errno_of(__vm_set_memory_attributes(l->env.vm, PAGE_GPA(17), BYTES(1), 0));
}

static void all_private(void *arg)
{
	struct large *l = arg;

	guest_checks(l, 0, LARGE, GUEST_VALUE);
	expect_mapped(l, 1, 0);
}

static void one_shared(void *arg)
{
	struct large *l = arg;

	guest_checks(l, 0, 17, GUEST_VALUE);
	guest_checks(l, 17, 1, HOST_VALUE);
	guest_checks(l, 18, LARGE - 18, GUEST_VALUE);
	expect_mapped(l, 0, LARGE);
}

static void map_all_again(void *arg)
{
	struct large *l = arg;

	vm_mem_set_private(l->env.vm, GPA, LARGE_SIZE);
	gmem_punch_hole(l->env.fd, 0, LARGE_SIZE);
	guest_writes(l, 0, LARGE, GUEST_VALUE);
	all_private(arg);
}

static int punch_one_errno(void *arg)
{
	struct large *l = arg;

	return errno_of(__gmem_punch_hole(l->env.fd, BYTES(17), BYTES(1)));
}

static void one_punched(void *arg)
{
	struct large *l = arg;

	TEST_ASSERT_EQ(allocated(l), LARGE - 1);
	guest_checks(l, 0, 17, GUEST_VALUE);
	guest_checks(l, 17, 1, 0);
	guest_checks(l, 18, LARGE - 18, GUEST_VALUE);
}

FIXTURE(mapped) {
	struct large l;
};

FIXTURE_SETUP(mapped)
{
	large_setup(&self->l, KVM_X86_SW_PROTECTED_VM, 0, LARGE);
	bind_at(&self->l, 0, LARGE, 0);
	*word_of(self->l.alias, 17) = WORD(HOST_VALUE, 17);
}

FIXTURE_TEARDOWN(mapped)
{
	large_teardown(&self->l);
	EXPECT_EQ(0, nr_own_vms());
}

TEST_F(mapped, share_a_page)
{
	static const struct sweep op = {
		.name = "share a page of 2 MiB that is mapped", .begin = map_all_again,
		.act = share_one_errno, .unchanged = all_private, .done = one_shared,
	};

	REQUIRE_LARGE_PAGES();
	sweep(&op, &self->l);
}

TEST_F(mapped, punch_a_page)
{
	static const struct sweep op = {
		.name = "hole in 2 MiB that is mapped", .begin = map_all_again,
		.act = punch_one_errno, .unchanged = all_private, .done = one_punched,
		.never_fails = true,
	};

	REQUIRE_LARGE_PAGES();
	sweep(&op, &self->l);
}

/*
 * Nothing is left.
 */

static uint64_t number_in(const char *path, const char *name)
{
	unsigned long long value;
	char item[64];
	FILE *file = fopen(path, "r");

	TEST_ASSERT(file, "%s, errno: %d", path, errno);
	while (fscanf(file, "%63s %llu", item, &value) == 2) {
		if (!strcmp(item, name)) {
			fclose(file);
			return value;
		}
	}
	TEST_FAIL("No %s in %s", name, path);
	return 0;
}

#define nr_page_tables()	number_in("/proc/vmstat", "nr_sec_page_table_pages")
#define nr_dying()		number_in(CGROUP2 "/cgroup.stat", "nr_dying_descendants")

static int nr_args;
static char **args;

static void run_tests(void)
{
	exit(large_main(nr_args, args));
}

/* A page that is charged to a group keeps it from going away. */
static bool leaves_nothing(int *status)
{
	uint64_t page_tables, groups;
	int i;

	page_tables = nr_page_tables();
	groups = nr_dying();
	TEST_ASSERT(!mkdir(GROUP, 0755), "mkdir(), errno: %d", errno);
	*status = in_group(run_tests);
	TEST_ASSERT(!rmdir(GROUP), "rmdir(), errno: %d", errno);

	/* It takes some grace periods. */
	for (i = 0; i < 100; i++) {
		if (nr_dying() == groups && nr_page_tables() == page_tables)
			return true;
		usleep(100000);
	}
	printf("# left: %lu groups, %lu pages for page tables\n", nr_dying() - groups,
	       nr_page_tables() - page_tables);
	return false;
}

int main(int argc, char *argv[])
{
	bool clean;
	int status;

	TEST_REQUIRE(kvm_has_private_vms());
	__TEST_REQUIRE(can_fail_nth(),
		       "the kernel has no fault injection: FAILSLAB, FAIL_PAGE_ALLOC, debugfs");

	nr_args = argc;
	args = argv;
	allow_failures();
	if (!mount_cgroup2()) {
		atexit(forbid_failures);
		return large_main(argc, argv);
	}
	clean = leaves_nothing(&status);
	umount_cgroup2();
	forbid_failures();
	if (!WIFEXITED(status))
		return 1;
	return WEXITSTATUS(status) ? : !clean;
}
