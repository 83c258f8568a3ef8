// SPDX-License-Identifier: GPL-2.0
/*
 * The contract of KVM_MAP_MEMORY and KVM_PRE_FAULT_MEMORY: the numbers, what is
 * refused with which errno, and what the argument tells afterwards.  Nearly no
 * guest runs here, pre_fault_memory_test has the effects on it.
 *
 * Both calls do the same, and differ in what stops them after some pages: one
 * says 0, as mainline does, and the other says why it stopped.
 *
 * Bugs that others had and that show here: an address above what the MMU can map
 * that ends in a kernel warning; L2's page tables used for addresses of L1;
 * progress that user space is not told about, because the argument cannot be
 * written.
 */
#include "kvm_gmem_util.h"

#include <sys/mount.h>

#include "svm_util.h"
#include "vmx.h"

#include "gmem_harness.h"

/* Private memory, ordinary memory right behind it, and nothing behind that. */
#define PRIVATE_SLOT	10
#define SLOT		11
#define HIGH_SLOT	12
#define NR_PAGES	8ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
#define PRIVATE_GPA	0x40000000ULL
#define GPA		(PRIVATE_GPA + SIZE)
#define HOLE_GPA	(GPA + SIZE)
#define BYTES(npages)	((npages) * PAGE_SIZE)
/* The page that a test has something in mind for. */
#define PAGE		3ULL

#define GUEST_PHYS_BITS	36

#define TDP_MMU		"/sys/module/kvm/parameters/tdp_mmu"
#define PAGEMAP		"/proc/self/pagemap"
#define TRACEFS		"/sys/kernel/tracing"
#define TRACE		TRACEFS "/trace"
#define TRACE_EVENT	TRACEFS "/events/kvmmmu/kvm_mmu_set_spte/enable"
#define POISON		"/sys/kernel/debug/hwpoison/corrupt-pfn"
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"

/* Files of the kernel. */

static int write_number(const char *path, uint64_t number)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", number);
	return errno_of(__write_line(path, text));
}

/* As it was at the start, in whatever way the tests end. */
static char tdp_mmu_was[2];
static pid_t main_pid;

static void restore(void)
{
	if (getpid() != main_pid)
		return;
	__write_line(TDP_MMU, tdp_mmu_was);
	if (!access(TRACE_EVENT, W_OK))
		__write_line(TRACE_EVENT, "0");
}

FIXTURE(call) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	uint8_t *hva;
	int fd;
	uint64_t left;
};

FIXTURE_VARIANT(call) {
	/* The errno of what stops it is not said if there was progress. */
	bool pre_fault;
};

FIXTURE_VARIANT_ADD(call, map_memory) {
};

FIXTURE_VARIANT_ADD(call, pre_fault) {
	.pre_fault = true,
};

static void guest_main(void)
{
	for (;;)
		GUEST_SYNC(0);
}

FIXTURE_SETUP(call)
{
	self->vm = vm_create_type_with_one_vcpu(KVM_X86_SW_PROTECTED_VM, &self->vcpu,
						0, guest_main);
	self->hva = anonymous_pages(2 * SIZE);
	madvise(self->hva, 2 * SIZE, MADV_NOHUGEPAGE);
	self->fd = vm_create_guest_memfd(self->vm, SIZE, 0);
	vm_set_user_memory_region2(self->vm, PRIVATE_SLOT, KVM_MEM_GUEST_MEMFD,
				   PRIVATE_GPA, SIZE, self->hva, self->fd, 0);
	vm_set_user_memory_region(self->vm, SLOT, 0, GPA, SIZE, self->hva + SIZE);
	vm_mem_set_private(self->vm, PRIVATE_GPA, SIZE);
	ASSERT_EQ(0, vm_mapped_pages(self->vm));
}

FIXTURE_TEARDOWN(call)
{
	kvm_vm_free(self->vm);
	if (self->fd >= 0)
		close(self->fd);
	munmap(self->hva, 2 * SIZE);
}

