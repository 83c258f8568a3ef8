// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of a guest_memfd: folios in the page cache of its inode.
 *
 * A folio in the page cache is always
 * - zeroed and up to date: it is cleared before others can find it, so that a
 *   lookup needs no folio lock.  Only a folio that is being populated is not up
 *   to date yet, and locked;
 * - dirty: a clean folio can be dropped by soft offline or by a failed split
 *   although guests map it, as KVM holds no reference for a mapping;
 * - unevictable and unmovable: it is found only through the file, never by a
 *   reverse map.  It stays on the LRU, as memory failure handles nothing else;
 * - charged to the memory cgroup of the task that caused its allocation.
 */

#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include "guest_memfd.h"

void kvm_gmem_zero_folio(struct folio *folio)
{
	long i;

	for (i = 0; i < folio_nr_pages(folio); i++) {
		clear_highpage(folio_page(folio, i));
		cond_resched();
	}
	folio_mark_uptodate(folio);
}

/* Returns it locked. */
static struct folio *add_folio(struct address_space *mapping, pgoff_t index,
			       bool zeroed)
{
	gfp_t gfp = mapping_gfp_mask(mapping);
	struct folio *folio;
	int r;

	folio = filemap_alloc_folio(gfp, 0);
	if (!folio)
		return ERR_PTR(-ENOMEM);

	if (zeroed)
		kvm_gmem_zero_folio(folio);
	r = filemap_add_folio(mapping, folio, index, gfp);
	if (r) {
		folio_put(folio);
		return ERR_PTR(r);
	}

	/* Before the lock that filemap_add_folio() took is dropped, see above. */
	folio_mark_dirty(folio);

	return folio;
}

static struct folio *add_zeroed_folio(struct address_space *mapping,
				      pgoff_t index)
{
	struct folio *folio = add_folio(mapping, index, true);

	if (!IS_ERR(folio))
		folio_unlock(folio);

	return folio;
}

/*
 * For populate: the folio is locked and not up to date.  The caller fills it,
 * marks it as up to date and unlocks it.
 */
struct folio *kvm_gmem_add_empty_folio(struct address_space *mapping,
				       pgoff_t index)
{
	return add_folio(mapping, index, false);
}

/*
 * The folio at @index, allocated if need be, with a reference and not locked.
 * @index lies within the file.  A hole may remove the folio from the file at any
 * time; it is for the caller to recheck or to hold the invalidate lock.
 */
struct folio *kvm_gmem_get_folio(struct inode *inode, pgoff_t index)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;

	do {
		folio = filemap_get_folio(mapping, index);
		if (!folio)
			folio = add_zeroed_folio(mapping, index);
		/* Somebody else was faster. */
	} while (folio == ERR_PTR(-EEXIST));

	/* Being populated.  It is up to date when the lock is dropped. */
	if (!IS_ERR(folio) && !folio_test_uptodate(folio)) {
		folio_lock(folio);
		folio_unlock(folio);
	}

	return folio;
}

/*
 * Allocate what is missing in [start, end).  A signal stops it; what has been
 * allocated stays.
 */
int kvm_gmem_allocate(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;
	int r = 0;

	filemap_invalidate_lock_shared(mapping);
	while (start < end) {
		if (signal_pending(current)) {
			r = -EINTR;
			break;
		}

		folio = kvm_gmem_get_folio(inode, start);
		if (IS_ERR(folio)) {
			r = PTR_ERR(folio);
			break;
		}

		start = folio->index + folio_nr_pages(folio);
		folio_put(folio);
		cond_resched();
	}
	filemap_invalidate_unlock_shared(mapping);

	return r;
}

/*
 * Remove [start, end) from the file.  The caller holds the invalidate lock, which
 * keeps new bindings out, as their gfns would not be held off.
 */
void kvm_gmem_remove_pages(struct kvm_gmem *gmem, struct address_space *mapping,
			   pgoff_t start, pgoff_t end)
{
	/*
	 * Between begin and end no fault can map a folio, and none that was
	 * mapped is left.
	 */
	kvm_gmem_invalidate_begin(gmem, start, end);
	kvm_gmem_invalidate_pages(gmem->kvm, mapping, start, end);
	truncate_inode_pages_range(mapping, (loff_t)start << PAGE_SHIFT,
				   ((loff_t)end << PAGE_SHIFT) - 1);
	kvm_gmem_invalidate_end(gmem);
}

static void check_freed(struct folio *folio)
{
	kvm_gmem_soft_check_freed(folio_pfn(folio), folio_nr_pages(folio));
}

/*
 * Without this function the kernel would fall back to migrating a folio on its
 * own.  No guest mapping can be found from here.
 */
static int refuse_to_migrate(struct address_space *mapping, struct folio *dst,
			     struct folio *src, enum migrate_mode mode)
{
	return -EBUSY;
}

/*
 * Memory failure, called with the folio locked and its page marked as poisoned.
 * Unmap it; the next access finds the mark and exits with EHWPOISON.  The page
 * stays in the file, as a fresh one would read as zeroes where the guest has
 * data; a hole gets rid of it.
 *
 * The folio being locked and in the mapping, the file is not beyond the
 * truncation in its release: the kvm_gmem is alive.
 */
static int handle_memory_failure(struct address_space *mapping,
				 struct page *page)
{
	struct kvm_gmem *gmem = mapping->private_data;
	pgoff_t index = page_to_index(page);

	kvm_gmem_invalidate_begin(gmem, index, index + 1);
	kvm_gmem_invalidate_end(gmem);

	return 0;
}

const struct address_space_operations kvm_gmem_aops = {
	.dirty_folio		= noop_dirty_folio,
	.free_folio		= IS_ENABLED(CONFIG_KVM_GMEM_SOFT_BACKEND) ?
				  check_freed : NULL,
	.migrate_folio		= refuse_to_migrate,
	.error_remove_page	= handle_memory_failure,
};
