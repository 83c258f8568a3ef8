// SPDX-License-Identifier: GPL-2.0
/*
 * What operators see of guest memory: /proc/PID/fdinfo of a file, the attributes of a
 * VM in debugfs, statistics and trace events.  Each is compared with what was done.
 *
 * Bugs that it would find: pages that are counted twice after a split, or as private
 * when they are not or are gone, a memslot that is listed once for each block of the
 * bindings, a dump that loses ranges where its buffer ends, and looking that keeps a
 * folio from being split.
 */
#include "gmem_large.h"
#include "gmem_trace.h"

#include <pthread.h>

#define NR_RANGES	3000UL

FIXTURE(show) {
	struct large large;
	char text[4096];
};

FIXTURE_SETUP(show)
{
	large_setup(&self->large, KVM_X86_SW_PROTECTED_VM, FLAG_WRITE, ALL);
}

FIXTURE_TEARDOWN(show)
{
	large_teardown(&self->large);
}

/* fdinfo. */

static void read_fdinfo(int fd, char *text, size_t size)
{
	char path[64];
	ssize_t n;
	int info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY);
	TEST_ASSERT(info >= 0, "%s, errno: %d", path, errno);
	n = read(info, text, size - 1);
	TEST_ASSERT(n > 0 && n < size - 1, "%s: %zd bytes, errno: %d", path, n, errno);
	text[n] = '\0';
	close(info);
}

static unsigned long long fdinfo(int fd, const char *key)
{
	char text[4096], *line;

	read_fdinfo(fd, text, sizeof(text));
	line = strstr(text, key);
	TEST_ASSERT(line && line[strlen(key)] == ':', "No %s in:\n%s", key, text);
	return strtoull(line + strlen(key) + 1, NULL, 0);
}

static void __expect_folios(struct large *l, unsigned long small, unsigned long large,
			    int line)
{
	unsigned long long seen_small = fdinfo(l->env.fd, "gmem-folios-4k");
	unsigned long long seen_large = fdinfo(l->env.fd, "gmem-folios-2m");

	TEST_ASSERT(seen_small == small && seen_large == large,
		    "Line %d: %llu pages and %llu large folios, not %lu and %lu",
		    line, seen_small, seen_large, small, large);
	TEST_ASSERT_EQ(fdinfo(l->env.fd, "gmem-allocated"), BYTES(small + LARGE * large));
}

#define expect_folios(l, small, large)	__expect_folios(l, small, large, __LINE__)

TEST_F(show, folios)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	ASSERT_EQ(BYTES(ALL), fdinfo(l->env.fd, "gmem-size"));
	ASSERT_EQ(FLAG_WRITE, fdinfo(l->env.fd, "gmem-flags"));
	ASSERT_EQ(getpid(), fdinfo(l->env.fd, "gmem-vm-pid"));
	expect_folios(l, 0, 0);

	gmem_allocate(l->env.fd, BYTES(LARGE), BYTES(LARGE));
	expect_folios(l, 0, 1);
	gmem_allocate(l->env.fd, 0, BYTES(ALL));
	expect_folios(l, 0, 3);

	/* One is split, and loses pages at its end and in its middle. */
	punch_pages(l, 2 * LARGE - 3, 3);
	expect_folios(l, LARGE - 3, 2);
	punch_pages(l, LARGE + 7, 5);
	expect_folios(l, LARGE - 8, 2);
	punch_pages(l, 0, LARGE);
	expect_folios(l, LARGE - 8, 1);
	punch_pages(l, 0, ALL);
	expect_folios(l, 0, 0);
}

/* A file whose end no large folio reaches. */
TEST_F(show, odd_size)
{
	int fd = vm_create_guest_memfd(self->large.env.vm, BYTES(LARGE + 37), 0);

	REQUIRE_LARGE_PAGES();
	gmem_allocate(fd, 0, BYTES(LARGE + 37));
	EXPECT_EQ(37, fdinfo(fd, "gmem-folios-4k"));
	EXPECT_EQ(1, fdinfo(fd, "gmem-folios-2m"));
	EXPECT_EQ(BYTES(LARGE + 37), fdinfo(fd, "gmem-allocated"));
	close(fd);
}