/* An ordinary VM in place of the fixture's, with ordinary memory as that has it. */
static void replace_vm(FIXTURE_DATA(call) *self, void *guest)
{
	/* It pins the VM. */
	close(self->fd);
	self->fd = -1;
	kvm_vm_free(self->vm);
	self->vm = vm_create_with_one_vcpu(&self->vcpu, guest);
	vm_set_user_memory_region(self->vm, SLOT, 0, GPA, SIZE, self->hva + SIZE);
}

/* One call; the errno, and what is left in self->left. */
static int __call(FIXTURE_DATA(call) *self, bool pre_fault, uint64_t gpa,
		  uint64_t size)
{
	return errno_of(pre_fault ? __vcpu_pre_fault(self->vcpu, gpa, size, &self->left) :
				    __vcpu_map_memory(self->vcpu, gpa, size, &self->left));
}

/* It is refused, and nothing is done. */
#define EXPECT_REFUSED(err, gpa, size)						\
do {										\
	uint64_t __mapped = vm_mapped_pages(self->vm), __size = (size);		\
										\
	EXPECT_EQ(err, __call(self, variant->pre_fault, gpa, __size));		\
	EXPECT_EQ(__size, self->left);						\
	EXPECT_EQ(__mapped, vm_mapped_pages(self->vm));				\
} while (0)

/* It maps @npages new pages and leaves @left pages, because of @err. */
#define EXPECT_STOPPED(err, gpa, size, npages, nleft)				\
do {										\
	uint64_t __mapped = vm_mapped_pages(self->vm), __left = BYTES(nleft);	\
										\
	EXPECT_EQ(variant->pre_fault ? 0 : (err),				\
		  __call(self, variant->pre_fault, gpa, size));			\
	EXPECT_EQ(__left, self->left);						\
	EXPECT_EQ(__mapped + (npages), vm_mapped_pages(self->vm));		\
	/* The rest is refused, by both. */					\
	EXPECT_REFUSED(err, (gpa) + (size) - __left, __left);			\
} while (0)

#define EXPECT_MAPPED(gpa, size, npages)					\
do {										\
	uint64_t __mapped = vm_mapped_pages(self->vm);				\
										\
	EXPECT_EQ(0, __call(self, variant->pre_fault, gpa, size));		\
	EXPECT_EQ(0, self->left);						\
	EXPECT_EQ(__mapped + (npages), vm_mapped_pages(self->vm));		\
} while (0)

/* Numbers that are compiled into programs, and into filters of system calls. */
TEST(numbers)
{
	EXPECT_EQ(0xc018aed5UL, KVM_MAP_MEMORY);
	EXPECT_EQ(0xc040aed5UL, KVM_PRE_FAULT_MEMORY);
	EXPECT_EQ(236, KVM_CAP_PRE_FAULT_MEMORY);

	EXPECT_EQ(24, sizeof(struct kvm_memory_mapping));
	EXPECT_EQ(0, offsetof(struct kvm_memory_mapping, base_address));
	EXPECT_EQ(8, offsetof(struct kvm_memory_mapping, size));
	EXPECT_EQ(16, offsetof(struct kvm_memory_mapping, flags));

	EXPECT_EQ(64, sizeof(struct kvm_pre_fault_memory));
	EXPECT_EQ(0, offsetof(struct kvm_pre_fault_memory, gpa));
	EXPECT_EQ(8, offsetof(struct kvm_pre_fault_memory, size));
	EXPECT_EQ(16, offsetof(struct kvm_pre_fault_memory, flags));
	EXPECT_EQ(24, offsetof(struct kvm_pre_fault_memory, padding));
}

TEST_F(call, capability)
{
	struct kvm_vm *vm = vm_create_barebones();

	EXPECT_EQ(1, kvm_check_cap(KVM_CAP_PRE_FAULT_MEMORY));
	EXPECT_EQ(1, vm_check_cap(self->vm, KVM_CAP_PRE_FAULT_MEMORY));
	EXPECT_EQ(1, vm_check_cap(vm, KVM_CAP_PRE_FAULT_MEMORY));
	kvm_vm_free(vm);
}

