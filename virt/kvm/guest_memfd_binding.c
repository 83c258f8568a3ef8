// SPDX-License-Identifier: GPL-2.0-only
/*
 * One VM's view of a guest_memfd: which memslot takes its memory from which
 * range of the file, and how the guest's mappings go away.
 *
 * Lifetimes.  The file pins the VM, never the reverse, else closing the VM would
 * not be enough to end it.  A memslot has a pointer to the file without a
 * reference:
 * - release of the file clears the pointer under slots_lock.  An unbind under
 *   slots_lock therefore finds a live kvm_gmem or NULL, even if the last
 *   reference to the file is already gone;
 * - a fault has no slots_lock.  It reads the pointer under RCU, which delays the
 *   freeing of struct file, and takes a reference unless the count is zero;
 * - when the VM is destroyed no file is left, as each would pin the VM.
 *
 * In the bindings a memslot may be several entries, as a range of the XArray is
 * split into naturally aligned blocks; they are neighbours.
 */

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/pagemap.h>

#include <trace/events/kvm_gmem.h>

#include "guest_memfd.h"
#include "kvm_mm.h"

struct kvm_gmem *kvm_gmem_alloc(struct kvm *kvm)
{
	struct kvm_gmem *gmem;

	gmem = kzalloc(sizeof(*gmem), GFP_KERNEL_ACCOUNT);
	if (!gmem)
		return NULL;

	mutex_init(&gmem->bindings_lock);
	INIT_LIST_HEAD(&gmem->held);
	xa_init_flags(&gmem->bindings, XA_FLAGS_ACCOUNT);
	kvm_get_kvm(kvm);
	gmem->kvm = kvm;

	return gmem;
}

/* No binding is left. */
void kvm_gmem_free(struct kvm_gmem *gmem)
{
	struct kvm *kvm = gmem->kvm;

	WARN_ON_ONCE(!xa_empty(&gmem->bindings));
	xa_destroy(&gmem->bindings);
	kfree(gmem);
	/* Last, it may destroy the VM. */
	kvm_put_kvm(kvm);
}

/*
 * The memslot that vCPUs find in the place of the bound @slot, NULL if there is none:
 * it is not active yet, or not any more, and nothing is mapped through it.  While
 * @slot is being deleted it is a copy, marked as invalid.  What the architecture needs
 * to unmap, as reverse maps, is only sure to be in this one.  The caller is in an SRCU
 * read section, and mmu_lock makes the answer hold for what is mapped.
 */
struct kvm_memory_slot *kvm_gmem_active_slot(struct kvm *kvm,
					     struct kvm_memory_slot *slot)
{
	return id_to_memslot(__kvm_memslots(kvm, slot->as_id), slot->id);
}

/*
 * Unmap the pages [start, end) of the file from the guest and hold off faults on
 * [first, past), which includes them, until kvm_gmem_invalidate_end().  Callers that
 * remove folios hold the invalidate lock, which keeps new bindings out in between.
 */
void kvm_gmem_invalidate_begin(struct kvm_gmem *gmem, pgoff_t start,
			       pgoff_t end, pgoff_t first, pgoff_t past)
{
	struct kvm_memory_slot *slot, *active, *prev = NULL;
	struct kvm *kvm = gmem->kvm;
	unsigned long index;
	int srcu_idx;

	srcu_idx = srcu_read_lock(&kvm->srcu);
	mutex_lock(&gmem->bindings_lock);
	KVM_MMU_LOCK(kvm);
	kvm_gfn_invalidate_begin(kvm);
	xa_for_each_range(&gmem->bindings, index, slot, first, past - 1) {
		pgoff_t slot_start = slot->gmem.pgoff;
		pgoff_t slot_end = slot_start + slot->npages;

		if (slot == prev)
			continue;
		prev = slot;

		kvm_gfn_invalidate_add(kvm,
				       kvm_gmem_slot_gfn(slot, max(first, slot_start)),
				       kvm_gmem_slot_gfn(slot, min(past, slot_end)));
		if (slot_start >= end || slot_end <= start)
			continue;
		/* If it becomes active from here on, its faults see the bracket. */
		active = kvm_gmem_active_slot(kvm, slot);
		if (!active)
			continue;
		kvm_gfn_invalidate_range(kvm, active,
					 kvm_gmem_slot_gfn(slot, max(start, slot_start)),
					 kvm_gmem_slot_gfn(slot, min(end, slot_end)));
	}
	KVM_MMU_UNLOCK(kvm);
	mutex_unlock(&gmem->bindings_lock);
	srcu_read_unlock(&kvm->srcu, srcu_idx);
}

