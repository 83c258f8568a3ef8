// SPDX-License-Identifier: GPL-2.0
/*
 * Soft offline and memory failure of pages of a guest_memfd.
 *
 * Bugs that others had and that show here: a clean page that soft offline drops
 * while the guest maps it; a poisoned page whose reference leaks with each attempt
 * to use it; memory failure, which comes with the folio locked, taking the lock
 * that a hole punch holds while it waits for the folio.
 *
 * See gmem_poison.h for what this needs.
 */
#include "gmem_poison.h"
#include "gmem_trace.h"

#include <pthread.h>

#include "kselftest_harness.h"

/* Emulated CPUs and debug kernels are slow, a hang is the runner's business. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

#define SLOT		10
#define GPA		0x40000000ULL
/* What is in page @i. */
#define WORD(i)		(0x1122334400000000ULL + (i))

#define PRIVATE		KVM_MEMORY_EXIT_FLAG_PRIVATE

#define LOOPS		30
#define LOOKUPS		200

enum {
	OP_READ,
	OP_WRITE,
	OP_OUT,
};

struct guest_cmd {
	uint64_t op;
	uint64_t gva;
	uint64_t val;
};

/* Guest: one command per entry, shared with the host. */

static volatile struct guest_cmd guest_cmd;

static void guest_main(void)
{
	uint64_t gva;

	for (;;) {
		GUEST_SYNC(0);
		gva = guest_cmd.gva;
		switch (guest_cmd.op) {
		case OP_READ:
			guest_cmd.val = *(volatile uint64_t *)gva;
			break;
		case OP_WRITE:
			*(volatile uint64_t *)gva = guest_cmd.val;
			break;
		case OP_OUT:
			/* KVM reads this one itself. */
			asm volatile("outsb" : "+S"(gva) : "d"(0x3000) : "memory");
		}
	}
}

/* Host: the VM. */

FIXTURE(poison) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	/* Of the guest that waits for a command. */
	struct kvm_regs regs;
	int fd;
	uint64_t npages;
	uint64_t file_offset;
	uint64_t victim;
	void *mem;
	void *hva;
};

FIXTURE_VARIANT(poison) {
	uint64_t npages;
	uint64_t file_offset;
};

FIXTURE_VARIANT_ADD(poison, small_pages) {
	.npages = 16,
	.file_offset = 1,
};

/* Lies so that the file and the guest may use a huge page. */
FIXTURE_VARIANT_ADD(poison, huge_page) {
	.npages = 512,
};

static void run_to_sync(FIXTURE_DATA(poison) *self)
{
	struct ucall uc;
	int ret = _vcpu_run(self->vcpu);

	TEST_ASSERT(!ret, "KVM_RUN failed, errno: %d, exit: %u, gpa: %#llx", errno,
		    self->vcpu->run->exit_reason, self->vcpu->run->memory_fault.gpa);
	TEST_ASSERT(get_ucall(self->vcpu, &uc) == UCALL_SYNC, "Unexpected exit: %u (%s)",
		    self->vcpu->run->exit_reason,
		    exit_reason_str(self->vcpu->run->exit_reason));
	vcpu_regs_get(self->vcpu, &self->regs);
}

static volatile struct guest_cmd *set_cmd(FIXTURE_DATA(poison) *self, uint64_t op,
					  uint64_t page, uint64_t val)
{
	volatile struct guest_cmd *cmd = addr_gva2hva(self->vm, (uint64_t)&guest_cmd);

	cmd->op = op;
	cmd->gva = GPA + page * PAGE_SIZE;
	cmd->val = val;
	return cmd;
}

static uint64_t guest_read(FIXTURE_DATA(poison) *self, uint64_t page)
{
	volatile struct guest_cmd *cmd = set_cmd(self, OP_READ, page, 0);

	run_to_sync(self);
	return cmd->val;
}

static void guest_write(FIXTURE_DATA(poison) *self, uint64_t page, uint64_t val)
{
	set_cmd(self, OP_WRITE, page, val);
	run_to_sync(self);
}

/* The guest's access ends in an exit, however often; then it gives it up. */
static void expect_poison_exit(FIXTURE_DATA(poison) *self, uint64_t op, uint64_t page)
{
	int i;

	set_cmd(self, op, page, 0);
	for (i = 0; i < 3; i++)
		__vcpu_run_memory_fault(self->vcpu, GPA + page * PAGE_SIZE, PRIVATE,
					EHWPOISON);
	vcpu_regs_set(self->vcpu, &self->regs);
}

static void bind_slot(FIXTURE_DATA(poison) *self)
{
	vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   self->npages * PAGE_SIZE, self->hva, self->fd,
				   self->file_offset);
}

