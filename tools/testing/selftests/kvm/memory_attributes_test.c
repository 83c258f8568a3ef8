// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_MEMORY_ATTRIBUTES.  There is no ioctl that tells what was set, so a
 * guest finds out: it reads a page of a slot that has no file.  If the page is
 * shared it gets the page's content, if it is private there is nothing to be had
 * and the vCPU exits with a memory fault.
 *
 * Known bugs of other implementations that are checked here:
 *  - soft lockup when a huge range is set: attributes of 1 TiB and of everything;
 *  - leftovers of an earlier or failed request taken for attributes, and wrong
 *    answers to "are these attributes set already": the comparison with a model;
 *  - reservations for a huge range that is cleared and was empty;
 *  - private access where no slot is turned into MMIO.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <string.h>

#include "kvm_gmem_util.h"
#include "kselftest_harness.h"

/* A page takes a run of the vCPU; how long that takes is not the question. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	600

#define NR_PAGES	64
#define PAGE		4096ULL
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

/* The slot under test; mapped in the guest at the same virtual address. */
#define SLOT		1
#define GPA		(1ULL << 32)

/* Where single pages elsewhere are mapped in the guest. */
#define GVA_WINDOW	(1ULL << 40)

/* A slot for a page at the end of the guest's memory. */
#define SLOT_TOP	2

#define NR_RANDOM	150
#define NR_STORES	300

static void guest_code(uint64_t gva)
{
	GUEST_SYNC(READ_ONCE(*(uint64_t *)gva));
}

/* A vCPU that reads pages, starting afresh each time. */
struct probe {
	struct kvm_vcpu *vcpu;
	struct kvm_regs start;
};

enum seen {
	SEEN_SHARED,
	SEEN_PRIVATE,
	SEEN_MMIO,
};

static uint64_t stamp(uint64_t gpa)
{
	return gpa ^ 0xc0ffee;
}

static enum seen probe_at(struct probe *probe, uint64_t gva, uint64_t gpa)
{
	struct kvm_run *run = probe->vcpu->run;
	struct kvm_regs regs = probe->start;
	struct ucall uc;
	int ret;

	/* A fault leaves the guest at the access: go back to the start. */
	regs.rdi = gva;
	vcpu_regs_set(probe->vcpu, &regs);

	ret = _vcpu_run(probe->vcpu);
	if (ret) {
		TEST_ASSERT(ret == -1 && errno == EFAULT,
			    "gpa %#lx: KVM_RUN: rc: %d errno: %d", gpa, ret, errno);
		TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MEMORY_FAULT);
		TEST_ASSERT_EQ(run->memory_fault.gpa, gpa);
		TEST_ASSERT_EQ(run->memory_fault.size, PAGE);
		TEST_ASSERT_EQ(run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
		return SEEN_PRIVATE;
	}
	if (run->exit_reason == KVM_EXIT_MMIO) {
		TEST_ASSERT_EQ(run->mmio.phys_addr, gpa);
		/* The read is over for KVM only when the VMM says so. */
		vcpu_run_complete_io(probe->vcpu);
		return SEEN_MMIO;
	}
	TEST_ASSERT(get_ucall(probe->vcpu, &uc) == UCALL_SYNC,
		    "gpa %#lx: exit %u (%s)", gpa, run->exit_reason,
		    exit_reason_str(run->exit_reason));
	TEST_ASSERT_EQ(uc.args[1], stamp(gpa));
	return SEEN_SHARED;
}

static bool is_private(struct probe *probe, uint64_t gpa)
{
	enum seen seen = probe_at(probe, gpa, gpa);

	TEST_ASSERT(seen != SEEN_MMIO, "gpa %#lx has no slot", gpa);
	return seen == SEEN_PRIVATE;
}

static void add_slot(struct kvm_vm *vm, uint64_t gpa, uint32_t slot,
		     uint64_t npages)
{
	uint64_t i;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, gpa, slot, npages, 0);
	for (i = 0; i < npages; i++)
		*(uint64_t *)addr_gpa2hva(vm, gpa + i * PAGE) = stamp(gpa + i * PAGE);
}

FIXTURE(attributes) {
	struct kvm_vm *vm;
	struct probe probe;
	/* What the pages of the slot should be. */
	bool private[NR_PAGES];
};

