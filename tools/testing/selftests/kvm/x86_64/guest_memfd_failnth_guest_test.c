// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation on the way into a guest fails in turn: running it, mapping memory
 * ahead of it, a back end that measures and prepares its pages, changes to memory that
 * is mapped by one large entry.  What has failed has mapped nothing more than it says,
 * and works when it is tried again.
 *
 * See guest_memfd_failnth_test.
 */
#include "gmem_failnth_run.h"

/*
 * vCPUs.  No paging; the code is in the memory that the test is about.
 */

#define CODE		0x1000
#define DATA		0x4000
#define PORT		0x10

static const uint8_t tiny_code[] = {
	0xc6, 0x06, DATA & 0xff, DATA >> 8, 0x5a,	/* movb $0x5a, DATA */
	0xf4,						/* hlt */
	0xa0, DATA & 0xff, DATA >> 8,			/* movb DATA, %al */
	0xe6, PORT,					/* outb %al, $PORT */
};

struct tiny {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	/* The back end, if there is one. */
	bool soft;
	int dev;
	void *alias;
	void *code;
	struct kvm_pre_fault_memory range;
	struct kvm_memory_mapping mapping;
	struct kvm_gmem_soft_populate populate;
	bool private;
};

/* Without a vCPU, if there is a back end. */
static void tiny_vm(struct tiny *t)
{
	t->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	t->fd = vm_create_guest_memfd(t->vm, BYTES(FEW), t->soft ? 0 : FLAG_WRITE);
	vm_set_user_memory_region2(t->vm, SLOT, KVM_MEM_GUEST_MEMFD, 0, BYTES(FEW),
				   t->alias, t->fd, 0);
	if (t->private)
		vm_mem_set_private(t->vm, 0, BYTES(FEW));
	if (t->soft) {
		t->dev = open(SOFT_DEVICE, O_RDWR);
		TEST_ASSERT(t->dev >= 0, SOFT_DEVICE ", errno: %d", errno);
	}
}

static void tiny_start(struct tiny *t)
{
	struct kvm_regs regs;

	vcpu_regs_get(t->vcpu, &regs);
	regs.rip = CODE;
	vcpu_regs_set(t->vcpu, &regs);
}

static void tiny_vcpu(struct tiny *t)
{
	struct kvm_sregs sregs;

	t->vcpu = __vm_vcpu_add(t->vm, 0);
	vcpu_sregs_get(t->vcpu, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	vcpu_sregs_set(t->vcpu, &sregs);
	tiny_start(t);
	/* Mapped, as no fault of the host is the matter here. */
	READ_ONCE(t->vcpu->run->exit_reason);
}

static void tiny_load(struct tiny *t)
{
	TEST_ASSERT_EQ(pwrite(t->fd, t->code, BYTES(CODE / PAGE_SIZE + 1), 0),
		       BYTES(CODE / PAGE_SIZE + 1));
}

static struct kvm_gmem_soft_status soft_status(struct tiny *t)
{
	struct kvm_gmem_soft_status status;

	TEST_ASSERT(!ioctl(t->dev, KVM_GMEM_SOFT_STATUS, &status), "errno %d", errno);
	TEST_ASSERT_EQ(status.violations, 0);
	return status;
}

static int soft_attach_errno(void *arg)
{
	struct tiny *t = arg;
	struct kvm_gmem_soft_attach args = { .vm_fd = t->vm->fd };

	return errno_of(ioctl(t->dev, KVM_GMEM_SOFT_ATTACH, &args));
}

static int soft_populate_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(ioctl(t->dev, KVM_GMEM_SOFT_POPULATE, &t->populate));
}

static void soft_begin(void *arg)
{
	struct tiny *t = arg;

	tiny_vm(t);
	t->populate = (struct kvm_gmem_soft_populate) {
		.size = BYTES(FEW / 2),
		.source = (uintptr_t)t->code,
	};
}

static void soft_begin_attached(void *arg)
{
	soft_begin(arg);
	TEST_ASSERT_EQ(soft_attach_errno(arg), 0);
}

static void tiny_begin(void *arg)
{
	struct tiny *t = arg;

	if (t->soft) {
		soft_begin_attached(t);
		TEST_ASSERT_EQ(soft_populate_errno(t), 0);
		TEST_ASSERT(!ioctl(t->dev, KVM_GMEM_SOFT_FINALISE), "errno %d", errno);
	} else {
		tiny_vm(t);
		tiny_load(t);
	}
	tiny_vcpu(t);
	t->range = (struct kvm_pre_fault_memory) { .size = BYTES(FEW) };
	t->mapping = (struct kvm_memory_mapping) { .size = BYTES(FEW) };
}

