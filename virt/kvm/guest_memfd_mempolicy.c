// SPDX-License-Identifier: GPL-2.0-only
/*
 * NUMA policy of a guest_memfd: what mbind() on a mapping of the file asks for.
 *
 * As with shmem, the policy belongs to the file and not to the mapping.  It is
 * kept in the inode per range of pages, where it survives munmap(), is seen
 * through every mapping in every process, and holds for whoever allocates a page:
 * the VMM or the guest by touching it, fallocate(), write(), pre-population.  Only
 * where no policy was set does it matter whose fault it is, as the policy of the
 * allocating task applies.
 *
 * A policy decides about pages to come.  Those that exist stay on their node, as
 * the folios of a guest_memfd cannot be migrated.
 */

#include <linux/cpuset.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "guest_memfd.h"

void kvm_gmem_policy_init(struct shared_policy *policy)
{
	mpol_shared_policy_init(policy, NULL);
}

/* No mapping is left: the policies have no user and get no new one. */
void kvm_gmem_policy_destroy(struct shared_policy *policy)
{
	mpol_free_shared_policy(policy);
}

/* Called with mmap_lock held for write; @vma has been cut to the range. */
int kvm_gmem_set_policy(struct vm_area_struct *vma, struct mempolicy *new)
{
	struct inode *inode = file_inode(vma->vm_file);

	return mpol_set_shared_policy(&kvm_gmem_inode(inode)->policy, vma, new);
}

/* NULL if none was set, otherwise with a reference that mm drops. */
struct mempolicy *kvm_gmem_get_policy(struct vm_area_struct *vma,
				      unsigned long addr)
{
	struct inode *inode = file_inode(vma->vm_file);

	return mpol_shared_policy_lookup(&kvm_gmem_inode(inode)->policy,
					 linear_page_index(vma, addr));
}

/* Does one policy, or none, cover all of [start, end)? */
static bool is_one_policy(struct shared_policy *policy, pgoff_t start, pgoff_t end)
{
	struct rb_node *node;
	bool one = true;

	read_lock(&policy->lock);
	for (node = policy->root.rb_node; node;) {
		struct sp_node *range = rb_entry(node, struct sp_node, nd);

		if (start >= range->end) {
			node = node->rb_right;
		} else if (end <= range->start) {
			node = node->rb_left;
		} else {
			/* They do not overlap. */
			one = range->start <= start && end <= range->end;
			break;
		}
	}
	read_unlock(&policy->lock);

	return one;
}

/*
 * A folio for @index, not charged and not in the file.  NULL also if @order is not
 * 0 and the policy differs between the pages that it would be for.
 *
 * The allocator takes policies from VMAs only, and there may be none: give it one
 * that exists for the length of the call and holds nothing but the policy.
 *
 * Interleaving goes by the index in the file, from folio to folio.  Neither the
 * order of the faults nor the address of a mapping changes where a page goes, and a
 * VMM can tell in advance.  Shmem adds the inode number, lest the first page of
 * every small file lands on the same node; guest memory is no small file.
 */
struct folio *kvm_gmem_alloc_folio(struct inode *inode, pgoff_t index,
				   gfp_t gfp, unsigned int order)
{
	struct shared_policy *policy = &kvm_gmem_inode(inode)->policy;
	struct vm_area_struct vma;
	struct folio *folio;

	index = round_down(index, 1UL << order);
	if (order && !is_one_policy(policy, index, index + (1UL << order)))
		return NULL;

	vma_init(&vma, NULL);
	vma.vm_pgoff = index;
	vma.vm_policy = mpol_shared_policy_lookup(policy, index);
	folio = vma_alloc_folio(gfp, order, &vma, 0, order > 0);
	mpol_cond_put(vma.vm_policy);

	return folio;
}

/* From which nodes @policy, or that of the task, takes memory; @nid is the first choice. */
static bool get_nodes(struct mempolicy *policy, int *nid, nodemask_t *nodes)
{
	if (!policy)
		policy = current->mempolicy;

	*nid = numa_mem_id();
	*nodes = nodemask_of_node(*nid);
	switch (policy ? policy->mode : MPOL_LOCAL) {
	case MPOL_LOCAL:
		break;
	case MPOL_PREFERRED:
		*nid = first_node(policy->nodes);
		*nodes = policy->nodes;
		break;
	case MPOL_PREFERRED_MANY:
	case MPOL_BIND:
		if (policy->home_node != NUMA_NO_NODE)
			*nid = policy->home_node;
		*nodes = policy->nodes;
		break;
	default:
		/* Interleaved, which so large a block would thwart. */
		return false;
	}
	/* The allocator does not look at it for such memory. */
	nodes_and(*nodes, *nodes, cpuset_current_mems_allowed);

	return !nodes_empty(*nodes);
}

/*
 * Folios for the whole block around @index that are physically in one piece; the first
 * one is returned.  NULL also if the policy differs within, or if it would have
 * to be elsewhere than where the pages are best: small ones there are better.
 */
struct folio *kvm_gmem_alloc_huge(struct inode *inode, pgoff_t index)
{
	struct shared_policy *policy = &kvm_gmem_inode(inode)->policy;
	gfp_t gfp = mapping_gfp_mask(inode->i_mapping) | __GFP_NOWARN;
	struct mempolicy *found;
	nodemask_t nodes;
	bool ok;
	int nid;

	index = round_down(index, 1UL << KVM_GMEM_HUGE_ORDER);
	if (!is_one_policy(policy, index, index + (1UL << KVM_GMEM_HUGE_ORDER)))
		return NULL;

	found = mpol_shared_policy_lookup(policy, index);
	ok = get_nodes(found, &nid, &nodes);
	mpol_cond_put(found);
	if (!ok)
		return NULL;

	return alloc_contig_folios(KVM_GMEM_HUGE_ORDER, PMD_SHIFT - PAGE_SHIFT, gfp,
				   nid, &nodes);
}
