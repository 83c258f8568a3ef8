// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of a guest_memfd: folios in the page cache of its inode.
 *
 * A folio in the page cache is always
 * - up to date, or not to be looked at.  In the latter case it has been allocated
 *   ahead and is cleared or filled under its lock by the first who uses it.  Who
 *   finds it up to date needs no lock;
 * - dirty: a clean folio can be dropped by soft offline or by a failed split
 *   although guests map it, as KVM holds no reference for a mapping;
 * - unevictable and unmovable: it is found only through the file, never by a
 *   reverse map.  It stays on the LRU, as memory failure handles nothing else;
 * - charged to the memory cgroup of the task that caused its allocation.
 *
 * A folio is a page or as large as what a PMD maps.  A large one is taken where it
 * is to be had at once, never waited for, and never reaches past the end of the
 * file.  It is split when a hole or an error takes a part of it, or when user space
 * may touch a part of it only.
 */

#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/sched/signal.h>

#include <trace/events/kvm_gmem.h>

#include "guest_memfd.h"

/* Jiffies to wait for references that are not meant to last. */
#define PATIENCE	5
/* The same for memory failure, which has one try and is rare. */
#define MEMORY_FAILURE_PATIENCE	50

static uint max_order = PMD_SHIFT - PAGE_SHIFT;
module_param_named(gmem_max_order, max_order, uint, 0644);
MODULE_PARM_DESC(gmem_max_order,
		 "Largest order of a folio in new guest_memfds; less than 9 means 0, 18 that fallocate() also tries for 1 GiB in one piece");

unsigned int kvm_gmem_max_order(void)
{
	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ||
	    READ_ONCE(max_order) < HPAGE_PMD_ORDER)
		return 0;
	/* An entry of an XArray is split over two levels of nodes at most. */
	if (2 * XA_CHUNK_SHIFT < HPAGE_PMD_ORDER)
		return 0;

	return HPAGE_PMD_ORDER;
}

bool kvm_gmem_wants_huge(void)
{
	return kvm_gmem_max_order() && READ_ONCE(max_order) >= KVM_GMEM_HUGE_ORDER;
}

/*
 * The order of the folio to allocate for @index: large if all of it is in the file
 * and nothing is there yet.
 */
unsigned int kvm_gmem_wanted_order(struct inode *inode, pgoff_t index)
{
	unsigned int order = kvm_gmem_inode(inode)->max_order;
	loff_t size = (loff_t)PAGE_SIZE << order;
	loff_t start = ((loff_t)index << PAGE_SHIFT) & ~(size - 1);

	if (!order || size > i_size_read(inode) - start ||
	    filemap_range_has_page(inode->i_mapping, start, start + size - 1))
		return 0;

	return order;
}

/* What a large folio may cost: neither reclaim nor compaction, nor a complaint. */
gfp_t kvm_gmem_gfp(struct address_space *mapping, unsigned int order)
{
	gfp_t gfp = mapping_gfp_mask(mapping);

	if (order)
		gfp = (gfp & ~__GFP_DIRECT_RECLAIM) | __GFP_NOWARN | __GFP_NORETRY;

	return gfp;
}

/* A page that is not to be touched stays as it is. */
void kvm_gmem_zero_folio(struct folio *folio)
{
	struct page *page;
	long i;

	for (i = 0; i < folio_nr_pages(folio); i++) {
		page = folio_page(folio, i);
		if (!PageHWPoison(page))
			clear_highpage(page);
		if (i % 32 == 31)
			cond_resched();
	}
	folio_mark_uptodate(folio);
}

/* On success it is locked. */
int kvm_gmem_add_folio(struct address_space *mapping, struct folio *folio,
		       pgoff_t index)
{
	unsigned int order = folio_order(folio);
	int r;

	r = filemap_add_folio(mapping, folio, round_down(index, 1UL << order),
			      kvm_gmem_gfp(mapping, order));
	if (r)
		return r;

	/* Before the lock that filemap_add_folio() took is dropped, see above. */
	folio_mark_dirty(folio);
	if (order)
		kvm_gmem_count(mapping, gmem_alloc_2m);
	else
		kvm_gmem_count(mapping, gmem_alloc_4k);

	return 0;
}

