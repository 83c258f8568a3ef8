// SPDX-License-Identifier: GPL-2.0
/*
 * What a confidential back end of guest memory relies on, seen through the
 * software one, /dev/kvm-gmem-soft: initial contents that are measured, no guest
 * and no mapping before that is finished, a page that has one owner from when
 * the guest first gets it until it is taken away, and that is taken away before
 * it is freed or given to another gfn.
 *
 * The back end counts the violations of the last.  It must count none whatever
 * user space does, and some when it is told to overlook one thing: a check that
 * cannot fail shows nothing.
 *
 * Bugs that others had and that show here: a page left in the file by an attempt
 * to populate it; contents that can be replaced after they have been measured; a
 * vCPU, or a mapping, from before the launch was finished.
 */
#include "kvm_gmem_util.h"

#include <endian.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <linux/kvm_gmem_soft.h>

#include "kselftest_harness.h"

/* Emulated CPUs and debug kernels are slow, a hang is the runner's business. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

#define DEVICE		"/dev/kvm-gmem-soft"
#define MAX_ORDER	18

#define MAX_VCPUS	4
#define SLOT		10
#define NR_PAGES	16ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
/* The slot, one that follows it, and a place at another distance to the file. */
#define GPA		0x40000000ULL
#define NEXT_GPA	(GPA + SIZE)
#define OTHER_GPA	0x48001000ULL
/* Neither the slot nor the file starts with the page that is used. */
#define FILE_OFFSET	(3 * PAGE_SIZE)

#define SHARED_BYTE	0xc3
#define WORD		0x1122334455667788ULL
#define PRIVATE		KVM_MEMORY_EXIT_FLAG_PRIVATE

#define RACES		12
#define TORTURE_STEPS	240
#define TORTURE_MOVES	24
/* More than that many steps, if the others need time to prepare as many pages. */
#define ENOUGH		(4 * NR_PAGES)

/*
 * SHA-256, to recompute what the kernel has measured.
 */

struct sha256 {
	uint32_t h[8];
	uint8_t block[64];
	uint64_t len;
};

static const struct sha256 sha256_init = {
	.h = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 },
};

static const uint32_t sha256_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
	0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
	0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
	0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
	0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
	0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
	0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
	0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

#define ROR(x, n)	((x) >> (n) | (x) << (32 - (n)))

static void sha256_block(struct sha256 *sha)
{
	uint32_t w[64], v[8], t, u, i;

	memcpy(w, sha->block, 64);
	memcpy(v, sha->h, sizeof(v));
	for (i = 0; i < 64; i++) {
		if (i < 16)
			w[i] = be32toh(w[i]);
		else
			w[i] = w[i - 16] + w[i - 7] +
			       (ROR(w[i - 15], 7) ^ ROR(w[i - 15], 18) ^ w[i - 15] >> 3) +
			       (ROR(w[i - 2], 17) ^ ROR(w[i - 2], 19) ^ w[i - 2] >> 10);
		t = v[7] + sha256_k[i] + w[i] + (v[6] ^ (v[4] & (v[5] ^ v[6]))) +
		    (ROR(v[4], 6) ^ ROR(v[4], 11) ^ ROR(v[4], 25));
		u = ((v[0] & v[1]) | (v[2] & (v[0] | v[1]))) +
		    (ROR(v[0], 2) ^ ROR(v[0], 13) ^ ROR(v[0], 22));
		memmove(v + 1, v, 7 * sizeof(*v));
		v[4] += t;
		v[0] = t + u;
	}
	for (i = 0; i < 8; i++)
		sha->h[i] += v[i];
}

static void sha256_add(struct sha256 *sha, const void *data, uint64_t len)
{
	uint64_t at, n;

	for (; len; data += n, len -= n) {
		at = sha->len % 64;
		n = min(len, 64 - at);
		memcpy(sha->block + at, data, n);
		sha->len += n;
		if (at + n == 64)
			sha256_block(sha);
	}
}

/* The digest of what has been added so far; more can be added after it. */
static void sha256_digest(const struct sha256 *so_far, uint8_t digest[32])
{
	uint64_t bits = htobe64(so_far->len * 8), zero = 0;
	struct sha256 sha = *so_far;
	uint32_t word, i;

	sha256_add(&sha, "\x80", 1);
	while (sha.len % 64 != 56)
		sha256_add(&sha, &zero, 1);
	sha256_add(&sha, &bits, 8);
	for (i = 0; i < 8; i++) {
		word = htobe32(sha.h[i]);
		memcpy(digest + 4 * i, &word, 4);
	}
}

/*
 * Guest: a command per entry, shared with the host.
 */

enum {
	OP_COPY,
	OP_WRITE,
	OP_OUT,
	OP_TORTURE,
};

struct guest_cmd {
	uint64_t op;
	uint64_t gva;
	uint64_t npages;
	uint64_t val;
};

static volatile struct guest_cmd guest_cmds[MAX_VCPUS];
/* What OP_COPY has found. */
static volatile uint64_t guest_page[PAGE_SIZE / 8];
static volatile uint64_t guest_entries;
static volatile uint64_t guest_stop;

static void guest_write(uint64_t gva, uint64_t npages, uint64_t val)
{
	for (; npages; npages--, gva += PAGE_SIZE)
		*(volatile uint64_t *)gva = val;
}

static void guest_copy(uint64_t gva)
{
	uint64_t i;

	for (i = 0; i < PAGE_SIZE / 8; i++)
		guest_page[i] = ((volatile uint64_t *)gva)[i];
}

static void guest_main(uint64_t id)
{
	volatile struct guest_cmd *cmd = &guest_cmds[id];
	uint64_t gva;

	for (;;) {
		guest_entries++;
		gva = cmd->gva;
		switch (cmd->op) {
		case OP_COPY:
			guest_copy(gva);
			break;
		case OP_WRITE:
			guest_write(gva, cmd->npages, cmd->val);
			break;
		case OP_OUT:
			/* KVM reads this one itself. */
			asm volatile("outsb" : "+S"(gva) : "d"(0x3000) : "memory");
			break;
		case OP_TORTURE:
			while (!guest_stop)
				guest_write(gva, cmd->npages, cmd->val);
		}
		GUEST_SYNC(0);
	}
}

/*
 * Host: the device.
 */

static int open_device(void)
{
	int dev = open(DEVICE, O_RDWR | O_CLOEXEC);

	TEST_ASSERT(dev >= 0, "%s: errno %d", DEVICE, errno);
	return dev;
}

static int attach_errno(int dev, int vm_fd, uint32_t max_order)
{
	struct kvm_gmem_soft_attach args = {
		.vm_fd = vm_fd,
		.max_order = max_order,
	};

	return errno_of(ioctl(dev, KVM_GMEM_SOFT_ATTACH, &args));
}

static void attach(int dev, struct kvm_vm *vm)
{
	int err = attach_errno(dev, vm->fd, MAX_ORDER);

	TEST_ASSERT(!err, "KVM_GMEM_SOFT_ATTACH failed, errno: %d", err);
}

static int finalise_errno(int dev)
{
	return errno_of(ioctl(dev, KVM_GMEM_SOFT_FINALISE));
}

static void finalise(int dev)
{
	int err = finalise_errno(dev);

	TEST_ASSERT(!err, "KVM_GMEM_SOFT_FINALISE failed, errno: %d", err);
}

static struct kvm_gmem_soft_status get_status(int dev)
{
	struct kvm_gmem_soft_status status;
	int ret;