/* A VM keeps the MMU that it was created with. */
TEST_F(call, no_tdp_mmu)
{
	unsigned int at_system_scope;
	int err = errno_of(__write_line(TDP_MMU, "N"));

	if (err)
		SKIP(return, "%s: errno %d", TDP_MMU, err);

	replace_vm(self, guest_main);
	at_system_scope = kvm_check_cap(KVM_CAP_PRE_FAULT_MEMORY);
	write_line(TDP_MMU, tdp_mmu_was);

	EXPECT_EQ(0, at_system_scope);
	EXPECT_EQ(1, kvm_check_cap(KVM_CAP_PRE_FAULT_MEMORY));
	EXPECT_EQ(0, vm_check_cap(self->vm, KVM_CAP_PRE_FAULT_MEMORY));
	EXPECT_REFUSED(EOPNOTSUPP, GPA, SIZE);
	EXPECT_REFUSED(EINVAL, GPA, SIZE + 1);
}

TEST_F(call, bad_range)
{
	const struct {
		uint64_t gpa;
		uint64_t size;
	} cases[] = {
		{ GPA + 1, SIZE },
		{ GPA - 1, SIZE },
		{ GPA + PAGE_SIZE / 2, PAGE_SIZE },
		{ GPA | 1ULL << 63 | 1, PAGE_SIZE },
		{ GPA, SIZE + 1 },
		{ GPA, SIZE - 1 },
		{ GPA, 1 },
		{ GPA, PAGE_SIZE - 1 },
		{ GPA, 0 },
		{ 0, 0 },
		{ -PAGE_SIZE, PAGE_SIZE },
		{ -PAGE_SIZE, 2 * PAGE_SIZE },
		{ GPA, -GPA },
		{ GPA, -PAGE_SIZE },
		{ GPA, -1ULL },
		{ -1ULL, -1ULL },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++)
		EXPECT_REFUSED(EINVAL, cases[i].gpa, cases[i].size);
	EXPECT_MAPPED(GPA, SIZE, NR_PAGES);
}

TEST_F(call, flags)
{
	int bit;

	for (bit = 0; bit < 64; bit++) {
		struct kvm_memory_mapping map = { GPA, SIZE, 1ULL << bit };
		struct kvm_pre_fault_memory pre_fault = { GPA, SIZE, 1ULL << bit };

		EXPECT_EQ(EINVAL, errno_of(variant->pre_fault ?
			  __vcpu_ioctl(self->vcpu, KVM_PRE_FAULT_MEMORY, &pre_fault) :
			  __vcpu_ioctl(self->vcpu, KVM_MAP_MEMORY, &map)));
		EXPECT_EQ(GPA, map.base_address);
		EXPECT_EQ(SIZE, map.size);
		EXPECT_EQ(1ULL << bit, map.flags);
		EXPECT_EQ(GPA, pre_fault.gpa);
		EXPECT_EQ(SIZE, pre_fault.size);
		EXPECT_EQ(1ULL << bit, pre_fault.flags);
	}
	EXPECT_EQ(0, vm_mapped_pages(self->vm));
}

/* What is behind size and flags is neither looked at nor changed, if it is there. */
TEST_F(call, padding_is_ignored)
{
	struct kvm_pre_fault_memory args;
	int i;

	memset(&args, 0xa5, sizeof(args));
	args.gpa = GPA;
	args.size = SIZE;
	args.flags = 0;
	ASSERT_EQ(0, ioctl(self->vcpu->fd, variant->pre_fault ? KVM_PRE_FAULT_MEMORY :
								KVM_MAP_MEMORY, &args));
	EXPECT_EQ(HOLE_GPA, args.gpa);
	EXPECT_EQ(0, args.size);
	EXPECT_EQ(0, args.flags);
	for (i = 0; i < ARRAY_SIZE(args.padding); i++)
		EXPECT_EQ(0xa5a5a5a5a5a5a5a5ULL, args.padding[i]);
}

