// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's own accesses to private memory.
 *
 * A guest whose code, stack, descriptor tables and page tables are all private
 * makes KVM fetch, walk, read and write guest memory: instructions that are
 * intercepted and must be skipped or emulated, string I/O and MMIO with buffers
 * in memory, PV interfaces, ioctls that translate.  The host trusts itself with
 * the private memory of such a VM, so that every one of these accesses must go
 * to the page of the file.  None may touch the ordinary mapping of the same
 * gfn: that one holds a pattern that is an illegal program, an empty page table
 * and wrong data, and must still hold it at the end.
 *
 * Private memory cannot be written by the host, so the guest moves itself: it
 * starts in slot 0, clones its page tables and everything they map into private
 * memory, loads the clone into CR3 and goes on at the same virtual addresses.
 * From the first exit on slot 0 is gone.
 *
 * The same program runs on a VM of the default type, in ordinary memory, and
 * must see the same: that is the proof of what is being asserted.
 */
#include "kvm_gmem_util.h"

#include <pthread.h>

#include "apic.h"

#include "gmem_harness.h"

#define PATTERN		0xcc

#define SLOT		10
#define SLOT_GPA	0x40000000ULL
#define SLOT_PAGES	2048ULL
#define SLOT_SIZE	(SLOT_PAGES * PAGE_SIZE)
/* No huge page of the file lines up with one of the guest. */
#define FILE_OFFSET	(5 * PAGE_SIZE)

/* The last pages of the slot: for tests, and the very last ones stay shared. */
#define SHARED_PAGES	16ULL
#define TEST_PAGES	256ULL
#define TEST_GPA	(SLOT_GPA + SLOT_SIZE - TEST_PAGES * PAGE_SIZE)
#define PRIVATE_SIZE	(SLOT_SIZE - SHARED_PAGES * PAGE_SIZE)

#define MMIO_GPA	0xd0000000ULL
#define MMIO_PAGES	2

/* Virtual addresses: all of slot 0, all of the slot, its test pages, MMIO. */
#define SLOT0_VA	0x7f0000000000ULL
#define SLOT_VA		0x7e0000000000ULL
#define TEST_VA		0x7e8000000000ULL
#define MMIO_VA		0x7ec000000000ULL

#define PAGE_VA(n)	(TEST_VA + (n) * PAGE_SIZE)
#define PAGE_GPA(n)	(TEST_GPA + (n) * PAGE_SIZE)
/* Pages with a virtual neighbour that is the physical neighbour the wrong way. */
#define SWAPPED_PAGE	100
#define FIRST_SHARED	(TEST_PAGES - SHARED_PAGES)

#define PORT_SYNC	0x2000
#define PORT_DONE	0x2004
#define PORT_FAIL	0x2008
#define PORT_DATA	0x3000

#define IPI_VECTOR	0xe5

/* Makes KVM emulate the instruction that follows. */
#define FEP		"ud2; .byte 'k', 'v', 'm'; "
#define FEP_PARAM	"/sys/module/kvm/parameters/force_emulation_prefix"

#define STREAM(i)	((uint8_t)((i) * 7 + 1))
#define LOOPS		500

/* Guest: reports. */

static inline void guest_out(uint16_t port, uint32_t val, uint64_t a, uint64_t b)
{
	asm volatile("outl %%eax, %%dx"
		     : : "a"(val), "d"(port), "D"(a), "S"(b) : "memory");
}

#define G_SYNC(stage, a, b)	guest_out(PORT_SYNC, stage, a, b)

#define G_ASSERT_EQ(a, b)						\
do {									\
	uint64_t __a = (uint64_t)(a), __b = (uint64_t)(b);		\
									\
	if (__a != __b)							\
		guest_out(PORT_FAIL, __LINE__, __a, __b);		\
} while (0)

#define G_ASSERT(cond)		G_ASSERT_EQ(!!(cond), 1)

/* Guest: the move into private memory. */

