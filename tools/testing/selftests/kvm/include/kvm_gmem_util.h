/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of guest_memfd, memory attributes and memory-fault exits.
 *
 * __foo() returns what the system call returned and leaves errno alone, foo()
 * asserts that it worked.  Test refusals with the former, and assert errno.
 *
 * Layout that the helpers assume for tests that run guest code: slot 0 (code,
 * stack, page tables, ucalls) is ordinary memory and stays shared, private data
 * lives in a slot of its own that vm_gmem_region_add() creates.
 *
 * For tests based on the kselftest harness: include this file first and
 * the harness after it (never before), write a main() that checks the
 * requirements with TEST_REQUIRE() and then returns test_harness_run(), e.g.
 *
 *	int main(int argc, char *argv[])
 *	{
 *		TEST_REQUIRE(kvm_has_private_vms());
 *		return test_harness_run(argc, argv);
 *	}
 *
 * Inside a test, TEST_REQUIRE() would count as a failure: the harness wants
 * SKIP(), and wants it in the test, as it runs the test after a SKIP() in a
 * fixture's setup.  TEST_ASSERT() works everywhere, and is the only one that
 * works in threads; the ASSERT_*() of the harness only work in TEST()s and
 * fixtures.  The harness ends a test after 30 s, and emulated machines are slow:
 * include gmem_harness.h instead of it.
 */
#ifndef SELFTEST_KVM_GMEM_UTIL_H
#define SELFTEST_KVM_GMEM_UTIL_H

#ifdef __KSELFTEST_HARNESS_H
#error "Include kselftest_harness.h after kvm_gmem_util.h"
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/userfaultfd.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

/* The harness has an ASSERT_EQ(); TEST_ASSERT_EQ() is the library's. */
#undef ASSERT_EQ

/*
 * The errno of a system call that failed, 0 of one that worked, so that one
 * ASSERT_EQ(EINVAL, errno_of(...)) says all.  A call that returns a pointer wants
 * a cast to long.
 */
#define errno_of(call)						\
({								\
	errno = 0;						\
	(call) == -1 ? errno : 0;				\
})

/* Files of the kernel, each of which has lines of text. */

static inline int __write_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_TRUNC), err = 0;
	ssize_t len = strlen(line), n;

	if (fd < 0)
		return -1;
	n = write(fd, line, len);
	if (n != len)
		err = n < 0 ? errno : EIO;
	close(fd);
	errno = err;
	return err ? -1 : 0;
}

static inline void write_line(const char *path, const char *line)
{
	TEST_ASSERT(!__write_line(path, line), "%s does not take '%s', errno: %d",
		    path, line, errno);
}

static inline void read_line(const char *path, char *line, size_t size)
{
	FILE *file = fopen(path, "r");

	TEST_ASSERT(file && fgets(line, size, file), "%s, errno: %d", path, errno);
	fclose(file);
}

/* Of a file whose lines have a name and a number. */
static inline uint64_t number_in(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	unsigned long long value;
	char item[64];

	TEST_ASSERT(file, "%s, errno: %d", path, errno);
	while (fscanf(file, "%63s %llu%*[^\n]", item, &value) == 2) {
		if (!strcmp(item, name)) {
			fclose(file);
			return value;
		}
	}
	TEST_FAIL("No %s in %s", name, path);
	return 0;
}

/* Requirements.  Each of them only asks KVM what it has. */

/* Can files be created and bound, on the VM types that KVM allows it for? */
static inline bool kvm_has_gmem(void)
{
	return kvm_has_cap(KVM_CAP_GUEST_MEMFD) &&
	       kvm_has_cap(KVM_CAP_USER_MEMORY2);
}

/* Are there VMs that have private memory and a file to put it in? */
static inline bool kvm_has_private_vms(void)
{
	return kvm_has_gmem() &&
	       (kvm_check_cap(KVM_CAP_VM_TYPES) & (1u << KVM_X86_SW_PROTECTED_VM)) &&
	       (kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES) & KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

/* Can a default VM, which has no private memory, have files with these flags? */
static inline bool kvm_has_gmem_flags(uint64_t flags)
{
	return kvm_has_gmem() &&
	       !(flags & ~(uint64_t)kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS));
}

