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

#include <linux/kvm_gmem.h>
#include <linux/mutex.h>
#include <linux/xarray.h>

struct module;

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
	 * File offset in pages to memslot.  Written under kvm->slots_lock and
	 * bindings_lock, read under either.
	 */
	struct xarray bindings;
};

static inline pgoff_t kvm_gmem_slot_index(const struct kvm_memory_slot *slot,
					  gfn_t gfn)
{
	return gfn - slot->base_gfn + slot->gmem.pgoff;
}

/* guest_memfd.c: the file */
void kvm_gmem_init(struct module *module);
int kvm_gmem_create(struct kvm *kvm, struct kvm_create_guest_memfd *args);
struct kvm_gmem *kvm_gmem_from_file(struct file *file);

/* guest_memfd_binding.c: memslots on a file */
struct kvm_gmem *kvm_gmem_alloc(struct kvm *kvm);
void kvm_gmem_free(struct kvm_gmem *gmem);
int kvm_gmem_bind(struct kvm *kvm, struct kvm_memory_slot *slot,
		  unsigned int fd, u64 offset);
void kvm_gmem_slot_ready(struct kvm_memory_slot *slot);
void kvm_gmem_unbind(struct kvm_memory_slot *slot);
void kvm_gmem_unbind_all(struct kvm_gmem *gmem);
void kvm_gmem_invalidate_begin(struct kvm_gmem *gmem, pgoff_t start,
			       pgoff_t end);
void kvm_gmem_invalidate_end(struct kvm_gmem *gmem);
struct file *kvm_gmem_get_file(struct kvm_memory_slot *slot);
struct page *kvm_gmem_find_page(struct kvm_memory_slot *slot, gfn_t gfn);

/* guest_memfd_folio.c: the memory */
extern const struct address_space_operations kvm_gmem_aops;
struct folio *kvm_gmem_get_folio(struct inode *inode, pgoff_t index);
struct folio *kvm_gmem_add_empty_folio(struct address_space *mapping,
				       pgoff_t index);
void kvm_gmem_zero_folio(struct folio *folio);
int kvm_gmem_allocate(struct inode *inode, pgoff_t start, pgoff_t end);
void kvm_gmem_remove_pages(struct kvm_gmem *gmem, struct address_space *mapping,
			   pgoff_t start, pgoff_t end);

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

/* gfn_invalidate.c: holding faults off a range of gfns */
void kvm_gfn_invalidate_begin(struct kvm *kvm);
void kvm_gfn_invalidate_range(struct kvm *kvm, struct kvm_memory_slot *slot,
			      gfn_t start, gfn_t end);
void kvm_gfn_invalidate_add(struct kvm *kvm, gfn_t start, gfn_t end);
void kvm_gfn_invalidate_end(struct kvm *kvm);

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

static inline void kvm_gmem_slot_ready(struct kvm_memory_slot *slot)
{
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

static inline void kvm_memory_attributes_init(struct kvm *kvm)
{
}

static inline void kvm_memory_attributes_destroy(struct kvm *kvm)
{
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