	memset(&status, 0xff, sizeof(status));
	ret = ioctl(dev, KVM_GMEM_SOFT_STATUS, &status);
	TEST_ASSERT(!ret, __KVM_SYSCALL_ERROR("KVM_GMEM_SOFT_STATUS", ret));
	TEST_ASSERT_EQ(status.pad, 0u);
	return status;
}

static int plant_errno(int dev, uint32_t bugs)
{
	return errno_of(ioctl(dev, KVM_GMEM_SOFT_PLANT, &bugs));
}

static void plant_forgotten_invalidation(int dev)
{
	int err = plant_errno(dev, KVM_GMEM_SOFT_FORGET_INVALIDATE);

	TEST_ASSERT(!err, "KVM_GMEM_SOFT_PLANT failed, errno: %d", err);
}

static void __expect_counters(int dev, uint64_t prepared, uint64_t invalidated,
			      uint64_t owned, uint64_t violations, int line)
{
	struct kvm_gmem_soft_status s = get_status(dev);

	TEST_ASSERT(s.prepared == prepared && s.invalidated == invalidated &&
		    s.owned == owned && s.violations == violations,
		    "Line %d: prepared %llu (want %lu) invalidated %llu (%lu) owned %llu (%lu) violations %llu (%lu)",
		    line, s.prepared, prepared, s.invalidated, invalidated, s.owned,
		    owned, s.violations, violations);
}

#define expect_counters(dev, prepared, invalidated, owned, violations)	\
	__expect_counters(dev, prepared, invalidated, owned, violations, __LINE__)

/* Of the pages that became the guest's, those taken away; the rest is owned. */
#define expect_pages(dev, prepared, invalidated)			\
	expect_counters(dev, prepared, invalidated,			\
			(prepared) - (invalidated), 0)

static struct kvm_vm *create_private_vm(void)
{
	return vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
}

/*
 * Host: a VM being launched, attached and not finalised.
 */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	int dev;
	int fd;
	/* The shared side, and what is put into the private one. */
	uint8_t *hva;
	uint8_t *src;
	/* What must have been measured. */
	struct sha256 measured;
	uint64_t populated;
};

static uint8_t *map_pages(uint64_t npages)
{
	void *mem = mmap(NULL, npages * PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed, errno: %d", errno);
	return mem;
}

/* No two pages, and no two places within a page, look the same. */
static void fill(uint8_t *mem, uint64_t len, unsigned int seed)
{
	uint64_t i;

	for (i = 0; i + 4 <= len; i += 4) {
		seed = seed * 1664525 + 1013904223;
		memcpy(mem + i, &seed, 4);
	}
}

static void bind_slot(struct env *env, uint32_t slot, uint64_t gpa, int fd,
		      uint64_t offset)
{
	vm_set_user_memory_region2(env->vm, slot, KVM_MEM_GUEST_MEMFD, gpa, SIZE,
				   env->hva, fd, offset);
}

static void env_setup(struct env *env, int nr_vcpus)
{
	int i;

	/* Room for the page tables of two slots at each place. */
	kvm_vm_type = KVM_X86_SW_PROTECTED_VM;
	env->vm = __vm_create(VM_MODE_DEFAULT, MAX_VCPUS, 4 * NR_PAGES);
	kvm_vm_type = 0;
	virt_map(env->vm, GPA, GPA, 2 * NR_PAGES);
	virt_map(env->vm, OTHER_GPA, OTHER_GPA, NR_PAGES);
	/* An exception in the guest shall tell its name. */
	vm_init_descriptor_tables(env->vm);

	env->dev = open_device();
	attach(env->dev, env->vm);
	for (i = 0; i < nr_vcpus; i++) {
		env->vcpus[i] = vm_vcpu_add(env->vm, i, guest_main);
		vcpu_init_descriptor_tables(env->vcpus[i]);
		vcpu_args_set(env->vcpus[i], 1, (uint64_t)i);
	}

	env->hva = map_pages(NR_PAGES);
	memset(env->hva, SHARED_BYTE, SIZE);
	env->src = map_pages(NR_PAGES);
	fill(env->src, SIZE, 1);
	env->measured = sha256_init;
	env->populated = 0;

	env->fd = vm_create_guest_memfd(env->vm, FILE_OFFSET + SIZE, 0);
	bind_slot(env, SLOT, GPA, env->fd, FILE_OFFSET);
	vm_mem_set_private(env->vm, GPA, SIZE);
}

static void env_teardown(struct env *env)
{
	if (env->dev >= 0)
		close(env->dev);
	if (env->fd >= 0)
		close(env->fd);
	kvm_vm_free(env->vm);
	munmap(env->hva, SIZE);
	munmap(env->src, SIZE);
}

static void punch(struct env *env, uint64_t page, uint64_t npages)
{
	gmem_punch_hole(env->fd, FILE_OFFSET + page * PAGE_SIZE, npages * PAGE_SIZE);
}

static void close_file(struct env *env)
{
	close(env->fd);
	env->fd = -1;
}

/* Populating, and what it must do to struct, file and measurement. */

static void measure(struct env *env, uint64_t gpa, const void *page)
{
	uint64_t le = htole64(gpa);

	sha256_add(&env->measured, &le, 8);
	sha256_add(&env->measured, page, PAGE_SIZE);
	env->populated++;
}

static void __expect_measurement(struct env *env, int line)
{
	struct kvm_gmem_soft_status s = get_status(env->dev);
	uint8_t digest[32];

	TEST_ASSERT(s.populated == env->populated, "Line %d: populated %llu, not %lu",
		    line, s.populated, env->populated);
	sha256_digest(&env->measured, digest);
	TEST_ASSERT(!memcmp(s.digest, digest, 32), "Line %d: digest of %lu pages differs",
		    line, env->populated);
}

#define expect_measurement(env)		__expect_measurement(env, __LINE__)

/*
 * Populate, which must fail with @err, or 0, after @done pages.  Nothing but these
 * may be new in the file @fd, if that is not -1.
 */
static void __do_populate(struct env *env, int fd, uint64_t gpa, uint64_t size,
			  uint64_t source, int err, uint64_t done, int line)
{
	struct kvm_gmem_soft_populate args = {
		.gpa = gpa,
		.size = size,
		.source = source,
	};
	uint64_t before = fd >= 0 ? gmem_allocated_pages(fd) : 0, after, i;
	int got = errno_of(ioctl(env->dev, KVM_GMEM_SOFT_POPULATE, &args));

	TEST_ASSERT(got == err, "Line %d: errno %d, not %d (left: gpa %#llx size %#llx)",
		    line, got, err, args.gpa, args.size);
	TEST_ASSERT(args.gpa == gpa + done * PAGE_SIZE &&
		    args.size == size - done * PAGE_SIZE &&
		    args.source == source + done * PAGE_SIZE,
		    "Line %d: gpa %#llx size %#llx source %#llx is not what is left after %lu pages",
		    line, args.gpa, args.size, args.source, done);

	for (i = 0; i < done; i++)
		measure(env, gpa + i * PAGE_SIZE, (void *)source + i * PAGE_SIZE);
	__expect_measurement(env, line);

	if (fd < 0)
		return;
	after = gmem_allocated_pages(fd);
	TEST_ASSERT(after == before + done, "Line %d: %lu new pages in the file, not %lu",
		    line, after - before, done);
}

#define populate(env, gpa, npages, source)				\
	__do_populate(env, -1, gpa, (npages) * PAGE_SIZE,		\
		      (uintptr_t)(source), 0, npages, __LINE__)

#define populate_fails(env, gpa, size, source, err, done)		\
	__do_populate(env, (env)->fd, gpa, size, (uintptr_t)(source),	\
		      err, done, __LINE__)

/* Running the guest. */

static volatile struct guest_cmd *set_cmd(struct env *env, int id, uint64_t op,
					  uint64_t gpa, uint64_t npages)
{
	volatile struct guest_cmd *cmds = addr_gva2hva(env->vm, (uint64_t)&guest_cmds);

	cmds[id].op = op;
	cmds[id].gva = gpa;
	cmds[id].npages = npages;
	cmds[id].val = WORD;
	return &cmds[id];
}

/* The guest completes its command. */
static void run_to_sync(struct env *env, int id)
{
	struct kvm_vcpu *vcpu = env->vcpus[id];
	struct ucall uc;
	int ret = _vcpu_run(vcpu);

	TEST_ASSERT(!ret, "KVM_RUN failed, errno: %d, exit: %u, gpa: %#llx", errno,
		    vcpu->run->exit_reason, vcpu->run->memory_fault.gpa);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC, "Unexpected exit: %u (%s)",
		    vcpu->run->exit_reason, exit_reason_str(vcpu->run->exit_reason));
}

