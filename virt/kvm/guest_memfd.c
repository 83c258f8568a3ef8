// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfd: a file whose only purpose is to be guest memory.
 *
 * There are two objects.  The inode is the physical storage, it owns the size
 * and the folios.  The file is one VM's view of it, it owns the bindings to
 * memslots and pins the VM.
 *
 * Unless a flag asks for it the file has no mmap and no write, and it never has
 * a read: memory that user space cannot reach cannot be leaked or corrupted by it.
 * The folios are freed in release and not when the inode is evicted, because the
 * module may be unloaded in between.
 */

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/pagemap.h>

#include <trace/events/kvm_gmem.h>

#include "guest_memfd.h"

static int punch_hole(struct inode *inode, struct kvm_gmem *gmem,
		      loff_t offset, loff_t len)
{
	struct address_space *mapping = inode->i_mapping;
	int r;

	filemap_invalidate_lock(mapping);
	r = kvm_gmem_remove_pages(gmem, mapping, offset >> PAGE_SHIFT,
				  (offset + len) >> PAGE_SHIFT);
	filemap_invalidate_unlock(mapping);

	trace_kvm_gmem_punch(inode->i_ino, offset >> PAGE_SHIFT,
			     (offset + len) >> PAGE_SHIFT, r);

	return r;
}

/*
 * Update the times.  The VFS asks for the inode lock there; nothing else here needs
 * it, as the invalidate lock and those of the folios guard the contents.
 */
int kvm_gmem_modified(struct file *file)
{
	struct inode *inode = file_inode(file);
	int r;

	inode_lock(inode);
	r = file_modified(file);
	inode_unlock(inode);

	return r;
}

static long kvm_gmem_fallocate(struct file *file, int mode, loff_t offset,
			       loff_t len)
{
	struct inode *inode = file_inode(file);
	int r;

	if (!(mode & FALLOC_FL_KEEP_SIZE) ||
	    (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)))
		return -EOPNOTSUPP;

	if (!PAGE_ALIGNED(offset) || !PAGE_ALIGNED(len))
		return -EINVAL;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		r = punch_hole(inode, file->private_data, offset, len);
	else if (offset + len > i_size_read(inode))
		r = -EINVAL;
	else
		r = kvm_gmem_allocate(inode, offset >> PAGE_SHIFT,
				      (offset + len) >> PAGE_SHIFT);

	return r ? r : kvm_gmem_modified(file);
}

/* No SEEK_DATA and SEEK_HOLE: what is there changes without the file's user. */
static loff_t kvm_gmem_llseek(struct file *file, loff_t offset, int whence)
{
	return fixed_size_llseek(file, offset, whence,
				 i_size_read(file_inode(file)));
}

static int kvm_gmem_release(struct inode *inode, struct file *file)
{
	struct kvm_gmem *gmem = file->private_data;

	kvm_gmem_unbind_all(gmem);
	kvm_gmem_invalidate_pages(gmem->kvm, inode->i_mapping, 0, ULONG_MAX);
	kvm_gmem_split_poisoned(inode->i_mapping, 0, ULONG_MAX);
	/* Waits for a memory failure being handled, which uses @gmem. */
	truncate_inode_pages_final(inode->i_mapping);
	kvm_gmem_policy_destroy(&kvm_gmem_inode(inode)->policy);
	kfree(kvm_gmem_inode(inode));
	kvm_gmem_free(gmem);

	return 0;
}

/* Not const: the owner is known only when the module is loaded. */
static struct file_operations kvm_gmem_fops = {
	.llseek		= kvm_gmem_llseek,
	.write_iter	= kvm_gmem_write_iter,
	.mmap		= kvm_gmem_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.release	= kvm_gmem_release,
	.fallocate	= kvm_gmem_fallocate,
	.show_fdinfo	= kvm_gmem_show_fdinfo,
};

static int kvm_gmem_getattr(struct user_namespace *mnt_userns,
			    const struct path *path, struct kstat *stat,
			    u32 request_mask, unsigned int query_flags)
{
	struct inode *inode = path->dentry->d_inode;

	generic_fillattr(mnt_userns, inode, stat);
	/* What is allocated; the page cache has counted already. */
	stat->blocks = (u64)inode->i_mapping->nrpages << (PAGE_SHIFT - 9);

	return 0;
}

