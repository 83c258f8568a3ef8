// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_MAP_MEMORY and KVM_PRE_FAULT_MEMORY while something else happens: a signal,
 * the deletion of a slot, other vCPUs that map the same memory, and user space
 * that takes away what they map.
 *
 * Bugs that others had and that show here: a call that holds off the deletion of a
 * slot, and waits for it; one that does not end with a signal; a mapping that was
 * made for what the memory was before.
 */
#include "gmem_ahead.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#define NR_VCPUS	4
#define NR_ROUNDS	10
#define NR_CHANGES	60

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	uint64_t npages;
	/* The shared side, and the file for the private one if there is one. */
	uint8_t *hva;
	int fd;
};

static void create_vm(struct env *env, unsigned long type)
{
	env->fd = -1;
	env->vm = vm_create_type_with_vcpus(type, NR_VCPUS, MAX_PAGES, guest_main,
					    env->vcpus);
	virt_map(env->vm, GPA, GPA, MAX_PAGES);
}

static void add_memory(struct env *env, enum vm_mem_backing_src_type src,
		       uint64_t npages)
{
	vm_userspace_mem_region_add(env->vm, src, GPA, SLOT, npages, 0);
	env->hva = addr_gpa2hva(env->vm, GPA);
	env->npages = npages;
}

static void add_private_memory(struct env *env, uint64_t npages)
{
	env->fd = vm_create_guest_memfd(env->vm, BYTES(npages), 0);
	vm_gmem_region_add(env->vm, VM_MEM_SRC_ANONYMOUS, GPA, SLOT, npages,
			   env->fd, 0);
	env->hva = addr_gpa2hva(env->vm, GPA);
	env->npages = npages;
	vm_mem_set_private(env->vm, GPA, BYTES(npages));
}

static void free_vm(struct env *env)
{
	if (env->fd >= 0)
		close(env->fd);
	kvm_vm_free(env->vm);
}

/* All that is mapped is unmapped; the memory stays. */
static void recreate_slot(struct env *env)
{
	vm_delete_slot(env->vm, SLOT);
	vm_set_user_memory_region2(env->vm, SLOT, env->fd >= 0 ? KVM_MEM_GUEST_MEMFD : 0,
				   GPA, BYTES(env->npages), env->hva,
				   env->fd >= 0 ? env->fd : 0, 0);
}

/* With each @step-th page from @first on; reads check that they see @value. */
static void guest_do(struct env *env, uint64_t op, uint64_t first, uint64_t step,
		     uint64_t value)
{
	vm_set_guest_cmd(env->vm, op, first, env->npages - first, step, value);
	vcpu_run_to_sync(env->vcpus[0]);
}

/* Either call, with the same arguments. */
static int map_errno(struct kvm_vcpu *vcpu, bool pre_fault, uint64_t gpa,
		     uint64_t size, uint64_t *left)
{
	return errno_of(pre_fault ? __vcpu_pre_fault(vcpu, gpa, size, left) :
				    __vcpu_map_memory(vcpu, gpa, size, left));
}

/*
 * A call that is held up: the page is missing and user space has to bring it,
 * which happens when what the test wants to meet the call is under way.
 */

#define HELD_PAGES	8ULL
/* The one that is missing. */
#define PAGE		3ULL
#define SIZE		BYTES(HELD_PAGES)

FIXTURE(held) {
	struct env env;
	int uffd;
};

FIXTURE_VARIANT(held) {
	bool pre_fault;
};

FIXTURE_VARIANT_ADD(held, map_memory) {
};

FIXTURE_VARIANT_ADD(held, pre_fault) {
	.pre_fault = true,
};

static void on_signal(int signal)
{
}

FIXTURE_SETUP(held)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct env *env = &self->env;

	create_vm(env, KVM_X86_DEFAULT_VM);
	add_memory(env, VM_MEM_SRC_ANONYMOUS, HELD_PAGES);
	memset(env->hva, 1, SIZE);
	ASSERT_EQ(0, madvise(env->hva + BYTES(PAGE), PAGE_SIZE, MADV_DONTNEED));
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, vm_mapped_pages(env->vm));

	self->uffd = userfault_missing(env->hva, SIZE);
}

FIXTURE_TEARDOWN(held)
{
	free_vm(&self->env);
	if (self->uffd >= 0)
		close(self->uffd);
}

/* A thread with a call, or one that deletes the slot. */
struct caller {
	struct env *env;
	bool pre_fault;
	pthread_t thread;
	pid_t tid;
	/* What the call says. */
	int err;
	uint64_t left;
};

