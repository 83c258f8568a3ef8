// SPDX-License-Identifier: GPL-2.0
/*
 * What mapping memory ahead of its use (KVM_PRE_FAULT_MEMORY, KVM_MAP_MEMORY) does
 * for the guest, and what it leaves alone.  map_memory_test has the contract of
 * the two calls.
 *
 * KVM counts the page faults of a guest.  What is mapped is mapped if the guest
 * can use it without one, from its very first instruction on.
 *
 * Bugs that others had and that show here: the zero page mapped for memory that
 * is going to be written; accessed and dirty state lost in pages that were mapped
 * already; an endless loop on a root that is obsolete; entries pushed into a dirty
 * ring that is full.
 */
#include "gmem_ahead.h"

#define OTHER_SLOT	11
#define OTHER_GPA	0x80000000ULL
#define HUGE_PAGES	(MAX_PAGES / 2)
#define NR_PAGES	64ULL

/* KVM keeps a reserve: 64 entries, and 512 more where the CPU has a log itself. */
#define RING_ENTRIES	1024

#define HUGEPAGES	"/proc/sys/vm/nr_hugepages"
#define PAGEMAP		"/proc/self/pagemap"
#define PAGEMAP_PRESENT	(1ULL << 63)
#define PAGEMAP_FILE	(1ULL << 61)
#define PAGEMAP_PFN	((1ULL << 55) - 1)
#define PAGEFLAGS	"/proc/kpageflags"
#define KPF_LRU		(1ULL << 5)
#define KPF_THP		(1ULL << 22)
#define PAGE_IDLE	"/sys/kernel/mm/page_idle/bitmap"

/* The VM. */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	/* The shared side, and what is to be unmapped of it. */
	uint8_t *hva;
	void *mem;
	uint64_t npages;
	/* The private side, if there is one. */
	int fd;
};

/* There is room for page tables for MAX_PAGES.  The vCPU has not run. */
static void create_vm(struct env *env, unsigned long type, uint32_t ring_bytes)
{
	env->fd = -1;
	env->mem = NULL;
	kvm_vm_type = type;
	env->vm = __vm_create(VM_MODE_DEFAULT, 1, MAX_PAGES);
	kvm_vm_type = 0;
	if (ring_bytes)
		vm_enable_dirty_ring(env->vm, ring_bytes);
	env->vcpu = vm_vcpu_add(env->vm, 0, guest_main);

	virt_map(env->vm, GPA, GPA, MAX_PAGES);
}

/*
 * Code, stack and page tables of the guest, which all are in slot 0: no fault is
 * left but those on the memory that the test is about.
 */
static void map_program(struct env *env)
{
	vcpu_pre_fault(env->vcpu, 0,
		       memslot2region(env->vm, 0)->region.memory_size);
}

static void add_memory(struct env *env, enum vm_mem_backing_src_type src,
		       uint64_t npages, uint32_t flags)
{
	vm_userspace_mem_region_add(env->vm, src, GPA, SLOT, npages, flags);
	env->hva = addr_gpa2hva(env->vm, GPA);
	env->npages = npages;
	map_program(env);
}

/*
 * With a file for the private side; all starts private.  KVM maps no huge pages if
 * the address of the shared side does not agree with the gpa.
 */
static void add_private_memory(struct env *env, uint64_t npages, bool huge)
{
	env->fd = vm_create_guest_memfd(env->vm, BYTES(npages), 0);
	env->mem = anonymous_pages(BYTES(npages + HUGE_PAGES + 1));
	env->hva = align_ptr_up(env->mem, BYTES(HUGE_PAGES));
	if (!huge)
		env->hva += PAGE_SIZE;
	env->npages = npages;
	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA,
				   BYTES(npages), env->hva, env->fd, 0);
	vm_mem_set_private(env->vm, GPA, BYTES(npages));
	map_program(env);
}

