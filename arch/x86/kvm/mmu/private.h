/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_X86_MMU_PRIVATE_H
#define __KVM_X86_MMU_PRIVATE_H

#include <linux/kvm_gmem.h>

#ifdef CONFIG_KVM_GUEST_MEMFD

struct kvm_page_fault;
struct tdp_iter;

#define KVM_GMEM_RUN_PAGES	64

/*
 * Pages of a guest_memfd that pre-population maps in the same walk as the page of
 * the fault, if that is one of 4 KiB: they come after it, in the same table.  The
 * sequence that the fault has sampled and its check under mmu_lock are theirs, too.
 */
struct kvm_gmem_run {
	/* How many there may be, and how many there are in @pfns. */
	unsigned int max;
	unsigned int nr;
	/* With that of the fault; none if the fault is to be judged by itself. */
	unsigned int mapped;
	/* With a reference each. */
	kvm_pfn_t pfns[KVM_GMEM_RUN_PAGES];
};

/*
 * Is the first access to what @fault maps to be noticed?  Processors without accessed
 * bits can do so only by faulting, which is what mapping ahead is to avoid: what it
 * maps counts as accessed there.
 */
#define kvm_mmu_tracks_access(fault)					\
	((fault)->prefetch && (!(fault)->run || kvm_ad_enabled()))

bool kvm_mmu_next_of_run(struct kvm_page_fault *fault, struct tdp_iter *iter,
			 int r);
bool __kvm_mmu_faultin_private(struct kvm_vcpu *vcpu,
			       struct kvm_page_fault *fault, int *r);
bool kvm_mmu_fault_invalidated(struct kvm *kvm, struct kvm_page_fault *fault);
bool __kvm_private_emulation_denied(struct kvm_vcpu *vcpu, gpa_t gpa);
bool __kvm_private_read_gpte(struct kvm_vcpu *vcpu, gpa_t gpa, void *gpte,
			     unsigned int size, int *r);

/*
 * Decide a fault whose page is in a guest_memfd: on private memory, and on any of a
 * memslot that has no other.  Limit the level of every fault on a VM that has
 * private memory.  Return true if decided: *r is RET_PF_CONTINUE with fault->pfn
 * set, RET_PF_RETRY, or an errno.
 */
static inline bool kvm_mmu_faultin_private(struct kvm_vcpu *vcpu,
					   const struct kvm_memory_slot *slot,
					   struct kvm_page_fault *fault, int *r)
{
	return (kvm_arch_has_private_mem(vcpu->kvm) ||
		kvm_slot_is_gmem_only(slot)) &&
	       __kvm_mmu_faultin_private(vcpu, fault, r);
}

/*
 * Must a private access that needs emulation go to user space instead?  The exit
 * is filled in if so.
 */
static inline bool kvm_private_emulation_denied(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return kvm_arch_has_private_mem(vcpu->kvm) &&
	       __kvm_private_emulation_denied(vcpu, gpa);
}

/* As kvm_gmem_vcpu_access_guest(), for an entry of the guest's page tables. */
static inline bool kvm_private_read_gpte(struct kvm_vcpu *vcpu, gpa_t gpa,
					 void *gpte, unsigned int size, int *r)
{
	return kvm_arch_has_private_mem(vcpu->kvm) &&
	       __kvm_private_read_gpte(vcpu, gpa, gpte, size, r);
}

/* As kvm_gmem_vcpu_cmpxchg_guest(). */
static inline bool kvm_private_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa,
				       const void *old, const void *new,
				       unsigned int size, int *r)
{
	return kvm_arch_has_private_mem(vcpu->kvm) &&
	       kvm_gmem_vcpu_cmpxchg_guest(vcpu, gpa, (void *)old, new, size, r);
}

bool __kvm_private_record_steal_time(struct kvm_vcpu *vcpu,
				     struct gfn_to_hva_cache *ghc);
bool __kvm_private_set_preempted(struct kvm_vcpu *vcpu,
				 struct gfn_to_hva_cache *ghc);

/*
 * Steal time in private memory, private_steal_time.c.  @ghc is up to date and has
 * a memslot.  Return false if the gfn is shared, nothing is done then.
 */
static inline bool kvm_private_record_steal_time(struct kvm_vcpu *vcpu,
						 struct gfn_to_hva_cache *ghc)
{
	return kvm_arch_has_private_mem(vcpu->kvm) &&
	       __kvm_private_record_steal_time(vcpu, ghc);
}

static inline bool kvm_private_set_preempted(struct kvm_vcpu *vcpu,
					     struct gfn_to_hva_cache *ghc)
{
	return kvm_arch_has_private_mem(vcpu->kvm) &&
	       __kvm_private_set_preempted(vcpu, ghc);
}

/*
 * KVM's own accesses to private memory note a failure instead of reporting it,
 * as the callers in between know only "no such memory".  Whoever gives up the
 * instruction or the walk asks here and exits.
 */
static inline void kvm_private_access_reset(struct kvm_vcpu *vcpu)
{
	vcpu->private_access.err = 0;
}

static inline bool kvm_private_access_failed(struct kvm_vcpu *vcpu)
{
	return unlikely(vcpu->private_access.err);
}

/* Return the errno for KVM_RUN, with the exit filled in. */
static inline int kvm_private_access_exit(struct kvm_vcpu *vcpu)
{
	kvm_prepare_memory_fault_exit(vcpu, gfn_to_gpa(vcpu->private_access.gfn),
				      PAGE_SIZE, true);
	return vcpu->private_access.err;
}

/*
 * The callers of the emulator know 0 for "exit to user space" only.  The errno
 * that goes with a memory fault is added at the end of KVM_RUN.
 */
static inline int kvm_private_emulation_exit(struct kvm_vcpu *vcpu)
{
	kvm_private_access_exit(vcpu);
	vcpu->private_access.exiting = true;
	return 0;
}

static inline int kvm_private_access_errno(struct kvm_vcpu *vcpu, int r)
{
	if (likely(!vcpu->private_access.exiting))
		return r;

	vcpu->private_access.exiting = false;
	return vcpu->private_access.err;
}

#else /* !CONFIG_KVM_GUEST_MEMFD */

#define kvm_mmu_faultin_private(vcpu, slot, fault, r)	false
#define kvm_mmu_fault_invalidated(kvm, fault)		false
#define kvm_mmu_tracks_access(fault)			((fault)->prefetch)
#define kvm_mmu_next_of_run(fault, iter, r)		false
#define kvm_private_emulation_denied(vcpu, gpa)		false
#define kvm_private_read_gpte(vcpu, gpa, gpte, size, r)	false
#define kvm_private_access_reset(vcpu)			do { } while (0)
#define kvm_private_access_failed(vcpu)			false
#define kvm_private_access_exit(vcpu)			(-EFAULT)
#define kvm_private_emulation_exit(vcpu)			0
#define kvm_private_access_errno(vcpu, r)		(r)
#define kvm_private_cmpxchg(vcpu, gpa, old, new, size, r) false
#define kvm_private_record_steal_time(vcpu, ghc)		false
#define kvm_private_set_preempted(vcpu, ghc)		false

#endif /* CONFIG_KVM_GUEST_MEMFD */

#endif /* __KVM_X86_MMU_PRIVATE_H */