static void *call_main(void *arg)
{
	struct caller *caller = arg;

	__atomic_store_n(&caller->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	caller->err = map_errno(caller->env->vcpus[0], caller->pre_fault, GPA, SIZE,
				&caller->left);
	return NULL;
}

static void *delete_main(void *arg)
{
	struct caller *caller = arg;

	__atomic_store_n(&caller->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	vm_mem_region_delete(caller->env->vm, SLOT);
	return NULL;
}

static void start_thread(struct caller *caller, struct env *env, bool pre_fault,
			 void *(*thread_main)(void *))
{
	caller->env = env;
	caller->pre_fault = pre_fault;
	caller->tid = 0;
	TEST_ASSERT(!pthread_create(&caller->thread, NULL, thread_main, caller),
		    "pthread_create() failed");
}

static void wait_for_fault(FIXTURE_DATA(held) *self)
{
	struct uffd_msg msg;

	TEST_ASSERT(read(self->uffd, &msg, sizeof(msg)) == sizeof(msg), "errno %d", errno);
	TEST_ASSERT_EQ((uint64_t)msg.arg.pagefault.address,
		       (uint64_t)self->env.hva + BYTES(PAGE));
}

static void release_page(FIXTURE_DATA(held) *self)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)self->env.hva + BYTES(PAGE),
		.src = (uintptr_t)self->env.hva,
		.len = PAGE_SIZE,
	};

	TEST_ASSERT(!ioctl(self->uffd, UFFDIO_COPY, &copy), "errno %d", errno);
}

/* The page at hand is finished, and the next call takes it from there. */
TEST_F(held, signal_on_the_way)
{
	struct env *env = &self->env;
	struct caller caller;
	uint64_t left;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd");

	start_thread(&caller, env, variant->pre_fault, call_main);
	wait_for_fault(self);
	pthread_kill(caller.thread, SIGUSR1);
	release_page(self);
	pthread_join(caller.thread, NULL);

	EXPECT_EQ(variant->pre_fault ? 0 : EINTR, caller.err);
	EXPECT_EQ(BYTES(HELD_PAGES - PAGE - 1), caller.left);
	EXPECT_EQ(PAGE + 1, vm_mapped_pages(env->vm));
	EXPECT_EQ(0, map_errno(env->vcpus[0], variant->pre_fault,
			       GPA + SIZE - caller.left, caller.left, &left));
	EXPECT_EQ(0, left);
	EXPECT_EQ(HELD_PAGES, vm_mapped_pages(env->vm));
}

/* The signal comes while the vCPU is busy with another call. */
TEST_F(held, signal_before_the_first_page)
{
	struct caller holder, caller;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd");

	start_thread(&holder, &self->env, false, call_main);
	wait_for_fault(self);
	start_thread(&caller, &self->env, variant->pre_fault, call_main);
	wait_until_blocked(&caller.tid);
	pthread_kill(caller.thread, SIGUSR1);
	release_page(self);
	pthread_join(holder.thread, NULL);
	pthread_join(caller.thread, NULL);

	EXPECT_EQ(0, holder.err);
	EXPECT_EQ(0, holder.left);
	EXPECT_EQ(EINTR, caller.err);
	EXPECT_EQ(SIZE, caller.left);
}

/* Whoever deletes the slot waits for the call, so the call must not wait. */
TEST_F(held, slot_deleted_on_the_way)
{
	struct caller caller, deleter;
	struct env *env = &self->env;
	uint64_t left;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd");

	start_thread(&caller, env, variant->pre_fault, call_main);
	wait_for_fault(self);
	start_thread(&deleter, env, false, delete_main);
	wait_until_blocked(&deleter.tid);
	release_page(self);
	pthread_join(caller.thread, NULL);
	pthread_join(deleter.thread, NULL);

	/* On its way to be deleted, or deleted already. */
	EXPECT_TRUE(variant->pre_fault ? !caller.err :
		    caller.err == EAGAIN || caller.err == ENOENT);
	EXPECT_EQ(BYTES(HELD_PAGES - PAGE - 1), caller.left);
	EXPECT_EQ(0, vm_mapped_pages(env->vm));
	EXPECT_EQ(ENOENT, map_errno(env->vcpus[0], variant->pre_fault, GPA, SIZE, &left));
	EXPECT_EQ(SIZE, left);
}

/* Other vCPUs do not wait for one that is held up. */
TEST_F(held, other_vcpus)
{
	struct env *env = &self->env;
	struct caller caller;
	uint64_t left;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd");

	start_thread(&caller, env, variant->pre_fault, call_main);
	wait_for_fault(self);
	EXPECT_EQ(0, map_errno(env->vcpus[1], variant->pre_fault, GPA, BYTES(PAGE), &left));
	EXPECT_EQ(0, left);
	EXPECT_EQ(0, map_errno(env->vcpus[2], variant->pre_fault, PAGE_GPA(PAGE + 1),
			       SIZE - BYTES(PAGE + 1), &left));
	EXPECT_EQ(0, left);
	EXPECT_EQ(HELD_PAGES - 1, vm_mapped_pages(env->vm));
	release_page(self);
	pthread_join(caller.thread, NULL);
	EXPECT_EQ(0, caller.err);
	EXPECT_EQ(0, caller.left);
	EXPECT_EQ(HELD_PAGES, vm_mapped_pages(env->vm));
}