/* VM creation.  The plain functions create a VM of the default type. */

/*
 * For tests whose guests meet ordinary memory that the host cannot reach: start guests
 * with interrupts disabled even if the environment asks for the contrary (KVM_GUEST_IF,
 * as scripts/boot.sh has it for Bochs).  With interrupts enabled KVM would wait for the
 * memory in the background, again and again, in place of returning EFAULT.  Such guests
 * must not spin: under Bochs nothing would interrupt them.
 */
static inline void disable_guest_interrupts(void)
{
	unsetenv("KVM_GUEST_IF");
}

/* An empty VM of @type: no memory, no vCPUs. */
static inline struct kvm_vm *vm_create_barebones_type(unsigned long type)
{
	struct kvm_vm *vm;

	kvm_vm_type = type;
	vm = vm_create_barebones();
	kvm_vm_type = 0;

	return vm;
}

/*
 * A VM of @type whose vCPUs all start at @guest_code.  @extra_mem_pages is the
 * size of the memory that the test is going to add and to map, so that there is
 * room for the page tables.
 */
static inline struct kvm_vm *
vm_create_type_with_vcpus(unsigned long type, uint32_t nr_vcpus,
			  uint64_t extra_mem_pages, void *guest_code,
			  struct kvm_vcpu *vcpus[])
{
	struct kvm_vm *vm;

	kvm_vm_type = type;
	vm = __vm_create_with_vcpus(VM_MODE_DEFAULT, nr_vcpus, extra_mem_pages,
				    guest_code, vcpus);
	kvm_vm_type = 0;

	return vm;
}

static inline struct kvm_vm *
vm_create_type_with_one_vcpu(unsigned long type, struct kvm_vcpu **vcpu,
			     uint64_t extra_mem_pages, void *guest_code)
{
	return vm_create_type_with_vcpus(type, 1, extra_mem_pages, guest_code,
					 vcpu);
}

/*
 * Page tables for nested paging of SVM, with which the addresses of the nested guest are
 * those of the guest, below 1 GiB.  Returns their gpa.
 */
static inline uint64_t vm_identity_tables(struct kvm_vm *vm)
{
	const uint64_t flags = PTE_PRESENT_MASK | PTE_WRITABLE_MASK | PTE_USER_MASK;
	uint64_t gpa[3], *table[3], i;

	for (i = 0; i < 3; i++) {
		gpa[i] = addr_gva2gpa(vm, vm_vaddr_alloc_page(vm));
		table[i] = addr_gpa2hva(vm, gpa[i]);
	}
	table[0][0] = gpa[1] | flags;
	table[1][0] = gpa[2] | flags;
	for (i = 0; i < 512; i++)
		table[2][i] = i * PG_SIZE_2M | flags | PTE_LARGE_MASK;
	return gpa[0];
}

/* Files. */

/* Returns the new file descriptor, or -1 and errno. */
static inline int __vm_create_guest_memfd(struct kvm_vm *vm, uint64_t size,
					  uint64_t flags)
{
	struct kvm_create_guest_memfd args = {
		.size = size,
		.flags = flags,
	};

	return __vm_ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);
}

static inline int vm_create_guest_memfd(struct kvm_vm *vm, uint64_t size,
					uint64_t flags)
{
	int fd = __vm_create_guest_memfd(vm, size, flags);

	TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_GUEST_MEMFD, fd));
	return fd;
}

/* Allocate the pages of [@offset, @offset + @len). */
static inline int __gmem_allocate(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, len);
}

/* Again if interrupted, as it may be by work that io_uring has for the task. */
static inline void gmem_allocate(int fd, off_t offset, off_t len)
{
	int ret;

	do {
		ret = __gmem_allocate(fd, offset, len);
	} while (ret && errno == EINTR);
	TEST_ASSERT(!ret, __KVM_SYSCALL_ERROR("fallocate()", ret));
}

