/* SPDX-License-Identifier: GPL-2.0 */
/*
 * gmem_vmm - a small VMM whose guest's RAM is a guest_memfd
 *
 * Where to read what, in the order of a run:
 *   options.c  the command line
 *   main.c     the life of the VM, from creation to the final table
 *   vm.c       /dev/kvm, the VM and its in-kernel interrupt controllers
 *   memory.c   RAM: the guest_memfd, the memory slots, private <-> shared
 *   load.c     kernel, initrd and boot tables: where they go
 *   mptable.c  the table in which the guest finds its processors
 *   measure.c  a back end takes and measures them (--measure)
 *   prefault.c RAM mapped before the guest runs (--prefault)
 *   cpuid.c    what the guest is told about its processor
 *   vcpu.c     the vCPU threads and their exits
 *   poison.c   memory errors, real ones and those of --poison
 *   ports.c    I/O ports: who answers which; clock, reset
 *   serial.c   the serial console
 *   probe.c    the VMM's half of the demo guest's checks
 *   second.c   a second process that has the guest's memory (--second-process)
 *   stats.c    counters of KVM and of the kernel
 *   live.c     some of them while the guest runs (--stats)
 *   report.c   the table
 */
#ifndef GMEM_VMM_H
#define GMEM_VMM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gmem_abi.h"

#define MAX_VCPUS	4
#define MAX_REGIONS	2
#define NR_EXIT_KINDS	64
#define MAX_BLOBS	6

#define PAGE_SIZE	4096ULL
#define HUGE_SIZE	(1ULL << 21)
#define GIB		(1ULL << 30)

/*
 * Guest-physical layout.  RAM fills [0, 3 GiB) and goes on at 4 GiB.  The gap
 * holds the APIC and IO-APIC, and the pages that KVM needs for itself on Intel
 * processors.
 */
#define LOW_RAM_END	(3 * GIB)
#define HIGH_RAM_START	(4 * GIB)
#define IDENTITY_MAP_GPA 0xfffbc000ULL
#define TSS_GPA		0xfffbd000ULL

#define GDT_GPA		0x500ULL
#define BOOT_PARAMS_GPA	0x7000ULL
#define CMDLINE_GPA	0x20000ULL
#define LOW_MEM_END	0x9fc00ULL	/* the MP table has the last KiB below 640K */
#define MPTABLE_GPA	LOW_MEM_END
#define LEGACY_END	0x100000ULL
#define KERNEL_GPA	LEGACY_END

/* Selectors that the Linux boot protocol asks for; bytes per descriptor: 8. */
#define BOOT_CS		0x10
#define BOOT_DS		0x18

#define MPTABLE_MAX	(0xa0000ULL - MPTABLE_GPA)

#define SERIAL_IRQ	4

enum memory_kind {
	MEMORY_PRIVATE,		/* in a file that the VMM cannot map */
	MEMORY_INPLACE,		/* in a file that it can map where it is shared */
	MEMORY_SHARED,		/* in a file that it can map */
	MEMORY_ORDINARY,	/* no file */
	NR_MEMORY_KINDS
};

struct options {
	uint64_t mem;
	const char *kernel;
	const char *initrd;
	const char *append;
	unsigned int cpus;
	enum memory_kind memory;
	bool second_process;
	bool prefault;
	bool measure;
	bool poison;
	bool dump_image;
	unsigned int stats;	/* seconds between two lines, 0 for none */
	bool verbose;
};

/* A run of guest-physical RAM: one memory slot each. */
struct region {
	uint64_t gpa;
	uint64_t size;
	uint64_t offset;	/* in the file and in the mapping */
};

struct ram {
	struct region region[MAX_REGIONS];
	unsigned int nr_regions;
	int fd;			/* the guest_memfd, -1 for ordinary memory */
	uint8_t *mapping;	/* what the VMM sees of RAM, userspace_addr of the slots */

	/* The lock covers the rest and makes a conversion one step. */
	pthread_mutex_t lock;
	uint8_t *private;	/* per page, what the attributes were set to */
	uint64_t private_pages;
	uint64_t to_shared;	/* conversions that changed something */
	uint64_t to_private;
	uint64_t pinned;	/* refused, as somebody held on to a page */
};

/* KVM's counters of second-level page faults, and their names in KVM: stats.c. */
enum fault_stat {
	PF_TAKEN,
	PF_FIXED,		/* a page was mapped */
	PF_SPURIOUS,		/* another vCPU had just mapped it */
	PF_EMULATE,		/* not RAM: the access is emulated */
	PF_MMIO_SPTE_CREATED,	/* and the next one will be found faster */
	NR_FAULT_STATS
};

struct fault_stats {
	uint64_t count[NR_FAULT_STATS];
};

/* Huge pages of the guest_memfd: how many there were, became small, were not had. */
struct huge_stats {
	uint64_t allocated;
	uint64_t split;
	uint64_t fallback;
};

/* How much of the guest is mapped, in mappings of each size. */
struct map_stats {
	uint64_t pages_4k;
	uint64_t pages_2m;
	uint64_t pages_1g;
};

struct vcpu {
	struct vmm *vmm;
	unsigned int id;
	int fd;
	int stats_fd;
	struct fault_stats at_user_space;
	int prefault_error;	/* of its share of RAM */
	struct kvm_run *run;
	pthread_t thread;
	uint64_t conversions;	/* sampled before KVM_RUN */
	uint64_t faults;
	uint64_t memory_errors;
	uint64_t exits[NR_EXIT_KINDS];
};

