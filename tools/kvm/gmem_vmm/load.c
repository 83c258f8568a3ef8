// SPDX-License-Identifier: GPL-2.0
/*
 * Where kernel, initrd and boot tables go, by the 32-bit Linux boot protocol:
 * flat segments, no paging, %esi = boot_params.  The kernel's own entry code
 * switches to 64-bit mode, so no page tables are needed here.
 *
 * All of it, the image, follows from the options and the content of the files;
 * building it needs no KVM.  For --measure this is a must: who checks the digest
 * builds the image again, elsewhere.
 */
#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define HDR_OFFSET	offsetof(struct boot_params, hdr)
#define HDR_MAGIC	0x53726448	/* "HdrS" */
#define MIN_PROTOCOL	0x020a		/* has init_size */
#define E820_RAM	1
#define E820_RESERVED	2
#define LOADER_UNKNOWN	0xff
#define CMDLINE_MAX	2048
#define SECTOR		512U

static struct blob map_file(const char *option, const char *path)
{
	struct blob blob = { };
	struct stat st;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		die(2, "%s %s: %s", option, path, strerror(errno));
	if (!S_ISREG(st.st_mode) || !st.st_size)
		die(2, "%s %s: not a file with content", option, path);
	blob.size = st.st_size;
	blob.data = mmap(NULL, blob.size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (blob.data == MAP_FAILED)
		die(2, "%s %s: %s", option, path, strerror(errno));
	close(fd);
	return blob;
}

/* Splits a bzImage: its header goes to boot_params, the rest to 1 MiB. */
static struct blob load_kernel(struct vmm *vmm, struct boot_params *params)
{
	const char *path = vmm->opt.kernel;
	struct blob file = map_file("--kernel", path);
	struct setup_header *hdr = &params->hdr;
	const uint8_t *image = file.data;
	uint64_t setup_size, hdr_size;

	if (file.size < HDR_OFFSET + sizeof(*hdr))
		die(2, "--kernel %s: not a bzImage: too short", path);
	memcpy(hdr, image + HDR_OFFSET, sizeof(*hdr));
	if (hdr->header != HDR_MAGIC || hdr->version < MIN_PROTOCOL ||
	    !(hdr->loadflags & LOADED_HIGH))
		die(2, "--kernel %s: not a bzImage with boot protocol 2.10 or newer", path);

	/* The jump over the header says how much of it this kernel has. */
	hdr_size = image[HDR_OFFSET + 0x10] + 0x202 - HDR_OFFSET;
	if (hdr_size < sizeof(*hdr))
		memset((uint8_t *)hdr + hdr_size, 0, sizeof(*hdr) - hdr_size);
	setup_size = ((hdr->setup_sects ?: 4) + 1) * SECTOR;
	if (file.size <= setup_size)
		die(2, "--kernel %s: truncated bzImage", path);
	hdr->type_of_loader = LOADER_UNKNOWN;
	return (struct blob){ image + setup_size, file.size - setup_size, KERNEL_GPA };
}

static uint64_t low_ram(const struct vmm *vmm)
{
	return vmm->ram.region[0].size;
}

/* First byte that neither the image nor the unpacked kernel uses. */
static uint64_t kernel_end(const struct blob *kernel, const struct setup_header *hdr)
{
	uint64_t image = KERNEL_GPA + kernel->size;
	uint64_t unpacked = hdr->pref_address + hdr->init_size;

	return image > unpacked ? image : unpacked;
}

static struct blob load_initrd(struct vmm *vmm, struct setup_header *hdr, uint64_t floor)
{
	struct blob initrd = map_file("--initrd", vmm->opt.initrd);
	uint64_t top = low_ram(vmm);

