// SPDX-License-Identifier: GPL-2.0-only
/*
 * Holding guest faults off a range of gfns while what is behind it changes.
 *
 * The mmu_notifier's own bracket, kvm_mmu_invalidate_begin() and _end(), is by
 * host virtual address.  Guest memory has none: the userspace_addr of a memslot
 * says where the shared alias is, and any number of slots may say 0.  So a
 * conversion, a hole or a closed file brackets its work by gfn:
 *
 *	mmu_lock: kvm_gfn_invalidate_begin(), _add() and _range() for each slot
 *	change the attribute, remove the page, ...
 *	mmu_lock: kvm_gfn_invalidate_end()
 *
 * After begin nothing is mapped in the range, and until end nothing can be: a
 * fault that looked at the old state, or that looks while it changes, is told to
 * retry by kvm_gfn_invalidate_retry().  A fault asks for the whole block that it
 * may map, not only for its gfn, so that a huge page for a neighbour is not
 * installed across the change.  mmu_notifier events need not look at
 * this bracket, nor it at them: they concern only shared mappings, which take
 * their page from a host virtual address.
 *
 * The sequence counter is the mmu_notifier's, so that a fault samples one.
 */

#include "guest_memfd.h"

/* Pages to unmap in one go where the architecture does not yield. */
#define UNMAP_BATCH_PAGES	(SZ_1G >> PAGE_SHIFT)

void kvm_gfn_invalidate_begin(struct kvm *kvm)
{
	lockdep_assert_held_write(&kvm->mmu_lock);

	if (!kvm->gfn_invalidate.in_progress) {
		WRITE_ONCE(kvm->gfn_invalidate.start, ULLONG_MAX);
		WRITE_ONCE(kvm->gfn_invalidate.end, 0);
	}
	WRITE_ONCE(kvm->gfn_invalidate.in_progress,
		   kvm->gfn_invalidate.in_progress + 1);
}

/*
 * The caches hold no reference to their page, be it the file's or the alias.
 * Waits for users, and for KVM_GUEST_USES_PFN until the vCPUs have left the guest.
 * Whoever fills a cache meanwhile finds the range, see hva_to_pfn_retry().
 */
static void invalidate_caches(struct kvm *kvm, gfn_t start, gfn_t end)
{
	struct gfn_to_pfn_cache *gpc;
	bool evict_vcpus = false;
	gfn_t gfn;

	spin_lock(&kvm->gpc_lock);
	list_for_each_entry(gpc, &kvm->gpc_list, list) {
		write_lock_irq(&gpc->lock);
		gfn = gpa_to_gfn(gpc->gpa);
		if (gpc->valid && gfn >= start && gfn < end) {
			gpc->valid = false;
			evict_vcpus |= gpc->usage & KVM_GUEST_USES_PFN;
		}
		write_unlock_irq(&gpc->lock);
	}
	spin_unlock(&kvm->gpc_lock);

	if (evict_vcpus)
		kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE);
}

/*
 * As for the mmu_notifier, the range is the union of what all invalidations in
 * progress have added and shrinks only when the last one ends: they are short
 * and rarely concurrent.
 */
void kvm_gfn_invalidate_add(struct kvm *kvm, gfn_t start, gfn_t end)
{
	lockdep_assert_held_write(&kvm->mmu_lock);
	WARN_ON_ONCE(!kvm->gfn_invalidate.in_progress);

	WRITE_ONCE(kvm->gfn_invalidate.start,
		   min(kvm->gfn_invalidate.start, start));
	WRITE_ONCE(kvm->gfn_invalidate.end, max(kvm->gfn_invalidate.end, end));
	invalidate_caches(kvm, start, end);
}

/*
 * Unmap a range that has been added.  May drop and retake mmu_lock, which is
 * harmless within the bracket, so that a terabyte does not stall the vCPUs that
 * fault elsewhere.  Flushes before it returns: the caller frees pages next.
 */
void kvm_gfn_invalidate_range(struct kvm *kvm, struct kvm_memory_slot *slot,
			      gfn_t start, gfn_t end)
{
	struct kvm_gfn_range range = {
		.slot = slot,
		.may_block = true,
	};
	gfn_t batch = kvm_arch_unmap_yields(slot) ? end - start : UNMAP_BATCH_PAGES;
	bool flush = false;

	lockdep_assert_held_write(&kvm->mmu_lock);

	for (; start < end; start = range.end) {
		range.start = start;
		range.end = min(end, start + batch);
		flush |= kvm_unmap_gfn_range(kvm, &range);

		if (range.end == end ||
		    (!need_resched() && !rwlock_needbreak(&kvm->mmu_lock)))
			continue;

		/* Whoever gets the lock may rely on "not mapped, no TLB entry". */
		if (flush) {
			kvm_flush_remote_tlbs(kvm);
			flush = false;
		}
		cond_resched_rwlock_write(&kvm->mmu_lock);
	}

	if (flush)
		kvm_flush_remote_tlbs(kvm);
}

void kvm_gfn_invalidate_end(struct kvm *kvm)
{
	lockdep_assert_held_write(&kvm->mmu_lock);

	WRITE_ONCE(kvm->mmu_invalidate_seq, kvm->mmu_invalidate_seq + 1);
	/*
	 * A fault that no longer sees the range sees the new sequence.  Pairs
	 * with kvm_gfn_invalidate_retry().
	 */
	smp_wmb();
	WARN_ON_ONCE(!kvm->gfn_invalidate.in_progress);
	WRITE_ONCE(kvm->gfn_invalidate.in_progress,
		   kvm->gfn_invalidate.in_progress - 1);
}
