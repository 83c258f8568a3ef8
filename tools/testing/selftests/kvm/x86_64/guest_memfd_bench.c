// SPDX-License-Identifier: GPL-2.0
/*
 * What guest_memfd costs, next to ordinary guest memory.
 *
 * Meant for an emulated processor that counts instructions: under QEMU with
 *
 *	-icount shift=0,sleep=off -smp 1 -cpu max,-erms,-fsrm
 *
 * the time stamp counter advances by one with each instruction, whoever executes
 * it, and in idle time by what the next timer is away.  The figures are then exact
 * and the same on each machine.  Elsewhere they are ticks of that counter.
 *
 * The program uses nothing but ioctls and asks KVM for what it has, so that the same
 * binary runs on any kernel.  What a kernel does not have is "n/a" in its output,
 * which is CSV:
 *
 *	case,bytes,pages,total,per page
 *
 * The total of cases named memory-* is bytes that the kernel has taken, beside the
 * guest's memory itself.
 *
 * The least of several rounds counts, as a timer may hit any of them.  The rounds
 * start with a new VM each and are a sequence of operations, most of which find what
 * the one before has left; the name of a case tells what that is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kvm.h>

#include "test_util.h"

/* For headers older than what is measured. */
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS	244
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP		(1ULL << 0)
#endif
#ifndef GUEST_MEMFD_FLAG_INIT_SHARED
#define GUEST_MEMFD_FLAG_INIT_SHARED	(1ULL << 1)
#endif
#ifndef GUEST_MEMFD_FLAG_WRITE
#define GUEST_MEMFD_FLAG_WRITE		(1ULL << 3)
#endif

#define PAGE		4096ULL
#define MIB		(1ULL << 20)
#define GIB		(1ULL << 30)
#define TIB		(1ULL << 40)
#define HUGE		(2 * MIB)

#define CODE_SLOT	0
#define CODE_GPA	0x1000ULL
#define SLOT		1
#define GPA		GIB
/* Where nothing is: out of reach, and within reach of slots. */
#define FAR_GPA		TIB
#define SLOTS_GPA	(TIB / 2)

#define MAX_VCPUS	4
#define MAX_FILES	2048
#define MAX_CASES	320
#define MAX_ROUNDS	3

/* An operation that would take longer than this is not tried. */
#define BUDGET		2000000000ULL

/* What is mapped where the size of something else grows. */
#define MAPPED		(64 * MIB)

struct result {
	const char *name;
	uint64_t bytes;
	uint64_t pages;
	uint64_t least;
	bool done;
};

static struct result results[MAX_CASES];
static int nr_results;
static uint64_t overhead;
static int kvm_fd;

/*
 * The kernel lacks what the present sequence needs: go through it for the names of
 * the cases and do nothing.
 */
static bool absent;

/* Measuring. */

static inline uint64_t now(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* Have what was put off done, such as freeing memory after a grace period. */
static void settle(void)
{
	usleep(100000);
}

static struct result *result_of(const char *name, uint64_t bytes, uint64_t pages)
{
	struct result *result;
	int i;

	for (i = 0; i < nr_results; i++) {
		result = &results[i];
		if (!strcmp(result->name, name) && result->bytes == bytes)
			return result;
	}
	TEST_ASSERT(nr_results < MAX_CASES, "Too many cases");
	result = &results[nr_results++];
	result->name = name;
	result->bytes = bytes;
	result->pages = pages;
	return result;
}

static void record(const char *name, uint64_t bytes, uint64_t pages, uint64_t time)
{
	struct result *result = result_of(name, bytes, pages);

	if (!result->done || time < result->least)
		result->least = time;
	result->done = true;
}

/* The most counts of this: later rounds find free space that earlier ones have left. */
static void record_memory(const char *name, uint64_t bytes, uint64_t nr, long size)
{
	struct result *result = result_of(name, bytes, nr);

	if (size > 0 && size > result->least)
		result->least = size;
	result->done = true;
}

/* Give back what a cache of the kernel has free. */
static void shrink(const char *path)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	TEST_ASSERT(write(fd, "1", 1) == 1, "%s: errno %d", path, errno);
	close(fd);
}

