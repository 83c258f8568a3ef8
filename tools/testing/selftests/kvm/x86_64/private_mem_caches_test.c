// SPDX-License-Identifier: GPL-2.0
/*
 * Structures that KVM and the guest share for long, in private memory: kvm-clock,
 * steal time, asynchronous page faults, EOIs without an exit, pages of Hyper-V's
 * interface, the VMCB of a nested guest.
 *
 * KVM finds them through caches of its own.  The guest must see what KVM writes
 * there, wherever the page is: in the file while the gfn is private, in ordinary
 * memory while it is shared, in a new page after a hole, in a new slot.  The side
 * that the guest does not see holds a canary and must not change.  Where there is
 * no page KVM must do without, as it does when the gfn is not memory at all.
 */
#include "kvm_gmem_util.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#include <asm/pvclock.h>
#include <linux/userfaultfd.h>

#include "apic.h"
#include "hyperv.h"
#include "svm_util.h"

#include "kselftest_harness.h"

/* Emulated CPUs and debug kernels are slow, a hang is the runner's business. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

#define SLOT		10
#define SLOT_GPA	0x40000000ULL
#define SLOT_PAGES	16ULL
/* What is used is neither the first page of the slot nor of the file. */
#define GPA		(SLOT_GPA + 5 * PAGE_SIZE)
#define NR_PAGES	4ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
#define FILE_OFFSET	(3 * PAGE_SIZE)
/* A page that is always shared. */
#define SHARED_GPA	(SLOT_GPA + 12 * PAGE_SIZE)

#define CANARY		0xa5
#define JUNK		0x7000u
/* In the page that KVM writes to, but far from where it writes. */
#define MARK_OFFSET	0x900
#define MARK		0x6d61726bu

#define ROUNDS		32
#define MAX_VCPUS	2
#define VECTOR		0xe5

/* The host sets the clock to multiples of this, in seconds. */
#define CLOCK_STEP	1000000ULL
#define NSEC		1000000000ULL

enum {
	SHARED,
	PRIVATE,
};

enum {
	CMD_ENABLE,
	/* Have KVM write, and look at what it wrote. */
	CMD_CHECK,
	/* Have KVM write where it cannot, without touching the page. */
	CMD_PROVOKE,
	CMD_TOUCH,
	/* Run until guest_stop, without exits, or with many. */
	CMD_SPIN,
	CMD_SPIN_EXITS,
	/* Wait for the other vCPU to be preempted, then stop it. */
	CMD_WATCH,
	/* Touch a page that the host does not have yet. */
	CMD_FAULT,
};

/* Why there is nothing to write to. */
enum {
	NO_FILE,
	NO_SLOT,
};

/* Shared with the host. */

static uint64_t guest_cmd[MAX_VCPUS];
/* For CMD_CHECK: on which side the page is, and whether it is a new, empty one. */
static uint64_t guest_side;
static uint64_t guest_fresh;
/* For CMD_PROVOKE. */
static uint64_t guest_missing;
static uint64_t guest_clock;
static uint64_t guest_stop;

/* Guest. */

static volatile uint32_t *word(unsigned int offset)
{
	return (volatile uint32_t *)(GPA + offset);
}

/* What was seen last on each side, where KVM writes at any time. */
static uint32_t last_version[2];

/*
 * Versions are even when nothing is being written, and are not touched while the
 * guest is on the other side.
 */
static void check_version(uint32_t version)
{
	uint32_t last = guest_fresh ? 0 : last_version[guest_side];

	GUEST_ASSERT_1(!(version & 1), version);
	GUEST_ASSERT_2(version > last, version, last);
	/* Less than if the rounds on the other side had come here. */
	GUEST_ASSERT_2(version - last < 2 * ROUNDS, version, last);
	last_version[guest_side] = version;
}

/* kvm-clock. */

static struct pvclock_vcpu_time_info *clock_info(void)
{
	return (struct pvclock_vcpu_time_info *)(GPA + 0x40);
}

static void clock_enable(void)
{
	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (GPA + 0x40) | KVM_MSR_ENABLED);
}