/* Unmaps all from the guest; the pages stay in the file. */
static void rebind_slot(FIXTURE_DATA(poison) *self)
{
	vm_delete_slot(self->vm, SLOT);
	bind_slot(self);
}

static void punch(FIXTURE_DATA(poison) *self, uint64_t page, uint64_t npages)
{
	gmem_punch_hole(self->fd, self->file_offset + page * PAGE_SIZE,
			npages * PAGE_SIZE);
}

static uint64_t victim_pfn(FIXTURE_DATA(poison) *self)
{
	return traced_pfn(GPA + self->victim * PAGE_SIZE);
}

static void expect_words(FIXTURE_DATA(poison) *self, bool victim_too)
{
	uint64_t i;

	for (i = 0; i < self->npages; i++)
		if (victim_too || i != self->victim)
			TEST_ASSERT_EQ(guest_read(self, i), WORD(i));
}

/* The guest has written to every page. */
FIXTURE_SETUP(poison)
{
	uint64_t size = variant->npages * PAGE_SIZE, huge, i;

	self->npages = variant->npages;
	self->file_offset = variant->file_offset * PAGE_SIZE;
	self->victim = self->npages / 2 + 3;

	self->vm = vm_create_type_with_one_vcpu(KVM_X86_SW_PROTECTED_VM, &self->vcpu,
						self->npages, guest_main);
	virt_map(self->vm, GPA, GPA, self->npages);
	/* Lies in a huge page as the gpa does. */
	self->mem = anonymous_pages(size + PG_SIZE_2M);
	self->hva = align_ptr_up(self->mem, PG_SIZE_2M);
	self->fd = vm_create_guest_memfd(self->vm, self->file_offset + size, 0);
	bind_slot(self);
	vm_mem_set_private(self->vm, GPA, size);

	clear_trace();
	run_to_sync(self);
	huge = vm_get_stat(self->vm, "pages_2m");
	guest_write(self, 0, WORD(0));
	/* One for the guest where the file has one. */
	huge = vm_get_stat(self->vm, "pages_2m") - huge;
	ASSERT_EQ(huge ? self->npages : 1, gmem_allocated_pages(self->fd));
	for (i = 1; i < self->npages; i++)
		guest_write(self, i, WORD(i));
}

FIXTURE_TEARDOWN(poison)
{
	kvm_vm_free(self->vm);
	if (self->fd >= 0)
		close(self->fd);
	munmap(self->mem, self->npages * PAGE_SIZE + PG_SIZE_2M);
}

/* The page cannot be moved, and must not be dropped. */
TEST_F(poison, soft_offline)
{
	uint64_t pfn = victim_pfn(self);

	ASSERT_EQ(EBUSY, write_number(SOFT_OFFLINE, pfn * PAGE_SIZE));
	EXPECT_FALSE(is_poisoned(pfn));
	expect_words(self, true);

	/* The file has not got another one either. */
	clear_trace();
	rebind_slot(self);
	expect_words(self, true);
	EXPECT_EQ(pfn, victim_pfn(self));
}

TEST_F(poison, failure_of_mapped_page)
{
	uint64_t pfn = victim_pfn(self);

	ASSERT_TRUE(gmem_trace_start());
	ASSERT_EQ(0, write_number(POISON, pfn));
	EXPECT_TRUE(is_poisoned(pfn));
	EXPECT_TRUE(gmem_traced("kvm_gmem_poison: ino %lu index %#llx pfn %#lx",
				gmem_inode_number(self->fd),
				self->file_offset / PAGE_SIZE + self->victim, pfn));
	gmem_trace_stop();
	expect_poison_exit(self, OP_READ, self->victim);
	expect_poison_exit(self, OP_WRITE, self->victim);
	expect_words(self, false);

	/* It is known, and in use. */
	EXPECT_EQ(EHWPOISON, write_number(POISON, pfn));
	EXPECT_EQ(EBUSY, write_number(UNPOISON, pfn));
	expect_poison_exit(self, OP_READ, self->victim);

	/*
	 * A hole is the way out.  The page can be unpoisoned if there is no
	 * reference but that of memory failure: none of the exits has left one.
	 */
	clear_trace();
	punch(self, self->victim, 1);
	EXPECT_EQ(0, write_number(UNPOISON, pfn));
	EXPECT_FALSE(is_poisoned(pfn));
	EXPECT_EQ(0, guest_read(self, self->victim));
	guest_write(self, self->victim, WORD(self->victim));
	expect_words(self, true);
}