/* Bytes of a kind of memory, by a line of /proc/meminfo. */
static long meminfo(const char *line)
{
	char text[4096], *found;
	ssize_t length;
	int fd;

	settle();
	shrink("/sys/kernel/slab/maple_node/shrink");
	shrink("/sys/kernel/slab/radix_tree_node/shrink");
	fd = open("/proc/meminfo", O_RDONLY);
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = '\0';
	found = strstr(text, line);
	return found ? atol(found + strlen(line)) * 1024 : 0;
}

/* How much more of it there is after @statement, for @nr of something. */
#define MEASURE_MEMORY(name, bytes, nr, line, statement)		\
do {									\
	long __before = absent ? 0 : meminfo(line);			\
									\
	result_of(name, bytes, nr);					\
	statement;							\
	if (!absent)							\
		record_memory(name, bytes, nr, meminfo(line) - __before); \
} while (0)

/* For a profile: a nop that no compiler makes, see the plugin for QEMU. */
#define MARK(nr) asm volatile(".byte 0x0f, 0x1f, 0x40, " #nr : : : "memory")

#define MEASURE_PAGES(name, bytes, pages, statement)			\
do {									\
	uint64_t __start, __end;					\
									\
	if (absent) {							\
		result_of(name, bytes, pages);				\
		break;							\
	}								\
	settle();							\
	MARK(0x67);							\
	__start = now();						\
	statement;							\
	__end = now();							\
	MARK(0x68);							\
	record(name, bytes, pages, __end - __start - overhead);		\
} while (0)

#define MEASURE(name, bytes, statement)					\
	MEASURE_PAGES(name, bytes, (bytes) / PAGE, statement)

static uint64_t spin(uint64_t loops)
{
	uint64_t start = now();

	asm volatile("1: dec %0; jnz 1b" : "+r"(loops) : : "cc");
	return now() - start;
}

/* Does the counter count instructions?  Then a loop takes two each time. */
static bool counts_instructions(void)
{
	uint64_t least[2] = { -1, -1 }, time;
	int i, j;

	for (i = 0; i < 5; i++) {
		for (j = 0; j < 2; j++) {
			time = spin(j ? 2000 : 1000);
			if (time < least[j])
				least[j] = time;
		}
	}
	return least[1] - least[0] == 2000;
}

static void calibrate(void)
{
	uint64_t start, time;
	int i;

	overhead = -1;
	for (i = 0; i < 10; i++) {
		start = now();
		time = now() - start;
		if (time < overhead)
			overhead = time;
	}
}

/* KVM. */

#define DO(call)							\
({									\
	long __ret = absent ? 0 : (long)(call);				\
									\
	/* TEST_ASSERT() would be seen in the figures. */		\
	if (__ret < 0)							\
		TEST_FAIL("%s: errno %d", #call, errno);		\
	__ret;								\
})

static long cap(int fd, unsigned long nr)
{
	long ret = ioctl(fd, KVM_CHECK_EXTENSION, nr);

	return ret < 0 ? 0 : ret;
}

/* The sequence that follows needs this. */
static void need(bool there)
{
	absent = !there;
}

static bool has_private_vms(void)
{
	return cap(kvm_fd, KVM_CAP_VM_TYPES) & (1 << KVM_X86_SW_PROTECTED_VM) &&
	       cap(kvm_fd, KVM_CAP_MEMORY_ATTRIBUTES) & KVM_MEMORY_ATTRIBUTE_PRIVATE &&
	       cap(kvm_fd, KVM_CAP_GUEST_MEMFD);
}

static bool has_file_flags(unsigned long type, uint64_t flags)
{
	int vm = ioctl(kvm_fd, KVM_CREATE_VM, type);
	bool has = vm >= 0 && !(~cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) & flags);

	close(vm);
	return has;
}

struct vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	pthread_barrier_t *begin;
	/* What it touches. */
	uint64_t gpa;
	uint64_t npages;
};