static void clock_check(void)
{
	struct pvclock_vcpu_time_info *info = clock_info();
	uint64_t first, second, version;

	version = READ_ONCE(info->version);
	check_version(version);
	first = __pvclock_read_cycles(info, rdtsc());
	second = __pvclock_read_cycles(info, rdtsc());
	GUEST_ASSERT_2(first / NSEC >= guest_clock &&
		       first / NSEC < guest_clock + CLOCK_STEP,
		       first, guest_clock);
	GUEST_ASSERT_2(second >= first, first, second);
}

static void nothing(void)
{
}

/* Steal time. */

static void steal_enable(void)
{
	wrmsr(MSR_KVM_STEAL_TIME, (GPA + 0x80) | KVM_MSR_ENABLED);
}

static struct kvm_steal_time *steal_time(void)
{
	return (struct kvm_steal_time *)(GPA + 0x80);
}

static void steal_check(void)
{
	static uint64_t last_steal[2];
	struct kvm_steal_time *st = steal_time();
	uint64_t steal = READ_ONCE(st->steal);

	check_version(READ_ONCE(st->version));
	GUEST_ASSERT(!READ_ONCE(st->flags));
	GUEST_ASSERT(!READ_ONCE(st->preempted));
	if (!guest_fresh)
		GUEST_ASSERT_2(steal >= last_steal[guest_side], steal,
			       last_steal[guest_side]);
	last_steal[guest_side] = steal;
}

/* Asynchronous page faults: the flags, the token. */

#define APF_FLAGS	0x40
#define APF_TOKEN	0x44
#define APF_EN		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | \
			 KVM_ASYNC_PF_DELIVERY_AS_INT)

static void apf_enable(void)
{
	x2apic_enable();
	wrmsr(MSR_KVM_ASYNC_PF_INT, VECTOR);
}