static void guest_touches(struct env *env, uint64_t gpa, uint64_t npages)
{
	set_cmd(env, 0, OP_WRITE, gpa, npages);
	run_to_sync(env, 0);
}

/* A page as the guest sees it, for as long as it is not asked again. */
static const void *guest_reads(struct env *env, uint64_t gpa)
{
	set_cmd(env, 0, OP_COPY, gpa, 1);
	run_to_sync(env, 0);
	return addr_gva2hva(env->vm, (uint64_t)&guest_page);
}

static void __expect_contents(struct env *env, uint64_t gpa, uint64_t npages,
			      const uint8_t *want, int line)
{
	uint64_t i;

	for (i = 0; i < npages; i++)
		TEST_ASSERT(!memcmp(guest_reads(env, gpa + i * PAGE_SIZE),
				    want + i * PAGE_SIZE, PAGE_SIZE),
			    "Line %d: page %lu from gpa %#lx on differs", line, i, gpa);
}

#define expect_contents(env, gpa, npages, want)				\
	__expect_contents(env, gpa, npages, want, __LINE__)

static uint64_t entries(struct env *env)
{
	return *(volatile uint64_t *)addr_gva2hva(env->vm, (uint64_t)&guest_entries);
}

/* Not an instruction. */
static void expect_not_run(struct env *env)
{
	struct kvm_regs before, after;
	int i, ret;

	vcpu_regs_get(env->vcpus[0], &before);
	for (i = 0; i < 3; i++) {
		ret = _vcpu_run(env->vcpus[0]);
		TEST_ASSERT(ret == -1 && errno == EPERM,
			    "KVM_RUN returned %d, errno: %d", ret, errno);
	}
	vcpu_regs_get(env->vcpus[0], &after);
	TEST_ASSERT(!memcmp(&before, &after, sizeof(before)), "Registers have changed");
	TEST_ASSERT_EQ(entries(env), (uint64_t)0);
}

static void start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	int ret = pthread_create(thread, NULL, fn, arg);

	TEST_ASSERT(!ret, "pthread_create() failed: %d", ret);
}

/* One vCPU. */
FIXTURE(launch) {
	struct env env;
};

FIXTURE_SETUP(launch)
{
	env_setup(&self->env, 1);
}

FIXTURE_TEARDOWN(launch)
{
	env_teardown(&self->env);
}

/* As many as there can be. */
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
	struct kvm_gmem_soft_populate populate = {
		.size = PAGE_SIZE,
		.source = (uintptr_t)map_pages(1),
	};
	struct kvm_gmem_soft_status status;

	ASSERT_EQ(EINVAL, errno_of(ioctl(self->dev, KVM_GMEM_SOFT_POPULATE, &populate)));
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
	static const uint8_t of_nothing[] = {
		0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14,
	};
	struct kvm_gmem_soft_status status;

	attach(self->dev, self->vm);
	status = get_status(self->dev);
	ASSERT_EQ(0, memcmp(status.digest, of_nothing, sizeof(of_nothing)));
	ASSERT_EQ(0, status.populated);
	ASSERT_EQ(0, status.finalised);
	expect_pages(self->dev, 0, 0);

	finalise(self->dev);
	status = get_status(self->dev);
	ASSERT_EQ(0, memcmp(status.digest, of_nothing, sizeof(of_nothing)));
	ASSERT_EQ(1, status.finalised);
	expect_pages(self->dev, 0, 0);
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
		_IO(0xB9, 5),
		_IO(0xB9, 0xff),
		_IO(0xB8, 2),
		_IO(KVMIO, 0),
		/* Known numbers, other sizes. */
		_IOW(0xB9, 0, __u32),
		_IOWR(0xB9, 1, struct kvm_gmem_soft_attach),
		_IOR(0xB9, 3, __u64),
		_IOW(0xB9, 4, __u64),
	};
	static const unsigned long reads[] = {
		KVM_GMEM_SOFT_ATTACH, KVM_GMEM_SOFT_POPULATE, KVM_GMEM_SOFT_PLANT,
	};
	char *bad = (char *)map_pages(2) + PAGE_SIZE;
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
	pthread_barrier_t *barrier;
	int dev;
	int vm_fd;
	int err;
};

static void *try_attach(void *arg)
{
	struct attacher *a = arg;

	pthread_barrier_wait(a->barrier);
	a->err = attach_errno(a->dev, a->vm_fd, 0);
	return NULL;
}