/* Size, owner, mode and times are fixed. */
static int kvm_gmem_setattr(struct user_namespace *mnt_userns,
			    struct dentry *dentry, struct iattr *attr)
{
	return -EINVAL;
}

static const struct inode_operations kvm_gmem_iops = {
	.getattr	= kvm_gmem_getattr,
	.setattr	= kvm_gmem_setattr,
};

/* NULL if @file is something else. */
struct kvm_gmem *kvm_gmem_from_file(struct file *file)
{
	return file->f_op == &kvm_gmem_fops ? file->private_data : NULL;
}

/* All flags that @kvm supports, or that some VM does if NULL. */
u64 kvm_gmem_supported_flags(struct kvm *kvm)
{
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_WRITE;

	if (!kvm_arch_supports_gmem(kvm))
		return 0;
	/* With private memory the VM's attributes tell what is shared. */
	if (!kvm || !kvm_arch_has_private_mem(kvm))
		flags |= GUEST_MEMFD_FLAG_INIT_SHARED;

	return flags;
}

static struct file *create_file(struct kvm *kvm, loff_t size, u64 flags)
{
	struct kvm_gmem_inode *private;
	struct kvm_gmem *gmem;
	struct inode *inode;
	struct file *file;

	private = kzalloc(sizeof(*private), GFP_KERNEL_ACCOUNT);
	if (!private)
		return ERR_PTR(-ENOMEM);

	gmem = kvm_gmem_alloc(kvm);
	if (!gmem) {
		kfree(private);
		return ERR_PTR(-ENOMEM);
	}

	/* An inode of its own, and LSMs may deny it by the name. */
	file = anon_inode_getfile_secure("[kvm-gmem]", &kvm_gmem_fops, gmem,
					 O_RDWR, NULL);
	if (IS_ERR(file)) {
		kvm_gmem_free(gmem);
		kfree(private);
		return file;
	}
	file->f_flags |= O_LARGEFILE;
	/* A position is of use for write() only. */
	if (flags & GUEST_MEMFD_FLAG_WRITE)
		file->f_mode |= FMODE_PREAD | FMODE_PWRITE | FMODE_ATOMIC_POS;
	else
		file->f_mode &= ~(FMODE_LSEEK | FMODE_CAN_WRITE);

	inode = file_inode(file);
	private->flags = flags;
	private->max_order = kvm_gmem_max_order();
	private->huge = private->max_order && kvm_gmem_wants_huge();
	private->gap = ULONG_MAX;
	if (private->max_order)
		mapping_set_large_folios(inode->i_mapping);
	kvm_gmem_policy_init(&private->policy);
	inode->i_private = private;
	inode->i_op = &kvm_gmem_iops;
	inode->i_mapping->a_ops = &kvm_gmem_aops;
	inode->i_mapping->private_data = gmem;
	gmem->mapping = inode->i_mapping;
	inode->i_mode |= S_IFREG;
	inode->i_size = size;
	/* Not movable: memory from there would be pinned forever. */
	mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);
	mapping_set_unevictable(inode->i_mapping);
	mapping_set_keep_hwpoison(inode->i_mapping);

	return file;
}

int kvm_gmem_create(struct kvm *kvm, struct kvm_create_guest_memfd *args)
{
	loff_t size = args->size;
	struct file *file;
	int fd;

	if (!kvm_arch_supports_gmem(kvm))
		return -ENOTTY;
	if (args->flags & ~kvm_gmem_supported_flags(kvm))
		return -EINVAL;
	if (size <= 0 || !PAGE_ALIGNED(size))
		return -EINVAL;

	fd = get_unused_fd_flags(0);
	if (fd < 0)
		return fd;

	file = create_file(kvm, size, args->flags);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}

	trace_kvm_gmem_create(file_inode(file)->i_ino, size, args->flags);
	fd_install(fd, file);
	return fd;
}

void kvm_gmem_init(struct module *module)
{
	/* Offsets in pages are kept as unsigned long and as gfn_t. */
	BUILD_BUG_ON(sizeof(gfn_t) != sizeof(pgoff_t));

	kvm_gmem_fops.owner = module;
}