struct vm {
	int fd;
	struct vcpu vcpu[MAX_VCPUS];
	int nr_vcpus;
	void *code;
	/* The memory under test. */
	uint64_t size;
	void *mem;
	void *reserved;
	int file;
};

/*
 * Writes a byte to each of ecx pages from esi on, then halts.  It runs without
 * paging, so that no page table of its own is in the way.
 */
static const uint8_t guest_code[] = {
	0x88, 0x06,		/* 1: mov %al, (%esi) */
	0x01, 0xde,		/* add %ebx, %esi */
	0x49,			/* dec %ecx */
	0x75, 0xf9,		/* jnz 1b */
	0xf4,			/* hlt */
};

/* Only halts. */
#define CODE_END	(CODE_GPA + sizeof(guest_code) - 1)

static int set_slot(struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t size, void *mem)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (unsigned long)mem,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int bind_slot(struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t size, int file)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (unsigned long)vm->mem,
		.guest_memfd = file,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region);
}

static int bind_file(struct vm *vm)
{
	return bind_slot(vm, SLOT, GPA, vm->size, vm->file);
}

static int delete_slot(struct vm *vm)
{
	return set_slot(vm, SLOT, GPA, 0, NULL);
}

static int create_sized(struct vm *vm, uint64_t size, uint64_t flags)
{
	struct kvm_create_guest_memfd create = {
		.size = size,
		.flags = flags,
	};

	return ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &create);
}

static int create_file(struct vm *vm, uint64_t flags)
{
	return create_sized(vm, vm->size, flags);
}

