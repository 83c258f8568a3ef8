// SPDX-License-Identifier: GPL-2.0-only
/*
 * What user space wants each gfn of a VM to be: a map from gfn to a set of
 * KVM_MEMORY_ATTRIBUTE_*.
 *
 * The map is a maple tree of ranges.  A gfn without an entry has no attribute
 * set.  Neighbouring ranges of one value are always merged, so that an entry is
 * as long as it can be, and "does this aligned block have one value" is a single
 * walk.  A store costs the same for a page and for a terabyte.
 *
 * Writers hold slots_lock.  Readers hold nothing but RCU: the tree is in RCU
 * mode, a reader finds the value before or after a concurrent store.  To act on
 * it the reader rechecks under mmu_lock, as a store happens within a bracket of
 * kvm_gfn_invalidate_begin() and _end().
 *
 * In particular, outside of such a bracket, nothing is mapped that contradicts
 * the tree: no private gfn maps the shared alias, no shared gfn the private page.
 *
 * Readers use mas_walk() only, from the root each time.  mas_find() and mas_next()
 * of this kernel crash when a store has left the tree empty, or with gfn 0 alone,
 * since they found their node: other users of the tree never get there.
 */

#include <linux/maple_tree.h>

#include "guest_memfd.h"
#include "kvm_mm.h"

void kvm_memory_attributes_init(struct kvm *kvm)
{
	/*
	 * Nobody allocates ranges here.  But in RCU mode this kernel frees only
	 * trees of that kind right, whose inner nodes have no use for the last
	 * slot as metadata: mt_free_walk() takes that for a child.
	 */
	mt_init_flags(&kvm->mem_attributes,
		      MT_FLAGS_ALLOC_RANGE | MT_FLAGS_USE_RCU);
}

void kvm_memory_attributes_destroy(struct kvm *kvm)
{
	/* No reader is left, free without a grace period. */
	mt_clear_in_rcu(&kvm->mem_attributes);
	mtree_destroy(&kvm->mem_attributes);
}

/* NULL for no attributes, so that a store of "none" removes entries. */
static void *attributes_to_entry(u64 attributes)
{
	return attributes ? xa_mk_value(attributes) : NULL;
}

static u64 entry_to_attributes(void *entry)
{
	return entry ? xa_to_value(entry) : 0;
}

/*
 * The attributes of @gfn and, in @last, up to which gfn these are known to go on.
 * The next gfn may have the same value only where it is 0, as a gap may be split
 * between nodes of the tree.
 */
static u64 walk_attributes(struct kvm *kvm, gfn_t gfn, gfn_t *last)
{
	MA_STATE(mas, &kvm->mem_attributes, gfn, gfn);
	u64 attributes;

	rcu_read_lock();
	attributes = entry_to_attributes(mas_walk(&mas));
	*last = mas.last;
	rcu_read_unlock();

	return attributes;
}

u64 kvm_get_memory_attributes(struct kvm *kvm, gfn_t gfn)
{
	gfn_t last;

	return walk_attributes(kvm, gfn, &last);
}

bool kvm_range_has_memory_attributes(struct kvm *kvm, gfn_t start, gfn_t end,
				     u64 attributes)
{
	gfn_t last;

	do {
		if (walk_attributes(kvm, start, &last) != attributes)
			return false;
		start = last + 1;
	} while (last < end - 1);

	return true;
}

/*
 * Call @handler for the shared parts of @range: mmu_notifier events are about
 * the alias and do not concern private gfns.
 *
 * Under mmu_lock, hence the tree agrees with what is mapped, see above.  The
 * handler may drop the lock, so each walk is an RCU section of its own.
 */
bool kvm_handle_shared_gfns(struct kvm *kvm, const struct kvm_gfn_range *range,
			    bool (*handler)(struct kvm *kvm,
					    struct kvm_gfn_range *range))
{
	struct kvm_gfn_range part = *range;
	bool ret = false;
	u64 attributes;
	gfn_t last;

