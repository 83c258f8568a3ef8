// SPDX-License-Identifier: GPL-2.0
/*
 * A guest whose memory is a guest_memfd that the VMM has mapped, on VMs without
 * private memory: guest, VMM and others use the same pages, which the guest gets
 * from the file and from nowhere else.
 *
 * Known bugs of other implementations that are checked here:
 *  - a hole that left shared pages mapped in the guest, as only the mappings of
 *    private ones were removed;
 *  - guest page faults that went by userspace_addr.
 */
#include "gmem_guest.h"

#define BLOCK_DEVICE	"/dev/ram0"
#define NR_PUNCHES	50

/* The file is bound, whatever userspace_addr is. */

enum hva {
	HVA_MAPPING,
	HVA_NONE,
	HVA_UNRELATED,
};

FIXTURE(bound) {
	struct env env;
	/* Must not have been written. */
	void *unrelated;
};

FIXTURE_VARIANT(bound) {
	enum hva hva;
};

FIXTURE_VARIANT_ADD(bound, hva_mapping) {
	.hva = HVA_MAPPING,
};

FIXTURE_VARIANT_ADD(bound, hva_none) {
	.hva = HVA_NONE,
};

FIXTURE_VARIANT_ADD(bound, hva_unrelated) {
	.hva = HVA_UNRELATED,
};

FIXTURE_SETUP(bound)
{
	void *hva = NULL;

	env_setup(&self->env, KVM_X86_DEFAULT_VM, FLAG_MMAP | FLAG_SHARED);
	self->unrelated = anonymous_pages(SIZE);
	memset(self->unrelated, CANARY, SIZE);
	if (variant->hva == HVA_MAPPING)
		hva = self->env.mem;
	else if (variant->hva == HVA_UNRELATED)
		hva = self->unrelated;
	bind_slot(&self->env, hva);
}

FIXTURE_TEARDOWN(bound)
{
	uint64_t i;

	for (i = 0; i < NR_PAGES; i++)
		EXPECT_TRUE(page_is(self->unrelated, i, CANARY));
	munmap(self->unrelated, SIZE);
	env_teardown(&self->env);
}

TEST_F(bound, contents)
{
	struct env *env = &self->env;

	/* Pages that neither has touched, one after the other. */
	host_write(env->mem, 0, NR_PAGES / 2, HOST_VALUE);
	ASSERT_EQ(NR_PAGES / 2, guest_do(env, OP_CHECK, 0, NR_PAGES / 2, HOST_VALUE));
	ASSERT_EQ(NR_PAGES / 2, gmem_allocated_pages(env->fd));
	guest_do(env, OP_CHECK, NR_PAGES / 2, NR_PAGES / 2, 0);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));

	/* And pages that both have. */
	ASSERT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE));
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
	host_write(env->mem, 0, NR_PAGES, HOST_VALUE);
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 0, NR_PAGES, HOST_VALUE));
}

TEST_F(bound, other_process)
{
	struct env *env = &self->env;
	void *mem;
	pid_t pid;

	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		munmap(env->mem, SIZE);
		mem = gmem_map(env->fd, SIZE, FILE_OFFSET);
		host_check(mem, 0, NR_PAGES, GUEST_VALUE);
		host_write(mem, 0, NR_PAGES, OTHER_VALUE);
		_exit(0);
	}
	wait_for_child(pid);
	guest_do(env, OP_CHECK, 0, NR_PAGES, OTHER_VALUE);
}

TEST_F(bound, punch_hole)
{
	struct env *env = &self->env;
	uint64_t before = vm_mapped_pages(env->vm);

	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	ASSERT_EQ(before + NR_PAGES, vm_mapped_pages(env->vm));
	punch(env, 5, 7);
	ASSERT_EQ(before + NR_PAGES - 7, vm_mapped_pages(env->vm));
	ASSERT_EQ(NR_PAGES - 7, gmem_allocated_pages(env->fd));

	ASSERT_EQ(0, guest_do(env, OP_CHECK, 0, 5, GUEST_VALUE));
	ASSERT_EQ(7, guest_do(env, OP_CHECK, 5, 7, 0));
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 12, NR_PAGES - 12, GUEST_VALUE));
	host_check(env->mem, 5, 7, 0);
	host_write(env->mem, 5, 7, HOST_VALUE);
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 5, 7, HOST_VALUE));

	/* Through the mapping. */
	ASSERT_EQ(0, madvise(env->mem, SIZE, MADV_REMOVE));
	ASSERT_EQ(before, vm_mapped_pages(env->vm));
	guest_do(env, OP_CHECK, 0, NR_PAGES, 0);
}