FIXTURE_SETUP(attributes)
{
	self->vm = vm_create_type_with_one_vcpu(KVM_X86_SW_PROTECTED_VM,
						&self->probe.vcpu, 2 * NR_PAGES,
						guest_code);
	vcpu_regs_get(self->probe.vcpu, &self->probe.start);
	virt_map(self->vm, GPA, GPA, NR_PAGES);
	add_slot(self->vm, GPA, SLOT, NR_PAGES);
	memset(self->private, 0, sizeof(self->private));
}

FIXTURE_TEARDOWN(attributes)
{
	kvm_vm_free(self->vm);
}

static void set(FIXTURE_DATA(attributes) *self, int first, int nr, uint64_t attributes)
{
	vm_set_memory_attributes(self->vm, GPA + first * PAGE, nr * PAGE, attributes);
	memset(self->private + first, attributes == PRIVATE, nr);
}

static void check(FIXTURE_DATA(attributes) *self)
{
	int i;

	for (i = 0; i < NR_PAGES; i++)
		TEST_ASSERT(is_private(&self->probe, GPA + i * PAGE) == self->private[i],
			    "page %d should be %s", i,
			    self->private[i] ? "private" : "shared");
}

TEST_F(attributes, start_shared)
{
	check(self);
}

TEST_F(attributes, single_pages)
{
	static const int pages[] = { 0, 1, 31, 32, NR_PAGES - 1 };
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		set(self, pages[i], 1, PRIVATE);
		check(self);
		set(self, pages[i], 1, 0);
		check(self);
	}
}

TEST_F(attributes, split_and_merge)
{
	static const struct {
		int first, nr;
		bool private;
	} steps[] = {
		{ 0, 64, true },		/* one range */
		{ 0, 64, true },		/* again, nothing changes */
		{ 16, 32, false },		/* a hole: two */
		{ 24, 16, true },		/* an island: three */
		{ 31, 1, false },		/* split: four */
		{ 31, 1, true },		/* closed by a merge: three */
		{ 16, 8, true },		/* merge with both sides: two */
		{ 40, 8, true },		/* and one */
		{ 0, 1, false },		/* cut off the head */
		{ 63, 1, false },		/* and the tail */
		{ 10, 20, true },		/* within, nothing changes */
		{ 0, 20, false },		/* across the head */
		{ 50, 14, false },		/* across the tail */
		{ 0, 64, false },		/* none */
		{ 0, 64, false },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		set(self, steps[i].first, steps[i].nr, steps[i].private ? PRIVATE : 0);
		check(self);
	}
}

/* Every other page, so that no two neighbours can share a range. */
TEST_F(attributes, alternate)
{
	int i;

	for (i = 0; i < NR_PAGES; i += 2)
		set(self, i, 1, PRIVATE);
	check(self);
	for (i = 1; i < NR_PAGES; i += 2)
		set(self, i, 1, PRIVATE);
	check(self);
	for (i = 0; i < NR_PAGES; i += 2)
		set(self, i, 1, 0);
	check(self);
}

TEST_F(attributes, random_against_model)
{
	uint32_t seed = 1;
	int i, first, nr;

	for (i = 0; i < NR_RANDOM; i++) {
		seed = seed * 1664525 + 1013904223;
		first = (seed >> 8) % NR_PAGES;
		nr = 1 + (seed >> 16) % (NR_PAGES - first);
		set(self, first, nr, seed >> 31 ? PRIVATE : 0);
		check(self);
	}
}

