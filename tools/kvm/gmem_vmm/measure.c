// SPDX-License-Identifier: GPL-2.0
/*
 * A measured launch (--measure), and how to compute the digest without one.
 *
 * /dev/kvm-gmem-soft stands in for the firmware or hypervisor that owns the
 * private memory of a confidential VM.  It takes the image page by page, in
 * ascending order, and measures each with its address; it lets the vCPUs run when
 * the image is complete.  Nobody else can write to the file.
 *
 * The digest is SHA-256 of these records, one per page: its guest physical
 * address as a little-endian 64-bit number, its 4096 bytes.  --dump-image writes
 * the same records, from the same loop over the image.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define BACK_END	"/dev/kvm-gmem-soft"
#define MAX_ORDER	18	/* this back end can map whatever KVM can */

/* Before there are vCPUs: from here on they cannot run until all is measured. */
void measure_attach(struct vmm *vmm)
{
	struct kvm_gmem_soft_attach attach = {
		.vm_fd = vmm->vm_fd, .max_order = MAX_ORDER,
	};

	vmm->back_end_fd = open(BACK_END, O_RDWR | O_CLOEXEC);
	if (vmm->back_end_fd < 0)
		die(2, BACK_END ": %s: --measure needs a kernel with CONFIG_KVM_GMEM_SOFT_BACKEND",
		    strerror(errno));
	if (ioctl(vmm->back_end_fd, KVM_GMEM_SOFT_ATTACH, &attach))
		die(1, "KVM_GMEM_SOFT_ATTACH: %s", strerror(errno));
}

static void populate(struct vmm *vmm, uint64_t gpa, void *pages, uint64_t size)
{
	struct kvm_gmem_soft_populate range = {
		.gpa = gpa, .size = size, .source = (uintptr_t)pages,
	};

	/* A signal leaves in the argument what remains to be done. */
	while (ioctl(vmm->back_end_fd, KVM_GMEM_SOFT_POPULATE, &range))
		if (errno != EINTR)
			die(1, "KVM_GMEM_SOFT_POPULATE at gpa %#llx: %s",
			    (unsigned long long)range.gpa, strerror(errno));
}

void measure_into_ram(struct vmm *vmm, const struct image *image)
{
	walk_image(vmm, image, populate);
	if (ioctl(vmm->back_end_fd, KVM_GMEM_SOFT_FINALISE))
		die(1, "KVM_GMEM_SOFT_FINALISE: %s", strerror(errno));
}

struct kvm_gmem_soft_status measure_status(struct vmm *vmm)
{
	struct kvm_gmem_soft_status status;

	if (ioctl(vmm->back_end_fd, KVM_GMEM_SOFT_STATUS, &status))
		die(1, "KVM_GMEM_SOFT_STATUS: %s", strerror(errno));
	return status;
}

static void dump(struct vmm *vmm, uint64_t gpa, void *pages, uint64_t size)
{
	uint64_t offset, address;

	(void)vmm;
	for (offset = 0; offset < size; offset += PAGE_SIZE) {
		address = htole64(gpa + offset);
		if (fwrite(&address, sizeof(address), 1, stdout) != 1 ||
		    fwrite((uint8_t *)pages + offset, PAGE_SIZE, 1, stdout) != 1)
			die(1, "writing the image: %s", strerror(errno));
	}
}

/* Needs no KVM: there is no VM here, only its options. */
void dump_image(struct vmm *vmm)
{
	struct image image;

	if (isatty(STDOUT_FILENO))
		die(2, "--dump-image: the image is not for a terminal, see gmem_measure.sh");
	ram_layout(vmm);
	image_build(vmm, &image);
	walk_image(vmm, &image, dump);
	if (fflush(stdout))
		die(1, "writing the image: %s", strerror(errno));
}
