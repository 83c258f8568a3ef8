/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GUEST_MEMFD_H
#define __KVM_GUEST_MEMFD_H

/*
 * What the files of guest-first memory share with each other and with
 * kvm_main.c.  The interface for architectures is <linux/kvm_gmem.h>.
 *
 * Lock order, outermost first:
 *
 *	kvm->slots_lock
 *	  mapping->invalidate_lock of the file
 *	    folio lock
 *	      kvm_gmem.bindings_lock
 *	        kvm->mmu_lock
 *
 * The memory-failure hook is called with the folio locked.  It needs the
 * bindings, hence these have a lock of their own below the folio lock instead
 * of being protected by the invalidate lock.
 */

#include <linux/fs.h>
#include <linux/kvm_gmem.h>
#include <linux/mempolicy.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/xarray.h>

struct module;
struct seq_file;

#ifdef CONFIG_KVM_GUEST_MEMFD

/*
 * One VM's view of an inode, file->private_data.  Pins the VM.  A memslot points
 * to the file but does not pin it: release clears the pointers.
 */
struct kvm_gmem {
	struct kvm *kvm;
	/* Excludes users of the slots in @bindings from bind and unbind. */
	struct mutex bindings_lock;
	/*
	 * File offset in pages to memslot.  Written under kvm->slots_lock,
	 * bindings_lock and, before release, the invalidate lock; read under
	 * any of them.
	 */
	struct xarray bindings;
	struct address_space *mapping;
	/* See kvm_gmem_hold_mappings(). */
	struct list_head held;
};

/*
 * What is a property of the memory rather than of a VM's view of it.  Freed with
 * the only file, which every mapping pins.
 */
struct kvm_gmem_inode {
	/* GUEST_MEMFD_FLAG_* */
	u64 flags;
	/* Of a folio: 0 or that of a PMD. */
	unsigned int max_order;
	/* Try for more than a folio can be, see guest_memfd_huge.c. */
	bool huge;
	/* Where a look for that much has ended the last time: a hint, no lock. */
	pgoff_t gap;
	/* By offset in pages. */
	struct shared_policy policy;
};

static inline struct kvm_gmem_inode *kvm_gmem_inode(struct inode *inode)
{
	return inode->i_private;
}

/* Add one to a counter of the VM that made the file. */
#define kvm_gmem_count(mapping, counter)				\
	atomic64_inc(&((struct kvm_gmem *)(mapping)->private_data)	\
			->kvm->stat.generic.counter)

static inline pgoff_t kvm_gmem_slot_index(const struct kvm_memory_slot *slot,
					  gfn_t gfn)
{
	return gfn - slot->base_gfn + slot->gmem.pgoff;
}

static inline gfn_t kvm_gmem_slot_gfn(const struct kvm_memory_slot *slot,
				      pgoff_t index)
{
	return slot->base_gfn + index - slot->gmem.pgoff;
}

/* guest_memfd.c: the file */
void kvm_gmem_init(struct module *module);
int kvm_gmem_create(struct kvm *kvm, struct kvm_create_guest_memfd *args);
u64 kvm_gmem_supported_flags(struct kvm *kvm);
struct kvm_gmem *kvm_gmem_from_file(struct file *file);
int kvm_gmem_modified(struct file *file);

/* guest_memfd_mmap.c: user space's mappings */
int kvm_gmem_mmap(struct file *file, struct vm_area_struct *vma);
void kvm_gmem_unmap_user(struct address_space *mapping, pgoff_t start,
			 pgoff_t end);
int kvm_gmem_take_from_user(struct kvm_memory_slot *slot, gfn_t start,
			    gfn_t end);
void kvm_gmem_give_to_user(struct kvm_memory_slot *slot, gfn_t start, gfn_t end);
void kvm_gmem_hold_mappings(struct kvm *kvm, gfn_t start, gfn_t end,
			    struct list_head *held);
void kvm_gmem_release_mappings(struct list_head *held);

/* guest_memfd_write.c: contents from user space without a mapping */
ssize_t kvm_gmem_write_iter(struct kiocb *iocb, struct iov_iter *from);

/* guest_memfd_binding.c: memslots on a file */
struct kvm_gmem *kvm_gmem_alloc(struct kvm *kvm);
void kvm_gmem_free(struct kvm_gmem *gmem);
int kvm_gmem_bind(struct kvm *kvm, struct kvm_memory_slot *slot,
		  unsigned int fd, u64 offset);
struct kvm_memory_slot *kvm_gmem_active_slot(struct kvm *kvm,
					     struct kvm_memory_slot *slot);