/* A refused request changes nothing; the range has pages of both kinds. */
TEST_F(attributes, refused)
{
	static const struct {
		uint64_t gpa, size;
	} ranges[] = {
		{ GPA, 0 },
		{ 0, 0 },
		{ GPA + 1, PAGE },
		{ GPA + PAGE - 1, PAGE },
		{ GPA, 1 },
		{ GPA, PAGE - 1 },
		{ GPA, PAGE + 1 },
		{ GPA + 512, PAGE - 512 },
		/* The sum wraps, to 0 or further. */
		{ -PAGE, PAGE },
		{ -PAGE, 2 * PAGE },
		{ GPA, -GPA },
		{ GPA, -PAGE },
		{ 1ULL << 63, 1ULL << 63 },
	};
	struct kvm_memory_attributes args = {
		.address = GPA,
		.size = NR_PAGES * PAGE,
	};
	int i;

	set(self, 16, 16, PRIVATE);

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_set_memory_attributes(self->vm,
				ranges[i].gpa, ranges[i].size, PRIVATE))) {
			TH_LOG("range %d", i);
		}
		ASSERT_EQ(EINVAL, errno_of(__vm_set_memory_attributes(self->vm,
				ranges[i].gpa, ranges[i].size, 0))) {
			TH_LOG("range %d", i);
		}
	}

	for (i = 0; i < 64; i++) {
		if (1ULL << i == PRIVATE)
			continue;
		args.attributes = 1ULL << i;
		ASSERT_EQ(EINVAL, errno_of(__vm_ioctl(self->vm, KVM_SET_MEMORY_ATTRIBUTES,
						      &args))) {
			TH_LOG("attribute bit %d", i);
		}
		args.attributes |= PRIVATE;
		ASSERT_EQ(EINVAL, errno_of(__vm_ioctl(self->vm, KVM_SET_MEMORY_ATTRIBUTES,
						      &args))) {
			TH_LOG("attribute bit %d and PRIVATE", i);
		}
	}

	args.attributes = PRIVATE;
	for (i = 0; i < 64; i++) {
		args.flags = 1ULL << i;
		ASSERT_EQ(EINVAL, errno_of(__vm_ioctl(self->vm, KVM_SET_MEMORY_ATTRIBUTES,
						      &args))) {
			TH_LOG("flag bit %d", i);
		}
	}

	ASSERT_EQ(EFAULT, errno_of(ioctl(self->vm->fd, KVM_SET_MEMORY_ATTRIBUTES, 1)));
	check(self);
}

/* Without a slot there is nothing to set, and it is remembered all the same. */
TEST_F(attributes, no_slot)
{
	const uint64_t gpa = 2 * GPA;

	virt_map(self->vm, gpa, gpa, 2);
	ASSERT_EQ(SEEN_MMIO, probe_at(&self->probe, gpa, gpa));
	vm_mem_set_private(self->vm, gpa, PAGE);
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, gpa, gpa));
	ASSERT_EQ(SEEN_MMIO, probe_at(&self->probe, gpa + PAGE, gpa + PAGE));

	add_slot(self->vm, gpa, SLOT_TOP, 2);
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, gpa, gpa));
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, gpa + PAGE, gpa + PAGE));
	vm_mem_set_shared(self->vm, gpa, PAGE);
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, gpa, gpa));
}

/* Attributes belong to the VM: slots come and go. */
TEST_F(attributes, slot_deleted)
{
	set(self, 8, 8, PRIVATE);
	check(self);

	vm_mem_region_delete(self->vm, SLOT);
	ASSERT_EQ(SEEN_MMIO, probe_at(&self->probe, GPA, GPA));
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, GPA + 8 * PAGE, GPA + 8 * PAGE));
	set(self, 12, 8, PRIVATE);
	set(self, 8, 2, 0);

	add_slot(self->vm, GPA, SLOT, NR_PAGES);
	check(self);
}

/* Not even a slot that moves takes them along. */
TEST_F(attributes, slot_moved)
{
	const uint64_t gpa = 2 * GPA;

	virt_map(self->vm, gpa, gpa, 2);
	set(self, 0, 1, PRIVATE);
	vm_mem_set_private(self->vm, gpa + PAGE, PAGE);

	vm_mem_region_move(self->vm, SLOT, gpa);
	*(uint64_t *)memslot2region(self->vm, SLOT)->host_mem = stamp(gpa);
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, gpa, gpa));
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, gpa + PAGE, gpa + PAGE));
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, GPA, GPA));
}

TEST_F(attributes, first_and_last_page)
{
	const uint64_t top = self->vm->max_gfn * PAGE;

	/* Page 0 is in the library's slot 0, and not used for anything. */
	virt_map(self->vm, GVA_WINDOW, 0, 1);
	*(uint64_t *)addr_gpa2hva(self->vm, 0) = stamp(0);
	virt_map(self->vm, GVA_WINDOW + PAGE, top, 1);
	add_slot(self->vm, top, SLOT_TOP, 1);

	vm_mem_set_private(self->vm, 0, PAGE);
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, GVA_WINDOW, 0));
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, GVA_WINDOW + PAGE, top));
	vm_mem_set_shared(self->vm, 0, PAGE);
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, GVA_WINDOW, 0));

	vm_mem_set_private(self->vm, top, PAGE);
	ASSERT_EQ(SEEN_PRIVATE, probe_at(&self->probe, GVA_WINDOW + PAGE, top));
	vm_mem_set_shared(self->vm, top, PAGE);
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, GVA_WINDOW + PAGE, top));

	/* The last page with an address that does not wrap is beyond any guest. */
	vm_mem_set_private(self->vm, -2 * PAGE, PAGE);
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, GVA_WINDOW, 0));
	ASSERT_EQ(SEEN_SHARED, probe_at(&self->probe, GVA_WINDOW + PAGE, top));
	vm_mem_set_shared(self->vm, -2 * PAGE, PAGE);
	check(self);
}