static int set_attributes(struct vm *vm, uint64_t gpa, uint64_t size, bool private)
{
	struct kvm_memory_attributes attributes = {
		.address = gpa,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	return ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

/* Each page in an ioctl of its own. */
static void set_pages(struct vm *vm, uint64_t gpa, uint64_t size, uint64_t step,
		      bool private)
{
	uint64_t end = gpa + size;

	for (; gpa < end; gpa += step)
		DO(set_attributes(vm, gpa, PAGE, private));
}

static void pre_fault_first(struct vm *vm, uint64_t size)
{
	struct kvm_pre_fault_memory range = {
		.gpa = GPA,
		.size = size,
	};

	while (range.size && !absent)
		DO(ioctl(vm->vcpu[0].fd, KVM_PRE_FAULT_MEMORY, &range));
}

static void pre_fault(struct vm *vm)
{
	pre_fault_first(vm, vm->size);
}

static int allocate(struct vm *vm)
{
	return fallocate(vm->file, FALLOC_FL_KEEP_SIZE, 0, vm->size);
}

static int punch(struct vm *vm)
{
	return fallocate(vm->file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, vm->size);
}

static void set_up_vcpu(struct vcpu *vcpu)
{
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = 8, .type = 3, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	DO(ioctl(vcpu->fd, KVM_GET_SREGS, &sregs));
	sregs.ds = flat;
	sregs.es = flat;
	sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 11;
	sregs.cr0 |= 1;
	DO(ioctl(vcpu->fd, KVM_SET_SREGS, &sregs));
}

static void add_vcpu(struct vm *vm)
{
	struct vcpu *vcpu = &vm->vcpu[vm->nr_vcpus];

	if (absent)
		return;

	vcpu->fd = DO(ioctl(vm->fd, KVM_CREATE_VCPU, vm->nr_vcpus));
	vcpu->run = mmap(NULL, DO(ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0)),
			 PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	TEST_ASSERT(vcpu->run != MAP_FAILED, "errno %d", errno);
	set_up_vcpu(vcpu);
	vm->nr_vcpus++;
}

/* The guest runs until it halts. */
static void run_vcpu(struct vcpu *vcpu, uint64_t rip)
{
	struct kvm_regs regs = {
		.rip = rip, .rflags = 2,
		.rsi = vcpu->gpa, .rbx = PAGE, .rcx = vcpu->npages,
	};

	DO(ioctl(vcpu->fd, KVM_SET_REGS, &regs));
	DO(ioctl(vcpu->fd, KVM_RUN, 0));
	TEST_ASSERT(absent || vcpu->run->exit_reason == KVM_EXIT_HLT, "Exit %u",
		    vcpu->run->exit_reason);
}

/* It writes to the first @npages of the memory under test. */
static void touch_pages(struct vm *vm, uint64_t npages)
{
	struct vcpu *vcpu = &vm->vcpu[0];

	vcpu->gpa = GPA;
	vcpu->npages = npages;
	run_vcpu(vcpu, CODE_GPA);
}

static void touch(struct vm *vm)
{
	touch_pages(vm, vm->size / PAGE);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;

	/* That a vCPU has changed threads costs a grace period, once. */
	run_vcpu(vcpu, CODE_END);
	pthread_barrier_wait(vcpu->begin);
	run_vcpu(vcpu, CODE_GPA);
	return NULL;
}

/* Each vCPU in a thread, which waits to begin with its part of the memory. */
static void start_threads(struct vm *vm, pthread_barrier_t *begin)
{
	struct vcpu *vcpu;
	int i;

	pthread_barrier_init(begin, NULL, vm->nr_vcpus + 1);
	for (i = 0; i < vm->nr_vcpus; i++) {
		vcpu = &vm->vcpu[i];
		vcpu->npages = vm->size / PAGE / vm->nr_vcpus;
		vcpu->gpa = GPA + i * vcpu->npages * PAGE;
		vcpu->begin = begin;
		TEST_ASSERT(!pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu),
			    "No thread");
	}
}

static void join_threads(struct vm *vm, pthread_barrier_t *begin)
{
	int i;

	pthread_barrier_wait(begin);
	for (i = 0; i < vm->nr_vcpus; i++)
		pthread_join(vm->vcpu[i].thread, NULL);
}

/* Address space for the memory, aligned so that it can have large pages. */
static void reserve(struct vm *vm)
{
	vm->reserved = mmap(NULL, vm->size + HUGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(vm->reserved != MAP_FAILED, "errno %d", errno);
	vm->mem = (void *)(((uintptr_t)vm->reserved + HUGE - 1) & ~(HUGE - 1));
}

static void map_memory(struct vm *vm, int flags, int fd)
{
	void *mem;

	if (absent)
		return;

	mem = mmap(vm->mem, vm->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	TEST_ASSERT(mem == vm->mem, "errno %d", errno);
}

static void map_anonymous(struct vm *vm, int advice)
{
	map_memory(vm, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	/* Without huge pages in the kernel there is nothing to choose. */
	madvise(vm->mem, vm->size, advice);
}

static void touch_mapping(struct vm *vm)
{
	uint64_t offset;

	for (offset = 0; offset < vm->size; offset += PAGE)
		*(volatile char *)(vm->mem + offset) = 1;
}

static void open_vm(struct vm *vm, unsigned long type, uint64_t size)
{
	memset(vm, 0, sizeof(*vm));
	vm->size = size;
	vm->file = -1;
	if (absent)
		return;

	vm->fd = DO(ioctl(kvm_fd, KVM_CREATE_VM, type));
	vm->code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(vm->code != MAP_FAILED, "errno %d", errno);
	memcpy(vm->code, guest_code, sizeof(guest_code));
	DO(set_slot(vm, CODE_SLOT, CODE_GPA, PAGE, vm->code));

	add_vcpu(vm);
	reserve(vm);
	map_anonymous(vm, MADV_HUGEPAGE);
}

/* So that the code is mapped, and the first run is over; needs a slot. */
static void start_vm(struct vm *vm)
{
	int i;

	for (i = 0; i < vm->nr_vcpus; i++)
		run_vcpu(&vm->vcpu[i], CODE_END);
}

static void close_file(struct vm *vm)
{
	close(vm->file);
	vm->file = -1;
}

static void close_vm(struct vm *vm)
{
	int i;

	if (absent)
		return;

	if (vm->file >= 0)
		close(vm->file);
	for (i = 0; i < vm->nr_vcpus; i++) {
		munmap(vm->vcpu[i].run, DO(ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0)));
		close(vm->vcpu[i].fd);
	}
	close(vm->fd);
	munmap(vm->code, PAGE);
	munmap(vm->reserved, vm->size + HUGE);
}

/* What is measured. */

/* The life of a file that is all private memory; the alias is never touched. */
static void private_memory(uint64_t size)
{
	struct vm vm;

	need(has_private_vms() && cap(kvm_fd, KVM_CAP_PRE_FAULT_MEMORY));
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, size);
	start_vm(&vm);

	MEASURE("create", size, vm.file = DO(create_file(&vm, 0)));
	MEASURE("bind", size, DO(bind_file(&vm)));
	MEASURE("attributes-slot", size, DO(set_attributes(&vm, GPA, size, true)));
	MEASURE_MEMORY("memory-file-mapped", size, size / PAGE, "\nSlab:",
		MEASURE_MEMORY("memory-page-tables", size, size / PAGE, "\nSecPageTables:",
			MEASURE("prefault-cold", size, pre_fault(&vm))));
	MEASURE("prefault-mapped", size, pre_fault(&vm));
	MEASURE("touch-mapped", size, touch(&vm));
	MEASURE("convert-private-to-shared", size, DO(set_attributes(&vm, GPA, size, false)));
	MEASURE("convert-unmapped", size, DO(set_attributes(&vm, GPA, size, true)));
	/* Allocated and zeroed, but not mapped any more. */
	MEASURE("prefault-warm", size, pre_fault(&vm));
	MEASURE("unbind-mapped", size, DO(delete_slot(&vm)));
	DO(bind_file(&vm));
	start_vm(&vm);
	MEASURE("touch-private-warm", size, touch(&vm));
	MEASURE("punch-mapped", size, DO(punch(&vm)));
	MEASURE("punch-empty", size, DO(punch(&vm)));
	MEASURE("fallocate", size, DO(allocate(&vm)));
	MEASURE("fallocate-again", size, DO(allocate(&vm)));
	MEASURE("prefault-fallocated", size, pre_fault(&vm));
	DO(punch(&vm));
	DO(allocate(&vm));
	MEASURE("punch-unmapped", size, DO(punch(&vm)));
	MEASURE("touch-private", size, touch(&vm));
	MEASURE("close-mapped", size, close_file(&vm));
	close_vm(&vm);
}

/* What attributes of a range of @size will take, by those that are known. */
static uint64_t expected_of_attributes(uint64_t size)
{
	uint64_t page = result_of("attributes", PAGE, 1)->least;
	struct result *known = NULL;
	int i;

	for (i = 0; i < nr_results; i++) {
		if (!strcmp(results[i].name, "attributes") && results[i].done &&
		    results[i].bytes < size)
			known = &results[i];
	}
	if (!known)
		return 0;
	/* Does it grow with the range? */
	return known->least > 2 * page ? known->least * (size / known->bytes) : known->least;
}

/* Attributes alone: no slot, no file, nothing mapped. */
static void attributes(void)
{
	static const uint64_t sizes[] = { PAGE, HUGE, 64 * MIB, 256 * MIB, GIB, TIB };
	struct vm vm;
	uint64_t size;
	int i;

	need(has_private_vms());
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, HUGE);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		size = sizes[i];
		need(has_private_vms() && expected_of_attributes(size) < BUDGET);
		MEASURE_MEMORY("memory-attributes", size, size / PAGE, "\nSlab:",
			MEASURE("attributes", size,
				DO(set_attributes(&vm, FAR_GPA, size, true))));
		MEASURE("attributes-same", size, DO(set_attributes(&vm, FAR_GPA, size, true)));
		MEASURE("attributes-back", size, DO(set_attributes(&vm, FAR_GPA, size, false)));
	}
	need(has_private_vms());
	close_vm(&vm);
}