/* Returns it locked and not up to date. */
static struct folio *add_folio(struct address_space *mapping, pgoff_t index,
			       unsigned int order)
{
	struct folio *folio;
	int r;

	folio = kvm_gmem_alloc_folio(mapping->host, index,
				     kvm_gmem_gfp(mapping, order), order);
	if (!folio)
		return ERR_PTR(-ENOMEM);

	r = kvm_gmem_add_folio(mapping, folio, index);
	if (r) {
		folio_put(folio);
		return ERR_PTR(r);
	}

	return folio;
}

/* As large as can be had.  Returns it locked and not up to date. */
static struct folio *add_any_folio(struct address_space *mapping, pgoff_t index)
{
	unsigned int order = kvm_gmem_wanted_order(mapping->host, index);
	struct folio *folio;

	if (order) {
		folio = add_folio(mapping, index, order);
		/* None there, or not within the limit of the memory cgroup? */
		if (folio != ERR_PTR(-ENOMEM))
			return folio;
	}

	folio = add_folio(mapping, index, 0);
	if (order && !IS_ERR(folio))
		kvm_gmem_count(mapping, gmem_alloc_fallback);

	return folio;
}

/*
 * Lock @folio, or wait until whoever has it locked is done with it, drop the caller's
 * reference, and return false: then it is to be looked up again.  Who waits with a
 * reference has it for as long as the other has the lock, and memory failure, which has
 * that, would wait in vain, see wait_for_lookups().
 */
bool kvm_gmem_lock_or_put(struct folio *folio)
{
	if (folio_trylock(folio))
		return true;

	folio_put_wait_locked(folio, TASK_UNINTERRUPTIBLE);
	return false;
}

/*
 * The folio at @index, allocated if need be, with a reference.  If it is up to date
 * it is not locked; else it is, and the caller clears or fills it if it is about to
 * be used.
 *
 * A hole may remove the folio from the file at any time; it is for the caller to
 * recheck or to hold the invalidate lock.
 */
static struct folio *grab_folio(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio;

	for (;;) {
		folio = filemap_get_folio(mapping, index);
		if (!folio) {
			folio = add_any_folio(mapping, index);
			/* Somebody else was faster. */
			if (folio == ERR_PTR(-EEXIST))
				continue;
			return folio;
		}
		if (folio_test_uptodate(folio))
			return folio;

		/* Being cleared or filled, or allocated ahead. */
		if (!kvm_gmem_lock_or_put(folio))
			continue;
		if (folio->mapping == mapping && !folio_test_uptodate(folio))
			return folio;
		folio_unlock(folio);
		folio_put(folio);
	}
}

/* As grab_folio(), cleared and not locked.  @index lies within the file. */
struct folio *kvm_gmem_get_folio(struct inode *inode, pgoff_t index)
{
	struct folio *folio = grab_folio(inode->i_mapping, index);

	if (!IS_ERR(folio) && !folio_test_uptodate(folio)) {
		kvm_gmem_zero_folio(folio);
		folio_unlock(folio);
	}

	return folio;
}

/*
 * For populate: the page at @index as a folio of its own that is locked and not up
 * to date.  The caller fills it, marks it as up to date and unlocks it.  -EEXIST if
 * it has contents.
 */
struct folio *kvm_gmem_get_empty_folio(struct address_space *mapping,
				       pgoff_t index)
{
	struct folio *folio = filemap_lock_folio(mapping, index);
	struct page *page;

	if (!folio)
		return add_folio(mapping, index, 0);

	page = folio_file_page(folio, index);
	if (folio_test_uptodate(folio) || PageHWPoison(page)) {
		folio_unlock(folio);
		folio_put(folio);
		return ERR_PTR(-EEXIST);
	}

	if (folio_test_large(folio) && kvm_gmem_split_locked(mapping, page)) {
		kvm_gmem_count(mapping, gmem_split_fail);
		folio_unlock(folio);
		folio_put(folio);
		return ERR_PTR(-EAGAIN);
	}

	return page_folio(page);
}