static void *run_count(void *arg)
{
	run_to_sync(arg);
	return NULL;
}

/* No write of the guest may go to the page that has just been removed. */
TEST_F(bound, punch_hole_while_writing)
{
	struct env *env = &self->env;
	pthread_t thread;
	uint64_t before;
	int i;

	set_cmd(env, OP_COUNT, 0, 0, 0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, run_count, env));
	for (i = 0; i < NR_PUNCHES; i++) {
		punch(env, 0, 1);
		before = env->cmd->done;
		/* One write may have been under way, the next one was not. */
		while (env->cmd->done < before + 2)
			sched_yield();
		EXPECT_GT(*word_of(env->mem, 0), before);
		EXPECT_GT(*word_of(env->mem, 1), before);
	}
	env->cmd->stop = 1;
	pthread_join(thread, NULL);
	ASSERT_EQ(env->cmd->done, *word_of(env->mem, 0));
	ASSERT_EQ(env->cmd->done, *word_of(env->mem, 1));
	ASSERT_EQ(2, gmem_allocated_pages(env->fd));
}

/* What the VMM does to its mapping is its own business. */
TEST_F(bound, mapping_changes)
{
	struct env *env = &self->env;
	uint64_t mapped;

	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
	mapped = vm_mapped_pages(env->vm);

	ASSERT_EQ(0, madvise(env->mem, SIZE, MADV_DONTNEED));
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 0, NR_PAGES, GUEST_VALUE));
	ASSERT_EQ(0, mprotect(env->mem, SIZE, PROT_READ));
	ASSERT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, OTHER_VALUE));
	host_check(env->mem, 0, NR_PAGES, OTHER_VALUE);
	ASSERT_EQ(0, mprotect(env->mem, SIZE, PROT_NONE));
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 0, NR_PAGES, OTHER_VALUE));
	ASSERT_EQ(0, munmap(env->mem, SIZE));
	env->mem = NULL;
	ASSERT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE));
	ASSERT_EQ(mapped, vm_mapped_pages(env->vm));

	/* New pages come from the file too. */
	punch(env, 0, 1);
	ASSERT_EQ(1, guest_do(env, OP_CHECK, 0, 1, 0));
	env->mem = gmem_map(env->fd, SIZE, FILE_OFFSET);
	host_check(env->mem, 0, 1, 0);
	host_check(env->mem, 1, NR_PAGES - 1, GUEST_VALUE);
}

TEST_F(bound, closed)
{
	struct env *env = &self->env;
	uint64_t page;
	int i;

	guest_do(env, OP_WRITE, 0, NR_PAGES / 2, GUEST_VALUE);

	/* The mapping is as good as the descriptor. */
	close(env->fd);
	env->fd = -1;
	guest_do(env, OP_CHECK, 0, NR_PAGES / 2, GUEST_VALUE);
	guest_do(env, OP_WRITE, NR_PAGES / 2, NR_PAGES / 4, GUEST_VALUE);
	host_check(env->mem, 0, NR_PAGES * 3 / 4, GUEST_VALUE);

	/* Pages that the guest had, and had not. */
	munmap(env->mem, SIZE);
	env->mem = NULL;
	for (page = 1; page < NR_PAGES; page += NR_PAGES - 2) {
		set_cmd(env, OP_CHECK, page, 1, 0);
		for (i = 0; i < 3; i++)
			vcpu_run_memory_fault(env->vcpu, PAGE_GPA(page), 0);
		vm_delete_slot(env->vm, SLOT);
		env->fd = vm_create_guest_memfd(env->vm, FILE_OFFSET + SIZE, FLAG_MMAP);
		bind_slot(env, NULL);
		run_to_sync(env);
		close(env->fd);
		env->fd = -1;
	}
	set_cmd(env, OP_WRITE, 1, 1, 1);
	vcpu_run_memory_fault(env->vcpu, PAGE_GPA(1), 0);
}

