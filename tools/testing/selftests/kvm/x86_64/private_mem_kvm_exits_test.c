// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_EXIT_MEMORY_FAULT: what a VMM is told about accesses that KVM cannot serve,
 * and that the guest goes on as if nothing had happened once the VMM has removed
 * the cause.
 *
 * Bugs that others had and that show here: a private access without a slot that
 * became MMIO; an exit without the VMM being told the address; a memory fault that
 * an old exit_reason made up; a slot whose file was closed, or that was deleted,
 * while the guest used it.
 */
#include "kvm_gmem_util.h"

#include <pthread.h>
#include <signal.h>

#include "gmem_harness.h"

#define SLOT		10
#define GPA		0x40000000ULL
#define NR_PAGES	16ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
/* Neither the slot nor the file starts with the page that is used. */
#define PAGE_GPA	(GPA + 5 * PAGE_SIZE)
#define FILE_OFFSET	(3 * PAGE_SIZE)
/* No access starts with its page. */
#define ACCESS_GPA	(PAGE_GPA + 0x128)

/* The shared side: the instruction "ret" all over. */
#define SHARED_BYTE	0xc3
#define SHARED_WORD	0xc3c3c3c3c3c3c3c3ULL
#define GUEST_WORD	0x1122334455667788ULL

#define PRIVATE		KVM_MEMORY_EXIT_FLAG_PRIVATE

enum access {
	ACCESS_READ,
	ACCESS_WRITE,
	ACCESS_EXEC,
	/* String I/O: KVM itself reads or writes the memory. */
	ACCESS_OUTS,
	ACCESS_INS,
};

#define PORT		0x3000
#define PORT_BYTE	0x77

/* Guest. */

static volatile uint64_t guest_stop;

static uint64_t guest_access(uint64_t gva, enum access access)
{
	switch (access) {
	case ACCESS_READ:
		return *(volatile uint64_t *)gva;
	case ACCESS_WRITE:
		*(volatile uint64_t *)gva = GUEST_WORD;
		return GUEST_WORD;
	case ACCESS_EXEC:
		asm volatile("call *%0" : : "r"(gva) : "memory");
		break;
	case ACCESS_OUTS:
		asm volatile("outsb" : "+S"(gva) : "d"(PORT) : "memory");
		break;
	case ACCESS_INS:
		asm volatile("insb" : "+D"(gva) : "d"(PORT) : "memory");
	}
	return SHARED_WORD;
}

/* Tells what it has seen after each access. */
static void guest_main(uint64_t gva, enum access access)
{
	for (;;)
		GUEST_SYNC(guest_access(gva, access));
}

/* Does not exit by itself, until it is stopped. */
static void guest_loop(uint64_t gva, enum access access)
{
	for (;;) {
		GUEST_SYNC(0);
		while (!guest_stop)
			guest_access(gva, access);
	}
}

/* Host. */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	enum access access;
	uint8_t *hva;
};

/* Private memory, and no slot yet. */
static void env_setup(struct env *env, enum access access)
{
	env->access = access;
	env->vm = vm_create_type_with_one_vcpu(KVM_X86_SW_PROTECTED_VM, &env->vcpu,
					       NR_PAGES, guest_main);
	virt_map(env->vm, GPA, GPA, NR_PAGES);
	vcpu_args_set(env->vcpu, 2, ACCESS_GPA, (uint64_t)access);

	env->hva = anonymous_pages(SIZE);
	memset(env->hva, SHARED_BYTE, SIZE);

	vm_mem_set_private(env->vm, GPA, SIZE);
}

static void env_teardown(struct env *env)
{
	kvm_vm_free(env->vm);
	munmap(env->hva, SIZE);
}

static int create_file(struct env *env)
{
	return vm_create_guest_memfd(env->vm, FILE_OFFSET + SIZE, 0);
}

static void bind_slot(struct env *env, int fd)
{
	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, SIZE,
				   env->hva, fd, FILE_OFFSET);
}

static void add_plain_slot(struct env *env)
{
	vm_set_user_memory_region(env->vm, SLOT, 0, GPA, SIZE, env->hva);
}

/* Runs to the next sync, and returns what the guest has to say. */
static uint64_t run_to_sync(struct env *env)
{
	return vcpu_run_to_sync(env->vcpu);
}

/* The guest completes its access to private memory that is all zeroes. */
static void expect_private_access(struct env *env)
{
	TEST_ASSERT_EQ(run_to_sync(env),
		       env->access == ACCESS_WRITE ? GUEST_WORD : 0);
	/* And did not touch the other side. */
	TEST_ASSERT_EQ(*(uint64_t *)(env->hva + ACCESS_GPA - GPA), SHARED_WORD);
}