static void add_slot_at(struct env *env, uint32_t flags, void *hva, uint64_t npages)
{
	env->hva = hva;
	env->npages = npages;
	vm_set_user_memory_region(env->vm, SLOT, flags, GPA, BYTES(npages), hva);
	map_program(env);
}

static void free_vm(struct env *env)
{
	kvm_vm_free(env->vm);
	if (env->fd >= 0)
		close(env->fd);
	if (env->mem)
		munmap(env->mem, BYTES(env->npages + HUGE_PAGES + 1));
}

static void set_cmd(struct env *env, uint64_t op, uint64_t first, uint64_t npages,
		    uint64_t step, uint64_t value)
{
	vm_set_guest_cmd(env->vm, op, first, npages, step, value);
}

/* Have the guest do it to each @step-th page; returns how many faults it took. */
static uint64_t guest_do_step(struct env *env, uint64_t op, uint64_t first,
			      uint64_t npages, uint64_t step, uint64_t value)
{
	uint64_t before = vcpu_get_stat(env->vcpu, "pf_taken");

	set_cmd(env, op, first, npages, step, value);
	vcpu_run_to_sync(env->vcpu);
	return vcpu_get_stat(env->vcpu, "pf_taken") - before;
}

static uint64_t guest_do(struct env *env, uint64_t op, uint64_t first,
			 uint64_t npages, uint64_t value)
{
	return guest_do_step(env, op, first, npages, 1, value);
}

static void host_fill(struct env *env, uint64_t value)
{
	uint64_t i;

	for (i = 0; i < env->npages; i++)
		*(uint64_t *)(env->hva + BYTES(i)) = WORD(value, i);
}

/* Host: files of the kernel. */

static uint64_t read_entry(const char *path, uint64_t index)
{
	int fd = open(path, O_RDONLY);
	uint64_t entry;

	TEST_ASSERT(fd >= 0 && pread(fd, &entry, 8, index * 8) == 8,
		    "%s: errno %d", path, errno);
	close(fd);
	return entry;
}

static uint64_t pagemap(struct env *env, uint64_t page)
{
	return read_entry(PAGEMAP, (uint64_t)env->hva / PAGE_SIZE + page);
}

static uint64_t host_pfn(struct env *env, uint64_t page)
{
	return pagemap(env, page) & PAGEMAP_PFN;
}

static bool is_transparent_huge(struct env *env, uint64_t page)
{
	return read_entry(PAGEFLAGS, host_pfn(env, page)) & KPF_THP;
}

static long read_long(const char *path)
{
	FILE *f = fopen(path, "r");
	long value = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

/* Every kind of memory. */

FIXTURE(memory) {
	struct env env;
	uint64_t before;
};

FIXTURE_VARIANT(memory) {
	unsigned long type;
	enum vm_mem_backing_src_type src;
	uint64_t npages;
	bool gmem;
	bool private;
	bool huge;
};

FIXTURE_VARIANT_ADD(memory, private) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.npages = 700,
	.gmem = true,
	.private = true,
};

FIXTURE_VARIANT_ADD(memory, private_huge) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.npages = MAX_PAGES,
	.gmem = true,
	.private = true,
	.huge = true,
};

FIXTURE_VARIANT_ADD(memory, shared) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.npages = 700,
	.gmem = true,
};

FIXTURE_VARIANT_ADD(memory, anonymous) {
	.src = VM_MEM_SRC_ANONYMOUS,
	.npages = 700,
};

FIXTURE_VARIANT_ADD(memory, memfd) {
	.src = VM_MEM_SRC_SHMEM,
	.npages = 700,
};

FIXTURE_VARIANT_ADD(memory, transparent_huge) {
	.src = VM_MEM_SRC_ANONYMOUS_THP,
	.npages = MAX_PAGES,
	.huge = true,
};

FIXTURE_VARIANT_ADD(memory, hugetlb) {
	.src = VM_MEM_SRC_ANONYMOUS_HUGETLB_2MB,
	.npages = MAX_PAGES,
	.huge = true,
};

