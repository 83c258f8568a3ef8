// SPDX-License-Identifier: GPL-2.0
/*
 * Nested VMX whose structures are private memory: VMXON region, VMCS, MSR bitmap,
 * virtual-APIC page and APIC-access page.  KVM reads, writes and maps them itself,
 * and must use the pages of the file, not what the VMM has at their addresses.
 */
#include "kvm_gmem_util.h"
#include "vmx.h"
#include "kselftest_harness.h"

#define GPA		0x40000000ul
#define SLOT		10
#define NR_PAGES	512
#define CANARY		0xca
#define ROUNDS		20
#define TPR		0x50

/* Pages of the slot. */
enum {
	VMXON,
	VMCS,
	MSRS,
	SHADOW_VMCS,
	VIRTUAL_APIC,
	APIC_ACCESS,
	MARK,
	NR_USED,
};

static void *page_of(unsigned int nr)
{
	return (void *)(GPA + nr * PAGE_SIZE);
}

static void guest_l2(void)
{
	uint64_t cr8, round;

	for (round = 1; ; round++) {
		/* From and to the virtual-APIC page, without an exit. */
		asm volatile("mov %%cr8, %0" : "=r" (cr8));
		*word_of(page_of(MARK), 0) = cr8;
		asm volatile("mov %0, %%cr8" : : "r" (round % 16));
		vmcall();
	}
}

static void guest_code(void)
{
	static unsigned long l2_stack[64];
	static struct vmx_pages vmx;
	volatile uint32_t *tpr = page_of(VIRTUAL_APIC) + 0x80;
	uint64_t round;

	memset(page_of(0), 0, NR_USED * PAGE_SIZE);
	vmx.vmxon = page_of(VMXON);
	vmx.vmxon_gpa = GPA + VMXON * PAGE_SIZE;
	vmx.vmcs = page_of(VMCS);
	vmx.vmcs_gpa = GPA + VMCS * PAGE_SIZE;
	vmx.msr = page_of(MSRS);
	vmx.msr_gpa = GPA + MSRS * PAGE_SIZE;
	vmx.shadow_vmcs = page_of(SHADOW_VMCS);
	vmx.shadow_vmcs_gpa = GPA + SHADOW_VMCS * PAGE_SIZE;

	GUEST_ASSERT(prepare_for_vmx_operation(&vmx));
	GUEST_ASSERT(load_vmcs(&vmx));
	prepare_vmcs(&vmx, guest_l2, &l2_stack[ARRAY_SIZE(l2_stack)]);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
		CPU_BASED_TPR_SHADOW | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
		SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, GPA + VIRTUAL_APIC * PAGE_SIZE);
	vmwrite(APIC_ACCESS_ADDR, GPA + APIC_ACCESS * PAGE_SIZE);
	vmwrite(TPR_THRESHOLD, 0);

	*tpr = TPR;
	GUEST_SYNC(0);
	GUEST_ASSERT(!vmlaunch());
	for (round = 1; round <= ROUNDS; round++) {
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
		GUEST_ASSERT_EQ(*word_of(page_of(MARK), 0), TPR >> 4);
		GUEST_ASSERT_EQ(*tpr, (round % 16) << 4);
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
		*tpr = TPR;
		/* Out of KVM, and back: what it has mapped may have moved. */
		GUEST_SYNC(round);
		GUEST_ASSERT(!vmresume());
	}
	GUEST_SYNC(round);
}

TEST(structures_in_private_memory)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *shared;
	uint64_t i;
	int fd;

	vm = vm_create_type_with_one_vcpu(KVM_X86_SW_PROTECTED_VM, &vcpu, NR_PAGES,
					  guest_code);
	fd = vm_create_guest_memfd(vm, NR_PAGES * PAGE_SIZE, 0);
	vm_gmem_region_add(vm, VM_MEM_SRC_ANONYMOUS, GPA, SLOT, NR_PAGES, fd, 0);
	virt_map(vm, GPA, GPA, NR_PAGES);
	vm_mem_set_private(vm, GPA, NR_PAGES * PAGE_SIZE);
	shared = addr_gpa2hva(vm, GPA);
	memset(shared, CANARY, NR_PAGES * PAGE_SIZE);

	for (i = 0; i <= ROUNDS; i++) {
		vcpu_run_to_sync(vcpu);
		/* Neighbours, so that a huge mapping is split and made again. */
		if (i % 2)
			vm_mem_set_private(vm, GPA + NR_USED * PAGE_SIZE, PAGE_SIZE);
		else
			vm_mem_set_shared(vm, GPA + NR_USED * PAGE_SIZE, PAGE_SIZE);
	}
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_TRUE(page_is(shared, i, CANARY));
	close(fd);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	return test_harness_run(argc, argv);
}