/*
 * Allocate what is missing in [start, end), and leave it to those who use it to
 * clear or fill it.  A signal stops it; what has been allocated stays.
 */
int kvm_gmem_allocate(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;
	int r = 0;

	kvm_gmem_allocate_huge(inode, start, end);

	filemap_invalidate_lock_shared(mapping);
	while (start < end) {
		if (signal_pending(current)) {
			r = -EINTR;
			break;
		}

		folio = grab_folio(mapping, start);
		if (IS_ERR(folio)) {
			r = PTR_ERR(folio);
			break;
		}

		start = folio->index + folio_nr_pages(folio);
		if (!folio_test_uptodate(folio))
			folio_unlock(folio);
		folio_put(folio);
		cond_resched();
	}
	filemap_invalidate_unlock_shared(mapping);

	return r;
}

/*
 * Can a folio have pages on both sides of @index?  Where it cannot, the page there is
 * none of the hole's business: not even a reference for a moment, which would make
 * memory failure take it for one that is in use.
 */
static bool may_be_inside(struct address_space *mapping, pgoff_t index)
{
	unsigned int order = kvm_gmem_inode(mapping->host)->max_order;

	return !IS_ALIGNED(index, 1UL << order);
}

/*
 * Split the large folio around @page, which the caller has locked and holds the only
 * reference to but for those of the page cache: else -EAGAIN, and nothing has
 * changed.  Lock and reference are those of @page then.
 */
int kvm_gmem_split_locked(struct address_space *mapping, struct page *page)
{
	int r = split_huge_page(page);

	if (!r)
		kvm_gmem_count(mapping, gmem_split);

	return r;
}

/* Split @folio, which may have to wait for references that are not meant to last. */
static int split_large_folio(struct address_space *mapping, struct folio *folio)
{
	int i, r;

	for (i = 0;; i++) {
		r = 0;
		/* Under its lock, as memory failure may split it, too. */
		folio_lock(folio);
		if (folio->mapping == mapping && folio_test_large(folio))
			r = kvm_gmem_split_locked(mapping, &folio->page);
		folio_unlock(folio);

		if (!r)
			return 0;
		if (i == PATIENCE)
			break;
		schedule_timeout_uninterruptible(1);
	}

	kvm_gmem_count(mapping, gmem_split_fail);
	return r;
}

/*
 * Split the folio that has pages on both sides of @index, if there is one.  -EAGAIN
 * if somebody holds it: then nothing has changed.
 */
static int split_at(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio;
	int r = 0;

	if (!may_be_inside(mapping, index))
		return 0;

	folio = filemap_get_folio(mapping, index);
	if (!folio)
		return 0;

	if (folio->index != index)
		r = split_large_folio(mapping, folio);
	folio_put(folio);

	return r;
}

/*
 * Memory failure splits a folio unless somebody holds it.  Try again before such a
 * one is freed, so that only the page is lost and not what it is a part of.
 */