/* Free the pages of [@offset, @offset + @len), and unmap them from the guest. */
static inline int __gmem_punch_hole(int fd, off_t offset, off_t len)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			 offset, len);
}

static inline void gmem_punch_hole(int fd, off_t offset, off_t len)
{
	int ret = __gmem_punch_hole(fd, offset, len);

	TEST_ASSERT(!ret, __KVM_SYSCALL_ERROR("fallocate(PUNCH_HOLE)", ret));
}

/* The number of pages that the file holds: allocated and not punched. */
static inline uint64_t gmem_allocated_pages(int fd)
{
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), "fstat() failed, errno: %d", errno);
	return (uint64_t)st.st_blocks * 512 / getpagesize();
}

/*
 * When the file was last changed, in ns.  Returns when the clock that the kernel takes
 * for this has moved on, so that a change after the call shows.
 */
static inline uint64_t gmem_mtime(int fd)
{
	struct timespec now;
	struct stat st;
	uint64_t ns;

	TEST_ASSERT(!fstat(fd, &st), "fstat() failed, errno: %d", errno);
	ns = st.st_mtim.tv_sec * 1000000000ULL + st.st_mtim.tv_nsec;
	do {
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
	} while (now.tv_sec * 1000000000ULL + now.tv_nsec <= ns);
	return ns;
}

/* Map [@offset, @offset + @len) of a file that has GUEST_MEMFD_FLAG_MMAP. */
static inline void *gmem_map(int fd, size_t len, off_t offset)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	return mem;
}

/* Contents of mapped memory: page @i of it is full of a byte, which is never 0. */
#define PAGE_BYTE(i)	((uint8_t)(1 + (i) % 255))

static inline volatile uint64_t *word_of(void *mem, uint64_t page)
{
	return mem + page * getpagesize();
}

static inline void fill_pages(void *mem, uint64_t npages)
{
	const size_t size = getpagesize();
	uint64_t i;

	for (i = 0; i < npages; i++)
		memset(mem + i * size, PAGE_BYTE(i), size);
}

static inline bool page_is(const void *mem, uint64_t page, uint8_t byte)
{
	const size_t size = getpagesize();
	const uint8_t *at = mem + page * size;

	return at[0] == byte && !memcmp(at, at + 1, size - 1);
}

static inline bool pages_are_filled(const void *mem, uint64_t npages)
{
	uint64_t i;

	for (i = 0; i < npages; i++) {
		if (!page_is(mem, i, PAGE_BYTE(i)))
			return false;
	}
	return true;
}

static inline bool pages_are_zero(const void *mem, uint64_t npages)
{
	uint64_t i;

	for (i = 0; i < npages; i++) {
		if (!page_is(mem, i, 0))
			return false;
	}
	return true;
}

/* How much of the mapping that has @addr is of a kind, by smaps ("Rss:"). */
static inline unsigned long smaps_kb(void *addr, const char *field)
{
	unsigned long start, end, kb = 0;
	bool inside = false, found = false;
	FILE *file = fopen("/proc/self/smaps", "r");
	char line[256];

	TEST_ASSERT(file, "smaps, errno: %d", errno);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			inside = (unsigned long)addr >= start &&
				 (unsigned long)addr < end;
		} else if (inside && !strncmp(line, field, strlen(field))) {
			kb = strtoul(line + strlen(field), NULL, 10);
			found = true;
		}
	}
	fclose(file);
	TEST_ASSERT(found, "No %s of %p", field, addr);
	return kb;
}

/* Memory of the process that has nothing to do with the file. */
static inline void *anonymous_pages(size_t len)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	return mem;
}

/*
 * A userfaultfd for the pages of [@mem, @mem + @len) that are missing: who needs one
 * waits until the test copies it there.  Returns -1 if there is no userfaultfd here.
 */
static inline int userfault_missing(void *mem, size_t len)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)mem, .len = len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		return -1;
	TEST_ASSERT(!ioctl(fd, UFFDIO_API, &api), "UFFDIO_API, errno: %d", errno);
	TEST_ASSERT(!ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER, errno: %d",
		    errno);
	return fd;
}