/* The argument ends with its page; behind it may be nothing. */
TEST_F(call, argument)
{
	unsigned long cmd = variant->pre_fault ? KVM_PRE_FAULT_MEMORY : KVM_MAP_MEMORY;
	size_t len = _IOC_SIZE(cmd);
	uint8_t *mem = anonymous_pages(3 * PAGE_SIZE);
	/* The two begin alike. */
	struct kvm_memory_mapping *args = (void *)(mem + 2 * PAGE_SIZE - len);

	ASSERT_EQ(0, mprotect(mem, PAGE_SIZE, PROT_NONE));
	ASSERT_EQ(0, mprotect(mem + 2 * PAGE_SIZE, PAGE_SIZE, PROT_NONE));
	args->base_address = GPA;
	args->size = SIZE;

	/* Not readable: none of it, the end, the beginning. */
	EXPECT_EQ(EFAULT, errno_of(ioctl(self->vcpu->fd, cmd, NULL)));
	EXPECT_EQ(EFAULT, errno_of(ioctl(self->vcpu->fd, cmd, -len)));
	EXPECT_EQ(EFAULT, errno_of(ioctl(self->vcpu->fd, cmd, mem)));
	EXPECT_EQ(EFAULT, errno_of(ioctl(self->vcpu->fd, cmd, (uint8_t *)args + 8)));
	EXPECT_EQ(EFAULT, errno_of(ioctl(self->vcpu->fd, cmd, mem + PAGE_SIZE - 8)));

	/* Readable, but user space would not learn what is left. */
	ASSERT_EQ(0, mprotect(mem + PAGE_SIZE, PAGE_SIZE, PROT_READ));
	EXPECT_EQ(EFAULT, errno_of(ioctl(self->vcpu->fd, cmd, args)));
	EXPECT_EQ(0, vm_mapped_pages(self->vm));
	EXPECT_EQ(GPA, args->base_address);
	EXPECT_EQ(SIZE, args->size);

	ASSERT_EQ(0, mprotect(mem + PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, errno_of(ioctl(self->vcpu->fd, cmd, args)));
	EXPECT_EQ(NR_PAGES, vm_mapped_pages(self->vm));
	EXPECT_EQ(HOLE_GPA, args->base_address);
	EXPECT_EQ(0, args->size);
	munmap(mem, 3 * PAGE_SIZE);
}

TEST_F(call, slots)
{
	/* Outside every slot, the APIC's page included. */
	EXPECT_REFUSED(ENOENT, HOLE_GPA, PAGE_SIZE);
	EXPECT_REFUSED(ENOENT, PRIVATE_GPA - PAGE_SIZE, SIZE);
	EXPECT_REFUSED(ENOENT, 0xfee00000ULL, PAGE_SIZE);

	/* Out of a slot. */
	EXPECT_STOPPED(ENOENT, HOLE_GPA - BYTES(2), BYTES(5), 2, 3);
	/* Across two, once as much as is missing and once with nothing missing. */
	EXPECT_MAPPED(PRIVATE_GPA, 2 * SIZE, 2 * NR_PAGES - 2);
	EXPECT_MAPPED(PRIVATE_GPA, 2 * SIZE, 0);

	vm_delete_slot(self->vm, SLOT);
	EXPECT_REFUSED(ENOENT, GPA, SIZE);
	EXPECT_STOPPED(ENOENT, PRIVATE_GPA, 2 * SIZE, NR_PAGES, NR_PAGES);
}

/* The size says how much is wanted, not that it is there: it may be absurd. */
TEST_F(call, huge_size)
{
	uint64_t size = (1ULL << 63) - PAGE_SIZE;

	EXPECT_STOPPED(ENOENT, PRIVATE_GPA, size, 2 * NR_PAGES,
		       size / PAGE_SIZE - 2 * NR_PAGES);
}

/* There is a slot, and addresses in it that the guest does not have. */
TEST_F(call, above_guest_limit)
{
	uint64_t limit = 1ULL << GUEST_PHYS_BITS;

	if (self->vm->pa_bits <= GUEST_PHYS_BITS)
		SKIP(return, "the host has but %u bits", self->vm->pa_bits);

	vcpu_set_cpuid_maxphyaddr(self->vcpu, GUEST_PHYS_BITS);
	vm_set_user_memory_region(self->vm, HIGH_SLOT, 0, limit - BYTES(5), SIZE,
				  self->hva);
	EXPECT_STOPPED(E2BIG, limit - BYTES(5), SIZE, 5, NR_PAGES - 5);
	EXPECT_REFUSED(E2BIG, limit, PAGE_SIZE);
	EXPECT_REFUSED(E2BIG, limit + BYTES(2), PAGE_SIZE);

	/* Not a property of the slot. */
	vcpu_set_cpuid_maxphyaddr(self->vcpu, GUEST_PHYS_BITS + 1);
	EXPECT_MAPPED(limit - BYTES(5), SIZE, NR_PAGES - 5);
}

TEST_F(call, above_host_limit)
{
	int bit;

	for (bit = self->vm->pa_bits; bit < 64; bit++) {
		EXPECT_REFUSED(E2BIG, 1ULL << bit, PAGE_SIZE);
		EXPECT_REFUSED(E2BIG, 1ULL << bit | GPA, SIZE);
	}
	EXPECT_REFUSED(E2BIG, -2 * PAGE_SIZE, PAGE_SIZE);

	/* A guest that believes in more than there is. */
	vcpu_set_cpuid_maxphyaddr(self->vcpu, 52);
	for (bit = self->vm->pa_bits; bit < 64; bit++)
		EXPECT_REFUSED(E2BIG, 1ULL << bit, PAGE_SIZE);
}

TEST_F(call, file_closed)
{
	struct kvm_run *run = self->vcpu->run;

	close(self->fd);
	self->fd = -1;
	run->exit_reason = KVM_EXIT_UNKNOWN;
	EXPECT_REFUSED(EFAULT, PRIVATE_GPA, SIZE);
	/* The guest has not touched it: there is no exit to tell about. */
	EXPECT_EQ(KVM_EXIT_UNKNOWN, run->exit_reason);
	/* Its shared side is none of the file's business. */
	vm_mem_set_shared(self->vm, PRIVATE_GPA, BYTES(PAGE));
	EXPECT_STOPPED(EFAULT, PRIVATE_GPA, SIZE, PAGE, NR_PAGES - PAGE);
}

TEST_F(call, private_without_file)
{
	vm_mem_set_private(self->vm, GPA + BYTES(PAGE), BYTES(2));
	EXPECT_STOPPED(EFAULT, GPA, SIZE, PAGE, NR_PAGES - PAGE);
	EXPECT_REFUSED(EFAULT, GPA + BYTES(PAGE + 1), PAGE_SIZE);
	EXPECT_MAPPED(GPA + BYTES(PAGE + 2), PAGE_SIZE, 1);
	vm_mem_set_shared(self->vm, GPA + BYTES(PAGE), BYTES(2));
	EXPECT_MAPPED(GPA, SIZE, NR_PAGES - PAGE - 1);
}

TEST_F(call, host_has_not_mapped_it)
{
	uint8_t *page = self->hva + SIZE + BYTES(PAGE);

	ASSERT_EQ(0, munmap(page, PAGE_SIZE));
	EXPECT_STOPPED(EFAULT, GPA, SIZE, PAGE, NR_PAGES - PAGE);
	ASSERT_EQ(page, mmap(page, PAGE_SIZE, PROT_NONE, MAP_FIXED | MAP_PRIVATE |
			     MAP_ANONYMOUS, -1, 0));
	EXPECT_REFUSED(EFAULT, GPA + BYTES(PAGE), PAGE_SIZE);
	ASSERT_EQ(0, mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE));
	EXPECT_MAPPED(GPA, SIZE, NR_PAGES - PAGE);
}