/* All vCPUs at once. */

struct mapper {
	struct env *env;
	pthread_barrier_t *barrier;
	pthread_t thread;
	int index;
	volatile bool *stop;
	/* Is memory taken away that the slot has, or the slot itself? */
	bool slot_goes;
};

/* Overlapping ranges, to the end; of all together nothing is left out. */
static void *map_once(void *arg)
{
	struct mapper *m = arg;
	uint64_t first = m->index * m->env->npages / 8;

	pthread_barrier_wait(m->barrier);
	if (m->index % 2)
		vcpu_pre_fault(m->env->vcpus[m->index], PAGE_GPA(first),
			       BYTES(m->env->npages - first));
	else
		vcpu_map_memory(m->env->vcpus[m->index], PAGE_GPA(first),
				BYTES(m->env->npages - first));
	return NULL;
}

static void *map_until_stopped(void *arg)
{
	struct mapper *m = arg;
	uint64_t gpa = GPA, size = BYTES(m->env->npages), left;
	int err;

	while (!*m->stop) {
		err = map_errno(m->env->vcpus[m->index], m->index % 2, gpa, size, &left);
		TEST_ASSERT(!err || (m->slot_goes && (err == EAGAIN || err == ENOENT)),
			    "errno %d at gpa %#lx", err, gpa + size - left);
		/* Without an error one call does all, and the other something. */
		TEST_ASSERT(err || (m->index % 2 ? left < size : !left),
			    "No error, and %#lx of %#lx is left", left, size);
		/* With one of them what is left is tried again. */
		gpa += size - left;
		size = left;
		if (!size) {
			gpa = GPA;
			size = BYTES(m->env->npages);
		}
	}
	return NULL;
}

FIXTURE(all) {
	struct env env;
	struct mapper mappers[NR_VCPUS];
	int first_mapper;
	pthread_barrier_t barrier;
	volatile bool stop;
};

FIXTURE_VARIANT(all) {
	unsigned long type;
	enum vm_mem_backing_src_type src;
	uint64_t npages;
};

FIXTURE_VARIANT_ADD(all, private) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.npages = 128,
};

FIXTURE_VARIANT_ADD(all, anonymous) {
	.src = VM_MEM_SRC_ANONYMOUS,
	.npages = 128,
};

FIXTURE_VARIANT_ADD(all, transparent_huge) {
	.src = VM_MEM_SRC_ANONYMOUS_THP,
	.npages = MAX_PAGES,
};

FIXTURE_SETUP(all)
{
	struct env *env = &self->env;
	int i;

	if (variant->type && !kvm_has_private_vms())
		return;
	create_vm(env, variant->type);
	if (variant->type)
		add_private_memory(env, variant->npages);
	else
		add_memory(env, variant->src, variant->npages);
	for (i = 0; i < NR_VCPUS; i++) {
		self->mappers[i].env = env;
		self->mappers[i].index = i;
		self->mappers[i].barrier = &self->barrier;
		self->mappers[i].stop = &self->stop;
	}
	pthread_barrier_init(&self->barrier, NULL, NR_VCPUS);
}

FIXTURE_TEARDOWN(all)
{
	if (self->env.vm)
		free_vm(&self->env);
}

/* On the vCPUs from @first on. */
static void start_mappers(FIXTURE_DATA(all) *self, int first,
			  void *(*thread_main)(void *))
{
	int i;

	self->stop = false;
	self->first_mapper = first;
	for (i = first; i < NR_VCPUS; i++)
		TEST_ASSERT(!pthread_create(&self->mappers[i].thread, NULL, thread_main,
					    &self->mappers[i]),
			    "pthread_create() failed");
}

static void join_mappers(FIXTURE_DATA(all) *self)
{
	int i;

	self->stop = true;
	for (i = self->first_mapper; i < NR_VCPUS; i++)
		pthread_join(self->mappers[i].thread, NULL);
}

/*
 * What is mapped now is the memory that the slot has: what the guest writes there
 * is there when it is mapped anew.
 */
static void expect_consistent(struct env *env)
{
	vcpu_map_memory(env->vcpus[0], GPA, BYTES(env->npages));
	guest_do(env, OP_WRITE, 0, 1, NEW_VALUE);
	recreate_slot(env);
	guest_do(env, OP_READ, 0, 1, NEW_VALUE);
}