/* Accesses that may bring a signal. */

static __thread sigjmp_buf touch_env;
static __thread siginfo_t touch_info;

static inline void touch_handler(int sig, siginfo_t *info, void *context)
{
	touch_info = *info;
	siglongjmp(touch_env, 1);
}

/*
 * Read the byte at @addr, or write @byte to it if that is not negative.  Returns
 * the signal that it brings, of which touch_info has the rest, or 0.  One thread
 * at a time, as the handlers are the process's.
 */
static inline int touch(void *addr, int byte)
{
	static const int signals[] = { SIGBUS, SIGSEGV };
	struct sigaction action = {
		.sa_sigaction = touch_handler,
		.sa_flags = SA_SIGINFO,
	}, old[ARRAY_SIZE(signals)];
	int i;

	touch_info.si_signo = 0;
	for (i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &action, &old[i]);
	if (!sigsetjmp(touch_env, 1)) {
		if (byte < 0)
			(void)*(volatile uint8_t *)addr;
		else
			*(volatile uint8_t *)addr = byte;
	}
	for (i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &old[i], NULL);
	return touch_info.si_signo;
}

/* For many accesses, also of several threads: no system call for each of them. */
static inline void catch_sigbus(struct sigaction *old)
{
	struct sigaction action = {
		.sa_sigaction = touch_handler,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGBUS, &action, old);
}

/* After catch_sigbus().  Returns false if there was one. */
static inline bool try_word(volatile uint64_t *word, uint64_t *value, bool write)
{
	if (sigsetjmp(touch_env, 0))
		return false;
	if (write)
		*word = *value;
	else
		*value = *word;
	return true;
}

/* Neither a read nor a write of the byte works; both bring @sig with @code. */
static inline void expect_signal(void *addr, int sig, int code)
{
	int byte;

	for (byte = -1; byte <= 0; byte++) {
		TEST_ASSERT(touch(addr, byte) == sig && touch_info.si_code == code &&
			    touch_info.si_addr == addr,
			    "%s %p: wanted signal %d code %d, got %d code %d at %p",
			    byte < 0 ? "Read of" : "Write to", addr, sig, code,
			    touch_info.si_signo, touch_info.si_code,
			    touch_info.si_addr);
	}
}

/* The memory is mapped, but the host may not have it. */
static inline void expect_sigbus(void *addr)
{
	expect_signal(addr, SIGBUS, BUS_ADRERR);
}

/* The end of a process that fork() made, and that found nothing wrong. */
static inline void wait_for_child(pid_t pid)
{
	int status;

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid(), errno: %d", errno);
	TEST_ASSERT(WIFEXITED(status) && !WEXITSTATUS(status),
		    "Child ended with status %#x", status);
}

/*
 * Wait until the thread sleeps in the kernel, in a way that signals do not interrupt.
 * It stores its number in @tid when it begins.
 */
static inline void wait_until_blocked(pid_t *tid)
{
	char path[64], state = 0;
	int seen = 0;
	FILE *f;

	while (!__atomic_load_n(tid, __ATOMIC_ACQUIRE))
		usleep(1000);
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", *tid);
	while (seen < 3) {
		usleep(5000);
		f = fopen(path, "r");
		TEST_ASSERT(f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1, "%s", path);
		fclose(f);
		seen = state == 'D' ? seen + 1 : 0;
	}
}

/* The calling thread, from now on. */
static inline void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set),
		    "sched_setaffinity(), errno: %d", errno);
}

/* Memory slots. */

/*
 * KVM_SET_USER_MEMORY_REGION2 behind the library's back: the library does not
 * know the slot, the test deletes it or leaves that to the end of the VM.
 */
static inline int
__vm_set_user_memory_region2(struct kvm_vm *vm, uint32_t slot, uint32_t flags,
			     uint64_t gpa, uint64_t size, void *hva,
			     uint32_t gmem_fd, uint64_t gmem_offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
		.guest_memfd_offset = gmem_offset,
		.guest_memfd = gmem_fd,
	};

	return __vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

