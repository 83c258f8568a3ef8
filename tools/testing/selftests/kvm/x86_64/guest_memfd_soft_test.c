// SPDX-License-Identifier: GPL-2.0
/*
 * The launch of a VM with a confidential back end of guest memory, seen through
 * the software one, /dev/kvm-gmem-soft: who can be attached to what, initial
 * contents that are measured, and no guest and no mapping before that is finished.
 * guest_memfd_owner_test is about the pages after that.
 *
 * Bugs that others had and that show here: a page left in the file by an attempt
 * to populate it; contents that can be replaced after they have been measured; a
 * vCPU, or a mapping, from before the launch was finished.
 */
#include "gmem_soft.h"
#include "gmem_trace.h"

#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

static struct kvm_vm *create_private_vm(void)
{
	return vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
}

static bool same_digest(int dev, int other_dev)
{
	struct kvm_gmem_soft_status a = get_status(dev), b = get_status(other_dev);

	return !memcmp(a.digest, b.digest, sizeof(a.digest));
}

/* Where threads meet before a race; each test is a process, and has its own. */
static pthread_barrier_t barrier;

/* No vCPU, no memory, not attached. */
FIXTURE(empty) {
	struct kvm_vm *vm;
	int dev;
};

FIXTURE_SETUP(empty)
{
	self->vm = create_private_vm();
	self->dev = open_device();
}

FIXTURE_TEARDOWN(empty)
{
	close(self->dev);
	kvm_vm_free(self->vm);
}

static bool sha256_is(const char *data, const char *hex)
{
	struct sha256 sha = sha256_init;
	uint8_t digest[32];
	char text[65];
	int i;

	sha256_add(&sha, data, strlen(data));
	sha256_digest(&sha, digest);
	for (i = 0; i < 32; i++)
		sprintf(text + 2 * i, "%02x", digest[i]);
	return !strcmp(text, hex);
}

