// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM's own accesses to private gfns: instruction fetch and operands of the
 * emulator, walks of the guest's page tables, kvm_read_guest() and
 * kvm_write_guest(), structures that KVM and the guest share for long.
 *
 * Where the host is trusted with private memory they use the file's page through
 * the kernel mapping; on other VMs, and where there is no page to use, they fail.
 * They never use the shared alias, which is stale or somebody else's.
 *
 * The copy is done under mmu_lock with the page rechecked, as a fault would map
 * it: a conversion or a hole waits for it or is seen by it.
 */

#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/pagemap.h>

#include "guest_memfd.h"
#include "kvm_mm.h"

static int may_access(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	if (!kvm_arch_private_mem_is_trusted(kvm) || !kvm_slot_can_be_private(slot))
		return -EFAULT;

	return 0;
}

/*
 * Return 1 if the gfn is shared, 0 with mmu_lock held and a reference to the page,
 * or an errno.
 */
static int lock_private_page(struct kvm *kvm, struct kvm_memory_slot *slot,
			     gfn_t gfn, kvm_pfn_t *pfn)
{
	unsigned long seq;
	int r;

	for (;;) {
		seq = READ_ONCE(kvm->mmu_invalidate_seq);
		/* Before attribute and page, see kvm_gfn_invalidate_retry(). */
		smp_rmb();

		if (!kvm_mem_is_private(kvm, gfn))
			return 1;
		r = may_access(kvm, slot);
		if (r)
			return r;

		/* Do not allocate into a hole that is being punched. */
		if (!kvm_gfn_invalidate_pending(kvm, gfn, gfn + 1)) {
			r = kvm_gmem_get_pfn(kvm, slot, gfn, pfn, NULL);
			if (r && r != -EAGAIN)
				return r;
			if (!r) {
				KVM_MMU_READ_LOCK(kvm);
				if (!kvm_gfn_invalidate_retry(kvm, seq, gfn))
					return 0;
				KVM_MMU_READ_UNLOCK(kvm);
				put_page(pfn_to_page(*pfn));
			}
		}
		cond_resched();
	}
}

/*
 * Pages leave the file within brackets only, which begin with mmu_lock held for
 * write.  As long as it is held here, the reference of the page cache is enough, and
 * dropping the caller's does not free anything.
 */
static void map_page(struct kvm *kvm, struct page *page,
		     struct kvm_gmem_kmap *map)
{
	map->kvm = kvm;
	map->kaddr = kmap_local_page(page);
	put_page(page);
}

int kvm_gmem_kmap_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			gfn_t gfn, struct kvm_gmem_kmap *map)
{
	kvm_pfn_t pfn;
	int r = lock_private_page(kvm, slot, gfn, &pfn);

	if (!r)
		map_page(kvm, pfn_to_page(pfn), map);

	return r;
}

/*
 * The page with a reference, if the file has it and it can be used.
 *
 * No reference to the file is needed, dropping one could sleep.  Its release
 * clears the pointer in the slot, then takes mmu_lock for write to invalidate, and
 * frees page and file after that: as long as mmu_lock is held here, a pointer
 * that is set leads to a file that is alive.
 */
static struct page *find_page_locked(struct kvm *kvm,
				     struct kvm_memory_slot *slot, gfn_t gfn)
{
	struct file *file = READ_ONCE(slot->gmem.file);
	struct page *page;

	lockdep_assert_held(&kvm->mmu_lock);

	if (!file)
		return NULL;

	page = find_get_page(file_inode(file)->i_mapping,
			     kvm_gmem_slot_index(slot, gfn));
	if (page && (PageHWPoison(page) || !folio_test_uptodate(page_folio(page)))) {
		put_page(page);
		page = NULL;
	}

	return page;
}

int kvm_gmem_try_kmap_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			    gfn_t gfn, struct kvm_gmem_kmap *map)
{
	struct page *page = NULL;
	int r;

	if (!kvm_mem_is_private(kvm, gfn))
		return 1;
	r = may_access(kvm, slot);
	if (r)
		return r;

	/* To drop the lock there may wake up a task that waits for it. */
	if (IS_ENABLED(CONFIG_PREEMPT_RT) || !KVM_MMU_READ_TRYLOCK(kvm))
		return -EAGAIN;

	if (!kvm_gfn_invalidate_pending(kvm, gfn, gfn + 1) &&
	    kvm_mem_is_private(kvm, gfn))
		page = find_page_locked(kvm, slot, gfn);
	if (!page) {
		KVM_MMU_READ_UNLOCK(kvm);
		return -EAGAIN;
	}

	map_page(kvm, page, map);
	return 0;
}

void kvm_gmem_kunmap_guest(struct kvm_gmem_kmap *map)
{
	kunmap_local(map->kaddr);
	KVM_MMU_READ_UNLOCK(map->kvm);
}

bool kvm_gmem_slot_to_pfn(struct kvm *kvm, struct kvm_memory_slot *slot,
			  gfn_t gfn, kvm_pfn_t *pfn)
{
	int r = lock_private_page(kvm, slot, gfn, pfn);

	if (r > 0)
		return false;
	if (r)
		*pfn = KVM_PFN_ERR_FAULT;
	else
		KVM_MMU_READ_UNLOCK(kvm);

	return true;
}

bool kvm_gmem_access_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			   gfn_t gfn, void *data, unsigned int offset,
			   unsigned int len, bool write, int *r)
{
	struct kvm_gmem_kmap map;

	*r = kvm_gmem_kmap_guest(kvm, slot, gfn, &map);
	if (*r)
		return *r < 0;

	if (write)
		memcpy(map.kaddr + offset, data, len);
	else
		memcpy(data, map.kaddr + offset, len);
	kvm_gmem_kunmap_guest(&map);

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
	struct kvm_gmem_kmap map;

	*r = kvm_gmem_kmap_guest(vcpu->kvm, kvm_vcpu_gfn_to_memslot(vcpu, gfn),
				 gfn, &map);
	if (*r > 0)
		return false;
	if (*r) {
		note_failure(vcpu, gfn, *r);
		return true;
	}

	*r = cmpxchg_at(map.kaddr + offset_in_page(gpa), old, new, size);
	kvm_gmem_kunmap_guest(&map);

	return true;
}
EXPORT_SYMBOL_GPL(kvm_gmem_vcpu_cmpxchg_guest);