static inline void
vm_set_user_memory_region2(struct kvm_vm *vm, uint32_t slot, uint32_t flags,
			   uint64_t gpa, uint64_t size, void *hva,
			   uint32_t gmem_fd, uint64_t gmem_offset)
{
	int ret = __vm_set_user_memory_region2(vm, slot, flags, gpa, size, hva,
					       gmem_fd, gmem_offset);

	TEST_ASSERT(!ret, KVM_IOCTL_ERROR(KVM_SET_USER_MEMORY_REGION2, ret));
}

/*
 * Bind [@offset, @offset + @size) of a file to a raw slot at @gpa that has no
 * shared side (userspace_addr 0), for tests that run no guest.
 */
static inline int __vm_bind_gmem(struct kvm_vm *vm, uint32_t slot, uint64_t gpa,
				 uint64_t size, int gmem_fd, uint64_t offset)
{
	return __vm_set_user_memory_region2(vm, slot, KVM_MEM_GUEST_MEMFD, gpa,
					    size, NULL, gmem_fd, offset);
}

static inline void vm_bind_gmem(struct kvm_vm *vm, uint32_t slot, uint64_t gpa,
				uint64_t size, int gmem_fd, uint64_t offset)
{
	vm_set_user_memory_region2(vm, slot, KVM_MEM_GUEST_MEMFD, gpa, size,
				   NULL, gmem_fd, offset);
}

/* Delete a raw slot, bound or not. */
static inline int __vm_delete_slot(struct kvm_vm *vm, uint32_t slot)
{
	return __vm_set_user_memory_region2(vm, slot, 0, 0, 0, NULL, -1, 0);
}

static inline void vm_delete_slot(struct kvm_vm *vm, uint32_t slot)
{
	int ret = __vm_delete_slot(vm, slot);

	TEST_ASSERT(!ret, KVM_IOCTL_ERROR(KVM_SET_USER_MEMORY_REGION2, ret));
}

/*
 * Add memory for the guest: a slot at @gpa, ordinary memory of type @src for the
 * shared side and @gmem_fd from @gmem_offset on for the private side.  All of it
 * starts shared.  addr_gpa2hva() gives the shared side, and
 * vm_mem_region_delete() works.  The test maps it in the guest with virt_map(),
 * and closes the file.
 *
 * KVM takes no change to a slot for the addition of a file, hence the slot that
 * the library made is replaced by one of the same place and size.
 */
static inline void
vm_gmem_region_add(struct kvm_vm *vm, enum vm_mem_backing_src_type src,
		   uint64_t gpa, uint32_t slot, uint64_t npages, int gmem_fd,
		   uint64_t gmem_offset)
{
	struct userspace_mem_region *region;

	vm_userspace_mem_region_add(vm, src, gpa, slot, npages, 0);
	region = memslot2region(vm, slot);

	vm_delete_slot(vm, slot);
	vm_set_user_memory_region2(vm, slot, KVM_MEM_GUEST_MEMFD, gpa,
				   region->region.memory_size, region->host_mem,
				   gmem_fd, gmem_offset);
}

/*
 * For tests that keep a model of the slots.  The one in the array that has @at, by
 * the field that tells where it starts; NULL if none has.
 */
#define model_slot_at(slots, start, at)					\
({									\
	typeof(&(slots)[0]) __slot = (slots);				\
	typeof(&(slots)[0]) __past = __slot + ARRAY_SIZE(slots);	\
									\
	while (__slot < __past && (at) - __slot->start >= __slot->npages) \
		__slot++;						\
	__slot < __past ? __slot : NULL;				\
})

/* Memory attributes. */

static inline int __vm_set_memory_attributes(struct kvm_vm *vm, uint64_t gpa,
					     uint64_t size, uint64_t attributes)
{
	struct kvm_memory_attributes args = {
		.address = gpa,
		.size = size,
		.attributes = attributes,
	};

	return __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &args);
}

