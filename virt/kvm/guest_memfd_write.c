// SPDX-License-Identifier: GPL-2.0-only
/*
 * write() to a guest_memfd: contents for memory that the guest does not have yet.
 *
 * A VMM fills a guest from an image or a snapshot with it, whether or not it may
 * map the file: the file alone decides who was first.  A page is filled before it
 * enters the file, so it is seen whole or not at all, and no lock is held while
 * the source is read, which may be a mapping of this very file.
 */

#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/uio.h>

#include "guest_memfd.h"

/* How much to copy before others get the processor. */
#define WRITE_CHUNK	SZ_128K

/* Return how many bytes are written, all of a folio of @order, or an errno. */
static ssize_t write_folio(struct inode *inode, pgoff_t index,
			   unsigned int order, struct iov_iter *from)
{
	struct address_space *mapping = inode->i_mapping;
	size_t size = PAGE_SIZE << order;
	size_t copied = 0, want, n;
	struct folio *folio;
	int r;

	folio = kvm_gmem_alloc_folio(inode, index, kvm_gmem_gfp(mapping, order),
				     order);
	if (!folio)
		return -ENOMEM;

	do {
		want = min_t(size_t, size - copied, WRITE_CHUNK);
		n = copy_page_from_iter(folio_page(folio, copied >> PAGE_SHIFT),
					0, want, from);
		copied += n;
		cond_resched();
	} while (n == want && copied < size);

	if (copied < size) {
		r = -EFAULT;
	} else {
		folio_mark_uptodate(folio);
		r = kvm_gmem_add_folio(mapping, folio, index);
	}

	if (r)
		iov_iter_revert(from, copied);
	else
		folio_unlock(folio);
	folio_put(folio);

	return r ? r : size;
}

static ssize_t write_next(struct inode *inode, pgoff_t index,
			  struct iov_iter *from)
{
	unsigned int order = kvm_gmem_wanted_order(inode, index);
	bool fallback = false;
	ssize_t r;

	/* Only what is written may be there afterwards. */
	if (order && IS_ALIGNED(index, 1UL << order) &&
	    iov_iter_count(from) >= PAGE_SIZE << order) {
		r = write_folio(inode, index, order, from);
		if (r > 0)
			return r;
		fallback = r == -ENOMEM;
	}

	/* Page by page, as far as it goes. */
	r = write_folio(inode, index, 0, from);
	if (fallback && r > 0)
		kvm_gmem_count(inode->i_mapping, gmem_alloc_fallback);

	return r;
}

ssize_t kvm_gmem_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct kvm_gmem *gmem = iocb->ki_filp->private_data;
	loff_t size = i_size_read(inode);
	ssize_t done = 0;
	ssize_t r;

	r = generic_write_checks(iocb, from);
	if (r <= 0)
		return r;
	if (!PAGE_ALIGNED(iocb->ki_pos) || !PAGE_ALIGNED(iov_iter_count(from)))
		return -EINVAL;
	if (iocb->ki_pos >= size)
		return -ENOSPC;
	/* It measures or encrypts what it populates. */
	if (kvm_gmem_get_ops(gmem->kvm))
		return -EPERM;

	while (iov_iter_count(from) && iocb->ki_pos < size) {
		r = -EINTR;
		if (signal_pending(current))
			break;

		r = write_next(inode, iocb->ki_pos >> PAGE_SHIFT, from);
		if (r < 0)
			break;

		iocb->ki_pos += r;
		done += r;
		cond_resched();
	}

	if (!done)
		return r;

	/* It cannot be taken back if the times cannot be updated. */
	kvm_gmem_modified(iocb->ki_filp);

	return done;
}
