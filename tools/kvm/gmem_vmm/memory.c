// SPDX-License-Identifier: GPL-2.0
/*
 * RAM: one guest_memfd and one mapping of the same size, joined by the memory
 * slots.  What the mapping is makes the kinds of memory:
 *
 * private   The file cannot be mapped.  It holds the private pages; the mapping is
 *	     anonymous memory for pages that the guest shares.  The attribute of
 *	     a page decides which of the two the guest sees; the other one should
 *	     hold nothing.  KVM neither copies nor clears on a change of
 *	     attributes, so ram_convert() gives the stale side back: the guest then
 *	     finds zeroes, and the memory is not paid for twice.  The mapping is
 *	     never populated ahead.
 * in place  The mapping is that of the file.  A page has one place, private or
 *	     shared, and keeps its content when it is converted.  The attribute
 *	     decides whether the VMM may touch it, SIGBUS if not.
 * shared    The same without attributes: the VMM may touch all of it, and so may
 *	     any process that it gives the file to.
 * ordinary  No file: the mapping is RAM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gmem_vmm.h"

/* How long to wait for whoever holds on to a page that is to become private. */
#define PIN_TRIES	50
#define PIN_WAIT_US	1000

static void *map_anonymous(uint64_t size, const char *what)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die(1, "%s of %llu bytes: %s", what, (unsigned long long)size,
		    strerror(errno));
	return p;
}

/*
 * Address space for RAM.  Huge pages are mapped only where the address agrees with
 * the guest's, also for private memory, which KVM does not take from there.  The
 * kernel aligns a mapping of the file by itself.
 */
static void *map_ram(uint64_t size)
{
	uint8_t *p = map_anonymous(size + HUGE_SIZE, "address space for RAM");
	uint64_t before = -(uintptr_t)p % HUGE_SIZE;

	if (before)
		munmap(p, before);
	munmap(p + before + size, HUGE_SIZE - before);
	return p + before;
}

static void *map_file(const struct ram *ram, uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ram->fd, 0);

	if (p == MAP_FAILED)
		die(1, "mmap of the guest_memfd: %s", strerror(errno));
	return p;
}

static void set_ordinary_slot(struct vmm *vmm, unsigned int slot, uint64_t gpa,
			      uint64_t size, void *mapping)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)mapping,
	};

	if (ioctl(vmm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		die(1, "memory slot %u: %s", slot, strerror(errno));
}

static void set_file_slot(struct vmm *vmm, unsigned int slot, const struct region *r)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = r->gpa,
		.memory_size = r->size,
		.userspace_addr = (uintptr_t)vmm->ram.mapping + r->offset,
		.guest_memfd = vmm->ram.fd,
		.guest_memfd_offset = r->offset,
	};

	if (ioctl(vmm->vm_fd, KVM_SET_USER_MEMORY_REGION2, &region))
		die(1, "memory slot %u with guest_memfd: %s", slot, strerror(errno));
}

/*
 * 0 or -errno.  In place, a page does not become private while anybody in the host
 * holds on to it, like I/O that is on its way.  KVM says EAGAIN then and has changed
 * nothing.  Most do not hold on for long, so wait a little.
 */