struct vmm {
	struct options opt;
	int kvm_fd;
	int vm_fd;
	int stats_fd;		/* of the VM; -1 for these if KVM has none */
	int back_end_fd;	/* /dev/kvm-gmem-soft, with --measure */
	int poison_fd;		/* in debugfs, with --poison */
	unsigned int run_size;
	struct ram ram;
	struct vcpu vcpu[MAX_VCPUS];
	struct map_stats prefaulted;
	uint64_t start_ns;
	uint64_t user_space_ns;	/* 0 until the guest says so */
	unsigned int proofs_passed;
	unsigned int proofs_failed;

	/* Why the guest ended; the first reason wins. */
	pthread_mutex_t stop_lock;
	pthread_t main_thread;
	bool stop;
	int status;
	char reason[96];
};

/* A file or a table on its way into guest RAM. */
struct blob {
	const void *data;
	uint64_t size;
	uint64_t gpa;
};

/* All that is in RAM when the guest starts; ascending, no two share a page. */
struct image {
	struct blob blobs[MAX_BLOBS];
	unsigned int count;
	uint64_t entry;
};

/* main.c */
void die(int status, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 2, 3)));
void warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);

/* options.c */
extern const char * const memory_names[NR_MEMORY_KINDS];

/* The guest can ask for pages to be private or shared. */
static inline bool has_private(const struct options *opt)
{
	return opt->memory == MEMORY_PRIVATE || opt->memory == MEMORY_INPLACE;
}

/* The file is the only memory: what the VMM sees of RAM is the file, mapped. */
static inline bool maps_file(const struct options *opt)
{
	return opt->memory == MEMORY_INPLACE || opt->memory == MEMORY_SHARED;
}

void parse_options(struct options *opt, int argc, char **argv);

/* vm.c */
void vm_create(struct vmm *vmm);
void vm_irq(struct vmm *vmm, unsigned int irq, bool level);

/* memory.c */
uint64_t ram_file_flags(const struct options *opt);
void ram_layout(struct vmm *vmm);
void ram_create(struct vmm *vmm);
const struct region *ram_region(const struct ram *ram, uint64_t gpa, uint64_t size);
void *ram_in_vmm(struct vmm *vmm, uint64_t gpa, uint64_t size);
void ram_write(struct vmm *vmm, uint64_t gpa, void *pages, uint64_t size);
void ram_make_private(struct vmm *vmm);
bool ram_is_private(struct vmm *vmm, uint64_t gpa);
uint64_t ram_conversions(struct vmm *vmm);
uint64_t ram_private_pages(struct vmm *vmm);
int ram_convert(struct vmm *vmm, uint64_t gpa, uint64_t size, bool private);
int ram_replace_page(struct vmm *vmm, uint64_t gpa);
int64_t ram_file_pages(struct vmm *vmm);

/* load.c */
void image_build(struct vmm *vmm, struct image *image);
void walk_image(struct vmm *vmm, const struct image *image,
		void (*use)(struct vmm *vmm, uint64_t gpa, void *pages, uint64_t size));
void load_guest(struct vmm *vmm);

/* measure.c */
void measure_attach(struct vmm *vmm);
void measure_into_ram(struct vmm *vmm, const struct image *image);
struct kvm_gmem_soft_status measure_status(struct vmm *vmm);
void dump_image(struct vmm *vmm);

/* prefault.c */
int prefault_converted(struct vcpu *vcpu, uint64_t gpa, uint64_t size);
void prefault_ram(struct vmm *vmm);

/* mptable.c */
size_t mptable_build(void *buf, unsigned int cpus);

/* cpuid.c */
void cpuid_set(struct vcpu *vcpu);

/* vcpu.c */
void vcpu_create(struct vmm *vmm, unsigned int id);
void vcpu_flat_mode(struct vcpu *vcpu, uint64_t rip, uint64_t rsi);
uint64_t vcpu_msr(struct vcpu *vcpu, uint32_t msr);
void vcpu_start(struct vcpu *vcpu);
void vcpu_stop(struct vcpu *vcpu);
void vm_stop(struct vmm *vmm, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* poison.c */
void error_reports_on(struct vcpu *vcpu);
void handle_memory_error(struct vcpu *vcpu);
void poison_open(struct vmm *vmm);
int poison_page(struct vmm *vmm, uint64_t gpa);

/* ports.c */
uint32_t port_in(struct vmm *vmm, uint16_t port);
void port_out(struct vmm *vmm, uint16_t port, uint32_t value);

/* serial.c */
#define SERIAL_PORT	0x3f8
void serial_init(struct vmm *vmm);
void serial_exit(void);
uint8_t serial_in(struct vmm *vmm, unsigned int reg);
void serial_out(struct vmm *vmm, unsigned int reg, uint8_t value);

/* probe.c */
struct search {
	uint64_t found;
	uint64_t readable;	/* pages that were searched */
	uint64_t refused;	/* pages that are there and cannot be read */
};

struct search search_secret(const uint8_t *mapping, uint64_t size, uint32_t seed);
void probe_arg(uint32_t value);
void probe_command(struct vmm *vmm, uint32_t cmd);
uint32_t probe_answer(void);
void probe_memory_error(struct vmm *vmm, uint64_t gpa);

/* second.c */
void second_start(void);
void second_give_file(struct vmm *vmm);
uint64_t second_search(uint32_t seed);

/* stats.c */
extern const char * const fault_stat_names[NR_FAULT_STATS];
int stats_open(int fd);
bool stats_value(int fd, const char *name, uint64_t *value);
bool stats_faults(const struct vcpu *vcpu, struct fault_stats *stats);
bool stats_huge(const struct vmm *vmm, struct huge_stats *stats);
bool stats_mappings(const struct vmm *vmm, struct map_stats *stats);
bool stats_resident(const void *start, uint64_t size, uint64_t *file, uint64_t *anonymous);

/* live.c */
void live_line(struct vmm *vmm);

/* report.c */
void report(struct vmm *vmm);

#endif /* GMEM_VMM_H */