/* Two back ends for one VM at the same time. */
TEST(race_of_attach)
{
	pthread_barrier_t barrier;
	struct attacher a[2];
	pthread_t threads[2];
	struct kvm_vm *vm;
	int i, race;

	pthread_barrier_init(&barrier, NULL, 2);
	for (race = 0; race < RACES; race++) {
		vm = create_private_vm();
		for (i = 0; i < 2; i++) {
			a[i] = (struct attacher) {
				.barrier = &barrier,
				.dev = open_device(),
				.vm_fd = vm->fd,
			};
			start_thread(&threads[i], try_attach, &a[i]);
		}
		for (i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
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
	struct kvm_memory_mapping map;
	pthread_barrier_t barrier;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct attacher a;
	struct kvm_vm *vm;
	int race, fd, err;

	pthread_barrier_init(&barrier, NULL, 2);
	for (race = 0; race < RACES; race++) {
		vm = create_private_vm();
		fd = vm_create_guest_memfd(vm, SIZE, 0);
		vm_bind_gmem(vm, SLOT, GPA, SIZE, fd, 0);
		vm_mem_set_private(vm, GPA, SIZE);
		a = (struct attacher) {
			.barrier = &barrier,
			.dev = open_device(),
			.vm_fd = vm->fd,
		};
		map = (struct kvm_memory_mapping) {
			.base_address = GPA,
			.size = SIZE,
		};
		start_thread(&thread, try_attach, &a);
		pthread_barrier_wait(&barrier);
		usleep(race % 4 * 20);
		vcpu = __vm_vcpu_add(vm, 0);
		err = errno_of(ioctl(vcpu->fd, KVM_MAP_MEMORY, &map));
		pthread_join(thread, NULL);

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

static int map_errno(struct env *env, struct kvm_memory_mapping *map)
{
	return errno_of(ioctl(env->vcpus[0]->fd, KVM_MAP_MEMORY, map));
}

static int pre_fault_errno(struct env *env, struct kvm_pre_fault_memory *pre)
{
	return errno_of(ioctl(env->vcpus[0]->fd, KVM_PRE_FAULT_MEMORY, pre));
}

TEST_F(launch, before_and_after_finalise)
{
	struct kvm_memory_mapping map = {
		.base_address = GPA,
		.size = 2 * PAGE_SIZE,
	};
	struct kvm_pre_fault_memory pre = {
		.gpa = GPA + 2 * PAGE_SIZE,
		.size = 3 * PAGE_SIZE,
	};
	struct env *env = &self->env;

	expect_not_run(env);
	ASSERT_EQ(EOPNOTSUPP, map_errno(env, &map));
	ASSERT_EQ(GPA, map.base_address);
	ASSERT_EQ(2 * PAGE_SIZE, map.size);
	ASSERT_EQ(EOPNOTSUPP, pre_fault_errno(env, &pre));
	ASSERT_EQ(GPA + 2 * PAGE_SIZE, pre.gpa);
	ASSERT_EQ(3 * PAGE_SIZE, pre.size);

	/* Not even shared memory. */
	map.base_address = 0;
	ASSERT_EQ(EOPNOTSUPP, map_errno(env, &map));

	/* Neither before nor after there is something to run. */
	populate(env, GPA, 1, env->src);
	expect_not_run(env);
	map.base_address = GPA;
	ASSERT_EQ(EOPNOTSUPP, map_errno(env, &map));
	ASSERT_EQ(EOPNOTSUPP, pre_fault_errno(env, &pre));
	expect_pages(env->dev, 1, 0);
	ASSERT_EQ(1, gmem_allocated_pages(env->fd));
	ASSERT_EQ(0, get_status(env->dev).finalised);

	finalise(env->dev);
	ASSERT_EQ(1, get_status(env->dev).finalised);
	ASSERT_EQ(0, map_errno(env, &map));
	ASSERT_EQ(GPA + 2 * PAGE_SIZE, map.base_address);
	ASSERT_EQ(0, map.size);
	expect_pages(env->dev, 2, 0);
	while (pre.size)
		ASSERT_EQ(0, pre_fault_errno(env, &pre));
	ASSERT_EQ(GPA + 5 * PAGE_SIZE, pre.gpa);
	expect_pages(env->dev, 5, 0);

	guest_touches(env, GPA + PAGE_SIZE, 3);
	expect_contents(env, GPA, 1, env->src);
	expect_pages(env->dev, 5, 0);
}

TEST_F(launch, finalise_is_final)
{
	struct env *env = &self->env;

	populate(env, GPA, 2, env->src);
	finalise(env->dev);
	ASSERT_EQ(EPERM, finalise_errno(env->dev));

	populate_fails(env, GPA + 2 * PAGE_SIZE, PAGE_SIZE, env->src, EPERM, 0);
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
	static const uint8_t zeroes[PAGE_SIZE];
	uint64_t i;

	populate(env, GPA, 5, env->src);
	populate(env, GPA + 9 * PAGE_SIZE, NR_PAGES - 9, env->src + 9 * PAGE_SIZE);
	ASSERT_EQ(NR_PAGES - 4, gmem_allocated_pages(env->fd));
	expect_pages(env->dev, NR_PAGES - 4, 0);
	finalise(env->dev);

	expect_contents(env, GPA, 5, env->src);
	expect_contents(env, GPA + 9 * PAGE_SIZE, NR_PAGES - 9,
			env->src + 9 * PAGE_SIZE);
	for (i = 5; i < 9; i++)
		expect_contents(env, GPA + i * PAGE_SIZE, 1, zeroes);

	/* A copy: what the host does with the source later is its own business. */
	fill(env->src, SIZE, 2);
	guest_touches(env, GPA, 1);
	ASSERT_EQ(WORD, *(uint64_t *)guest_reads(env, GPA));
	ASSERT_NE(0, memcmp(guest_reads(env, GPA + PAGE_SIZE), env->src + PAGE_SIZE,
			    PAGE_SIZE));

	/* All of that on the private side. */
	for (i = 0; i < SIZE; i++)
		ASSERT_EQ(SHARED_BYTE, env->hva[i]);
	expect_measurement(env);
}

/* The same bytes at the same places give the same digest, and another at each step. */
TEST_F(launch, page_by_page)
{
	struct env *env = &self->env, one;
	struct kvm_gmem_soft_status all, status;
	uint64_t i;

	populate(env, GPA, NR_PAGES, env->src);
	all = get_status(env->dev);

	env_setup(&one, 1);
	for (i = 0; i < NR_PAGES; i++) {
		status = get_status(one.dev);
		ASSERT_NE(0, memcmp(all.digest, status.digest, 32));
		populate(&one, GPA + i * PAGE_SIZE, 1, one.src + i * PAGE_SIZE);
	}
	status = get_status(one.dev);
	ASSERT_EQ(0, memcmp(all.digest, status.digest, 32));

	finalise(one.dev);
	expect_contents(&one, GPA, NR_PAGES, one.src);
	env_teardown(&one);
}

/* One bit, the place, and the order: all of them are measured. */
TEST_F(launch, digest_tells_what_differs)
{
	struct env *env = &self->env, flipped, moved, swapped;
	uint8_t digests[4][32];
	int i, j;

	populate(env, GPA, 2, env->src);
	memcpy(digests[0], get_status(env->dev).digest, 32);

	env_setup(&flipped, 1);
	flipped.src[2 * PAGE_SIZE - 1] ^= 1;
	populate(&flipped, GPA, 2, flipped.src);
	memcpy(digests[1], get_status(flipped.dev).digest, 32);

	env_setup(&moved, 1);
	populate(&moved, GPA + PAGE_SIZE, 2, moved.src);
	memcpy(digests[2], get_status(moved.dev).digest, 32);

	env_setup(&swapped, 1);
	populate(&swapped, GPA + PAGE_SIZE, 1, swapped.src + PAGE_SIZE);
	populate(&swapped, GPA, 1, swapped.src);
	memcpy(digests[3], get_status(swapped.dev).digest, 32);

	for (i = 0; i < 4; i++)
		for (j = 0; j < i; j++)
			ASSERT_NE(0, memcmp(digests[i], digests[j], 32));

	/* The order is no difference to the guest. */
	finalise(swapped.dev);
	expect_contents(&swapped, GPA, 2, swapped.src);

	env_teardown(&swapped);
	env_teardown(&moved);
	env_teardown(&flipped);
}

TEST_F(launch, any_source)
{
	struct env *env = &self->env;
	uint8_t *zero = map_pages(2);
	int fd = open("/proc/self/exe", O_RDONLY);
	void *file = mmap(NULL, 2 * PAGE_SIZE, PROT_READ, MAP_PRIVATE, fd, 0);

	ASSERT_NE(MAP_FAILED, file);

	/* Never touched, read-only, the same one twice, and of a file. */
	populate(env, GPA, 2, zero);
	ASSERT_EQ(0, mprotect(env->src, SIZE, PROT_READ));
	populate(env, GPA + 2 * PAGE_SIZE, 2, env->src);
	populate(env, GPA + 4 * PAGE_SIZE, 2, env->src);
	populate(env, GPA + 6 * PAGE_SIZE, 2, file);

	finalise(env->dev);
	expect_contents(env, GPA, 2, zero);
	expect_contents(env, GPA + 2 * PAGE_SIZE, 2, env->src);
	expect_contents(env, GPA + 4 * PAGE_SIZE, 2, env->src);
	expect_contents(env, GPA + 6 * PAGE_SIZE, 2, file);
	expect_pages(env->dev, 8, 0);
	close(fd);
}

TEST_F(launch, bad_range)
{
	const uint64_t page = PAGE_SIZE;
	const struct {
		uint64_t gpa, size;
	} cases[] = {
		{ GPA, 0 },
		{ GPA + 1, page },
		{ GPA + page - 1, page },
		{ GPA + 512, page },
		{ GPA, 1 },
		{ GPA, page - 1 },
		{ GPA, page + 1 },
		{ GPA + 8, page - 8 },
		{ -page, page },
		{ -page, 2 * page },
		{ GPA, -page },
		{ GPA, -GPA },
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
	vm_mem_set_shared(env->vm, GPA + 4 * PAGE_SIZE, PAGE_SIZE);
	populate_fails(env, GPA, 2 * PAGE_SIZE, env->src, EINVAL, 0);
	populate_fails(env, GPA + PAGE_SIZE, 7 * PAGE_SIZE, env->src, EINVAL, 3);

	/* Go on where it stopped, with the cause removed. */
	vm_mem_set_private(env->vm, GPA + 4 * PAGE_SIZE, PAGE_SIZE);
	populate(env, GPA + 4 * PAGE_SIZE, 4, env->src + 3 * PAGE_SIZE);
	expect_pages(env->dev, 8, 0);
	finalise(env->dev);
	expect_contents(env, GPA + PAGE_SIZE, 7, env->src);
}

TEST_F(launch, slot_deleted)
{
	struct env *env = &self->env;

	populate(env, GPA, 1, env->src);
	vm_delete_slot(env->vm, SLOT);
	populate_fails(env, GPA + PAGE_SIZE, PAGE_SIZE, env->src, EINVAL, 0);
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

	populate(env, GPA, 2, env->src);
	close_file(env);
	expect_pages(env->dev, 2, 2);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EFAULT, 0);
	populate_fails(env, GPA + 2 * PAGE_SIZE, PAGE_SIZE, env->src, EFAULT, 0);
	finalise(env->dev);
	set_cmd(env, 0, OP_COPY, GPA, 1);
	vcpu_run_memory_fault(env->vcpus[0], GPA, PRIVATE);
	expect_pages(env->dev, 2, 2);
}

TEST_F(launch, bad_source)
{
	struct env *env = &self->env;
	uint8_t *hole = map_pages(4);

	ASSERT_EQ(0, munmap(hole, 4 * PAGE_SIZE));
	populate_fails(env, GPA, PAGE_SIZE, hole, EFAULT, 0);
	populate_fails(env, GPA, NR_PAGES * PAGE_SIZE, hole, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, NULL, EFAULT, 0);
	/* Addresses of the kernel, and none at all. */
	populate_fails(env, GPA, PAGE_SIZE, 0xffff888000000000, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, 0x7ffffffff000, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, 0x800000000000, EFAULT, 0);
	populate_fails(env, GPA, PAGE_SIZE, -2 * PAGE_SIZE, EFAULT, 0);
	/* Bad arithmetics. */
	populate_fails(env, GPA, PAGE_SIZE, -PAGE_SIZE, EINVAL, 0);
	populate_fails(env, GPA, 2 * PAGE_SIZE, -PAGE_SIZE, EINVAL, 0);
	populate_fails(env, GPA, PAGE_SIZE, env->src + 1, EINVAL, 0);
	populate_fails(env, GPA, PAGE_SIZE, env->src + PAGE_SIZE - 1, EINVAL, 0);

	ASSERT_EQ(0, mprotect(env->src, PAGE_SIZE, PROT_NONE));
	populate_fails(env, GPA, PAGE_SIZE, env->src, EFAULT, 0);
	expect_pages(env->dev, 0, 0);

	/* None of the failures is an obstacle to do better. */
	populate(env, GPA, 1, env->src + PAGE_SIZE);
	finalise(env->dev);
	expect_contents(env, GPA, 1, env->src + PAGE_SIZE);
}

TEST_F(launch, source_ends_half_way)
{
	struct env *env = &self->env;

	ASSERT_EQ(0, mprotect(env->src + 5 * PAGE_SIZE, PAGE_SIZE, PROT_NONE));
	populate_fails(env, GPA, 8 * PAGE_SIZE, env->src, EFAULT, 5);
	populate_fails(env, GPA + 5 * PAGE_SIZE, 3 * PAGE_SIZE,
		       env->src + 5 * PAGE_SIZE, EFAULT, 0);
	expect_pages(env->dev, 5, 0);

	/* With the struct as it was left, once there is more to read. */
	ASSERT_EQ(0, mprotect(env->src, SIZE, PROT_READ));
	populate(env, GPA + 5 * PAGE_SIZE, 3, env->src + 5 * PAGE_SIZE);
	finalise(env->dev);
	expect_contents(env, GPA, 8, env->src);
}

/* Data is not replaced, be it measured or zeroes. */
TEST_F(launch, page_is_there)
{
	struct env *env = &self->env;
	static const uint8_t zeroes[PAGE_SIZE];

	populate(env, GPA, 2, env->src);
	populate_fails(env, GPA, PAGE_SIZE, env->src + PAGE_SIZE, EEXIST, 0);
	populate_fails(env, GPA + PAGE_SIZE, 2 * PAGE_SIZE, env->src, EEXIST, 0);

	gmem_allocate(env->fd, FILE_OFFSET + 6 * PAGE_SIZE, PAGE_SIZE);
	populate_fails(env, GPA + 6 * PAGE_SIZE, PAGE_SIZE, env->src, EEXIST, 0);
	populate_fails(env, GPA + 2 * PAGE_SIZE, 8 * PAGE_SIZE,
		       env->src + 2 * PAGE_SIZE, EEXIST, 4);
	/* It is in the file, and nobody's. */
	ASSERT_EQ(7, gmem_allocated_pages(env->fd));
	expect_pages(env->dev, 6, 0);

	finalise(env->dev);
	expect_contents(env, GPA, 6, env->src);
	expect_pages(env->dev, 6, 0);
	expect_contents(env, GPA + 6 * PAGE_SIZE, 1, zeroes);
	expect_pages(env->dev, 7, 0);
}

/* A hole makes room.  What was measured stays measured. */
TEST_F(launch, populate_again)
{
	struct env *env = &self->env;

	populate(env, GPA, 4, env->src);
	punch(env, 1, 2);
	expect_pages(env->dev, 4, 2);
	expect_measurement(env);
	populate_fails(env, GPA, PAGE_SIZE, env->src, EEXIST, 0);
	populate_fails(env, GPA + PAGE_SIZE, 3 * PAGE_SIZE, env->src + 8 * PAGE_SIZE,
		       EEXIST, 2);
	expect_pages(env->dev, 6, 2);

	finalise(env->dev);
	expect_contents(env, GPA, 1, env->src);
	expect_contents(env, GPA + PAGE_SIZE, 2, env->src + 8 * PAGE_SIZE);
	expect_contents(env, GPA + 3 * PAGE_SIZE, 1, env->src + 3 * PAGE_SIZE);
	expect_pages(env->dev, 6, 2);
}

TEST_F(launch, two_slots)
{
	struct env *env = &self->env;
	int fd = vm_create_guest_memfd(env->vm, 2 * SIZE, 0);

	bind_slot(env, SLOT + 1, NEXT_GPA, fd, SIZE);
	vm_mem_set_private(env->vm, NEXT_GPA, SIZE);
	populate(env, NEXT_GPA - 3 * PAGE_SIZE, 8, env->src);
	ASSERT_EQ(3, gmem_allocated_pages(env->fd));
	ASSERT_EQ(5, gmem_allocated_pages(fd));
	expect_pages(env->dev, 8, 0);

	finalise(env->dev);
	expect_contents(env, NEXT_GPA - 3 * PAGE_SIZE, 8, env->src);
	expect_measurement(env);

	close(fd);
	expect_pages(env->dev, 8, 5);
	expect_contents(env, NEXT_GPA - 3 * PAGE_SIZE, 3, env->src);
}

/* The struct must be able to take what is left, else nothing is done. */
TEST_F(launch, struct_read_only)
{
	struct env *env = &self->env;
	struct kvm_gmem_soft_populate *args = (void *)map_pages(1);

	*args = (struct kvm_gmem_soft_populate) {
		.gpa = GPA,
		.size = PAGE_SIZE,
		.source = (uintptr_t)env->src,
	};
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
	const uint64_t npages = 2048;
	struct sigaction sa = { .sa_handler = ignore_signal };
	struct itimerval timer = {};
	struct kvm_gmem_soft_populate args;
	struct env *env = &self->env;
	uint64_t i, progress, ms = 1;
	int fd, err, interrupted = 0;
	uint8_t *src;

	fd = vm_create_guest_memfd(env->vm, npages * PAGE_SIZE, 0);
	vm_bind_gmem(env->vm, SLOT + 1, 4 * GPA, npages * PAGE_SIZE, fd, 0);
	vm_mem_set_private(env->vm, 4 * GPA, npages * PAGE_SIZE);
	src = map_pages(npages);
	fill(src, npages * PAGE_SIZE, 3);
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));

	args = (struct kvm_gmem_soft_populate) {
		.gpa = 4 * GPA,
		.size = npages * PAGE_SIZE,
		.source = (uintptr_t)src,
	};
	/* The more time the slower the machine is. */
	for (; args.size; ms *= 2) {
		progress = args.gpa;
		timer.it_value.tv_sec = ms / 1000;
		timer.it_value.tv_usec = ms % 1000 * 1000;
		ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));
		err = errno_of(ioctl(env->dev, KVM_GMEM_SOFT_POPULATE, &args));
		ASSERT_TRUE(err == 0 || err == EINTR);
		ASSERT_EQ(err == 0, args.size == 0);
		interrupted += err == EINTR;

		progress = args.gpa - progress;
		ASSERT_EQ(0, progress % PAGE_SIZE);
		ASSERT_EQ(4 * GPA + npages * PAGE_SIZE, args.gpa + args.size);
		ASSERT_EQ((uintptr_t)src + args.gpa - 4 * GPA, args.source);
		i = (args.gpa - 4 * GPA) / PAGE_SIZE;
		ASSERT_EQ(i, gmem_allocated_pages(fd));
		expect_pages(env->dev, i, 0);
	}
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_REAL, &timer, NULL);
	ASSERT_GT(interrupted, 0);

	for (i = 0; i < npages; i++)
		measure(env, 4 * GPA + i * PAGE_SIZE, src + i * PAGE_SIZE);
	expect_measurement(env);
	close(fd);
	expect_pages(env->dev, npages, npages);
}

