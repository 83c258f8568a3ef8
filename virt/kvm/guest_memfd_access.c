// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM's own accesses to private gfns: instruction fetch and operands of the
 * emulator, walks of the guest's page tables, kvm_read_guest() and
 * kvm_write_guest().
 *
 * Where the host is trusted with private memory they use the file's page through
 * the kernel mapping; on other VMs, and where there is no page to use, they fail.
 * They never use the shared alias, which is stale or somebody else's.
 *
 * The copy is done under mmu_lock with the page rechecked, as a fault would map
 * it: a conversion or a hole waits for it or is seen by it.
 */

#include <linux/highmem.h>
#include <linux/pagemap.h>

#include "guest_memfd.h"
#include "kvm_mm.h"

struct private_page {
	struct kvm *kvm;
	struct page *page;
	void *kaddr;
};

static int may_access(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	if (!kvm_arch_private_mem_is_trusted(kvm) || !kvm_slot_can_be_private(slot))
		return -EFAULT;

	return 0;
}

/*
 * Return 1 if the gfn is shared, 0 with mmu_lock held and the page mapped, or an
 * errno.
 */
static int map_private_page(struct kvm *kvm, struct kvm_memory_slot *slot,
			    gfn_t gfn, struct private_page *p)
{
	unsigned long seq;
	kvm_pfn_t pfn;
	int r;

	for (;;) {
		seq = kvm->mmu_invalidate_seq;
		/* Before attribute and page, see kvm_gfn_invalidate_retry(). */
		smp_rmb();

		if (!kvm_mem_is_private(kvm, gfn))
			return 1;
		r = may_access(kvm, slot);
		if (r)
			return r;

		/* Do not allocate into a hole that is being punched. */
		if (!kvm_gfn_invalidate_pending(kvm, gfn, gfn + 1)) {
			r = kvm_gmem_get_pfn(kvm, slot, gfn, &pfn, NULL);
			if (r && r != -EAGAIN)
				return r;
			if (!r) {
				KVM_MMU_READ_LOCK(kvm);
				if (!kvm_gfn_invalidate_retry(kvm, seq, gfn))
					break;
				KVM_MMU_READ_UNLOCK(kvm);
				put_page(pfn_to_page(pfn));
			}
		}
		cond_resched();
	}

	p->kvm = kvm;
	p->page = pfn_to_page(pfn);
	p->kaddr = kmap_local_page(p->page);
	return 0;
}

static void unmap_private_page(struct private_page *p)
{
	kunmap_local(p->kaddr);
	KVM_MMU_READ_UNLOCK(p->kvm);
	put_page(p->page);
}

bool kvm_gmem_access_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			   gfn_t gfn, void *data, unsigned int offset,
			   unsigned int len, bool write, int *r)
{
	struct private_page p;

	*r = map_private_page(kvm, slot, gfn, &p);
	if (*r)
		return *r < 0;

	if (write)
		memcpy(p.kaddr + offset, data, len);
	else
		memcpy(data, p.kaddr + offset, len);
	unmap_private_page(&p);

	return true;
}

/* The architecture makes an exit of it when the instruction is given up. */
static void note_failure(struct kvm_vcpu *vcpu, gfn_t gfn, int err)
{
	vcpu->private_access.gfn = gfn;
	vcpu->private_access.err = err;
}

bool kvm_gmem_vcpu_access_guest(struct kvm_vcpu *vcpu,
				struct kvm_memory_slot *slot, gfn_t gfn,
				void *data, unsigned int offset,
				unsigned int len, bool write, int *r)
{
	if (!kvm_gmem_access_guest(vcpu->kvm, slot, gfn, data, offset, len,
				   write, r))
		return false;
	if (*r)
		note_failure(vcpu, gfn, *r);

	return true;
}

/*
 * The callers hold mmu_lock for write, or are content with a value that may be
 * outdated at once: no bracket is needed here.
 */
bool kvm_gmem_vcpu_read_guest_atomic(struct kvm_vcpu *vcpu,
				     struct kvm_memory_slot *slot, gfn_t gfn,
				     void *data, unsigned int offset,
				     unsigned int len, int *r)
{
	struct page *page;
	void *kaddr;

	if (!kvm_mem_is_private(vcpu->kvm, gfn))
		return false;

	*r = may_access(vcpu->kvm, slot);
	if (*r)
		return true;

	page = kvm_gmem_find_page(slot, gfn);
	if (!page) {
		*r = -EFAULT;
		return true;
	}

	kaddr = kmap_local_page(page);
	memcpy(data, kaddr + offset, len);
	kunmap_local(kaddr);
	put_page(page);

	return true;
}

/* Return 0 if exchanged, 1 if not; *old is what was found. */
static int cmpxchg_at(void *ptr, void *old, const void *new, unsigned int size)
{
	switch (size) {
	case 1:
		return !try_cmpxchg((u8 *)ptr, (u8 *)old, *(u8 *)new);
	case 2:
		return !try_cmpxchg((u16 *)ptr, (u16 *)old, *(u16 *)new);
	case 4:
		return !try_cmpxchg((u32 *)ptr, (u32 *)old, *(u32 *)new);
	case 8:
		return !try_cmpxchg((u64 *)ptr, (u64 *)old, *(u64 *)new);
	default:
		return -EINVAL;
	}
}

bool kvm_gmem_vcpu_cmpxchg_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *old,
				 const void *new, unsigned int size, int *r)
{
	gfn_t gfn = gpa_to_gfn(gpa);
	struct private_page p;

	*r = map_private_page(vcpu->kvm, kvm_vcpu_gfn_to_memslot(vcpu, gfn),
			      gfn, &p);
	if (*r > 0)
		return false;
	if (*r) {
		note_failure(vcpu, gfn, *r);
		return true;
	}

	*r = cmpxchg_at(p.kaddr + offset_in_page(gpa), old, new, size);
	unmap_private_page(&p);

	return true;
}
EXPORT_SYMBOL_GPL(kvm_gmem_vcpu_cmpxchg_guest);