/* To enable it makes KVM wake all that may have waited: a token of all ones. */
static void apf_check(void)
{
	/* A token has been left there: KVM has to see that, and wait. */
	*word(APF_TOKEN) = JUNK;
	wrmsr(MSR_KVM_ASYNC_PF_EN, (GPA + APF_FLAGS) | APF_EN);
	GUEST_ASSERT_EQ(*word(APF_TOKEN), JUNK);

	*word(APF_TOKEN) = 0;
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
	GUEST_ASSERT_EQ(*word(APF_TOKEN), ~0u);
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

static void apf_provoke(void)
{
	uint8_t vector;

	vector = wrmsr_safe(MSR_KVM_ASYNC_PF_EN, (GPA + APF_FLAGS) | APF_EN);
	GUEST_ASSERT_EQ(vector, guest_missing == NO_SLOT ? GP_VECTOR : 0);
}

static volatile uint64_t apf_faults;

/*
 * The page is not there, says KVM, and what its token is.  There is nothing else
 * to do until KVM says that it is.
 */
static void guest_pf_handler(struct ex_regs *regs)
{
	uint64_t token;

	asm volatile("mov %%cr2, %0" : "=r"(token));
	GUEST_ASSERT_EQ(*word(APF_FLAGS), KVM_PV_REASON_PAGE_NOT_PRESENT);
	*word(APF_FLAGS) = 0;
	apf_faults++;

	while (*word(APF_TOKEN) != (uint32_t)token)
		asm volatile("pause");
	*word(APF_TOKEN) = 0;
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

/* End of interrupt without an exit. */

static volatile uint64_t irqs;
static volatile uint32_t eoi_word;
static bool eoi_blind;

static void guest_irq_handler(struct ex_regs *regs)
{
	irqs++;
	if (eoi_blind) {
		x2apic_write_reg(APIC_EOI, 0);
		return;
	}

	eoi_word = *word(0);
	*word(0) = 0;
	if (!(eoi_word & KVM_PV_EOI_ENABLED))
		x2apic_write_reg(APIC_EOI, 0);
}

static bool in_service(void)
{
	return x2apic_read_reg(0x100 + VECTOR / 32 * 0x10) & (1u << (VECTOR % 32));
}

static void send_irq(void)
{
	uint64_t old = irqs;

	x2apic_write_reg(APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT |
				   APIC_DM_FIXED | VECTOR);
	asm volatile("sti");
	while (irqs == old)
		asm volatile("pause");
	asm volatile("cli");
	GUEST_ASSERT(!in_service());
}

static void eoi_enable(void)
{
	x2apic_enable();
	wrmsr(MSR_KVM_PV_EOI_EN, GPA | KVM_MSR_ENABLED);
}

static void eoi_check(void)
{
	int i = 0;

	/* KVM takes its word back if there is an exit before the guest sees it. */
	do {
		*word(0) = 0;
		send_irq();
	} while (!eoi_word && i++ < 1000);
	GUEST_ASSERT_EQ(eoi_word, KVM_PV_EOI_ENABLED);
	*word(4) = JUNK;
}

static void fault(void)
{
	eoi_blind = true;
	*word(APF_FLAGS) = 0;
	*word(APF_TOKEN) = 0;
	/* The first instruction cannot be interrupted yet. */
	asm volatile("sti; nop");
	GUEST_ASSERT_EQ(*(volatile uint64_t *)SHARED_GPA, MARK);
	asm volatile("cli");
	GUEST_ASSERT_EQ(apf_faults, 1);
}

static void eoi_provoke(void)
{
	eoi_blind = true;
	send_irq();
	eoi_blind = false;
}

/* Hyper-V. */

static void assist_enable(void)
{
	x2apic_enable();
	wrmsr(HV_X64_MSR_GUEST_OS_ID, 0x8100ULL << 48);
}

/* The first word is cleared, others are not, and then it is used as above. */
static void assist_check(void)
{
	*word(0) = JUNK;
	*word(4) = JUNK;
	wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, GPA | 1);
	GUEST_ASSERT_EQ(*word(0), 0u);
	GUEST_ASSERT_EQ(*word(4), JUNK);
	eoi_check();
}

static void assist_provoke(void)
{
	GUEST_ASSERT_EQ(wrmsr_safe(HV_X64_MSR_VP_ASSIST_PAGE, GPA | 1), GP_VECTOR);
	eoi_provoke();
}

static void tsc_page_enable(void)
{
	wrmsr(HV_X64_MSR_GUEST_OS_ID, 0x8100ULL << 48);
}

/*
 * The sequence is the next one, or 0 if the host's clock does not allow for more;
 * the scale is 0 only then.
 */
static void tsc_page_check(void)
{
	*word(0) = JUNK;
	*word(8) = 0;
	*word(12) = 0;
	wrmsr(HV_X64_MSR_REFERENCE_TSC, GPA | 1);
	GUEST_ASSERT_1(!*word(0) || *word(0) > JUNK, *word(0));
	GUEST_ASSERT_EQ(!*word(0), !(*word(8) | *word(12)));
	*word(4) = JUNK;
}

static void tsc_page_provoke(void)
{
	GUEST_ASSERT_EQ(wrmsr_safe(HV_X64_MSR_REFERENCE_TSC, GPA | 1), 0);
}

/* Wall clock: version, seconds, nanoseconds. */

static void wall_clock_check(void)
{
	*word(0x10) = JUNK + 1;
	*word(0x14) = 0;
	*word(0x18) = -1u;
	wrmsr(MSR_KVM_WALL_CLOCK_NEW, GPA + 0x10);
	GUEST_ASSERT_EQ(*word(0x10), JUNK + 4);
	GUEST_ASSERT(*word(0x14));
	GUEST_ASSERT(*word(0x18) < NSEC);
}

static void wall_clock_provoke(void)
{
	wrmsr(MSR_KVM_WALL_CLOCK_NEW, GPA + 0x10);
}

/* Nested SVM: the VMCB, the host's save area, the MSR bitmap. */

static uint64_t l2_stack[512];
static uint64_t l2_runs;

static void guest_l2(void)
{
	l2_runs++;
	asm volatile("vmmcall");
}

static void svm_check(void)
{
	static struct svm_test_data svm;
	static uint64_t runs;

	svm.vmcb = (void *)GPA;
	svm.vmcb_gpa = GPA;
	svm.save_area = (void *)(GPA + PAGE_SIZE);
	svm.save_area_gpa = GPA + PAGE_SIZE;
	svm.msr = (void *)(GPA + 2 * PAGE_SIZE);
	svm.msr_gpa = GPA + 2 * PAGE_SIZE;
	memset(svm.msr, 0, 2 * PAGE_SIZE);

	wrmsr(MSR_KERNEL_GS_BASE, GPA + runs);
	generic_svm_setup(&svm, guest_l2, &l2_stack[ARRAY_SIZE(l2_stack)]);
	/* VMSAVE has put it there, VMLOAD takes it from there. */
	GUEST_ASSERT_EQ(svm.vmcb->save.kernel_gs_base, GPA + runs);
	svm.vmcb->save.kernel_gs_base = MARK;
	run_guest(svm.vmcb, svm.vmcb_gpa);
	GUEST_ASSERT_EQ(svm.vmcb->control.exit_code, (uint32_t)SVM_EXIT_VMMCALL);
	GUEST_ASSERT(svm.vmcb->save.rip > (uint64_t)guest_l2);
	GUEST_ASSERT_EQ(rdmsr(MSR_KERNEL_GS_BASE), MARK);
	GUEST_ASSERT_EQ(l2_runs, ++runs);
}

static void svm_provoke(void)
{
	uint8_t vector = kvm_asm_safe("vmrun %%rax", "a"(GPA));

	GUEST_ASSERT_EQ(vector, GP_VECTOR);
}

struct interface {
	void (*enable)(void);
	void (*check)(void);
	void (*provoke)(void);
	/* KVM writes whenever it wants, not only when it is told to. */
	bool any_time;
};

static struct interface guest_if;

#define SNAPSHOT	0x800

static uint8_t guest_snapshot[2][SNAPSHOT];

static void check(void)
{
	const void *page = (const void *)GPA;

	/* Nothing came here while the guest used the other side. */
	if (guest_fresh)
		GUEST_ASSERT_EQ(*word(MARK_OFFSET), 0u);
	else if (!guest_if.any_time)
		GUEST_ASSERT(!memcmp(page, guest_snapshot[guest_side], SNAPSHOT));

	guest_if.check();
	*word(MARK_OFFSET) = MARK;
	memcpy(guest_snapshot[guest_side], page, SNAPSHOT);
}

static void enable_clock_and_steal_time(void)
{
	clock_enable();
	steal_enable();
}

static void spin_with_exits(void)
{
	while (!READ_ONCE(guest_stop))
		rdmsr(MSR_KVM_STEAL_TIME);
}

/*
 * As a guest that wants the other vCPU to flush its TLB, but not before that runs
 * again: KVM has to see it in what it exchanges.
 */
static void watch(void)
{
	volatile uint8_t *preempted = &steal_time()->preempted;
	uint8_t old;

	do {
		while (*preempted != KVM_VCPU_PREEMPTED)
			asm volatile("pause");
		old = KVM_VCPU_PREEMPTED;
		asm volatile("lock cmpxchgb %2, %1"
			     : "+a"(old), "+m"(*preempted)
			     : "q"((uint8_t)(KVM_VCPU_PREEMPTED | KVM_VCPU_FLUSH_TLB))
			     : "memory", "cc");
	} while (old != KVM_VCPU_PREEMPTED);
	WRITE_ONCE(guest_stop, 1);
}

static void guest_main(uint64_t id)
{
	volatile uint64_t *cmd = &guest_cmd[id];

	for (;;) {
		switch (*cmd) {
		case CMD_ENABLE:
			/* KVM may look at the page before the guest does. */
			guest_if.enable();
			break;
		case CMD_CHECK:
			check();
			break;
		case CMD_PROVOKE:
			guest_if.provoke();
			break;
		case CMD_TOUCH:
			(void)*word(0);
			break;
		case CMD_SPIN:
			while (!READ_ONCE(guest_stop))
				asm volatile("pause");
			GUEST_ASSERT(!READ_ONCE(steal_time()->preempted));
			break;
		case CMD_SPIN_EXITS:
			spin_with_exits();
			break;
		case CMD_WATCH:
			watch();
			break;
		case CMD_FAULT:
			fault();
			break;
		default:
			GUEST_ASSERT(0);
		}
		GUEST_SYNC(*cmd);
	}
}

/* Host. */

FIXTURE(caches) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	uint8_t *alias;
	uint64_t clock;
};

