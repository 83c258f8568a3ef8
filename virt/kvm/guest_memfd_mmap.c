// SPDX-License-Identifier: GPL-2.0-only
/*
 * User space's mappings of a guest_memfd.
 *
 * What may be touched through a mapping is what the guest shares with the host.
 * On VM types without private memory the file says so when it is created, for all
 * of it.  On the others the VM's attributes say so for the gfn where a page is
 * bound, so that a page is converted in place; a page that no memslot has is
 * private.
 *
 * A fault decides under the invalidate lock, taken shared, and returns with the
 * folio locked until the PTE is there.  Whoever makes pages private holds the
 * invalidate lock, which keeps new faults out, and then unmaps each folio under
 * its lock, which waits for the last ones.  After that references can only go
 * away: what is left belongs to somebody who pinned the page while it was shared.
 */

#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/swap.h>

#include "guest_memfd.h"

/* Jiffies to wait for references that are not meant to last. */
#define PATIENCE	5

/* May user space touch all pages in [start, end)? */
static bool may_touch(struct kvm_gmem *gmem, struct inode *inode, pgoff_t start,
		      pgoff_t end)
{
	struct kvm_memory_slot *slot;
	pgoff_t past;

	if (!kvm_arch_has_private_mem(gmem->kvm))
		return kvm_gmem_inode(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED;

	for (; start < end; start = past) {
		slot = xa_load(&gmem->bindings, start);
		if (!slot)
			return false;

		past = min_t(pgoff_t, end, slot->gmem.pgoff + slot->npages);
		/* Shared is what has no attribute. */
		if (!kvm_range_has_memory_attributes(gmem->kvm,
						     kvm_gmem_slot_gfn(slot, start),
						     kvm_gmem_slot_gfn(slot, past), 0))
			return false;
	}

	return true;
}

/*
 * A PMD would map all of the folio.  A page that is one of its own can be pinned
 * without keeping others from being converted; where somebody holds the folio, a
 * page table in place is enough to have nothing but the page mapped.
 */
static int map_single_page(struct address_space *mapping, struct page *page,
			   struct vm_fault *vmf)
{
	if (!kvm_gmem_split_locked(mapping, page))
		return 0;

	kvm_gmem_count(mapping, gmem_split_fail);

	return pte_alloc(vmf->vma->vm_mm, vmf->pmd) ? -ENOMEM : 0;
}

static vm_fault_t fault_in_folio(struct kvm_gmem *gmem, struct inode *inode,
				 struct vm_fault *vmf)
{
	struct folio *folio = kvm_gmem_get_folio(inode, vmf->pgoff);
	struct page *page;

	if (IS_ERR(folio))
		return vmf_error(PTR_ERR(folio));

	page = folio_file_page(folio, vmf->pgoff);
	if (PageHWPoison(page)) {
		folio_put(folio);
		return VM_FAULT_HWPOISON;
	}

	/* The access is repeated. */
	if (!kvm_gmem_lock_or_put(folio))
		return VM_FAULT_NOPAGE;
	if (folio_test_large(folio) &&
	    !may_touch(gmem, inode, folio->index,
		       folio->index + folio_nr_pages(folio)) &&
	    map_single_page(inode->i_mapping, page, vmf)) {
		folio_unlock(folio);
		folio_put(folio);
		return VM_FAULT_OOM;
	}
	vmf->page = page;

	return VM_FAULT_LOCKED;
}

static vm_fault_t kvm_gmem_fault(struct vm_fault *vmf)
{
	struct file *file = vmf->vma->vm_file;
	struct kvm_gmem *gmem = file->private_data;
	struct inode *inode = file_inode(file);
	vm_fault_t ret = VM_FAULT_SIGBUS;

	if (vmf->pgoff >= i_size_read(inode) >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;

	filemap_invalidate_lock_shared(inode->i_mapping);
	if (may_touch(gmem, inode, vmf->pgoff, vmf->pgoff + 1))
		ret = fault_in_folio(gmem, inode, vmf);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	return ret;
}

static const struct vm_operations_struct kvm_gmem_vm_ops = {
	.fault		= kvm_gmem_fault,
#ifdef CONFIG_NUMA
	.set_policy	= kvm_gmem_set_policy,
	.get_policy	= kvm_gmem_get_policy,
#endif
};

int kvm_gmem_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 flags = kvm_gmem_inode(file_inode(file))->flags;

	if (!(flags & GUEST_MEMFD_FLAG_MMAP))
		return -ENODEV;
	/* A private copy of a page is not guest memory. */
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	/* Nor is it code of the host: as on a file system mounted noexec. */
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;

	vma->vm_flags &= ~VM_MAYEXEC;
	vma->vm_ops = &kvm_gmem_vm_ops;

	return 0;
}

/*
 * Nobody has it but the page cache and the caller.  Memory failure has kept a
 * reference to a page that it has marked, which nobody reads any more.
 */
static bool is_unused(struct folio *folio)
{
	long refs = folio_nr_pages(folio) + 1;

	if (!folio_test_large(folio) && folio_test_hwpoison(folio))
		refs++;

	return !folio_mapped(folio) && folio_ref_count(folio) <= refs;
}

static void unmap_folio(struct address_space *mapping, struct folio *folio)
{
	folio_lock(folio);
	if (folio->mapping == mapping && folio_mapped(folio))
		unmap_mapping_pages(mapping, folio->index,
				    folio_nr_pages(folio), true);
	folio_unlock(folio);
}

/*
 * A batch of new pages on its way to the LRU has references, look-ups of the page
 * cache and GUP that notices a changed PTE take some for a moment.
 */
static int wait_until_unused(struct folio *folio)
{
	int i;

	for (i = 0; !is_unused(folio); i++) {
		if (i == PATIENCE)
			return -EAGAIN;
		if (!i)
			lru_add_drain_all();
		else
			schedule_timeout_uninterruptible(1);
	}

	return 0;
}

static int unmap_pages(struct address_space *mapping, pgoff_t start, pgoff_t end,
		       bool wait)
{
	struct folio_batch batch;
	pgoff_t next = start;
	unsigned int i;
	int r = 0;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	unmap_mapping_pages(mapping, start, end - start, true);

	folio_batch_init(&batch);
	while (!r && filemap_get_folios(mapping, &next, end - 1, &batch)) {
		for (i = 0; !r && i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (is_unused(folio))
				continue;
			unmap_folio(mapping, folio);
			if (wait)
				r = wait_until_unused(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}

	return r;
}

/*
 * Unmap the pages [start, end) of the file from every process.  The caller holds
 * the invalidate lock until they may not be touched any more.
 */
void kvm_gmem_unmap_user(struct address_space *mapping, pgoff_t start,
			 pgoff_t end)
{
	unmap_pages(mapping, start, end, false);
}

/*
 * The same for gfns of a memslot that are going to be private.  -EAGAIN if there
 * is a page that somebody holds; he can touch it without a mapping.
 */
int kvm_gmem_take_from_user(struct kvm_memory_slot *slot, gfn_t start, gfn_t end)
{
	struct file *file = slot->gmem.file;

	if (!file)
		return 0;

	return unmap_pages(file_inode(file)->i_mapping,
			   kvm_gmem_slot_index(slot, start),
			   kvm_gmem_slot_index(slot, end - 1) + 1, true);
}

/* The reverse: the back end has to let go of them first. */
void kvm_gmem_give_to_user(struct kvm_memory_slot *slot, gfn_t start, gfn_t end)
{
	struct file *file = slot->gmem.file;
	struct kvm_gmem *gmem;

	if (!file)
		return;

	gmem = kvm_gmem_from_file(file);
	kvm_gmem_invalidate_pages(gmem->kvm, gmem->mapping,
				  kvm_gmem_slot_index(slot, start),
				  kvm_gmem_slot_index(slot, end - 1) + 1);
}

/*
 * Keep user space from mapping pages of gfns in [start, end), until
 * kvm_gmem_release_mappings().  Under slots_lock a file that is not NULL has not
 * been released, and nobody else takes the locks of two files.
 */
void kvm_gmem_hold_mappings(struct kvm *kvm, gfn_t start, gfn_t end,
			    struct list_head *held)
{
	struct kvm_memslot_iter iter;

	lockdep_assert_held(&kvm->slots_lock);

	kvm_for_each_memslot_in_gfn_range(&iter, kvm_memslots(kvm), start, end) {
		struct kvm_memory_slot *slot = iter.slot;
		struct kvm_gmem *gmem;

		if (!kvm_slot_is_gmem_only(slot) || !slot->gmem.file)
			continue;

		gmem = kvm_gmem_from_file(slot->gmem.file);
		if (!list_empty(&gmem->held))
			continue;

		down_write_nest_lock(&gmem->mapping->invalidate_lock,
				     &kvm->slots_lock);
		list_add(&gmem->held, held);
	}
}

void kvm_gmem_release_mappings(struct list_head *held)
{
	struct kvm_gmem *gmem, *next;

	list_for_each_entry_safe(gmem, next, held, held) {
		list_del_init(&gmem->held);
		filemap_invalidate_unlock(gmem->mapping);
	}
}
