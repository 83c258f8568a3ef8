// SPDX-License-Identifier: GPL-2.0
/*
 * Fill private RAM before the guest starts.
 *
 * Only code that runs in the VM can write private memory.  So the files are put
 * into the window, and a few instructions of guest code (copy.S) carry them over
 * on vCPU 0.  The window holds, page after page: the code and its list, then
 * each blob on a page of its own.
 *
 * With --prefault not even this code may fault.  What is mapped for it does not
 * last: deleting the window's slot makes KVM drop all it has mapped.
 */
#include <errno.h>
#include <string.h>

#include "gmem_vmm.h"

#define LIST_OFFSET	256U

struct copy_entry {
	uint32_t dst;
	uint32_t src;
	uint32_t words;
};

static uint64_t page_align(uint64_t size)
{
	return (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
}

static void run_copy(struct vmm *vmm)
{
	struct vcpu *vcpu = &vmm->vcpu[0];
	int ret;

	if (vmm->opt.prefault) {
		prefault_ram(vmm);
		ret = prefault(vcpu, WINDOW_GPA, vmm->ram.window_size);
		if (ret)
			die(1, "mapping the window ahead: %s", strerror(-ret));
	}
	vcpu_flat_mode(vcpu, WINDOW_GPA, WINDOW_GPA + LIST_OFFSET, 0);
	ret = vcpu_run(vcpu);
	if (ret)
		die(1, "loading the guest: KVM_RUN: %s", strerror(-ret));
	if (vcpu->run->exit_reason != KVM_EXIT_IO || vcpu->run->io.port != COPY_DONE_PORT)
		die(1, "loading the guest: unexpected exit %u of the copy code",
		    vcpu->run->exit_reason);
}

void copy_into_ram(struct vmm *vmm, const struct image *image)
{
	const struct blob *blobs = image->blobs;
	uint64_t size = PAGE_SIZE, offset = PAGE_SIZE;
	struct copy_entry list[MAX_BLOBS + 1] = { };
	uint8_t *window;
	unsigned int i;

	for (i = 0; i < image->count; i++)
		size += page_align(blobs[i].size);
	if (size > WINDOW_MAX)
		die(2, "kernel and initrd are larger than %llu MiB together", WINDOW_MAX >> 20);

	window = window_open(vmm, size);
	for (i = 0; i < image->count; i++) {
		memcpy(window + offset, blobs[i].data, blobs[i].size);
		list[i] = (struct copy_entry){
			.dst = blobs[i].gpa,
			.src = WINDOW_GPA + offset,
			.words = (blobs[i].size + 3) / 4,
		};
		offset += page_align(blobs[i].size);
	}
	memcpy(window, copy_stub, copy_stub_end - copy_stub);
	memcpy(window + LIST_OFFSET, list, sizeof(list));
	run_copy(vmm);
	window_close(vmm);
}