/* The cost must not depend on the size, or these hang the machine. */
TEST_F(attributes, huge)
{
	const uint64_t size = 1ULL << 40;

	/* Nothing to clear. */
	vm_mem_set_shared(self->vm, GPA, size);
	check(self);

	/* All but the first page of the slot, and far beyond its end. */
	vm_mem_set_private(self->vm, GPA + PAGE, size);
	memset(self->private + 1, true, NR_PAGES - 1);
	check(self);

	set(self, 32, 1, 0);
	check(self);

	vm_mem_set_shared(self->vm, GPA + PAGE, size);
	memset(self->private, false, NR_PAGES);
	check(self);
}

/*
 * So many ranges that their tree has several levels: it is replaced as a whole by
 * one store, and freed with the VM.  The kernel frees such a tree later, in its
 * own time, hence the second round.
 */
TEST_F(attributes, many_ranges)
{
	const uint64_t ranges = 20000;
	uint64_t i;
	int round;

	for (round = 0; round < 2; round++) {
		for (i = 0; i < ranges; i++)
			vm_mem_set_private(self->vm, GPA + 2 * i * PAGE, PAGE);
		for (i = 0; i < NR_PAGES; i++)
			self->private[i] = !(i % 2);
		check(self);

		if (round)
			break;
		vm_mem_set_shared(self->vm, GPA, 2 * ranges * PAGE);
		memset(self->private, false, NR_PAGES);
		check(self);
	}
}

TEST_F(attributes, everything)
{
	/* Slot 0 has the guest's code: it has to stay shared to run. */
	const uint64_t size = -PAGE;

	vm_mem_set_private(self->vm, 0, size);
	vm_mem_set_shared(self->vm, 0, GPA);
	memset(self->private, true, NR_PAGES);
	check(self);

	set(self, 7, 9, 0);
	check(self);

	vm_mem_set_shared(self->vm, 0, size);
	memset(self->private, false, NR_PAGES);
	check(self);
}

TEST_F(attributes, vms_are_independent)
{
	struct kvm_vm *other = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);

	vm_mem_set_private(other, GPA, NR_PAGES * PAGE);
	check(self);
	set(self, 0, 8, PRIVATE);
	vm_mem_set_shared(other, GPA, NR_PAGES * PAGE);
	check(self);
	kvm_vm_free(other);
	check(self);
}

/* Two threads that store, each in its half of the slot, and a vCPU that looks. */
struct storer {
	FIXTURE_DATA(attributes) *self;
	int first, nr;
	uint32_t seed;
};

static void *store_thread(void *arg)
{
	struct storer *s = arg;
	int i, first, nr;

	for (i = 0; i < NR_STORES; i++) {
		s->seed = s->seed * 1664525 + 1013904223;
		first = (s->seed >> 8) % s->nr;
		nr = 1 + (s->seed >> 16) % (s->nr - first);
		set(s->self, s->first + first, nr, s->seed >> 31 ? PRIVATE : 0);
	}
	return NULL;
}

TEST_F(attributes, concurrent)
{
	struct storer storers[2] = {
		{ self, 0, NR_PAGES / 2, 1 },
		{ self, NR_PAGES / 2, NR_PAGES / 2, 2 },
	};
	pthread_t threads[2];
	int i;

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, store_thread, &storers[i]));

	/* Either answer is right now; anything else fails in there. */
	for (i = 0; i < NR_STORES; i++)
		is_private(&self->probe, GPA + i % NR_PAGES * PAGE);

	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	check(self);
}

/* A VM type without private memory has no attributes to set. */
TEST(default_vm)
{
	struct kvm_vm *vm = vm_create_barebones();
	int bit;

	for (bit = 0; bit < 64; bit++) {
		ASSERT_EQ(EINVAL, errno_of(__vm_set_memory_attributes(vm, GPA, PAGE,
								      1ULL << bit))) {
			TH_LOG("attribute bit %d", bit);
		}
	}
	/* None is what every page has: nothing to do, and nothing wrong. */
	ASSERT_EQ(0, __vm_set_memory_attributes(vm, GPA, PAGE, 0));
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());

	return test_harness_run(argc, argv);
}
