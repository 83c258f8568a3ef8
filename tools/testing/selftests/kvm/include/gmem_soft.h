/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for tests of guest_memfd with the software back end of private memory,
 * /dev/kvm-gmem-soft: the calls of the device, a VM that is being launched, what
 * must have been measured of it, and its small guest.
 *
 * foo_errno() returns the errno of the call, or 0.  Everything else asserts that
 * it worked.  Macros around a __foo() pass the caller's line, for the message.
 *
 * Includes what the tests need, with the harness, in the order that they want.
 */
#ifndef SELFTEST_KVM_GMEM_SOFT_H
#define SELFTEST_KVM_GMEM_SOFT_H

#include "kvm_gmem_util.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/kvm_gmem_soft.h>

#include "gmem_harness.h"

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
/* Where a page of the slot is. */
#define PAGE(nr)	(GPA + (nr) * PAGE_SIZE)
/* Neither the slot nor the file starts with the page that is used. */
#define FILE_OFFSET	(3 * PAGE_SIZE)

/* What the shared side is full of, and what the guest writes. */
#define SHARED_BYTE	0xc3
#define WORD		0x1122334455667788ULL
#define PRIVATE		KVM_MEMORY_EXIT_FLAG_PRIVATE

/* How often two are made to compete. */
#define RACES		12

/*
 * SHA-256, to recompute what the kernel has measured.
 */

struct sha256 {
	uint32_t h[8];
	uint8_t block[64];
	uint64_t len;
};

/* Of nothing, the state to start with. */
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

static inline void sha256_block(struct sha256 *sha)
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

static inline void sha256_add(struct sha256 *sha, const void *data, uint64_t len)
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
static inline void sha256_digest(const struct sha256 *so_far, uint8_t digest[32])
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
 * Guest: a command per vCPU, done once per entry.
 */

enum {
	/* Read all of a page, for guest_reads(). */
	OP_COPY,
	/* Write WORD to each page. */
	OP_WRITE,
	/* Have KVM read a byte: KVM_EXIT_IO before the UCALL_SYNC. */
	OP_OUT,
	/* OP_WRITE until guest_stop. */
	OP_TORTURE,
};

struct guest_cmd {
	uint64_t op;
	uint64_t gva;
	uint64_t npages;
};

/* All of it shared with the host, which finds it with addr_gva2hva(). */
static volatile struct guest_cmd guest_cmds[MAX_VCPUS];
static volatile uint64_t guest_page[PAGE_SIZE / 8];
static volatile uint64_t guest_entries;
static volatile uint64_t guest_stop;

static void guest_write(uint64_t gva, uint64_t npages)
{
	for (; npages; npages--, gva += PAGE_SIZE)
		*(volatile uint64_t *)gva = WORD;
}

static void guest_main(uint64_t id)
{
	volatile struct guest_cmd *cmd = &guest_cmds[id];
	uint64_t gva, i;

	for (;;) {
		guest_entries++;
		gva = cmd->gva;
		switch (cmd->op) {
		case OP_COPY:
			for (i = 0; i < PAGE_SIZE / 8; i++)
				guest_page[i] = ((volatile uint64_t *)gva)[i];
			break;
		case OP_WRITE:
			guest_write(gva, cmd->npages);
			break;
		case OP_OUT:
			asm volatile("outsb" : "+S"(gva) : "d"(0x3000) : "memory");
			break;
		case OP_TORTURE:
			while (!guest_stop)
				guest_write(gva, cmd->npages);
		}
		GUEST_SYNC(0);
	}
}

/*
 * The device.  The errors are those of linux/kvm_gmem_soft.h.
 */

static inline int open_device(void)
{
	int dev = open(DEVICE, O_RDWR | O_CLOEXEC);

	TEST_ASSERT(dev >= 0, "%s: errno %d", DEVICE, errno);
	return dev;
}

static inline int attach_errno(int dev, int vm_fd, uint32_t max_order)
{
	struct kvm_gmem_soft_attach args = {
		.vm_fd = vm_fd,
		.max_order = max_order,
	};

	return errno_of(ioctl(dev, KVM_GMEM_SOFT_ATTACH, &args));
}

static inline int finalise_errno(int dev)
{
	return errno_of(ioctl(dev, KVM_GMEM_SOFT_FINALISE));
}

static inline int plant_errno(int dev, uint32_t bugs)
{
	return errno_of(ioctl(dev, KVM_GMEM_SOFT_PLANT, &bugs));
}