void kvm_gmem_unbind(struct kvm_memory_slot *slot);
void kvm_gmem_unbind_all(struct kvm_gmem *gmem);
void kvm_gmem_invalidate_begin(struct kvm_gmem *gmem, pgoff_t start,
			       pgoff_t end, pgoff_t first, pgoff_t past);
void kvm_gmem_invalidate_end(struct kvm_gmem *gmem);
struct file *kvm_gmem_get_file(struct kvm_memory_slot *slot);
struct page *kvm_gmem_find_page(struct kvm_memory_slot *slot, gfn_t gfn);

/* guest_memfd_folio.c: the memory */
extern const struct address_space_operations kvm_gmem_aops;
unsigned int kvm_gmem_max_order(void);
bool kvm_gmem_wants_huge(void);
unsigned int kvm_gmem_wanted_order(struct inode *inode, pgoff_t index);
gfp_t kvm_gmem_gfp(struct address_space *mapping, unsigned int order);
struct folio *kvm_gmem_get_folio(struct inode *inode, pgoff_t index);
bool kvm_gmem_lock_or_put(struct folio *folio);
int kvm_gmem_add_folio(struct address_space *mapping, struct folio *folio,
		       pgoff_t index);
struct folio *kvm_gmem_get_empty_folio(struct address_space *mapping,
				       pgoff_t index);
void kvm_gmem_zero_folio(struct folio *folio);
int kvm_gmem_allocate(struct inode *inode, pgoff_t start, pgoff_t end);
int kvm_gmem_split_locked(struct address_space *mapping, struct page *page);
void kvm_gmem_split_poisoned(struct address_space *mapping, pgoff_t start,
			     pgoff_t end);
int kvm_gmem_remove_pages(struct kvm_gmem *gmem, struct address_space *mapping,
			  pgoff_t start, pgoff_t end);

/* guest_memfd_huge.c: more than a folio in one piece */
#define KVM_GMEM_HUGE_ORDER	(PUD_SHIFT - PAGE_SHIFT)
#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && defined(CONFIG_CONTIG_ALLOC)
void kvm_gmem_allocate_huge(struct inode *inode, pgoff_t start, pgoff_t end);
bool kvm_gmem_is_huge(struct inode *inode, pgoff_t index, unsigned long pfn);
#else
static inline void kvm_gmem_allocate_huge(struct inode *inode, pgoff_t start,
					  pgoff_t end)
{
}

static inline bool kvm_gmem_is_huge(struct inode *inode, pgoff_t index,
				    unsigned long pfn)
{
	return false;
}
#endif

/* guest_memfd_mempolicy.c: on which node the memory is allocated */
#ifdef CONFIG_NUMA
void kvm_gmem_policy_init(struct shared_policy *policy);
void kvm_gmem_policy_destroy(struct shared_policy *policy);
int kvm_gmem_set_policy(struct vm_area_struct *vma, struct mempolicy *new);
struct mempolicy *kvm_gmem_get_policy(struct vm_area_struct *vma,
				      unsigned long addr);
struct folio *kvm_gmem_alloc_folio(struct inode *inode, pgoff_t index,
				   gfp_t gfp, unsigned int order);
struct folio *kvm_gmem_alloc_huge(struct inode *inode, pgoff_t index);
#else
static inline void kvm_gmem_policy_init(struct shared_policy *policy)
{
}

static inline void kvm_gmem_policy_destroy(struct shared_policy *policy)
{
}

static inline struct folio *kvm_gmem_alloc_folio(struct inode *inode,
						 pgoff_t index, gfp_t gfp,
						 unsigned int order)
{
	return filemap_alloc_folio(gfp, order);
}

static inline struct folio *kvm_gmem_alloc_huge(struct inode *inode,
						pgoff_t index)
{
	gfp_t gfp = mapping_gfp_mask(inode->i_mapping) | __GFP_NOWARN;

	return alloc_contig_folios(KVM_GMEM_HUGE_ORDER, PMD_SHIFT - PAGE_SHIFT, gfp,
				   numa_mem_id(), NULL);
}
#endif

/* guest_memfd_backend.c: what a back end has to say */
void kvm_gmem_backend_destroy(struct kvm *kvm);
int kvm_gmem_prepare(struct kvm *kvm, struct address_space *mapping,
		     struct folio *folio, gfn_t gfn, kvm_pfn_t pfn,
		     unsigned int *order);
void kvm_gmem_invalidate_pages(struct kvm *kvm, struct address_space *mapping,
			       pgoff_t start, pgoff_t end);