static inline void vm_set_memory_attributes(struct kvm_vm *vm, uint64_t gpa,
					    uint64_t size, uint64_t attributes)
{
	int ret = __vm_set_memory_attributes(vm, gpa, size, attributes);

	TEST_ASSERT(!ret, KVM_IOCTL_ERROR(KVM_SET_MEMORY_ATTRIBUTES, ret));
}

static inline void vm_mem_set_private(struct kvm_vm *vm, uint64_t gpa,
				      uint64_t size)
{
	vm_set_memory_attributes(vm, gpa, size, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static inline void vm_mem_set_shared(struct kvm_vm *vm, uint64_t gpa,
				     uint64_t size)
{
	vm_set_memory_attributes(vm, gpa, size, 0);
}

/* Exits. */

/*
 * The call of _vcpu_run() that returned @ret must have got to the guest's next
 * GUEST_SYNC().  Returns what the guest says there.
 */
static inline uint64_t vcpu_expect_sync(struct kvm_vcpu *vcpu, int ret)
{
	struct ucall uc = {};

	TEST_ASSERT(!ret, "KVM_RUN failed, errno: %d, exit: %u, gpa: %#llx", errno,
		    vcpu->run->exit_reason, vcpu->run->memory_fault.gpa);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT_3(uc, "args %#lx %#lx %#lx");
		break;
	default:
		TEST_FAIL("Unexpected exit: %u (%s)", vcpu->run->exit_reason,
			  exit_reason_str(vcpu->run->exit_reason));
	}
	return uc.args[1];
}

static inline uint64_t vcpu_run_to_sync(struct kvm_vcpu *vcpu)
{
	return vcpu_expect_sync(vcpu, _vcpu_run(vcpu));
}

/*
 * Run the vCPU, which must exit because of a memory fault that is reported with
 * @err (EFAULT or EHWPOISON) at the page @gpa.  @flags is
 * KVM_MEMORY_EXIT_FLAG_PRIVATE or 0.
 */
static inline void __vcpu_run_memory_fault(struct kvm_vcpu *vcpu, uint64_t gpa,
					   uint64_t flags, int err)
{
	struct kvm_run *run = vcpu->run;
	int ret = _vcpu_run(vcpu);

	TEST_ASSERT(ret == -1 && errno == err,
		    "Wanted a memory fault and errno %d, got rc: %d errno: %d, exit %u (%s)",
		    err, ret, errno, run->exit_reason,
		    exit_reason_str(run->exit_reason));
	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.gpa, gpa);
	TEST_ASSERT_EQ(run->memory_fault.size, (uint64_t)getpagesize());
	TEST_ASSERT_EQ(run->memory_fault.flags, flags);
}

static inline void vcpu_run_memory_fault(struct kvm_vcpu *vcpu, uint64_t gpa,
					 uint64_t flags)
{
	__vcpu_run_memory_fault(vcpu, gpa, flags, EFAULT);
}

/* Statistics. */

/* A statistic of the vCPU that is one number. */
static inline uint64_t vcpu_get_stat(struct kvm_vcpu *vcpu, const char *name)
{
	int fd = vcpu_get_stats_fd(vcpu), i;
	struct kvm_stats_header header;
	struct kvm_stats_desc *all, *desc = NULL;
	uint64_t value = 0;

	read_stats_header(fd, &header);
	all = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(all, i, &header);
		if (!strcmp(desc->name, name))
			break;
	}
	TEST_ASSERT(i < header.num_desc, "No vCPU statistic '%s'", name);
	read_stat_data(fd, &header, desc, &value, 1);
	free(all);
	close(fd);
	return value;
}

/* How many pages of 4 KiB does KVM map for the VM, with mappings of any size? */
static inline uint64_t vm_mapped_pages(struct kvm_vm *vm)
{
	return vm_get_stat(vm, "pages_4k") + 512 * (vm_get_stat(vm, "pages_2m") +
	       512 * vm_get_stat(vm, "pages_1g"));
}