/* The guest completes its access to shared memory. */
static void expect_shared_access(struct env *env)
{
	uint64_t want = env->access == ACCESS_WRITE ? GUEST_WORD : SHARED_WORD;

	TEST_ASSERT_EQ(run_to_sync(env), want);
	TEST_ASSERT_EQ(*(uint64_t *)(env->hva + ACCESS_GPA - GPA), want);
}

/* The exit does not depend on how often it is asked for. */
static void expect_fault(struct env *env)
{
	int i;

	for (i = 0; i < 3; i++)
		vcpu_run_memory_fault(env->vcpu, PAGE_GPA, PRIVATE);
}

/* Every kind of access. */
FIXTURE(any_access) {
	struct env env;
};

FIXTURE_VARIANT(any_access) {
	enum access access;
};

FIXTURE_VARIANT_ADD(any_access, read) {
	.access = ACCESS_READ,
};

FIXTURE_VARIANT_ADD(any_access, write) {
	.access = ACCESS_WRITE,
};

FIXTURE_VARIANT_ADD(any_access, exec) {
	.access = ACCESS_EXEC,
};

FIXTURE_SETUP(any_access)
{
	env_setup(&self->env, variant->access);
}

FIXTURE_TEARDOWN(any_access)
{
	env_teardown(&self->env);
}

/*
 * Data only: the host has no means to put an instruction into private memory,
 * and the emulator fetches nothing from devices.
 */
FIXTURE(data_access) {
	struct env env;
};

FIXTURE_VARIANT(data_access) {
	enum access access;
};

FIXTURE_VARIANT_ADD(data_access, read) {
	.access = ACCESS_READ,
};

FIXTURE_VARIANT_ADD(data_access, write) {
	.access = ACCESS_WRITE,
};

FIXTURE_SETUP(data_access)
{
	env_setup(&self->env, variant->access);
}

FIXTURE_TEARDOWN(data_access)
{
	env_teardown(&self->env);
}

TEST_F(any_access, no_slot)
{
	struct env *env = &self->env;

	expect_fault(env);

	/* A slot without a file does not help. */
	add_plain_slot(env);
	expect_fault(env);

	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_shared_access(env);
}

TEST_F(data_access, no_slot_then_bound)
{
	struct env *env = &self->env;
	int fd;

	expect_fault(env);
	fd = create_file(env);
	bind_slot(env, fd);
	expect_private_access(env);
	close(fd);
}

TEST_F(any_access, slot_without_file)
{
	struct env *env = &self->env;

	add_plain_slot(env);
	expect_fault(env);

	/* Only the page that is asked for counts. */
	vm_mem_set_shared(env->vm, GPA, PAGE_GPA - GPA);
	vm_mem_set_shared(env->vm, PAGE_GPA + PAGE_SIZE, PAGE_SIZE);
	expect_fault(env);

	vm_mem_set_shared(env->vm, PAGE_GPA, PAGE_SIZE);
	expect_shared_access(env);
}

