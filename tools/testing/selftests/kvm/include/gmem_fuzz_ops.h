/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Steps on the VM, and their outcome compared with that of the model.
 */
#ifndef SELFTEST_KVM_GMEM_FUZZ_OPS_H
#define SELFTEST_KVM_GMEM_FUZZ_OPS_H

#include "gmem_fuzz_run.h"

/* Files. */

static inline void do_create(struct fuzz *f, const struct op *op)
{
	uint64_t size = BYTES(op->n), flags = op->flags;
	int fd, ret;

	switch (op->wrong) {
	case 0:
		if (file_exists(&f->m.files[op->who]))
			return;
		break;
	case CREATE_SIZE_0:
		size = 0;
		break;
	case CREATE_SIZE_ODD:
		size += 1 + op->n;
		break;
	case CREATE_SIZE_NEGATIVE:
		size = -size;
		break;
	case CREATE_FLAG:
		flags |= 1 << 2;
		break;
	case CREATE_FLAG_HIGH:
		flags |= 1UL << 63;
	}
	fd = __vm_create_guest_memfd(f->vm, size, flags);
	ret = fd < 0 ? errno : 0;
	expect_errno(f, model_create(&f->m, op), ret);
	if (!ret)
		f->fds[op->who] = fd;
}

/* Nobody can touch what is there, and nobody else gets the place. */
static inline void reserve(void *at, uint64_t npages)
{
	TEST_ASSERT(mmap(at, BYTES(npages), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_NORESERVE | MAP_FIXED, -1, 0) == at, "errno %d", errno);
}

static inline void do_mmap(struct fuzz *f, const struct op *op)
{
	int share = op->wrong == MMAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED;
	int prot = PROT_READ | PROT_WRITE;
	int fixed = 0, want;
	void *at = NULL, *mem;

	if (!f->m.files[op->who].open)
		return;
	if (op->wrong == MMAP_EXEC)
		prot |= PROT_EXEC;
	want = model_mmap(&f->m, op);
	if (!want) {
		at = f->arena + BYTES(FILE_HPAGE(op->who));
		fixed = MAP_FIXED;
	}
	mem = mmap(at, BYTES(FILE_HPAGES), prot, share | fixed, f->fds[op->who], 0);
	expect_errno(f, want, mem == MAP_FAILED ? errno : 0);
}

static inline void do_munmap(struct fuzz *f, const struct op *op)
{
	reserve(f->arena + BYTES(FILE_HPAGE(op->who)), FILE_HPAGES);
	f->m.files[op->who].mapped = false;
	release_file(&f->m, op->who);
}

static inline void do_close(struct fuzz *f, const struct op *op)
{
	if (!f->m.files[op->who].open)
		return;
	expect_errno(f, 0, errno_of(close(f->fds[op->who])));
	f->fds[op->who] = -1;
	f->m.files[op->who].open = false;
	release_file(&f->m, op->who);
}

static inline void do_falloc(struct fuzz *f, const struct op *op)
{
	static const int modes[FALLOC_WRONGS] = {
		[FALLOC_MODE_0] = 0,
		[FALLOC_MODE_ZERO] = FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE,
		[FALLOC_MODE_COLLAPSE] = FALLOC_FL_KEEP_SIZE | FALLOC_FL_COLLAPSE_RANGE,
		[FALLOC_PUNCH_ONLY] = FALLOC_FL_PUNCH_HOLE,
	};
	int mode = op->wrong && op->wrong <= FALLOC_PUNCH_ONLY ? modes[op->wrong] :
								 FALLOC_FL_KEEP_SIZE;
	off_t offset = BYTES(op->first), len = BYTES(op->n);

	if (!f->m.files[op->who].open)
		return;
	switch (op->wrong) {
	case FALLOC_OFFSET_ODD:
		offset += 1 + op->n;
		break;
	case FALLOC_LEN_ODD:
		len -= 1 + op->first;
		break;
	case FALLOC_LEN_0:
		len = 0;
		break;
	case FALLOC_NEGATIVE:
		offset = -offset - 4096;
		break;
	case FALLOC_MAX:
		offset = INT64_MAX - 4095;
		break;
	case FALLOC_BEYOND:
		offset += BYTES(f->m.files[op->who].npages);
	}
	expect_errno(f, model_falloc(&f->m, op),
		     errno_of(fallocate(f->fds[op->who], mode, offset, len)));
}

static inline void do_punch(struct fuzz *f, const struct op *op)
{
	off_t offset = BYTES(op->first), len = BYTES(op->n);
	int ret;

	if (!f->m.files[op->who].open)
		return;
	if (op->wrong == PUNCH_MADVISE) {
		if (!f->m.files[op->who].mapped)
			return;
		ret = errno_of(madvise(f->arena + BYTES(FILE_HPAGE(op->who)) + offset,
				       len, MADV_REMOVE));
	} else {
		if (op->wrong == PUNCH_ODD)
			len -= 1 + op->first;
		if (op->wrong == PUNCH_BEYOND)
			offset += BYTES(f->m.files[op->who].npages);
		ret = errno_of(__gmem_punch_hole(f->fds[op->who], offset, len));
	}
	expect_errno(f, model_punch(&f->m, op), ret);
}

