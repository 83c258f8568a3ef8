// SPDX-License-Identifier: GPL-2.0
/*
 * Whose a page of a VM with a confidential back end is, seen through the software
 * one, /dev/kvm-gmem-soft: a page has one owner from when the guest first gets it
 * until it is taken away, and it is taken away before it is freed or given to
 * another gfn.  guest_memfd_soft_test is about the launch of such a VM.
 *
 * The back end counts the violations.  It must count none whatever user space
 * does, and some when it is told to overlook one thing: a check that cannot fail
 * shows nothing.
 */
#include "gmem_soft.h"

#define TORTURE_STEPS	240
#define TORTURE_MOVES	24
/* More than that many steps, if the others need time to prepare as many pages. */
#define ENOUGH		(4 * NR_PAGES)

/* At rest: nothing was ever done wrong, and as many pages are the guest's. */
#define expect_owned(dev, owned)					\
do {									\
	uint64_t __prepared = get_status(dev).prepared;			\
									\
	expect_pages(dev, __prepared, __prepared - (owned));		\
} while (0)

/* Of vCPU 0, which does OP_OUT. */
static void expect_out(struct env *env, uint8_t byte)
{
	struct kvm_run *run = env->vcpus[0]->run;

	vcpu_run(env->vcpus[0]);
	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_IO);
	TEST_ASSERT_EQ(*((uint8_t *)run + run->io.data_offset), byte);
}

/* As many vCPUs as there can be. */
FIXTURE(smp) {
	struct env env;
};

FIXTURE_SETUP(smp)
{
	env_setup(&self->env, MAX_VCPUS);
}

FIXTURE_TEARDOWN(smp)
{
	env_teardown(&self->env);
}

TEST_F(launch, clean_life)
{
	struct env *env = &self->env;

	populate(env, 0, 4);
	expect_pages(env->dev, 4, 0);
	finalise(env->dev);

	/* Once the guest's, it stays that. */
	guest_touches(env, PAGE(4), 6);
	expect_pages(env->dev, 10, 0);
	guest_touches(env, PAGE(4), 6);
	expect_contents(env, GPA, 4, env->src);
	expect_pages(env->dev, 10, 0);

	/* A hole takes what is there, once. */
	punch(env, 3, 3);
	expect_pages(env->dev, 10, 3);
	punch(env, 3, 3);
	punch(env, 10, 6);
	expect_pages(env->dev, 10, 3);
	expect_contents(env, PAGE(3), 1, NULL);
	expect_pages(env->dev, 11, 3);

	/* The slot's pages stay in the file, and are nobody's. */
	vm_delete_slot(env->vm, SLOT);
	expect_pages(env->dev, 11, 11);
	ASSERT_EQ(8, gmem_allocated_pages(env->fd));

	/* Page 1 of the old slot is page 3 of the new one. */
	bind_slot(env, SLOT, OTHER_GPA, env->fd, FILE_OFFSET - 2 * PAGE_SIZE);
	vm_mem_set_private(env->vm, OTHER_GPA, SIZE);
	expect_pages(env->dev, 11, 11);
	expect_contents(env, OTHER_GPA + 3 * PAGE_SIZE, 1, env->src[1]);
	expect_pages(env->dev, 12, 11);
	guest_touches(env, OTHER_GPA, NR_PAGES);
	expect_pages(env->dev, 11 + NR_PAGES, 11);

	close_file(env);
	expect_pages(env->dev, 11 + NR_PAGES, 11 + NR_PAGES);
	expect_measurement(env);
}

/* The page is in the file while the guest uses the other side. */
TEST_F(launch, conversion_keeps_the_owner)
{
	struct env *env = &self->env;

	populate(env, 0, 2);
	finalise(env->dev);
	guest_touches(env, PAGE(2), 2);
	expect_pages(env->dev, 4, 0);

	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_pages(env->dev, 4, 0);
	guest_touches(env, GPA, NR_PAGES);
	ASSERT_EQ(WORD, *(uint64_t *)env->hva);
	expect_pages(env->dev, 4, 0);
	ASSERT_EQ(4, gmem_allocated_pages(env->fd));

	vm_mem_set_private(env->vm, GPA, SIZE);
	expect_contents(env, GPA, 2, env->src);
	ASSERT_EQ(WORD, *(uint64_t *)guest_reads(env, PAGE(2)));
	expect_pages(env->dev, 4, 0);

	/* Freed while shared: the hole is in the file whoever sees it. */
	vm_mem_set_shared(env->vm, GPA, SIZE);
	punch(env, 0, 1);
	expect_pages(env->dev, 4, 1);
	vm_delete_slot(env->vm, SLOT);
	expect_pages(env->dev, 4, 4);
}