/* Huge pages are not to be had at will: the tests say when there are none. */
static bool is_available(const FIXTURE_VARIANT(memory) *variant)
{
	if (variant->gmem)
		return kvm_has_private_vms();
	if (variant->src == VM_MEM_SRC_ANONYMOUS_HUGETLB_2MB)
		return read_long("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") >=
		       (long)(variant->npages / HUGE_PAGES);
	return variant->src != VM_MEM_SRC_ANONYMOUS_THP || thp_configured();
}

FIXTURE_SETUP(memory)
{
	struct env *env = &self->env;

	if (!is_available(variant))
		return;
	create_vm(env, variant->type, 0);
	if (variant->gmem)
		add_private_memory(env, variant->npages, variant->huge);
	else
		add_memory(env, variant->src, variant->npages, 0);
	if (variant->gmem && !variant->private)
		vm_mem_set_shared(env->vm, GPA, BYTES(env->npages));
	self->before = vm_mapped_pages(env->vm);
}

FIXTURE_TEARDOWN(memory)
{
	if (self->env.vm)
		free_vm(&self->env);
}

/* Without it, each page costs a fault: the counter counts. */
TEST_F(memory, control)
{
	struct env *env = &self->env;

	if (!env->vm)
		SKIP(return, "no such memory here");

	ASSERT_LE(variant->huge ? 1 : env->npages,
		  guest_do(env, OP_WRITE, 0, env->npages, NEW_VALUE));
}

TEST_F(memory, no_fault)
{
	struct env *env = &self->env;
	struct kvm_vcpu *vcpu;

	if (!env->vm)
		SKIP(return, "no such memory here");

	vcpu = env->vcpu;
	vcpu_pre_fault(vcpu, GPA, BYTES(env->npages));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, "pf_taken"));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, "pf_fixed"));
	EXPECT_EQ(self->before + env->npages, vm_mapped_pages(env->vm));

	EXPECT_EQ(0, guest_do(env, OP_READ, 0, env->npages, 0));
	EXPECT_EQ(0, guest_do(env, OP_WRITE, 0, env->npages, NEW_VALUE));
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, env->npages, NEW_VALUE));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, "pf_fixed"));

	/* The file has what the guest has, or the host does. */
	if (env->fd >= 0)
		EXPECT_EQ(variant->private ? env->npages : 0,
			  gmem_allocated_pages(env->fd));
	EXPECT_EQ(variant->private ? 0 : WORD(NEW_VALUE, 5),
		  *(uint64_t *)(env->hva + BYTES(5)));
}

/* A huge page is mapped as what it is, and a request for a part of it maps all. */
TEST_F(memory, one_page)
{
	const uint64_t page = HUGE_PAGES + 7, before_it = HUGE_PAGES - 3;
	struct env *env = &self->env;
	uint64_t mapped[2];

	if (!env->vm)
		SKIP(return, "no such memory here");

	vcpu_map_memory(env->vcpu, PAGE_GPA(page), PAGE_SIZE);
	mapped[0] = vm_mapped_pages(env->vm) - self->before;
	/* From what is not mapped into what is. */
	vcpu_map_memory(env->vcpu, PAGE_GPA(before_it), BYTES(20));
	mapped[1] = vm_mapped_pages(env->vm) - self->before;

	if (variant->src == VM_MEM_SRC_ANONYMOUS_THP &&
	    (!is_transparent_huge(env, page) || !is_transparent_huge(env, before_it)))
		SKIP(return, "the host has no huge page left");
	if (variant->private && variant->huge &&
	    gmem_allocated_pages(env->fd) != 2 * HUGE_PAGES)
		SKIP(return, "the file has no huge pages");
	EXPECT_EQ(variant->huge ? HUGE_PAGES : 1, mapped[0]);
	EXPECT_EQ(variant->huge ? 2 * HUGE_PAGES : 20, mapped[1]);
	EXPECT_EQ(0, guest_do(env, OP_WRITE, before_it, 20, NEW_VALUE));
}