/*
 * What must not matter: how much there is where nothing is mapped.  A slot and a file of
 * @size, in which the first of it are mapped.
 */
static void sparse(uint64_t size)
{
	const uint64_t npages = MAPPED / PAGE;
	struct vm vm;

	need(has_private_vms() && cap(kvm_fd, KVM_CAP_PRE_FAULT_MEMORY) &&
	     expected_of_attributes(size) < BUDGET);
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, size);
	vm.file = DO(create_file(&vm, 0));
	MEASURE_PAGES("sparse-bind", size, 1, DO(bind_file(&vm)));
	start_vm(&vm);
	MEASURE_PAGES("sparse-attributes", size, 1,
		      DO(set_attributes(&vm, GPA, size, true)));
	MEASURE_PAGES("sparse-prefault", size, npages, pre_fault_first(&vm, MAPPED));
	MEASURE_PAGES("sparse-convert", size, npages,
		      DO(set_attributes(&vm, GPA, size, false)));
	DO(set_attributes(&vm, GPA, size, true));
	pre_fault_first(&vm, MAPPED);
	MEASURE_PAGES("sparse-punch", size, npages, DO(punch(&vm)));
	MEASURE_PAGES("sparse-touch", size, npages, touch_pages(&vm, npages));
	MEASURE_PAGES("sparse-close", size, npages, close_file(&vm));
	close_vm(&vm);
}