#define must_work(call)							\
do {									\
	int __err = (call);						\
									\
	TEST_ASSERT(!__err, "%s failed, errno: %d", #call, __err);	\
} while (0)

#define attach(dev, vm)		must_work(attach_errno(dev, (vm)->fd, MAX_ORDER))
#define finalise(dev)		must_work(finalise_errno(dev))
#define plant_forgotten_invalidation(dev)				\
	must_work(plant_errno(dev, KVM_GMEM_SOFT_FORGET_INVALIDATE))

static inline struct kvm_gmem_soft_status get_status(int dev)
{
	struct kvm_gmem_soft_status status;
	int ret;

	memset(&status, 0xff, sizeof(status));
	ret = ioctl(dev, KVM_GMEM_SOFT_STATUS, &status);
	TEST_ASSERT(!ret, __KVM_SYSCALL_ERROR("KVM_GMEM_SOFT_STATUS", ret));
	TEST_ASSERT_EQ(status.pad, 0u);
	return status;
}

/*
 * One call.  @done takes how many pages it did; what it leaves in the struct must
 * be the rest, also after an error.
 */
static inline int __populate_errno(int dev, uint64_t gpa, uint64_t size,
				   uint64_t source, uint64_t *done)
{
	struct kvm_gmem_soft_populate args = {
		.gpa = gpa,
		.size = size,
		.source = source,
	};
	int err = errno_of(ioctl(dev, KVM_GMEM_SOFT_POPULATE, &args));
	uint64_t bytes = args.gpa - gpa;

	TEST_ASSERT(bytes % PAGE_SIZE == 0 && args.size == size - bytes &&
		    args.source == source + bytes,
		    "errno %d, gpa %#lx size %#lx source %#lx became %#llx %#llx %#llx",
		    err, gpa, size, source, args.gpa, args.size, args.source);
	*done = bytes / PAGE_SIZE;
	return err;
}

/* @source is a pointer or a number. */
#define populate_errno(dev, gpa, size, source, done)			\
	__populate_errno(dev, gpa, size, (uintptr_t)(source), done)

static inline void __expect_counters(int dev, uint64_t prepared,
				     uint64_t invalidated, uint64_t owned,
				     uint64_t violations, int line)
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

/*
 * A VM being launched, attached and not finalised: a slot of private memory at GPA
 * with NR_PAGES pages of a file.  The guest maps two slots from GPA on, and one at
 * OTHER_GPA.
 */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	int dev;
	int fd;
	/* The shared side, and what is put into the private one: by page. */
	uint8_t (*hva)[PAGE_SIZE];
	uint8_t (*src)[PAGE_SIZE];
	/* What must have been measured. */
	struct sha256 measured;
	uint64_t populated;
};

/* No two pages, and no two places within a page, look the same. */
static inline void fill(void *mem, uint64_t len, unsigned int seed)
{
	uint64_t i;

	for (i = 0; i + 4 <= len; i += 4) {
		seed = seed * 1664525 + 1013904223;
		memcpy(mem + i, &seed, 4);
	}
}

/* A slot of SIZE with the shared side of @env, and the file @fd from @offset on. */
static inline void bind_slot(struct env *env, uint32_t slot, uint64_t gpa, int fd,
			     uint64_t offset)
{
	vm_set_user_memory_region2(env->vm, slot, KVM_MEM_GUEST_MEMFD, gpa, SIZE,
				   env->hva, fd, offset);
}

static inline void env_setup(struct env *env, int nr_vcpus)
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

	env->hva = anonymous_pages(SIZE);
	memset(env->hva, SHARED_BYTE, SIZE);
	env->src = anonymous_pages(SIZE);
	fill(env->src, SIZE, 1);
	env->measured = sha256_init;
	env->populated = 0;

	env->fd = vm_create_guest_memfd(env->vm, FILE_OFFSET + SIZE, 0);
	bind_slot(env, SLOT, GPA, env->fd, FILE_OFFSET);
	vm_mem_set_private(env->vm, GPA, SIZE);
}