FIXTURE_VARIANT(caches) {
	struct interface interface;
	bool hyperv;
	bool svm;
};

FIXTURE_VARIANT_ADD(caches, kvm_clock) {
	.interface = { clock_enable, clock_check, nothing, true },
};

FIXTURE_VARIANT_ADD(caches, steal_time) {
	.interface = { steal_enable, steal_check, nothing, true },
};

FIXTURE_VARIANT_ADD(caches, async_pf) {
	.interface = { apf_enable, apf_check, apf_provoke },
};

FIXTURE_VARIANT_ADD(caches, pv_eoi) {
	.interface = { eoi_enable, eoi_check, eoi_provoke },
};

FIXTURE_VARIANT_ADD(caches, hv_assist_page) {
	.interface = { assist_enable, assist_check, assist_provoke },
	.hyperv = true,
};

FIXTURE_VARIANT_ADD(caches, hv_tsc_page) {
	.interface = { tsc_page_enable, tsc_page_check, tsc_page_provoke, true },
	.hyperv = true,
};

FIXTURE_VARIANT_ADD(caches, wall_clock) {
	.interface = { nothing, wall_clock_check, wall_clock_provoke },
};

FIXTURE_VARIANT_ADD(caches, nested_svm) {
	.interface = { nothing, svm_check, svm_provoke },
	.svm = true,
};