/* Where the file is all the memory, what is shared cannot stay the guest's. */
TEST_F(launch, conversion_in_place_changes_the_owner)
{
	struct env *env = &self->env;

	vm_delete_slot(env->vm, SLOT);
	close(env->fd);
	munmap(env->hva, SIZE);
	env->fd = vm_create_guest_memfd(env->vm, FILE_OFFSET + SIZE,
					GUEST_MEMFD_FLAG_MMAP);
	env->hva = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, env->fd,
			FILE_OFFSET);
	ASSERT_NE(MAP_FAILED, (void *)env->hva);
	bind_slot(env, SLOT, GPA, env->fd, FILE_OFFSET);

	populate(env, 0, 2);
	finalise(env->dev);
	guest_touches(env, PAGE(2), 2);
	expect_pages(env->dev, 4, 0);

	/* Taken away before user space can touch it; shared pages are nobody's. */
	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_pages(env->dev, 4, 4);
	ASSERT_EQ(0, memcmp(env->hva, env->src, 2 * PAGE_SIZE));
	guest_touches(env, GPA, NR_PAGES);
	expect_pages(env->dev, 4, 4);
	ASSERT_EQ(WORD, *(uint64_t *)env->hva[NR_PAGES - 1]);

	/* The guest's again where it comes to it. */
	vm_mem_set_private(env->vm, GPA, SIZE);
	expect_pages(env->dev, 4, 4);
	ASSERT_EQ(WORD, *(uint64_t *)guest_reads(env, PAGE(1)));
	expect_pages(env->dev, 5, 4);
	guest_touches(env, GPA, NR_PAGES);
	expect_pages(env->dev, 4 + NR_PAGES, 4);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));

	punch(env, 0, NR_PAGES);
	expect_pages(env->dev, 4 + NR_PAGES, 4 + NR_PAGES);
}

/* What user space only allocates is nobody's until the guest comes to it. */
TEST_F(launch, allocated_is_not_owned)
{
	struct env *env = &self->env;

	gmem_allocate(env->fd, 0, FILE_OFFSET + SIZE);
	expect_pages(env->dev, 0, 0);
	punch(env, 0, 2);
	expect_pages(env->dev, 0, 0);

	finalise(env->dev);
	guest_touches(env, PAGE(1), 3);
	expect_pages(env->dev, 3, 0);
	punch(env, 0, NR_PAGES);
	expect_pages(env->dev, 3, 3);
}

/* KVM's own access is one of the guest. */
TEST_F(launch, access_of_kvm)
{
	struct env *env = &self->env;

	populate(env, 0, 1);
	finalise(env->dev);
	set_cmd(env, 0, OP_OUT, GPA + 5, 1);
	expect_out(env, env->src[0][5]);
	vcpu_run_to_sync(env->vcpus[0]);
	expect_pages(env->dev, 1, 0);

	set_cmd(env, 0, OP_OUT, PAGE(1), 1);
	expect_out(env, 0);
	vcpu_run_to_sync(env->vcpus[0]);
	expect_pages(env->dev, 2, 0);
	guest_touches(env, PAGE(1), 1);
	expect_pages(env->dev, 2, 0);
}

/* Each VM has its own book, its own measurement, and its own violations. */
TEST_F(launch, two_vms)
{
	struct env *env = &self->env, other;

	env_setup(&other, 1);
	populate(env, 0, 3);
	expect_pages(other.dev, 0, 0);
	expect_measurement(&other);
	populate_from(&other, 0, 2, other.src[1]);
	finalise(other.dev);
	expect_not_run(env);
	expect_contents(&other, GPA, 2, other.src[1]);

	finalise(env->dev);
	expect_contents(env, GPA, 3, env->src);
	expect_pages(env->dev, 3, 0);
	expect_pages(other.dev, 2, 0);

	plant_forgotten_invalidation(other.dev);
	punch(env, 0, 3);
	expect_pages(env->dev, 3, 3);
	punch(&other, 0, 2);
	ASSERT_EQ(1, get_status(other.dev).violations);
	/* Perhaps with the pages that the other one has lost. */
	guest_touches(env, GPA, NR_PAGES);
	expect_pages(env->dev, 3 + NR_PAGES, 3);
	env_teardown(&other);
	expect_pages(env->dev, 3 + NR_PAGES, 3);
}

/*
 * The end, in any order: of the VM, the device and the file, by their initials.
 */

FIXTURE(end) {
	struct env env;
};

