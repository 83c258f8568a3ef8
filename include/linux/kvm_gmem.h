/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __LINUX_KVM_GMEM_H
#define __LINUX_KVM_GMEM_H

/*
 * Guest-first memory: what architecture and vendor code may call.
 *
 * Two questions have two owners.  What user space wants a page to be (private
 * or shared) is in the VM's attribute map.  What the memory is (allocated,
 * zeroed, poisoned) is in the inode of a guest_memfd.  Neither is inferred
 * from the other.
 *
 * A gfn is private when kvm_mem_is_private() says so.  The answer can change
 * at any time unless slots_lock is held, hence every user that acts on it goes
 * through the same protocol as for a pfn taken from the primary MMU:
 *
 *	seq = READ_ONCE(kvm->mmu_invalidate_seq);
 *	smp_rmb();
 *	if (kvm_mem_is_private(kvm, gfn))
 *		kvm_gmem_get_pfn(kvm, slot, gfn, &pfn, &order);
 *	lock mmu_lock
 *	if (kvm_gfn_invalidate_retry(kvm, seq, gfn))
 *		unlock, release the pfn, start again
 *	use the pfn
 *	unlock mmu_lock
 *
 * Documentation/virt/kvm/guest-memfd.rst tells the rest.
 */

#include <linux/kvm_host.h>

/*
 * An architecture defines kvm_arch_has_private_mem() when some of its VM types
 * have private memory, and kvm_arch_private_mem_is_trusted() when, for some of
 * those, the host kernel may read and write that memory.
 */
#ifndef kvm_arch_has_private_mem
#define kvm_arch_has_private_mem(kvm) false
#endif

#ifndef kvm_arch_private_mem_is_trusted
#define kvm_arch_private_mem_is_trusted(kvm) false
#endif

/*
 * Does kvm_unmap_gfn_range() give up mmu_lock by itself, if it may, when others want
 * it?  Then a range of any length is one call.
 */
#ifndef kvm_arch_unmap_yields
#define kvm_arch_unmap_yields(slot) false
#endif

#ifdef CONFIG_KVM_GUEST_MEMFD

/* Architecture: may this VM, or any VM if NULL, have a guest_memfd? */
bool kvm_arch_supports_gmem(struct kvm *kvm);

/*
 * Architecture: map @gpa for a loaded vCPU as if the guest had touched it, with
 * the largest page that can be had, and what comes after it within @size bytes as
 * far as that is cheaper now than in a call of its own.  kvm->srcu is held.  Return
 * how many bytes are mapped from @gpa on, which may be more than @size, 0 if it has
 * to be tried again, or an errno.
 */
long kvm_arch_vcpu_map_memory(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size);

/**
 * kvm_slot_can_be_private - does a memslot have memory for private gfns
 * @slot: memslot, may be NULL
 *
 * The answer does not change during the life of a memslot.  It stays true when
 * the file is closed while the slot lives; kvm_gmem_get_pfn() fails then.
 *
 * Return: true if @slot has a guest_memfd.
 */
static inline bool kvm_slot_can_be_private(const struct kvm_memory_slot *slot)
{
	return slot && (slot->flags & KVM_MEM_GUEST_MEMFD);
}

/**
 * kvm_slot_is_gmem_only - is the file all the memory that a memslot has
 * @slot: memslot, may be NULL
 *
 * True for a file with GUEST_MEMFD_FLAG_MMAP: shared pages are in the file like
 * private ones, so the guest never gets a page from userspace_addr, which is at
 * most where the VMM has mapped the file.  Does not change during the life of a
 * memslot.
 *
 * Return: true if it is.
 */
static inline bool kvm_slot_is_gmem_only(const struct kvm_memory_slot *slot)
{
	return slot && slot->gmem.only;
}

/**
 * kvm_slot_memory_index - where the memory of a memslot begins
 * @slot: memslot, bound if it is going to be
 *
 * Return: in pages, the offset in the file if that is all the memory that @slot
 * has, else the user address.  A block can be mapped by one entry only if it is
 * aligned there as it is in the guest.
 */
static inline unsigned long
kvm_slot_memory_index(const struct kvm_memory_slot *slot)
{
	if (kvm_slot_is_gmem_only(slot))
		return slot->gmem.pgoff;

	return slot->userspace_addr >> PAGE_SHIFT;
}

/**
 * kvm_get_memory_attributes - attributes of a gfn
 * @kvm: the VM
 * @gfn: any gfn, in a memslot or not
 *
 * Does not sleep and takes no lock but RCU.
 *
 * Return: a set of KVM_MEMORY_ATTRIBUTE_*.
 */
