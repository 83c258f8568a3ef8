// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation of what a VM is made of fails in turn: VMs and files, memslots,
 * memory attributes.  The operation then either works as if nothing had been, or
 * returns ENOMEM and has changed nothing, and works when it is tried again.
 *
 * Bugs that others had and that show here: a slot, a binding or a descriptor that
 * stays taken after an error; a range that is half converted; a warning because an
 * allocation "cannot fail".
 *
 * guest_memfd_failnth_file_test has the operations on a file's pages,
 * guest_memfd_failnth_guest_test those on a guest.
 */
#include "gmem_failnth_run.h"

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

int main(int argc, char *argv[])
{
	return failnth_main(argc, argv);
}