/*
 * Deletion of a slot, any slot, makes the root of the page tables obsolete, which
 * goes unnoticed until the guest is entered again.
 */
TEST_F(memory, obsolete_root)
{
	struct env *env = &self->env;
	struct kvm_vcpu *vcpu;
	int i;

	if (!env->vm)
		SKIP(return, "no such memory here");

	vcpu = env->vcpu;
	for (i = 0; i < 3; i++) {
		vcpu_map_memory(vcpu, GPA, BYTES(env->npages));
		vm_userspace_mem_region_add(env->vm, VM_MEM_SRC_ANONYMOUS, OTHER_GPA,
					    OTHER_SLOT, 1, 0);
		vm_mem_region_delete(env->vm, OTHER_SLOT);
	}
	vcpu_pre_fault(vcpu, GPA, BYTES(env->npages));
	map_program(env);
	EXPECT_EQ(0, guest_do(env, OP_WRITE, 0, env->npages, NEW_VALUE));
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, env->npages, NEW_VALUE));
}

/* Ordinary memory, as the host has mapped it. */

FIXTURE(ordinary) {
	struct env env;
	int file;
};

FIXTURE_SETUP(ordinary)
{
	create_vm(&self->env, KVM_X86_DEFAULT_VM, 0);
	self->file = -1;
}

FIXTURE_TEARDOWN(ordinary)
{
	free_vm(&self->env);
	if (self->file >= 0)
		close(self->file);
}

static void write_file(int fd, uint64_t value)
{
	uint64_t i, word;

	for (i = 0; i < NR_PAGES; i++) {
		word = WORD(value, i);
		TEST_ASSERT(pwrite(fd, &word, 8, BYTES(i)) == 8,
			    "pwrite() failed, errno: %d", errno);
	}
}

/* A slot over a private mapping of a file that is in memory. */
static void add_file_slot(FIXTURE_DATA(ordinary) *self, uint32_t flags, int prot)
{
	void *hva;

	self->file = memfd_create("pre_fault", 0);
	TEST_ASSERT(self->file >= 0 && !ftruncate(self->file, BYTES(NR_PAGES)),
		    "No file, errno: %d", errno);
	write_file(self->file, SHARED_VALUE);
	hva = mmap(NULL, BYTES(NR_PAGES), prot, MAP_PRIVATE, self->file, 0);
	TEST_ASSERT(hva != MAP_FAILED, "mmap() failed, errno: %d", errno);
	add_slot_at(&self->env, flags, hva, NR_PAGES);
}

static void expect_file_pages(struct env *env, bool of_file)
{
	uint64_t i;

	for (i = 0; i < env->npages; i++)
		TEST_ASSERT_EQ(pagemap(env, i) & (PAGEMAP_PRESENT | PAGEMAP_FILE),
			       PAGEMAP_PRESENT | (of_file ? PAGEMAP_FILE : 0));
}

/* Memory that nobody has touched becomes pages, not a zero page many times. */
TEST_F(ordinary, real_pages)
{
	struct env *env = &self->env;
	uint64_t i, j;

	add_memory(env, VM_MEM_SRC_ANONYMOUS, NR_PAGES, 0);
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0, pagemap(env, i) & PAGEMAP_PRESENT);

	vcpu_map_memory(env->vcpu, GPA, BYTES(NR_PAGES));
	expect_file_pages(env, false);
	for (i = 1; i < NR_PAGES; i++)
		for (j = 0; j < i; j++)
			ASSERT_NE(host_pfn(env, i), host_pfn(env, j));
	EXPECT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, NEW_VALUE));
}

/* The guest cannot write: it shares the pages of the file, and sees them change. */
TEST_F(ordinary, readonly_slot_keeps_cow)
{
	struct env *env = &self->env;

	add_file_slot(self, KVM_MEM_READONLY, PROT_READ | PROT_WRITE);
	vcpu_pre_fault(env->vcpu, GPA, BYTES(NR_PAGES));
	expect_file_pages(env, true);
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, NR_PAGES, SHARED_VALUE));
	write_file(self->file, NEW_VALUE);
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, NR_PAGES, NEW_VALUE));
	expect_file_pages(env, true);
}