static inline const struct kvm_gmem_ops *kvm_gmem_get_ops(struct kvm *kvm)
{
	/* Pairs with kvm_gmem_set_ops(). */
	return smp_load_acquire(&kvm->gmem_ops);
}

static inline int kvm_gmem_may_run(struct kvm_vcpu *vcpu)
{
	const struct kvm_gmem_ops *ops = kvm_gmem_get_ops(vcpu->kvm);

	return ops && ops->may_run ? ops->may_run(vcpu) : 0;
}

/* memory_attributes.c: what user space wants */
void kvm_memory_attributes_init(struct kvm *kvm);
void kvm_memory_attributes_destroy(struct kvm *kvm);
u64 kvm_supported_memory_attributes(struct kvm *kvm);
int kvm_set_memory_attributes(struct kvm *kvm,
			      const struct kvm_memory_attributes *args);
bool kvm_handle_shared_gfns(struct kvm *kvm, const struct kvm_gfn_range *range,
			    bool (*handler)(struct kvm *kvm,
					    struct kvm_gfn_range *range));
bool kvm_next_gfns(struct kvm *kvm, bool private, gfn_t *start, gfn_t *past,
		   gfn_t end);

/* gfn_invalidate.c: holding faults off a range of gfns */
void kvm_gfn_invalidate_begin(struct kvm *kvm);
void kvm_gfn_invalidate_range(struct kvm *kvm, struct kvm_memory_slot *slot,
			      gfn_t start, gfn_t end);
void kvm_gfn_invalidate_add(struct kvm *kvm, gfn_t start, gfn_t end);
void kvm_gfn_invalidate_end(struct kvm *kvm);

/* guest_memfd_show.c: what can be seen of it */
void kvm_gmem_show_fdinfo(struct seq_file *m, struct file *file);
void kvm_gmem_create_debugfs(struct kvm *kvm);

/* map_memory.c: pre-population, the ioctls of a vCPU */
int kvm_vcpu_map_memory(struct kvm_vcpu *vcpu, void __user *argp);
int kvm_vcpu_pre_fault_memory(struct kvm_vcpu *vcpu, void __user *argp);

#else /* !CONFIG_KVM_GUEST_MEMFD */

static inline void kvm_gmem_init(struct module *module)
{
}

static inline int kvm_gmem_bind(struct kvm *kvm, struct kvm_memory_slot *slot,
				unsigned int fd, u64 offset)
{
	WARN_ON_ONCE(1);
	return -EIO;
}

static inline void kvm_gmem_unbind(struct kvm_memory_slot *slot)
{
}

static inline int kvm_gmem_may_run(struct kvm_vcpu *vcpu)
{
	return 0;
}

static inline void kvm_gmem_backend_destroy(struct kvm *kvm)
{
}

static inline void kvm_gmem_create_debugfs(struct kvm *kvm)
{
}

static inline void kvm_memory_attributes_init(struct kvm *kvm)
{
}

static inline void kvm_memory_attributes_destroy(struct kvm *kvm)
{
}

static inline u64 kvm_gmem_supported_flags(struct kvm *kvm)
{
	return 0;
}

static inline u64 kvm_supported_memory_attributes(struct kvm *kvm)
{
	return 0;
}

#ifdef KVM_ARCH_WANT_MMU_NOTIFIER
static inline bool kvm_handle_shared_gfns(struct kvm *kvm,
					  const struct kvm_gfn_range *range,
					  bool (*handler)(struct kvm *kvm,
							  struct kvm_gfn_range *range))
{
	return false;
}
#endif

#endif /* CONFIG_KVM_GUEST_MEMFD */

/* guest_memfd_inject.c: memory errors for tests */
#ifdef CONFIG_KVM_GMEM_INJECT_ERRORS
void kvm_gmem_create_inject_debugfs(struct kvm *kvm);
#else
static inline void kvm_gmem_create_inject_debugfs(struct kvm *kvm)
{
}
#endif

#ifdef CONFIG_KVM_GMEM_SOFT_BACKEND
void kvm_gmem_soft_init(struct module *module);
void kvm_gmem_soft_exit(void);
void kvm_gmem_soft_check_freed(kvm_pfn_t pfn, unsigned long nr);
#else
static inline void kvm_gmem_soft_init(struct module *module)
{
}

static inline void kvm_gmem_soft_exit(void)
{
}

static inline void kvm_gmem_soft_check_freed(kvm_pfn_t pfn, unsigned long nr)
{
}
#endif

#endif /* __KVM_GUEST_MEMFD_H */
