// SPDX-License-Identifier: GPL-2.0-only
/*
 * Steal time for a guest that has struct kvm_steal_time in private memory.
 *
 * What record_steal_time() and kvm_steal_time_set_preempted() do at a host
 * virtual address is done here in the file's page, by the same protocol.
 */

#include "cpuid.h"
#include "mmu/private.h"
#include "trace.h"
#include "x86.h"

static struct kvm_steal_time *steal_time(struct kvm_gmem_kmap *map,
					 struct gfn_to_hva_cache *ghc)
{
	return map->kaddr + offset_in_page(ghc->gpa);
}

static void clear_preempted(struct kvm_vcpu *vcpu, struct kvm_steal_time *st)
{
	u8 preempted;

	if (guest_pv_has(vcpu, KVM_FEATURE_PV_TLB_FLUSH)) {
		preempted = xchg(&st->preempted, 0);
		trace_kvm_pv_tlb_flush(vcpu->vcpu_id,
				       preempted & KVM_VCPU_FLUSH_TLB);
		/* Not under mmu_lock, but before the guest is entered. */
		if (preempted & KVM_VCPU_FLUSH_TLB)
			kvm_make_request(KVM_REQ_TLB_FLUSH_GUEST, vcpu);
	} else {
		WRITE_ONCE(st->preempted, 0);
	}

	vcpu->arch.st.preempted = 0;
}

static void add_steal(struct kvm_vcpu *vcpu, struct kvm_steal_time *st)
{
	u64 run_delay = current->sched_info.run_delay;
	u32 version = READ_ONCE(st->version);

	if (version & 1)
		version++;	/* first time write, random junk */

	/* The guest compares the version from before its reads and after. */
	WRITE_ONCE(st->version, ++version);
	/* First odd. */
	smp_wmb();
	WRITE_ONCE(st->steal, READ_ONCE(st->steal) + run_delay -
			      vcpu->arch.st.last_steal);
	/* Last even. */
	smp_wmb();
	WRITE_ONCE(st->version, ++version);

	vcpu->arch.st.last_steal = run_delay;
}

bool __kvm_private_record_steal_time(struct kvm_vcpu *vcpu,
				     struct gfn_to_hva_cache *ghc)
{
	struct kvm_gmem_kmap map;
	int r;

	r = kvm_gmem_kmap_guest(vcpu->kvm, ghc->memslot, gpa_to_gfn(ghc->gpa),
				&map);
	if (r > 0)
		return false;
	if (!r) {
		clear_preempted(vcpu, steal_time(&map, ghc));
		add_steal(vcpu, steal_time(&map, ghc));
		kvm_gmem_kunmap_guest(&map);
	}

	return true;
}

/*
 * The scheduler is switching to another task, with interrupts off and the lock of
 * the run queue held.
 */
bool __kvm_private_set_preempted(struct kvm_vcpu *vcpu,
				 struct gfn_to_hva_cache *ghc)
{
	struct kvm_gmem_kmap map;
	int r;

	r = kvm_gmem_try_kmap_guest(vcpu->kvm, ghc->memslot,
				    gpa_to_gfn(ghc->gpa), &map);
	if (r > 0)
		return false;
	if (!r) {
		WRITE_ONCE(steal_time(&map, ghc)->preempted, KVM_VCPU_PREEMPTED);
		kvm_gmem_kunmap_guest(&map);
		vcpu->arch.st.preempted = KVM_VCPU_PREEMPTED;
	}

	return true;
}
