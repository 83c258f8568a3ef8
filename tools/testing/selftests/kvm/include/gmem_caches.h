/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest of private_mem_caches_test: for each structure that it shares with KVM
 * how to have KVM use it, how to look whether KVM does, and what to do about it when
 * the structure's page is gone.  The host commands, see guest_main().
 *
 * Includes what the test needs, with the harness, in the order that it wants.
 */
#ifndef SELFTEST_KVM_GMEM_CACHES_H
#define SELFTEST_KVM_GMEM_CACHES_H

#include "kvm_gmem_util.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#include <asm/pvclock.h>

#include "apic.h"
#include "hyperv.h"
#include "svm_util.h"

#include "gmem_harness.h"

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

static inline volatile uint32_t *word(unsigned int offset)
{
	return (volatile uint32_t *)(GPA + offset);
}

/* What was seen last on each side, where KVM writes at any time. */
static uint32_t last_version[2];

/*
 * Versions are even when nothing is being written, and are not touched while the
 * guest is on the other side.
 */
static inline void check_version(uint32_t version)
{
	uint32_t last = guest_fresh ? 0 : last_version[guest_side];

	GUEST_ASSERT_1(!(version & 1), version);
	GUEST_ASSERT_2(version > last, version, last);
	/* Less than if the rounds on the other side had come here. */
	GUEST_ASSERT_2(version - last < 2 * ROUNDS, version, last);
	last_version[guest_side] = version;
}

/* kvm-clock. */

static inline struct pvclock_vcpu_time_info *clock_info(void)
{
	return (struct pvclock_vcpu_time_info *)(GPA + 0x40);
}

static inline void clock_enable(void)
{
	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (GPA + 0x40) | KVM_MSR_ENABLED);
}

static inline void clock_check(void)
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

static inline void nothing(void)
{
}

/* Steal time. */

static inline void steal_enable(void)
{
	wrmsr(MSR_KVM_STEAL_TIME, (GPA + 0x80) | KVM_MSR_ENABLED);
}

static inline struct kvm_steal_time *steal_time(void)
{
	return (struct kvm_steal_time *)(GPA + 0x80);
}

static inline void steal_check(void)
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

static inline void apf_enable(void)
{
	x2apic_enable();
	wrmsr(MSR_KVM_ASYNC_PF_INT, VECTOR);
}

/* To enable it makes KVM wake all that may have waited: a token of all ones. */
static inline void apf_check(void)
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

static inline void apf_provoke(void)
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
static inline void guest_pf_handler(struct ex_regs *regs)
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

static inline void guest_irq_handler(struct ex_regs *regs)
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

static inline bool in_service(void)
{
	return x2apic_read_reg(0x100 + VECTOR / 32 * 0x10) & (1u << (VECTOR % 32));
}

static inline void send_irq(void)
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

static inline void eoi_enable(void)
{
	x2apic_enable();
	wrmsr(MSR_KVM_PV_EOI_EN, GPA | KVM_MSR_ENABLED);
}

static inline void eoi_check(void)
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

static inline void fault(void)
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

static inline void eoi_provoke(void)
{
	eoi_blind = true;
	send_irq();
	eoi_blind = false;
}

/* Hyper-V. */

static inline void assist_enable(void)
{
	x2apic_enable();
	wrmsr(HV_X64_MSR_GUEST_OS_ID, 0x8100ULL << 48);
}

/* The first word is cleared, others are not, and then it is used as above. */
static inline void assist_check(void)
{
	*word(0) = JUNK;
	*word(4) = JUNK;
	wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, GPA | 1);
	GUEST_ASSERT_EQ(*word(0), 0u);
	GUEST_ASSERT_EQ(*word(4), JUNK);
	eoi_check();
}

static inline void assist_provoke(void)
{
	GUEST_ASSERT_EQ(wrmsr_safe(HV_X64_MSR_VP_ASSIST_PAGE, GPA | 1), GP_VECTOR);
	eoi_provoke();
}

static inline void tsc_page_enable(void)
{
	wrmsr(HV_X64_MSR_GUEST_OS_ID, 0x8100ULL << 48);
}

/*
 * The sequence is the next one, or 0 if the host's clock does not allow for more;
 * the scale is 0 only then.
 */
static inline void tsc_page_check(void)
{
	*word(0) = JUNK;
	*word(8) = 0;
	*word(12) = 0;
	wrmsr(HV_X64_MSR_REFERENCE_TSC, GPA | 1);
	GUEST_ASSERT_1(!*word(0) || *word(0) > JUNK, *word(0));
	GUEST_ASSERT_EQ(!*word(0), !(*word(8) | *word(12)));
	*word(4) = JUNK;
}

static inline void tsc_page_provoke(void)
{
	GUEST_ASSERT_EQ(wrmsr_safe(HV_X64_MSR_REFERENCE_TSC, GPA | 1), 0);
}

/* Wall clock: version, seconds, nanoseconds. */

static inline void wall_clock_check(void)
{
	*word(0x10) = JUNK + 1;
	*word(0x14) = 0;
	*word(0x18) = -1u;
	wrmsr(MSR_KVM_WALL_CLOCK_NEW, GPA + 0x10);
	GUEST_ASSERT_EQ(*word(0x10), JUNK + 4);
	GUEST_ASSERT(*word(0x14));
	GUEST_ASSERT(*word(0x18) < NSEC);
}

static inline void wall_clock_provoke(void)
{
	wrmsr(MSR_KVM_WALL_CLOCK_NEW, GPA + 0x10);
}

/* Nested SVM: the VMCB, the host's save area, the MSR bitmap. */

static uint64_t l2_stack[512];
static uint64_t l2_runs;

static inline void guest_l2(void)
{
	l2_runs++;
	asm volatile("vmmcall");
}

static inline void svm_check(void)
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

static inline void svm_provoke(void)
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

static inline void check(void)
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

static inline void enable_clock_and_steal_time(void)
{
	clock_enable();
	steal_enable();
}

static inline void spin_with_exits(void)
{
	while (!READ_ONCE(guest_stop))
		rdmsr(MSR_KVM_STEAL_TIME);
}

/*
 * As a guest that wants the other vCPU to flush its TLB, but not before that runs
 * again: KVM has to see it in what it exchanges.
 */
static inline void watch(void)
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

static inline void guest_main(uint64_t id)
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
			/*
			 * Without PAUSE.  Where that exits, vCPUs that spin on one
			 * processor would hand it to each other, which KVM does not
			 * tell the guest; they would not be preempted.
			 */
			while (!READ_ONCE(guest_stop))
				barrier();
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

#endif /* SELFTEST_KVM_GMEM_CACHES_H */