FIXTURE_VARIANT(end) {
	const char *order;
};

FIXTURE_VARIANT_ADD(end, vm_device_file) { .order = "vdf" };
FIXTURE_VARIANT_ADD(end, vm_file_device) { .order = "vfd" };
FIXTURE_VARIANT_ADD(end, device_vm_file) { .order = "dvf" };
FIXTURE_VARIANT_ADD(end, device_file_vm) { .order = "dfv" };
FIXTURE_VARIANT_ADD(end, file_vm_device) { .order = "fvd" };
FIXTURE_VARIANT_ADD(end, file_device_vm) { .order = "fdv" };

FIXTURE_SETUP(end)
{
	env_setup(&self->env, 1);
	populate(&self->env, 0, 3);
}

FIXTURE_TEARDOWN(end)
{
	env_teardown(&self->env);
}

static void close_part(struct env *env, char part)
{
	switch (part) {
	case 'v':
		kvm_vm_free(env->vm);
		env->vm = NULL;
		break;
	case 'd':
		close(env->dev);
		env->dev = -1;
		break;
	case 'f':
		close_file(env);
		break;
	default:
		TEST_FAIL("No part '%c'", part);
	}
}

/* As long as there is somebody to ask. */
static void expect_books(struct env *env, uint64_t prepared)
{
	if (env->dev < 0)
		return;
	expect_measurement(env);
	expect_pages(env->dev, prepared, env->fd < 0 ? prepared : 0);
}

TEST_F(end, in_launch)
{
	struct env *env = &self->env;
	int i;

	for (i = 0; i < 3; i++) {
		close_part(env, variant->order[i]);
		if (env->vm)
			expect_not_run(env);
		expect_books(env, 3);
	}
}

/* The guest can go on without the device, but not without the memory. */
TEST_F(end, running)
{
	struct env *env = &self->env;
	int i;

	finalise(env->dev);
	guest_touches(env, PAGE(3), 2);
	for (i = 0; i < 3; i++) {
		close_part(env, variant->order[i]);
		if (env->vm && env->fd >= 0)
			expect_contents(env, GPA, 3, env->src);
		expect_books(env, 5);
	}
}

/*
 * The check can fail.
 */

TEST_F(launch, freed_while_owned)
{
	struct env *env = &self->env;

	populate(env, 0, 4);
	finalise(env->dev);
	guest_touches(env, PAGE(4), 4);
	expect_pages(env->dev, 8, 0);

	plant_forgotten_invalidation(env->dev);
	expect_pages(env->dev, 8, 0);
	punch(env, 3, 1);
	expect_counters(env->dev, 8, 0, 7, 1);

	/* It was overlooked once. */
	punch(env, 4, 2);
	expect_counters(env->dev, 8, 2, 5, 1);
	plant_forgotten_invalidation(env->dev);
	punch(env, 6, 1);
	expect_counters(env->dev, 8, 2, 4, 2);

	/* What is brought back is a page like any other. */
	guest_touches(env, PAGE(3), 1);
	expect_counters(env->dev, 9, 2, 5, 2);
	punch(env, 3, 1);
	expect_counters(env->dev, 9, 3, 4, 2);
}

TEST_F(launch, planted_and_removed)
{
	struct env *env = &self->env;

	populate(env, 0, 4);
	plant_forgotten_invalidation(env->dev);
	ASSERT_EQ(0, plant_errno(env->dev, 0));
	punch(env, 0, 2);
	expect_pages(env->dev, 4, 2);
}

TEST_F(launch, file_closed_while_owned)
{
	struct env *env = &self->env;

	populate(env, 0, 4);
	plant_forgotten_invalidation(env->dev);
	expect_pages(env->dev, 4, 0);
	close_file(env);
	expect_counters(env->dev, 4, 3, 0, 1);
}

/* The page would be at two places in the guest, if it was given away. */
FIXTURE(two_owners) {
	struct env env;
};

FIXTURE_VARIANT(two_owners) {
	uint64_t op;
};

FIXTURE_VARIANT_ADD(two_owners, guest) { .op = OP_COPY };
FIXTURE_VARIANT_ADD(two_owners, kvm) { .op = OP_OUT };

FIXTURE_SETUP(two_owners)
{
	env_setup(&self->env, 1);
}

FIXTURE_TEARDOWN(two_owners)
{
	env_teardown(&self->env);
}

