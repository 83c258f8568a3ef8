// SPDX-License-Identifier: GPL-2.0
/*
 * Lockdep knows the order of the locks that Documentation/virt/kvm/guest-memfd.rst
 * gives, and no other: once it has seen one lock taken within another, it reports
 * whoever takes them the other way round, deadlock or not.  What it has not seen it
 * cannot report, and a test that finds nothing would say little.
 *
 * The folio lock is none of those that lockdep looks at.
 *
 * Needs root and a kernel with CONFIG_PROVE_LOCKING.
 */
#include "kvm_gmem_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define LOCKDEP		"/proc/lockdep"

#define SLOT		10
#define GPA		0x40000000ULL
#define NR_PAGES	16UL
#define SIZE		(NR_PAGES * PAGE_SIZE)

/* As many as lockdep has room for. */
#define MAX_CLASSES	8192
#define MAX_EDGES	262144

static char classes[MAX_CLASSES][64];
static int nr_classes;
/* The second is taken within the first. */
static int edges[MAX_EDGES][2];
static int nr_edges;

static int class_of(const char *name)
{
	int i;

	for (i = 0; i < nr_classes; i++) {
		if (!strcmp(classes[i], name))
			return i;
	}
	TEST_ASSERT(nr_classes < MAX_CLASSES, "Too many classes");
	snprintf(classes[nr_classes], sizeof(classes[0]), "%s", name);
	return nr_classes++;
}

/*
 * A line of a class, and one for each that is taken directly within it:
 *	ffff888003f0a2d8 FD:   12 BD:    3 +.+.: &kvm->slots_lock
 *	 -> [ffff888003f0a1f0] mapping.invalidate_lock#5
 * Classes are told apart by name, as the addresses may be hidden.
 */
static void read_lockdep(void)
{
	FILE *file = fopen(LOCKDEP, "r");
	char line[256], *name;
	int class = -1;

	TEST_ASSERT(file, LOCKDEP ", errno: %d", errno);
	nr_classes = 0;
	nr_edges = 0;
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, " -> [", 5)) {
			name = strstr(line, "] ");
			TEST_ASSERT(name && class >= 0 && nr_edges < MAX_EDGES, "%s", line);
			edges[nr_edges][0] = class;
			edges[nr_edges++][1] = class_of(name + 2);
			continue;
		}
		/* Its name comes after the usage, which has no space in it. */
		name = strstr(line, " BD:");
		name = name ? strstr(name + 4, ": ") : NULL;
		if (name)
			class = class_of(name + 2);
	}
	fclose(file);
}

static bool is_edge(int outer, int inner)
{
	int i;

	for (i = 0; i < nr_edges; i++) {
		if (edges[i][0] == outer && edges[i][1] == inner)
			return true;
	}
	return false;
}

/* Is @inner taken within @outer, or within what is taken within it, ...? */
static bool is_within(int outer, int inner)
{
	static bool seen[MAX_CLASSES];
	bool more = true;
	int i;

	memset(seen, 0, sizeof(seen));
	seen[outer] = true;
	while (more) {
		more = false;
		for (i = 0; i < nr_edges; i++) {
			if (!seen[edges[i][0]] || seen[edges[i][1]])
				continue;
			if (edges[i][1] == inner)
				return true;
			seen[edges[i][1]] = true;
			more = true;
		}
	}
	return false;
}

/* -1 if lockdep has not met it. */
static int find_class(const char *name)
{
	int i;

	for (i = 0; i < nr_classes; i++) {
		if (!strcmp(classes[i], name))
			return i;
	}
	return -1;
}

/*
 * Each file system has its own class of invalidate locks, of the same name but for
 * a number.
 */
static int find_invalidate_lock(int bindings_lock)
{
	static const char name[] = "mapping.invalidate_lock";
	int i, found = -1;

	for (i = 0; i < nr_classes; i++) {
		if (strncmp(classes[i], name, strlen(name)) ||
		    !is_edge(i, bindings_lock))
			continue;
		TEST_ASSERT(found < 0, "Two classes of files");
		found = i;
	}
	return found;
}

/* Whatever takes more than one lock. */
static void use_all(void)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	int fd = vm_create_guest_memfd(vm, SIZE, GUEST_MEMFD_FLAG_MMAP);
	void *mem = gmem_map(fd, SIZE, 0);

	vm_bind_gmem(vm, SLOT, GPA, SIZE, fd, 0);
	gmem_allocate(fd, 0, SIZE);
	fill_pages(mem, NR_PAGES);
	vm_mem_set_private(vm, GPA, SIZE);
	vm_mem_set_shared(vm, GPA, SIZE);
	fill_pages(mem, NR_PAGES);
	gmem_punch_hole(fd, 0, SIZE);
	vm_delete_slot(vm, SLOT);
	vm_bind_gmem(vm, SLOT, GPA, SIZE, fd, 0);
	munmap(mem, SIZE);
	close(fd);
	kvm_vm_free(vm);
}

TEST(lockdep_knows_the_order)
{
	static const char * const names[] = {
		"&kvm->slots_lock", "&mm->mmap_lock", "mapping.invalidate_lock",
		"&gmem->bindings_lock", "&(kvm)->mmu_lock", "&kvm->gpc_lock",
	};
	/* The outer and the inner, of these. */
	static const int order[][2] = {
		{ 0, 2 }, { 1, 2 }, { 2, 3 }, { 3, 4 }, { 4, 5 },
	};
	int lock[ARRAY_SIZE(names)];
	int i;

	use_all();
	read_lockdep();
	for (i = 0; i < ARRAY_SIZE(names); i++)
		lock[i] = find_class(names[i]);
	ASSERT_GE(lock[3], 0);
	lock[2] = find_invalidate_lock(lock[3]);

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		ASSERT_GE(lock[i], 0) {
			TH_LOG("no %s", names[i]);
		}
	}
	for (i = 0; i < ARRAY_SIZE(order); i++) {
		EXPECT_TRUE(is_within(lock[order[i][0]], lock[order[i][1]])) {
			TH_LOG("%s within %s is not known", names[order[i][1]],
			       names[order[i][0]]);
		}
		EXPECT_FALSE(is_within(lock[order[i][1]], lock[order[i][0]])) {
			TH_LOG("%s within %s", names[order[i][0]],
			       names[order[i][1]]);
		}
	}
}

static bool lockdep_is_on(void)
{
	char line[128];
	FILE *file = fopen("/proc/lockdep_stats", "r");
	int on = 0;

	if (!file)
		return false;
	while (fgets(line, sizeof(line), file))
		sscanf(line, " debug_locks: %d", &on);
	fclose(file);
	return on;
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	__TEST_REQUIRE(!access("/proc/lockdep_chains", R_OK) && lockdep_is_on(),
		       "the kernel does not prove locking: PROVE_LOCKING");
	return test_harness_run(argc, argv);
}