/* The guest can write: it has copies from the start. */
TEST_F(ordinary, writable_slot_copies)
{
	struct env *env = &self->env;
	uint64_t word;

	add_file_slot(self, 0, PROT_READ | PROT_WRITE);
	vcpu_pre_fault(env->vcpu, GPA, BYTES(NR_PAGES));
	expect_file_pages(env, false);
	write_file(self->file, NEW_VALUE);
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, NR_PAGES, SHARED_VALUE));
	EXPECT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, PRIVATE_VALUE));
	ASSERT_EQ(8, pread(self->file, &word, 8, BYTES(1)));
	EXPECT_EQ(WORD(NEW_VALUE, 1), word);
}

/* The slot would let the guest write, the host's mapping does not. */
TEST_F(ordinary, host_mapping_is_readonly)
{
	unsigned long dirty[1] = { ~0UL };
	struct env *env = &self->env;

	add_file_slot(self, KVM_MEM_LOG_DIRTY_PAGES, PROT_READ);
	vcpu_map_memory(env->vcpu, GPA, BYTES(NR_PAGES));
	expect_file_pages(env, true);
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, NR_PAGES, SHARED_VALUE));
	/* Nobody can have written to them. */
	kvm_vm_get_dirty_log(env->vm, SLOT, dirty);
	EXPECT_EQ(0, dirty[0]);

	/* And nobody can. */
	set_cmd(env, OP_WRITE, 0, 1, 1, NEW_VALUE);
	EXPECT_EQ(EFAULT, errno_of(_vcpu_run(env->vcpu)));
}

/* KVM remembers that an address was no memory: that must not count as mapped. */
TEST_F(ordinary, was_mmio)
{
	struct env *env = &self->env;
	struct kvm_run *run = env->vcpu->run;

	set_cmd(env, OP_READ, 0, 1, 1, 0);
	vcpu_run(env->vcpu);
	ASSERT_EQ(KVM_EXIT_MMIO, run->exit_reason);
	ASSERT_EQ(GPA, run->mmio.phys_addr);
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	vcpu_run_to_sync(env->vcpu);

	add_memory(env, VM_MEM_SRC_ANONYMOUS, NR_PAGES, 0);
	vcpu_map_memory(env->vcpu, GPA, BYTES(NR_PAGES));
	EXPECT_EQ(0, guest_do(env, OP_WRITE, 0, NR_PAGES, NEW_VALUE));
	EXPECT_EQ(WORD(NEW_VALUE, 5), *(uint64_t *)(env->hva + BYTES(5)));
}

/* Without them, an old page is one that the guest cannot access without a fault. */
static bool has_accessed_bits(void)
{
	int fd = open("/sys/module/kvm_intel/parameters/eptad", O_RDONLY);
	char c = 'Y';

	if (fd >= 0) {
		TEST_ASSERT(read(fd, &c, 1) == 1, "eptad, errno: %d", errno);
		close(fd);
	}
	return c == 'Y';
}