/* The test's own tool, on FIPS 180-4's example and on nothing. */
TEST(sha256_of_this_test)
{
	ASSERT_TRUE(sha256_is("",
			      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
	ASSERT_TRUE(sha256_is("abc",
			      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
	/* Two blocks, the padding does not fit into the first. */
	ASSERT_TRUE(sha256_is("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
			      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
}

/*
 * ATTACH.
 */

TEST_F(empty, not_attached)
{
	struct kvm_gmem_soft_status status;
	void *page = anonymous_pages(PAGE_SIZE);
	uint64_t done;

	ASSERT_EQ(EINVAL, populate_errno(self->dev, 0, PAGE_SIZE, page, &done));
	ASSERT_EQ(EINVAL, finalise_errno(self->dev));
	ASSERT_EQ(EINVAL, errno_of(ioctl(self->dev, KVM_GMEM_SOFT_STATUS, &status)));
	ASSERT_EQ(EINVAL, plant_errno(self->dev, 0));
	ASSERT_EQ(EINVAL, plant_errno(self->dev, KVM_GMEM_SOFT_FORGET_INVALIDATE));
	/* Nothing came of it. */
	ASSERT_EQ(0, attach_errno(self->dev, self->vm->fd, 0));
	ASSERT_EQ(0, finalise_errno(self->dev));
}

TEST_F(empty, new_back_end)
{
	struct kvm_gmem_soft_status status;
	uint8_t of_nothing[32];
	int i;

	sha256_digest(&sha256_init, of_nothing);
	attach(self->dev, self->vm);
	for (i = 0; i < 2; i++) {
		status = get_status(self->dev);
		ASSERT_EQ(0, memcmp(status.digest, of_nothing, sizeof(of_nothing)));
		ASSERT_EQ(0, status.populated);
		ASSERT_EQ(i, status.finalised);
		expect_pages(self->dev, 0, 0);
		if (!i)
			finalise(self->dev);
	}
}

TEST_F(empty, bad_vm)
{
	struct kvm_vm *other = vm_create_barebones_type(KVM_X86_DEFAULT_VM);
	struct kvm_vm *running = create_private_vm();
	struct kvm_vcpu *vcpu = __vm_vcpu_add(running, 0);
	int null = open("/dev/null", O_RDWR);
	int gmem = vm_create_guest_memfd(self->vm, PAGE_SIZE, 0);
	const int not_private_vm[] = {
		null, gmem, vcpu->fd, self->dev, self->vm->kvm_fd, other->fd,
	};
	int closed = dup(self->vm->fd);
	int i;

	close(closed);
	ASSERT_EQ(EBADF, attach_errno(self->dev, closed, 0));
	ASSERT_EQ(EBADF, attach_errno(self->dev, -1, 0));
	ASSERT_EQ(EBADF, attach_errno(self->dev, INT32_MAX, 0));
	for (i = 0; i < ARRAY_SIZE(not_private_vm); i++) {
		ASSERT_EQ(EINVAL, attach_errno(self->dev, not_private_vm[i], 0)) {
			TH_LOG("descriptor %d of the list", i);
		}
	}
	ASSERT_EQ(EBUSY, attach_errno(self->dev, running->fd, 0));

	/* The descriptor is as good as new. */
	ASSERT_EQ(0, attach_errno(self->dev, self->vm->fd, 0));
	close(gmem);
	close(null);
	kvm_vm_free(running);
	kvm_vm_free(other);
}

TEST_F(empty, order)
{
	static const uint32_t good[] = { 0, 1, 9, MAX_ORDER };
	static const uint32_t bad[] = { MAX_ORDER + 1, 63, 64, 1u << 31, -1u };
	struct kvm_vm *vm;
	int dev, i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		ASSERT_EQ(EINVAL, attach_errno(self->dev, self->vm->fd, bad[i]));
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		vm = create_private_vm();
		dev = open_device();
		ASSERT_EQ(0, attach_errno(dev, vm->fd, good[i]));
		close(dev);
		kvm_vm_free(vm);
	}
	ASSERT_EQ(0, attach_errno(self->dev, self->vm->fd, MAX_ORDER));
}

TEST_F(empty, attached_already)
{
	struct kvm_vm *vm = create_private_vm();
	int dev = open_device();

	attach(self->dev, self->vm);
	ASSERT_EQ(EBUSY, attach_errno(self->dev, self->vm->fd, 0));
	/* One VM for a descriptor, one back end for a VM. */
	ASSERT_EQ(EBUSY, attach_errno(self->dev, vm->fd, 0));
	ASSERT_EQ(EBUSY, attach_errno(dev, self->vm->fd, 0));
	ASSERT_EQ(EBUSY, attach_errno(dev, self->vm->fd, MAX_ORDER));

	/* A refusal binds neither of the two. */
	ASSERT_EQ(0, attach_errno(dev, vm->fd, 0));

	/* Finished or not. */
	finalise(self->dev);
	ASSERT_EQ(EBUSY, attach_errno(self->dev, self->vm->fd, 0));
	close(dev);
	kvm_vm_free(vm);
}

/* KVM ties a VM to the address space that made it. */
TEST_F(empty, vm_of_another_process)
{
	pid_t pid = fork();
	int status;

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(attach_errno(self->dev, self->vm->fd, 0));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(EINVAL, WEXITSTATUS(status));
	ASSERT_EQ(0, attach_errno(self->dev, self->vm->fd, 0));
}

TEST_F(empty, bad_calls)
{
	static const unsigned long unknown[] = {
		_IO(0xB9, 5), _IO(0xB9, 0xff), _IO(0xB8, 2), _IO(KVMIO, 0),
		/* Known numbers, other sizes. */
		_IOW(0xB9, 0, __u32), _IOWR(0xB9, 1, struct kvm_gmem_soft_attach),
		_IOR(0xB9, 3, __u64), _IOW(0xB9, 4, __u64),
	};
	static const unsigned long reads[] = {
		KVM_GMEM_SOFT_ATTACH, KVM_GMEM_SOFT_POPULATE, KVM_GMEM_SOFT_PLANT,
	};
	void *bad = anonymous_pages(2 * PAGE_SIZE) + PAGE_SIZE;
	int i;

	ASSERT_EQ(0, munmap(bad, PAGE_SIZE));
	ASSERT_EQ(EFAULT, errno_of(ioctl(self->dev, KVM_GMEM_SOFT_ATTACH, bad)));
	attach(self->dev, self->vm);

	for (i = 0; i < ARRAY_SIZE(reads); i++) {
		ASSERT_EQ(EFAULT, errno_of(ioctl(self->dev, reads[i], bad)));
		ASSERT_EQ(EFAULT, errno_of(ioctl(self->dev, reads[i], bad - 3)));
		ASSERT_EQ(EFAULT, errno_of(ioctl(self->dev, reads[i], NULL)));
	}
	ASSERT_EQ(EFAULT, errno_of(ioctl(self->dev, KVM_GMEM_SOFT_STATUS, bad)));
	ASSERT_EQ(EFAULT, errno_of(ioctl(self->dev, KVM_GMEM_SOFT_STATUS, bad - 3)));

	for (i = 0; i < ARRAY_SIZE(unknown); i++) {
		ASSERT_EQ(ENOTTY, errno_of(ioctl(self->dev, unknown[i], bad - PAGE_SIZE))) {
			TH_LOG("ioctl %#lx", unknown[i]);
		}
	}
	for (i = 1; i < 32; i++) {
		ASSERT_EQ(EINVAL, plant_errno(self->dev, 1u << i));
		ASSERT_EQ(EINVAL, plant_errno(self->dev, 1u << i |
					      KVM_GMEM_SOFT_FORGET_INVALIDATE));
	}
	ASSERT_EQ(0, plant_errno(self->dev, 0));
	ASSERT_EQ(0, get_status(self->dev).finalised);
}

struct attacher {
	pthread_t thread;
	int dev;
	int vm_fd;
	int err;
};

static void *try_attach(void *arg)
{
	struct attacher *a = arg;

	pthread_barrier_wait(&barrier);
	a->err = attach_errno(a->dev, a->vm_fd, 0);
	return NULL;
}

static void start_attacher(struct attacher *a, struct kvm_vm *vm)
{
	a->dev = open_device();
	a->vm_fd = vm->fd;
	start_thread(&a->thread, try_attach, a);
}

/* Two back ends for one VM at the same time. */
TEST(race_of_attach)
{
	struct attacher a[2];
	struct kvm_vm *vm;
	int i, race;

	pthread_barrier_init(&barrier, NULL, 2);
	for (race = 0; race < RACES; race++) {
		vm = create_private_vm();
		for (i = 0; i < 2; i++)
			start_attacher(&a[i], vm);
		for (i = 0; i < 2; i++)
			pthread_join(a[i].thread, NULL);
		ASSERT_EQ(EBUSY, a[0].err + a[1].err);
		for (i = 0; i < 2; i++) {
			ASSERT_EQ(a[i].err ? EINVAL : 0, finalise_errno(a[i].dev));
			close(a[i].dev);
		}
		kvm_vm_free(vm);
	}
}

/* A vCPU either keeps the back end out, or waits for it. */
TEST(race_of_attach_and_vcpu)
{
	struct kvm_vcpu *vcpu;
	struct attacher a;
	struct kvm_vm *vm;
	int race, fd, err;
	uint64_t left;

	pthread_barrier_init(&barrier, NULL, 2);
	for (race = 0; race < RACES; race++) {
		vm = create_private_vm();
		fd = vm_create_guest_memfd(vm, SIZE, 0);
		vm_bind_gmem(vm, SLOT, GPA, SIZE, fd, 0);
		vm_mem_set_private(vm, GPA, SIZE);
		start_attacher(&a, vm);
		pthread_barrier_wait(&barrier);
		usleep(race % 4 * 20);
		vcpu = __vm_vcpu_add(vm, 0);
		err = errno_of(__vcpu_map_memory(vcpu, GPA, SIZE, &left));
		pthread_join(a.thread, NULL);

		ASSERT_EQ(a.err ? 0 : EOPNOTSUPP, err);
		ASSERT_EQ(a.err ? NR_PAGES : 0, gmem_allocated_pages(fd));
		if (a.err)
			ASSERT_EQ(EBUSY, a.err);
		if (!a.err)
			ASSERT_EQ(EPERM, errno_of(__vcpu_run(vcpu)));
		close(a.dev);
		close(fd);
		kvm_vm_free(vm);
	}
}

/*
 * FINALISE.
 */

TEST_F(launch, before_and_after_finalise)
{
	struct env *env = &self->env;
	struct kvm_vcpu *vcpu = env->vcpus[0];
	uint64_t left;
	int i;

	/* Neither before nor after there is something to run. */
	for (i = 0; i < 2; i++) {
		expect_not_run(env);
		ASSERT_EQ(EOPNOTSUPP,
			  errno_of(__vcpu_map_memory(vcpu, GPA, 2 * PAGE_SIZE, &left)));
		ASSERT_EQ(2 * PAGE_SIZE, left);
		ASSERT_EQ(EOPNOTSUPP,
			  errno_of(__vcpu_pre_fault(vcpu, PAGE(2), 3 * PAGE_SIZE, &left)));
		ASSERT_EQ(3 * PAGE_SIZE, left);
		/* Not even shared memory. */
		ASSERT_EQ(EOPNOTSUPP,
			  errno_of(__vcpu_map_memory(vcpu, 0, 2 * PAGE_SIZE, &left)));

		expect_pages(env->dev, i, 0);
		ASSERT_EQ(i, gmem_allocated_pages(env->fd));
		ASSERT_EQ(0, get_status(env->dev).finalised);
		if (!i)
			populate(env, 0, 1);
	}

	finalise(env->dev);
	ASSERT_EQ(1, get_status(env->dev).finalised);
	vcpu_map_memory(vcpu, GPA, 2 * PAGE_SIZE);
	expect_pages(env->dev, 2, 0);
	vcpu_pre_fault(vcpu, PAGE(2), 3 * PAGE_SIZE);
	expect_pages(env->dev, 5, 0);

	guest_touches(env, PAGE(1), 3);
	expect_contents(env, GPA, 1, env->src);
	expect_pages(env->dev, 5, 0);
}

TEST_F(launch, finalise_is_final)
{
	struct env *env = &self->env;

	populate(env, 0, 2);
	finalise(env->dev);
	ASSERT_EQ(EPERM, finalise_errno(env->dev));

	populate_fails(env, PAGE(2), PAGE_SIZE, env->src, EPERM, 0);
	/* A page that is gone is no reason to replace it. */
	punch(env, 0, 1);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EPERM, 0);
	guest_touches(env, GPA, NR_PAGES);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EPERM, 0);

	ASSERT_EQ(EPERM, finalise_errno(env->dev));
	ASSERT_EQ(1, get_status(env->dev).finalised);
	ASSERT_EQ(2, get_status(env->dev).populated);
}

/* The VM does not get rid of its back end by that of the descriptor. */
TEST_F(launch, device_closed_before_finalise)
{
	struct env *env = &self->env;

	close(env->dev);
	expect_not_run(env);
	env->dev = open_device();
	ASSERT_EQ(EBUSY, attach_errno(env->dev, env->vm->fd, 0));
	expect_not_run(env);
}

/*
 * POPULATE.
 */

TEST_F(launch, contents_reach_the_guest)
{
	struct env *env = &self->env;
	uint64_t i;

	populate(env, 0, 5);
	populate(env, 9, NR_PAGES - 9);
	ASSERT_EQ(NR_PAGES - 4, gmem_allocated_pages(env->fd));
	expect_pages(env->dev, NR_PAGES - 4, 0);
	finalise(env->dev);

	expect_contents(env, GPA, 5, env->src);
	expect_contents(env, PAGE(9), NR_PAGES - 9, env->src[9]);
	expect_contents(env, PAGE(5), 4, NULL);

	/* A copy: what the host does with the source later is its own business. */
	fill(env->src, SIZE, 2);
	guest_touches(env, GPA, 1);
	ASSERT_EQ(WORD, *(uint64_t *)guest_reads(env, GPA));
	ASSERT_NE(0, memcmp(guest_reads(env, PAGE(1)), env->src[1], PAGE_SIZE));

	/* All of that on the private side. */
	for (i = 0; i < SIZE; i++)
		ASSERT_EQ(SHARED_BYTE, env->hva[0][i]);
	expect_measurement(env);
}

/* What a launch has come to can be followed from outside. */
TEST_F(launch, populate_is_traced)
{
	struct env *env = &self->env;
	uint64_t gfn = PAGE(3) / PAGE_SIZE;

	if (!gmem_trace_start())
		SKIP(return, "no tracing");

	populate(env, 3, 4);
	EXPECT_TRUE(gmem_traced("kvm_gmem_populate: gfn %#lx npages 0x4 done 4\n", gfn));
	/* Only as far as there is nothing yet. */
	populate_fails(env, PAGE(1), 4 * PAGE_SIZE, env->src[1], EEXIST, 2);
	EXPECT_TRUE(gmem_traced("kvm_gmem_populate: gfn %#lx npages 0x4 done 2\n", gfn - 2));
	populate_fails(env, PAGE(3), PAGE_SIZE, env->src[3], EEXIST, 0);
	EXPECT_TRUE(gmem_traced("kvm_gmem_populate: gfn %#lx npages 0x1 done %d\n", gfn,
				-EEXIST));
	gmem_trace_stop();
}

/* The same bytes at the same places give the same digest, and another at each step. */
TEST_F(launch, page_by_page)
{
	struct env *env = &self->env, one;
	uint64_t i;

	populate(env, 0, NR_PAGES);

	env_setup(&one, 1);
	for (i = 0; i < NR_PAGES; i++) {
		ASSERT_FALSE(same_digest(env->dev, one.dev));
		populate(&one, i, 1);
	}
	ASSERT_TRUE(same_digest(env->dev, one.dev));

	finalise(one.dev);
	expect_contents(&one, GPA, NR_PAGES, one.src);
	env_teardown(&one);
}

/* One bit, the place, and the order: all of them are measured. */
TEST_F(launch, digest_tells_what_differs)
{
	struct env flipped, moved, swapped;
	struct env *envs[] = { &self->env, &flipped, &moved, &swapped };
	int i, j;

	for (i = 1; i < ARRAY_SIZE(envs); i++)
		env_setup(envs[i], 1);
	populate(&self->env, 0, 2);
	flipped.src[1][PAGE_SIZE - 1] ^= 1;
	populate(&flipped, 0, 2);
	populate_from(&moved, 1, 2, moved.src);
	populate(&swapped, 1, 1);
	populate(&swapped, 0, 1);

	for (i = 0; i < ARRAY_SIZE(envs); i++)
		for (j = 0; j < i; j++)
			ASSERT_FALSE(same_digest(envs[i]->dev, envs[j]->dev));

	/* The order is no difference to the guest. */
	finalise(swapped.dev);
	expect_contents(&swapped, GPA, 2, swapped.src);

	for (i = 1; i < ARRAY_SIZE(envs); i++)
		env_teardown(envs[i]);
}

TEST_F(launch, any_source)
{
	struct env *env = &self->env;
	void *zero = anonymous_pages(2 * PAGE_SIZE);
	int fd = open("/proc/self/exe", O_RDONLY);
	void *file = mmap(NULL, 2 * PAGE_SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
	/* Never touched, read-only, the same one twice, and of a file. */
	const void *sources[] = { zero, env->src, env->src, file };
	int i;

	ASSERT_NE(MAP_FAILED, file);
	ASSERT_EQ(0, mprotect(env->src, SIZE, PROT_READ));
	for (i = 0; i < ARRAY_SIZE(sources); i++)
		populate_from(env, 2 * i, 2, sources[i]);
	finalise(env->dev);
	for (i = 0; i < ARRAY_SIZE(sources); i++)
		expect_contents(env, PAGE(2 * i), 2, sources[i]);
	expect_pages(env->dev, 8, 0);
	close(fd);
}

TEST_F(launch, bad_range)
{
	const uint64_t page = PAGE_SIZE;
	const struct {
		uint64_t gpa, size;
	} cases[] = {
		{ GPA, 0 }, { GPA + 1, page }, { GPA + page - 1, page },
		{ GPA + 512, page }, { GPA, 1 }, { GPA, page - 1 },
		{ GPA, page + 1 }, { GPA + 8, page - 8 }, { -page, page },
		{ -page, 2 * page }, { GPA, -page }, { GPA, -GPA },
	};
	struct env *env = &self->env;
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++)
		populate_fails(env, cases[i].gpa, cases[i].size, env->src, EINVAL, 0);
	expect_pages(env->dev, 0, 0);
}

/* Only what is private and has a guest_memfd. */
TEST_F(launch, bad_gfn)
{
	struct env *env = &self->env;

	/* The slot ends there. */
	populate_fails(env, NEXT_GPA, PAGE_SIZE, env->src, EINVAL, 0);
	populate_fails(env, NEXT_GPA - PAGE_SIZE, 2 * PAGE_SIZE, env->src, EINVAL, 1);
	/* A slot of ordinary memory, shared or said to be private. */
	populate_fails(env, 0, PAGE_SIZE, env->src, EINVAL, 0);
	vm_set_user_memory_region(env->vm, SLOT + 1, 0, NEXT_GPA, SIZE, env->hva);
	populate_fails(env, NEXT_GPA, PAGE_SIZE, env->src, EINVAL, 0);
	vm_mem_set_private(env->vm, NEXT_GPA, SIZE);
	populate_fails(env, NEXT_GPA, PAGE_SIZE, env->src, EINVAL, 0);
	vm_delete_slot(env->vm, SLOT + 1);
	populate_fails(env, NEXT_GPA, PAGE_SIZE, env->src, EINVAL, 0);
	/* No guest can have memory there. */
	populate_fails(env, 1ULL << 52, PAGE_SIZE, env->src, EINVAL, 0);

	/* Shared, from the start and in the middle. */
	vm_mem_set_shared(env->vm, GPA, PAGE_SIZE);
	vm_mem_set_shared(env->vm, PAGE(4), PAGE_SIZE);
	populate_fails(env, GPA, 2 * PAGE_SIZE, env->src, EINVAL, 0);
	populate_fails(env, PAGE(1), 7 * PAGE_SIZE, env->src, EINVAL, 3);

	/* Go on where it stopped, with the cause removed. */
	vm_mem_set_private(env->vm, PAGE(4), PAGE_SIZE);
	populate_from(env, 4, 4, env->src[3]);
	expect_pages(env->dev, 8, 0);
	finalise(env->dev);
	expect_contents(env, PAGE(1), 7, env->src);
}

TEST_F(launch, slot_deleted)
{
	struct env *env = &self->env;

	populate(env, 0, 1);
	vm_delete_slot(env->vm, SLOT);
	populate_fails(env, PAGE(1), PAGE_SIZE, env->src, EINVAL, 0);
	expect_pages(env->dev, 1, 1);

	/* Its page is in the file and stays what it is. */
	bind_slot(env, SLOT, GPA, env->fd, FILE_OFFSET);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EEXIST, 0);
	expect_pages(env->dev, 1, 1);
	finalise(env->dev);
	expect_contents(env, GPA, 1, env->src);
	expect_pages(env->dev, 2, 1);
}

TEST_F(launch, file_closed)
{
	struct env *env = &self->env;

	populate(env, 0, 2);
	close_file(env);
	expect_pages(env->dev, 2, 2);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EFAULT, 0);
	populate_fails(env, PAGE(2), PAGE_SIZE, env->src, EFAULT, 0);
	finalise(env->dev);
	set_cmd(env, 0, OP_COPY, GPA, 1);
	vcpu_run_memory_fault(env->vcpus[0], GPA, PRIVATE);
	expect_pages(env->dev, 2, 2);
}

TEST_F(launch, bad_source)
{
	struct env *env = &self->env;
	uint8_t *hole = anonymous_pages(4 * PAGE_SIZE);

	ASSERT_EQ(0, munmap(hole, 4 * PAGE_SIZE));
	populate_fails(env, GPA, PAGE_SIZE, hole, EFAULT, 0);
	populate_fails(env, GPA, SIZE, hole, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, NULL, EFAULT, 0);
	/* Addresses of the kernel, and none at all. */
	populate_fails(env, GPA, PAGE_SIZE, 0xffff888000000000, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, 0x7ffffffff000, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, 0x800000000000, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, -2 * PAGE_SIZE, EFAULT, 0);
	/* Bad arithmetics. */
	populate_fails(env, GPA, PAGE_SIZE, -PAGE_SIZE, EINVAL, 0);
	populate_fails(env, GPA, 2 * PAGE_SIZE, -PAGE_SIZE, EINVAL, 0);
	populate_fails(env, GPA, PAGE_SIZE, env->src[0] + 1, EINVAL, 0);
	populate_fails(env, GPA, PAGE_SIZE, env->src[1] - 1, EINVAL, 0);

	ASSERT_EQ(0, mprotect(env->src, PAGE_SIZE, PROT_NONE));
	populate_fails(env, GPA, PAGE_SIZE, env->src, EFAULT, 0);
	expect_pages(env->dev, 0, 0);

	/* None of the failures is an obstacle to do better. */
	populate_from(env, 0, 1, env->src[1]);
	finalise(env->dev);
	expect_contents(env, GPA, 1, env->src[1]);
}

TEST_F(launch, source_ends_half_way)
{
	struct env *env = &self->env;

	ASSERT_EQ(0, mprotect(env->src[5], PAGE_SIZE, PROT_NONE));
	populate_fails(env, GPA, 8 * PAGE_SIZE, env->src, EFAULT, 5);
	populate_fails(env, PAGE(5), 3 * PAGE_SIZE, env->src[5], EFAULT, 0);
	expect_pages(env->dev, 5, 0);

	/* With the struct as it was left, once there is more to read. */
	ASSERT_EQ(0, mprotect(env->src, SIZE, PROT_READ));
	populate(env, 5, 3);
	finalise(env->dev);
	expect_contents(env, GPA, 8, env->src);
}

/* Data is not replaced. */
TEST_F(launch, page_is_there)
{
	struct env *env = &self->env;

	populate(env, 0, 2);
	populate(env, 6, 1);
	populate_fails(env, GPA, PAGE_SIZE, env->src[1], EEXIST, 0);
	populate_fails(env, PAGE(1), 2 * PAGE_SIZE, env->src, EEXIST, 0);
	populate_fails(env, PAGE(2), 8 * PAGE_SIZE, env->src[2], EEXIST, 4);
	ASSERT_EQ(7, gmem_allocated_pages(env->fd));

	finalise(env->dev);
	expect_contents(env, GPA, 7, env->src);
	expect_pages(env->dev, 7, 0);
}

/* What fallocate() has put into the file is no data yet. */
TEST_F(launch, allocated_ahead)
{
	const uint64_t npages = 1024, size = npages * PAGE_SIZE, gpa = 4 * GPA;
	struct env *env = &self->env;
	uint64_t done;
	int fd;

	gmem_allocate(env->fd, FILE_OFFSET + PAGE_SIZE, 2 * PAGE_SIZE);
	populate(env, 0, 2);
	populate_fails(env, PAGE(1), PAGE_SIZE, env->src[5], EEXIST, 0);
	ASSERT_EQ(3, gmem_allocated_pages(env->fd));
	expect_pages(env->dev, 2, 0);

	/* With folios that are larger than what is populated. */
	fd = vm_create_guest_memfd(env->vm, size, 0);
	vm_bind_gmem(env->vm, SLOT + 1, gpa, size, fd, 0);
	virt_map(env->vm, gpa, gpa, npages);
	vm_mem_set_private(env->vm, gpa, size);
	gmem_allocate(fd, 0, size);
	ASSERT_EQ(0, populate_errno(env->dev, gpa + 510 * PAGE_SIZE, 4 * PAGE_SIZE,
				    env->src[3], &done));
	ASSERT_EQ(4, done);
	ASSERT_EQ(EEXIST, populate_errno(env->dev, gpa + 511 * PAGE_SIZE,
					 PAGE_SIZE, env->src[9], &done));
	ASSERT_EQ(0, populate_errno(env->dev, gpa + 514 * PAGE_SIZE, PAGE_SIZE,
				    env->src[7], &done));
	ASSERT_EQ(npages, gmem_allocated_pages(fd));
	expect_pages(env->dev, 7, 0);

	finalise(env->dev);
	expect_contents(env, GPA, 2, env->src);
	expect_contents(env, PAGE(2), 1, NULL);
	expect_contents(env, gpa, 510, NULL);
	expect_contents(env, gpa + 510 * PAGE_SIZE, 5, env->src[3]);
	expect_contents(env, gpa + 515 * PAGE_SIZE, npages - 515, NULL);
	ASSERT_EQ(npages, gmem_allocated_pages(fd));
	close(fd);
}

/* A hole makes room.  What was measured stays measured. */
TEST_F(launch, populate_again)
{
	struct env *env = &self->env;

	populate(env, 0, 4);
	punch(env, 1, 2);
	expect_pages(env->dev, 4, 2);
	expect_measurement(env);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EEXIST, 0);
	populate_fails(env, PAGE(1), 3 * PAGE_SIZE, env->src[8], EEXIST, 2);
	expect_pages(env->dev, 6, 2);

	finalise(env->dev);
	expect_contents(env, GPA, 1, env->src);
	expect_contents(env, PAGE(1), 2, env->src[8]);
	expect_contents(env, PAGE(3), 1, env->src[3]);
	expect_pages(env->dev, 6, 2);
}