void kvm_gmem_invalidate_end(struct kvm_gmem *gmem)
{
	struct kvm *kvm = gmem->kvm;

	KVM_MMU_LOCK(kvm);
	kvm_gfn_invalidate_end(kvm);
	KVM_MMU_UNLOCK(kvm);
}

/*
 * Erasing goes through the same blocks as the store that made them, hence needs
 * no memory, also after a store that failed half way.
 */
static void erase_binding(struct kvm_gmem *gmem, struct kvm_memory_slot *slot)
{
	lockdep_assert_held(&gmem->kvm->slots_lock);
	lockdep_assert_held(&gmem->bindings_lock);

	xa_store_range(&gmem->bindings, slot->gmem.pgoff,
		       slot->gmem.pgoff + slot->npages - 1, NULL, GFP_KERNEL);
	WRITE_ONCE(slot->gmem.file, NULL);
}

static int store_binding(struct kvm_gmem *gmem, struct kvm_memory_slot *slot,
			 struct file *file)
{
	unsigned long index = slot->gmem.pgoff;
	unsigned long last = index + slot->npages - 1;
	int r;

	lockdep_assert_held(&gmem->kvm->slots_lock);
	lockdep_assert_held(&gmem->bindings_lock);

	if (xa_find(&gmem->bindings, &index, last, XA_PRESENT))
		return -EEXIST;

	r = xa_err(xa_store_range(&gmem->bindings, slot->gmem.pgoff, last, slot,
				  GFP_KERNEL_ACCOUNT));
	if (r)
		erase_binding(gmem, slot);
	else
		WRITE_ONCE(slot->gmem.file, file);

	return r;
}

static void forget_binding(struct kvm_gmem *gmem, struct kvm_memory_slot *slot)
{
	mutex_lock(&gmem->bindings_lock);
	erase_binding(gmem, slot);
	mutex_unlock(&gmem->bindings_lock);
}

/*
 * Somebody may still hold a page from when it was shared, elsewhere, while the gfn
 * where it is going to be is private already.
 */
static int take_private_gfns(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	gfn_t end = slot->base_gfn + slot->npages;
	gfn_t start, past;
	int r = 0;

	if (!kvm_slot_is_gmem_only(slot) || !kvm_arch_has_private_mem(kvm))
		return 0;

	for (start = slot->base_gfn;
	     !r && kvm_next_gfns(kvm, true, &start, &past, end); start = past)
		r = kvm_gmem_take_from_user(slot, start, past);

	return r;
}

/*
 * Bind a memslot that is not active yet to the file behind @fd, from byte
 * @offset on.
 */