static void tiny_end(void *arg)
{
	struct tiny *t = arg;

	if (t->soft)
		close(t->dev);
	close(t->fd);
	kvm_vm_free(t->vm);
	TEST_ASSERT_EQ(nr_own_vms(), 0);
}

/* A new root for the MMU, and nothing in the file. */
static void tiny_again(void *arg)
{
	struct tiny *t = arg;

	vm_delete_slot(t->vm, SLOT);
	gmem_punch_hole(t->fd, 0, BYTES(FEW));
	madvise(t->alias, BYTES(FEW), MADV_DONTNEED);
	vm_set_user_memory_region2(t->vm, SLOT, KVM_MEM_GUEST_MEMFD, 0, BYTES(FEW),
				   t->alias, t->fd, 0);
	t->range = (struct kvm_pre_fault_memory) { .size = BYTES(FEW) };
	t->mapping = (struct kvm_memory_mapping) { .size = BYTES(FEW) };
	if (t->soft)
		TEST_ASSERT_EQ(soft_status(t).owned, 0);
}

static void tiny_run_again(void *arg)
{
	tiny_again(arg);
	tiny_load(arg);
	tiny_start(arg);
}

static int run_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(__vcpu_run(t->vcpu));
}

/* No page but the ones that it has touched. */
static void tiny_unchanged(void *arg)
{
	struct tiny *t = arg;
	uint64_t nr = gmem_allocated_pages(t->fd);

	TEST_ASSERT(nr == 2 || nr == 3, "%lu pages", nr);
}

/* It has got to the next instruction, not further, and what it wrote is there. */
static void tiny_has_run(void *arg)
{
	struct tiny *t = arg;
	struct kvm_run *run = t->vcpu->run;

	TEST_ASSERT(run->exit_reason == KVM_EXIT_HLT, "Exit %u (%s)", run->exit_reason,
		    exit_reason_str(run->exit_reason));
	if (!t->soft)
		TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), 3);
	TEST_ASSERT_EQ(run_errno(t), 0);
	TEST_ASSERT(run->exit_reason == KVM_EXIT_IO && run->io.port == PORT,
		    "Exit %u (%s)", run->exit_reason, exit_reason_str(run->exit_reason));
	TEST_ASSERT_EQ(*((uint8_t *)run + run->io.data_offset), 0x5a);
}

static int pre_fault_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(ioctl(t->vcpu->fd, KVM_PRE_FAULT_MEMORY, &t->range));
}

static void mapped_none(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT(!t->range.gpa && t->range.size == BYTES(FEW), "gpa %#llx size %#llx",
		    t->range.gpa, t->range.size);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), 0);
}

static void mapped_all(void *arg)
{
	struct tiny *t = arg;

	/* It is no error to have mapped a part. */
	TEST_ASSERT_EQ(t->range.gpa + t->range.size, BYTES(FEW));
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), t->range.gpa / PAGE_SIZE);
	if (t->range.size)
		TEST_ASSERT_EQ(pre_fault_errno(arg), 0);
	TEST_ASSERT_EQ(t->range.size, 0);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), FEW);
	if (t->private)
		TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), FEW);
}

static int map_memory_errno(void *arg)
{
	struct tiny *t = arg;

	return errno_of(ioctl(t->vcpu->fd, KVM_MAP_MEMORY, &t->mapping));
}

/* It is an error, and the part is told. */
static void mapped_part(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT(t->mapping.size &&
		    t->mapping.base_address + t->mapping.size == BYTES(FEW),
		    "base %#llx size %#llx", t->mapping.base_address, t->mapping.size);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"),
		       t->mapping.base_address / PAGE_SIZE);
}

static void mapped_whole(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT_EQ(t->mapping.size, 0);
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), FEW);
	if (t->private)
		TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), FEW);
}

/* Writable pages of its own are what mapping ahead of the guest promises. */
static void mapped_alias(void *arg)
{
	struct tiny *t = arg;
	uint64_t i;

	mapped_all(arg);
	TEST_ASSERT_EQ(smaps_kb(t->alias, "Private_Dirty:"), BYTES(FEW) / 1024);
	for (i = 0; i < FEW; i++)
		*word_of(t->alias, i) = 1;
	/* Else that would have taken it out of the guest. */
	TEST_ASSERT_EQ(vm_get_stat(t->vm, "pages_4k"), FEW);
}