TEST_F(launch, two_slots)
{
	struct env *env = &self->env;
	int fd = vm_create_guest_memfd(env->vm, 2 * SIZE, 0);
	const uint64_t first = NR_PAGES - 3;

	bind_slot(env, SLOT + 1, NEXT_GPA, fd, SIZE);
	vm_mem_set_private(env->vm, NEXT_GPA, SIZE);
	populate_from(env, first, 8, env->src);
	ASSERT_EQ(3, gmem_allocated_pages(env->fd));
	ASSERT_EQ(5, gmem_allocated_pages(fd));
	expect_pages(env->dev, 8, 0);

	finalise(env->dev);
	expect_contents(env, PAGE(first), 8, env->src);
	expect_measurement(env);

	close(fd);
	expect_pages(env->dev, 8, 5);
	expect_contents(env, PAGE(first), 3, env->src);
}

/* The struct must be able to take what is left, else nothing is done. */
TEST_F(launch, struct_read_only)
{
	struct env *env = &self->env;
	struct kvm_gmem_soft_populate *args = anonymous_pages(PAGE_SIZE);

	args->gpa = GPA;
	args->size = PAGE_SIZE;
	args->source = (uintptr_t)env->src;
	ASSERT_EQ(0, mprotect(args, PAGE_SIZE, PROT_READ));
	ASSERT_EQ(EFAULT, errno_of(ioctl(env->dev, KVM_GMEM_SOFT_POPULATE, args)));
	ASSERT_EQ(0, gmem_allocated_pages(env->fd));
	expect_pages(env->dev, 0, 0);
	expect_measurement(env);
}

