// SPDX-License-Identifier: GPL-2.0
/*
 * The VMM's mapping of a guest_memfd as userspace_addr of a memslot.
 *
 * If the slot knows the file, only KVM's own accesses go there, with the rights of
 * the VMM.  If it does not, the mapping is ordinary memory: dirty logging and
 * read-only slots work, and the guest has what the VMM may touch.
 */
#include "gmem_guest.h"

#include <asm/pvclock-abi.h>

/* The test adds the slot. */

FIXTURE(guest) {
	struct env env;
};

FIXTURE_SETUP(guest)
{
	env_setup(&self->env, KVM_X86_DEFAULT_VM, FLAG_MMAP | FLAG_SHARED);
}

FIXTURE_TEARDOWN(guest)
{
	env_teardown(&self->env);
}

/* The file is not bound, its mapping is used as any other memory. */
TEST_F(guest, plain_contents)
{
	struct env *env = &self->env;

	add_plain_slot(env, 0);
	host_write(env->mem, 0, NR_PAGES / 2, HOST_VALUE);
	guest_do(env, OP_CHECK, 0, NR_PAGES / 2, HOST_VALUE);
	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));

	/* The guest's mapping goes with the VMM's. */
	punch(env, 3, 1);
	ASSERT_EQ(1, guest_do(env, OP_CHECK, 3, 1, 0));
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 4, NR_PAGES - 4, GUEST_VALUE));
	ASSERT_EQ(0, madvise(env->mem, SIZE, MADV_DONTNEED));
	ASSERT_EQ(NR_PAGES - 4, guest_do(env, OP_CHECK, 4, NR_PAGES - 4, GUEST_VALUE));
}

static uint64_t get_dirty_log(struct env *env)
{
	uint64_t dirty;

	kvm_vm_get_dirty_log(env->vm, SLOT, &dirty);
	return dirty;
}

/*
 * All pages are mapped in the guest and clean.  KVM maps what may be written as
 * writable, and dirty, when the guest reads it for the first time.
 */
static void start_dirty_log(struct env *env, uint64_t value)
{
	guest_do(env, OP_CHECK, 0, NR_PAGES, value);
	get_dirty_log(env);
}

TEST_F(guest, plain_dirty_log)
{
	struct env *env = &self->env;

	add_plain_slot(env, KVM_MEM_LOG_DIRTY_PAGES);
	host_write(env->mem, 0, NR_PAGES, HOST_VALUE);
	start_dirty_log(env, HOST_VALUE);
	ASSERT_EQ(0, get_dirty_log(env));
	guest_do(env, OP_WRITE, 3, 2, GUEST_VALUE);
	guest_do(env, OP_WRITE, NR_PAGES - 1, 1, GUEST_VALUE);
	guest_do(env, OP_CHECK, 5, NR_PAGES - 6, HOST_VALUE);
	ASSERT_EQ(3ULL << 3 | 1ULL << (NR_PAGES - 1), get_dirty_log(env));
	ASSERT_EQ(0, get_dirty_log(env));

	/* Once more, the same pages and others; the host's writes do not count. */
	guest_do(env, OP_WRITE, 4, 10, GUEST_VALUE);
	host_write(env->mem, 20, 10, GUEST_VALUE);
	ASSERT_EQ(0x3ffULL << 4, get_dirty_log(env));

	/* A hole is no write of the guest. */
	punch(env, 0, NR_PAGES);
	ASSERT_EQ(0, get_dirty_log(env));
	start_dirty_log(env, 0);
	guest_do(env, OP_WRITE, 7, 1, OTHER_VALUE);
	ASSERT_EQ(1ULL << 7, get_dirty_log(env));
	host_check(env->mem, 7, 1, OTHER_VALUE);
}

TEST_F(guest, plain_dirty_log_clear)
{
	struct env *env = &self->env;
	uint64_t all = ~0ULL, some = 1ULL << 4;

	vm_enable_cap(env->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	add_plain_slot(env, KVM_MEM_LOG_DIRTY_PAGES);
	start_dirty_log(env, 0);
	kvm_vm_clear_dirty_log(env->vm, SLOT, &all, 0, NR_PAGES);
	guest_do(env, OP_WRITE, 3, 3, GUEST_VALUE);
	ASSERT_EQ(7ULL << 3, get_dirty_log(env));
	ASSERT_EQ(7ULL << 3, get_dirty_log(env));
	kvm_vm_clear_dirty_log(env->vm, SLOT, &some, 0, NR_PAGES);
	ASSERT_EQ(5ULL << 3, get_dirty_log(env));
	guest_do(env, OP_CHECK, 3, 3, GUEST_VALUE);
	ASSERT_EQ(5ULL << 3, get_dirty_log(env));
	guest_do(env, OP_WRITE, 4, 1, OTHER_VALUE);
	ASSERT_EQ(7ULL << 3, get_dirty_log(env));
}

TEST_F(guest, plain_readonly)
{
	struct env *env = &self->env;
	struct kvm_run *run = env->vcpu->run;

	add_plain_slot(env, KVM_MEM_READONLY);
	host_write(env->mem, 0, NR_PAGES, HOST_VALUE);
	guest_do(env, OP_CHECK, 0, NR_PAGES, HOST_VALUE);
	set_cmd(env, OP_WRITE, 5, 1, GUEST_VALUE);
	vcpu_run(env->vcpu);
	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.phys_addr, PAGE_GPA(5));
	TEST_ASSERT_EQ(run->mmio.is_write, 1);
	run_to_sync(env);
	host_check(env->mem, 0, NR_PAGES, HOST_VALUE);
}