/* Memory errors. */

static uint64_t host_pfn(void *hva)
{
	int fd = open(PAGEMAP, O_RDONLY);
	uint64_t entry;

	TEST_ASSERT(fd >= 0 && pread(fd, &entry, 8, (uint64_t)hva / PAGE_SIZE * 8) == 8,
		    "%s: errno %d", PAGEMAP, errno);
	close(fd);
	return entry & ((1ULL << 55) - 1);
}

TEST_F(call, poisoned)
{
	uint8_t *page = self->hva + SIZE + BYTES(PAGE);
	uint64_t pfn;

	memset(self->hva + SIZE, 1, SIZE);
	pfn = host_pfn(page);
	if (madvise(page, PAGE_SIZE, MADV_HWPOISON))
		SKIP(return, "no injection of memory errors, errno %d", errno);

	EXPECT_STOPPED(EHWPOISON, GPA, SIZE, PAGE, NR_PAGES - PAGE);
	EXPECT_MAPPED(GPA + BYTES(PAGE + 1), PAGE_SIZE, 1);

	/* Gone with the page. */
	ASSERT_EQ(0, madvise(page, PAGE_SIZE, MADV_DONTNEED));
	if (!access(UNPOISON, W_OK))
		EXPECT_EQ(0, write_number(UNPOISON, pfn));
	EXPECT_MAPPED(GPA, SIZE, NR_PAGES - PAGE - 1);
}