/* With how many mappings does it do so?  Each takes a page fault, if nobody is ahead. */
static inline uint64_t vm_mappings(struct kvm_vm *vm)
{
	return vm_get_stat(vm, "pages_4k") + vm_get_stat(vm, "pages_2m") +
	       vm_get_stat(vm, "pages_1g");
}

/* A counter of the system or of a NUMA node, from the file that has it. */
static inline long vmstat_value(const char *path, const char *item)
{
	/* Each CPU keeps some of the count to itself. */
	write_line("/proc/sys/vm/stat_refresh", "1");
	return number_in(path, item);
}

/* For such counters: others use memory meanwhile, a little. */
#define ASSERT_NEAR(want, seen)						\
do {									\
	long __off = (long)(seen) - (long)(want);			\
									\
	ASSERT_GT(100, __off);						\
	ASSERT_LT(-100, __off);						\
} while (0)

/* Mapping memory ahead of its use. */

/*
 * One call, for [@gpa, @gpa + @size).  @left takes how many bytes it leaves to be
 * done, which are the last ones.
 */
static inline int __vcpu_pre_fault(struct kvm_vcpu *vcpu, uint64_t gpa,
				   uint64_t size, uint64_t *left)
{
	struct kvm_pre_fault_memory args = {
		.gpa = gpa,
		.size = size,
	};
	int ret = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &args);

	TEST_ASSERT_EQ(args.gpa + (uint64_t)args.size, gpa + size);
	*left = args.size;
	return ret;
}

static inline int __vcpu_map_memory(struct kvm_vcpu *vcpu, uint64_t gpa,
				    uint64_t size, uint64_t *left)
{
	struct kvm_memory_mapping args = {
		.base_address = gpa,
		.size = size,
	};
	int ret = __vcpu_ioctl(vcpu, KVM_MAP_MEMORY, &args);

	TEST_ASSERT_EQ(args.base_address + (uint64_t)args.size, gpa + size);
	*left = args.size;
	return ret;
}

/* All of it, with as many calls as it takes: each of them has to get on. */
static inline void vcpu_pre_fault(struct kvm_vcpu *vcpu, uint64_t gpa,
				  uint64_t size)
{
	uint64_t left;
	int ret;

	for (; size; size = left) {
		ret = __vcpu_pre_fault(vcpu, gpa, size, &left);
		TEST_ASSERT(!ret, KVM_IOCTL_ERROR(KVM_PRE_FAULT_MEMORY, ret));
		TEST_ASSERT(left < size, "Nothing done, and no error");
		gpa += size - left;
	}
}

static inline void vcpu_map_memory(struct kvm_vcpu *vcpu, uint64_t gpa,
				   uint64_t size)
{
	uint64_t left;
	int ret = __vcpu_map_memory(vcpu, gpa, size, &left);

	TEST_ASSERT(!ret, KVM_IOCTL_ERROR(KVM_MAP_MEMORY, ret));
	TEST_ASSERT_EQ(left, 0UL);
}

/* Guest side. */

/*
 * Ask the VMM to convert a range; @flags are KVM_MAP_GPA_RANGE_*.  Returns what
 * the VMM put into run->hypercall.ret, or KVM's own refusal (-KVM_E*).  The VMM
 * must have enabled KVM_CAP_EXIT_HYPERCALL for 1 << KVM_HC_MAP_GPA_RANGE.
 */
static inline int64_t __kvm_hypercall_map_gpa_range(uint64_t gpa, uint64_t size,
						    uint64_t flags)
{
	return kvm_hypercall(KVM_HC_MAP_GPA_RANGE, gpa, size >> 12, flags, 0);
}

static inline void kvm_hypercall_map_gpa_range(uint64_t gpa, uint64_t size,
					       uint64_t flags)
{
	int64_t ret = __kvm_hypercall_map_gpa_range(gpa, size, flags);

	GUEST_ASSERT_1(!ret, ret);
}

#endif /* SELFTEST_KVM_GMEM_UTIL_H */
