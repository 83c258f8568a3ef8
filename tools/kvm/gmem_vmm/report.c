// SPDX-License-Identifier: GPL-2.0
/* The table at the end.  All vCPUs have stopped: no locks. */
#include <asm/kvm_para.h>
#include <stdio.h>

#include "gmem_vmm.h"

static const char * const exit_names[NR_EXIT_KINDS] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_IO] = "port I/O",
	[KVM_EXIT_HYPERCALL] = "hypercall",
	[KVM_EXIT_MMIO] = "MMIO",
	[KVM_EXIT_SHUTDOWN] = "shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "failed entry",
	[KVM_EXIT_INTR] = "interrupted",
	[KVM_EXIT_INTERNAL_ERROR] = "internal error",
	[KVM_EXIT_MEMORY_FAULT] = "memory fault",
};

static uint64_t count_exits(struct vmm *vmm, unsigned int kind)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < vmm->opt.cpus; i++)
		sum += vmm->vcpu[i].exits[kind];
	return sum;
}

static void print_exits(struct vmm *vmm)
{
	unsigned long long count, total = 0;
	unsigned int kind;

	for (kind = 0; kind < NR_EXIT_KINDS; kind++)
		total += count_exits(vmm, kind);
	printf("  exits to the VMM         %llu\n", total);
	if (!vmm->opt.verbose)
		return;
	for (kind = 0; kind < NR_EXIT_KINDS; kind++) {
		count = count_exits(vmm, kind);
		if (count && exit_names[kind])
			printf("    %-22s %llu\n", exit_names[kind], count);
		else if (count)
			printf("    kind %-17u %llu\n", kind, count);
	}
}

static void print_bytes(const char *name, uint64_t pages)
{
	unsigned long long bytes = pages * PAGE_SIZE;

	printf("  %-24s %llu bytes (%.1f MiB)\n", name, bytes, bytes / 1048576.0);
}

static void print_file(struct vmm *vmm)
{
	int64_t pages;

	if (vmm->ram.fd < 0) {
		printf("  pages in the guest_memfd none, ordinary memory\n");
		return;
	}
	pages = ram_file_pages(vmm);
	if (pages < 0)
		printf("  pages in the guest_memfd unknown\n");
	else
		printf("  pages in the guest_memfd %lld (%.1f MiB)\n", (long long)pages,
		       pages * PAGE_SIZE / 1048576.0);
}

/* A KVM without the counters has no huge pages in the file either. */
static void print_huge(struct vmm *vmm)
{
	struct huge_stats huge;

	if (vmm->ram.fd < 0 || !stats_huge(vmm, &huge))
		return;
	printf("  huge pages of the file   %llu allocated, %llu split, small pages instead %llu times\n",
	       (unsigned long long)huge.allocated, (unsigned long long)huge.split,
	       (unsigned long long)huge.fallback);
}

/* Together with the file's pages this is all memory that the guest costs. */
static void print_resident(struct vmm *vmm)
{
	uint64_t file, anonymous;

	if (stats_resident(vmm->ram.mapping, vmm->opt.mem, &file, &anonymous))
		printf("  pages the VMM has mapped %llu of the file, %llu of its own\n",
		       (unsigned long long)file, (unsigned long long)anonymous);
	else
		printf("  pages the VMM has mapped unknown, the kernel does not say\n");
}

/* A feature is in use on a vCPU that has given KVM a page for it. */
static void print_paravirt(struct vmm *vmm)
{
	static const struct {
		uint32_t msr;
		const char *name;
	} features[] = {
		{ MSR_KVM_SYSTEM_TIME_NEW, "kvm-clock" },
		{ MSR_KVM_STEAL_TIME, "steal time" },
		{ MSR_KVM_ASYNC_PF_EN, "async page faults" },
		{ MSR_KVM_PV_EOI_EN, "PV EOI" },
	};
	unsigned int i, id, on;

	printf("  vCPUs that use           ");
	for (i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		on = 0;
		for (id = 0; id < vmm->opt.cpus; id++)
			on += vcpu_msr(&vmm->vcpu[id], features[i].msr) & 1;
		printf("%s%s %u", i ? ", " : "", features[i].name, on);
	}
	putchar('\n');
}

static void print_boot_time(struct vmm *vmm)
{
	if (vmm->user_space_ns)
		printf("  boot to user space       %llu ms\n",
		       (unsigned long long)(vmm->user_space_ns - vmm->start_ns) / 1000000);
	else
		printf("  boot to user space       not reported by the guest\n");
}

