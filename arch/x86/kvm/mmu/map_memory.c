// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mapping a gfn for a vCPU as if the guest had touched it: KVM_MAP_MEMORY and
 * KVM_PRE_FAULT_MEMORY.
 *
 * Only the TDP MMU, and only guest physical addresses of L1.  While L2 runs, the
 * vCPU's MMU may be that of L2, and the other cannot be used without loading its
 * root into a control structure that L2 owns.
 */

#include "cpuid.h"
#include "mmu.h"
#include "mmu_internal.h"
#include "private.h"
#include "spte.h"
#include "tdp_iter.h"
#include "tdp_mmu.h"
#include "x86.h"

static bool can_map(struct kvm_vcpu *vcpu)
{
	return is_tdp_mmu_enabled(vcpu->kvm) && !is_guest_mode(vcpu) &&
	       vcpu->arch.mmu->page_fault == kvm_tdp_page_fault;
}

/* May the guest use the address, and can the MMU map it? */
static bool is_addressable(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return kvm_vcpu_is_legal_gpa(vcpu, gpa) &&
	       gpa_to_gfn(gpa) <= kvm_mmu_max_gfn();
}

/*
 * kvm_mmu_reload() keeps a root that has become obsolete until the request is
 * handled, which otherwise happens only when the guest is entered.
 */
static int load_current_root(struct kvm_vcpu *vcpu)
{
	if (kvm_check_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, vcpu))
		kvm_mmu_free_obsolete_roots(vcpu);

	return kvm_mmu_reload(vcpu);
}

static long bytes_to_end(gpa_t gpa, int level)
{
	unsigned long size = KVM_HPAGE_SIZE(level);

	return size - (gpa & (size - 1));
}

/*
 * How many bytes are mapped from @gpa on; 0 if it is not.  Looks no further than
 * @size and the table of 4 KiB pages that it finds.
 */
static long mapped_bytes(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size)
{
	struct kvm_mmu_page *root = to_shadow_page(vcpu->arch.mmu->root.hpa);
	gfn_t gfn = gpa_to_gfn(gpa), past = gfn;
	struct tdp_iter iter;

	size = min_t(u64, size, bytes_to_end(gpa, PG_LEVEL_2M));

	kvm_tdp_mmu_walk_lockless_begin();
	for_each_tdp_pte(iter, root, gfn, gfn + (size >> PAGE_SHIFT)) {
		if (!is_shadow_present_pte(iter.old_spte))
			break;
		if (is_last_spte(iter.old_spte, iter.level))
			past = iter.gfn + KVM_PAGES_PER_HPAGE(iter.level);
	}
	kvm_tdp_mmu_walk_lockless_end();

	return gfn_to_gpa(past - gfn);
}

/* As a fault; in *@mapped how many bytes are mapped from @gpa on if it succeeds. */
static int fault_in(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size, bool write,
		    long *mapped)
{
	struct kvm_gmem_run run = {
		.max = min_t(u64, size >> PAGE_SHIFT, KVM_GMEM_RUN_PAGES + 1) - 1,
	};
	struct kvm_page_fault fault = {
		.addr = gpa,
		.error_code = write ? PFERR_WRITE_MASK : 0,
		.write = write,
		/* Not an access: no accessed bit, no exit, no async fault. */
		.prefetch = true,
		.is_tdp = true,
		.nx_huge_page_workaround_enabled =
			is_nx_huge_page_enabled(vcpu->kvm),

		.max_level = KVM_MAX_HUGEPAGE_LEVEL,
		.req_level = PG_LEVEL_4K,
		.goal_level = PG_LEVEL_4K,
		.run = &run,
	};
	unsigned int i;
	int r;

	r = kvm_tdp_page_fault(vcpu, &fault);
	for (i = 0; i < run.nr; i++)
		put_page(pfn_to_page(run.pfns[i]));

	*mapped = bytes_to_end(gpa, fault.goal_level);
	if (!run.mapped)
		return r;

	/* The result is that of the last page, which may have to be tried again. */
	*mapped += (run.mapped - 1) * PAGE_SIZE;
	return RET_PF_FIXED;
}

/*
 * KVM does not tell why it did not get a page of user space for writing: may it only be
 * read, or is there no memory?  Ask again; 0 if the page is to be had by now.
 */
static int try_to_write(struct kvm_memory_slot *slot, gfn_t gfn)
{
	struct page *page;
	long r = get_user_pages_unlocked(gfn_to_hva_memslot(slot, gfn), 1, &page,
					 FOLL_WRITE);

	if (r == 1) {
		put_page(page);
		return 0;
	}

	return r ? r : -EFAULT;
}

long kvm_arch_vcpu_map_memory(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size)
{
	struct kvm_memory_slot *slot;
	long mapped;
	bool write;
	int r;

	if (!can_map(vcpu))
		return -EOPNOTSUPP;
	if (!is_addressable(vcpu, gpa))
		return -E2BIG;
	/* What follows in the table may lie beyond the addresses of the guest. */
	if (!is_addressable(vcpu, gpa + size - 1))
		size = PAGE_SIZE;

	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
	/* On its way to be deleted or moved: the fault could only retry. */
	if (slot && slot->flags & KVM_MEMSLOT_INVALID)
		return -EAGAIN;
	if (!kvm_is_visible_memslot(slot))
		return -ENOENT;

	r = load_current_root(vcpu);
	if (r)
		return r;

	/* To fault again could only change what the guest has done with it. */
	mapped = mapped_bytes(vcpu, gpa, size);
	if (mapped)
		return mapped;

	/*
	 * As a write, to get a page of its own instead of the zero page.  But a
	 * mapping of the host may be read-only although the slot is not.
	 */
	write = !(slot->flags & KVM_MEM_READONLY);
	r = fault_in(vcpu, gpa, size, write, &mapped);
	if (r == -EFAULT && write && !kvm_slot_is_gmem_only(slot) &&
	    !kvm_mem_is_private(vcpu->kvm, gpa_to_gfn(gpa))) {
		r = try_to_write(slot, gpa_to_gfn(gpa));
		if (!r)
			return 0;
		if (r == -EFAULT)
			r = fault_in(vcpu, gpa, size, false, &mapped);
	}
	if (r < 0)
		return r;

	switch (r) {
	case RET_PF_FIXED:
	case RET_PF_SPURIOUS:
	/* Mapped, but writes of the guest are emulated, as for nested MMUs. */
	case RET_PF_EMULATE:
		return mapped;
	case RET_PF_RETRY:
		return 0;
	default:
		WARN_ON_ONCE(1);
		return -EIO;
	}
}