static void add_slot(FIXTURE_DATA(caches) *self)
{
	self->fd = vm_create_guest_memfd(self->vm,
					 FILE_OFFSET + SLOT_PAGES * PAGE_SIZE, 0);
	vm_gmem_region_add(self->vm, VM_MEM_SRC_ANONYMOUS, SLOT_GPA, SLOT,
			   SLOT_PAGES, self->fd, FILE_OFFSET);
	self->alias = addr_gpa2hva(self->vm, GPA);
	memset(self->alias, CANARY, SIZE);
}

static bool supported(const FIXTURE_VARIANT(caches) *variant)
{
	return (!variant->svm || kvm_cpu_has(X86_FEATURE_SVM)) &&
	       (!variant->hyperv || kvm_has_cap(KVM_CAP_HYPERV_CPUID));
}

static void setup(FIXTURE_DATA(caches) *self, struct kvm_vcpu *vcpus[], int nr,
		  const struct interface *interface)
{
	int i;

	self->vm = vm_create_type_with_vcpus(KVM_X86_SW_PROTECTED_VM, nr,
					     SLOT_PAGES, guest_main, vcpus);
	self->vcpu = vcpus[0];
	self->clock = 0;
	add_slot(self);
	vm_mem_set_private(self->vm, GPA, SIZE);
	virt_map(self->vm, SLOT_GPA, SLOT_GPA, SLOT_PAGES);

	vm_init_descriptor_tables(self->vm);
	for (i = 0; i < nr; i++) {
		vcpu_init_descriptor_tables(vcpus[i]);
		vcpu_args_set(vcpus[i], 1, (uint64_t)i);
	}
	vm_install_exception_handler(self->vm, VECTOR, guest_irq_handler);

	guest_if = *interface;
	sync_global_to_guest(self->vm, guest_if);
}

FIXTURE_SETUP(caches)
{
	struct kvm_vcpu *vcpu;

	if (!supported(variant))
		return;

	setup(self, &vcpu, 1, &variant->interface);
	if (variant->hyperv)
		vcpu_set_hv_cpuid(vcpu);
}

FIXTURE_TEARDOWN(caches)
{
	if (!supported(variant))
		return;

	kvm_vm_free(self->vm);
	if (self->fd >= 0)
		close(self->fd);
}

#define REQUIRE_SUPPORT()						\
do {									\
	if (!supported(variant))					\
		SKIP(return, "KVM does not have the interface");	\
} while (0)

static void set_clock(FIXTURE_DATA(caches) *self)
{
	struct kvm_clock_data data = {};

	self->clock += CLOCK_STEP;
	data.clock = self->clock * NSEC;
	vm_ioctl(self->vm, KVM_SET_CLOCK, &data);
	guest_clock = self->clock;
	sync_global_to_guest(self->vm, guest_clock);
}

static void set_command(struct kvm_vcpu *vcpu, uint64_t cmd)
{
	guest_cmd[vcpu->id] = cmd;
	sync_global_to_guest(vcpu->vm, guest_cmd);
}

static void command(FIXTURE_DATA(caches) *self, uint64_t cmd)
{
	set_command(self->vcpu, cmd);
	vcpu_run_to_sync(self->vcpu);
}

static void run_check(FIXTURE_DATA(caches) *self, uint64_t side, bool fresh)
{
	guest_side = side;
	guest_fresh = fresh;
	sync_global_to_guest(self->vm, guest_side);
	sync_global_to_guest(self->vm, guest_fresh);
	/* The only thing that makes KVM write to kvm-clock at once. */
	set_clock(self);
	command(self, CMD_CHECK);
}