/* One VM for all of it. */
static void sweep_tiny(struct tiny *t, const struct sweep *op)
{
	tiny_begin(t);
	sweep(op, t);
	tiny_end(t);
}

FIXTURE(tiny) {
	struct tiny t;
};

FIXTURE_SETUP(tiny)
{
	struct tiny *t = &self->t;

	t->private = true;
	t->alias = anonymous_pages(BYTES(FEW));
	t->code = anonymous_pages(BYTES(FEW));
	memset(t->code, CANARY, BYTES(FEW));
	memcpy(t->code + CODE, tiny_code, sizeof(tiny_code));
}

FIXTURE_TEARDOWN(tiny)
{
	munmap(self->t.alias, BYTES(FEW));
	munmap(self->t.code, BYTES(FEW));
}

TEST_F(tiny, run)
{
	static const struct sweep op = {
		.name = "KVM_RUN", .begin = tiny_run_again, .act = run_errno,
		.unchanged = tiny_unchanged, .done = tiny_has_run,
	};
	/* A VM for each try, as a vCPU keeps much of what it has allocated. */
	static const struct sweep first_op = {
		.name = "KVM_RUN, the first", .begin = tiny_begin, .act = run_errno,
		.unchanged = tiny_unchanged, .done = tiny_has_run, .end = tiny_end,
		.dense = 20,
	};

	sweep_tiny(&self->t, &op);
	sweep(&first_op, &self->t);
}

TEST_F(tiny, pre_fault)
{
	static const struct sweep op = {
		.name = "KVM_PRE_FAULT_MEMORY", .begin = tiny_again,
		.act = pre_fault_errno, .unchanged = mapped_none, .done = mapped_all,
	};

	sweep_tiny(&self->t, &op);
}

TEST_F(tiny, pre_fault_shared)
{
	static const struct sweep op = {
		.name = "KVM_PRE_FAULT_MEMORY, shared", .begin = tiny_again,
		.act = pre_fault_errno, .unchanged = mapped_none, .done = mapped_alias,
		/* KVM asks for a page of the alias twice, and then to read it only. */
		.never_fails = true,
	};

	self->t.private = false;
	/* One by one. */
	madvise(self->t.alias, BYTES(FEW), MADV_NOHUGEPAGE);
	sweep_tiny(&self->t, &op);
}

TEST_F(tiny, map_memory)
{
	static const struct sweep op = {
		.name = "KVM_MAP_MEMORY", .begin = tiny_again, .act = map_memory_errno,
		.unchanged = mapped_part, .done = mapped_whole,
	};

	sweep_tiny(&self->t, &op);
}

/*
 * The back end.
 */

static void soft_not_attached(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT_EQ(errno_of(ioctl(t->dev, KVM_GMEM_SOFT_FINALISE)), EINVAL);
}

static void soft_attached(void *arg)
{
	struct tiny *t = arg;

	TEST_ASSERT_EQ(soft_status(t).finalised, 0);
	TEST_ASSERT_EQ(soft_attach_errno(arg), EBUSY);
}

static uint8_t undisturbed_digest[32];

static void populated_none(void *arg)
{
	struct tiny *t = arg;
	struct kvm_gmem_soft_status status = soft_status(t);

	TEST_ASSERT_EQ(t->populate.gpa, 0);
	TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), 0);
	TEST_ASSERT_EQ(status.populated, 0);
	TEST_ASSERT_EQ(status.owned, 0);
}

/* The same contents are measured, in the same order. */
static void populated_all(void *arg)
{
	struct tiny *t = arg;
	struct kvm_gmem_soft_status status = soft_status(t);
	uint64_t some = t->populate.gpa / PAGE_SIZE;

	TEST_ASSERT_EQ(status.populated, some);
	TEST_ASSERT_EQ(status.owned, some);
	TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), some);
	if (t->populate.size)
		TEST_ASSERT_EQ(soft_populate_errno(arg), 0);
	TEST_ASSERT_EQ(t->populate.size, 0);
	status = soft_status(t);
	TEST_ASSERT_EQ(status.populated, FEW / 2);
	TEST_ASSERT_EQ(status.owned, FEW / 2);
	TEST_ASSERT_EQ(gmem_allocated_pages(t->fd), FEW / 2);
	TEST_ASSERT(!memcmp(status.digest, undisturbed_digest, sizeof(status.digest)),
		    "Another measurement");
}