TEST_F(two_owners, refused)
{
	const uint64_t gpa = OTHER_GPA + PAGE_SIZE;
	struct env *env = &self->env;
	struct kvm_vcpu *vcpu = env->vcpus[0];
	uint64_t left;
	int i;

	populate_from(env, 1, 1, env->src);
	finalise(env->dev);
	plant_forgotten_invalidation(env->dev);
	vm_delete_slot(env->vm, SLOT);
	/* Nothing is wrong so far. */
	expect_pages(env->dev, 1, 0);

	bind_slot(env, SLOT, OTHER_GPA, env->fd, FILE_OFFSET);
	vm_mem_set_private(env->vm, OTHER_GPA, SIZE);
	set_cmd(env, 0, variant->op, gpa, 1);
	for (i = 1; i < 4; i++) {
		__vcpu_run_memory_fault(vcpu, gpa, PRIVATE, EIO);
		expect_counters(env->dev, 1, 0, 1, i);
	}
	ASSERT_EQ(EIO, errno_of(__vcpu_map_memory(vcpu, gpa, PAGE_SIZE, &left)));
	ASSERT_EQ(PAGE_SIZE, left);
	expect_counters(env->dev, 1, 0, 1, 4);

	/* Without the page the guest can go on. */
	punch(env, 1, 1);
	if (variant->op == OP_OUT)
		expect_out(env, 0);
	vcpu_run_to_sync(env->vcpus[0]);
	expect_counters(env->dev, 2, 1, 1, 4);
}

/*
 * Races.
 */

/* Not empty, and within the slot. */
static void random_range(unsigned int *seed, uint64_t *first, uint64_t *npages)
{
	*first = rand_r(seed) % NR_PAGES;
	*npages = 1 + rand_r(seed) % (NR_PAGES - *first);
}

struct refiller {
	struct env *env;
	volatile bool stop;
	volatile uint64_t done;
	volatile int err;
};

/* Whatever is missing, for as long as it is wanted. */
static void *refill(void *arg)
{
	struct refiller *r = arg;
	uint64_t page, n;
	int err;

	for (page = 0; !r->stop; page = (page + n + 1) % NR_PAGES) {
		err = populate_errno(r->env->dev, PAGE(page), (NR_PAGES - page) * PAGE_SIZE,
				     r->env->src[page], &n);
		r->done += n;
		/* It is there, or shared at the moment. */
		if (err && err != EEXIST && err != EINVAL) {
			r->err = err;
			break;
		}
	}
	return NULL;
}

/* Every page in the file is an owned one, with all of its contents. */
TEST_F(launch, populate_among_holes_and_conversions)
{
	struct env *env = &self->env;
	struct refiller r = { .env = env };
	uint64_t first, npages, pages, n;
	unsigned int seed = 1;
	pthread_t thread;
	int step;

	start_thread(&thread, refill, &r);
	for (step = 0; step < TORTURE_STEPS || (r.done < ENOUGH && !r.err); step++) {
		random_range(&seed, &first, &npages);
		if (step % 4 == 0)
			vm_mem_set_shared(env->vm, PAGE(first), npages * PAGE_SIZE);
		else if (step % 4 == 1)
			vm_mem_set_private(env->vm, GPA, SIZE);
		else
			punch(env, first, npages);
		ASSERT_EQ(0, get_status(env->dev).violations);
		sched_yield();
	}
	r.stop = true;
	pthread_join(thread, NULL);

	ASSERT_EQ(0, r.err);
	ASSERT_EQ(r.done, get_status(env->dev).populated);
	pages = gmem_allocated_pages(env->fd);
	expect_pages(env->dev, r.done, r.done - pages);

	/* The rest can be filled, then all of it is as it was meant to be. */
	vm_mem_set_private(env->vm, GPA, SIZE);
	for (first = 0; first < NR_PAGES; first++)
		populate_errno(env->dev, PAGE(first), PAGE_SIZE, env->src[first], &n);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	finalise(env->dev);
	expect_contents(env, GPA, NR_PAGES, env->src);
}

struct runner {
	pthread_t thread;
	struct env *env;
	int id;
	bool memory_faults;
	uint64_t nr_faults;
};

static void *run_vcpu(void *arg)
{
	struct runner *r = arg;
	struct kvm_vcpu *vcpu = r->env->vcpus[r->id];
	int ret;

	/* Where slots come and go, an access in between is tried again. */
	for (;;) {
		ret = _vcpu_run(vcpu);
		if (!r->memory_faults || ret != -1 || errno != EFAULT ||
		    vcpu->run->exit_reason != KVM_EXIT_MEMORY_FAULT)
			break;
		r->nr_faults++;
	}
	vcpu_expect_sync(vcpu, ret);
	return NULL;
}

