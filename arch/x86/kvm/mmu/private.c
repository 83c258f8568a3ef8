// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults on memory of a guest_memfd, private as a rule: from a gfn to a pfn and a
 * mapping level, or to a KVM_EXIT_MEMORY_FAULT.
 *
 * kvm_faultin_pfn() has sampled mmu_invalidate_seq before it comes here.  The
 * attribute and the page read here are rechecked under mmu_lock, see
 * is_page_fault_stale().
 */

#include "mmu.h"
#include "mmu_internal.h"
#include "private.h"
#include "tdp_iter.h"

#include <trace/events/kvm_gmem.h>

/*
 * The largest level at which the attributes of the block around @gfn agree.  Those
 * of [first, last] are known to.
 */
static u8 uniform_level(struct kvm *kvm, gfn_t gfn, u64 attributes, gfn_t first,
			gfn_t last, u8 level)
{
	for (; level > PG_LEVEL_4K; level--) {
		gfn_t nr = KVM_PAGES_PER_HPAGE(level);
		gfn_t start = gfn & ~(nr - 1);

		if (start >= first && start + nr - 1 <= last)
			break;
		/* Nothing goes on beyond a range that has attributes. */
		if (!attributes &&
		    kvm_range_has_memory_attributes(kvm, start, start + nr, 0))
			break;
	}

	return level;
}

static u8 order_to_level(unsigned int order)
{
	if (order >= KVM_HPAGE_GFN_SHIFT(PG_LEVEL_1G))
		return PG_LEVEL_1G;
	if (order >= KVM_HPAGE_GFN_SHIFT(PG_LEVEL_2M))
		return PG_LEVEL_2M;

	return PG_LEVEL_4K;
}

static int memory_fault_exit(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			     bool private, int err)
{
	/* A prefetch for an asynchronous fault is not the guest's access. */
	if (!fault->prefetch)
		kvm_prepare_memory_fault_exit(vcpu, gfn_to_gpa(fault->gfn),
					      PAGE_SIZE, private);

	return err;
}

static int faultin_gmem_pfn(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			    bool private)
{
	unsigned int order = KVM_HPAGE_GFN_SHIFT(fault->max_level);
	int r;

	if (!kvm_slot_can_be_private(fault->slot))
		return memory_fault_exit(vcpu, fault, private, -EFAULT);

	r = kvm_gmem_get_pfn(vcpu->kvm, fault->slot, fault->gfn, &fault->pfn,
			     &order);
	trace_kvm_gmem_fault(vcpu->vcpu_id, fault->gfn, fault->pfn, order, private, r);
	if (r == -EAGAIN)
		return RET_PF_RETRY;
	if (r)
		return memory_fault_exit(vcpu, fault, private, r);

	fault->max_level = order_to_level(order);
	fault->map_writable = true;
	fault->private = private;
	/* No address of the primary MMU is involved, none can be invalidated. */
	fault->hva = KVM_HVA_ERR_BAD;

	return RET_PF_CONTINUE;
}

/*
 * After the page of @fault: those up to @last, which have the same attributes.  The
 * run ends where something is wrong with a page, a fault on that will tell.
 */
static void faultin_run(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			gfn_t last)
{
	struct kvm_gmem_run *run = fault->run;
	gfn_t in_table = ~fault->gfn & (KVM_PAGES_PER_HPAGE(PG_LEVEL_2M) - 1);
	gfn_t in_slot = fault->slot->base_gfn + fault->slot->npages - 1 - fault->gfn;
	unsigned int nr;

	if (fault->max_level > PG_LEVEL_4K)
		return;

	nr = min3((gfn_t)run->max, in_table, min(in_slot, last - fault->gfn));
	run->nr = kvm_gmem_get_pfns(vcpu->kvm, fault->slot, fault->gfn + 1,
				    run->pfns, nr);
}

/*
 * The page at @iter has been dealt with, with the result @r: is there one to be mapped
 * next?  If so, @iter is there, and fault->pfn is the page.
 */
bool kvm_mmu_next_of_run(struct kvm_page_fault *fault, struct tdp_iter *iter,
			 int r)
{
	struct kvm_gmem_run *run = fault->run;

	if (!run || r == RET_PF_RETRY)
		return false;
	/* Mapped, or its accesses are emulated. */
	if (run->mapped++ == run->nr)
		return false;

	/* The table may have been unlinked meanwhile, or the entry frozen. */
	tdp_iter_next(iter);
	if (!iter->valid || iter->level != PG_LEVEL_4K ||
	    is_removed_spte(iter->old_spte))
		return false;

	fault->pfn = run->pfns[run->mapped - 1];
	return true;
}

bool __kvm_mmu_faultin_private(struct kvm_vcpu *vcpu,
			       struct kvm_page_fault *fault, int *r)
{
	struct kvm *kvm = vcpu->kvm;
	gfn_t first, last;
	u64 attributes;
	bool private;

	/*
	 * It would have to be retried anyway.  Checking early saves the
	 * allocation of a page in a hole that is just being punched.
	 */
	if (kvm_gfn_invalidate_pending(kvm, fault->gfn, fault->gfn + 1)) {
		*r = RET_PF_RETRY;
		return true;
	}

	attributes = kvm_find_memory_attributes(kvm, fault->gfn, &first, &last);
	fault->max_level = uniform_level(kvm, fault->gfn, attributes, first,
					 last, fault->max_level);
	private = attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE;
	if (!private && !kvm_slot_is_gmem_only(fault->slot))
		return false;

	*r = faultin_gmem_pfn(vcpu, fault, private);
	if (fault->run && *r == RET_PF_CONTINUE)
		faultin_run(vcpu, fault, last);

	return true;
}

/*
 * Under mmu_lock.  The level is not decided yet: ask for the largest block that
 * the fault may map.  A run is within one of 2 MiB.
 */
bool kvm_mmu_fault_invalidated(struct kvm *kvm, struct kvm_page_fault *fault)
{
	u8 level = max_t(u8, fault->max_level, fault->run ? PG_LEVEL_2M : 0);
	gfn_t nr = KVM_PAGES_PER_HPAGE(level);
	gfn_t start = fault->gfn & ~(nr - 1);

	return kvm_gfn_invalidate_pending(kvm, start, start + nr);
}

bool __kvm_private_emulation_denied(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	if (kvm_arch_private_mem_is_trusted(vcpu->kvm) ||
	    !kvm_mem_is_private(vcpu->kvm, gpa_to_gfn(gpa)))
		return false;

	kvm_prepare_memory_fault_exit(vcpu, gpa & PAGE_MASK, PAGE_SIZE, true);
	return true;
}

bool __kvm_private_read_gpte(struct kvm_vcpu *vcpu, gpa_t gpa, void *gpte,
			     unsigned int size, int *r)
{
	gfn_t gfn = gpa_to_gfn(gpa);

	return kvm_gmem_vcpu_access_guest(vcpu, kvm_vcpu_gfn_to_memslot(vcpu, gfn),
					  gfn, gpte, offset_in_page(gpa), size,
					  false, r);
}
