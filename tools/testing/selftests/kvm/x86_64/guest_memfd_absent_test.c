// SPDX-License-Identifier: GPL-2.0
/*
 * VMs without the TDP MMU: nothing of guest_memfd is offered to them, each call for
 * it fails with the documented errno, and their guests run as ever.
 *
 * Switches the TDP MMU off for the VMs that it makes; on a host that was booted
 * with kvm.tdp_mmu=0, or without nested paging, it is off already.
 */
#include "kvm_gmem_util.h"
#include "kselftest_harness.h"

#define TDP_MMU_PARAM	"/sys/module/kvm/parameters/tdp_mmu"
#define GPA		0x40000000ul
#define SLOT		10
#define NR_PAGES	8

static void guest_code(void)
{
	uint64_t i;

	for (;;) {
		for (i = 0; i < NR_PAGES; i++) {
			GUEST_ASSERT_EQ(*word_of((void *)GPA, i), i + 1);
			*word_of((void *)GPA, i) = 2 * i;
		}
		GUEST_SYNC(0);
	}
}

/* "vm" does without the TDP MMU, "other" has it, if this host does. */
FIXTURE(absent) {
	int param;
	char was;
	size_t size;
	struct kvm_vm *other;
	int fd;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(absent)
{
	self->size = NR_PAGES * getpagesize();
	self->fd = -1;
	self->param = open(TDP_MMU_PARAM, O_RDWR);
	if (self->param >= 0) {
		ASSERT_EQ(1, pread(self->param, &self->was, 1, 0));
		if (kvm_has_gmem()) {
			self->other = vm_create_barebones();
			self->fd = vm_create_guest_memfd(self->other, self->size, 0);
		}
		ASSERT_EQ(1, pwrite(self->param, "N", 1, 0));
	}
	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest_code);
}

FIXTURE_TEARDOWN(absent)
{
	kvm_vm_free(self->vm);
	if (self->param >= 0) {
		EXPECT_EQ(1, pwrite(self->param, &self->was, 1, 0));
		close(self->param);
	}
	if (self->other) {
		close(self->fd);
		kvm_vm_free(self->other);
	}
}

TEST_F(absent, capabilities)
{
	int kvm_fd = open_kvm_dev_path_or_exit();

	ASSERT_EQ(1 << KVM_X86_DEFAULT_VM, kvm_check_cap(KVM_CAP_VM_TYPES));
	ASSERT_EQ(EINVAL, errno_of(ioctl(kvm_fd, KVM_CREATE_VM,
					 KVM_X86_SW_PROTECTED_VM)));
	close(kvm_fd);

	ASSERT_EQ(0, kvm_check_cap(KVM_CAP_GUEST_MEMFD));
	ASSERT_EQ(0, kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS));
	ASSERT_EQ(0, kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES));
	ASSERT_EQ(0, kvm_check_cap(KVM_CAP_PRE_FAULT_MEMORY));

	ASSERT_EQ(0, vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD));
	ASSERT_EQ(0, vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS));
	ASSERT_EQ(0, vm_check_cap(self->vm, KVM_CAP_MEMORY_ATTRIBUTES));
	ASSERT_EQ(0, vm_check_cap(self->vm, KVM_CAP_PRE_FAULT_MEMORY));

	/* For ordinary memory this ioctl is as good as its predecessor. */
	ASSERT_EQ(1, vm_check_cap(self->vm, KVM_CAP_USER_MEMORY2));
}

TEST_F(absent, calls)
{
	uint64_t left;

	ASSERT_EQ(ENOTTY, errno_of(__vm_create_guest_memfd(self->vm, self->size, 0)));
	ASSERT_EQ(EINVAL, errno_of(__vm_bind_gmem(self->vm, SLOT, GPA, self->size,
						  self->fd, 0)));
	ASSERT_EQ(EINVAL, errno_of(__vm_set_memory_attributes(self->vm, GPA, self->size,
							      KVM_MEMORY_ATTRIBUTE_PRIVATE)));
	vm_mem_set_shared(self->vm, GPA, self->size);
	ASSERT_EQ(EOPNOTSUPP, errno_of(__vcpu_pre_fault(self->vcpu, 0, self->size, &left)));
	ASSERT_EQ(self->size, left);
	ASSERT_EQ(EOPNOTSUPP, errno_of(__vcpu_map_memory(self->vcpu, 0, self->size, &left)));
	ASSERT_EQ(self->size, left);
}

TEST_F(absent, guest_runs)
{
	void *mem = anonymous_pages(self->size);
	uint64_t i;
	int round;

	vm_set_user_memory_region2(self->vm, SLOT, 0, GPA, self->size, mem, 0, 0);
	virt_map(self->vm, GPA, GPA, NR_PAGES);
	for (round = 0; round < 3; round++) {
		for (i = 0; i < NR_PAGES; i++)
			*word_of(mem, i) = i + 1;
		vcpu_run_to_sync(self->vcpu);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(2 * i, *word_of(mem, i));
		/* Other pages for the guest. */
		ASSERT_EQ(0, madvise(mem, self->size, MADV_DONTNEED));
	}
	vm_delete_slot(self->vm, SLOT);
	munmap(mem, self->size);
}

/* A VM keeps what it was made with. */
TEST_F(absent, other_vms_keep_it)
{
	if (!self->other)
		SKIP(return, "this host has no guest_memfd to switch off");

	ASSERT_EQ(1, vm_check_cap(self->other, KVM_CAP_GUEST_MEMFD));
	vm_bind_gmem(self->other, SLOT, GPA, self->size, self->fd, 0);
	close(vm_create_guest_memfd(self->other, self->size, 0));
	vm_delete_slot(self->other, SLOT);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_USER_MEMORY2));
	TEST_REQUIRE(!kvm_has_gmem() || !access(TDP_MMU_PARAM, W_OK));

	return test_harness_run(argc, argv);
}