/* As many pages are the guest's as it has, none is twice. */
static void soft_mapped_all(void *arg)
{
	struct tiny *t = arg;

	mapped_all(arg);
	TEST_ASSERT_EQ(soft_status(t).owned, FEW);
}

TEST_F(tiny, back_end)
{
	static const struct sweep attach_op = {
		.name = "attach a back end", .begin = soft_begin,
		.act = soft_attach_errno, .unchanged = soft_not_attached,
		.done = soft_attached, .end = tiny_end,
	};
	static const struct sweep populate_op = {
		.name = "populate", .begin = soft_begin_attached,
		.act = soft_populate_errno, .unchanged = populated_none,
		.done = populated_all, .end = tiny_end,
	};
	static const struct sweep pre_fault_op = {
		.name = "KVM_PRE_FAULT_MEMORY, back end", .begin = tiny_again,
		.act = pre_fault_errno, .unchanged = mapped_none,
		.done = soft_mapped_all,
	};
	struct tiny *t = &self->t;

	if (access(SOFT_DEVICE, R_OK | W_OK))
		SKIP(return, "no " SOFT_DEVICE);
	t->soft = true;
	sweep(&attach_op, t);

	soft_begin_attached(t);
	TEST_ASSERT_EQ(soft_populate_errno(t), 0);
	memcpy(undisturbed_digest, soft_status(t).digest, sizeof(undisturbed_digest));
	tiny_end(t);
	sweep(&populate_op, t);
	sweep_tiny(t, &pre_fault_op);
}

/*
 * A guest that has 2 MiB mapped by one entry.
 */

static int share_one_errno(void *arg)
{
	struct large *l = arg;

	return errno_of(__vm_set_memory_attributes(l->env.vm, PAGE_GPA(17), BYTES(1), 0));
}

static void all_private(void *arg)
{
	struct large *l = arg;

	guest_checks(l, 0, LARGE, GUEST_VALUE);
	expect_mapped(l, 1, 0);
}

static void one_shared(void *arg)
{
	struct large *l = arg;

	guest_checks(l, 0, 17, GUEST_VALUE);
	guest_checks(l, 17, 1, HOST_VALUE);
	guest_checks(l, 18, LARGE - 18, GUEST_VALUE);
	expect_mapped(l, 0, LARGE);
}

static void map_all_again(void *arg)
{
	struct large *l = arg;

	vm_mem_set_private(l->env.vm, GPA, LARGE_SIZE);
	gmem_punch_hole(l->env.fd, 0, LARGE_SIZE);
	guest_writes(l, 0, LARGE, GUEST_VALUE);
	all_private(arg);
}

static int punch_one_errno(void *arg)
{
	struct large *l = arg;

	return errno_of(__gmem_punch_hole(l->env.fd, BYTES(17), BYTES(1)));
}

static void one_punched(void *arg)
{
	struct large *l = arg;

	TEST_ASSERT_EQ(allocated(l), LARGE - 1);
	guest_checks(l, 0, 17, GUEST_VALUE);
	guest_checks(l, 17, 1, 0);
	guest_checks(l, 18, LARGE - 18, GUEST_VALUE);
}

FIXTURE(mapped) {
	struct large l;
};

FIXTURE_SETUP(mapped)
{
	large_setup(&self->l, KVM_X86_SW_PROTECTED_VM, 0, LARGE);
	bind_at(&self->l, 0, LARGE, 0);
	*word_of(self->l.alias, 17) = WORD(HOST_VALUE, 17);
}

FIXTURE_TEARDOWN(mapped)
{
	large_teardown(&self->l);
	EXPECT_EQ(0, nr_own_vms());
}

TEST_F(mapped, share_a_page)
{
	static const struct sweep op = {
		.name = "share a page of 2 MiB that is mapped", .begin = map_all_again,
		.act = share_one_errno, .unchanged = all_private, .done = one_shared,
	};

	REQUIRE_LARGE_PAGES();
	sweep(&op, &self->l);
}

TEST_F(mapped, punch_a_page)
{
	static const struct sweep op = {
		.name = "hole in 2 MiB that is mapped", .begin = map_all_again,
		.act = punch_one_errno, .unchanged = all_private, .done = one_punched,
		.never_fails = true,
	};

	REQUIRE_LARGE_PAGES();
	sweep(&op, &self->l);
}

int main(int argc, char *argv[])
{
	return failnth_main(argc, argv);
}
