// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory errors by guest address: what a VMM does about them can be tested without
 * memory that is broken, and without knowing which page of the machine a guest has.
 *
 * A write of "GPA SIZE" to gmem_poison in the VM's debugfs directory is to each gfn
 * of the range what an uncorrected error in its page is: the page is looked up as a
 * write of the guest would, allocated if need be, and given to memory_failure().
 *
 * No lock is held meanwhile, as memory failure takes the folio lock and what is below.
 * The page is the one that the gfn had at some moment of the call; who converts or
 * punches at the same time cannot tell which, no more than with a real error.
 */

#include <linux/debugfs.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "guest_memfd.h"

static int get_file_page(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
			 struct page **page)
{
	kvm_pfn_t pfn;
	int r;

	if (!kvm_slot_can_be_private(slot))
		return -EFAULT;
	/* Do not allocate into a hole that is being punched. */
	if (kvm_gfn_invalidate_pending(kvm, gfn, gfn + 1))
		return -EAGAIN;

	r = kvm_gmem_get_pfn(kvm, slot, gfn, &pfn, NULL);
	if (!r)
		*page = pfn_to_page(pfn);

	return r;
}

/* The caller need not be the VMM. */
static int get_user_page(struct kvm *kvm, unsigned long hva, bool write,
			 struct page **page)
{
	unsigned int flags = FOLL_HWPOISON | (write ? FOLL_WRITE : 0);
	int locked = 1;
	long r;

	if (!mmget_not_zero(kvm->mm))
		return -ESRCH;

	r = -EINTR;
	if (!mmap_read_lock_killable(kvm->mm)) {
		r = get_user_pages_remote(kvm->mm, hva, 1, flags, page, NULL,
					  &locked);
		if (locked)
			mmap_read_unlock(kvm->mm);
	}
	mmput(kvm->mm);
	if (r != 1)
		return r < 0 ? r : -EFAULT;

	/* All of the system may be reading zeroes there, and not this guest alone. */
	if (!page_folio(*page)->mapping) {
		put_page(*page);
		return -EFAULT;
	}

	return 0;
}

/* With a reference. */
static int get_guest_page(struct kvm *kvm, gfn_t gfn, struct page **page)
{
	unsigned long hva = KVM_HVA_ERR_BAD;
	struct kvm_memory_slot *slot;
	bool write = false;
	int idx, r = 0;

	idx = srcu_read_lock(&kvm->srcu);
	slot = gfn_to_memslot(kvm, gfn);
	if (!slot || !kvm_is_visible_memslot(slot)) {
		r = -ENXIO;
	} else if (kvm_slot_is_gmem_only(slot) || kvm_mem_is_private(kvm, gfn)) {
		r = get_file_page(kvm, slot, gfn, page);
	} else {
		hva = __gfn_to_hva_memslot(slot, gfn);
		write = !(slot->flags & KVM_MEM_READONLY);
	}
	srcu_read_unlock(&kvm->srcu, idx);

	/* Which may wait for user space, as long as that likes. */
	if (!kvm_is_error_hva(hva))
		r = get_user_page(kvm, hva, write, page);

	return r;
}

static int poison_gfn(struct kvm *kvm, gfn_t gfn)
{
	struct page *page;
	int r;

	do {
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
		r = get_guest_page(kvm, gfn, &page);
	} while (r == -EAGAIN);
	if (r)
		return r;

	pr_info("kvm: injecting memory failure at gpa %#llx, pfn %#lx\n",
		gfn_to_gpa(gfn), page_to_pfn(page));

	/* The reference is memory failure's from here on. */
	return memory_failure(page_to_pfn(page), MF_COUNT_INCREASED | MF_SW_SIMULATED);
}

/* Two numbers, in any base that C knows. */
static int parse_range(char *text, u64 *gpa, u64 *size)
{
	char *first;
	int r;

	text = strim(text);
	first = strsep(&text, " ");
	if (!text)
		return -EINVAL;

	r = kstrtou64(first, 0, gpa);
	if (!r)
		r = kstrtou64(skip_spaces(text), 0, size);
	if (r)
		return r;

	if (!PAGE_ALIGNED(*gpa) || !PAGE_ALIGNED(*size) || *gpa + *size <= *gpa)
		return -EINVAL;

	return 0;
}

static ssize_t poison_write(struct file *file, const char __user *buf,
			    size_t count, loff_t *ppos)
{
	struct kvm *kvm = file->private_data;
	gfn_t gfn, end;
	char text[64];
	u64 gpa, size;
	int r;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (count >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, count))
		return -EFAULT;
	text[count] = '\0';

	r = parse_range(text, &gpa, &size);
	if (r)
		return r;

	end = gpa_to_gfn(gpa + size);
	for (gfn = gpa_to_gfn(gpa); gfn < end; gfn++) {
		r = poison_gfn(kvm, gfn);
		if (r)
			return r;
	}

	return count;
}

/*
 * The file does not pin the VM, and is removed when that is destroyed; who has it
 * open does.
 */
static int poison_open(struct inode *inode, struct file *file)
{
	if (!kvm_get_kvm_safe(inode->i_private))
		return -ENOENT;

	file->private_data = inode->i_private;

	return nonseekable_open(inode, file);
}

static int poison_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(file->private_data);

	return 0;
}

static const struct file_operations poison_fops = {
	.owner		= THIS_MODULE,
	.open		= poison_open,
	.release	= poison_release,
	.write		= poison_write,
	.llseek		= no_llseek,
};

void kvm_gmem_create_inject_debugfs(struct kvm *kvm)
{
	debugfs_create_file("gmem_poison", 0200, kvm->debugfs_dentry, kvm,
			    &poison_fops);
}