TEST_F(guest, plain_pre_fault)
{
	struct env *env = &self->env;

	add_plain_slot(env, 0);
	host_write(env->mem, 0, NR_PAGES, HOST_VALUE);
	vcpu_pre_fault(env->vcpu, GPA, SIZE);
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 0, NR_PAGES, HOST_VALUE));
	ASSERT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE));
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
}

/* What the VMM may not touch, it cannot give to a guest in a slot of its own. */

FIXTURE(unshared) {
	struct env env;
};

FIXTURE_VARIANT(unshared) {
	unsigned long type;
};

FIXTURE_VARIANT_ADD(unshared, default_vm) {
	.type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(unshared, sw_protected_vm) {
	.type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_SETUP(unshared)
{
	env_setup(&self->env, variant->type, FLAG_MMAP);
}

FIXTURE_TEARDOWN(unshared)
{
	env_teardown(&self->env);
}

TEST_F(unshared, plain)
{
	struct env *env = &self->env;
	uint64_t op;

	gmem_allocate(env->fd, 0, FILE_OFFSET + SIZE);
	add_plain_slot(env, 0);
	for (op = OP_CHECK; op <= OP_WRITE; op++) {
		set_cmd(env, op, 5, 1, 0);
		ASSERT_EQ(EFAULT, errno_of(_vcpu_run(env->vcpu)));
	}
	vm_delete_slot(env->vm, SLOT);
	vm_set_user_memory_region(env->vm, SLOT, 0, GPA, SIZE, anonymous_pages(SIZE));
	run_to_sync(env);
}

/* KVM's own accesses go through userspace_addr, with the rights of the VMM. */

/* Has KVM write the time of its start to the page. */
static void write_wall_clock(struct env *env, uint64_t page)
{
	vcpu_set_msr(env->vcpu, MSR_KVM_WALL_CLOCK_NEW, PAGE_GPA(page));
}

static bool has_wall_clock(const void *mem, uint64_t page)
{
	const struct pvclock_wall_clock *clock = mem + BYTES(page);

	/* Even when complete. */
	return clock->version == 2 && clock->sec;
}

TEST_F(guest, kvm_access)
{
	struct env *env = &self->env;
	uint64_t word;

	bind_slot(env, env->mem);
	write_wall_clock(env, 2);
	ASSERT_TRUE(has_wall_clock(env->mem, 2));
	ASSERT_EQ(1, gmem_allocated_pages(env->fd));

	/* The guest has it as well. */
	word = *word_of(env->mem, 2);
	guest_do(env, OP_CHECK, 2, 1, word - 2);
}

/* KVM may touch what the VMM may: where attributes decide, what is bound and shared. */
TEST_F(unshared, kvm_access)
{
	struct env *env = &self->env;

	bind_slot(env, env->mem);
	write_wall_clock(env, 2);
	if (variant->type == KVM_X86_SW_PROTECTED_VM) {
		ASSERT_TRUE(has_wall_clock(env->mem, 2));
		return;
	}
	ASSERT_EQ(0, gmem_allocated_pages(env->fd));
	guest_do(env, OP_CHECK, 2, 1, 0);
}

TEST_F(guest, kvm_access_unrelated)
{
	struct env *env = &self->env;
	void *mem = anonymous_pages(SIZE);

	bind_slot(env, mem);
	write_wall_clock(env, 2);
	ASSERT_TRUE(has_wall_clock(mem, 2));
	ASSERT_EQ(0, gmem_allocated_pages(env->fd));
	munmap(mem, SIZE);
}

/*
 * A VMM that keeps the guest's memory out of its own reach: a stray access hits a
 * closed protection key, an intended one opens it before.  The guest needs no key.
 */
TEST_F(guest, protection_key)
{
	struct env *env = &self->env;
	int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);

	if (key < 0)
		SKIP(return, "no protection keys");
	bind_slot(env, env->mem);
	ASSERT_EQ(0, pkey_mprotect(env->mem, SIZE, PROT_READ | PROT_WRITE, key));

	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	expect_signal(env->mem, SIGSEGV, SEGV_PKUERR);
	expect_signal(env->mem + SIZE - 1, SIGSEGV, SEGV_PKUERR);

	ASSERT_EQ(0, pkey_set(key, 0));
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
	host_write(env->mem, 0, NR_PAGES, HOST_VALUE);
	*word_of(env->mem, 2) = 0;
	*word_of(env->mem, 3) = 0;
	ASSERT_EQ(0, pkey_set(key, PKEY_DISABLE_ACCESS));
	expect_signal(env->mem, SIGSEGV, SEGV_PKUERR);
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 4, NR_PAGES - 4, HOST_VALUE));

	/* KVM on behalf of the VMM. */
	write_wall_clock(env, 2);
	ASSERT_EQ(0, pkey_set(key, 0));
	write_wall_clock(env, 3);
	ASSERT_FALSE(has_wall_clock(env->mem, 2));
	ASSERT_EQ(0, *word_of(env->mem, 2));
	ASSERT_TRUE(has_wall_clock(env->mem, 3));

	/* The guest's new pages are nobody else's business either. */
	ASSERT_EQ(0, pkey_set(key, PKEY_DISABLE_ACCESS));
	punch(env, 0, NR_PAGES);
	ASSERT_EQ(NR_PAGES, guest_do(env, OP_WRITE, 0, NR_PAGES, OTHER_VALUE));
	pkey_free(key);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_MMAP | FLAG_SHARED));
	disable_guest_interrupts();

	return test_harness_run(argc, argv);
}
