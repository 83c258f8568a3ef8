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

#include <trace/events/kvm_gmem.h>

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
	kvm->mem_attributes_store = (struct ma_state){
		.tree = &kvm->mem_attributes,
		.node = MAS_START,
	};
}

void kvm_memory_attributes_destroy(struct kvm *kvm)
{
	mas_destroy(&kvm->mem_attributes_store);
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
 * The neighbours of the range may have the same value only where it is 0, as a gap
 * may be split between nodes of the tree.
 */
u64 kvm_find_memory_attributes(struct kvm *kvm, gfn_t gfn, gfn_t *first,
			       gfn_t *last)
{
	MA_STATE(mas, &kvm->mem_attributes, gfn, gfn);
	u64 attributes;

	rcu_read_lock();
	attributes = entry_to_attributes(mas_walk(&mas));
	*first = mas.index;
	*last = mas.last;
	rcu_read_unlock();

	return attributes;
}

u64 kvm_get_memory_attributes(struct kvm *kvm, gfn_t gfn)
{
	gfn_t first, last;

	return kvm_find_memory_attributes(kvm, gfn, &first, &last);
}
EXPORT_SYMBOL_GPL(kvm_get_memory_attributes);

bool kvm_range_has_memory_attributes(struct kvm *kvm, gfn_t start, gfn_t end,
				     u64 attributes)
{
	gfn_t first, last;

	do {
		if (kvm_find_memory_attributes(kvm, start, &first, &last) !=
		    attributes)
			return false;
		start = last + 1;
	} while (last < end - 1);

	return true;
}

/*
 * Find the first gfns in [*start, end) that are private, or shared: [*start,
 * *past).  The next ones may be so, too.  Return false if there are none.
 */
bool kvm_next_gfns(struct kvm *kvm, bool private, gfn_t *start, gfn_t *past,
		   gfn_t end)
{
	gfn_t first, last;
	u64 attributes;

	for (; *start < end; *start = *past) {
		attributes = kvm_find_memory_attributes(kvm, *start, &first,
							&last);
		*past = min(end - 1, last) + 1;
		if (!!(attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE) == private)
			return true;
	}

	return false;
}

/*
 * Call @handler for the parts of @range that take their memory from the alias:
 * mmu_notifier events are about that and do not concern private gfns.
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

	if (kvm_slot_is_gmem_only(range->slot))
		return false;

	for (; kvm_next_gfns(kvm, false, &part.start, &part.end, range->end);
	     part.start = part.end)
		ret |= handler(kvm, &part);

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

/*
 * Set up @mas for a store to [start, end) and to the neighbours that have the value
 * already.  Return false if nothing changes.  Within a range of another value, as
 * most are, there are no such neighbours, and one walk tells.
 */
static bool set_range_to_store(struct kvm *kvm, struct ma_state *mas, gfn_t start,
			       gfn_t end, u64 attributes)
{
	gfn_t first, last, index = start, unused;
	u64 value;

	value = kvm_find_memory_attributes(kvm, start, &first, &last);
	if (value == attributes) {
		if (last >= end - 1 ||
		    kvm_range_has_memory_attributes(kvm, last + 1, end, attributes))
			return false;
		if (attributes)
			index = first;
	} else if (attributes && start && start == first &&
		   kvm_find_memory_attributes(kvm, start - 1, &first, &unused) ==
		   attributes) {
		index = first;
	}

	if (!attributes || last >= end ||
	    kvm_find_memory_attributes(kvm, end, &unused, &last) != attributes)
		last = end - 1;

	mas_set_range(mas, index, last);

	return true;
}

/*
 * Where private and shared memory is the same, what changes in [start, end)
 * changes hands.  -EAGAIN if it is going to be private and somebody holds on to it.
 */
static int convert_in_place(struct kvm *kvm, gfn_t start, gfn_t end, bool private)
{
	struct kvm_memslot_iter iter;
	int r = 0;

	kvm_for_each_memslot_in_gfn_range(&iter, kvm_memslots(kvm), start, end) {
		struct kvm_memory_slot *slot = iter.slot;
		gfn_t last = min(end, slot->base_gfn + slot->npages);
		gfn_t first = max(start, slot->base_gfn);
		gfn_t past;

		if (!kvm_slot_is_gmem_only(slot))
			continue;

		for (; !r && kvm_next_gfns(kvm, !private, &first, &past, last);
		     first = past) {
			if (private)
				r = kvm_gmem_take_from_user(slot, first, past);
			else
				kvm_gmem_give_to_user(slot, first, past);
		}
	}

	return r;
}

/*
 * All or nothing: the memory that the store needs is there before anything
 * changes.  Charged to the caller's memory cgroup.
 */
static int store_attributes(struct kvm *kvm, gfn_t start, gfn_t end,
			    u64 attributes)
{
	struct ma_state *mas = &kvm->mem_attributes_store;
	bool private = attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE;
	void *entry = attributes_to_entry(attributes);
	LIST_HEAD(held);
	int r;

	lockdep_assert_held(&kvm->slots_lock);

	if (!set_range_to_store(kvm, mas, start, end, attributes))
		return 0;

	/* The worst case.  What is left of it is there for the next store. */
	r = mas_preallocate(mas, entry, GFP_KERNEL_ACCOUNT);
	if (r)
		return r;

	if (private)
		kvm_gmem_hold_mappings(kvm, start, end, &held);

	KVM_MMU_LOCK(kvm);
	kvm_gfn_invalidate_begin(kvm);
	kvm_gfn_invalidate_add(kvm, start, end);
	invalidate_gfns(kvm, start, end);
	KVM_MMU_UNLOCK(kvm);

	/* Within the bracket: a guest's fault has a reference for a while. */
	r = convert_in_place(kvm, start, end, private);
	if (!r) {
		mas_lock(mas);
		mas_store(mas, entry);
		mas_unlock(mas);
	}

	KVM_MMU_LOCK(kvm);
	kvm_gfn_invalidate_end(kvm);
	KVM_MMU_UNLOCK(kvm);

	kvm_gmem_release_mappings(&held);

	trace_kvm_gmem_convert(start, end, attributes, r);
	if (!r && private)
		kvm->stat.generic.gmem_to_private++;
	else if (!r)
		kvm->stat.generic.gmem_to_shared++;

	return r;
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