static void expect_canary(FIXTURE_DATA(caches) *self)
{
	uint64_t i;

	for (i = 0; i < SIZE; i++)
		TEST_ASSERT(self->alias[i] == CANARY,
			    "KVM wrote %#x to the shared side of gpa %#llx",
			    self->alias[i], GPA + i);
}

static void start(FIXTURE_DATA(caches) *self)
{
	command(self, CMD_ENABLE);
	run_check(self, PRIVATE, true);
}

static void to_shared(FIXTURE_DATA(caches) *self)
{
	/* What a VMM would do; the guest expects an empty page. */
	memset(self->alias, 0, SIZE);
	vm_mem_set_shared(self->vm, GPA, SIZE);
}

static void to_private(FIXTURE_DATA(caches) *self)
{
	vm_mem_set_private(self->vm, GPA, SIZE);
	memset(self->alias, CANARY, SIZE);
}

TEST_F(caches, private)
{
	int i;

	REQUIRE_SUPPORT();
	start(self);
	for (i = 0; i < ROUNDS; i++) {
		run_check(self, PRIVATE, false);
		expect_canary(self);
	}
}

/*
 * The interface stays enabled all the time.  On the shared side the guest sees the
 * ordinary memory, so what it checks is what is there; the host can look, too.
 */
TEST_F(caches, conversion)
{
	static const uint8_t zeroes[SNAPSHOT];
	int i, j;

	REQUIRE_SUPPORT();
	start(self);
	for (i = 0; i < 3; i++) {
		to_shared(self);
		run_check(self, SHARED, true);
		for (j = 0; j < ROUNDS; j++)
			run_check(self, SHARED, false);
		TEST_ASSERT(memcmp(self->alias, zeroes, SNAPSHOT),
			    "Nothing was written to the shared side");
		TEST_ASSERT_EQ(*(uint32_t *)(self->alias + MARK_OFFSET), MARK);

		to_private(self);
		for (j = 0; j < ROUNDS; j++)
			run_check(self, PRIVATE, false);
		expect_canary(self);
	}
}

TEST_F(caches, start_shared)
{
	REQUIRE_SUPPORT();
	to_shared(self);
	command(self, CMD_ENABLE);
	run_check(self, SHARED, true);
	run_check(self, SHARED, false);

	to_private(self);
	run_check(self, PRIVATE, true);
	run_check(self, PRIVATE, false);
	expect_canary(self);
}

TEST_F(caches, punch_hole)
{
	int i;

	REQUIRE_SUPPORT();
	start(self);
	for (i = 0; i < 4; i++) {
		run_check(self, PRIVATE, false);
		gmem_punch_hole(self->fd, FILE_OFFSET + GPA - SLOT_GPA, SIZE);
		TEST_ASSERT_EQ(gmem_allocated_pages(self->fd), 0UL);
		run_check(self, PRIVATE, true);
		expect_canary(self);
	}
}

static void provoke(FIXTURE_DATA(caches) *self, uint64_t missing)
{
	int i;

	guest_missing = missing;
	sync_global_to_guest(self->vm, guest_missing);
	for (i = 0; i < 4; i++) {
		set_clock(self);
		command(self, CMD_PROVOKE);
	}
	set_command(self->vcpu, CMD_TOUCH);
	vcpu_run_memory_fault(self->vcpu, GPA, KVM_MEMORY_EXIT_FLAG_PRIVATE);
}

TEST_F(caches, close_file)
{
	REQUIRE_SUPPORT();
	start(self);
	close(self->fd);
	self->fd = -1;
	provoke(self, NO_FILE);
	expect_canary(self);
}

/* A new slot with a new file follows, and the guest goes on. */
TEST_F(caches, delete_slot)
{
	REQUIRE_SUPPORT();
	start(self);
	vm_mem_region_delete(self->vm, SLOT);
	provoke(self, NO_SLOT);

	close(self->fd);
	add_slot(self);
	/* The access that made the exit. */
	vcpu_run_to_sync(self->vcpu);
	run_check(self, PRIVATE, true);
	run_check(self, PRIVATE, false);
	expect_canary(self);
}