/* A file that has pages only. */
TEST_F(show, pages_only)
{
	int fd;

	set_max_order("0");
	fd = vm_create_guest_memfd(self->large.env.vm, BYTES(ALL), 0);
	gmem_allocate(fd, 0, BYTES(ALL));
	EXPECT_EQ(ALL, fdinfo(fd, "gmem-folios-4k"));
	EXPECT_EQ(0, fdinfo(fd, "gmem-folios-2m"));
	EXPECT_EQ(BYTES(ALL), fdinfo(fd, "gmem-allocated"));
	close(fd);
	set_max_order("9");
}

static unsigned int lines_with(const char *text, const char *word)
{
	unsigned int n = 0;

	while ((text = strstr(text, word))) {
		n++;
		text += strlen(word);
	}
	return n;
}

TEST_F(show, bindings)
{
	struct large *l = &self->large;
	struct kvm_vm *vm = l->env.vm;
	char *text = self->text, want[160];
	/* Not aligned, so that each is several blocks in the file's bindings. */
	static const uint64_t npages[] = { 77, 301 };

	read_fdinfo(l->env.fd, text, sizeof(self->text));
	ASSERT_EQ(0, lines_with(text, "gmem-binding:"));
	/* Which VM of this process, where debugfs tells. */
	if (!access("/sys/kernel/debug/kvm", R_OK)) {
		snprintf(want, sizeof(want), "gmem-vm-debugfs:\t%d-%d\n", getpid(), vm->fd);
		ASSERT_EQ(1, lines_with(text, want)) { TH_LOG("%s not in\n%s", want, text); }
	}

	vm_bind_gmem(vm, SLOT, GPA, BYTES(npages[0]), l->env.fd, BYTES(5));
	vm_bind_gmem(vm, SLOT + 1, PAGE_GPA(1000), BYTES(npages[1]), l->env.fd, BYTES(700));
	read_fdinfo(l->env.fd, text, sizeof(self->text));
	ASSERT_EQ(2, lines_with(text, "gmem-binding:"));
	snprintf(want, sizeof(want),
		 "gmem-binding:\tslot %u as 0 gpa %#llx size %#llx offset %#llx\n", SLOT,
		 (unsigned long long)GPA, (unsigned long long)BYTES(npages[0]),
		 (unsigned long long)BYTES(5));
	ASSERT_EQ(1, lines_with(text, want)) { TH_LOG("%s not in\n%s", want, text); }
	snprintf(want, sizeof(want),
		 "gmem-binding:\tslot %u as 0 gpa %#llx size %#llx offset %#llx\n",
		 SLOT + 1, (unsigned long long)PAGE_GPA(1000),
		 (unsigned long long)BYTES(npages[1]), (unsigned long long)BYTES(700));
	ASSERT_EQ(1, lines_with(text, want)) { TH_LOG("%s not in\n%s", want, text); }

	vm_delete_slot(vm, SLOT);
	read_fdinfo(l->env.fd, text, sizeof(self->text));
	ASSERT_EQ(1, lines_with(text, "gmem-binding:"));
	ASSERT_EQ(1, lines_with(text, want));
	vm_delete_slot(vm, SLOT + 1);
	read_fdinfo(l->env.fd, text, sizeof(self->text));
	ASSERT_EQ(0, lines_with(text, "gmem-binding:"));
}

static int stop;

static void *look(void *fd)
{
	char text[4096];

	while (!READ_ONCE(stop))
		read_fdinfo(*(int *)fd, text, sizeof(text));
	return NULL;
}

/* Whoever looks holds nothing: a folio can be split at any time. */
TEST_F(show, splits_meanwhile)
{
	struct large *l = &self->large;
	pthread_t thread;
	int i;

	REQUIRE_LARGE_PAGES();
	stop = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, look, &l->env.fd));
	for (i = 0; i < RACES; i++) {
		gmem_allocate(l->env.fd, 0, BYTES(ALL));
		vm_bind_gmem(l->env.vm, SLOT, GPA, BYTES(ALL), l->env.fd, 0);
		punch_pages(l, LARGE + 100, 1);
		vm_delete_slot(l->env.vm, SLOT);
		punch_pages(l, 0, ALL);
	}
	WRITE_ONCE(stop, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, gmem_counter(l->env.vm, "gmem_split_fail"));
	EXPECT_EQ(RACES, gmem_counter(l->env.vm, "gmem_split"));
}

/* Attributes. */

static FILE *open_attributes(struct kvm_vm *vm)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/memory_attributes",
		 getpid(), vm->fd);
	return fopen(path, "r");
}

static bool next_range(FILE *file, uint64_t *start, uint64_t *last, char *what)
{
	return fscanf(file, "%lx-%lx %31s", start, last, what) == 3;
}

