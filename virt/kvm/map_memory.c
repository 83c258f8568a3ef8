// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM_MAP_MEMORY and KVM_PRE_FAULT_MEMORY: map guest memory before the guest
 * runs into what is missing, for a launch that is measured, a fast boot, or the
 * target of a migration.
 *
 * Two front doors to one implementation.  They differ in when they succeed:
 * KVM_MAP_MEMORY if the whole range is mapped, KVM_PRE_FAULT_MEMORY, which is
 * mainline's, if anything is.  Both tell in the argument what is left.
 *
 * Any number of vCPUs may do this at once: nothing here is taken but the mutex of
 * the vCPU.  What is mapped may be unmapped again at any time for the usual
 * reasons, "mapped" is a statement about the past.
 */

#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "guest_memfd.h"

static int check_range(u64 gpa, u64 size, u64 flags)
{
	if (flags)
		return -EINVAL;
	if (!PAGE_ALIGNED(gpa) || !PAGE_ALIGNED(size))
		return -EINVAL;
	if (gpa + size <= gpa)
		return -EINVAL;

	return 0;
}

static int may_go_on(struct kvm_vcpu *vcpu)
{
	if (signal_pending(current))
		return -EINTR;
	if (READ_ONCE(vcpu->kvm->vm_dead))
		return -EIO;
	/*
	 * A page that is mapped writable takes an entry if writes are tracked,
	 * and user space cannot reap while it waits here.
	 */
	if (vcpu->kvm->dirty_ring_size &&
	    kvm_dirty_ring_soft_full(&vcpu->dirty_ring))
		return -EAGAIN;

	return 0;
}

/* Advances *gpa and *size past what is mapped, and tells what stopped it. */
static int map_range(struct kvm_vcpu *vcpu, u64 *gpa, u64 *size)
{
	struct kvm *kvm = vcpu->kvm;
	long mapped;
	int idx, r;

	if (kvm_gmem_pre_fault_refused(kvm) || kvm_gmem_may_run(vcpu))
		return -EOPNOTSUPP;

	while (*size) {
		r = may_go_on(vcpu);
		if (r)
			return r;

		/*
		 * Whoever updates memslots waits for readers.  Let go after
		 * each mapping or short run of them: one that has to be tried
		 * again may have to because of the update, and a long range
		 * must not delay it.
		 */
		idx = srcu_read_lock(&kvm->srcu);
		mapped = kvm_arch_vcpu_map_memory(vcpu, *gpa, *size);
		srcu_read_unlock(&kvm->srcu, idx);
		if (mapped < 0)
			return mapped;

		mapped = min_t(u64, mapped, *size);
		*gpa += mapped;
		*size -= mapped;
		cond_resched();
	}

	return 0;
}

static int map_memory(struct kvm_vcpu *vcpu, u64 *gpa, u64 *size, u64 flags)
{
	int r;

	r = check_range(*gpa, *size, flags);
	if (r)
		return r;

	vcpu_load(vcpu);
	r = map_range(vcpu, gpa, size);
	vcpu_put(vcpu);

	return r;
}

int kvm_vcpu_map_memory(struct kvm_vcpu *vcpu, void __user *argp)
{
	struct kvm_memory_mapping args;
	int r;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	/* What is left must be told: find out before anything is done. */
	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;

	r = map_memory(vcpu, &args.base_address, &args.size, args.flags);
	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;

	return r;
}

int kvm_vcpu_pre_fault_memory(struct kvm_vcpu *vcpu, void __user *argp)
{
	struct kvm_pre_fault_memory args;
	u64 size;
	int r;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;

	size = args.size;
	r = map_memory(vcpu, &args.gpa, &args.size, args.flags);
	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;

	return args.size == size ? r : 0;
}