/* The same host address, the same gpa, another page of the file. */
TEST_F(caches, move_in_file)
{
	void *hva = self->alias - (GPA - SLOT_GPA);

	REQUIRE_SUPPORT();
	start(self);
	vm_delete_slot(self->vm, SLOT);
	vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, SLOT_GPA,
				   SLOT_PAGES * PAGE_SIZE, hva, self->fd, 0);
	run_check(self, PRIVATE, true);
	run_check(self, PRIVATE, false);
	expect_canary(self);
}

/*
 * The file is all the memory there is: the page stays where it is.  KVM keeps no
 * reference to it, which would be one too many for a conversion.
 */
TEST_F(caches, conversion_in_place)
{
	const uint64_t size = SLOT_PAGES * PAGE_SIZE;
	void *mem;
	int i, j;

	REQUIRE_SUPPORT();
	if (!(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
	      GUEST_MEMFD_FLAG_MMAP))
		SKIP(return, "No files that can be mapped");

	vm_mem_region_delete(self->vm, SLOT);
	close(self->fd);
	self->fd = vm_create_guest_memfd(self->vm, size, GUEST_MEMFD_FLAG_MMAP);
	mem = gmem_map(self->fd, size, 0);
	vm_set_user_memory_region2(self->vm, SLOT, KVM_MEM_GUEST_MEMFD, SLOT_GPA,
				   size, mem, self->fd, 0);
	self->alias = mem + (GPA - SLOT_GPA);

	start(self);
	for (i = 0; i < 3; i++) {
		vm_mem_set_shared(self->vm, GPA, SIZE);
		TEST_ASSERT_EQ(*(uint32_t *)(self->alias + MARK_OFFSET), MARK);
		for (j = 0; j < 4; j++)
			run_check(self, PRIVATE, false);
		vm_mem_set_private(self->vm, GPA, SIZE);
		expect_sigbus(self->alias);
		for (j = 0; j < 4; j++)
			run_check(self, PRIVATE, false);
	}
	vm_delete_slot(self->vm, SLOT);
	munmap(mem, size);
}

/* Scenarios of their own. */

FIXTURE(races) {
	FIXTURE_DATA(caches) caches;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	pthread_t hog;
	bool stop;
};

static void *hog(void *arg)
{
	pin_to_cpu(0);
	while (!READ_ONCE(*(bool *)arg))
		;
	return NULL;
}

FIXTURE_SETUP(races)
{
	static const struct interface interface = {
		enable_clock_and_steal_time, nothing, nothing, true,
	};

	setup(&self->caches, self->vcpus, MAX_VCPUS, &interface);
	self->stop = false;
	TEST_ASSERT(!pthread_create(&self->hog, NULL, hog, &self->stop),
		    "pthread_create() failed");
}

FIXTURE_TEARDOWN(races)
{
	WRITE_ONCE(self->stop, true);
	pthread_join(self->hog, NULL);
	kvm_vm_free(self->caches.vm);
	close(self->caches.fd);
}

/* Shares its CPU, so that it is preempted often. */
static void *run_preempted(void *vcpu)
{
	pin_to_cpu(0);
	vcpu_run_to_sync(vcpu);
	return NULL;
}

static pthread_t start_vcpu(struct kvm_vcpu *vcpu, uint64_t cmd)
{
	pthread_t thread;

	set_command(vcpu, cmd);
	TEST_ASSERT(!pthread_create(&thread, NULL, run_preempted, vcpu),
		    "pthread_create() failed");
	return thread;
}

static void stop_guest(struct kvm_vm *vm, uint64_t stop)
{
	guest_stop = stop;
	sync_global_to_guest(vm, guest_stop);
}

TEST_F(races, preempted)
{
	uint64_t flushes;
	pthread_t thread;
	int i;

	command(&self->caches, CMD_ENABLE);
	for (i = 0; i < 3; i++) {
		stop_guest(self->caches.vm, 0);
		flushes = vcpu_get_stat(self->vcpus[0], "tlb_flush");
		thread = start_vcpu(self->vcpus[0], CMD_SPIN);
		set_command(self->vcpus[1], CMD_WATCH);
		vcpu_run_to_sync(self->vcpus[1]);
		pthread_join(thread, NULL);
		TEST_ASSERT(vcpu_get_stat(self->vcpus[0], "tlb_flush") > flushes,
			    "The TLB has not been flushed");
	}
	expect_canary(&self->caches);
}