/* Only KVM's trace tells what page of the machine is behind private memory. */
static uint64_t traced_pfn(uint64_t gpa)
{
	uint64_t gfn, spte, pfn = 0;
	FILE *f = fopen(TRACE, "r");
	char line[512], *p;

	TEST_ASSERT(f, "%s: errno %d", TRACE, errno);
	while (fgets(line, sizeof(line), f)) {
		p = strstr(line, "kvm_mmu_set_spte: gfn ");
		if (p && sscanf(p, "kvm_mmu_set_spte: gfn %lx spte %lx", &gfn, &spte) == 2 &&
		    gfn == gpa / PAGE_SIZE)
			pfn = PTE_GET_PFN(spte);
	}
	fclose(f);
	return pfn;
}

TEST_F(call, private_poisoned)
{
	uint64_t pfn;

	if (access(POISON, W_OK) || __write_line(TRACE_EVENT, "1"))
		SKIP(return, "no injection of memory errors, or no trace");

	write_line(TRACE, "");
	EXPECT_MAPPED(PRIVATE_GPA, SIZE, NR_PAGES);
	write_line(TRACE_EVENT, "0");
	pfn = traced_pfn(PRIVATE_GPA + BYTES(PAGE));
	ASSERT_NE(0, pfn);
	ASSERT_EQ(0, write_number(POISON, pfn));

	EXPECT_STOPPED(EHWPOISON, PRIVATE_GPA, SIZE, 0, NR_PAGES - PAGE);
	EXPECT_MAPPED(PRIVATE_GPA + BYTES(PAGE + 1), PAGE_SIZE, 0);

	gmem_punch_hole(self->fd, BYTES(PAGE), PAGE_SIZE);
	EXPECT_EQ(0, write_number(UNPOISON, pfn));
	EXPECT_MAPPED(PRIVATE_GPA, SIZE, 1);
}

/* A guest that is a host. */

enum {
	IN_L1,
	IN_L2,
};

static void svm_l2(void)
{
	GUEST_SYNC(IN_L2);
	asm volatile("vmmcall");
}