/* @nr more slots than the one under test, each bound to a file of its own or to none. */
static void crowd(int nr, bool files, const char *touch_name, const char *convert_name)
{
	static int other[MAX_FILES];
	struct vm vm;
	int i;

	need(has_private_vms());
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, MAPPED);
	vm.file = DO(create_file(&vm, 0));
	DO(bind_file(&vm));
	for (i = 0; i < nr && !absent; i++) {
		uint64_t gpa = SLOTS_GPA + 2 * i * PAGE;

		if (files) {
			other[i] = DO(create_sized(&vm, PAGE, 0));
			DO(bind_slot(&vm, SLOT + 1 + i, gpa, PAGE, other[i]));
		} else {
			DO(set_slot(&vm, SLOT + 1 + i, gpa, PAGE, vm.mem));
		}
	}
	DO(set_attributes(&vm, GPA, MAPPED, true));
	start_vm(&vm);
	MEASURE(touch_name, MAPPED, touch(&vm));
	MEASURE(convert_name, MAPPED, DO(set_attributes(&vm, GPA, MAPPED, false)));
	for (i = 0; i < nr && files && !absent; i++)
		close(other[i]);
	close_vm(&vm);
}

/* The same memory, touched by @nr vCPUs that take turns on the processor. */
static void vcpus(int nr, const char *name)
{
	pthread_barrier_t begin;
	struct vm vm;

	need(has_private_vms());
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, MAPPED);
	while (vm.nr_vcpus < nr && !absent)
		add_vcpu(&vm);
	vm.file = DO(create_file(&vm, 0));
	DO(bind_file(&vm));
	DO(set_attributes(&vm, GPA, MAPPED, true));
	start_vm(&vm);
	if (!absent)
		start_threads(&vm, &begin);
	MEASURE(name, MAPPED, join_threads(&vm, &begin));
	close_vm(&vm);
}

static void growth(void)
{
	sparse(GIB);
	sparse(32 * GIB);
	/* To the end of what an emulated processor can address. */
	sparse(TIB - GPA);
	crowd(1, false, "slots-1-touch", "slots-1-convert");
	crowd(128, false, "slots-128-touch", "slots-128-convert");
	crowd(8192, false, "slots-8192-touch", "slots-8192-convert");
	crowd(1, true, "files-1-touch", "files-1-convert");
	crowd(128, true, "files-128-touch", "files-128-convert");
	crowd(MAX_FILES, true, "files-2048-touch", "files-2048-convert");
	vcpus(1, "vcpus-1-touch");
	vcpus(2, "vcpus-2-touch");
	vcpus(3, "vcpus-3-touch");
	vcpus(4, "vcpus-4-touch");
}

