// SPDX-License-Identifier: GPL-2.0-only
/*
 * What can be seen of guest memory from outside of the VMM: /proc/PID/fdinfo of a file,
 * the attributes of a VM in debugfs, and trace events.
 *
 * To look must not disturb: no reference to a folio is taken, not even for a moment, as
 * it would keep the folio from being split or converted; and no lock is held for longer
 * than it takes to print what it protects.  So what is printed is true line by line and
 * need not be true as a whole where others change it meanwhile.
 */

#include <linux/debugfs.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>

#include "guest_memfd.h"

#define CREATE_TRACE_POINTS
#include <trace/events/kvm_gmem.h>

/*
 * A folio is a page or naturally aligned and of one larger order.  To look once at each
 * place where a large one may be costs the same whether there are pages or not.
 */
static unsigned long count_large_folios(struct address_space *mapping)
{
	unsigned int order = kvm_gmem_inode(mapping->host)->max_order;
	unsigned long index = 0, next, nr = 0;

	if (!order)
		return 0;

	while (xa_find(&mapping->i_pages, &index, ULONG_MAX, XA_PRESENT)) {
		if (xa_get_order(&mapping->i_pages, index) == order)
			nr++;

		next = round_down(index, 1UL << order) + (1UL << order);
		/* The last block that there can be? */
		if (next < index)
			break;
		index = next;
		cond_resched();
	}

	return nr;
}

/*
 * Who reads this has the file open, or may look into who has.  The bindings' lock keeps
 * the memslots; it is below all others but mmu_lock.
 */
void kvm_gmem_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct address_space *mapping = file->f_mapping;
	unsigned int order = kvm_gmem_inode(mapping->host)->max_order;
	struct kvm_gmem *gmem = file->private_data;
	struct kvm_memory_slot *slot, *prev = NULL;
	unsigned long index, large, pages;

	large = count_large_folios(mapping);
	/* It may have shrunk since. */
	pages = max(READ_ONCE(mapping->nrpages), large << order);

	seq_printf(m, "gmem-size:\t%lld\n", i_size_read(mapping->host));
	seq_printf(m, "gmem-flags:\t%#llx\n", kvm_gmem_inode(mapping->host)->flags);
	seq_printf(m, "gmem-vm-pid:\t%d\n", gmem->kvm->userspace_pid);
	seq_printf(m, "gmem-allocated:\t%llu\n", (u64)pages << PAGE_SHIFT);
	seq_printf(m, "gmem-folios-4k:\t%lu\n", pages - (large << order));
	seq_printf(m, "gmem-folios-2m:\t%lu\n", large);

	mutex_lock(&gmem->bindings_lock);
	xa_for_each(&gmem->bindings, index, slot) {
		/* One memslot may be several entries. */
		if (slot == prev)
			continue;
		prev = slot;
		seq_printf(m, "gmem-binding:\tslot %d as %u gpa %#llx size %#llx offset %#llx\n",
			   slot->id, slot->as_id, (u64)slot->base_gfn << PAGE_SHIFT,
			   (u64)slot->npages << PAGE_SHIFT,
			   (u64)slot->gmem.pgoff << PAGE_SHIFT);
	}
	mutex_unlock(&gmem->bindings_lock);
}

#define GFN_END		(1ULL << (64 - PAGE_SHIFT))

/* The position is the gfn from which on the next range is looked for. */
static void *attributes_start(struct seq_file *m, loff_t *pos)
{
	return *pos < GFN_END ? pos : NULL;
}

static void *attributes_next(struct seq_file *m, void *v, loff_t *pos)
{
	gfn_t first, last;

	kvm_find_memory_attributes(m->private, *pos, &first, &last);
	*pos = min_t(u64, last, GFN_END - 1) + 1;

	return attributes_start(m, pos);
}

static int attributes_show(struct seq_file *m, void *v)
{
	gfn_t first, last;
	u64 attributes;

	attributes = kvm_find_memory_attributes(m->private, *(loff_t *)v, &first, &last);
	if (!attributes)
		return SEQ_SKIP;

	/* Not beyond the position: that has been printed. */
	first = max_t(u64, first, *(loff_t *)v);
	seq_printf(m, "%#llx-%#llx %s\n", first << PAGE_SHIFT,
		   (last << PAGE_SHIFT) + ~PAGE_MASK,
		   attributes == KVM_MEMORY_ATTRIBUTE_PRIVATE ? "private" : "?");

	return 0;
}

static void attributes_stop(struct seq_file *m, void *v)
{
}

static const struct seq_operations attributes_seq_ops = {
	.start	= attributes_start,
	.next	= attributes_next,
	.stop	= attributes_stop,
	.show	= attributes_show,
};

/*
 * The file does not pin the VM, and is removed when that is destroyed; who has it
 * open does.
 */
static int attributes_open(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;
	int r;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;

	r = seq_open(file, &attributes_seq_ops);
	if (r) {
		kvm_put_kvm(kvm);
		return r;
	}
	((struct seq_file *)file->private_data)->private = kvm;

	return 0;
}

static int attributes_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(inode->i_private);

	return seq_release(inode, file);
}

static const struct file_operations attributes_fops = {
	.owner		= THIS_MODULE,
	.open		= attributes_open,
	.release	= attributes_release,
	.read		= seq_read,
	.llseek		= seq_lseek,
};

void kvm_gmem_create_debugfs(struct kvm *kvm)
{
	debugfs_create_file("memory_attributes", 0444, kvm->debugfs_dentry, kvm,
			    &attributes_fops);
	kvm_gmem_create_inject_debugfs(kvm);
}
