/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_KVM_GMEM_SOFT_H
#define _UAPI_LINUX_KVM_GMEM_SOFT_H

/*
 * /dev/kvm-gmem-soft: a software back end for the private memory of a VM, for
 * tests of the code that real ones depend on.  Debug interface: it may change
 * with every kernel.  Present if CONFIG_KVM_GMEM_SOFT_BACKEND is.
 *
 * A file descriptor of the device stands for one VM after ATTACH.  The VM keeps
 * its back end when that is closed.  All but ATTACH fail with EINVAL before.
 * Calls on one descriptor may be made by any number of threads.
 */

#include <linux/ioctl.h>
#include <linux/types.h>

#define KVM_GMEM_SOFT_ATTACH	_IOW(0xB9, 0x00, struct kvm_gmem_soft_attach)
#define KVM_GMEM_SOFT_POPULATE	_IOWR(0xB9, 0x01, struct kvm_gmem_soft_populate)
#define KVM_GMEM_SOFT_FINALISE	_IO(0xB9, 0x02)
#define KVM_GMEM_SOFT_STATUS	_IOR(0xB9, 0x03, struct kvm_gmem_soft_status)
#define KVM_GMEM_SOFT_PLANT	_IOW(0xB9, 0x04, __u32)

/**
 * struct kvm_gmem_soft_attach - become the back end of a VM
 * @vm_fd: a VM with private memory and without vCPUs, of the calling process
 * @max_order: no mapping is larger than this many pages as a power of two, 0..18
 *
 * The VM cannot run and cannot be pre-faulted until KVM_GMEM_SOFT_FINALISE.
 *
 * Errors: EBADF @vm_fd is not open; EINVAL it is not such a VM, or @max_order is
 * too large; EBUSY the VM has vCPUs or a back end, or this descriptor a VM;
 * ENOMEM.
 */
struct kvm_gmem_soft_attach {
	__s32 vm_fd;
	__u32 max_order;
};

/**
 * struct kvm_gmem_soft_populate - put initial contents into private memory
 * @gpa: first guest physical address, page aligned; on return the first one
 *	that is left
 * @size: bytes, page aligned, not zero; on return what is left
 * @source: user address of the contents, page aligned; moves with @gpa
 *
 * Each page is measured.  Pages before an error stay populated.
 *
 * Errors: EINVAL bad alignment, size or wrap, or a gfn that is not private or
 * has no guest_memfd; EEXIST a page is there already; EFAULT @source cannot be
 * read, or the guest_memfd is closed; EPERM finalised; EINTR a signal; ENOMEM.
 */
struct kvm_gmem_soft_populate {
	__u64 gpa;
	__u64 size;
	__u64 source;
};

/*
 * KVM_GMEM_SOFT_FINALISE ends the measurement and lets the VM run.
 * Error: EPERM it is finalised already.
 */

/**
 * struct kvm_gmem_soft_status - measurement and counters
 * @digest: SHA-256 of all populated pages so far in the order of population,
 *	each as its gpa, a little endian 64-bit number, and its 4096 bytes
 * @populated: pages
 * @prepared: pages that became the guest's, populated or not
 * @invalidated: pages taken from the guest again
 * @owned: pages that are the guest's now
 * @violations: broken rules: a page with two owners, or freed while owned
 * @finalised: 0 or 1
 * @pad: 0
 */
struct kvm_gmem_soft_status {
	__u8 digest[32];
	__u64 populated;
	__u64 prepared;
	__u64 invalidated;
	__u64 owned;
	__u64 violations;
	__u32 finalised;
	__u32 pad;
};

/*
 * KVM_GMEM_SOFT_PLANT breaks something, to show that it is noticed.  Takes a set
 * of these bits.  Error: EINVAL another bit.
 */

/* Do not hear of the next invalidation, which is that of a folio. */
#define KVM_GMEM_SOFT_FORGET_INVALIDATE	(1U << 0)

#endif /* _UAPI_LINUX_KVM_GMEM_SOFT_H */
