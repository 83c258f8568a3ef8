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

/* The level at which @gpa is mapped, PG_LEVEL_NONE if it is not. */
static int mapped_level(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	u64 sptes[PT64_ROOT_MAX_LEVEL + 1];
	int root_level, level;

	kvm_tdp_mmu_walk_lockless_begin();
	level = kvm_tdp_mmu_get_walk(vcpu, gpa, sptes, &root_level);
	kvm_tdp_mmu_walk_lockless_end();

	if (level < PG_LEVEL_4K || !is_shadow_present_pte(sptes[level]) ||
	    !is_last_spte(sptes[level], level))
		return PG_LEVEL_NONE;

	return level;
}

static int fault_in(struct kvm_vcpu *vcpu, gpa_t gpa, bool write, int *level)
{
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
	};
	int r = kvm_tdp_page_fault(vcpu, &fault);

	*level = fault.goal_level;
	return r;
}

static long bytes_to_end(gpa_t gpa, int level)
{
	unsigned long size = KVM_HPAGE_SIZE(level);

	return size - (gpa & (size - 1));
}

/*
 * Return how many bytes are mapped from @gpa on, 0 if it has to be tried again,
 * or an errno.
 */
long kvm_arch_vcpu_map_memory(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_memory_slot *slot;
	bool write;
	int level;
	int r;

	if (!can_map(vcpu))
		return -EOPNOTSUPP;
	if (!is_addressable(vcpu, gpa))
		return -E2BIG;

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
	level = mapped_level(vcpu, gpa);
	if (level != PG_LEVEL_NONE)
		return bytes_to_end(gpa, level);

	/*
	 * As a write, to get a page of its own instead of the zero page.  But a
	 * mapping of the host may be read-only although the slot is not.
	 */
	write = !(slot->flags & KVM_MEM_READONLY);
	r = fault_in(vcpu, gpa, write, &level);
	if (r == -EFAULT && write)
		r = fault_in(vcpu, gpa, false, &level);
	if (r < 0)
		return r;

	switch (r) {
	case RET_PF_FIXED:
	case RET_PF_SPURIOUS:
	/* Mapped, but writes of the guest are emulated, as for nested MMUs. */
	case RET_PF_EMULATE:
		return bytes_to_end(gpa, level);
	case RET_PF_RETRY:
		return 0;
	default:
		WARN_ON_ONCE(1);
		return -EIO;
	}
}