TEST_F(bound, pre_fault)
{
	struct env *env = &self->env;
	uint64_t before = vm_mapped_pages(env->vm);

	host_write(env->mem, 0, NR_PAGES / 2, HOST_VALUE);
	vcpu_pre_fault(env->vcpu, GPA, SIZE);
	ASSERT_EQ(before + NR_PAGES, vm_mapped_pages(env->vm));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	ASSERT_EQ(0, guest_do(env, OP_CHECK, 0, NR_PAGES / 2, HOST_VALUE));
	ASSERT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE));
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
}

/* A disk's DMA, from and to the memory of the guest. */
TEST_F(bound, direct_io)
{
	struct env *env = &self->env;
	int disk = open(BLOCK_DEVICE, O_RDWR | O_DIRECT);

	if (disk < 0)
		SKIP(return, "no " BLOCK_DEVICE);
	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	ASSERT_EQ(SIZE, pwrite(disk, env->mem, SIZE, 0));
	guest_do(env, OP_WRITE, 0, NR_PAGES, OTHER_VALUE);
	punch(env, 0, NR_PAGES / 2);
	ASSERT_EQ(SIZE, pread(disk, env->mem, SIZE, 0));
	guest_do(env, OP_CHECK, 0, NR_PAGES, GUEST_VALUE);
	close(disk);
}

/* A page of the machine fails: nobody goes on with it, or with another in its place. */
TEST_F(bound, memory_failure)
{
	struct env *env = &self->env;
	void *mem;

	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	host_check(env->mem, 0, NR_PAGES, GUEST_VALUE);
	if (madvise(env->mem + BYTES(5), PAGE_SIZE, MADV_HWPOISON)) {
		ASSERT_TRUE(errno == EINVAL || errno == EPERM);
		SKIP(return, "the kernel cannot pretend that memory fails");
	}

	expect_signal(env->mem + BYTES(5), SIGBUS, BUS_MCEERR_AR);
	set_cmd(env, OP_CHECK, 5, 1, 0);
	__vcpu_run_memory_fault(env->vcpu, PAGE_GPA(5), 0, EHWPOISON);
	host_check(env->mem, 6, NR_PAGES - 6, GUEST_VALUE);

	/* A new mapping does not help, a hole does, the old mapping too. */
	mem = gmem_map(env->fd, SIZE, FILE_OFFSET);
	expect_signal(mem + BYTES(5), SIGBUS, BUS_MCEERR_AR);
	punch(env, 5, 1);
	host_check(env->mem, 5, 1, 0);
	host_write(mem, 5, 1, HOST_VALUE);
	host_check(env->mem, 5, 1, HOST_VALUE);
	set_cmd(env, OP_CHECK, 5, 1, HOST_VALUE);
	run_to_sync(env);
	guest_do(env, OP_CHECK, 6, NR_PAGES - 6, GUEST_VALUE);
	munmap(mem, SIZE);
}

