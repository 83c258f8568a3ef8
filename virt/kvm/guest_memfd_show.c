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
	struct kvm_vm_stat_generic *stat = &gmem->kvm->stat.generic;
	struct kvm_memory_slot *slot, *prev = NULL;
	unsigned long index, large, pages;
	int srcu_idx;

	large = count_large_folios(mapping);
	/* It may have shrunk since. */
	pages = max(READ_ONCE(mapping->nrpages), large << order);

	seq_printf(m, "gmem-size:\t%lld\n", i_size_read(mapping->host));
	seq_printf(m, "gmem-flags:\t%#llx\n", kvm_gmem_inode(mapping->host)->flags);
	seq_printf(m, "gmem-vm-pid:\t%d\n", gmem->kvm->userspace_pid);
	/* A process may have several VMs. */
	if (!IS_ERR(gmem->kvm->debugfs_dentry))
		seq_printf(m, "gmem-vm-debugfs:\t%pd\n", gmem->kvm->debugfs_dentry);
	/* Attributes are those of gfns, whatever file is bound there. */
	seq_printf(m, "gmem-vm-to-private:\t%llu\n", stat->gmem_to_private);
	seq_printf(m, "gmem-vm-to-shared:\t%llu\n", stat->gmem_to_shared);
	seq_printf(m, "gmem-allocated:\t%llu\n", (u64)pages << PAGE_SHIFT);
	seq_printf(m, "gmem-folios-4k:\t%lu\n", pages - (large << order));
	seq_printf(m, "gmem-folios-2m:\t%lu\n", large);

	srcu_idx = srcu_read_lock(&gmem->kvm->srcu);
	mutex_lock(&gmem->bindings_lock);
	xa_for_each(&gmem->bindings, index, slot) {
		/* One memslot may be several entries, and may be about to fail. */
		if (slot == prev || !kvm_gmem_active_slot(gmem->kvm, slot))
			continue;
		prev = slot;
		seq_printf(m, "gmem-binding:\tslot %d as %u gpa %#llx size %#llx offset %#llx\n",
			   slot->id, slot->as_id, (u64)slot->base_gfn << PAGE_SHIFT,
			   (u64)slot->npages << PAGE_SHIFT,
			   (u64)slot->gmem.pgoff << PAGE_SHIFT);
	}
	mutex_unlock(&gmem->bindings_lock);
	srcu_read_unlock(&gmem->kvm->srcu, srcu_idx);
}

#define GFN_END		(1ULL << (64 - PAGE_SHIFT))

struct attributes_view {
	struct kvm *kvm;
	/* Of the range that was shown, or passed over. */
	gfn_t last;
};

/* The position is the gfn from which on the next range is looked for. */
static void *attributes_start(struct seq_file *m, loff_t *pos)
{
	return *pos < GFN_END ? pos : NULL;
}

/* After what was shown, not after what is there by now: no gfn is shown twice. */
static void *attributes_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct attributes_view *view = m->private;

	*pos = min_t(u64, view->last, GFN_END - 1) + 1;

	return attributes_start(m, pos);
}

static int attributes_show(struct seq_file *m, void *v)
{
	struct attributes_view *view = m->private;
	gfn_t first, pos = *(loff_t *)v;
	u64 attributes;

	attributes = kvm_find_memory_attributes(view->kvm, pos, &first, &view->last);
	if (!attributes)
		return SEQ_SKIP;

	/* It may have grown into what was shown before. */
	seq_printf(m, "%#llx-%#llx %s\n", max(first, pos) << PAGE_SHIFT,
		   (view->last << PAGE_SHIFT) + ~PAGE_MASK,
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
	struct attributes_view *view;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;

	view = __seq_open_private(file, &attributes_seq_ops, sizeof(*view));
	if (!view) {
		kvm_put_kvm(kvm);
		return -ENOMEM;
	}
	view->kvm = kvm;

	return 0;
}

static int attributes_release(struct inode *inode, struct file *file)
{
	seq_release_private(inode, file);
	kvm_put_kvm(inode->i_private);

	return 0;
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