struct populator {
	struct env *env;
	pthread_barrier_t *barrier;
	uint8_t *src;
	uint64_t first;
	uint64_t done;
	uint64_t refused;
	int err;
};

/* All pages in a round, except those with which another is faster. */
static void *populate_all(void *arg)
{
	struct populator *p = arg;
	struct kvm_gmem_soft_populate args;
	uint64_t i, offset;
	int err;

	pthread_barrier_wait(p->barrier);
	for (i = 0; i < NR_PAGES; i++) {
		offset = (p->first + i) % NR_PAGES * PAGE_SIZE;
		args = (struct kvm_gmem_soft_populate) {
			.gpa = GPA + offset,
			.size = PAGE_SIZE,
			.source = (uintptr_t)p->src + offset,
		};
		err = errno_of(ioctl(p->env->dev, KVM_GMEM_SOFT_POPULATE, &args));
		if (!err) {
			p->done++;
		} else if (err == EEXIST) {
			p->refused++;
		} else {
			p->err = err;
			break;
		}
		sched_yield();
	}
	return NULL;
}

static void start_populators(struct env *env, struct populator *p, pthread_t *threads,
			     pthread_barrier_t *barrier, int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		p[i] = (struct populator) {
			.env = env,
			.barrier = barrier,
			.src = map_pages(NR_PAGES),
			.first = i * NR_PAGES / nr,
		};
		memset(p[i].src, 'a' + i, SIZE);
		start_thread(&threads[i], populate_all, &p[i]);
	}
}