u64 kvm_get_memory_attributes(struct kvm *kvm, gfn_t gfn);

/**
 * kvm_find_memory_attributes - attributes of a gfn and of those around it
 * @kvm: the VM
 * @gfn: any gfn, in a memslot or not
 * @first: from which gfn on all have the same value
 * @last: up to which gfn, inclusive
 *
 * As kvm_get_memory_attributes(), and at the same cost.  The range ends where the
 * value changes, but if there are no attributes it may end before.
 *
 * Return: a set of KVM_MEMORY_ATTRIBUTE_*.
 */
u64 kvm_find_memory_attributes(struct kvm *kvm, gfn_t gfn, gfn_t *first,
			       gfn_t *last);

/**
 * kvm_range_has_memory_attributes - do all gfns of a range have one value
 * @kvm: the VM
 * @start: first gfn
 * @end: gfn past the last one, larger than @start
 * @attributes: the value asked for
 *
 * One walk of the tree, whatever the length of the range.  Does not sleep.  The
 * answer is a snapshot, consistent only under slots_lock or when the caller
 * rechecks with kvm_gfn_invalidate_retry().
 *
 * Return: true if all of them have exactly @attributes.
 */
bool kvm_range_has_memory_attributes(struct kvm *kvm, gfn_t start, gfn_t end,
				     u64 attributes);

/**
 * kvm_mem_is_private - is a gfn private
 * @kvm: the VM
 * @gfn: any gfn, in a memslot or not
 *
 * Return: true if it is; never on a VM type without private memory.
 */