static void ignore_signal(int sig)
{
}

/* A signal stops it between two pages. */
TEST_F(launch, interrupted)
{
	const uint64_t npages = 2048, gpa = 4 * GPA;
	struct sigaction sa = { .sa_handler = ignore_signal };
	struct itimerval timer = {};
	struct env *env = &self->env;
	uint8_t (*src)[PAGE_SIZE] = anonymous_pages(npages * PAGE_SIZE);
	uint64_t n, done = 0, ms = 1;
	int fd, err, interrupted = 0;

	fd = vm_create_guest_memfd(env->vm, npages * PAGE_SIZE, 0);
	vm_bind_gmem(env->vm, SLOT + 1, gpa, npages * PAGE_SIZE, fd, 0);
	vm_mem_set_private(env->vm, gpa, npages * PAGE_SIZE);
	fill(src, npages * PAGE_SIZE, 3);
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));

	/*
	 * The more time the slower the machine is.  Again and again, as the first
	 * signal may come before the call has begun.
	 */
	for (; done < npages; ms *= 2) {
		timer.it_value.tv_sec = ms / 1000;
		timer.it_value.tv_usec = ms % 1000 * 1000;
		timer.it_interval = timer.it_value;
		ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));
		err = populate_errno(env->dev, gpa + done * PAGE_SIZE,
				     (npages - done) * PAGE_SIZE, src[done], &n);
		done += n;
		ASSERT_TRUE(err == 0 || err == EINTR);
		ASSERT_EQ(err == 0, done == npages);
		interrupted += err == EINTR;
		ASSERT_EQ(done, gmem_allocated_pages(fd));
		expect_pages(env->dev, done, 0);
	}
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_REAL, &timer, NULL);
	ASSERT_GT(interrupted, 0);

	measure(env, gpa, npages, src);
	expect_measurement(env);
	close(fd);
	expect_pages(env->dev, npages, npages);
}