static int set_attributes(struct vmm *vmm, uint64_t gpa, uint64_t size, bool private)
{
	struct kvm_memory_attributes attributes = {
		.address = gpa,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	unsigned int i;

	for (i = 0; i < PIN_TRIES; i++) {
		if (!ioctl(vmm->vm_fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes))
			return 0;
		if (errno != EAGAIN)
			return -errno;
		usleep(PIN_WAIT_US);
	}
	return -EAGAIN;
}

static void add_region(struct ram *ram, uint64_t gpa, uint64_t size, uint64_t offset)
{
	ram->region[ram->nr_regions++] = (struct region){
		.gpa = gpa, .size = size, .offset = offset,
	};
}

/* What the file must be able to do besides holding the guest's pages. */
uint64_t ram_file_flags(const struct options *opt)
{
	switch (opt->memory) {
	case MEMORY_SHARED:
		return GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	case MEMORY_INPLACE:
		return GUEST_MEMFD_FLAG_MMAP;
	default:
		/* A back end fills private memory itself and lets nobody else. */
		return opt->measure ? 0 : GUEST_MEMFD_FLAG_WRITE;
	}
}

static void create_file(struct vmm *vmm)
{
	struct kvm_create_guest_memfd create = {
		.size = vmm->opt.mem, .flags = ram_file_flags(&vmm->opt),
	};

	vmm->ram.fd = ioctl(vmm->vm_fd, KVM_CREATE_GUEST_MEMFD, &create);
	if (vmm->ram.fd < 0)
		die(1, "KVM_CREATE_GUEST_MEMFD: %s", strerror(errno));
}

/* Where RAM is, as far as it depends on its size alone. */
void ram_layout(struct vmm *vmm)
{
	uint64_t mem = vmm->opt.mem;

	add_region(&vmm->ram, 0, mem < LOW_RAM_END ? mem : LOW_RAM_END, 0);
	if (mem > LOW_RAM_END)
		add_region(&vmm->ram, HIGH_RAM_START, mem - LOW_RAM_END, LOW_RAM_END);
}

void ram_create(struct vmm *vmm)
{
	struct ram *ram = &vmm->ram;
	uint64_t mem = vmm->opt.mem;
	const struct region *r;
	unsigned int i;

	ram_layout(vmm);
	ram->private = map_anonymous(mem / PAGE_SIZE, "page table of the VMM");
	ram->fd = -1;
	if (vmm->opt.memory != MEMORY_ORDINARY)
		create_file(vmm);
	ram->mapping = maps_file(&vmm->opt) ? map_file(ram, mem) : map_ram(mem);

	for (i = 0; i < ram->nr_regions; i++) {
		r = &ram->region[i];
		if (ram->fd < 0)
			set_ordinary_slot(vmm, i, r->gpa, r->size,
					  ram->mapping + r->offset);
		else
			set_file_slot(vmm, i, r);
	}
	/* In place, RAM is loaded first, while it is shared. */
	if (vmm->opt.memory != MEMORY_PRIVATE)
		return;
	ram_make_private(vmm);
	/* A page that the guest shares is not to cost 2 MiB; fails where none can. */
	madvise(ram->mapping, mem, MADV_NOHUGEPAGE);
}

void ram_make_private(struct vmm *vmm)
{
	struct ram *ram = &vmm->ram;
	const struct region *r;
	unsigned int i;
	int ret;

	for (i = 0; i < ram->nr_regions; i++) {
		r = &ram->region[i];
		ret = set_attributes(vmm, r->gpa, r->size, true);
		if (ret)
			die(1, "making RAM private: %s", strerror(-ret));
		memset(ram->private + r->offset / PAGE_SIZE, 1, r->size / PAGE_SIZE);
		ram->private_pages += r->size / PAGE_SIZE;
	}
}

/* NULL if not all of it is RAM. */
const struct region *ram_region(const struct ram *ram, uint64_t gpa, uint64_t size)
{
	const struct region *r;
	unsigned int i;

	for (i = 0; i < ram->nr_regions; i++) {
		r = &ram->region[i];
		if (gpa >= r->gpa && gpa - r->gpa < r->size &&
		    size <= r->size - (gpa - r->gpa))
			return r;
	}
	return NULL;
}

/* Where the VMM sees RAM that is not private; NULL if not all of it is RAM. */
void *ram_in_vmm(struct vmm *vmm, uint64_t gpa, uint64_t size)
{
	const struct region *r = ram_region(&vmm->ram, gpa, size);

	return r ? vmm->ram.mapping + r->offset + (gpa - r->gpa) : NULL;
}

/*
 * Fill RAM before the guest runs, through the file: whole pages, each of them once.
 * A file that cannot be mapped has no other way in.
 */
void ram_write(struct vmm *vmm, uint64_t gpa, void *pages, uint64_t size)
{
	const struct region *r = ram_region(&vmm->ram, gpa, size);
	uint64_t done = 0;
	ssize_t ret;

	if (!r)
		die(1, "loading the guest: no RAM at %#llx", (unsigned long long)gpa);
	while (done < size) {
		ret = pwrite(vmm->ram.fd, (uint8_t *)pages + done, size - done,
			     r->offset + (gpa - r->gpa) + done);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			die(1, "writing RAM at %#llx: %s", (unsigned long long)(gpa + done),
			    ret ? strerror(errno) : "nothing was written");
		done += ret;
	}
}

bool ram_is_private(struct vmm *vmm, uint64_t gpa)
{
	struct ram *ram = &vmm->ram;
	const struct region *r = ram_region(ram, gpa, 1);
	bool private;

	if (!r)
		return false;
	pthread_mutex_lock(&ram->lock);
	private = ram->private[(r->offset + (gpa - r->gpa)) / PAGE_SIZE];
	pthread_mutex_unlock(&ram->lock);
	return private;
}

uint64_t ram_conversions(struct vmm *vmm)
{
	uint64_t sum;

	pthread_mutex_lock(&vmm->ram.lock);
	sum = vmm->ram.to_shared + vmm->ram.to_private;
	pthread_mutex_unlock(&vmm->ram.lock);
	return sum;
}

uint64_t ram_private_pages(struct vmm *vmm)
{
	uint64_t pages;

	pthread_mutex_lock(&vmm->ram.lock);
	pages = vmm->ram.private_pages;
	pthread_mutex_unlock(&vmm->ram.lock);
	return pages;
}

/* Returns whether anything changed. */
static bool note_conversion(struct ram *ram, uint64_t offset, uint64_t size, bool private)
{
	uint8_t *page = ram->private + offset / PAGE_SIZE;
	uint64_t i, changed = 0;

	for (i = 0; i < size / PAGE_SIZE; i++) {
		changed += page[i] != private;
		page[i] = private;
	}
	if (private) {
		ram->private_pages += changed;
		ram->to_private += !!changed;
	} else {
		ram->private_pages -= changed;
		ram->to_shared += !!changed;
	}
	return changed;
}

/*
 * First the attributes: from then on no vCPU can reach the stale side, so
 * nothing can come back in it once it is discarded.  In place there is no other
 * side.
 */
static int convert(struct vmm *vmm, uint64_t gpa, uint64_t offset, uint64_t size,
		   bool private)
{
	struct ram *ram = &vmm->ram;
	int ret;

	ret = set_attributes(vmm, gpa, size, private);
	if (ret) {
		ram->pinned += ret == -EAGAIN;
		return ret;
	}
	if (!note_conversion(ram, offset, size, private) ||
	    vmm->opt.memory == MEMORY_INPLACE)
		return 0;
	if (private)
		return madvise(ram->mapping + offset, size, MADV_DONTNEED) ? -errno : 0;
	return fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 offset, size) ? -errno : 0;
}