/* Both halves are old; the guest uses one of them. */
TEST_F(ordinary, accessed_state_stays)
{
	uint64_t half = NR_PAGES / 2, i, pfn, known = 0;
	int fd = open(PAGE_IDLE, O_RDWR);
	struct env *env = &self->env;
	uint64_t pfns[NR_PAGES], bit;

	if (fd < 0)
		SKIP(return, "%s cannot be opened", PAGE_IDLE);

	add_memory(env, VM_MEM_SRC_ANONYMOUS, NR_PAGES, 0);
	vcpu_map_memory(env->vcpu, GPA, BYTES(NR_PAGES));
	for (i = 0; i < NR_PAGES; i++) {
		pfn = host_pfn(env, i);
		bit = 1ULL << (pfn % 64);
		ASSERT_EQ(8, pwrite(fd, &bit, 8, pfn / 64 * 8));
		/* Only what is on the LRU lists already has the state. */
		pfns[i] = read_entry(PAGEFLAGS, pfn) & KPF_LRU ? pfn : 0;
	}
	ASSERT_EQ(has_accessed_bits() ? 0 : half, guest_do(env, OP_READ, 0, half, 0));
	vcpu_map_memory(env->vcpu, GPA, BYTES(NR_PAGES));
	vcpu_pre_fault(env->vcpu, GPA, BYTES(NR_PAGES));

	for (i = 0; i < NR_PAGES; i++) {
		if (!pfns[i])
			continue;
		ASSERT_EQ(pfns[i], host_pfn(env, i));
		ASSERT_EQ(8, pread(fd, &bit, 8, pfns[i] / 64 * 8));
		EXPECT_EQ(i >= half, (bit >> (pfns[i] % 64)) & 1) {
			TH_LOG("page %lu", i);
		}
		known++;
	}
	EXPECT_LT(0, known);
	close(fd);
}

/* Dirty tracking. */

static void expect_dirty(struct env *env, uint64_t first, uint64_t npages,
			 uint64_t step)
{
	unsigned long dirty[NR_PAGES / 64] = {};
	uint64_t i;

	kvm_vm_get_dirty_log(env->vm, SLOT, dirty);
	for (i = 0; i < NR_PAGES; i++)
		TEST_ASSERT((dirty[i / 64] >> (i % 64) & 1) ==
			    (i >= first && i < first + npages && !((i - first) % step)),
			    "page %lu: log is %#lx", i, dirty[i / 64]);
	/* Nothing if the log clears itself. */
	kvm_vm_clear_dirty_log(env->vm, SLOT, dirty, 0, NR_PAGES);
}

