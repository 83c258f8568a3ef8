// SPDX-License-Identifier: GPL-2.0-only
/*
 * The back end of a VM's private memory: who encrypts, measures or reassigns
 * pages has to hear when a page becomes the guest's and when it ceases to be.
 *
 * A page becomes the guest's under its folio lock, while it is in the file.  It
 * ceases to be under the same lock, within the bracket that holds faults off, or
 * when the memslot is gone.  Hence a prepare that comes late finds the page out of
 * the file or the bracket, and no page leaves the file without an invalidate.
 */

#include <linux/pagemap.h>
#include <linux/pagevec.h>

#include "guest_memfd.h"

int kvm_gmem_set_ops(struct kvm *kvm, const struct kvm_gmem_ops *ops, void *data)
{
	int r = -EBUSY;

	mutex_lock(&kvm->lock);
	if (!kvm->gmem_ops && !kvm->created_vcpus) {
		kvm->gmem_ops_data = data;
		/* Pairs with kvm_gmem_get_ops(). */
		smp_store_release(&kvm->gmem_ops, ops);
		r = 0;
	}
	mutex_unlock(&kvm->lock);

	return r;
}
EXPORT_SYMBOL_GPL(kvm_gmem_set_ops);

void kvm_gmem_backend_destroy(struct kvm *kvm)
{
	const struct kvm_gmem_ops *ops = kvm_gmem_get_ops(kvm);

	if (ops && ops->destroy)
		ops->destroy(kvm);
}

/*
 * The page @pfn of @folio is going to be mapped at @gfn as part of a block of
 * *@order.  Reduce *@order to what the back end can do.
 */
int kvm_gmem_prepare(struct kvm *kvm, struct address_space *mapping,
		     struct folio *folio, gfn_t gfn, kvm_pfn_t pfn,
		     unsigned int *order)
{
	const struct kvm_gmem_ops *ops = kvm_gmem_get_ops(kvm);
	unsigned long nr;
	int r;

	/* In a file that is all of a memslot's memory it may be shared. */
	if (!ops || !kvm_mem_is_private(kvm, gfn))
		return 0;

	/* The lock of one folio holds off no invalidation of the next. */
	if (ops->prepare)
		*order = min(*order, folio_order(folio));
	if (ops->max_order)
		*order = min(*order, ops->max_order(kvm, gfn, pfn, *order));
	if (!ops->prepare)
		return 0;

	nr = 1UL << *order;
	gfn &= ~(nr - 1);
	pfn &= ~(nr - 1);

	folio_lock(folio);
	if (folio->mapping != mapping ||
	    kvm_gfn_invalidate_pending(kvm, gfn, gfn + nr))
		r = -EAGAIN;
	else
		r = ops->prepare(kvm, gfn, pfn, *order);
	folio_unlock(folio);

	return r;
}

/*
 * The pages [start, end) of the file cease to be the guest's.  Nothing maps them
 * and nothing can until the caller is done.
 */
void kvm_gmem_invalidate_pages(struct kvm *kvm, struct address_space *mapping,
			       pgoff_t start, pgoff_t end)
{
	const struct kvm_gmem_ops *ops = kvm_gmem_get_ops(kvm);
	struct folio_batch batch;
	pgoff_t next = start;
	unsigned int i;

	if (!ops || !ops->invalidate)
		return;

	folio_batch_init(&batch);
	while (filemap_get_folios(mapping, &next, end - 1, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];
			pgoff_t first, past;

			folio_lock(folio);
			if (folio->mapping == mapping) {
				first = max(start, folio->index);
				past = min(end, folio->index + folio_nr_pages(folio));
				ops->invalidate(kvm, folio_pfn(folio) +
						     first - folio->index,
						past - first);
			}
			folio_unlock(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
}