TEST_F(any_access, became_private_without_file)
{
	struct env *env = &self->env;

	add_plain_slot(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_shared_access(env);

	vm_mem_set_private(env->vm, PAGE_GPA, PAGE_SIZE);
	expect_fault(env);

	vm_mem_set_shared(env->vm, PAGE_GPA, PAGE_SIZE);
	expect_shared_access(env);
}

TEST_F(any_access, file_closed_before_use)
{
	struct env *env = &self->env;
	int fd = create_file(env);

	bind_slot(env, fd);
	close(fd);
	expect_fault(env);

	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_shared_access(env);
}

TEST_F(data_access, file_closed_after_use)
{
	struct env *env = &self->env;
	int fd;

	fd = create_file(env);
	bind_slot(env, fd);
	expect_private_access(env);

	close(fd);
	expect_fault(env);

	/* The slot is still there, with nothing behind it. */
	ASSERT_EQ(-1, __vm_bind_gmem(env->vm, SLOT, GPA, SIZE, -1, 0));
	ASSERT_EQ(EINVAL, errno);
	vm_delete_slot(env->vm, SLOT);
	expect_fault(env);

	/* The pages went with the last file descriptor. */
	fd = create_file(env);
	bind_slot(env, fd);
	expect_private_access(env);
	close(fd);
}

/* Neither the attributes nor the pages belong to the slot. */
TEST(slot_deleted_after_use)
{
	struct kvm_regs regs;
	struct env env;
	int fd;

	env_setup(&env, ACCESS_WRITE);
	fd = create_file(&env);
	bind_slot(&env, fd);
	vcpu_regs_get(env.vcpu, &regs);
	expect_private_access(&env);
	vm_delete_slot(env.vm, SLOT);
	expect_fault(&env);

	bind_slot(&env, fd);
	regs.rsi = ACCESS_READ;
	vcpu_regs_set(env.vcpu, &regs);
	TEST_ASSERT_EQ(run_to_sync(&env), GUEST_WORD);
	close(fd);
	env_teardown(&env);
}

/* Without a slot, shared memory is MMIO and no memory fault. */
TEST_F(data_access, shared_without_slot_is_mmio)
{
	struct env *env = &self->env;
	struct kvm_run *run = env->vcpu->run;

	expect_fault(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	vcpu_run(env->vcpu);
	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.phys_addr, ACCESS_GPA);
	TEST_ASSERT_EQ(run->mmio.is_write, env->access == ACCESS_WRITE);
}

/* An access to two pages is reported with the one that is missing. */
TEST_F(data_access, second_page_of_access)
{
	struct env *env = &self->env;

	add_plain_slot(env);
	vm_mem_set_shared(env->vm, PAGE_GPA, PAGE_SIZE);
	vcpu_args_set(env->vcpu, 2, PAGE_GPA + PAGE_SIZE - 3, (uint64_t)env->access);
	vcpu_run_memory_fault(env->vcpu, PAGE_GPA + PAGE_SIZE, PRIVATE);

	vm_mem_set_shared(env->vm, PAGE_GPA + PAGE_SIZE, PAGE_SIZE);
	TEST_ASSERT_EQ(run_to_sync(env),
		       env->access == ACCESS_WRITE ? GUEST_WORD : SHARED_WORD);
}

/* Makes PAGE_GPA the page table for the guest's access.  The page is not there. */
static void use_missing_table(struct env *env)
{
	const uint64_t gva = GPA + PG_SIZE_1G;
	uint64_t *pdpt, *pd;

	/* The library makes the page directory. */
	virt_map(env->vm, gva + PG_SIZE_2M, 0, 1);
	pdpt = addr_gpa2hva(env->vm, env->vm->pgd);
	pdpt = addr_gpa2hva(env->vm, pdpt[0] & PHYSICAL_PAGE_MASK);
	pd = addr_gpa2hva(env->vm, pdpt[gva / PG_SIZE_1G] & PHYSICAL_PAGE_MASK);
	pd[0] = PAGE_GPA | PTE_PRESENT_MASK | PTE_WRITABLE_MASK;

	vcpu_args_set(env->vcpu, 2, gva + 0x128, (uint64_t)env->access);
}

/* Provides the page table: it maps the next page, of shared memory. */
static void provide_table(struct env *env)
{
	uint64_t *table = (uint64_t *)(env->hva + PAGE_GPA - GPA);

	add_plain_slot(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	memset(table, 0, PAGE_SIZE);
	table[0] = (PAGE_GPA + PAGE_SIZE) | PTE_PRESENT_MASK | PTE_WRITABLE_MASK;
}

/* The CPU's walk of the guest's page tables is an access like any other. */
TEST_F(any_access, page_table)
{
	struct env *env = &self->env;

	use_missing_table(env);
	expect_fault(env);

	provide_table(env);
	TEST_ASSERT_EQ(run_to_sync(env),
		       env->access == ACCESS_WRITE ? GUEST_WORD : SHARED_WORD);
}

/* Each KVM_RUN reports itself: no memory fault after one that was interrupted. */
TEST_F(any_access, exit_reason_is_not_stale)
{
	struct env *env = &self->env;
	union {
		struct kvm_signal_mask mask;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + 8];
	} unblocked = { .mask.len = 8 };
	sigset_t set;
	int i;

	expect_fault(env);

	/* Pending all the time, unblocked in KVM_RUN only. */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	vcpu_ioctl(env->vcpu, KVM_SET_SIGNAL_MASK, &unblocked.mask);
	raise(SIGUSR1);

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(-1, __vcpu_run(env->vcpu));
		ASSERT_EQ(EINTR, errno);
		ASSERT_EQ(KVM_EXIT_INTR, env->vcpu->run->exit_reason);
	}

	ASSERT_EQ(0, ioctl(env->vcpu->fd, KVM_SET_SIGNAL_MASK, NULL));
	expect_fault(env);

	add_plain_slot(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_shared_access(env);
}

/* While the guest accesses the page all the time. */

static void *expect_fault_in_loop(void *arg)
{
	struct env *env = arg;

	vcpu_run_memory_fault(env->vcpu, PAGE_GPA, PRIVATE);
	return NULL;
}

/* Starts the loop; returns when it is likely to run. */
static pthread_t start_loop(struct env *env)
{
	struct kvm_regs regs;
	pthread_t thread;

	vcpu_regs_get(env->vcpu, &regs);
	regs.rip = (uint64_t)guest_loop;
	vcpu_regs_set(env->vcpu, &regs);
	run_to_sync(env);

	TEST_ASSERT(!pthread_create(&thread, NULL, expect_fault_in_loop, env),
		    "pthread_create() failed");
	usleep(20000);
	return thread;
}

/* The guest has left the loop with a fault, and can go on. */
static void finish_loop(struct env *env, pthread_t thread)
{
	volatile uint64_t *stop = addr_gva2hva(env->vm, (uint64_t)&guest_stop);

	pthread_join(thread, NULL);
	expect_fault(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	*stop = 1;
	run_to_sync(env);
}

TEST_F(data_access, slot_deleted_in_use)
{
	struct env *env = &self->env;
	pthread_t thread;
	int fd;

	fd = create_file(env);
	bind_slot(env, fd);
	thread = start_loop(env);
	vm_delete_slot(env->vm, SLOT);
	pthread_join(thread, NULL);
	expect_fault(env);

	/* And once more, to see that it goes on. */
	bind_slot(env, fd);
	TEST_ASSERT(!pthread_create(&thread, NULL, expect_fault_in_loop, env),
		    "pthread_create() failed");
	usleep(20000);
	vm_delete_slot(env->vm, SLOT);
	pthread_join(thread, NULL);

	add_plain_slot(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	*(volatile uint64_t *)addr_gva2hva(env->vm, (uint64_t)&guest_stop) = 1;
	run_to_sync(env);
	close(fd);
}

TEST_F(data_access, file_closed_in_use)
{
	struct env *env = &self->env;
	pthread_t thread;
	int fd;

	fd = create_file(env);
	bind_slot(env, fd);
	thread = start_loop(env);
	close(fd);
	finish_loop(env, thread);
}

TEST_F(any_access, became_private_in_use)
{
	struct env *env = &self->env;
	pthread_t thread;

	add_plain_slot(env);
	vm_mem_set_shared(env->vm, GPA, SIZE);
	thread = start_loop(env);
	vm_mem_set_private(env->vm, PAGE_GPA, PAGE_SIZE);
	finish_loop(env, thread);
}

/*
 * Accesses of KVM itself end in the same exit.  Data from a port is lost with the
 * exit: the guest executes the instruction again.
 */
FIXTURE(kvm_access) {
	struct env env;
};

FIXTURE_VARIANT(kvm_access) {
	enum access access;
};

FIXTURE_VARIANT_ADD(kvm_access, outs) {
	.access = ACCESS_OUTS,
};

FIXTURE_VARIANT_ADD(kvm_access, ins) {
	.access = ACCESS_INS,
};

FIXTURE_SETUP(kvm_access)
{
	env_setup(&self->env, variant->access);
}

FIXTURE_TEARDOWN(kvm_access)
{
	env_teardown(&self->env);
}

/* Runs to the exit for the port; returns the data of it. */
static uint8_t *run_to_port(struct env *env)
{
	struct kvm_run *run = env->vcpu->run;

	vcpu_run(env->vcpu);
	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_IO);
	TEST_ASSERT_EQ(run->io.port, PORT);
	return (uint8_t *)run + run->io.data_offset;
}

static void expect_kvm_fault(struct env *env)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (env->access == ACCESS_INS)
			*run_to_port(env) = PORT_BYTE;
		vcpu_run_memory_fault(env->vcpu, PAGE_GPA, PRIVATE);
	}
}