/* What is mapped may be written from then on, and what is mapped again may not. */
TEST_F(ordinary, dirty_log)
{
	struct env *env = &self->env;
	uint64_t half = NR_PAGES / 2;
	struct kvm_vcpu *vcpu = env->vcpu;

	vm_enable_cap(env->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	add_memory(env, VM_MEM_SRC_ANONYMOUS, NR_PAGES, KVM_MEM_LOG_DIRTY_PAGES);
	expect_dirty(env, 0, 0, 1);
	vcpu_map_memory(vcpu, GPA, BYTES(half));
	expect_dirty(env, 0, half, 1);

	/* Protected and mapped, the first half stays so: no write goes unseen. */
	vcpu_map_memory(vcpu, GPA, BYTES(NR_PAGES));
	expect_dirty(env, half, half, 1);
	vcpu_pre_fault(vcpu, GPA, BYTES(NR_PAGES));
	expect_dirty(env, 0, 0, 1);
	EXPECT_EQ(0, guest_do(env, OP_READ, 0, NR_PAGES, 0));
	expect_dirty(env, 0, 0, 1);
	guest_do_step(env, OP_WRITE, 1, NR_PAGES - 1, 3, NEW_VALUE);
	expect_dirty(env, 1, NR_PAGES - 1, 3);

	/* Written and not collected yet: that stays as well. */
	guest_do_step(env, OP_WRITE, 2, NR_PAGES - 2, 3, NEW_VALUE);
	vcpu_map_memory(vcpu, GPA, BYTES(NR_PAGES));
	expect_dirty(env, 2, NR_PAGES - 2, 3);
}

/* A log that starts when huge pages are mapped splits them only when they are used. */
TEST_F(ordinary, dirty_log_of_huge_page)
{
	unsigned long dirty[MAX_PAGES / 64] = {};
	struct env *env = &self->env;

	if (!thp_configured())
		SKIP(return, "no transparent huge pages");

	add_memory(env, VM_MEM_SRC_ANONYMOUS_THP, MAX_PAGES, 0);
	vcpu_map_memory(env->vcpu, GPA, BYTES(MAX_PAGES));
	vm_mem_region_set_flags(env->vm, SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	vcpu_map_memory(env->vcpu, GPA, BYTES(MAX_PAGES));
	guest_do_step(env, OP_WRITE, 3, 6, 5, NEW_VALUE);
	kvm_vm_get_dirty_log(env->vm, SLOT, dirty);
	EXPECT_EQ(1UL << 3 | 1UL << 8, dirty[0]);
	EXPECT_EQ(0, dirty[1]);
}

/* Counts the entries of the ring, each for a page that is in @seen once more. */
static uint64_t collect(struct kvm_vcpu *vcpu, uint8_t *seen)
{
	struct kvm_dirty_gfn *gfns = vcpu_map_dirty_ring(vcpu), *gfn;
	uint64_t count = 0;

	for (;; count++) {
		gfn = &gfns[vcpu->fetch_index % RING_ENTRIES];
		if (__atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			return count;
		TEST_ASSERT_EQ(gfn->slot, (uint32_t)SLOT);
		TEST_ASSERT(gfn->offset < MAX_PAGES, "offset %#lx",
			    (unsigned long)gfn->offset);
		seen[gfn->offset]++;
		__atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		vcpu->fetch_index++;
	}
}

TEST(dirty_ring)
{
	uint64_t gpa = GPA, size = BYTES(MAX_PAGES), left, done, i, stops = 0;
	uint8_t seen[MAX_PAGES] = {};
	struct kvm_vcpu *vcpu;
	struct env env;
	int err;

	if (!kvm_has_cap(KVM_CAP_DIRTY_LOG_RING))
		SKIP(return, "no dirty ring");

	create_vm(&env, KVM_X86_DEFAULT_VM,
		  RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	vcpu = env.vcpu;
	add_memory(&env, VM_MEM_SRC_ANONYMOUS, MAX_PAGES, KVM_MEM_LOG_DIRTY_PAGES);
	for (;;) {
		err = errno_of(__vcpu_map_memory(vcpu, gpa, size, &left));
		done = size - left;
		gpa += done;
		size = left;
		if (!err)
			break;
		/* What is mapped is in the ring, and the ring is full. */
		ASSERT_EQ(EAGAIN, err);
		ASSERT_LT(0, done);
		ASSERT_EQ(done / PAGE_SIZE, collect(vcpu, seen));
		ASSERT_EQ(EAGAIN, errno_of(__vcpu_map_memory(vcpu, gpa, size, &left)));
		ASSERT_EQ(size, left);
		ASSERT_EQ(EAGAIN, errno_of(__vcpu_pre_fault(vcpu, gpa, size, &left)));
		ASSERT_EQ(size, left);
		ASSERT_EQ(done / PAGE_SIZE, kvm_vm_reset_dirty_ring(env.vm));
		stops++;
	}
	ASSERT_EQ(0, left);
	ASSERT_LT(0, stops);
	ASSERT_EQ(done / PAGE_SIZE, collect(vcpu, seen));
	ASSERT_EQ(done / PAGE_SIZE, kvm_vm_reset_dirty_ring(env.vm));
	for (i = 0; i < MAX_PAGES; i++)
		ASSERT_EQ(1, seen[i]);

	/* Mapped and protected again: nothing is logged but what the guest does. */
	vcpu_pre_fault(vcpu, GPA, BYTES(MAX_PAGES));
	ASSERT_EQ(0, collect(vcpu, seen));
	guest_do_step(&env, OP_WRITE, 0, MAX_PAGES, 8, NEW_VALUE);
	ASSERT_EQ(MAX_PAGES / 8, collect(vcpu, seen));
	for (i = 0; i < MAX_PAGES; i++)
		ASSERT_EQ(i % 8 ? 1 : 2, seen[i]);
	free_vm(&env);
}

/* Private memory. */

/* Neither side shows through a mapping that was made for the other. */
TEST(conversions)
{
	struct env env;
	int i;

	if (!kvm_has_private_vms())
		SKIP(return, "no private memory");

	create_vm(&env, KVM_X86_SW_PROTECTED_VM, 0);
	add_private_memory(&env, NR_PAGES, false);
	host_fill(&env, SHARED_VALUE);
	vcpu_map_memory(env.vcpu, GPA, BYTES(NR_PAGES));
	EXPECT_EQ(0, guest_do(&env, OP_WRITE, 0, NR_PAGES, PRIVATE_VALUE));
	for (i = 0; i < 3; i++) {
		vm_mem_set_shared(env.vm, GPA, BYTES(NR_PAGES));
		vcpu_map_memory(env.vcpu, GPA, BYTES(NR_PAGES));
		EXPECT_EQ(0, guest_do(&env, OP_READ, 0, NR_PAGES, SHARED_VALUE + i));
		EXPECT_EQ(0, guest_do(&env, OP_WRITE, 0, NR_PAGES, NEW_VALUE + i));
		EXPECT_EQ(WORD(NEW_VALUE + i, 9), *(uint64_t *)(env.hva + BYTES(9)));
		host_fill(&env, SHARED_VALUE + i + 1);

		vm_mem_set_private(env.vm, GPA, BYTES(NR_PAGES));
		vcpu_pre_fault(env.vcpu, GPA, BYTES(NR_PAGES));
		EXPECT_EQ(0, guest_do(&env, OP_READ, 0, NR_PAGES, PRIVATE_VALUE + i));
		EXPECT_EQ(0, guest_do(&env, OP_WRITE, 0, NR_PAGES, PRIVATE_VALUE + i + 1));
		EXPECT_EQ(WORD(SHARED_VALUE + i + 1, 9),
			  *(uint64_t *)(env.hva + BYTES(9)));
	}

	/* Every other page, in one call. */
	for (i = 1; i < NR_PAGES; i += 2)
		vm_mem_set_shared(env.vm, PAGE_GPA(i), PAGE_SIZE);
	vcpu_map_memory(env.vcpu, GPA, BYTES(NR_PAGES));
	EXPECT_EQ(0, guest_do_step(&env, OP_READ, 0, NR_PAGES, 2, PRIVATE_VALUE + 3));
	EXPECT_EQ(0, guest_do_step(&env, OP_READ, 1, NR_PAGES - 1, 2, SHARED_VALUE + 3));

	/* The guest has nothing of what a hole has removed. */
	gmem_punch_hole(env.fd, 0, BYTES(NR_PAGES));
	vcpu_map_memory(env.vcpu, GPA, BYTES(NR_PAGES));
	EXPECT_EQ(0, guest_do_step(&env, OP_READ, 0, NR_PAGES, 2, 0));
	EXPECT_EQ(NR_PAGES / 2, gmem_allocated_pages(env.fd));
	free_vm(&env);
}

/* nr_hugepages as it was, if it has been changed. */
static long old_hugepages = -1;
static pid_t main_pid;

static void set_hugepages(long number)
{
	FILE *f = fopen(HUGEPAGES, "w");

	if (!f)
		return;
	fprintf(f, "%ld\n", number);
	fclose(f);
}

static void restore_hugepages(void)
{
	if (getpid() == main_pid && old_hugepages >= 0)
		set_hugepages(old_hugepages);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_BINARY_STATS_FD));
	/* Which also tells that the kernel says where pages are. */
	__TEST_REQUIRE(!access(PAGEFLAGS, R_OK), "%s cannot be read", PAGEFLAGS);

	/* The VMs are freed when their processes end: a test may need its own. */
	main_pid = getpid();
	atexit(restore_hugepages);
	old_hugepages = read_long(HUGEPAGES);
	if (old_hugepages >= 0)
		set_hugepages(old_hugepages + 2 * MAX_PAGES / HUGE_PAGES);

	return test_harness_run(argc, argv);
}