static inline bool kvm_mem_is_private(struct kvm *kvm, gfn_t gfn)
{
	return kvm_arch_has_private_mem(kvm) &&
	       (kvm_get_memory_attributes(kvm, gfn) & KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

/**
 * kvm_gmem_get_pfn - page of a gfn from the guest_memfd bound to its memslot
 * @kvm: the VM
 * @slot: memslot that contains @gfn, kvm_slot_can_be_private() is true for it
 * @gfn: the gfn
 * @pfn: the page, with a reference for the caller to drop
 * @max_order: may be NULL for 0; the order of the largest naturally aligned block
 *	around @gfn that the caller can use, on return of the one it gets: all of it
 *	in the file and physically in one piece, without a poisoned page, and agreed
 *	by the back end
 *
 * Allocates the page if the file has none there, clears it if nobody has yet, and
 * has the back end prepare the block.  May sleep.  The reference keeps the page from
 * being reused, not from being removed from the file: the caller rechecks with
 * kvm_gfn_invalidate_retry() under mmu_lock.
 *
 * Return: 0, or
 * * -EAGAIN: the page is being removed from the file, start again
 * * -EFAULT: the file is closed
 * * -EHWPOISON: the page has an uncorrected memory error
 * * -ENOMEM: no memory, or over the limit of the caller's memory cgroup
 * * what the back end says
 */
int kvm_gmem_get_pfn(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
		     kvm_pfn_t *pfn, unsigned int *max_order);

/**
 * kvm_gmem_get_pfns - the same for a run of gfns, a page each
 * @kvm: the VM
 * @slot: as above, contains all of them
 * @gfn: the first one
 * @pfns: the pages, with a reference each for the caller to drop
 * @nr: how many
 *
 * Return: how many it has got; the next one has failed if these are less than @nr.
 */
unsigned int kvm_gmem_get_pfns(struct kvm *kvm, struct kvm_memory_slot *slot,
			       gfn_t gfn, kvm_pfn_t *pfns, unsigned int nr);

/**
 * struct kvm_gmem_ops - the back end of a VM's private memory
 * @may_run: may a vCPU enter the guest?  Called for each KVM_RUN with the vCPU's
 *	mutex held.  Return 0 or the errno for user space.  As long as it is not
 *	0, KVM_MAP_MEMORY and KVM_PRE_FAULT_MEMORY fail with -EOPNOTSUPP.
 * @max_order: the largest order, at most @order, of a naturally aligned block
 *	around @gfn and @pfn that one entry of the guest's tables may map.
 * @prepare: a naturally aligned block of pages becomes the guest's, or is its
 *	already: called again for each fault.  Within one folio, which is locked.  An errno
 *	other than -EAGAIN fails the fault, with part of the block prepared or not.
 * @invalidate: @nr pages from @pfn on cease to be the guest's, or never have been,
 *	before they leave the file or their memslot.  Nothing maps them.  With the
 *	folio locked.  Conversion to shared does not lead here: the page stays.
 * @destroy: the VM is destroyed, all its files are gone.
 *
 * All may sleep, and all may be NULL.  @prepare and @invalidate of one page exclude
 * each other, calls for other pages are concurrent.
 */
struct kvm_gmem_ops {
	int (*may_run)(struct kvm_vcpu *vcpu);
	unsigned int (*max_order)(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
				  unsigned int order);
	int (*prepare)(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
		       unsigned int order);
	void (*invalidate)(struct kvm *kvm, kvm_pfn_t pfn, unsigned long nr);
	void (*destroy)(struct kvm *kvm);
};

/**
 * kvm_gmem_set_ops - give a VM a back end
 * @kvm: a VM without vCPUs
 * @ops: the back end, valid as long as the VM lives
 * @data: for the back end, kvm->gmem_ops_data
 *
 * Takes kvm->lock.
 *
 * Return: 0, or -EBUSY if the VM has vCPUs or a back end.
 */
int kvm_gmem_set_ops(struct kvm *kvm, const struct kvm_gmem_ops *ops, void *data);

/**
 * typedef kvm_gmem_fill_t - put the initial contents into a private page
 * @kvm: the VM
 * @gfn: where the guest has it
 * @pfn: the page; nobody else can see it yet
 * @src: what user space wants to be there, pinned, or NULL for zeroes
 * @opaque: of the caller
 *
 * Writes the whole page.  May sleep.  Return 0 or an errno.
 */
typedef int (*kvm_gmem_fill_t)(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
			       struct page *src, void *opaque);

/**
 * kvm_gmem_populate - fill private memory from a user buffer
 * @kvm: the VM
 * @gfn: first gfn
 * @src: page aligned user address of the contents, or NULL
 * @npages: pages, may span memslots
 * @fill: called for each page in order, NULL to copy
 * @opaque: for @fill
 *
 * For each page: the gfn is private and in a memslot with a guest_memfd, the file
 * has no contents there yet, the back end prepares it, @fill fills it.  A page that
 * fails leaves a hole.
 *
 * Takes slots_lock and the file's invalidate lock for some pages at a time, after
 * these are pinned.
 *
 * Return: pages populated if there are any, else
 * * -EINVAL: @src is not aligned, or the gfn is not such
 * * -EEXIST: the page has contents already; what fallocate() has got has none
 * * -EAGAIN: it is part of a large folio that somebody holds
 * * -EFAULT: @src cannot be read, or the file is closed
 * * -EINTR: a signal is pending
 * * -ENOMEM
 * * what the back end or @fill says
 */
long kvm_gmem_populate(struct kvm *kvm, gfn_t gfn, const void __user *src,
		       unsigned long npages, kvm_gmem_fill_t fill, void *opaque);

/**
 * kvm_gfn_invalidate_pending - are gfns being converted, punched or unbound
 * @kvm: the VM
 * @start: first gfn
 * @end: gfn past the last one
 *
 * Reliable under mmu_lock, a hint without.
 *
 * Return: true if an invalidation is in progress that may concern any of them.
 */
static inline bool kvm_gfn_invalidate_pending(struct kvm *kvm, gfn_t start,
					      gfn_t end)
{
	return unlikely(READ_ONCE(kvm->gfn_invalidate.in_progress)) &&
	       start < READ_ONCE(kvm->gfn_invalidate.end) &&
	       end > READ_ONCE(kvm->gfn_invalidate.start);
}

/**
 * kvm_gfn_invalidate_retry - has what was read about a gfn become stale
 * @kvm: the VM, mmu_lock is held
 * @seq: kvm->mmu_invalidate_seq from before the first read
 * @gfn: the gfn
 *
 * Return: true if the caller has to drop what it has and start again.
 */
static inline bool kvm_gfn_invalidate_retry(struct kvm *kvm, unsigned long seq,
					    gfn_t gfn)
{
	lockdep_assert_held(&kvm->mmu_lock);

	if (kvm_gfn_invalidate_pending(kvm, gfn, gfn + 1))
		return true;
	/* Pairs with kvm_gfn_invalidate_end(): sequence first, then range. */
	smp_rmb();
	return kvm->mmu_invalidate_seq != seq;
}

/**
 * kvm_gmem_access_guest - KVM's own access to a gfn, if that is private
 * @kvm: the VM
 * @slot: memslot of @gfn, or NULL if there is none
 * @gfn: the gfn
 * @data: kernel buffer
 * @offset: first byte within the page
 * @len: bytes, at most up to the end of the page
 * @write: from @data to the guest, else the other way
 * @r: 0, or why the access failed: as kvm_gmem_get_pfn(), -EFAULT also for a
 *	slot without guest_memfd and for a VM whose private memory the host must
 *	not touch
 *
 * The access is atomic with respect to conversions and holes: it goes to the
 * page that the guest would have used at that moment.
 *
 * Return: false if @gfn is shared, nothing is done then.
 */
bool kvm_gmem_access_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			   gfn_t gfn, void *data, unsigned int offset,
			   unsigned int len, bool write, int *r);

/**
 * kvm_gmem_vcpu_access_guest - the same on behalf of a vCPU
 * @vcpu: the vCPU
 * @slot: as above
 * @gfn: as above
 * @data: as above
 * @offset: as above
 * @len: as above
 * @write: as above
 * @r: as above
 *
 * A failure is remembered in vcpu->private_access so that the architecture can
 * turn it into a KVM_EXIT_MEMORY_FAULT.
 *
 * Return: false if @gfn is shared, nothing is done then.
 */
bool kvm_gmem_vcpu_access_guest(struct kvm_vcpu *vcpu,
				struct kvm_memory_slot *slot, gfn_t gfn,
				void *data, unsigned int offset,
				unsigned int len, bool write, int *r);

/**
 * kvm_gmem_vcpu_read_guest_atomic - read a private gfn without sleeping
 * @vcpu: the vCPU
 * @slot: memslot of @gfn, or NULL if there is none
 * @gfn: the gfn
 * @data: kernel buffer
 * @offset: first byte within the page
 * @len: bytes, at most up to the end of the page
 * @r: 0, or -EFAULT; a page that the file does not have yet is a failure, too
 *
 * For callers that hold mmu_lock or must not sleep for another reason.
 *
 * Return: false if @gfn is shared, nothing is done then.
 */
bool kvm_gmem_vcpu_read_guest_atomic(struct kvm_vcpu *vcpu,
				     struct kvm_memory_slot *slot, gfn_t gfn,
				     void *data, unsigned int offset,
				     unsigned int len, int *r);

/**
 * kvm_gmem_vcpu_cmpxchg_guest - compare and exchange in a private gfn
 * @vcpu: the vCPU
 * @gpa: address, naturally aligned or at least within one page
 * @old: expected value; what was found there on return
 * @new: new value
 * @size: 1, 2, 4 or 8 bytes
 * @r: 0 if exchanged, 1 if the value was another one, else an errno as above
 *
 * Return: false if the gfn is shared, nothing is done then.
 */
bool kvm_gmem_vcpu_cmpxchg_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *old,
				 const void *new, unsigned int size, int *r);