	for (; part.start < range->end; part.start = part.end) {
		attributes = walk_attributes(kvm, part.start, &last);
		part.end = min(range->end - 1, last) + 1;
		if (!(attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE))
			ret |= handler(kvm, &part);
	}

	return ret;
}

/* All attributes that @kvm supports, or that some VM does if NULL. */
u64 kvm_supported_memory_attributes(struct kvm *kvm)
{
	if (!kvm_arch_supports_gmem(kvm))
		return 0;
	if (kvm && !kvm_arch_has_private_mem(kvm))
		return 0;

	return KVM_MEMORY_ATTRIBUTE_PRIVATE;
}

/* Unmap [start, end) in all memslots and address spaces. */
static void invalidate_gfns(struct kvm *kvm, gfn_t start, gfn_t end)
{
	struct kvm_memslot_iter iter;
	int i;

	for (i = 0; i < KVM_ADDRESS_SPACE_NUM; i++) {
		kvm_for_each_memslot_in_gfn_range(&iter, __kvm_memslots(kvm, i),
						  start, end) {
			struct kvm_memory_slot *slot = iter.slot;

			kvm_gfn_invalidate_range(kvm, slot,
						 max(start, slot->base_gfn),
						 min(end, slot->base_gfn + slot->npages));
		}
	}
}

/* Widen the range of @mas to the neighbours that have the value @entry. */
static void merge_neighbours(struct ma_state *mas, void *entry)
{
	MA_STATE(left, mas->tree, mas->index - 1, mas->index - 1);
	MA_STATE(right, mas->tree, mas->last + 1, mas->last + 1);

	if (!entry)
		return;

	rcu_read_lock();
	if (mas->index && mas_walk(&left) == entry)
		mas->index = left.index;
	if (mas->last != ULONG_MAX && mas_walk(&right) == entry)
		mas->last = right.last;
	rcu_read_unlock();
}

/*
 * All or nothing: the memory that the store needs is there before anything
 * changes.  Charged to the caller's memory cgroup.
 */
static int store_attributes(struct kvm *kvm, gfn_t start, gfn_t end,
			    u64 attributes)
{
	MA_STATE(mas, &kvm->mem_attributes, start, end - 1);
	void *entry = attributes_to_entry(attributes);
	int r;

	lockdep_assert_held(&kvm->slots_lock);

	if (kvm_range_has_memory_attributes(kvm, start, end, attributes))
		return 0;

	merge_neighbours(&mas, entry);
	r = mas_preallocate(&mas, entry, GFP_KERNEL_ACCOUNT);
	if (r)
		return r;

	KVM_MMU_LOCK(kvm);
	kvm_gfn_invalidate_begin(kvm);
	kvm_gfn_invalidate_add(kvm, start, end);
	invalidate_gfns(kvm, start, end);
	KVM_MMU_UNLOCK(kvm);

	mas_lock(&mas);
	mas_store_prealloc(&mas, entry);
	mas_unlock(&mas);

	KVM_MMU_LOCK(kvm);
	kvm_gfn_invalidate_end(kvm);
	KVM_MMU_UNLOCK(kvm);

	return 0;
}

int kvm_set_memory_attributes(struct kvm *kvm,
			      const struct kvm_memory_attributes *args)
{
	gfn_t start, end;
	int r;

	if (args->flags)
		return -EINVAL;
	if (args->attributes & ~kvm_supported_memory_attributes(kvm))
		return -EINVAL;
	if (!args->size || args->address + args->size < args->address)
		return -EINVAL;
	if (!PAGE_ALIGNED(args->address) || !PAGE_ALIGNED(args->size))
		return -EINVAL;

	start = args->address >> PAGE_SHIFT;
	end = (args->address + args->size) >> PAGE_SHIFT;

	mutex_lock(&kvm->slots_lock);
	r = store_attributes(kvm, start, end, args->attributes);
	mutex_unlock(&kvm->slots_lock);

	return r;
}