static void expect_range(FILE *file, uint64_t start, uint64_t end)
{
	uint64_t seen_start, seen_last;
	char what[32];

	TEST_ASSERT(next_range(file, &seen_start, &seen_last, what), "No %#lx", start);
	TEST_ASSERT(seen_start == start && seen_last == end - 1 && !strcmp(what, "private"),
		    "%#lx-%#lx %s, not %#lx-%#lx", seen_start, seen_last, what, start,
		    end - 1);
}

TEST_F(show, attributes)
{
	struct kvm_vm *vm = self->large.env.vm;
	FILE *file = open_attributes(vm);
	uint64_t start, last, i;
	char what[32];

	if (!file)
		SKIP(return, "no debugfs");
	ASSERT_FALSE(next_range(file, &start, &last, what));

	vm_mem_set_private(vm, GPA, BYTES(3));
	vm_mem_set_private(vm, GPA + BYTES(3), BYTES(2));
	vm_mem_set_private(vm, 1ULL << 40, 1ULL << 40);
	vm_mem_set_shared(vm, (1ULL << 40) + BYTES(9), BYTES(1));
	rewind(file);
	expect_range(file, GPA, GPA + BYTES(5));
	expect_range(file, 1ULL << 40, (1ULL << 40) + BYTES(9));
	expect_range(file, (1ULL << 40) + BYTES(10), 2ULL << 40);
	ASSERT_FALSE(next_range(file, &start, &last, what));

	/* The first and the last there can be, up to where an address ends. */
	vm_mem_set_shared(vm, 0, -(uint64_t)PAGE_SIZE);
	vm_mem_set_private(vm, 0, BYTES(1));
	vm_mem_set_private(vm, -(uint64_t)BYTES(3), BYTES(2));
	rewind(file);
	expect_range(file, 0, BYTES(1));
	expect_range(file, -(uint64_t)BYTES(3), -(uint64_t)BYTES(1));
	ASSERT_FALSE(next_range(file, &start, &last, what));

	/* More than a buffer holds. */
	vm_mem_set_shared(vm, 0, -(uint64_t)PAGE_SIZE);
	for (i = 0; i < NR_RANGES; i++)
		vm_mem_set_private(vm, PAGE_GPA(2 * i), BYTES(1));
	rewind(file);
	for (i = 0; i < NR_RANGES; i++)
		expect_range(file, PAGE_GPA(2 * i), PAGE_GPA(2 * i + 1));
	ASSERT_FALSE(next_range(file, &start, &last, what));
	fclose(file);
}

static void *convert(void *vm)
{
	uint64_t i;

	for (i = 0; i < 2000 && !READ_ONCE(stop); i++) {
		vm_mem_set_private(vm, PAGE_GPA(i % 64), BYTES(64));
		vm_mem_set_shared(vm, PAGE_GPA(i % 64), BYTES(64));
	}
	WRITE_ONCE(stop, 1);
	return NULL;
}

/* What is always so is always shown, whatever else changes. */
TEST_F(show, attributes_change_meanwhile)
{
	struct kvm_vm *vm = self->large.env.vm;
	FILE *file = open_attributes(vm);
	uint64_t start, last, previous;
	bool first, second;
	pthread_t thread;
	char what[32];

	if (!file)
		SKIP(return, "no debugfs");
	vm_mem_set_private(vm, 0, BYTES(1));
	vm_mem_set_private(vm, 1ULL << 40, BYTES(1));
	stop = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, convert, vm));
	do {
		rewind(file);
		first = false;
		second = false;
		previous = 0;
		while (next_range(file, &start, &last, what)) {
			ASSERT_TRUE(start < last && (!start || start > previous));
			ASSERT_STREQ("private", what);
			first |= !start && last == BYTES(1) - 1;
			second |= start == 1ULL << 40 && last == start + BYTES(1) - 1;
			previous = last;
		}
		ASSERT_TRUE(first && second);
	} while (!READ_ONCE(stop));
	pthread_join(thread, NULL);
	fclose(file);
}

/* Who looks at a VM keeps it. */
TEST_F(show, attributes_of_closed_vm)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	FILE *file = open_attributes(vm);

	if (!file)
		SKIP(return, "no debugfs");
	vm_mem_set_private(vm, GPA, BYTES(1));
	kvm_vm_free(vm);
	expect_range(file, GPA, GPA + BYTES(1));
	fclose(file);
}