static void print_vcpu_faults(const struct vcpu *vcpu, const char *when,
			      const struct fault_stats *stats)
{
	unsigned int i;

	printf("    vCPU %u %-15s ", vcpu->id, when);
	for (i = 0; i < NR_FAULT_STATS; i++)
		printf("%s%s %llu", i ? ", " : "", fault_stat_names[i],
		       (unsigned long long)stats->count[i]);
	putchar('\n');
}

/* Two vCPUs may exit for the same page, and only the first maps it. */
static uint64_t ram_faults(const struct fault_stats *stats)
{
	return stats->count[PF_FIXED] + stats->count[PF_SPURIOUS];
}

static void print_faults(struct vmm *vmm)
{
	unsigned long long booting = 0, all = 0;
	struct fault_stats at_end[MAX_VCPUS];
	unsigned int i;

	for (i = 0; i < vmm->opt.cpus; i++) {
		if (!stats_faults(&vmm->vcpu[i], &at_end[i])) {
			printf("  page faults on RAM       unknown, KVM has no such statistics\n");
			return;
		}
		booting += ram_faults(&vmm->vcpu[i].at_user_space);
		all += ram_faults(&at_end[i]);
	}
	if (vmm->user_space_ns)
		printf("  page faults on RAM       %llu before user space, %llu after\n",
		       booting, all - booting);
	else
		printf("  page faults on RAM       %llu\n", all);
	if (!vmm->opt.verbose)
		return;
	for (i = 0; i < vmm->opt.cpus; i++) {
		if (vmm->user_space_ns)
			print_vcpu_faults(&vmm->vcpu[i], "at user space",
					  &vmm->vcpu[i].at_user_space);
		print_vcpu_faults(&vmm->vcpu[i], "at the end", &at_end[i]);
	}
}

/* Large mappings count as one: not mapped ahead, each would cost one fault. */
static void print_prefault(struct vmm *vmm)
{
	const struct map_stats *m = &vmm->prefaulted;

	if (!vmm->opt.prefault)
		return;
	print_bytes("mapped ahead", m->pages_4k + (m->pages_2m << 9) + (m->pages_1g << 18));
	printf("  page faults avoided      up to %llu: mapped %llu of 4K, %llu of 2M, %llu of 1G\n",
	       (unsigned long long)(m->pages_4k + m->pages_2m + m->pages_1g),
	       (unsigned long long)m->pages_4k, (unsigned long long)m->pages_2m,
	       (unsigned long long)m->pages_1g);
}

static void print_measurement(struct vmm *vmm)
{
	struct kvm_gmem_soft_status status;
	unsigned int i;

	if (!vmm->opt.measure)
		return;
	status = measure_status(vmm);
	printf("  measurement              sha256:");
	for (i = 0; i < sizeof(status.digest); i++)
		printf("%02x", status.digest[i]);
	printf("\n  back end                 %llu pages measured, %llu in use, %llu broken rules\n",
	       (unsigned long long)status.populated, (unsigned long long)status.owned,
	       (unsigned long long)status.violations);
}

void report(struct vmm *vmm)
{
	uint64_t pages = vmm->opt.mem / PAGE_SIZE;
	const struct ram *ram = &vmm->ram;
	unsigned long long faults = 0, errors = 0;
	unsigned int i;

	for (i = 0; i < vmm->opt.cpus; i++) {
		faults += vmm->vcpu[i].faults;
		errors += vmm->vcpu[i].memory_errors;
	}
	printf("\ngmem_vmm: %s memory, %u vCPU%s, ended by: %s\n",
	       memory_names[vmm->opt.memory], vmm->opt.cpus,
	       vmm->opt.cpus == 1 ? "" : "s", vmm->reason);
	print_bytes("RAM private", ram->private_pages);
	print_bytes("RAM shared", pages - ram->private_pages);
	print_file(vmm);
	print_huge(vmm);
	print_resident(vmm);
	print_measurement(vmm);
	print_prefault(vmm);
	print_faults(vmm);
	printf("  memory-fault exits       %llu\n", faults);
	printf("  memory errors            %llu, the guest was told by a machine check\n",
	       errors);
	printf("  conversions              %llu to shared, %llu to private",
	       (unsigned long long)ram->to_shared, (unsigned long long)ram->to_private);
	if (vmm->opt.memory == MEMORY_INPLACE)
		printf(", %llu refused for a pinned page", (unsigned long long)ram->pinned);
	putchar('\n');
	print_paravirt(vmm);
	printf("  checks                   %u passed, %u failed\n",
	       vmm->proofs_passed, vmm->proofs_failed);
	print_boot_time(vmm);
	print_exits(vmm);
	fflush(stdout);
}
