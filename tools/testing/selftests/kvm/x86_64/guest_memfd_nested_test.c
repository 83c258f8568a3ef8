// SPDX-License-Identifier: GPL-2.0
/*
 * A hole in a file while its memslot is being deleted and the guest, for the first
 * time, becomes a host itself.
 *
 * KVM has reverse maps for memslots only from then on, and gives them to the slots
 * that are active.  For a slot that is being deleted this is a copy, which is marked
 * as invalid; the slot to which the file is bound has none, and whoever removes
 * pages must not look for them there.
 */
#include "kvm_gmem_util.h"

#include <pthread.h>

#include "svm_util.h"
#include "vmx.h"

#include "gmem_harness.h"

#define FLAGS		(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

#define SLOT		10
#define GPA		0x40000000UL
#define NR_PAGES	16UL
#define SIZE		(NR_PAGES * PAGE_SIZE)
/* A page that is missing until the test brings it. */
#define HELD_SLOT	11
#define HELD_GPA	0x50000000UL

static void write_pages(void)
{
	uint64_t i;

	for (i = 0; i < NR_PAGES; i++)
		*word_of((void *)GPA, i) = i;
}

static void svm_l2(void)
{
	asm volatile("vmmcall");
}

static void svm_l1(struct svm_test_data *svm, uint64_t nested_cr3)
{
	unsigned long stack[64];

	write_pages();
	GUEST_SYNC(0);
	generic_svm_setup(svm, svm_l2, &stack[64]);
	svm->vmcb->control.nested_ctl |= SVM_NESTED_CTL_NP_ENABLE;
	svm->vmcb->control.nested_cr3 = nested_cr3;
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, (uint32_t)SVM_EXIT_VMMCALL);
	GUEST_SYNC(1);
	write_pages();
}

static void vmx_l2(void)
{
	asm volatile("vmcall");
}

static void vmx_l1(struct vmx_pages *vmx)
{
	unsigned long stack[64];

	write_pages();
	GUEST_SYNC(0);
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, vmx_l2, &stack[64]);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), (uint64_t)EXIT_REASON_VMCALL);
	GUEST_SYNC(1);
	write_pages();
}

FIXTURE(nested) {
	struct kvm_vm *vm;
	/* One that runs, and one that is held up with its memory. */
	struct kvm_vcpu *vcpus[2];
	void *held;
	int uffd;
	int fd;

	pthread_t holder, deleter;
	pid_t deleter_tid;
	/* What the call of the second vCPU says. */
	int err;
};

FIXTURE_SETUP(nested)
{
	bool svm = kvm_cpu_has(X86_FEATURE_NPT);
	struct vmx_pages *vmx;
	vm_vaddr_t state;

	self->vm = vm_create_type_with_vcpus(KVM_X86_DEFAULT_VM, 2, NR_PAGES,
					     svm ? (void *)svm_l1 : (void *)vmx_l1,
					     self->vcpus);
	virt_map(self->vm, GPA, GPA, NR_PAGES);
	if (svm) {
		vcpu_alloc_svm(self->vm, &state);
		vcpu_args_set(self->vcpus[0], 2, state, vm_identity_tables(self->vm));
	} else {
		if (!kvm_vm_has_ept(self->vm))
			SKIP(return, "no nested EPT");
		vmx = vcpu_alloc_vmx(self->vm, &state);
		prepare_eptp(vmx, self->vm, 0);
		nested_map_memslot(vmx, self->vm, 0);
		vcpu_args_set(self->vcpus[0], 1, state);
	}

	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAGS);
	vm_bind_gmem(self->vm, SLOT, GPA, SIZE, self->fd, 0);

	vm_userspace_mem_region_add(self->vm, VM_MEM_SRC_ANONYMOUS, HELD_GPA, HELD_SLOT, 1,
				    0);
	self->held = addr_gpa2hva(self->vm, HELD_GPA);
	self->uffd = userfault_missing(self->held, PAGE_SIZE);
}

FIXTURE_TEARDOWN(nested)
{
	close(self->fd);
	kvm_vm_free(self->vm);
	if (self->uffd >= 0)
		close(self->uffd);
}

static void *holder_main(void *arg)
{
	FIXTURE_DATA(nested) *self = arg;
	uint64_t left;

	self->err = errno_of(__vcpu_pre_fault(self->vcpus[1], HELD_GPA, PAGE_SIZE, &left));
	return NULL;
}

static void *deleter_main(void *arg)
{
	FIXTURE_DATA(nested) *self = arg;

	__atomic_store_n(&self->deleter_tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	vm_delete_slot(self->vm, SLOT);
	return NULL;
}

/*
 * Deleting a slot waits for all vCPUs that may be using it, of which one is held up:
 * time enough.
 */
TEST_F(nested, hole_during_deletion)
{
	char page[PAGE_SIZE] = {};
	struct uffdio_copy copy = {
		.dst = (uintptr_t)self->held,
		.src = (uintptr_t)page,
		.len = PAGE_SIZE,
	};
	struct uffd_msg msg;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd");

	ASSERT_EQ(0, vcpu_run_to_sync(self->vcpus[0]));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));

	ASSERT_EQ(0, pthread_create(&self->holder, NULL, holder_main, self));
	ASSERT_EQ(sizeof(msg), read(self->uffd, &msg, sizeof(msg)));
	ASSERT_EQ(0, pthread_create(&self->deleter, NULL, deleter_main, self));
	wait_until_blocked(&self->deleter_tid);

	ASSERT_EQ(1, vcpu_run_to_sync(self->vcpus[0]));
	gmem_punch_hole(self->fd, SIZE / 2, SIZE / 2);
	EXPECT_EQ(NR_PAGES / 2, gmem_allocated_pages(self->fd));

	ASSERT_EQ(0, ioctl(self->uffd, UFFDIO_COPY, &copy));
	pthread_join(self->holder, NULL);
	pthread_join(self->deleter, NULL);
	EXPECT_EQ(0, self->err);

	/* The slot is gone, for the guest and for the file. */
	vcpu_run(self->vcpus[0]);
	EXPECT_EQ(KVM_EXIT_MMIO, self->vcpus[0]->run->exit_reason);
	EXPECT_EQ(GPA, self->vcpus[0]->run->mmio.phys_addr);
	vm_bind_gmem(self->vm, SLOT, GPA, SIZE, self->fd, 0);
	vm_delete_slot(self->vm, SLOT);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_gmem_flags(FLAGS));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_NPT) || kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