/* Statistics. */

TEST_F(show, counters)
{
	struct large *l = &self->large;
	struct kvm_vm *vm = l->env.vm;

	ASSERT_EQ(0, gmem_counter(vm, "gmem_to_private"));
	ASSERT_EQ(0, gmem_counter(vm, "gmem_to_shared"));
	bind_at(l, 0, ALL, 0);
	ASSERT_EQ(1, gmem_counter(vm, "gmem_to_private"));
	/* Nothing changes, or nothing may. */
	vm_mem_set_private(vm, GPA, BYTES(ALL));
	ASSERT_EQ(EINVAL, errno_of(__vm_set_memory_attributes(vm, GPA + 1, BYTES(1), 0)));
	ASSERT_EQ(1, gmem_counter(vm, "gmem_to_private"));
	ASSERT_EQ(0, gmem_counter(vm, "gmem_to_shared"));
	vm_mem_set_shared(vm, GPA, BYTES(3));
	vm_mem_set_shared(vm, GPA, BYTES(4));
	ASSERT_EQ(1, gmem_counter(vm, "gmem_to_private"));
	ASSERT_EQ(2, gmem_counter(vm, "gmem_to_shared"));
	ASSERT_EQ(1, fdinfo(l->env.fd, "gmem-vm-to-private"));
	ASSERT_EQ(2, fdinfo(l->env.fd, "gmem-vm-to-shared"));

	/* The file is gone: each run is an exit. */
	ASSERT_EQ(0, vcpu_get_stat(l->env.vcpu, "memory_fault_exits"));
	close(l->env.fd);
	set_cmd(&l->env, OP_WRITE, 5, 1, 0);
	vcpu_run_memory_fault(l->env.vcpu, PAGE_GPA(5), KVM_MEMORY_EXIT_FLAG_PRIVATE);
	ASSERT_EQ(1, vcpu_get_stat(l->env.vcpu, "memory_fault_exits"));
	vcpu_run_memory_fault(l->env.vcpu, PAGE_GPA(5), KVM_MEMORY_EXIT_FLAG_PRIVATE);
	ASSERT_EQ(2, vcpu_get_stat(l->env.vcpu, "memory_fault_exits"));
	l->env.fd = vm_create_guest_memfd(vm, BYTES(1), 0);
}

static void __expect_private(struct kvm_vm *vm, uint64_t large, uint64_t small, int line)
{
	uint64_t seen_large = gmem_counter(vm, "private_pages_2m");
	uint64_t seen_small = gmem_counter(vm, "private_pages_4k");

	TEST_ASSERT(seen_large == large && seen_small == small,
		    "Line %d: %lu large and %lu small private pages are mapped, not %lu and %lu",
		    line, seen_large, seen_small, large, small);
	TEST_ASSERT_EQ(gmem_counter(vm, "private_pages_1g"), 0);
}

#define expect_private(l, large, small)						\
	__expect_private((l)->env.vm, large, small, __LINE__)

/* Each way in which mappings come, change their size and go. */
TEST_F(show, private_pages)
{
	struct large *l = &self->large;
	struct kvm_vm *vm = l->env.vm;

	REQUIRE_LARGE_PAGES();
	expect_private(l, 0, 0);
	bind_at(l, 0, ALL, 0);
	expect_private(l, 0, 0);
	guest_writes(l, 0, ALL, GUEST_VALUE);
	expect_mapped(l, 3, 0);
	expect_private(l, 3, 0);

	/* A shared page among them. */
	vm_mem_set_shared(vm, PAGE_GPA(7), BYTES(1));
	expect_private(l, 2, 0);
	guest_writes(l, 7, 1, HOST_VALUE);
	expect_mapped(l, 2, 1);
	expect_private(l, 2, 0);
	guest_checks(l, 0, 7, GUEST_VALUE);
	guest_checks(l, 8, LARGE - 8, GUEST_VALUE);
	expect_mapped(l, 2, LARGE);
	expect_private(l, 2, LARGE - 1);
	vm_mem_set_private(vm, PAGE_GPA(7), BYTES(1));
	expect_mapped(l, 2, LARGE - 1);
	expect_private(l, 2, LARGE - 1);

	/* A mapping of 2 MiB takes the place of a table of small ones. */
	vcpu_pre_fault(l->env.vcpu, GPA, LARGE_SIZE);
	expect_mapped(l, 3, 0);
	expect_private(l, 3, 0);

	/* A hole, a conversion, a slot that goes. */
	punch_pages(l, LARGE + 5, 1);
	expect_private(l, 2, 0);
	guest_checks(l, LARGE, 5, GUEST_VALUE);
	expect_private(l, 2, 5);
	vm_mem_set_shared(vm, PAGE_GPA(LARGE), LARGE_SIZE);
	expect_private(l, 2, 0);
	vm_delete_slot(vm, SLOT);
	expect_private(l, 0, 0);
}