static void copy_page(void *dst, const void *src)
{
	uint64_t n = PAGE_SIZE / 8;

	asm volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

/* The page that is at @gpa, seen through the linear map of the slot. */
static uint64_t *slot_va(uint64_t gpa)
{
	return (uint64_t *)(SLOT_VA + (gpa & PHYSICAL_PAGE_MASK) - SLOT_GPA);
}

/*
 * Clone the page at @gpa of slot 0, and if it is a page table (@level > 0) all
 * that it leads to.  Mappings of anything else stay as they are, the linear map
 * of slot 0 is left behind.
 */
static uint64_t clone_page(uint64_t gpa, int level, uint64_t *next)
{
	const uint64_t *src = (const uint64_t *)(SLOT0_VA + gpa);
	uint64_t new = *next, addr;
	uint64_t *dst = slot_va(new);
	int i;

	*next += PAGE_SIZE;
	copy_page(dst, src);

	for (i = 0; level && i < 512; i++) {
		addr = src[i] & PHYSICAL_PAGE_MASK;

		if (!(src[i] & PTE_PRESENT_MASK) || addr >= SLOT_GPA)
			continue;
		if (level == 4 && i == ((SLOT0_VA >> 39) & 511)) {
			dst[i] = 0;
			continue;
		}
		dst[i] = clone_page(addr, level - 1, next) |
			 (src[i] & ~PHYSICAL_PAGE_MASK);
	}
	return new;
}

static uint64_t read_cr3(void)
{
	uint64_t cr3;

	asm volatile("mov %%cr3, %0" : "=r"(cr3));
	return cr3;
}

/* The entry of the guest's own, cloned page table that maps @va at @level. */
static uint64_t *guest_pte(uint64_t va, int level)
{
	uint64_t *table = slot_va(read_cr3());
	int l;

	for (l = 4; l > level; l--)
		table = slot_va(table[(va >> (3 + 9 * l)) & 511]);
	return &table[(va >> (3 + 9 * level)) & 511];
}

static void invlpg(uint64_t va)
{
	asm volatile("invlpg (%0)" : : "r"(va) : "memory");
}

/* What a page that nobody has written holds: see the two kinds of VM above. */
static uint8_t guest_fresh;

static void guest_boot(void (*scenario)(void), uint64_t fresh)
{
	uint64_t next = SLOT_GPA, cr3;

	guest_fresh = fresh;
	cr3 = clone_page(read_cr3(), 4, &next);
	G_ASSERT(next <= TEST_GPA);

	/* What is on the stack was cloned too early: leave it behind. */
	asm volatile("mov %0, %%cr3\n\t"
		     "sub $256, %%rsp\n\t"
		     "and $-16, %%rsp\n\t"
		     "call *%1"
		     : : "r"(cr3), "r"(scenario) : "memory");
	__builtin_unreachable();
}

/* Guest: scenarios.  All start with a sync, where the host deletes slot 0. */

#define SCENARIO(name)							\
static void body_##name(void);						\
static void guest_##name(void)						\
{									\
	G_SYNC(0, 0, 0);						\
	body_##name();							\
	guest_out(PORT_DONE, 0, 0, 0);					\
}									\
static void body_##name(void)

/* Skipping an intercepted instruction needs its length: a fetch. */
SCENARIO(cpuid)
{
	uint32_t a, b, c, d;

	cpuid(KVM_CPUID_SIGNATURE, &a, &b, &c, &d);
	G_ASSERT_EQ(b, 0x4b4d564b);
	G_ASSERT_EQ(c, 0x564b4d56);
	G_ASSERT_EQ(d, 0x4d);
}

/* The second byte is in another page, that is not the next one of the file. */
SCENARIO(fetch_across_pages)
{
	uint8_t *insn = (uint8_t *)PAGE_VA(SWAPPED_PAGE + 1) - 1;
	uint32_t a = KVM_CPUID_SIGNATURE, b = 0, c = 0, d = 0;

	insn[0] = 0x0f;	/* cpuid */
	insn[1] = 0xa2;
	insn[2] = 0xc3;	/* ret */
	asm volatile("call *%[insn]"
		     : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : [insn]"r"(insn));
	G_ASSERT_EQ(b, 0x4b4d564b);
}

/* KVM must fetch what the guest wrote last. */
SCENARIO(fetch_modified_code)
{
	uint8_t *insn = (uint8_t *)PAGE_VA(3);
	uint64_t a;

	memcpy(insn, "\x0f\xa2\xc3", 3);		/* cpuid; ret */
	a = KVM_CPUID_SIGNATURE;
	asm volatile("call *%1" : "+a"(a) : "r"(insn) : "rbx", "rcx", "rdx");
	G_ASSERT(a >= KVM_CPUID_SIGNATURE);

	memcpy(insn, "\xec\xc3", 2);			/* in %dx, %al; ret */
	a = 0;
	asm volatile("call *%1" : "+a"(a) : "r"(insn), "d"(PORT_DATA));
	G_ASSERT_EQ(a, STREAM(0));
}

SCENARIO(msr)
{
	uint64_t val;

	/* MTRRs are intercepted everywhere. */
	wrmsr(0x200, 0x80000006);
	G_ASSERT_EQ(rdmsr(0x200), 0x80000006);
	/* The #GP goes through a private IDT. */
	G_ASSERT_EQ(rdmsr_safe(0x7fffffff, &val), GP_VECTOR);
	G_ASSERT_EQ(wrmsr_safe(0x7fffffff, 0), GP_VECTOR);
}

SCENARIO(pio)
{
	uint32_t val = 0;

	asm volatile("outb %b0, %w1" : : "a"(0x11), "d"(PORT_DATA));
	asm volatile("outw %w0, %w1" : : "a"(0x2322), "d"(PORT_DATA));
	asm volatile("outl %0, %w1" : : "a"(0x47464544), "d"(PORT_DATA));
	G_SYNC(1, 7, 0);
	asm volatile("inb %w1, %b0" : "+a"(val) : "d"(PORT_DATA));
	G_ASSERT_EQ(val, STREAM(0));
	asm volatile("inw %w1, %w0" : "+a"(val) : "d"(PORT_DATA));
	G_ASSERT_EQ(val, STREAM(1) | STREAM(2) << 8);
	asm volatile("inl %w1, %0" : "=a"(val) : "d"(PORT_DATA));
	G_ASSERT_EQ(val, STREAM(3) | STREAM(4) << 8 | STREAM(5) << 16 |
			 (uint32_t)STREAM(6) << 24);
}

static void outs(const void *buf, uint64_t n)
{
	asm volatile("rep outsb" : "+S"(buf), "+c"(n) : "d"(PORT_DATA) : "memory");
}

static void ins(void *buf, uint64_t n)
{
	asm volatile("rep insb" : "+D"(buf), "+c"(n) : "d"(PORT_DATA) : "memory");
}

static void check_stream(const uint8_t *buf, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		G_ASSERT_EQ(buf[i], STREAM(i));
}

static void fill_stream(uint8_t *buf, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		buf[i] = STREAM(i);
}

/* Buffers across two private pages, and from a private into a shared page. */
static void *split_buf(int i)
{
	return (void *)(i ? PAGE_VA(FIRST_SHARED) - 37 : PAGE_VA(SWAPPED_PAGE + 1) - 51);
}

SCENARIO(string_pio)
{
	uint8_t *untouched = (uint8_t *)PAGE_VA(10);
	int i;

	for (i = 0; i < 2; i++) {
		fill_stream(split_buf(i), 100);
		outs(split_buf(i), 100);
		G_SYNC(1, 100, 0);
		memset(split_buf(i), 0, 100);
		ins(split_buf(i), 100);
		check_stream(split_buf(i), 100);
		G_SYNC(2, 0, 0);
	}

	/* Pages that the file does not have yet. */
	outs(untouched, 64);
	G_SYNC(3, 64, guest_fresh);
	ins(untouched + PAGE_SIZE, 64);
	check_stream(untouched + PAGE_SIZE, 64);
	G_ASSERT_EQ(untouched[PAGE_SIZE + 64], guest_fresh);
}

SCENARIO(mmio)
{
	volatile uint8_t *m8 = (volatile uint8_t *)MMIO_VA;
	volatile uint16_t *m16 = (volatile uint16_t *)(MMIO_VA + 0x10);
	volatile uint32_t *m32 = (volatile uint32_t *)(MMIO_VA + 0x20);
	volatile uint64_t *m64 = (volatile uint64_t *)(MMIO_VA + 0x30);

	*m8 = 0x12;
	*m16 = 0x3456;
	*m32 = 0x789abcde;
	*m64 = 0x1122334455667788;
	G_ASSERT_EQ(*m8, 0x12);
	G_ASSERT_EQ(*m16, 0x3456);
	G_ASSERT_EQ(*m32, 0x789abcde);
	G_ASSERT_EQ(*m64, 0x1122334455667788);
	asm volatile("addl $2, %0" : "+m"(*m32));
	G_ASSERT_EQ(*m32, 0x789abce0);
}

static void movs(void *dst, const void *src, uint64_t n)
{
	asm volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

SCENARIO(mmio_string)
{
	void *mmio = (void *)(MMIO_VA + 0x100);
	int i;

	for (i = 0; i < 2; i++) {
		fill_stream(split_buf(i), 100);
		movs(mmio, split_buf(i), 100);
		memset(split_buf(i), 0, 100);
		movs(split_buf(i), mmio, 100);
		check_stream(split_buf(i), 100);
	}
	/* A destination that only the emulator touches. */
	movs((void *)PAGE_VA(20), mmio, 100);
	check_stream((void *)PAGE_VA(20), 100);
}

SCENARIO(mmio_locked)
{
	volatile uint32_t *m32 = (volatile uint32_t *)MMIO_VA;
	uint32_t val = 0x1234;
	bool equal;

	*m32 = 0x77;
	asm volatile("xchgl %0, %1" : "+r"(val), "+m"(*m32));
	G_ASSERT_EQ(val, 0x77);
	G_ASSERT_EQ(*m32, 0x1234);

	val = 0x1234;
	asm volatile("lock cmpxchgl %3, %1; sete %0"
		     : "=q"(equal), "+m"(*m32), "+a"(val) : "r"(0x5678));
	G_ASSERT(equal);
	G_ASSERT_EQ(*m32, 0x5678);

	val = 1;
	asm volatile("lock cmpxchgl %3, %1; sete %0"
		     : "=q"(equal), "+m"(*m32), "+a"(val) : "r"(0x9abc));
	G_ASSERT(!equal);
	G_ASSERT_EQ(val, 0x5678);
	G_ASSERT_EQ(*m32, 0x5678);
}

/* With the prefix KVM emulates anything: both ends of a move are private. */
SCENARIO(forced_data)
{
	const uint64_t split = 0x99aabbccddeeff00;
	uint64_t *p = (uint64_t *)PAGE_VA(30);
	uint8_t *edge = (uint8_t *)PAGE_VA(SWAPPED_PAGE + 1) - 3;
	uint64_t val, n;
	void *dst, *src;

	/* First touch of the page by an emulated read, then write. */
	asm volatile(FEP "movq (%1), %0" : "=r"(val) : "r"(p) : "memory");
	G_ASSERT_EQ((uint8_t)val, guest_fresh);
	asm volatile(FEP "movq %0, (%1)"
		     : : "r"(0x1122334455667788), "r"(p) : "memory");
	G_ASSERT_EQ(*p, 0x1122334455667788);

	/* An operand in two pages. */
	asm volatile(FEP "movq %0, (%1)" : : "r"(split), "r"(edge) : "memory");
	G_ASSERT_EQ(*(uint64_t *)edge, split);
	G_ASSERT_EQ(*(uint32_t *)PAGE_VA(SWAPPED_PAGE + 1), (uint32_t)(split >> 24));
	asm volatile(FEP "movq (%1), %0" : "=r"(val) : "r"(edge) : "memory");
	G_ASSERT_EQ(val, split);

	fill_stream((void *)p, 64);
	dst = (void *)PAGE_VA(31);
	src = p;
	n = 64;
	asm volatile("1: " FEP "movsb; dec %2; jnz 1b"
		     : "+D"(dst), "+S"(src), "+r"(n) : : "memory", "cc");
	check_stream((void *)PAGE_VA(31), 64);
}

SCENARIO(forced_stack)
{
	uint64_t top = PAGE_VA(40) + PAGE_SIZE, val;

	*(uint64_t *)(top - 16) = 0;
	asm volatile("mov %%rsp, %%r12\n\t"
		     "mov %[top], %%rsp\n\t"
		     FEP "push %[in]\n\t"
		     FEP "pop %[out]\n\t"
		     "lea 1f(%%rip), %%rax\n\t"
		     FEP "call *%%rax\n\t"
		     "jmp 2f\n"
		     "1: movq $0x1234, -8(%%rsp)\n\t"
		     FEP "ret\n"
		     "2: mov %%r12, %%rsp\n\t"
		     : [out]"=&r"(val)
		     : [top]"r"(top), [in]"r"(0xfeedfacecafebeef)
		     : "rax", "r12", "memory");
	G_ASSERT_EQ(val, 0xfeedfacecafebeef);
	G_ASSERT_EQ(*(uint64_t *)(top - 16), 0x1234);
}

/* Atomic instructions have a path of their own: all sizes. */
#define FORCED_CMPXCHG(type, p, old, new)				\
({									\
	type __old = (type)(old);					\
	bool __equal;							\
									\
	asm volatile(FEP "lock cmpxchg %3, %1; sete %0"			\
		     : "=q"(__equal), "+m"(*(volatile type *)(p)), "+a"(__old) \
		     : "q"((type)(new)) : "memory", "cc");		\
	__equal;							\
})

#define CHECK_CMPXCHG(type, addr)					\
do {									\
	type *__p = (type *)(addr);					\
									\
	*__p = (type)0x1122334455667788;				\
	G_ASSERT(!FORCED_CMPXCHG(type, __p, 1, 2));			\
	G_ASSERT_EQ(*__p, (type)0x1122334455667788);			\
	G_ASSERT(FORCED_CMPXCHG(type, __p, 0x1122334455667788,		\
				0x8877665544332211));			\
	G_ASSERT_EQ(*__p, (type)0x8877665544332211);			\
} while (0)

SCENARIO(forced_atomic)
{
	uint64_t edge = PAGE_VA(SWAPPED_PAGE + 1) - 2;
	volatile uint64_t *p = (volatile uint64_t *)PAGE_VA(51);
	uint64_t val = 5;

	CHECK_CMPXCHG(uint8_t, PAGE_VA(50) + 1);
	CHECK_CMPXCHG(uint16_t, PAGE_VA(50) + 2);
	CHECK_CMPXCHG(uint32_t, PAGE_VA(50) + 4);
	CHECK_CMPXCHG(uint64_t, PAGE_VA(50) + 8);
	CHECK_CMPXCHG(uint64_t, edge);

	/* First touch of a page. */
	G_ASSERT(FORCED_CMPXCHG(uint64_t, p, guest_fresh * 0x0101010101010101, 7));
	G_ASSERT_EQ(*p, 7);
	asm volatile(FEP "xchg %0, (%1)" : "+r"(val) : "r"(p) : "memory");
	G_ASSERT_EQ(val, 7);
	G_ASSERT_EQ(*p, 5);
	asm volatile(FEP "lock xadd %0, (%1)" : "+r"(val) : "r"(p) : "memory", "cc");
	G_ASSERT_EQ(val, 5);
	G_ASSERT_EQ(*p, 12);
	asm volatile(FEP "lock btsq $4, (%0)" : : "r"(p) : "memory", "cc");
	G_ASSERT_EQ(*p, 28);
}

/*
 * Two vCPUs, one page, one of them emulated: a read followed by a write where
 * there should be an exchange would lose increments.
 */
#define RACE_COUNTER	((volatile uint64_t *)PAGE_VA(60))
#define RACE_DONE	((volatile uint64_t *)PAGE_VA(61))

static void guest_race_hardware(void)
{
	int i;

	for (i = 0; i < LOOPS; i++)
		asm volatile("lock incq (%0)" : : "r"(RACE_COUNTER) : "memory");
	*RACE_DONE = 1;
	guest_out(PORT_DONE, 0, 0, 0);
}

SCENARIO(forced_atomic_race)
{
	uint64_t old;
	int i;

	*RACE_COUNTER = 0;
	*RACE_DONE = 0;
	/* The host starts the other one. */
	G_SYNC(1, read_cr3(), 0);
	for (i = 0; i < LOOPS; i++)
		do {
			old = *RACE_COUNTER;
		} while (!FORCED_CMPXCHG(uint64_t, RACE_COUNTER, old, old + 1));
	while (!*RACE_DONE)
		asm volatile("pause");
	G_ASSERT_EQ(*RACE_COUNTER, 2 * LOOPS);
}

/* Clears the accessed and dirty bits of the last two levels. */
static void clear_ad(uint64_t va)
{
	int level;

	for (level = 1; level <= 2; level++)
		*guest_pte(va, level) &= ~(PTE_ACCESSED_MASK | PTE_DIRTY_MASK);
	invlpg(va);
}

static uint64_t ad(uint64_t va, int level)
{
	return *guest_pte(va, level) & (PTE_ACCESSED_MASK | PTE_DIRTY_MASK);
}

/*
 * The walk of the guest's page tables writes to them.  The instructions here
 * are intercepted before the CPU touches memory, so that the bits are KVM's.
 */
SCENARIO(accessed_dirty)
{
	const uint64_t both = PTE_ACCESSED_MASK | PTE_DIRTY_MASK;
	uint64_t va = PAGE_VA(70), val;

	clear_ad(va);
	outs((void *)va, 8);
	G_SYNC(1, 0, 0);
	G_ASSERT_EQ(ad(va, 1), PTE_ACCESSED_MASK);
	G_ASSERT_EQ(ad(va, 2), PTE_ACCESSED_MASK);

	clear_ad(va);
	ins((void *)va, 8);
	G_SYNC(2, 0, 0);
	G_ASSERT_EQ(ad(va, 1), both);
	G_ASSERT_EQ(ad(va, 2), PTE_ACCESSED_MASK);

	clear_ad(va);
	asm volatile(FEP "movq (%1), %0" : "=r"(val) : "r"(va) : "memory");
	G_ASSERT_EQ(ad(va, 1), PTE_ACCESSED_MASK);
	asm volatile(FEP "movq %0, (%1)" : : "r"(val), "r"(va) : "memory");
	G_ASSERT_EQ(ad(va, 1), both);
}

/* A walk that ends in a private entry without P: #PF through a private IDT. */
SCENARIO(not_present)
{
	uint64_t va = PAGE_VA(80), cr2;
	uint8_t vector;

	*guest_pte(va, 1) &= ~PTE_PRESENT_MASK;
	invlpg(va);
	vector = kvm_asm_safe("outsb", "S"(va + 5), "d"(PORT_DATA));
	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	G_ASSERT_EQ(vector, PF_VECTOR);
	G_ASSERT_EQ(cr2, va + 5);

	*guest_pte(va, 1) |= PTE_PRESENT_MASK;
	outs((void *)va, 1);
	G_SYNC(1, 0, 0);
}

/* kvm_read_guest() and kvm_write_guest(), on a page that nobody touched. */
SCENARIO(wall_clock)
{
	struct pvclock_wall_clock {
		uint32_t version;
		uint32_t sec;
		uint32_t nsec;
	} *wc = (void *)PAGE_VA(90);

	if (guest_fresh)
		memset(wc, 0, sizeof(*wc));
	wrmsr(MSR_KVM_WALL_CLOCK_NEW, PAGE_GPA(90));
	G_ASSERT_EQ(wc->version, 2);
	G_ASSERT(wc->nsec < NSEC_PER_SEC);
	wrmsr(MSR_KVM_WALL_CLOCK_NEW, PAGE_GPA(90));
	G_ASSERT_EQ(wc->version, 4);
}

/* The instruction of the other vendor: KVM writes the right one over it. */
extern uint8_t hypercall_insn[];

static noinline uint64_t patched_hypercall(void)
{
	uint64_t ret;

	asm volatile("hypercall_insn: .byte 0xcc, 0xcc, 0xcc"
		     : "=a"(ret) : "a"(0x7777) : "memory");
	return ret;
}

SCENARIO(hypercall_patch)
{
	static const uint8_t vmcall[] = { 0x0f, 0x01, 0xc1 };
	static const uint8_t vmmcall[] = { 0x0f, 0x01, 0xd9 };
	bool intel = is_intel_cpu();
	int i;

	memcpy(hypercall_insn, intel ? vmmcall : vmcall, 3);
	for (i = 0; i < 2; i++) {
		G_ASSERT_EQ(patched_hypercall(), -KVM_ENOSYS);
		G_ASSERT(!memcmp(hypercall_insn, intel ? vmcall : vmmcall, 3));
	}
}

/* The host translates these with the guest's page tables. */
SCENARIO(translate)
{
	G_SYNC(1, PAGE_VA(5) + 0x123, PAGE_GPA(5) + 0x123);
	G_SYNC(1, PAGE_VA(SWAPPED_PAGE), PAGE_GPA(SWAPPED_PAGE + 1));
	G_SYNC(1, SLOT_VA + 0x5678, SLOT_GPA + 0x5678);
	G_SYNC(1, PAGE_VA(FIRST_SHARED), PAGE_GPA(FIRST_SHARED));
	*guest_pte(PAGE_VA(6), 1) &= ~PTE_PRESENT_MASK;
	G_SYNC(1, PAGE_VA(6), -1);
}

/* A PAE page directory pointer table, that the host makes KVM load. */
SCENARIO(pdptrs)
{
	uint64_t *pdpt = (uint64_t *)PAGE_VA(7);
	int i;

	for (i = 0; i < 4; i++)
		pdpt[i] = PAGE_GPA(110 + i) | PTE_PRESENT_MASK;
	G_SYNC(1, PAGE_GPA(7), PAGE_GPA(110));
}

static volatile uint64_t ipis;

static void guest_ipi_handler(struct ex_regs *regs)
{
	ipis++;
	xapic_write_reg(APIC_EOI, 0);
}

/* The local APIC's registers are MMIO that KVM itself answers. */
SCENARIO(xapic)
{
	xapic_enable();
	G_ASSERT_EQ(xapic_read_reg(APIC_ID) >> 24, 0);
	xapic_write_reg(APIC_TASKPRI, 0x20);
	G_ASSERT_EQ(xapic_read_reg(APIC_TASKPRI), 0x20);
	xapic_write_reg(APIC_TASKPRI, 0);

	asm volatile("sti");
	xapic_write_reg(APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT |
				  APIC_DM_FIXED | IPI_VECTOR);
	while (!ipis)
		asm volatile("pause");
	asm volatile("cli");
	G_ASSERT_EQ(ipis, 1);
}

/* Host. */

#define DONE	0xffffffff

FIXTURE(emulation) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[2];
	int fd;
	uint8_t *alias;
	uint8_t mmio[MMIO_PAGES * 4096];
	/* Since the last sync. */
	uint8_t out[256];
	unsigned int nr_out;
	unsigned int nr_in;
	/* Of the last sync. */
	uint64_t a, b;
};

FIXTURE_VARIANT(emulation) {
	unsigned long type;
};

FIXTURE_VARIANT_ADD(emulation, ordinary) {
	.type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(emulation, private) {
	.type = KVM_X86_SW_PROTECTED_VM,
};

static void map_guest(struct kvm_vm *vm)
{
	int i;

	virt_map_level(vm, SLOT0_VA, 0, 2 * PG_SIZE_2M, PG_LEVEL_2M);
	virt_map_level(vm, SLOT_VA, SLOT_GPA, SLOT_SIZE, PG_LEVEL_2M);
	for (i = 0; i < TEST_PAGES; i++) {
		if (i == SWAPPED_PAGE || i == SWAPPED_PAGE + 1)
			virt_pg_map(vm, PAGE_VA(i),
				    PAGE_GPA(2 * SWAPPED_PAGE + 1 - i));
		else
			virt_pg_map(vm, PAGE_VA(i), PAGE_GPA(i));
	}
	virt_map(vm, MMIO_VA, MMIO_GPA, MMIO_PAGES);
	virt_pg_map(vm, APIC_DEFAULT_GPA, APIC_DEFAULT_GPA);
}

FIXTURE_SETUP(emulation)
{
	self->vm = vm_create_type_with_vcpus(variant->type, 2, 4 * SLOT_PAGES,
					     guest_boot, self->vcpus);
	self->fd = -1;
	if (variant->type == KVM_X86_DEFAULT_VM) {
		vm_userspace_mem_region_add(self->vm, VM_MEM_SRC_ANONYMOUS,
					    SLOT_GPA, SLOT, SLOT_PAGES, 0);
	} else {
		self->fd = vm_create_guest_memfd(self->vm,
						 FILE_OFFSET + SLOT_SIZE, 0);
		vm_gmem_region_add(self->vm, VM_MEM_SRC_ANONYMOUS, SLOT_GPA,
				   SLOT, SLOT_PAGES, self->fd, FILE_OFFSET);
		vm_mem_set_private(self->vm, SLOT_GPA, PRIVATE_SIZE);
	}
	self->alias = addr_gpa2hva(self->vm, SLOT_GPA);
	memset(self->alias, PATTERN, SLOT_SIZE);

	map_guest(self->vm);
	vm_init_descriptor_tables(self->vm);
	vcpu_init_descriptor_tables(self->vcpus[0]);
	vcpu_init_descriptor_tables(self->vcpus[1]);
	vm_install_exception_handler(self->vm, IPI_VECTOR, guest_ipi_handler);
}

FIXTURE_TEARDOWN(emulation)
{
	uint64_t i;

	for (i = 0; self->fd >= 0 && i < PRIVATE_SIZE; i++)
		TEST_ASSERT(self->alias[i] == PATTERN,
			    "KVM wrote %#x to the shared side of gpa %#llx",
			    self->alias[i], SLOT_GPA + i);
	kvm_vm_free(self->vm);
	if (self->fd >= 0)
		close(self->fd);
}

static void handle_data_port(FIXTURE_DATA(emulation) *self, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint32_t len = run->io.size * run->io.count, i;

	for (i = 0; i < len; i++) {
		if (run->io.direction == KVM_EXIT_IO_IN) {
			data[i] = STREAM(self->nr_in++);
		} else {
			TEST_ASSERT(self->nr_out < sizeof(self->out), "Too much output");
			self->out[self->nr_out++] = data[i];
		}
	}
}

static void handle_mmio(FIXTURE_DATA(emulation) *self, struct kvm_run *run)
{
	uint64_t offset = run->mmio.phys_addr - MMIO_GPA;

	TEST_ASSERT(offset + run->mmio.len <= sizeof(self->mmio),
		    "MMIO at %#llx", run->mmio.phys_addr);
	if (run->mmio.is_write)
		memcpy(self->mmio + offset, run->mmio.data, run->mmio.len);
	else
		memcpy(run->mmio.data, self->mmio + offset, run->mmio.len);
}

/* Runs to the next sync, or to the end; returns its stage, or DONE. */
static uint32_t step(FIXTURE_DATA(emulation) *self, struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_regs regs;
	uint32_t val;

	self->nr_out = 0;
	self->nr_in = 0;
	for (;;) {
		int ret = _vcpu_run(vcpu);

		vcpu_regs_get(vcpu, &regs);
		TEST_ASSERT(!ret, "KVM_RUN failed, errno: %d, exit: %u, rip: %#llx",
			    errno, run->exit_reason, regs.rip);

		if (run->exit_reason == KVM_EXIT_MMIO) {
			handle_mmio(self, run);
			continue;
		}
		TEST_ASSERT(run->exit_reason == KVM_EXIT_IO,
			    "Exit %u (%s), suberror %u, rip: %#llx",
			    run->exit_reason, exit_reason_str(run->exit_reason),
			    run->internal.suberror, regs.rip);
		if (run->io.port == PORT_DATA) {
			handle_data_port(self, run);
			continue;
		}

		val = *(uint32_t *)((uint8_t *)run + run->io.data_offset);
		TEST_ASSERT(run->io.port != PORT_FAIL, "Guest: line %u: %#llx != %#llx",
			    val, regs.rdi, regs.rsi);
		if (run->io.port == PORT_DONE)
			return DONE;
		TEST_ASSERT(run->io.port == PORT_SYNC,
			    "Port %#x, an exception in the guest? rip: %#llx",
			    run->io.port, regs.rip);
		self->a = regs.rdi;
		self->b = regs.rsi;
		return val;
	}
}

/* Boots the guest, and takes away all that it does not need any more. */
static void start(FIXTURE_DATA(emulation) *self, void (*scenario)(void))
{
	vcpu_args_set(self->vcpus[0], 2, (uint64_t)scenario,
		      (uint64_t)(self->fd < 0 ? PATTERN : 0));
	TEST_ASSERT_EQ(step(self, self->vcpus[0]), 0u);
	vm_mem_region_delete(self->vm, 0);
}

/* The next sync must be @stage; what the guest put out must be as expected. */
static void expect_stage(FIXTURE_DATA(emulation) *self, uint32_t stage)
{
	TEST_ASSERT_EQ(step(self, self->vcpus[0]), stage);
}

static void expect_stream(FIXTURE_DATA(emulation) *self, unsigned int n)
{
	unsigned int i;

	TEST_ASSERT_EQ(self->nr_out, n);
	for (i = 0; i < n; i++)
		TEST_ASSERT(self->out[i] == STREAM(i), "Byte %u is %#x, not %#x",
			    i, self->out[i], STREAM(i));
}

/* Scenarios that need nothing of the host but its devices. */
#define PLAIN_TEST(name)						\
TEST_F(emulation, name)							\
{									\
	start(self, guest_##name);					\
	expect_stage(self, DONE);					\
}

PLAIN_TEST(cpuid)
PLAIN_TEST(fetch_across_pages)
PLAIN_TEST(fetch_modified_code)
PLAIN_TEST(msr)
PLAIN_TEST(mmio)
PLAIN_TEST(mmio_string)
PLAIN_TEST(mmio_locked)
PLAIN_TEST(forced_data)
PLAIN_TEST(forced_stack)
PLAIN_TEST(forced_atomic)
PLAIN_TEST(wall_clock)
PLAIN_TEST(hypercall_patch)
PLAIN_TEST(xapic)

TEST_F(emulation, pio)
{
	static const uint8_t want[] = { 0x11, 0x22, 0x23, 0x44, 0x45, 0x46, 0x47 };

	start(self, guest_pio);
	expect_stage(self, 1);
	TEST_ASSERT_EQ(self->nr_out, sizeof(want));
	TEST_ASSERT(!memcmp(self->out, want, sizeof(want)), "Wrong bytes put out");
	expect_stage(self, DONE);
}

TEST_F(emulation, string_pio)
{
	unsigned int i;

	start(self, guest_string_pio);
	for (i = 0; i < 2; i++) {
		expect_stage(self, 1);
		expect_stream(self, 100);
		expect_stage(self, 2);
	}
	expect_stage(self, 3);
	TEST_ASSERT_EQ(self->nr_out, 64u);
	for (i = 0; i < 64; i++)
		TEST_ASSERT_EQ(self->out[i], self->b);
	expect_stage(self, DONE);
}

TEST_F(emulation, accessed_dirty)
{
	start(self, guest_accessed_dirty);
	expect_stage(self, 1);
	expect_stage(self, 2);
	expect_stage(self, DONE);
}

TEST_F(emulation, not_present)
{
	start(self, guest_not_present);
	expect_stage(self, 1);
	TEST_ASSERT_EQ(self->nr_out, 1u);
	expect_stage(self, DONE);
}

TEST_F(emulation, translate)
{
	struct kvm_translation tr;
	int i;

	start(self, guest_translate);
	for (i = 0; i < 5; i++) {
		expect_stage(self, 1);
		memset(&tr, 0, sizeof(tr));
		tr.linear_address = self->a;
		vcpu_ioctl(self->vcpus[0], KVM_TRANSLATE, &tr);
		TEST_ASSERT_EQ(tr.valid, self->b != -1ULL);
		if (tr.valid)
			TEST_ASSERT_EQ(tr.physical_address, self->b);
	}
	expect_stage(self, DONE);
}

TEST_F(emulation, pdptrs)
{
	struct kvm_sregs2 sregs2;
	struct kvm_sregs sregs;
	int i;

	start(self, guest_pdptrs);
	expect_stage(self, 1);

	vcpu_sregs_get(self->vcpus[0], &sregs);
	sregs.efer &= ~(EFER_LME | EFER_LMA);
	sregs.cs.l = 0;
	sregs.cr3 = self->a;
	vcpu_sregs_set(self->vcpus[0], &sregs);

	vcpu_ioctl(self->vcpus[0], KVM_GET_SREGS2, &sregs2);
	TEST_ASSERT(sregs2.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID, "No PDPTRs");
	for (i = 0; i < 4; i++)
		TEST_ASSERT_EQ(sregs2.pdptrs[i],
			       self->b + i * PAGE_SIZE + PTE_PRESENT_MASK);
}

static void *run_second_vcpu(void *arg)
{
	FIXTURE_DATA(emulation) *self = arg;
	FIXTURE_DATA(emulation) other = { };

	TEST_ASSERT_EQ(step(&other, self->vcpus[1]), DONE);
	return NULL;
}

TEST_F(emulation, forced_atomic_race)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	pthread_t thread;

	start(self, guest_forced_atomic_race);
	expect_stage(self, 1);

	vcpu_sregs_get(self->vcpus[1], &sregs);
	sregs.cr3 = self->a;
	vcpu_sregs_set(self->vcpus[1], &sregs);
	vcpu_regs_get(self->vcpus[1], &regs);
	regs.rip = (uint64_t)guest_race_hardware;
	regs.rsp -= 8;
	vcpu_regs_set(self->vcpus[1], &regs);

	TEST_ASSERT(!pthread_create(&thread, NULL, run_second_vcpu, self),
		    "pthread_create() failed");
	expect_stage(self, DONE);
	pthread_join(thread, NULL);
}

/* Force emulation while the tests run, whatever was set before. */
static char old_fep[16];
static pid_t main_pid;

static void restore_fep(void)
{
	if (getpid() == main_pid)
		write_line(FEP_PARAM, old_fep);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());

	__TEST_REQUIRE(!access(FEP_PARAM, R_OK), "%s cannot be read", FEP_PARAM);
	read_line(FEP_PARAM, old_fep, sizeof(old_fep));
	__TEST_REQUIRE(!__write_line(FEP_PARAM, "1"),
		       "%s cannot be written, run as root", FEP_PARAM);
	main_pid = getpid();
	atexit(restore_fep);

	return test_harness_run(argc, argv);
}