/* Of what is left: a test that closes the VM, the device or the file says so. */
static inline void env_teardown(struct env *env)
{
	if (env->dev >= 0)
		close(env->dev);
	if (env->fd >= 0)
		close(env->fd);
	if (env->vm)
		kvm_vm_free(env->vm);
	munmap(env->hva, SIZE);
	munmap(env->src, SIZE);
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

/* Pages of the slot, whether it is there or not. */
static inline void punch(struct env *env, uint64_t page, uint64_t npages)
{
	gmem_punch_hole(env->fd, FILE_OFFSET + page * PAGE_SIZE, npages * PAGE_SIZE);
}

static inline void close_file(struct env *env)
{
	close(env->fd);
	env->fd = -1;
}

/* Populating, and what it must do to struct, file and measurement. */

/* Take down what populate_errno() has done. */
static inline void measure(struct env *env, uint64_t gpa, uint64_t npages,
			   const void *source)
{
	uint64_t le;

	env->populated += npages;
	for (; npages; npages--, gpa += PAGE_SIZE, source += PAGE_SIZE) {
		le = htole64(gpa);
		sha256_add(&env->measured, &le, 8);
		sha256_add(&env->measured, source, PAGE_SIZE);
	}
}

static inline void __expect_measurement(struct env *env, int line)
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
static inline void __populate(struct env *env, int fd, uint64_t gpa, uint64_t size,
			      uint64_t source, int err, uint64_t done, int line)
{
	uint64_t before = fd >= 0 ? gmem_allocated_pages(fd) : 0, after, n;
	int got = __populate_errno(env->dev, gpa, size, source, &n);

	TEST_ASSERT(got == err && n == done,
		    "Line %d: errno %d, not %d, after %lu pages, not %lu",
		    line, got, err, n, done);
	measure(env, gpa, done, (void *)source);
	__expect_measurement(env, line);

	if (fd < 0)
		return;
	after = gmem_allocated_pages(fd);
	TEST_ASSERT(after == before + done, "Line %d: %lu new pages in the file, not %lu",
		    line, after - before, done);
}

/* From page @page of the slot on. */
#define populate_from(env, page, npages, source)			\
	__populate(env, -1, PAGE(page), (npages) * PAGE_SIZE,		\
		   (uintptr_t)(source), 0, npages, __LINE__)

/* With the same pages of the source. */
#define populate(env, page, npages)					\
	populate_from(env, page, npages, (env)->src[page])

#define populate_fails(env, gpa, size, source, err, done)		\
	__populate(env, (env)->fd, gpa, size, (uintptr_t)(source),	\
		   err, done, __LINE__)

/* Running the guest. */

static inline void set_cmd(struct env *env, int id, uint64_t op, uint64_t gpa,
			   uint64_t npages)
{
	volatile struct guest_cmd *cmds = addr_gva2hva(env->vm, (uint64_t)&guest_cmds);

	cmds[id].op = op;
	cmds[id].gva = gpa;
	cmds[id].npages = npages;
}

static inline void guest_touches(struct env *env, uint64_t gpa, uint64_t npages)
{
	set_cmd(env, 0, OP_WRITE, gpa, npages);
	vcpu_run_to_sync(env->vcpus[0]);
}

/* A page as the guest sees it, for as long as it is not asked again. */
static inline const void *guest_reads(struct env *env, uint64_t gpa)
{
	set_cmd(env, 0, OP_COPY, gpa, 1);
	vcpu_run_to_sync(env->vcpus[0]);
	return addr_gva2hva(env->vm, (uint64_t)&guest_page);
}

/* @want is that many pages, or NULL for zeroes. */
static inline void __expect_contents(struct env *env, uint64_t gpa, uint64_t npages,
				     const void *want, int line)
{
	static const uint8_t zeroes[PAGE_SIZE];
	uint64_t i;

	for (i = 0; i < npages; i++)
		TEST_ASSERT(!memcmp(guest_reads(env, gpa + i * PAGE_SIZE),
				    want ? want + i * PAGE_SIZE : zeroes, PAGE_SIZE),
			    "Line %d: page %lu from gpa %#lx on differs", line, i, gpa);
}

#define expect_contents(env, gpa, npages, want)				\
	__expect_contents(env, gpa, npages, want, __LINE__)

/* Not an instruction of a guest that has not been finalised. */
static inline void expect_not_run(struct env *env)
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
	TEST_ASSERT_EQ(*(uint64_t *)addr_gva2hva(env->vm, (uint64_t)&guest_entries), 0ul);
}

static inline void start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	int ret = pthread_create(thread, NULL, fn, arg);

	TEST_ASSERT(!ret, "pthread_create() failed: %d", ret);
}

#endif /* SELFTEST_KVM_GMEM_SOFT_H */