void kvm_gmem_split_poisoned(struct address_space *mapping, pgoff_t start,
			     pgoff_t end)
{
	struct folio_batch batch;
	pgoff_t next = start;
	unsigned int i;

	if (!kvm_gmem_inode(mapping->host)->max_order)
		return;

	folio_batch_init(&batch);
	while (filemap_get_folios(mapping, &next, end - 1, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (folio_test_large(folio) &&
			    folio_test_has_hwpoisoned(folio))
				split_large_folio(mapping, folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
}

/* Include the folio that has pages on both sides of @index, if there is one. */
static void include_folio_at(struct address_space *mapping, pgoff_t index,
			     pgoff_t *first, pgoff_t *past)
{
	struct folio *folio;

	if (!may_be_inside(mapping, index))
		return;

	folio = filemap_get_folio(mapping, index);
	if (!folio)
		return;

	if (folio->index < index) {
		*first = min(*first, folio->index);
		*past = max(*past, folio->index + folio_nr_pages(folio));
	}
	folio_put(folio);
}

/*
 * Remove [start, end) from the file.  The caller holds the invalidate lock, which
 * keeps new bindings out, as their gfns would not be held off.  Fails, with nothing
 * removed, if a large folio reaches out of the range and cannot be split.
 */
int kvm_gmem_remove_pages(struct kvm_gmem *gmem, struct address_space *mapping,
			  pgoff_t start, pgoff_t end)
{
	pgoff_t first = start, past = end;
	int r;

	/* Faults on what stays of a folio would hold it, and keep it whole. */
	include_folio_at(mapping, start, &first, &past);
	include_folio_at(mapping, end, &first, &past);

	/*
	 * Between begin and end no fault can map a folio, and nothing that was
	 * mapped of the hole is left.  Pages that stay may be mapped one by one:
	 * they stay what they are.
	 */
	kvm_gmem_invalidate_begin(gmem, start, end, first, past);
	r = split_at(mapping, start);
	if (!r)
		r = split_at(mapping, end);
	if (!r) {
		kvm_gmem_invalidate_pages(gmem->kvm, mapping, start, end);
		kvm_gmem_split_poisoned(mapping, start, end);
		/*
		 * All at once; truncation unmaps a folio that is being mapped.
		 * With even_cows, as that takes marks of poisoned pages, too.
		 */
		unmap_mapping_pages(mapping, start, end - start, true);
		truncate_inode_pages_range(mapping, (loff_t)start << PAGE_SHIFT,
					   ((loff_t)end << PAGE_SHIFT) - 1);
	}
	kvm_gmem_invalidate_end(gmem);

	return r;
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
 * Does nobody use the page?  Who looks a page up has a reference for a moment, so wait for
 * one without.  After that it does not matter who takes another: the page is marked as
 * poisoned, and whoever finds that lets it be.
 *
 * Who pins the page does not let go.  Nor does a fault that has found the page and waits
 * for the folio's lock to prepare it for the guest.
 */
static bool wait_for_lookups(struct folio *folio)
{
	/* The page cache's, for each page, and memory failure's own. */
	int i, expected = folio_nr_pages(folio) + 1;

	for (i = 0; folio_ref_count(folio) > expected; i++) {
		if (i == MEMORY_FAILURE_PATIENCE)
			return false;
		schedule_timeout_uninterruptible(1);
	}

	return true;
}

/*
 * Memory failure, called with the folio locked and its page marked as poisoned.
 * Unmap it; the next access finds the mark and exits with EHWPOISON.  The page
 * stays in the file, as a fresh one would read as zeroes where the guest has
 * data; a hole gets rid of it.  -EBUSY if somebody goes on using it: then the machine
 * check handler kills the VMM.
 *
 * The folio being locked and in the mapping, the file is not beyond the
 * truncation in its release: the kvm_gmem is alive.
 */
static int handle_memory_failure(struct address_space *mapping,
				 struct page *page)
{
	struct kvm_gmem *gmem = mapping->private_data;
	pgoff_t index = page_to_index(page);

	trace_kvm_gmem_poison(mapping->host->i_ino, index, page_to_pfn(page));
	kvm_gmem_invalidate_begin(gmem, index, index + 1, index, index + 1);
	kvm_gmem_invalidate_end(gmem);

	return wait_for_lookups(page_folio(page)) ? 0 : -EBUSY;
}

const struct address_space_operations kvm_gmem_aops = {
	.dirty_folio		= noop_dirty_folio,
	.free_folio		= IS_ENABLED(CONFIG_KVM_GMEM_SOFT_BACKEND) ?
				  check_freed : NULL,
	.migrate_folio		= refuse_to_migrate,
	.error_remove_page	= handle_memory_failure,
};