/* Room for huge pages, whether the file has any or not. */
TEST(large)
{
	uint64_t pages, mappings, faults;
	struct env env = {};
	void *mem;
	int fd;

	env_setup(&env, KVM_X86_DEFAULT_VM, FLAG_MMAP | FLAG_SHARED);
	fd = vm_create_guest_memfd(env.vm, BYTES(MAX_PAGES), FLAG_MMAP | FLAG_SHARED);
	mem = gmem_map(fd, BYTES(MAX_PAGES), 0);
	vm_set_user_memory_region2(env.vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   BYTES(MAX_PAGES), mem, fd, 0);
	host_write(mem, 0, MAX_PAGES, HOST_VALUE);
	ASSERT_EQ(MAX_PAGES, gmem_allocated_pages(fd));
	pages = vm_mapped_pages(env.vm);
	mappings = vm_mappings(env.vm);
	faults = guest_do(&env, OP_CHECK, 0, MAX_PAGES, HOST_VALUE);
	ASSERT_EQ(pages + MAX_PAGES, vm_mapped_pages(env.vm));
	ASSERT_EQ(mappings + faults, vm_mappings(env.vm));
	ASSERT_EQ(0, guest_do(&env, OP_WRITE, 0, MAX_PAGES, GUEST_VALUE));
	host_check(mem, 0, MAX_PAGES, GUEST_VALUE);
	munmap(mem, BYTES(MAX_PAGES));
	close(fd);
	env_teardown(&env);
}

/* Memory of the guest alone, also on a VM that does not know the difference. */
TEST(not_shared)
{
	struct env env = {};

	env_setup(&env, KVM_X86_DEFAULT_VM, FLAG_MMAP);
	bind_slot(&env, env.mem);
	guest_do(&env, OP_CHECK, 0, NR_PAGES, 0);
	guest_do(&env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	expect_sigbus(env.mem);
	expect_sigbus(env.mem + SIZE - 1);
	ASSERT_EQ(0, guest_do(&env, OP_CHECK, 0, NR_PAGES, GUEST_VALUE));
	punch(&env, 0, 2);
	ASSERT_EQ(2, guest_do(&env, OP_CHECK, 0, 2, 0));
	guest_do(&env, OP_CHECK, 2, NR_PAGES - 2, GUEST_VALUE);
	expect_sigbus(env.mem);
	env_teardown(&env);
}

/* Memory that was loaded by write(), and that the host cannot look at. */

FIXTURE(loaded) {
	struct env env;
};

FIXTURE_VARIANT(loaded) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(loaded, default_vm) {
	.type = KVM_X86_DEFAULT_VM,
	.flags = FLAG_WRITE | FLAG_MMAP,
};

FIXTURE_VARIANT_ADD(loaded, sw_protected_two_sided) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(loaded, sw_protected_in_place) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.flags = FLAG_WRITE | FLAG_MMAP,
};

FIXTURE_SETUP(loaded)
{
	env_setup(&self->env, variant->type, variant->flags);
}

FIXTURE_TEARDOWN(loaded)
{
	env_teardown(&self->env);
}

TEST_F(loaded, contents)
{
	struct env *env = &self->env;
	void *buf = anonymous_pages(SIZE), *canary = anonymous_pages(SIZE);

	host_write(buf, 0, NR_PAGES, HOST_VALUE);
	ASSERT_EQ(SIZE, pwrite(env->fd, buf, SIZE, FILE_OFFSET));
	memset(canary, CANARY, SIZE);
	bind_slot(env, canary);
	if (variant->type == KVM_X86_SW_PROTECTED_VM)
		vm_mem_set_private(env->vm, GPA, SIZE);

	guest_do(env, OP_CHECK, 0, NR_PAGES, HOST_VALUE);
	guest_do(env, OP_WRITE, 0, NR_PAGES, GUEST_VALUE);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	ASSERT_EQ(EEXIST, errno_of(pwrite(env->fd, buf, SIZE, FILE_OFFSET)));
	guest_do(env, OP_CHECK, 0, NR_PAGES, GUEST_VALUE);
	ASSERT_TRUE(page_is(canary, 0, CANARY));
	if (env->mem)
		expect_sigbus(env->mem);

	/* While the guest runs: a hole can be loaded again, and is mapped anew. */
	punch(env, 1, 2);
	ASSERT_EQ(BYTES(2), pwrite(env->fd, buf + BYTES(1), BYTES(2),
				   FILE_OFFSET + BYTES(1)));
	ASSERT_EQ(2, guest_do(env, OP_CHECK, 1, 2, HOST_VALUE));
	munmap(buf, SIZE);
	munmap(canary, SIZE);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_MMAP | FLAG_SHARED | FLAG_WRITE));

	return test_harness_run(argc, argv);
}
