// SPDX-License-Identifier: GPL-2.0-only
/*
 * More of a guest_memfd in one piece than a folio can be.
 *
 * On this kernel the page cache and the code for transparent huge pages end at what a
 * PMD maps.  The guest's page tables do not: they map physical memory, whatever
 * folios it consists of.  So where an aligned part of the file that a PUD could map
 * is physically in one piece and aligned as well, one entry of the guest maps all of
 * it.  To everybody else its folios are large folios like any other, each of which is
 * split, punched and poisoned for itself.
 *
 * Such memory is rare, and to gather it may mean to move what is there.  That
 * is worth it, if at all, where somebody asked for the memory ahead of its use,
 * with fallocate(), and where the parameter said so when the file was made.
 *
 * Nothing is recorded about it.  Whether a part of the file is in one piece is seen
 * by looking at the page cache, which splits, holes and errors keep up to date.
 */

#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

#define BLOCK_PAGES	(PUD_SIZE / PAGE_SIZE)

/* 0, -EEXIST if there is something by now, or why it is pointless to go on. */
static int add_folio(struct address_space *mapping, struct folio *folio,
		     pgoff_t index)
{
	int r;

	/* What is not in the file yet would be lost: only a fatal one counts. */
	if (fatal_signal_pending(current))
		return -EINTR;

	kvm_gmem_zero_folio(folio);
	r = kvm_gmem_add_folio(mapping, folio, index);
	if (!r)
		folio_unlock(folio);

	return r;
}

/* Return false if it is not all there, which makes it pointless to try another one. */
static bool allocate_block(struct inode *inode, pgoff_t index)
{
	struct folio *folio = kvm_gmem_alloc_huge(inode, index);
	unsigned long pfn, i, nr, added = 0;
	int r = 0;

	if (!folio)
		return false;

	pfn = folio_pfn(folio);
	nr = folio_nr_pages(folio);
	for (i = 0; i < BLOCK_PAGES; i += nr) {
		folio = pfn_folio(pfn + i);
		/* Where a fault was faster, the others are of use all the same. */
		if (!r || r == -EEXIST)
			r = add_folio(inode->i_mapping, folio, index + i);
		if (!r)
			added += nr;
		/* The file has a reference of its own, if it has the folio. */
		folio_put(folio);
		cond_resched();
	}
	if (added < BLOCK_PAGES)
		return false;

	kvm_gmem_count(inode->i_mapping, gmem_alloc_1g);
	return true;
}

/*
 * Allocate those aligned blocks of [start, end) of which the file has nothing yet and
 * that can be had in one piece.  What is missing afterwards is for the caller, in
 * whatever pieces there are.  Without the invalidate lock, as it may take long.
 */
void kvm_gmem_allocate_huge(struct inode *inode, pgoff_t start, pgoff_t end)
{
	pgoff_t index, past;

	if (!kvm_gmem_inode(inode)->huge)
		return;

	for (index = round_up(start, BLOCK_PAGES); index < end; index = past) {
		past = index + BLOCK_PAGES;
		if (past > end || signal_pending(current))
			break;

		if (!filemap_range_has_page(inode->i_mapping,
					    (loff_t)index << PAGE_SHIFT,
					    ((loff_t)past << PAGE_SHIFT) - 1) &&
		    !allocate_block(inode, index)) {
			kvm_gmem_count(inode->i_mapping, gmem_alloc_1g_fallback);
			break;
		}
	}
}

static bool is_poisoned(struct folio *folio)
{
#ifdef CONFIG_MEMORY_FAILURE
	return test_bit(PG_has_hwpoisoned, &folio_page(folio, 1)->flags);
#else
	return false;
#endif
}

/*
 * Is @folio, as found in the page cache, large, not poisoned, up to date and at @pfn?
 * It is looked at without a reference, as one may keep others from splitting it: it
 * need not be in the file any more, and the flags need not be those of a folio, hence
 * no folio_test_*().
 */
static bool is_at(struct folio *folio, unsigned long pfn)
{
	return folio == pfn_folio(pfn) &&
	       test_bit(PG_head, &folio->flags) &&
	       test_bit(PG_uptodate, &folio->flags) && !is_poisoned(folio);
}

/* Where it ceases to be in one piece, [start, end) of the file being from @pfn on. */
static pgoff_t find_gap(struct address_space *mapping, pgoff_t start, pgoff_t end,
			unsigned long pfn)
{
	XA_STATE(xas, &mapping->i_pages, start);
	pgoff_t next = start;
	struct folio *folio;

	rcu_read_lock();
	xas_for_each(&xas, folio, end - 1) {
		if (xas_retry(&xas, folio))
			continue;
		/* It is elsewhere, too, if there is a hole in between. */
		if (!is_at(folio, pfn + (next - start)))
			break;
		next += 1UL << HPAGE_PMD_ORDER;
	}
	rcu_read_unlock();

	return next;
}

/*
 * Can the aligned block around @index, which is at @pfn, be mapped in one piece?
 *
 * The answer is one for the caller to recheck, like the page of a fault: that has
 * sampled mmu_invalidate_seq before, and pages leave the file, and become poisoned,
 * only within a bracket that includes their gfn.  They may be split at any time, which
 * changes nothing for the guest.
 */
bool kvm_gmem_is_huge(struct inode *inode, pgoff_t index, unsigned long pfn)
{
	struct kvm_gmem_inode *private = kvm_gmem_inode(inode);
	pgoff_t start = round_down(index, BLOCK_PAGES);
	pgoff_t end = start + BLOCK_PAGES, gap;

	/* Hardly ever by chance: as a rule it ends here for other memory. */
	if (!private->huge || (pfn ^ index) % BLOCK_PAGES)
		return false;

	/*
	 * A block that is not in one piece any more is asked for as many times as it
	 * has folios.  The last reason is as good as any, if it is one still.
	 */
	pfn -= index - start;
	gap = round_down(READ_ONCE(private->gap), 1UL << HPAGE_PMD_ORDER);
	if (gap >= start && gap < end &&
	    find_gap(inode->i_mapping, gap, gap + 1, pfn + (gap - start)) == gap)
		return false;

	gap = find_gap(inode->i_mapping, start, end, pfn);
	/* Pairs with folio_mark_uptodate(). */
	smp_rmb();
	if (gap == end)
		return true;

	WRITE_ONCE(private->gap, gap);
	return false;
}