/* The page goes away again and again while KVM writes to it. */
TEST_F(races, holes)
{
	pthread_t thread;
	int i;

	stop_guest(self->caches.vm, 0);
	command(&self->caches, CMD_ENABLE);
	thread = start_vcpu(self->vcpus[0], CMD_SPIN_EXITS);
	for (i = 0; i < 500; i++) {
		gmem_punch_hole(self->caches.fd, FILE_OFFSET + GPA - SLOT_GPA, SIZE);
		set_clock(&self->caches);
	}
	stop_guest(self->caches.vm, 1);
	pthread_join(thread, NULL);
	expect_canary(&self->caches);
}

/* As above, but KVM may be late with a write to the shared side. */
TEST_F(races, conversions)
{
	pthread_t thread;
	int i;

	stop_guest(self->caches.vm, 0);
	command(&self->caches, CMD_ENABLE);
	thread = start_vcpu(self->vcpus[0], CMD_SPIN_EXITS);
	for (i = 0; i < 500; i++) {
		vm_mem_set_shared(self->caches.vm, GPA, SIZE);
		set_clock(&self->caches);
		vm_mem_set_private(self->caches.vm, GPA, SIZE);
		set_clock(&self->caches);
	}
	stop_guest(self->caches.vm, 1);
	pthread_join(thread, NULL);

	gmem_punch_hole(self->caches.fd, FILE_OFFSET + GPA - SLOT_GPA, SIZE);
	memset(self->caches.alias, CANARY, SIZE);
	guest_if.check = clock_check;
	sync_global_to_guest(self->caches.vm, guest_if);
	run_check(&self->caches, PRIVATE, true);
	guest_if.check = steal_check;
	sync_global_to_guest(self->caches.vm, guest_if);
	gmem_punch_hole(self->caches.fd, FILE_OFFSET + GPA - SLOT_GPA, SIZE);
	run_check(&self->caches, PRIVATE, true);
	expect_canary(&self->caches);
}

TEST_F(races, close_file)
{
	pthread_t thread;
	int i;

	stop_guest(self->caches.vm, 0);
	command(&self->caches, CMD_ENABLE);
	thread = start_vcpu(self->vcpus[0], CMD_SPIN_EXITS);
	for (i = 0; i < 20; i++)
		set_clock(&self->caches);
	close(self->caches.fd);
	for (i = 0; i < 20; i++)
		set_clock(&self->caches);
	stop_guest(self->caches.vm, 1);
	pthread_join(thread, NULL);
	expect_canary(&self->caches);
}

static void *serve_userfault(void *arg)
{
	static uint64_t page[512] __aligned(4096) = { MARK };
	int uffd = *(int *)arg;
	struct uffdio_copy copy = {
		.src = (uintptr_t)page,
		.len = sizeof(page),
	};
	struct uffd_msg msg;

	TEST_ASSERT(read(uffd, &msg, sizeof(msg)) == sizeof(msg),
		    "read() of the userfaultfd, errno: %d", errno);
	TEST_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
	copy.dst = msg.arg.pagefault.address & ~(PAGE_SIZE - 1);
	TEST_ASSERT(!ioctl(uffd, UFFDIO_COPY, &copy), "UFFDIO_COPY, errno: %d",
		    errno);
	return NULL;
}

/* A page of the shared side is not there: the guest is told, and when it is. */
TEST(async_pf_not_present)
{
	static const struct interface interface = {
		apf_enable, apf_check, apf_provoke,
	};
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	FIXTURE_DATA(caches) data = {}, *self = &data;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	int uffd;

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (uffd < 0)
		SKIP(return, "No userfaultfd, errno: %d", errno);

	setup(self, &vcpu, 1, &interface);
	vm_install_exception_handler(self->vm, PF_VECTOR, guest_pf_handler);
	start(self);

	TEST_ASSERT(!ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API, errno: %d", errno);
	reg.range.start = (uintptr_t)addr_gpa2hva(self->vm, SHARED_GPA);
	reg.range.len = PAGE_SIZE;
	TEST_ASSERT(!ioctl(uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER, errno: %d", errno);
	TEST_ASSERT(!pthread_create(&thread, NULL, serve_userfault, &uffd),
		    "pthread_create() failed");

	command(self, CMD_FAULT);
	pthread_join(thread, NULL);
	expect_canary(self);

	kvm_vm_free(self->vm);
	close(self->fd);
	close(uffd);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_ADJUST_CLOCK));

	return test_harness_run(argc, argv);
}