static void start_vcpus(struct env *env, struct runner *r, uint64_t op,
			bool memory_faults)
{
	int i;

	for (i = 0; i < MAX_VCPUS; i++) {
		r[i] = (struct runner) {
			.env = env,
			.id = i,
			.memory_faults = memory_faults,
		};
		set_cmd(env, i, op, GPA, NR_PAGES);
		start_thread(&r[i].thread, run_vcpu, &r[i]);
	}
}

static void join_vcpus(struct runner *r)
{
	int i;

	for (i = 0; i < MAX_VCPUS; i++)
		pthread_join(r[i].thread, NULL);
}

/* At the same time, each page becomes the guest's once. */
TEST_F(smp, first_touch)
{
	struct runner runners[MAX_VCPUS];
	struct env *env = &self->env;
	int i;

	finalise(env->dev);
	for (i = 0; i < RACES; i++) {
		start_vcpus(env, runners, OP_WRITE, false);
		join_vcpus(runners);
		expect_pages(env->dev, (i + 1) * NR_PAGES, i * NR_PAGES);
		punch(env, 0, NR_PAGES);
		expect_pages(env->dev, (i + 1) * NR_PAGES, (i + 1) * NR_PAGES);
	}
}

/*
 * Stop the vCPUs.  A page can then be in the file and nobody's, if a fault that
 * brought it there had to be given up; when the guest has all its memory no such
 * page is left.
 */
static void end_torture(struct env *env, struct runner *runners)
{
	uint64_t owned;

	*(volatile uint64_t *)addr_gva2hva(env->vm, (uint64_t)&guest_stop) = 1;
	join_vcpus(runners);

	owned = get_status(env->dev).owned;
	expect_owned(env->dev, owned);
	TEST_ASSERT(owned <= gmem_allocated_pages(env->fd),
		    "%lu pages have an owner, %lu exist", owned,
		    gmem_allocated_pages(env->fd));

	vm_mem_set_private(env->vm, GPA, SIZE);
	guest_touches(env, GPA, NR_PAGES);
	expect_owned(env->dev, NR_PAGES);
	TEST_ASSERT_EQ(gmem_allocated_pages(env->fd), (uint64_t)NR_PAGES);

	punch(env, 0, NR_PAGES);
	expect_owned(env->dev, 0);
}

TEST_F(smp, holes_and_conversions)
{
	struct runner runners[MAX_VCPUS];
	struct env *env = &self->env;
	uint64_t first, npages;
	unsigned int seed = 1;
	int step;

	populate(env, 0, NR_PAGES / 2);
	finalise(env->dev);
	start_vcpus(env, runners, OP_TORTURE, false);

	for (step = 0; step < TORTURE_STEPS ||
		       get_status(env->dev).prepared < ENOUGH; step++) {
		random_range(&seed, &first, &npages);
		switch (rand_r(&seed) % 4) {
		case 0:
			vm_mem_set_shared(env->vm, PAGE(first), npages * PAGE_SIZE);
			punch(env, first, npages);
			break;
		case 1:
			vm_mem_set_private(env->vm, PAGE(first), npages * PAGE_SIZE);
			break;
		default:
			punch(env, first, npages);
		}
		ASSERT_EQ(0, get_status(env->dev).violations);
		sched_yield();
	}
	end_torture(env, runners);
}

/* The file's pages are at another gfn each time, and the guest is in between. */
TEST_F(smp, slots_that_move)
{
	struct runner runners[MAX_VCPUS];
	struct env *env = &self->env;
	uint64_t faults = 0;
	int move, i;

	finalise(env->dev);
	start_vcpus(env, runners, OP_TORTURE, true);

	for (move = 0; move < TORTURE_MOVES ||
		       get_status(env->dev).prepared < ENOUGH; move++) {
		vm_delete_slot(env->vm, SLOT);
		bind_slot(env, SLOT, GPA, env->fd, move % 4 * PAGE_SIZE);
		ASSERT_EQ(0, get_status(env->dev).violations);
		usleep(1000);
	}
	vm_delete_slot(env->vm, SLOT);
	expect_owned(env->dev, 0);
	gmem_punch_hole(env->fd, 0, FILE_OFFSET + SIZE);
	bind_slot(env, SLOT, GPA, env->fd, FILE_OFFSET);

	end_torture(env, runners);
	for (i = 0; i < MAX_VCPUS; i++)
		faults += runners[i].nr_faults;
	TH_LOG("%lu memory faults, %llu pages prepared", faults,
	       get_status(env->dev).prepared);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(!access(DEVICE, F_OK));

	return test_harness_run(argc, argv);
}