static inline int write_error(struct fuzz_file *file, const struct op *op)
{
	if (!(file->flags & FLAG_WRITE))
		return -ESPIPE;
	switch (op->wrong) {
	case 0:
		return op->first >= file->npages ? -ENOSPC : 0;
	case WRITE_AT_END:
		return -ENOSPC;
	case WRITE_BUFFER:
		return op->first >= file->npages ? -ENOSPC : -EFAULT;
	default:
		return -EINVAL;
	}
}

/* As far as it goes: to the end, or to the first page that is there. */
static inline void do_write(struct fuzz *f, const struct op *op)
{
	struct fuzz_file *file = &f->m.files[op->who];
	uint64_t offset = BYTES(op->first), len = BYTES(op->n), i, done;
	bool bad = op->wrong == WRITE_BUFFER;
	void *buf = bad ? f->arena + BYTES(NO_HPAGE) : f->buf;
	uint64_t *word;
	int want, ret;
	ssize_t n;

	if (!file->open)
		return;
	if (op->wrong == WRITE_LEN_ODD)
		len -= 1 + op->first;
	if (op->wrong == WRITE_OFFSET_ODD)
		offset += 1 + op->n;
	if (op->wrong == WRITE_AT_END)
		offset = BYTES(file->npages);
	for (i = 0; i < op->n; i++) {
		word = f->buf + BYTES(i);
		word[0] = new_value(&f->m);
		word[LAST_WORD] = word[0];
	}
	want = write_error(file, op);
	n = pwrite(f->fds[op->who], buf, len, offset);
	ret = n < 0 ? errno : 0;
	if (want || bad) {
		/* Which of the two is found first does not matter. */
		if (want == -EFAULT && ret == EEXIST && file->pages[op->first].may)
			want = -EEXIST;
		expect_errno(f, want, ret);
		return;
	}

	done = n < 0 ? 0 : n / 4096;
	must(f, n < 0 ? ret == EEXIST : n && !(n % 4096), "write(): %zd, errno %d", n,
	     ret);
	count(f, ret ? REFUSED : DONE);
	for (i = 0; i < done; i++) {
		must(f, !file->pages[op->first + i].must,
		     "write() to page %lu, which was there", op->first + i);
		word = f->buf + BYTES(i);
		file->pages[op->first + i] = (struct fuzz_page) { *word, true, true };
	}
	i = op->first + done;
	if (done < op->n && i < file->npages) {
		must(f, file->pages[i].may, "write() stops at page %lu, which is not there",
		     i);
		file->pages[i].must = true;
	}
}

/* Slots and attributes. */

static inline void do_set(struct fuzz *f, const struct op *op)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = FIRST_SLOT + op->who,
		.flags = op->flags,
		.guest_phys_addr = PAGE_GPA(op->first),
		.memory_size = BYTES(op->n),
		.userspace_addr = (uintptr_t)f->arena + BYTES(op->hpage),
		.guest_memfd = op->file == NO_FILE ? -1 : f->fds[op->file],
		.guest_memfd_offset = BYTES(op->index),
	};
	bool v1 = false;
	int ret;

	switch (op->wrong) {
	case SET_SIZE_ODD:
		region.memory_size += 0x200;
		break;
	case SET_GPA_ODD:
		region.guest_phys_addr += 0x800;
		break;
	case SET_HVA_ODD:
		region.userspace_addr += 1;
		break;
	case SET_HVA_KERNEL:
		region.userspace_addr |= 1UL << 63;
		break;
	case SET_ID:
		region.slot = 0xfff0 + op->who;
		break;
	case SET_FLAG:
		region.flags |= 8u << (op->n % 29);
		break;
	case SET_READONLY:
		region.flags |= KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD;
		break;
	case SET_LOG:
		region.flags |= KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_GUEST_MEMFD;
		break;
	case SET_WRAP:
		region.guest_phys_addr = -4096UL;
		region.memory_size += 4096;
		break;
	case SET_V1:
		v1 = true;
		region.flags |= KVM_MEM_GUEST_MEMFD;
		break;
	case SET_FD_CLOSED:
		region.guest_memfd = 1000;
		break;
	case SET_FD_OTHER:
		region.guest_memfd = f->vm->fd;
		break;
	case SET_FD_VM:
		region.guest_memfd = f->other_fd;
		break;
	case SET_INDEX_ODD:
		region.guest_memfd_offset += 1;
		break;
	case SET_INDEX_BEYOND:
		region.guest_memfd_offset += BYTES(FILE_MAX);
		break;
	case SET_INDEX_WRAP:
		region.guest_memfd_offset = -4096UL;
	}
	/* The plain one reads what comes first. */
	ret = errno_of(ioctl(f->vm->fd, v1 ? KVM_SET_USER_MEMORY_REGION :
					     KVM_SET_USER_MEMORY_REGION2, &region));
	expect_errno(f, model_set(&f->m, op), ret);
}