int ram_convert(struct vmm *vmm, uint64_t gpa, uint64_t size, bool private)
{
	const struct region *r = ram_region(&vmm->ram, gpa, size);
	int ret;

	if (!r || !has_private(&vmm->opt))
		return -EINVAL;
	pthread_mutex_lock(&vmm->ram.lock);
	ret = convert(vmm, gpa, r->offset + (gpa - r->gpa), size, private);
	pthread_mutex_unlock(&vmm->ram.lock);
	if (vmm->opt.verbose)
		warn("gpa %#llx, %llu KiB: to %s: %s", (unsigned long long)gpa,
		     (unsigned long long)size >> 10, private ? "private" : "shared",
		     ret ? strerror(-ret) : "done");
	return ret;
}

/* A page that is lost leaves the file, and the next access finds one of zeroes. */
int ram_replace_page(struct vmm *vmm, uint64_t gpa)
{
	const struct region *r = ram_region(&vmm->ram, gpa, PAGE_SIZE);

	if (!r)
		return -EINVAL;
	return fallocate(vmm->ram.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 r->offset + (gpa - r->gpa), PAGE_SIZE) ? -errno : 0;
}

/* What the file holds, in pages; KVM counts them in st_blocks. */
int64_t ram_file_pages(struct vmm *vmm)
{
	struct stat st;

	if (fstat(vmm->ram.fd, &st))
		return -1;
	return st.st_blocks * 512LL / (long long)PAGE_SIZE;
}