struct populator {
	pthread_t thread;
	struct env *env;
	uint8_t (*src)[PAGE_SIZE];
	uint64_t first;
	uint64_t done;
	uint64_t refused;
	int err;
};

/* All pages in a round, except those with which another is faster. */
static void *populate_all(void *arg)
{
	struct populator *p = arg;
	uint64_t i, page, n;
	int err;

	pthread_barrier_wait(&barrier);
	for (i = 0; i < NR_PAGES && !p->err; i++) {
		page = (p->first + i) % NR_PAGES;
		err = populate_errno(p->env->dev, PAGE(page), PAGE_SIZE, p->src[page], &n);
		TEST_ASSERT_EQ(n, (uint64_t)!err);
		p->done += n;
		if (err == EEXIST)
			p->refused++;
		else
			p->err = err;
		sched_yield();
	}
	return NULL;
}

static void start_populators(struct env *env, struct populator *p, int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		p[i] = (struct populator) {
			.env = env,
			.src = anonymous_pages(SIZE),
			.first = i * NR_PAGES / nr,
		};
		memset(p[i].src, 'a' + i, SIZE);
		start_thread(&p[i].thread, populate_all, &p[i]);
	}
}

/* Each page is there once, and from one source. */
TEST_F(launch, populated_by_many)
{
	struct populator p[MAX_VCPUS];
	struct env *env = &self->env;
	uint64_t done, race, gone = 0;
	const uint8_t *page;
	int i, j;

	pthread_barrier_init(&barrier, NULL, MAX_VCPUS);
	for (race = 1; race <= RACES; race++) {
		punch(env, 0, NR_PAGES);
		expect_pages(env->dev, gone, gone);
		start_populators(env, p, MAX_VCPUS);
		for (i = 0, done = 0; i < MAX_VCPUS; i++) {
			pthread_join(p[i].thread, NULL);
			munmap(p[i].src, SIZE);
			ASSERT_EQ(0, p[i].err);
			ASSERT_EQ(NR_PAGES, p[i].done + p[i].refused);
			done += p[i].done;
		}
		ASSERT_EQ(NR_PAGES, done);
		ASSERT_EQ(race * NR_PAGES, get_status(env->dev).populated);
		expect_pages(env->dev, race * NR_PAGES, gone);
		gone += NR_PAGES;
	}

	finalise(env->dev);
	for (i = 0; i < NR_PAGES; i++) {
		page = guest_reads(env, PAGE(i));
		ASSERT_TRUE(page[0] >= 'a' && page[0] < 'a' + MAX_VCPUS);
		for (j = 1; j < PAGE_SIZE; j++)
			ASSERT_EQ(page[0], page[j]);
	}
	expect_pages(env->dev, gone, gone - NR_PAGES);
}

/* What the digest says when the guest may run is all that there is. */
TEST(race_of_populate_and_finalise)
{
	struct kvm_gmem_soft_status before, after;
	struct populator p;
	struct env env;
	int race;

	pthread_barrier_init(&barrier, NULL, 2);
	for (race = 0; race < RACES; race++) {
		env_setup(&env, 0);
		start_populators(&env, &p, 1);
		pthread_barrier_wait(&barrier);
		usleep(race * 50);
		finalise(env.dev);
		before = get_status(env.dev);
		pthread_join(p.thread, NULL);

		after = get_status(env.dev);
		ASSERT_EQ(0, memcmp(&before, &after, sizeof(before)));
		ASSERT_EQ(after.populated, p.done);
		ASSERT_EQ(p.done, gmem_allocated_pages(env.fd));
		ASSERT_EQ(p.done == NR_PAGES ? 0 : EPERM, p.err);
		expect_pages(env.dev, p.done, 0);
		munmap(p.src, SIZE);
		env_teardown(&env);
	}
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(!access(DEVICE, F_OK));

	return test_harness_run(argc, argv);
}
