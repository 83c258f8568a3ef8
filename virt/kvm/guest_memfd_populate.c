// SPDX-License-Identifier: GPL-2.0-only
/*
 * Initial contents of private memory, for back ends that launch a guest from an
 * image which they encrypt or measure.
 *
 * A page enters the file locked and not up to date, or fallocate() has put it there,
 * and becomes up to date when its contents are there: whoever finds it in between
 * waits for the lock, so a page is seen whole or not at all.  Being the first to lock
 * it decides who fills it, which is why a page with contents is refused rather than
 * overwritten.
 */

#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include <trace/events/kvm_gmem.h>

#include "guest_memfd.h"

/* Source pages to pin at a time. */
#define POPULATE_BATCH	16

static int copy_contents(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
			 struct page *src, void *opaque)
{
	if (src)
		copy_highpage(pfn_to_page(pfn), src);
	else
		clear_highpage(pfn_to_page(pfn));

	return 0;
}

static int populate_page(struct kvm_gmem *gmem, struct address_space *mapping,
			 pgoff_t index, gfn_t gfn, struct page *src,
			 kvm_gmem_fill_t fill, void *opaque)
{
	const struct kvm_gmem_ops *ops = kvm_gmem_get_ops(gmem->kvm);
	struct folio *folio;
	kvm_pfn_t pfn;
	int r;

	folio = kvm_gmem_get_empty_folio(mapping, index);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	pfn = folio_pfn(folio);
	if (ops && ops->prepare)
		r = ops->prepare(gmem->kvm, gfn, pfn, 0);
	else
		r = 0;
	if (!r)
		r = fill(gmem->kvm, gfn, pfn, src, opaque);

	if (!r)
		folio_mark_uptodate(folio);
	folio_unlock(folio);
	/* Somebody may have found it, and cleared it, before it is gone. */
	if (r)
		kvm_gmem_remove_pages(gmem, mapping, index, index + 1);
	folio_put(folio);

	return r;
}

/*
 * Return how many of the pages are populated, or an errno if none.  Less than
 * asked for is no error: it may be the end of a memslot.
 */
static long populate_batch(struct kvm *kvm, gfn_t gfn, struct page **pages,
			   unsigned long npages, kvm_gmem_fill_t fill,
			   void *opaque)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(kvm, gfn);
	struct address_space *mapping;
	struct file *file;
	unsigned long i;
	int r = 0;

	lockdep_assert_held(&kvm->slots_lock);

	if (!kvm_slot_can_be_private(slot))
		return -EINVAL;
	npages = min_t(u64, npages, slot->base_gfn + slot->npages - gfn);

	file = kvm_gmem_get_file(slot);
	if (!file)
		return -EFAULT;

	mapping = file_inode(file)->i_mapping;
	filemap_invalidate_lock(mapping);
	for (i = 0; i < npages; i++) {
		r = -EINVAL;
		if (!kvm_mem_is_private(kvm, gfn + i))
			break;
		r = populate_page(kvm_gmem_from_file(file), mapping,
				  kvm_gmem_slot_index(slot, gfn + i), gfn + i,
				  pages[i], fill, opaque);
		if (r)
			break;
	}
	filemap_invalidate_unlock(mapping);
	fput(file);

	return i ? i : r;
}

/* As above.  Pins first: that may sleep for as long as user space likes. */
static long pin_and_populate(struct kvm *kvm, gfn_t gfn, unsigned long src,
			     unsigned long npages, kvm_gmem_fill_t fill,
			     void *opaque)
{
	struct page *pages[POPULATE_BATCH] = {};
	int pinned = 0;
	long r;

	npages = min_t(unsigned long, npages, POPULATE_BATCH);
	if (src) {
		pinned = pin_user_pages_fast(src, npages, 0, pages);
		if (pinned <= 0)
			return pinned ? pinned : -EFAULT;
		npages = pinned;
	}

	/* Keeps memslots, bindings and attributes as they are. */
	mutex_lock(&kvm->slots_lock);
	r = populate_batch(kvm, gfn, pages, npages, fill, opaque);
	mutex_unlock(&kvm->slots_lock);

	if (pinned)
		unpin_user_pages(pages, pinned);

	return r;
}

long kvm_gmem_populate(struct kvm *kvm, gfn_t gfn, const void __user *src,
		       unsigned long npages, kvm_gmem_fill_t fill, void *opaque)
{
	unsigned long addr = (unsigned long)src;
	unsigned long done = 0;
	long r = 0;

	if (!PAGE_ALIGNED(addr))
		return -EINVAL;

	while (done < npages) {
		r = -EINTR;
		if (signal_pending(current))
			break;

		r = pin_and_populate(kvm, gfn + done,
				     addr ? addr + done * PAGE_SIZE : 0,
				     npages - done, fill ? fill : copy_contents,
				     opaque);
		if (r <= 0)
			break;
		done += r;
		cond_resched();
	}

	r = done ? done : r;
	trace_kvm_gmem_populate(gfn, npages, r);

	return r;
}
EXPORT_SYMBOL_GPL(kvm_gmem_populate);