/**
 * struct kvm_gmem_kmap - a private page that KVM itself is using
 * @kvm: the VM
 * @kaddr: where the page is mapped
 */
struct kvm_gmem_kmap {
	struct kvm *kvm;
	void *kaddr;
};

/**
 * kvm_gmem_kmap_guest - map the page of a gfn for KVM, if that is private
 * @kvm: the VM
 * @slot: memslot of @gfn, or NULL if there is none
 * @gfn: the gfn
 * @map: filled in on success
 *
 * For several accesses that belong together.  mmu_lock is held for reading until
 * kvm_gmem_kunmap_guest(): no conversion and no hole comes in between, and the
 * caller must not sleep.  May itself sleep.
 *
 * Return: 0 if mapped, 1 if @gfn is shared, or an errno as kvm_gmem_access_guest()
 */
int kvm_gmem_kmap_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			gfn_t gfn, struct kvm_gmem_kmap *map);

/**
 * kvm_gmem_try_kmap_guest - the same without sleeping or waiting
 * @kvm: the VM, kvm->srcu is held
 * @slot: as above, from the current memslots
 * @gfn: as above
 * @map: as above
 *
 * For a hint that can be left out, from anywhere but interrupts.
 *
 * Return: as above, -EAGAIN also if the page is being converted or removed, the
 * file does not have it, or somebody waits for mmu_lock
 */
int kvm_gmem_try_kmap_guest(struct kvm *kvm, struct kvm_memory_slot *slot,
			    gfn_t gfn, struct kvm_gmem_kmap *map);

/**
 * kvm_gmem_kunmap_guest - end the use of a page
 * @map: from one of the above
 */
void kvm_gmem_kunmap_guest(struct kvm_gmem_kmap *map);