int kvm_gmem_bind(struct kvm *kvm, struct kvm_memory_slot *slot,
		  unsigned int fd, u64 offset)
{
	u64 size = (u64)slot->npages << PAGE_SHIFT;
	struct kvm_gmem *gmem;
	struct inode *inode;
	struct file *file;
	int r = -EINVAL;

	lockdep_assert_held(&kvm->slots_lock);

	file = fget(fd);
	if (!file)
		return -EBADF;

	gmem = kvm_gmem_from_file(file);
	if (!gmem || gmem->kvm != kvm)
		goto out;

	/* Unsigned and without a sum, so that nothing can wrap. */
	inode = file_inode(file);
	if (!PAGE_ALIGNED(offset) || offset > i_size_read(inode) ||
	    size > i_size_read(inode) - offset)
		goto out;

	slot->gmem.pgoff = offset >> PAGE_SHIFT;
	slot->gmem.only = kvm_gmem_inode(inode)->flags & GUEST_MEMFD_FLAG_MMAP;

	filemap_invalidate_lock(inode->i_mapping);
	mutex_lock(&gmem->bindings_lock);
	r = store_binding(gmem, slot, file);
	mutex_unlock(&gmem->bindings_lock);
	/* No page of it can be touched until the invalidate lock is dropped. */
	if (!r) {
		r = take_private_gfns(kvm, slot);
		if (r)
			forget_binding(gmem, slot);
	}
	filemap_invalidate_unlock(inode->i_mapping);
	if (!r)
		trace_kvm_gmem_bind(inode->i_ino, slot->id, slot->base_gfn,
				    slot->npages, slot->gmem.pgoff);
out:
	/*
	 * Not the end of the file even if user space has closed it by now: the
	 * release waits for slots_lock.
	 */
	fput(file);
	return r;
}

/*
 * For a memslot that is going away: nothing maps it, and nobody can find it
 * except through the bindings.
 */
void kvm_gmem_unbind(struct kvm_memory_slot *slot)
{
	struct file *file = slot->gmem.file;
	struct address_space *mapping;
	struct kvm_gmem *gmem;

	if (!file)
		return;

	gmem = kvm_gmem_from_file(file);
	mapping = file_inode(file)->i_mapping;

	filemap_invalidate_lock(mapping);
	forget_binding(gmem, slot);
	/* Where attributes decide, nobody may touch a page without a gfn. */
	if (kvm_slot_is_gmem_only(slot) && kvm_arch_has_private_mem(gmem->kvm))
		kvm_gmem_unmap_user(mapping, slot->gmem.pgoff,
				    slot->gmem.pgoff + slot->npages);
	filemap_invalidate_unlock(mapping);

	/* The next slot may have them at other gfns. */
	kvm_gmem_invalidate_pages(gmem->kvm, mapping, slot->gmem.pgoff,
				  slot->gmem.pgoff + slot->npages);
	trace_kvm_gmem_unbind(mapping->host->i_ino, slot->id, slot->base_gfn,
			      slot->npages, slot->gmem.pgoff);
}

/*
 * For the release of the file: nobody faults on it any more after this.  The
 * memslots stay.  A fault that holds a folio already will notice the bracket.
 */
void kvm_gmem_unbind_all(struct kvm_gmem *gmem)
{
	struct kvm_memory_slot *slot;
	unsigned long index;

	mutex_lock(&gmem->kvm->slots_lock);
	/* First clear, then unmap, else a fault in between maps it again. */
	xa_for_each(&gmem->bindings, index, slot) {
		/* One memslot may be several entries. */
		if (slot->gmem.file)
			trace_kvm_gmem_unbind(gmem->mapping->host->i_ino, slot->id,
					      slot->base_gfn, slot->npages,
					      slot->gmem.pgoff);
		WRITE_ONCE(slot->gmem.file, NULL);
	}
	kvm_gmem_invalidate_begin(gmem, 0, ULONG_MAX, 0, ULONG_MAX);
	kvm_gmem_invalidate_end(gmem);

	mutex_lock(&gmem->bindings_lock);
	xa_destroy(&gmem->bindings);
	mutex_unlock(&gmem->bindings_lock);
	mutex_unlock(&gmem->kvm->slots_lock);
}

/* The live file of a memslot with a reference, NULL if it is closed. */
struct file *kvm_gmem_get_file(struct kvm_memory_slot *slot)
{
	struct file *file;

	rcu_read_lock();
	file = READ_ONCE(slot->gmem.file);
	if (file && !get_file_rcu(file))
		file = NULL;
	rcu_read_unlock();

	return file;
}

