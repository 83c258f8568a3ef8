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
#include "gmem_caches.h"

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

/* KVM writes to the page all the time. */
static pthread_t start_writes(FIXTURE_DATA(races) *self)
{
	stop_guest(self->caches.vm, 0);
	command(&self->caches, CMD_ENABLE);
	return start_vcpu(self->vcpus[0], CMD_SPIN_EXITS);
}

static void stop_writes(FIXTURE_DATA(races) *self, pthread_t thread)
{
	stop_guest(self->caches.vm, 1);
	pthread_join(thread, NULL);
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
	pthread_t thread = start_writes(self);
	int i;

	for (i = 0; i < 500; i++) {
		gmem_punch_hole(self->caches.fd, FILE_OFFSET + GPA - SLOT_GPA, SIZE);
		set_clock(&self->caches);
	}
	stop_writes(self, thread);
	expect_canary(&self->caches);
}

/* As above, but KVM may be late with a write to the shared side. */
TEST_F(races, conversions)
{
	pthread_t thread = start_writes(self);
	int i;

	for (i = 0; i < 500; i++) {
		vm_mem_set_shared(self->caches.vm, GPA, SIZE);
		set_clock(&self->caches);
		vm_mem_set_private(self->caches.vm, GPA, SIZE);
		set_clock(&self->caches);
	}
	stop_writes(self, thread);

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
	pthread_t thread = start_writes(self);
	int i;

	for (i = 0; i < 20; i++)
		set_clock(&self->caches);
	close(self->caches.fd);
	for (i = 0; i < 20; i++)
		set_clock(&self->caches);
	stop_writes(self, thread);
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
	FIXTURE_DATA(caches) data = {}, *self = &data;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	int uffd;

	setup(self, &vcpu, 1, &interface);
	vm_install_exception_handler(self->vm, PF_VECTOR, guest_pf_handler);
	start(self);

	uffd = userfault_missing(addr_gpa2hva(self->vm, SHARED_GPA), PAGE_SIZE);
	if (uffd < 0)
		SKIP(return, "No userfaultfd, errno: %d", errno);
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