/**
 * kvm_gmem_slot_to_pfn - pfn of a gfn for KVM to keep, if that is private
 * @kvm: the VM
 * @slot: memslot of @gfn, or NULL if there is none
 * @gfn: the gfn
 * @pfn: the page with a reference, or an error pfn
 *
 * For what would otherwise come from the host virtual address.  The page is the
 * right one at that moment.  The reference does not keep it in the file: who needs
 * to know that it has left, asks kvm_gfn_invalidate_pending() and
 * kvm->mmu_invalidate_seq.  May sleep.
 *
 * Return: false if @gfn is shared, nothing is done then.
 */
bool kvm_gmem_slot_to_pfn(struct kvm *kvm, struct kvm_memory_slot *slot,
			  gfn_t gfn, kvm_pfn_t *pfn);

/**
 * kvm_gmem_refuse_pre_fault - forbid or allow to map memory before a VM runs
 * @kvm: the VM
 * @refuse: whether KVM_MAP_MEMORY and KVM_PRE_FAULT_MEMORY fail with EOPNOTSUPP
 *
 * For a VM whose memory must be mapped by accesses of the guest only; one that must
 * not be mapped before it is finalised says so with kvm_gmem_ops.may_run.  Allowed
 * at first.  A call in progress on a vCPU may still go on when it is forbidden:
 * forbid it before there are vCPUs.
 */
static inline void kvm_gmem_refuse_pre_fault(struct kvm *kvm, bool refuse)
{
	WRITE_ONCE(kvm->pre_fault_refused, refuse);
}

static inline bool kvm_gmem_pre_fault_refused(struct kvm *kvm)
{
	return READ_ONCE(kvm->pre_fault_refused);
}

/**
 * kvm_prepare_memory_fault_exit - fill in a KVM_EXIT_MEMORY_FAULT
 * @vcpu: the vCPU
 * @gpa: page aligned address of the access
 * @size: bytes
 * @is_private: the access was to private memory
 *
 * The caller returns -EFAULT or -EHWPOISON from KVM_RUN, or -ENOMEM if there was
 * no memory for the page.
 */
static inline void kvm_prepare_memory_fault_exit(struct kvm_vcpu *vcpu,
						 gpa_t gpa, u64 size,
						 bool is_private)
{
	vcpu->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	vcpu->run->memory_fault.flags =
		is_private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0;
	vcpu->run->memory_fault.gpa = gpa;
	vcpu->run->memory_fault.size = size;
	vcpu->stat.generic.memory_fault_exits++;
}

#else /* !CONFIG_KVM_GUEST_MEMFD */

static inline bool kvm_arch_supports_gmem(struct kvm *kvm)
{
	return false;
}

static inline void kvm_gmem_refuse_pre_fault(struct kvm *kvm, bool refuse)
{
}

static inline bool kvm_slot_can_be_private(const struct kvm_memory_slot *slot)
{
	return false;
}

static inline bool kvm_slot_is_gmem_only(const struct kvm_memory_slot *slot)
{
	return false;
}

static inline unsigned long
kvm_slot_memory_index(const struct kvm_memory_slot *slot)
{
	return slot->userspace_addr >> PAGE_SHIFT;
}

static inline bool kvm_mem_is_private(struct kvm *kvm, gfn_t gfn)
{
	return false;
}

static inline bool kvm_gfn_invalidate_pending(struct kvm *kvm, gfn_t start,
					      gfn_t end)
{
	return false;
}

static inline bool kvm_gmem_access_guest(struct kvm *kvm,
					 struct kvm_memory_slot *slot,
					 gfn_t gfn, void *data,
					 unsigned int offset, unsigned int len,
					 bool write, int *r)
{
	return false;
}

static inline bool kvm_gmem_slot_to_pfn(struct kvm *kvm,
					struct kvm_memory_slot *slot, gfn_t gfn,
					kvm_pfn_t *pfn)
{
	return false;
}

static inline bool kvm_gmem_vcpu_access_guest(struct kvm_vcpu *vcpu,
					      struct kvm_memory_slot *slot,
					      gfn_t gfn, void *data,
					      unsigned int offset,
					      unsigned int len, bool write,
					      int *r)
{
	return false;
}

static inline bool kvm_gmem_vcpu_read_guest_atomic(struct kvm_vcpu *vcpu,
						   struct kvm_memory_slot *slot,
						   gfn_t gfn, void *data,
						   unsigned int offset,
						   unsigned int len, int *r)
{
	return false;
}

static inline bool kvm_gmem_vcpu_cmpxchg_guest(struct kvm_vcpu *vcpu, gpa_t gpa,
					       void *old, const void *new,
					       unsigned int size, int *r)
{
	return false;
}

#endif /* CONFIG_KVM_GUEST_MEMFD */

#endif /* __LINUX_KVM_GMEM_H */