/* Each page is mapped once, whoever comes first. */
TEST_F(all, same_memory)
{
	struct env *env = &self->env;
	int round;

	if (!env->vm)
		SKIP(return, "no private memory");

	for (round = 0; round < NR_ROUNDS; round++) {
		start_mappers(self, 0, map_once);
		join_mappers(self);
		ASSERT_EQ(env->npages, vm_mapped_pages(env->vm));
		/* From nothing every other time, else to what is there. */
		if (round % 2) {
			recreate_slot(env);
			ASSERT_EQ(0, vm_mapped_pages(env->vm));
		}
	}
	if (env->fd >= 0)
		EXPECT_EQ(env->npages, gmem_allocated_pages(env->fd));
	expect_consistent(env);
}

/* Against user space that takes the memory away. */

static void remove_pages(FIXTURE_DATA(all) *self, uint64_t first, uint64_t npages)
{
	struct env *env = &self->env;

	if (env->fd >= 0)
		gmem_punch_hole(env->fd, BYTES(first), BYTES(npages));
	else
		TEST_ASSERT(!madvise(env->hva + BYTES(first), BYTES(npages),
				     MADV_DONTNEED), "errno %d", errno);
}

/* A range that moves through the memory, and has a new size each time. */
static void pick_range(struct env *env, int i, uint64_t *first, uint64_t *npages)
{
	*first = i * 37 % env->npages;
	*npages = 1 + i * 11 % (env->npages - *first);
}

TEST_F(all, memory_removed)
{
	struct env *env = &self->env;
	uint64_t first, npages;
	int i;

	if (!env->vm)
		SKIP(return, "no private memory");

	start_mappers(self, 0, map_until_stopped);
	for (i = 0; i < NR_CHANGES; i++) {
		pick_range(env, i, &first, &npages);
		remove_pages(self, first, npages);
	}
	join_mappers(self);
	expect_consistent(env);
}

/* What the guest writes stays written, whoever maps the page. */
TEST_F(all, guest_at_work)
{
	struct env *env = &self->env;
	int i;

	if (!env->vm)
		SKIP(return, "no private memory");

	start_mappers(self, 1, map_until_stopped);
	for (i = 0; i < NR_ROUNDS; i++) {
		guest_do(env, OP_WRITE, 0, 1, NEW_VALUE + i);
		guest_do(env, OP_READ, 0, 1, NEW_VALUE + i);
		/* The next time, half of the pages are there. */
		remove_pages(self, 0, env->npages / 2);
	}
	join_mappers(self);
	expect_consistent(env);
}

TEST_F(all, slot_deleted)
{
	struct env *env = &self->env;
	int i;

	if (!env->vm)
		SKIP(return, "no private memory");

	guest_do(env, OP_WRITE, 0, 1, PRIVATE_VALUE);
	for (i = 0; i < NR_VCPUS; i++)
		self->mappers[i].slot_goes = true;
	start_mappers(self, 0, map_until_stopped);
	for (i = 0; i < NR_CHANGES; i++)
		recreate_slot(env);
	join_mappers(self);
	guest_do(env, OP_READ, 0, 1, PRIVATE_VALUE);
	expect_consistent(env);
}

/* Each page is what it became last, and none has seen the other side. */
TEST_F(all, converted)
{
	struct env *env = &self->env;
	uint64_t first, npages, i;

	if (!env->vm || env->fd < 0)
		SKIP(return, "no private memory to convert");

	guest_do(env, OP_WRITE, 0, 1, PRIVATE_VALUE);
	for (i = 0; i < env->npages; i++)
		*(uint64_t *)(env->hva + BYTES(i)) = WORD(SHARED_VALUE, i);

	start_mappers(self, 0, map_until_stopped);
	for (i = 0; i < NR_CHANGES; i++) {
		pick_range(env, i, &first, &npages);
		if (i % 2)
			vm_mem_set_private(env->vm, PAGE_GPA(first), BYTES(npages));
		else
			vm_mem_set_shared(env->vm, PAGE_GPA(first), BYTES(npages));
	}
	vm_mem_set_private(env->vm, GPA, BYTES(env->npages));
	for (i = 1; i < env->npages; i += 2)
		vm_mem_set_shared(env->vm, PAGE_GPA(i), PAGE_SIZE);
	join_mappers(self);

	guest_do(env, OP_READ, 0, 2, PRIVATE_VALUE);
	guest_do(env, OP_READ, 1, 2, SHARED_VALUE);
	expect_consistent(env);
	for (i = 0; i < env->npages; i++)
		ASSERT_EQ(i % 2 ? WORD(NEW_VALUE, i) : WORD(SHARED_VALUE, i),
			  *(uint64_t *)(env->hva + BYTES(i)));
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_BINARY_STATS_FD));

	return test_harness_run(argc, argv);
}