/* Each page is there once, and from one source. */
TEST_F(launch, populated_by_many)
{
	struct populator p[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	struct env *env = &self->env;
	uint64_t done, race, gone = 0;
	pthread_barrier_t barrier;
	const uint8_t *page;
	int i, j;

	pthread_barrier_init(&barrier, NULL, MAX_VCPUS);
	for (race = 1; race <= RACES; race++) {
		punch(env, 0, NR_PAGES);
		expect_pages(env->dev, gone, gone);
		start_populators(env, p, threads, &barrier, MAX_VCPUS);
		for (i = 0, done = 0; i < MAX_VCPUS; i++) {
			pthread_join(threads[i], NULL);
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
		page = guest_reads(env, GPA + i * PAGE_SIZE);
		ASSERT_TRUE(page[0] >= 'a' && page[0] < 'a' + MAX_VCPUS);
		for (j = 1; j < PAGE_SIZE; j++)
			ASSERT_EQ(page[0], page[j]);
	}
	expect_pages(env->dev, gone, gone - NR_PAGES);
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
	struct kvm_gmem_soft_populate args;
	uint64_t offset;
	int err;

	for (offset = 0; !r->stop; offset = (args.gpa - GPA + PAGE_SIZE) % SIZE) {
		args = (struct kvm_gmem_soft_populate) {
			.gpa = GPA + offset,
			.size = SIZE - offset,
			.source = (uintptr_t)r->env->src + offset,
		};
		err = errno_of(ioctl(r->env->dev, KVM_GMEM_SOFT_POPULATE, &args));
		r->done += (args.gpa - GPA - offset) / PAGE_SIZE;
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
	uint64_t first, npages, pages;
	unsigned int seed = 1;
	pthread_t thread;
	int step;

	start_thread(&thread, refill, &r);
	for (step = 0; step < TORTURE_STEPS || (r.done < ENOUGH && !r.err); step++) {
		first = rand_r(&seed) % NR_PAGES;
		npages = 1 + rand_r(&seed) % (NR_PAGES - first);
		if (step % 4 == 0)
			vm_mem_set_shared(env->vm, GPA + first * PAGE_SIZE,
					  npages * PAGE_SIZE);
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
		ioctl(env->dev, KVM_GMEM_SOFT_POPULATE, &(struct kvm_gmem_soft_populate) {
			.gpa = GPA + first * PAGE_SIZE,
			.size = PAGE_SIZE,
			.source = (uintptr_t)env->src + first * PAGE_SIZE,
		});
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	finalise(env->dev);
	expect_contents(env, GPA, NR_PAGES, env->src);
}

/* What the digest says when the guest may run is all that there is. */
TEST(race_of_populate_and_finalise)
{
	struct kvm_gmem_soft_status before, after;
	pthread_barrier_t barrier;
	struct populator p;
	pthread_t thread;
	struct env env;
	int race;

	pthread_barrier_init(&barrier, NULL, 2);
	for (race = 0; race < RACES; race++) {
		env_setup(&env, 0);
		start_populators(&env, &p, &thread, &barrier, 1);
		pthread_barrier_wait(&barrier);
		usleep(race * 50);
		finalise(env.dev);
		before = get_status(env.dev);
		pthread_join(thread, NULL);

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

/*
 * Owners of pages.
 */

TEST_F(launch, clean_life)
{
	struct env *env = &self->env;
	static const uint8_t zeroes[PAGE_SIZE];

	populate(env, GPA, 4, env->src);
	expect_pages(env->dev, 4, 0);
	finalise(env->dev);

	/* Once the guest's, it stays that. */
	guest_touches(env, GPA + 4 * PAGE_SIZE, 6);
	expect_pages(env->dev, 10, 0);
	guest_touches(env, GPA + 4 * PAGE_SIZE, 6);
	expect_contents(env, GPA, 4, env->src);
	expect_pages(env->dev, 10, 0);

	/* A hole takes what is there, once. */
	punch(env, 3, 3);
	expect_pages(env->dev, 10, 3);
	punch(env, 3, 3);
	punch(env, 10, 6);
	expect_pages(env->dev, 10, 3);
	expect_contents(env, GPA + 3 * PAGE_SIZE, 1, zeroes);
	expect_pages(env->dev, 11, 3);

	/* The slot's pages stay in the file, and are nobody's. */
	vm_delete_slot(env->vm, SLOT);
	expect_pages(env->dev, 11, 11);
	ASSERT_EQ(8, gmem_allocated_pages(env->fd));

	/* Page 1 of the old slot is page 3 of the new one. */
	bind_slot(env, SLOT, OTHER_GPA, env->fd, FILE_OFFSET - 2 * PAGE_SIZE);
	vm_mem_set_private(env->vm, OTHER_GPA, SIZE);
	expect_pages(env->dev, 11, 11);
	expect_contents(env, OTHER_GPA + 3 * PAGE_SIZE, 1, env->src + PAGE_SIZE);
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

	populate(env, GPA, 2, env->src);
	finalise(env->dev);
	guest_touches(env, GPA + 2 * PAGE_SIZE, 2);
	expect_pages(env->dev, 4, 0);

	vm_mem_set_shared(env->vm, GPA, SIZE);
	expect_pages(env->dev, 4, 0);
	guest_touches(env, GPA, NR_PAGES);
	ASSERT_EQ(WORD, *(uint64_t *)env->hva);
	expect_pages(env->dev, 4, 0);
	ASSERT_EQ(4, gmem_allocated_pages(env->fd));

	vm_mem_set_private(env->vm, GPA, SIZE);
	expect_contents(env, GPA, 2, env->src);
	ASSERT_EQ(WORD, *(uint64_t *)guest_reads(env, GPA + 2 * PAGE_SIZE));
	expect_pages(env->dev, 4, 0);

	/* Freed while shared: the hole is in the file whoever sees it. */
	vm_mem_set_shared(env->vm, GPA, SIZE);
	punch(env, 0, 1);
	expect_pages(env->dev, 4, 1);
	vm_delete_slot(env->vm, SLOT);
	expect_pages(env->dev, 4, 4);
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
	guest_touches(env, GPA + PAGE_SIZE, 3);
	expect_pages(env->dev, 3, 0);
	punch(env, 0, NR_PAGES);
	expect_pages(env->dev, 3, 3);
}

/* KVM's own access is one of the guest. */
TEST_F(launch, access_of_kvm)
{
	struct env *env = &self->env;
	struct kvm_run *run = env->vcpus[0]->run;

	populate(env, GPA, 1, env->src);
	finalise(env->dev);
	set_cmd(env, 0, OP_OUT, GPA + 5, 1);
	vcpu_run(env->vcpus[0]);
	ASSERT_EQ(KVM_EXIT_IO, run->exit_reason);
	ASSERT_EQ(env->src[5], *((uint8_t *)run + run->io.data_offset));
	run_to_sync(env, 0);
	expect_pages(env->dev, 1, 0);

	set_cmd(env, 0, OP_OUT, GPA + PAGE_SIZE, 1);
	vcpu_run(env->vcpus[0]);
	ASSERT_EQ(KVM_EXIT_IO, run->exit_reason);
	ASSERT_EQ(0, *((uint8_t *)run + run->io.data_offset));
	run_to_sync(env, 0);
	expect_pages(env->dev, 2, 0);
	guest_touches(env, GPA + PAGE_SIZE, 1);
	expect_pages(env->dev, 2, 0);
}

/* Each VM has its own book, its own measurement, and its own violations. */
TEST_F(launch, two_vms)
{
	struct env *env = &self->env, other;

	env_setup(&other, 1);
	populate(env, GPA, 3, env->src);
	expect_pages(other.dev, 0, 0);
	expect_measurement(&other);
	populate(&other, GPA, 2, other.src + PAGE_SIZE);
	finalise(other.dev);
	expect_not_run(env);
	expect_contents(&other, GPA, 2, other.src + PAGE_SIZE);

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
 * The end, in any order.
 */

enum part {
	PART_VM,
	PART_DEVICE,
	PART_FILE,
};

FIXTURE(end) {
	struct env env;
};

FIXTURE_VARIANT(end) {
	enum part order[3];
};

FIXTURE_VARIANT_ADD(end, vm_device_file) {
	.order = { PART_VM, PART_DEVICE, PART_FILE },
};

FIXTURE_VARIANT_ADD(end, vm_file_device) {
	.order = { PART_VM, PART_FILE, PART_DEVICE },
};

FIXTURE_VARIANT_ADD(end, device_vm_file) {
	.order = { PART_DEVICE, PART_VM, PART_FILE },
};

FIXTURE_VARIANT_ADD(end, device_file_vm) {
	.order = { PART_DEVICE, PART_FILE, PART_VM },
};

FIXTURE_VARIANT_ADD(end, file_vm_device) {
	.order = { PART_FILE, PART_VM, PART_DEVICE },
};

FIXTURE_VARIANT_ADD(end, file_device_vm) {
	.order = { PART_FILE, PART_DEVICE, PART_VM },
};

FIXTURE_SETUP(end)
{
	env_setup(&self->env, 1);
	populate(&self->env, GPA, 3, self->env.src);
}

/* What is left for it when the test is done. */
FIXTURE_TEARDOWN(end)
{
	munmap(self->env.hva, SIZE);
	munmap(self->env.src, SIZE);
}

static void close_part(struct env *env, enum part part)
{
	switch (part) {
	case PART_VM:
		kvm_vm_free(env->vm);
		env->vm = NULL;
		break;
	case PART_DEVICE:
		close(env->dev);
		env->dev = -1;
		break;
	case PART_FILE:
		close_file(env);
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
	guest_touches(env, GPA + 3 * PAGE_SIZE, 2);
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

	populate(env, GPA, 4, env->src);
	finalise(env->dev);
	guest_touches(env, GPA + 4 * PAGE_SIZE, 4);
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
	guest_touches(env, GPA + 3 * PAGE_SIZE, 1);
	expect_counters(env->dev, 9, 2, 5, 2);
	punch(env, 3, 1);
	expect_counters(env->dev, 9, 3, 4, 2);
}

TEST_F(launch, planted_and_removed)
{
	struct env *env = &self->env;

	populate(env, GPA, 4, env->src);
	plant_forgotten_invalidation(env->dev);
	ASSERT_EQ(0, plant_errno(env->dev, 0));
	punch(env, 0, 2);
	expect_pages(env->dev, 4, 2);
}

TEST_F(launch, file_closed_while_owned)
{
	struct env *env = &self->env;

	populate(env, GPA, 4, env->src);
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

FIXTURE_VARIANT_ADD(two_owners, guest) {
	.op = OP_COPY,
};

FIXTURE_VARIANT_ADD(two_owners, kvm) {
	.op = OP_OUT,
};

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
	struct kvm_memory_mapping map = {
		.base_address = gpa,
		.size = PAGE_SIZE,
	};
	struct env *env = &self->env;
	struct kvm_vcpu *vcpu = env->vcpus[0];
	int i;

	populate(env, GPA + PAGE_SIZE, 1, env->src);
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
	ASSERT_EQ(EIO, map_errno(env, &map));
	ASSERT_EQ(gpa, map.base_address);
	ASSERT_EQ(PAGE_SIZE, map.size);
	expect_counters(env->dev, 1, 0, 1, 4);

	/* Without the page the guest can go on. */
	punch(env, 1, 1);
	if (variant->op == OP_OUT) {
		vcpu_run(vcpu);
		ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
		ASSERT_EQ(0, *((uint8_t *)vcpu->run + vcpu->run->io.data_offset));
	}
	run_to_sync(env, 0);
	expect_counters(env->dev, 2, 1, 1, 4);
}

/*
 * Many vCPUs.
 */

struct runner {
	struct env *env;
	int id;
	bool memory_faults;
	uint64_t nr_faults;
};

static void *run_vcpu(void *arg)
{
	struct runner *r = arg;
	struct kvm_vcpu *vcpu = r->env->vcpus[r->id];
	struct ucall uc;
	int ret;

	/* Where slots come and go, an access in between is tried again. */
	for (;;) {
		ret = _vcpu_run(vcpu);
		if (!r->memory_faults || ret != -1 || errno != EFAULT ||
		    vcpu->run->exit_reason != KVM_EXIT_MEMORY_FAULT)
			break;
		r->nr_faults++;
	}
	TEST_ASSERT(!ret, "KVM_RUN failed, errno: %d, exit: %u, gpa: %#llx", errno,
		    vcpu->run->exit_reason, vcpu->run->memory_fault.gpa);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC, "Unexpected exit: %u (%s)",
		    vcpu->run->exit_reason, exit_reason_str(vcpu->run->exit_reason));
	return NULL;
}

static void start_vcpus(struct env *env, struct runner *r, pthread_t *threads,
			uint64_t op, bool memory_faults)
{
	int i;

	for (i = 0; i < MAX_VCPUS; i++) {
		r[i] = (struct runner) {
			.env = env,
			.id = i,
			.memory_faults = memory_faults,
		};
		set_cmd(env, i, op, GPA, NR_PAGES);
		start_thread(&threads[i], run_vcpu, &r[i]);
	}
}

static void join_vcpus(pthread_t *threads)
{
	int i;

	for (i = 0; i < MAX_VCPUS; i++)
		pthread_join(threads[i], NULL);
}

/* At the same time, each page becomes the guest's once. */
TEST_F(smp, first_touch)
{
	struct runner runners[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	struct env *env = &self->env;
	int i;

	finalise(env->dev);
	for (i = 0; i < RACES; i++) {
		start_vcpus(env, runners, threads, OP_WRITE, false);
		join_vcpus(threads);
		expect_pages(env->dev, (i + 1) * NR_PAGES, i * NR_PAGES);
		punch(env, 0, NR_PAGES);
		expect_pages(env->dev, (i + 1) * NR_PAGES, (i + 1) * NR_PAGES);
	}
}

static void stop_torture(struct env *env, pthread_t *threads)
{
	*(volatile uint64_t *)addr_gva2hva(env->vm, (uint64_t)&guest_stop) = 1;
	join_vcpus(threads);
}

/*
 * At rest.  A page can be in the file and nobody's, if a fault that brought it
 * there had to be given up; when the guest has all its memory no such page is left.
 */
static void expect_consistent(struct env *env)
{
	struct kvm_gmem_soft_status s = get_status(env->dev);

	TEST_ASSERT_EQ((uint64_t)s.violations, (uint64_t)0);
	TEST_ASSERT_EQ((uint64_t)s.owned, (uint64_t)(s.prepared - s.invalidated));
	TEST_ASSERT(s.owned <= gmem_allocated_pages(env->fd),
		    "%llu pages have an owner, %lu exist", s.owned,
		    gmem_allocated_pages(env->fd));

	vm_mem_set_private(env->vm, GPA, SIZE);
	guest_touches(env, GPA, NR_PAGES);
	s = get_status(env->dev);
	TEST_ASSERT_EQ((uint64_t)s.violations, (uint64_t)0);
	TEST_ASSERT_EQ((uint64_t)s.owned, (uint64_t)NR_PAGES);
	TEST_ASSERT_EQ(gmem_allocated_pages(env->fd), (uint64_t)NR_PAGES);

	punch(env, 0, NR_PAGES);
	s = get_status(env->dev);
	TEST_ASSERT_EQ((uint64_t)s.violations, (uint64_t)0);
	TEST_ASSERT_EQ((uint64_t)s.owned, (uint64_t)0);
}

TEST_F(smp, holes_and_conversions)
{
	struct runner runners[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	struct env *env = &self->env;
	uint64_t first, npages, gpa;
	unsigned int seed = 1;
	int step;

	populate(env, GPA, NR_PAGES / 2, env->src);
	finalise(env->dev);
	start_vcpus(env, runners, threads, OP_TORTURE, false);

	for (step = 0; step < TORTURE_STEPS ||
		       get_status(env->dev).prepared < ENOUGH; step++) {
		first = rand_r(&seed) % NR_PAGES;
		npages = 1 + rand_r(&seed) % (NR_PAGES - first);
		gpa = GPA + first * PAGE_SIZE;

		switch (rand_r(&seed) % 4) {
		case 0:
			vm_mem_set_shared(env->vm, gpa, npages * PAGE_SIZE);
			punch(env, first, npages);
			break;
		case 1:
			vm_mem_set_private(env->vm, gpa, npages * PAGE_SIZE);
			break;
		default:
			punch(env, first, npages);
		}
		ASSERT_EQ(0, get_status(env->dev).violations);
		sched_yield();
	}

	stop_torture(env, threads);
	expect_consistent(env);
}

/* The file's pages are at another gfn each time, and the guest is in between. */
TEST_F(smp, slots_that_move)
{
	struct runner runners[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	struct env *env = &self->env;
	uint64_t offset, faults = 0;
	int move, i;

	finalise(env->dev);
	start_vcpus(env, runners, threads, OP_TORTURE, true);

	for (move = 0; move < TORTURE_MOVES ||
		       get_status(env->dev).prepared < ENOUGH; move++) {
		vm_delete_slot(env->vm, SLOT);
		offset = move % 4 * PAGE_SIZE;
		bind_slot(env, SLOT, GPA, env->fd, offset);
		ASSERT_EQ(0, get_status(env->dev).violations);
		usleep(1000);
	}
	vm_delete_slot(env->vm, SLOT);
	expect_pages(env->dev, get_status(env->dev).prepared,
		     get_status(env->dev).prepared);
	gmem_punch_hole(env->fd, 0, FILE_OFFSET + SIZE);
	bind_slot(env, SLOT, GPA, env->fd, FILE_OFFSET);

	stop_torture(env, threads);
	for (i = 0; i < MAX_VCPUS; i++)
		faults += runners[i].nr_faults;
	TH_LOG("%lu memory faults, %llu pages prepared", faults,
	       get_status(env->dev).prepared);
	expect_consistent(env);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(!access(DEVICE, F_OK));

	return test_harness_run(argc, argv);
}