TEST_F(poison, failure_of_unmapped_page)
{
	uint64_t pfn = victim_pfn(self);

	rebind_slot(self);
	ASSERT_EQ(0, write_number(POISON, pfn));
	expect_poison_exit(self, OP_READ, self->victim);
	expect_words(self, false);

	/* Mapped by the next one to come, but for the bad page. */
	rebind_slot(self);
	expect_poison_exit(self, OP_WRITE, self->victim);
	expect_words(self, false);

	punch(self, 0, self->npages);
	EXPECT_EQ(0, write_number(UNPOISON, pfn));
	EXPECT_EQ(0, guest_read(self, self->victim));
}

/* Allocation leaves the page alone: it must not turn into a fresh one silently. */
TEST_F(poison, allocate_after_failure)
{
	uint64_t pfn = victim_pfn(self);

	ASSERT_EQ(0, write_number(POISON, pfn));
	gmem_allocate(self->fd, self->file_offset, self->npages * PAGE_SIZE);
	expect_poison_exit(self, OP_READ, self->victim);

	punch(self, self->victim, 1);
	EXPECT_EQ(0, write_number(UNPOISON, pfn));
}

/* KVM itself must not read the page. */
TEST_F(poison, failure_then_emulation)
{
	uint64_t pfn = victim_pfn(self);

	ASSERT_EQ(0, write_number(POISON, pfn));
	expect_poison_exit(self, OP_OUT, self->victim);

	punch(self, self->victim, 1);
	EXPECT_EQ(0, write_number(UNPOISON, pfn));
}

TEST_F(poison, file_closed_after_failure)
{
	uint64_t pfn = victim_pfn(self);

	ASSERT_EQ(0, write_number(POISON, pfn));
	expect_poison_exit(self, OP_READ, self->victim);

	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(0, write_number(UNPOISON, pfn));
	/* There is no file: no poison either. */
	set_cmd(self, OP_READ, self->victim, 0);
	vcpu_run_memory_fault(self->vcpu, GPA + self->victim * PAGE_SIZE, PRIVATE);
}

struct puncher {
	FIXTURE_DATA(poison) *self;
	volatile bool stop;
};

/* All but the victim: it must not be another's by the time it is poisoned. */
static void *punch_neighbours(void *arg)
{
	struct puncher *p = arg;
	FIXTURE_DATA(poison) *self = p->self;
	uint64_t after = self->victim + 1;

	while (!p->stop) {
		punch(self, 0, self->victim);
		punch(self, after, self->npages - after);
		gmem_allocate(self->fd, self->file_offset, self->npages * PAGE_SIZE);
	}
	return NULL;
}

static void *allocate_victim(void *arg)
{
	struct puncher *p = arg;
	FIXTURE_DATA(poison) *self = p->self;

	while (!p->stop)
		gmem_allocate(self->fd, self->file_offset + self->victim * PAGE_SIZE,
			      PAGE_SIZE);
	return NULL;
}

/*
 * The victim fails and comes back, again and again, while @other does what it does.  With
 * all of the memory if @fresh, so that it is in a large folio each time if there are any.
 */
static void fail_meanwhile(FIXTURE_DATA(poison) *self, void *(*other)(void *), int loops,
			   bool fresh)
{
	struct puncher puncher = { .self = self };
	pthread_t thread;
	uint64_t pfn;
	int i;

	TEST_ASSERT_EQ(pthread_create(&thread, NULL, other, &puncher), 0);
	for (i = 0; i < loops; i++) {
		clear_trace();
		rebind_slot(self);
		guest_write(self, self->victim, WORD(i));
		pfn = victim_pfn(self);
		TEST_ASSERT_EQ(write_number(POISON, pfn), 0);
		expect_poison_exit(self, OP_READ, self->victim);
		if (fresh)
			punch(self, 0, self->npages);
		else
			punch(self, self->victim, 1);
		TEST_ASSERT_EQ(write_number(UNPOISON, pfn), 0);
		TEST_ASSERT_EQ(guest_read(self, self->victim), 0UL);
	}
	puncher.stop = true;
	pthread_join(thread, NULL);
}

/*
 * Memory failure has the folio and wants the bindings, a hole has the bindings
 * or the file and wants the folio.
 */
TEST_F(poison, failure_while_punching)
{
	fail_meanwhile(self, punch_neighbours, LOOPS, false);
}

/*
 * Who looks the page up has a reference for a moment: memory failure must not say that
 * the page is still in use, for which the machine check handler kills the VMM.
 */
TEST_F(poison, failure_while_allocating)
{
	fail_meanwhile(self, allocate_victim, LOOKUPS, true);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	require_poison();

	return test_harness_run(argc, argv);
}