/* What is shared of the same file is none of it. */
TEST_F(show, private_pages_in_place)
{
	struct large *l = &self->large;

	REQUIRE_LARGE_PAGES();
	large_teardown(l);
	large_setup(l, KVM_X86_SW_PROTECTED_VM, FLAG_MMAP, ALL);
	bind_at(l, 0, ALL, 0);
	vm_mem_set_shared(l->env.vm, PAGE_GPA(LARGE), 2 * LARGE_SIZE);
	guest_writes(l, 0, ALL, GUEST_VALUE);
	expect_mapped(l, 3, 0);
	expect_private(l, 1, 0);
	vm_mem_set_private(l->env.vm, PAGE_GPA(LARGE), LARGE_SIZE);
	expect_private(l, 1, 0);
	guest_checks(l, 0, ALL, GUEST_VALUE);
	expect_mapped(l, 3, 0);
	expect_private(l, 2, 0);
	vm_mem_set_shared(l->env.vm, GPA, BYTES(ALL));
	expect_private(l, 0, 0);
	guest_checks(l, 0, ALL, GUEST_VALUE);
	expect_mapped(l, 3, 0);
	expect_private(l, 0, 0);
}

/* Trace events. */

TEST_F(show, events)
{
	struct large *l = &self->large;
	struct kvm_vm *vm = l->env.vm;
	uint64_t ino, gfn = GPA / PAGE_SIZE;
	int fd;

	if (!gmem_trace_start())
		SKIP(return, "no tracing");

	fd = vm_create_guest_memfd(vm, BYTES(20), FLAG_WRITE);
	ino = gmem_inode_number(fd);
	EXPECT_TRUE(gmem_traced("kvm_gmem_create: ino %lu size %#llx flags %#lx", ino,
				BYTES(20), (unsigned long)FLAG_WRITE));
	vm_bind_gmem(vm, SLOT, GPA, BYTES(10), fd, BYTES(7));
	EXPECT_TRUE(gmem_traced("kvm_gmem_bind: ino %lu slot %u gfn %#lx npages 0xa index 0x7",
				ino, SLOT, gfn));
	vm_mem_set_private(vm, GPA, BYTES(10));
	EXPECT_TRUE(gmem_traced("kvm_gmem_convert: gfn %#lx to %#lx attributes 0x8 err 0", gfn,
				gfn + 10));
	guest_do(&l->env, OP_WRITE, 3, 1, 0);
	EXPECT_TRUE(gmem_traced("kvm_gmem_fault: vcpu 0 gfn %#lx pfn 0x", gfn + 3));
	EXPECT_TRUE(gmem_traced("order 0 private err 0"));
	gmem_punch_hole(fd, BYTES(8), BYTES(4));
	EXPECT_TRUE(gmem_traced("kvm_gmem_punch: ino %lu index 0x8 to 0xc err 0", ino));
	vm_delete_slot(vm, SLOT);
	EXPECT_TRUE(gmem_traced("kvm_gmem_unbind: ino %lu slot %u gfn %#lx npages 0xa index 0x7",
				ino, SLOT, gfn));

	/* The last close unbinds, once, though the range is several blocks. */
	vm_bind_gmem(vm, SLOT + 1, GPA, BYTES(7), fd, BYTES(1));
	close(fd);
	EXPECT_TRUE(gmem_traced("kvm_gmem_unbind: ino %lu slot %u gfn %#lx npages 0x7 index 0x1",
				ino, SLOT + 1, gfn));
	set_cmd(&l->env, OP_WRITE, 2, 1, 0);
	vcpu_run_memory_fault(l->env.vcpu, PAGE_GPA(2), KVM_MEMORY_EXIT_FLAG_PRIVATE);
	EXPECT_TRUE(gmem_traced("kvm_gmem_fault: vcpu 0 gfn %#lx pfn 0x0 order 0 private err -14",
				gfn + 2));
	gmem_trace_stop();
}

int main(int argc, char *argv[])
{
	return large_main(argc, argv);
}