/* Every other page: what ranges are worst at. */
static void alternating(uint64_t size)
{
	uint64_t half = size / PAGE / 2;
	struct vm vm;

	need(has_private_vms());
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, HUGE);
	MEASURE_MEMORY("memory-attributes-alternating", size, half, "\nSlab:",
		MEASURE_PAGES("attributes-alternating", size, half,
			set_pages(&vm, FAR_GPA, size, 2 * PAGE, true)));
	MEASURE_PAGES("attributes-alternating-join", size, half,
		      set_pages(&vm, FAR_GPA + PAGE, size, 2 * PAGE, true));
	set_pages(&vm, FAR_GPA, size, 2 * PAGE, false);
	MEASURE("attributes-alternating-clear", size,
		DO(set_attributes(&vm, FAR_GPA, size, false)));
	close_vm(&vm);
}

/* The guest has the alias mapped, and its memory becomes private. */
static void alias(uint64_t size)
{
	struct vm vm;

	need(has_private_vms());
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, size);
	vm.file = DO(create_file(&vm, 0));
	DO(bind_file(&vm));
	start_vm(&vm);
	MEASURE("touch-alias", size, touch(&vm));
	MEASURE("convert-shared-to-private", size,
		DO(set_attributes(&vm, GPA, size, true)));
	close_vm(&vm);
}

/* One copy: private and shared in a file that the VMM has mapped. */
static void in_place(uint64_t size)
{
	struct vm vm;

	need(has_private_vms() &&
	     has_file_flags(KVM_X86_SW_PROTECTED_VM, GUEST_MEMFD_FLAG_MMAP));
	open_vm(&vm, KVM_X86_SW_PROTECTED_VM, size);
	vm.file = DO(create_file(&vm, GUEST_MEMFD_FLAG_MMAP));
	map_memory(&vm, MAP_SHARED, vm.file);
	DO(bind_file(&vm));
	start_vm(&vm);
	MEASURE("inplace-touch-by-host", size, touch_mapping(&vm));
	MEASURE("inplace-touch-shared", size, touch(&vm));
	MEASURE("inplace-to-private", size, DO(set_attributes(&vm, GPA, size, true)));
	MEASURE("inplace-touch-private", size, touch(&vm));
	MEASURE("inplace-to-shared", size, DO(set_attributes(&vm, GPA, size, false)));
	close_vm(&vm);
}

/* A VM without private memory, all of it in the file. */
static void shared_file(uint64_t size)
{
	const uint64_t flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	struct vm vm;

	need(has_file_flags(KVM_X86_DEFAULT_VM, flags));
	open_vm(&vm, KVM_X86_DEFAULT_VM, size);
	vm.file = DO(create_file(&vm, flags));
	map_memory(&vm, MAP_SHARED, vm.file);
	DO(bind_file(&vm));
	start_vm(&vm);
	MEASURE("touch-shared-file", size, touch(&vm));
	MEASURE("touch-shared-file-by-host", size, touch_mapping(&vm));
	MEASURE("punch-shared-file", size, DO(punch(&vm)));
	MEASURE("prefault-shared-file", size, pre_fault(&vm));
	close_vm(&vm);
}

static void anonymous(uint64_t size, int advice, const char *cold, const char *unmap,
		      const char *warm)
{
	struct vm vm;

	need(true);
	open_vm(&vm, KVM_X86_DEFAULT_VM, size);
	map_anonymous(&vm, advice);
	DO(set_slot(&vm, SLOT, GPA, size, vm.mem));
	start_vm(&vm);
	MEASURE(cold, size, touch(&vm));
	MEASURE(unmap, size, DO(madvise(vm.mem, size, MADV_DONTNEED)));
	touch_mapping(&vm);
	MEASURE(warm, size, touch(&vm));
	close_vm(&vm);
}

static void ordinary_memory(uint64_t size)
{
	anonymous(size, MADV_HUGEPAGE, "touch-thp", "free-thp", "touch-thp-warm");
	anonymous(size, MADV_NOHUGEPAGE, "touch-4k", "free-4k", "touch-4k-warm");
}