	if (top > hdr->initrd_addr_max + 1ULL)
		top = hdr->initrd_addr_max + 1ULL;
	if (initrd.size > top || top - initrd.size < floor + PAGE_SIZE)
		die(2, "--initrd %s: does not fit beside the kernel in --mem %llu MiB",
		    vmm->opt.initrd, (unsigned long long)vmm->opt.mem >> 20);
	initrd.gpa = (top - initrd.size) & ~(PAGE_SIZE - 1);
	hdr->ramdisk_image = initrd.gpa;
	hdr->ramdisk_size = initrd.size;
	return initrd;
}

/*
 * reboot=k and panic=-1 turn the end of the guest into something ports.c sees;
 * gmem_memory is for the demo guest's init.  Nothing here may be the host's, see
 * above.
 */
static size_t build_cmdline(struct vmm *vmm, char *buf, size_t size)
{
	int len;

	len = snprintf(buf, size, "console=ttyS0 reboot=k panic=-1 gmem_memory=%s%s%s",
		       memory_names[vmm->opt.memory],
		       *vmm->opt.append ? " " : "", vmm->opt.append);
	if ((size_t)len >= size)
		die(2, "--append: the kernel command line is longer than %zu bytes", size - 1);
	return len + 1;
}

static void add_e820(struct boot_params *params, uint64_t start, uint64_t end, uint32_t type)
{
	params->e820_table[params->e820_entries++] = (struct boot_e820_entry){
		.addr = start, .size = end - start, .type = type,
	};
}

static void build_e820(struct vmm *vmm, struct boot_params *params)
{
	unsigned int i;

	add_e820(params, 0, LOW_MEM_END, E820_RAM);
	add_e820(params, LOW_MEM_END, LEGACY_END, E820_RESERVED);
	add_e820(params, LEGACY_END, low_ram(vmm), E820_RAM);
	for (i = 1; i < vmm->ram.nr_regions; i++)
		add_e820(params, vmm->ram.region[i].gpa,
			 vmm->ram.region[i].gpa + vmm->ram.region[i].size, E820_RAM);
}

void image_build(struct vmm *vmm, struct image *image)
{
	/* Null, unused, flat code, flat data: see BOOT_CS and BOOT_DS. */
	static const uint64_t gdt[] = {
		0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff,
	};
	static struct boot_params params;
	static char cmdline[CMDLINE_MAX];
	static uint8_t mptable[MPTABLE_MAX];
	struct blob kernel, initrd = { };
	struct blob *blob = image->blobs;
	size_t cmdline_size;
	uint64_t floor;

	kernel = load_kernel(vmm, &params);
	floor = kernel_end(&kernel, &params.hdr);
	if (floor > low_ram(vmm))
		die(2, "--kernel %s: needs %llu MiB of RAM, --mem gives %llu", vmm->opt.kernel,
		    (unsigned long long)(floor >> 20) + 1,
		    (unsigned long long)vmm->opt.mem >> 20);
	if (vmm->opt.initrd)
		initrd = load_initrd(vmm, &params.hdr, floor);

	cmdline_size = build_cmdline(vmm, cmdline, sizeof(cmdline));
	if (cmdline_size - 1 > params.hdr.cmdline_size)
		die(2, "--append: this kernel takes a command line of %u bytes",
		    params.hdr.cmdline_size);
	params.hdr.cmd_line_ptr = CMDLINE_GPA;
	build_e820(vmm, &params);

	*blob++ = (struct blob){ gdt, sizeof(gdt), GDT_GPA };
	*blob++ = (struct blob){ &params, sizeof(params), BOOT_PARAMS_GPA };
	*blob++ = (struct blob){ cmdline, cmdline_size, CMDLINE_GPA };
	*blob++ = (struct blob){
		mptable, mptable_build(mptable, vmm->opt.cpus), MPTABLE_GPA,
	};
	*blob++ = kernel;
	if (vmm->opt.initrd)
		*blob++ = initrd;
	image->count = blob - image->blobs;
	image->entry = params.hdr.code32_start;
}

/* The whole pages of each part of the image, in order; the rest of them is zero. */
void walk_image(struct vmm *vmm, const struct image *image,
		void (*use)(struct vmm *vmm, uint64_t gpa, void *pages, uint64_t size))
{
	uint64_t start, end, previous = 0;
	const struct blob *blob;
	uint8_t *pages;
	unsigned int i;

	for (i = 0; i < image->count; i++) {
		blob = &image->blobs[i];
		start = blob->gpa & ~(PAGE_SIZE - 1);
		end = (blob->gpa + blob->size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
		if (start < previous)
			die(1, "parts of the image share page %#llx",
			    (unsigned long long)start);
		previous = end;
		pages = mmap(NULL, end - start, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED)
			die(1, "copy of a part of the image: %s", strerror(errno));
		memcpy(pages + (blob->gpa - start), blob->data, blob->size);
		use(vmm, start, pages, end - start);
		munmap(pages, end - start);
	}
}

/* Straight to its place: the VMM sees RAM, in place as long as it is shared. */
static void copy_into_ram(struct vmm *vmm, const struct image *image)
{
	const struct blob *blob;
	unsigned int i;
	void *to;

	for (i = 0; i < image->count; i++) {
		blob = &image->blobs[i];
		to = ram_in_vmm(vmm, blob->gpa, blob->size);
		if (!to)
			die(1, "loading the guest: no RAM at %#llx",
			    (unsigned long long)blob->gpa);
		memcpy(to, blob->data, blob->size);
	}
}

void load_guest(struct vmm *vmm)
{
	struct image image;

	image_build(vmm, &image);
	if (vmm->opt.measure)
		measure_into_ram(vmm, &image);
	else if (vmm->opt.memory == MEMORY_PRIVATE)
		walk_image(vmm, &image, ram_write);
	else
		copy_into_ram(vmm, &image);
	if (vmm->opt.memory == MEMORY_INPLACE)
		ram_make_private(vmm);
	vcpu_flat_mode(&vmm->vcpu[0], image.entry, BOOT_PARAMS_GPA);
}