static inline void do_delete(struct fuzz *f, const struct op *op)
{
	int ret = errno_of(__vm_delete_slot(f->vm, FIRST_SLOT + op->who));

	expect_errno(f, model_delete(&f->m, op), ret);
}

static inline void do_attr(struct fuzz *f, const struct op *op)
{
	struct kvm_memory_attributes attr = {
		.address = PAGE_GPA(op->first),
		.size = BYTES(op->n),
		.attributes = op->write ? PRIVATE : 0,
	};
	int ret;

	switch (op->wrong) {
	case ATTR_FLAGS:
		attr.flags = 1UL << (op->n % 64);
		break;
	case ATTR_BIT:
		attr.attributes |= 1UL << (op->n % 3);
		break;
	case ATTR_BIT_HIGH:
		attr.attributes |= 1UL << (4 + op->n % 60);
		break;
	case ATTR_SIZE_0:
		attr.size = 0;
		break;
	case ATTR_SIZE_ODD:
		attr.size += 0x400;
		break;
	case ATTR_ADDRESS_ODD:
		attr.address += 8;
		break;
	case ATTR_WRAP:
		attr.size = -4096UL;
		break;
	case ATTR_FAR:
		attr.size = (1UL << 46) - attr.address;
	}
	ret = errno_of(__vm_ioctl(f->vm, KVM_SET_MEMORY_ATTRIBUTES, &attr));
	expect_errno(f, model_attr(&f->m, op), ret);
}

static inline void do_prefault(struct fuzz *f, const struct op *op)
{
	uint64_t gpa = PAGE_GPA(op->first), size = BYTES(op->n), flags = 0, left, stop;
	struct kvm_pre_fault_memory pre;
	struct kvm_memory_mapping map;
	int want = -EINVAL, ret;

	switch (op->wrong) {
	case PREFAULT_FLAGS:
		flags = 1UL << (op->n % 64);
		break;
	case PREFAULT_GPA_ODD:
		gpa += 0x10;
		break;
	case PREFAULT_SIZE_ODD:
		size += 1;
		break;
	case PREFAULT_SIZE_0:
		size = 0;
		break;
	case PREFAULT_WRAP:
		size = -4096UL;
		break;
	case PREFAULT_HIGH:
		gpa |= 1UL << 58;
		want = -E2BIG;
	}
	stop = op->first;
	if (!op->wrong)
		want = model_prefault(&f->m, op->first, op->first + op->n, &stop);
	left = size - BYTES(stop - op->first);

	if (op->write) {
		map = (struct kvm_memory_mapping) { gpa, size, flags };
		ret = errno_of(__vcpu_ioctl(f->vcpus[op->who], KVM_MAP_MEMORY, &map));
	} else {
		pre = (struct kvm_pre_fault_memory) {
			.gpa = gpa, .size = size, .flags = flags,
		};
		ret = errno_of(__vcpu_ioctl(f->vcpus[op->who], KVM_PRE_FAULT_MEMORY,
					    &pre));
		map = (struct kvm_memory_mapping) { pre.gpa, pre.size };
		if (stop > op->first)
			want = 0;
	}
	must(f, map.size == left && map.base_address == gpa + size - left,
	     "errno %d, %#llx left from %#llx on, wanted %#lx", ret, map.size,
	     map.base_address, left);
	expect_errno(f, want, ret);
}

static inline void do_dontneed(struct fuzz *f, const struct op *op)
{
	int ret = errno_of(madvise(f->arena + BYTES(op->first), BYTES(op->n),
				   MADV_DONTNEED));

	expect_errno(f, model_dontneed(&f->m, op), ret);
}

static inline void do_check(struct fuzz *f, const struct op *op)
{
	check_all(f, op, false);
}

static inline void do_op(struct fuzz *f, const struct op *op)
{
	static void (* const ops[])(struct fuzz *f, const struct op *op) = {
		[OP_CREATE] = do_create,
		[OP_CLOSE] = do_close,
		[OP_MMAP] = do_mmap,
		[OP_MUNMAP] = do_munmap,
		[OP_SET] = do_set,
		[OP_DELETE] = do_delete,
		[OP_ATTR] = do_attr,
		[OP_FALLOC] = do_falloc,
		[OP_PUNCH] = do_punch,
		[OP_WRITE] = do_write,
		[OP_PREFAULT] = do_prefault,
		[OP_GUEST] = do_guest,
		[OP_KVM] = do_kvm,
		[OP_HOST] = do_host,
		[OP_DONTNEED] = do_dontneed,
		[OP_CHECK] = do_check,
	};

	ops[op->kind](f, op);
}

#endif /* SELFTEST_KVM_GMEM_FUZZ_OPS_H */