static void svm_l1(struct svm_test_data *svm, uint64_t nested_cr3)
{
	unsigned long stack[64];

	GUEST_SYNC(IN_L1);
	generic_svm_setup(svm, svm_l2, &stack[64]);
	if (nested_cr3) {
		svm->vmcb->control.nested_ctl |= SVM_NESTED_CTL_NP_ENABLE;
		svm->vmcb->control.nested_cr3 = nested_cr3;
	}
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT(svm->vmcb->control.exit_code == SVM_EXIT_VMMCALL);
	GUEST_SYNC(IN_L1);
}

static void vmx_l2(void)
{
	GUEST_SYNC(IN_L2);
	asm volatile("vmcall");
}

static void vmx_l1(struct vmx_pages *vmx)
{
	unsigned long stack[64];

	GUEST_SYNC(IN_L1);
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, vmx_l2, &stack[64]);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT(vmreadz(VM_EXIT_REASON) == EXIT_REASON_VMCALL);
	GUEST_SYNC(IN_L1);
}

static void run_to(struct kvm_vcpu *vcpu, uint64_t where)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, (uint64_t)UCALL_SYNC);
	TEST_ASSERT_EQ((uint64_t)uc.args[1], where);
}

static uint64_t slot0_size(struct kvm_vm *vm)
{
	return memslot2region(vm, 0)->region.memory_size;
}

/* L2 need not know of it: L1's addresses cannot be mapped while it runs. */
#define EXPECT_REFUSED_IN_L2()						\
do {									\
	run_to(self->vcpu, IN_L1);					\
	EXPECT_MAPPED(GPA, BYTES(2), 2);				\
	run_to(self->vcpu, IN_L2);					\
	EXPECT_REFUSED(EOPNOTSUPP, GPA, SIZE);				\
	EXPECT_REFUSED(EOPNOTSUPP, GPA, BYTES(2));			\
	EXPECT_REFUSED(EINVAL, GPA, 0);					\
	run_to(self->vcpu, IN_L1);					\
	EXPECT_MAPPED(GPA, SIZE, NR_PAGES - 2);				\
	/* Page tables for L2, whose changes KVM watches, are no obstacle. */	\
	vcpu_map_memory(self->vcpu, 0, slot0_size(self->vm));		\
} while (0)

TEST_F(call, nested_svm)
{
	vm_vaddr_t svm;

	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested SVM");

	replace_vm(self, svm_l1);
	vcpu_alloc_svm(self->vm, &svm);
	vcpu_args_set(self->vcpu, 2, svm, 0UL);
	EXPECT_REFUSED_IN_L2();
}

TEST_F(call, nested_svm_with_npt)
{
	vm_vaddr_t svm;

	if (!kvm_cpu_has(X86_FEATURE_SVM) || !kvm_cpu_has(X86_FEATURE_NPT))
		SKIP(return, "no nested SVM with nested paging");

	replace_vm(self, svm_l1);
	vcpu_alloc_svm(self->vm, &svm);
	vcpu_args_set(self->vcpu, 2, svm, vm_identity_tables(self->vm));
	EXPECT_REFUSED_IN_L2();
}

TEST_F(call, nested_vmx)
{
	vm_vaddr_t vmx;

	if (!kvm_cpu_has(X86_FEATURE_VMX))
		SKIP(return, "no nested VMX");

	replace_vm(self, vmx_l1);
	vcpu_alloc_vmx(self->vm, &vmx);
	vcpu_args_set(self->vcpu, 1, vmx);
	EXPECT_REFUSED_IN_L2();
}

int main(int argc, char *argv[])
{
	int fd = open(TDP_MMU, O_RDONLY);

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_BINARY_STATS_FD));
	TEST_REQUIRE(kvm_has_private_vms());

	TEST_ASSERT(fd >= 0 && read(fd, tdp_mmu_was, 1) == 1, "%s: errno %d", TDP_MMU,
		    errno);
	close(fd);
	/* Harmless, and refused, where they are mounted already. */
	if (access(TRACE_EVENT, F_OK))
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (access(POISON, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	main_pid = getpid();
	atexit(restore);

	return test_harness_run(argc, argv);
}