/* Is the naturally aligned block around @gfn such a block of the file, too? */
static bool block_fits(const struct kvm_memory_slot *slot, gfn_t gfn,
		       pgoff_t index, unsigned int order)
{
	gfn_t nr = 1ULL << order;
	gfn_t start = gfn & ~(nr - 1);

	/* The offset between gfn and index is the same for the whole slot. */
	return !((gfn ^ index) & (nr - 1)) && start >= slot->base_gfn &&
	       start + nr <= slot->base_gfn + slot->npages;
}

/* The largest block around @gfn, at most of @order, that one entry could map. */
static unsigned int block_order(const struct kvm_memory_slot *slot,
				struct inode *inode, struct folio *folio,
				gfn_t gfn, pgoff_t index, unsigned int order)
{
	/* Neighbours in the file that are neighbours in memory, too. */
	if (order >= KVM_GMEM_HUGE_ORDER && folio_test_large(folio) &&
	    block_fits(slot, gfn, index, KVM_GMEM_HUGE_ORDER) &&
	    kvm_gmem_is_huge(inode, index, folio_pfn(folio) + index - folio->index))
		return KVM_GMEM_HUGE_ORDER;

	order = min(order, folio_order(folio));

	/* The flag is one of large folios only. */
	if (!order || folio_test_has_hwpoisoned(folio))
		return 0;

	while (order && !block_fits(slot, gfn, index, order))
		order--;

	return order;
}

static int get_pfn(struct kvm *kvm, struct kvm_memory_slot *slot,
		   struct file *file, gfn_t gfn, kvm_pfn_t *pfn,
		   unsigned int *max_order)
{
	pgoff_t index = kvm_gmem_slot_index(slot, gfn);
	struct folio *folio;
	unsigned int order;
	struct page *page;
	int r;

	folio = kvm_gmem_get_folio(file_inode(file), index);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	page = folio_file_page(folio, index);
	r = -EHWPOISON;
	if (PageHWPoison(page))
		goto out_folio;

	order = block_order(slot, file_inode(file), folio, gfn, index, *max_order);
	r = kvm_gmem_prepare(kvm, file_inode(file)->i_mapping, folio, gfn,
			     page_to_pfn(page), &order);
	if (r)
		goto out_folio;

	*pfn = page_to_pfn(page);
	*max_order = order;

	return 0;

out_folio:
	folio_put(folio);
	return r;
}

int kvm_gmem_get_pfn(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
		     kvm_pfn_t *pfn, unsigned int *max_order)
{
	unsigned int page_order = 0;
	struct file *file;
	int r;

	file = kvm_gmem_get_file(slot);
	if (!file)
		return -EFAULT;

	r = get_pfn(kvm, slot, file, gfn, pfn, max_order ?: &page_order);
	fput(file);

	return r;
}
EXPORT_SYMBOL_GPL(kvm_gmem_get_pfn);

unsigned int kvm_gmem_get_pfns(struct kvm *kvm, struct kvm_memory_slot *slot,
			       gfn_t gfn, kvm_pfn_t *pfns, unsigned int nr)
{
	unsigned int order = 0;
	struct file *file;
	unsigned int i;

	file = kvm_gmem_get_file(slot);
	if (!file)
		return 0;

	for (i = 0; i < nr; i++) {
		if (get_pfn(kvm, slot, file, gfn + i, &pfns[i], &order))
			break;
	}
	fput(file);

	return i;
}

/*
 * The page of a gfn if the file has it already, with a reference, else NULL.
 * Does not sleep.
 */
struct page *kvm_gmem_find_page(struct kvm_memory_slot *slot, gfn_t gfn)
{
	struct page *page;
	struct file *file;

	file = kvm_gmem_get_file(slot);
	if (!file)
		return NULL;

	page = find_get_page(file_inode(file)->i_mapping,
			     kvm_gmem_slot_index(slot, gfn));
	if (page && (PageHWPoison(page) || !folio_test_uptodate(page_folio(page)))) {
		put_page(page);
		page = NULL;
	}
	fput(file);

	return page;
}