/* KVM completes its access to shared memory, which is at @word for the host. */
static void expect_kvm_access(struct env *env, uint8_t *word)
{
	uint8_t *data = run_to_port(env);

	if (env->access == ACCESS_OUTS)
		TEST_ASSERT_EQ(*data, SHARED_BYTE);
	else
		*data = PORT_BYTE;
	run_to_sync(env);
	TEST_ASSERT_EQ(*word, env->access == ACCESS_INS ? PORT_BYTE : SHARED_BYTE);
}

TEST_F(kvm_access, no_slot)
{
	struct env *env = &self->env;

	expect_kvm_fault(env);
	add_plain_slot(env);
	expect_kvm_fault(env);

	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_kvm_access(env, env->hva + ACCESS_GPA - GPA);
}

TEST_F(kvm_access, file_closed)
{
	struct env *env = &self->env;
	int fd = create_file(env);

	bind_slot(env, fd);
	close(fd);
	expect_kvm_fault(env);

	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_kvm_access(env, env->hva + ACCESS_GPA - GPA);
}

/* KVM's walk of the guest's page tables. */
TEST_F(kvm_access, page_table)
{
	struct env *env = &self->env;

	use_missing_table(env);
	expect_kvm_fault(env);

	provide_table(env);
	expect_kvm_access(env, env->hva + PAGE_GPA - GPA + PAGE_SIZE + 0x128);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_MEMORY_FAULT_INFO));

	return test_harness_run(argc, argv);
}