static void copy(void *to, const void *from, size_t size)
{
	size_t count = size / 8;

	asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void write_file(struct vm *vm)
{
	uint64_t offset = 0;

	while (offset < vm->size)
		offset += DO(write(vm->file, vm->mem + offset, vm->size - offset));
}

/* Filling a file, and the copy that it cannot do without. */
static void fill(uint64_t size)
{
	struct vm vm, to = { .size = size };

	need(true);
	open_vm(&vm, KVM_X86_DEFAULT_VM, size);
	touch_mapping(&vm);
	reserve(&to);
	map_anonymous(&to, MADV_HUGEPAGE);
	touch_mapping(&to);
	MEASURE("copy", size, copy(to.mem, vm.mem, size));
	munmap(to.reserved, size + HUGE);
	close_vm(&vm);

	need(has_file_flags(KVM_X86_DEFAULT_VM, GUEST_MEMFD_FLAG_WRITE));
	open_vm(&vm, KVM_X86_DEFAULT_VM, size);
	if (!absent)
		touch_mapping(&vm);
	vm.file = DO(create_file(&vm, GUEST_MEMFD_FLAG_WRITE));
	MEASURE("write", size, write_file(&vm));
	MEASURE("close-unbound", size, close_file(&vm));
	close_vm(&vm);
}

static void print_results(void)
{
	struct result *result;
	int i;

	printf("case,bytes,pages,total,per page\n");
	for (i = 0; i < nr_results; i++) {
		result = &results[i];
		printf("%s,%lu,%lu,", result->name, result->bytes, result->pages);
		if (result->done)
			printf("%lu,%.2f\n", result->least,
			       (double)result->least / result->pages);
		else
			printf("n/a,n/a\n");
	}
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-i] [-r rounds] [-s MiB]...\n\n"
	       " -h: print this text\n"
	       " -i: fail unless the time stamp counter counts instructions\n"
	       " -r: rounds, of which the least counts (default: %d)\n"
	       " -s: size of the memory (default: 64 and 256 MiB)\n", name, MAX_ROUNDS);
}

int main(int argc, char *argv[])
{
	struct rlimit files = { MAX_FILES + 64, MAX_FILES + 64 };
	struct sched_param param = { .sched_priority = 1 };
	uint64_t sizes[8] = { 64 * MIB, 256 * MIB }, size;
	int nr_sizes = 2, nr_given = 0, rounds = MAX_ROUNDS;
	bool instructions, exact = false;
	struct utsname uts;
	int opt, i, round;

	while ((opt = getopt(argc, argv, "hir:s:")) != -1) {
		switch (opt) {
		case 'i':
			exact = true;
			break;
		case 'r':
			rounds = atoi(optarg);
			break;
		case 's':
			TEST_ASSERT(nr_given < ARRAY_SIZE(sizes), "Too many sizes");
			sizes[nr_given++] = atoi(optarg) * MIB;
			nr_sizes = nr_given;
			break;
		case 'h':
		default:
			help(argv[0]);
			exit(opt == 'h' ? 0 : 1);
		}
	}

	kvm_fd = open("/dev/kvm", O_RDWR);
	if (kvm_fd < 0) {
		print_skip("/dev/kvm: %s", strerror(errno));
		exit(KSFT_SKIP);
	}
	TEST_ASSERT(!setrlimit(RLIMIT_NOFILE, &files), "RLIMIT_NOFILE: errno %d", errno);
	/*
	 * Nothing else is to run in between, at least no other process.  The threads take
	 * turns, see /proc/sys/kernel/sched_rr_timeslice_ms.
	 */
	sched_setscheduler(0, SCHED_RR, &param);
	mlockall(MCL_CURRENT);
	instructions = counts_instructions();
	calibrate();
	uname(&uts);
	printf("# kernel: %s\n# unit: %s\n", uts.release,
	       instructions ? "instructions" : "ticks of the time stamp counter");
	if (exact && !instructions) {
		printf("# not what was asked for\n");
		return 1;
	}
	fflush(stdout);

	for (round = 0; round < rounds; round++) {
		attributes();
		for (i = 0; i < nr_sizes; i++) {
			size = sizes[i];
			private_memory(size);
			alternating(size);
			alias(size);
			in_place(size);
			shared_file(size);
			ordinary_memory(size);
			fill(size);
		}
		growth();
	}
	print_results();
	return 0;
}
