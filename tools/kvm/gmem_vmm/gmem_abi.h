/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest memory part of the KVM ABI, for building against headers that do
 * not have it yet (Debian 12's stop at Linux 6.1).  Every definition yields to
 * the one of <linux/kvm.h> when that is new enough.
 */
#ifndef GMEM_ABI_H
#define GMEM_ABI_H

#include <linux/kvm.h>
#include <linux/kvm_para.h>

#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_DEFAULT_VM	0
#define KVM_X86_SW_PROTECTED_VM	1
#endif

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2		231
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO	232
#endif
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES	233
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD		234
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES		235
#endif

#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY	236
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS	244
#endif

#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD	(1UL << 2)
#endif

#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
	__u64 guest_memfd_offset;
	__u32 guest_memfd;
	__u32 pad1;
	__u64 pad2[14];
};

#define KVM_SET_USER_MEMORY_REGION2 \
	_IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

#ifndef KVM_SET_MEMORY_ATTRIBUTES
struct kvm_memory_attributes {
	__u64 address;
	__u64 size;
	__u64 attributes;
	__u64 flags;
};

#define KVM_SET_MEMORY_ATTRIBUTES \
	_IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#endif

#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#define KVM_MEMORY_ATTRIBUTE_PRIVATE	(1ULL << 3)
#endif

#ifndef KVM_CREATE_GUEST_MEMFD
struct kvm_create_guest_memfd {
	__u64 size;
	__u64 flags;
	__u64 reserved[6];
};

#define KVM_CREATE_GUEST_MEMFD \
	_IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif

#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP		(1ULL << 0)
#endif
#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#define GUEST_MEMFD_FLAG_INIT_SHARED	(1ULL << 1)
#endif
/* Not in mainline. */
#ifndef GUEST_MEMFD_FLAG_WRITE
#define GUEST_MEMFD_FLAG_WRITE		(1ULL << 3)
#endif

#ifndef KVM_PRE_FAULT_MEMORY
struct kvm_pre_fault_memory {
	__u64 gpa;
	__u64 size;
	__u64 flags;
	__u64 padding[5];
};

#define KVM_PRE_FAULT_MEMORY \
	_IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT		39
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE	(1ULL << 3)
#endif

/*
 * What KVM_EXIT_MEMORY_FAULT puts in the union of struct kvm_run.  Older
 * headers lack the member, so it is read through the union's first one.
 */
struct gmem_memory_fault {
	__u64 flags;
	__u64 gpa;
	__u64 size;
};

static inline const struct gmem_memory_fault *
gmem_memory_fault(const struct kvm_run *run)
{
	return (const void *)&run->hw;
}

/* /dev/kvm-gmem-soft, which mainline does not have. */
#if __has_include(<linux/kvm_gmem_soft.h>)
#include <linux/kvm_gmem_soft.h>
#else
struct kvm_gmem_soft_attach {
	__s32 vm_fd;
	__u32 max_order;
};

struct kvm_gmem_soft_populate {
	__u64 gpa;
	__u64 size;
	__u64 source;
};

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

#define KVM_GMEM_SOFT_ATTACH	_IOW(0xB9, 0x00, struct kvm_gmem_soft_attach)
#define KVM_GMEM_SOFT_POPULATE	_IOWR(0xB9, 0x01, struct kvm_gmem_soft_populate)
#define KVM_GMEM_SOFT_FINALISE	_IO(0xB9, 0x02)
#define KVM_GMEM_SOFT_STATUS	_IOR(0xB9, 0x03, struct kvm_gmem_soft_status)
#endif

#endif /* GMEM_ABI_H */
