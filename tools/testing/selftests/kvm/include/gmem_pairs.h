/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VM whose memory two operations may change at the same time, and what a user of
 * it may rely on all the same: for guest_memfd_pairs_test.
 *
 * The file begins with 2 MiB, for a large folio, and goes on with pages.  Most of it
 * is in one memslot, the last pages are in another.  A few pages are hot: those are
 * touched, and say in each word who has written it for which page in which pair, so
 * that memory that belongs to something else does not pass for them.
 *
 * Includes what the test needs, with the harness, in the order that it wants.
 */
#ifndef SELFTEST_KVM_GMEM_PAIRS_H
#define SELFTEST_KVM_GMEM_PAIRS_H

#include "gmem_memcg.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <linux/mman.h>

#include "gmem_harness.h"

#define BYTES(npages)	((npages) * PAGE_SIZE)

/* The file, in pages. */
#define FOLIO_PAGES	512UL
#define MAIN_PAGES	520UL
#define OTHER_PAGES	8UL
#define FILE_PAGES	(MAIN_PAGES + OTHER_PAGES)

enum {
	SLOT_MAIN = 10,
	SLOT_OTHER,
	/* Never there for long. */
	SLOT_TWIN,
	SLOT_PLAIN,
};

#define GPA		0x40000000ULL
#define OTHER_GPA	(GPA + 0x800000)
#define TWIN_GPA	(GPA + 0x1000000)
#define PLAIN_GPA	(GPA + 0x1800000)
#define PLAIN_PAGES	4UL

#define NR_VCPUS	4
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

/* On both sides of every border, and of none. */
static const uint16_t hot[] = {
	0, 1, 2, 255, 256, 257, 510, 511,
	512, 513, 518, 519, 520, 521, 526, 527,
};

#define NR_HOT		ARRAY_SIZE(hot)

enum layout {
	/* Private memory, and other memory for what is shared. */
	LAYOUT_ALIAS,
	/* The same page private and shared, the slots have no address. */
	LAYOUT_IN_PLACE,
	/* An ordinary VM, the file is mapped and all of it is shared. */
	LAYOUT_ORDINARY,
	NR_LAYOUTS,
};

/* What an operation does to others. */
#define DROPS		0x0001	/* pages of the file go, with what they contain */
#define CONVERTS	0x0002	/* gfns become private or shared */
#define GOES		0x0004	/* the memslots are not always there */
#define OTHER_GOES	0x0008	/* the second one is not */
#define CLOSES		0x0010	/* the file is not always open */
#define UNMAPS		0x0020	/* user space's mapping is not always there */
#define POISONS		0x0040
#define SIGNALS		0x0080
#define VCPUS		0x0100	/* it uses what KVM_RUN returns in */
#define MAPPING		0x0200	/* it uses user space's mapping */
#define OFFLINES	0x0400	/* it takes pages of that from the system */

/* Random numbers: where a sequence starts is all that it depends on. */
static inline uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/*
 * The words of a page: one for each vCPU and for each of two threads of user space
 * that write to it, one for the check, and the rest, which write() sets.
 */
#define WORD_USER	4
#define WORD_CHECK	6
#define NR_OWNERS	7
#define BODY_OWNER	0xff
#define PAGE_WORDS	(PAGE_SIZE / sizeof(uint64_t))

#define TAG(pair, h, owner, seq)						\
	(0x5aULL << 56 | (uint64_t)(pair) << 40 | (uint64_t)(h) << 32 |		\
	 (uint64_t)(owner) << 24 | (seq))
#define TAG_SEQ(tag)		((tag) & 0xffffff)
#define BODY(pair, h)		TAG(pair, h, BODY_OWNER, 1)
/* What user space has for an access where no memory is. */
#define NOTHING			0x6e6f7468696e6721ULL

enum mode {
	/* Nothing takes contents away: a word is what was written last. */
	MODE_EXACT,
	/* Or the page went meanwhile, and a fresh one is there from now on. */
	MODE_FRESH,
	/* There is more than one page where a word can be, or none. */
	MODE_LOOSE,
};

struct words {
	uint64_t mode;
	uint64_t pair;
	uint64_t owner;
	uint64_t seq;
	uint64_t last[NR_HOT];
};

/* Is @seen what this owner of a word may find in page @h? */
static inline bool word_is_right(volatile struct words *w, uint64_t h, uint64_t seen)
{
	if (seen == w->last[h])
		return true;
	if (w->mode == MODE_EXACT)
		return false;
	if (!seen) {
		w->last[h] = 0;
		return true;
	}
	return w->mode == MODE_LOOSE &&
	       (seen == NOTHING || (seen == TAG(w->pair, h, w->owner, TAG_SEQ(seen)) &&
				    TAG_SEQ(seen) && TAG_SEQ(seen) <= w->seq));
}

static inline uint64_t next_tag(volatile struct words *w, uint64_t h)
{
	w->seq++;
	w->last[h] = TAG(w->pair, h, w->owner, w->seq);
	return w->last[h];
}

/* Guest: a command for each entry, shared with the host. */

enum {
	OP_TOUCH,
	OP_SCAN,
};

struct guest_cmd {
	uint64_t op;
	/* To touch: how often, and where. */
	uint64_t count;
	uint64_t rng;
	struct words words;
	/* Of a scan: what is written, the first words, and where the rest differs. */
	uint64_t mark;
	uint64_t seen[NR_HOT][NR_OWNERS + 1];
	uint64_t torn[NR_HOT];
};

static struct guest_cmd guest_cmds[NR_VCPUS];

static inline uint64_t index_gpa(uint64_t index)
{
	return index < MAIN_PAGES ? GPA + BYTES(index) :
				    OTHER_GPA + BYTES(index - MAIN_PAGES);
}

/* Plain moves: KVM has to emulate them where no memory is. */
static inline uint64_t guest_load(uint64_t gpa)
{
	uint64_t value;

	asm volatile("movq (%1), %0" : "=r"(value) : "r"(gpa) : "memory");
	return value;
}

static inline void guest_store(uint64_t gpa, uint64_t value)
{
	asm volatile("movq %1, (%0)" : : "r"(gpa), "r"(value) : "memory");
}

static inline void guest_touch(struct guest_cmd *cmd)
{
	struct words *w = &cmd->words;
	uint64_t h, gpa, seen, r;

	r = draw(&cmd->rng);
	h = r % NR_HOT;
	gpa = index_gpa(hot[h]);
	seen = guest_load(gpa + 8 * w->owner);
	GUEST_ASSERT_4(word_is_right(w, h, seen), hot[h], seen, w->last[h], w->mode);

	seen = guest_load(gpa + 8 * (NR_OWNERS + (r >> 8) % (PAGE_WORDS - NR_OWNERS)));
	GUEST_ASSERT_4(!seen || seen == BODY(w->pair, h) ||
		       (w->mode == MODE_LOOSE && seen == NOTHING),
		       hot[h], seen, BODY(w->pair, h), w->mode);
	if (r >> 63)
		guest_store(gpa + 8 * w->owner, next_tag(w, h));
}

static inline void guest_scan(struct guest_cmd *cmd)
{
	uint64_t h, i, gpa, body;

	for (h = 0; h < NR_HOT; h++) {
		gpa = index_gpa(hot[h]);
		guest_store(gpa + 8 * WORD_CHECK, cmd->mark + h);
		for (i = 0; i <= NR_OWNERS; i++)
			cmd->seen[h][i] = guest_load(gpa + 8 * i);
		body = cmd->seen[h][NR_OWNERS];
		cmd->torn[h] = 0;
		for (i = NR_OWNERS; i < PAGE_WORDS && !cmd->torn[h]; i++)
			cmd->torn[h] = guest_load(gpa + 8 * i) == body ? 0 : i;
	}
}

static inline void guest_main(uint64_t id)
{
	struct guest_cmd *cmd = &guest_cmds[id];
	uint64_t i;

	for (;;) {
		GUEST_SYNC(0);
		asm volatile("" : : : "memory");
		if (cmd->op == OP_SCAN) {
			guest_scan(cmd);
			continue;
		}
		for (i = 0; i < cmd->count; i++)
			guest_touch(cmd);
	}
}

/* Host: accesses that may bring a signal, in any thread. */

static __thread sigjmp_buf poke_env;
static __thread volatile sig_atomic_t poking;
/* An error of memory that was not met by poking. */
static __thread void *volatile memory_error;

static inline void poke_handler(int sig, siginfo_t *info, void *context)
{
	static const char text[] = "# signal for an access that nobody expected\n";

	if (poking)
		siglongjmp(poke_env, sig);
	if (sig == SIGBUS && (info->si_code == BUS_MCEERR_AR ||
			      info->si_code == BUS_MCEERR_AO)) {
		memory_error = info->si_addr;
		return;
	}
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(253);
	_exit(254);
}

static inline void ignore_signal(int sig)
{
}

/* SIGUSR1 interrupts what sleeps, and nothing else. */
static inline void catch_signals(void)
{
	struct sigaction poke = { .sa_sigaction = poke_handler, .sa_flags = SA_SIGINFO };
	struct sigaction ignore = { .sa_handler = ignore_signal };

	TEST_ASSERT(!sigaction(SIGBUS, &poke, NULL) && !sigaction(SIGSEGV, &poke, NULL) &&
		    !sigaction(SIGUSR1, &ignore, NULL), "sigaction(), errno: %d", errno);
}

/* The word at @addr, or the signal that comes instead. */
static inline int peek(volatile uint64_t *addr, uint64_t *value)
{
	int sig = sigsetjmp(poke_env, 1);

	if (!sig) {
		poking = 1;
		*value = *addr;
	}
	poking = 0;
	return sig;
}

static inline int poke(volatile uint64_t *addr, uint64_t value)
{
	int sig = sigsetjmp(poke_env, 1);

	if (!sig) {
		poking = 1;
		*addr = value;
	}
	poking = 0;
	return sig;
}

/* Host: the VM. */

struct env {
	enum layout layout;
	bool protected;
	/* The alias is other memory than the file. */
	bool two_sided;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct guest_cmd *cmds[NR_VCPUS];
	/* Has not got to its next GUEST_SYNC() yet. */
	bool busy[NR_VCPUS];
	/* A number that stays while the file behind it may change. */
	int fd;
	/*
	 * All of the file, or the alias of all of it.  That is of a file, too, for pages
	 * that go offline: else the zero page might.
	 */
	void *user;
	bool user_is_shmem;
	/* Another VM and its file keep KVM in use. */
	int kvm_fd, anchor_vm, anchor_fd;
	/* To put in place of a descriptor that is closed. */
	int null_fd;
	/* For write(): hot pages full of their body. */
	uint64_t *source;
	void *nothing;
	uint64_t marks;
};

static inline uint64_t layout_type(enum layout layout)
{
	return layout == LAYOUT_ORDINARY ? KVM_X86_DEFAULT_VM : KVM_X86_SW_PROTECTED_VM;
}

static inline uint64_t layout_flags(enum layout layout)
{
	static const uint64_t flags[] = {
		[LAYOUT_ALIAS] = 0,
		[LAYOUT_IN_PLACE] = GUEST_MEMFD_FLAG_MMAP,
		[LAYOUT_ORDINARY] = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};

	return flags[layout] | GUEST_MEMFD_FLAG_WRITE;
}

static inline volatile uint64_t *user_word(struct env *env, uint64_t index, int word)
{
	return (uint64_t *)(env->user + BYTES(index)) + word;
}

/* (Re)place user space's side of [@index, @index + @npages). */
static inline void map_user(struct env *env, int fd, uint64_t index, uint64_t npages)
{
	void *at = env->user + BYTES(index), *mem;

	if (env->two_sided)
		mem = mmap(at, BYTES(npages), PROT_READ | PROT_WRITE,
			   (env->user_is_shmem ? MAP_SHARED : MAP_PRIVATE) |
			   MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	else
		mem = mmap(at, BYTES(npages), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, fd, BYTES(index));
	TEST_ASSERT(mem == at, "mmap(), errno: %d", errno);
}

/* Another page of the alias, in place of one that cannot be used any more. */
static inline int replace_user_page(struct env *env, void *at)
{
	if (env->user_is_shmem && madvise(at, PAGE_SIZE, MADV_REMOVE))
		return errno;
	return errno_of(madvise(at, PAGE_SIZE, MADV_DONTNEED));
}

static inline void *slot_address(struct env *env, uint64_t index)
{
	return env->layout == LAYOUT_IN_PLACE ? NULL : env->user + BYTES(index);
}

/* Bind the file to @slot at @gpa, from page @index on.  Returns the errno. */
static inline int bind_errno(struct env *env, int slot, uint64_t gpa, uint64_t index,
			     uint64_t npages)
{
	return errno_of(__vm_set_user_memory_region2(env->vm, slot, KVM_MEM_GUEST_MEMFD,
						     gpa, BYTES(npages),
						     slot_address(env, index), env->fd,
						     BYTES(index)));
}

static inline int bind_main_errno(struct env *env)
{
	return bind_errno(env, SLOT_MAIN, GPA, 0, MAIN_PAGES);
}

static inline int bind_other_errno(struct env *env)
{
	return bind_errno(env, SLOT_OTHER, OTHER_GPA, MAIN_PAGES, OTHER_PAGES);
}

static inline int delete_errno(struct env *env, int slot)
{
	return errno_of(__vm_delete_slot(env->vm, slot));
}

static inline int plain_slot_errno(struct env *env, uint64_t gpa)
{
	return errno_of(__vm_set_user_memory_region(env->vm, SLOT_PLAIN, 0, gpa,
						    BYTES(PLAIN_PAGES), env->source));
}

/* The memslots as they are to be, whatever has become of them. */
static inline void env_rebind(struct env *env)
{
	int slot, err;

	for (slot = SLOT_MAIN; slot <= SLOT_TWIN; slot++) {
		err = delete_errno(env, slot);
		TEST_ASSERT(!err || err == EINVAL, "Slot %d cannot be deleted: %d", slot,
			    err);
	}
	TEST_ASSERT_EQ(bind_main_errno(env), 0);
	TEST_ASSERT_EQ(bind_other_errno(env), 0);
}

/* Run the vCPU until it is done, see below. */
static inline void env_finish(struct env *env, int id);

static inline size_t run_size(struct env *env)
{
	return ioctl(env->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
}

static inline void env_setup(struct env *env, enum layout layout)
{
	const uint64_t align = BYTES(FOLIO_PAGES);
	uint64_t type = layout_type(layout);
	void *mem;
	int i;

	memset(env, 0, sizeof(*env));
	env->layout = layout;
	env->protected = layout != LAYOUT_ORDINARY;
	env->two_sided = layout == LAYOUT_ALIAS;
	env->null_fd = open("/dev/null", O_RDWR);
	TEST_ASSERT(env->null_fd >= 0, "/dev/null");

	env->vm = vm_create_type_with_vcpus(type, NR_VCPUS, 2 * FILE_PAGES, guest_main,
					    env->vcpus);
	virt_map(env->vm, GPA, GPA, MAIN_PAGES);
	virt_map(env->vm, OTHER_GPA, OTHER_GPA, OTHER_PAGES);
	env->fd = vm_create_guest_memfd(env->vm, BYTES(FILE_PAGES), layout_flags(layout));

	env->kvm_fd = open_kvm_dev_path_or_exit();
	env->anchor_vm = ioctl(env->kvm_fd, KVM_CREATE_VM, type);
	TEST_ASSERT(env->anchor_vm >= 0, "KVM_CREATE_VM, errno: %d", errno);
	env->anchor_fd = ioctl(env->anchor_vm, KVM_CREATE_GUEST_MEMFD,
			       &(struct kvm_create_guest_memfd) { .size = PAGE_SIZE });
	TEST_ASSERT(env->anchor_fd >= 0, "KVM_CREATE_GUEST_MEMFD, errno: %d", errno);

	mem = mmap(NULL, BYTES(FILE_PAGES) + align, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap(), errno: %d", errno);
	env->user = (void *)(((uintptr_t)mem + align - 1) & ~(align - 1));
	map_user(env, env->fd, 0, FILE_PAGES);
	env->source = anonymous_pages(BYTES(FILE_PAGES));
	env->nothing = anonymous_pages(BYTES(FILE_PAGES));
	TEST_ASSERT(!mprotect(env->nothing, BYTES(FILE_PAGES), PROT_NONE), "mprotect()");
	env_rebind(env);
	TEST_ASSERT_EQ(plain_slot_errno(env, PLAIN_GPA), 0);

	for (i = 0; i < NR_VCPUS; i++) {
		env->cmds[i] = addr_gva2hva(env->vm, (uint64_t)&guest_cmds[i]);
		vcpu_args_set(env->vcpus[i], 1, (uint64_t)i);
		env->busy[i] = true;
		env_finish(env, i);
	}
}

/* All but the descriptors of the VM and the vCPUs, which may be closed. */
static inline void env_free_rest(struct env *env)
{
	close(env->fd);
	munmap(env->user, BYTES(FILE_PAGES));
	munmap(env->source, BYTES(FILE_PAGES));
	munmap(env->nothing, BYTES(FILE_PAGES));
	close(env->anchor_vm);
	close(env->anchor_fd);
	close(env->kvm_fd);
	close(env->null_fd);
}

static inline void env_teardown(struct env *env)
{
	if (!env->vm)
		return;
	env_free_rest(env);
	kvm_vm_free(env->vm);
	env->vm = NULL;
}

/* The library cannot free a VM whose descriptors are something else by now. */
static inline void env_free_ended(struct env *env)
{
	struct userspace_mem_region *region = memslot2region(env->vm, 0);
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		munmap(env->vcpus[i]->run, run_size(env));
		close(env->vcpus[i]->fd);
	}
	close(env->vm->fd);
	close(env->vm->kvm_fd);
	munmap(region->mmap_start, region->mmap_size);
	env_free_rest(env);
	env->vm = NULL;
}

/* Pairs. */

struct actor;
struct worker;

struct operation {
	const char *name;
	unsigned int flags;
	unsigned int nr_threads;
	/* Why it cannot be run here, or NULL. */
	const char *(*missing)(enum layout layout);
	void (*setup)(struct actor *actor);
	void (*step)(struct worker *worker);
	void (*teardown)(struct actor *actor);
};

#define MAX_THREADS	2

struct worker {
	struct actor *actor;
	int id;
	pthread_t thread;
	uint64_t rng;
	int cpu;
	unsigned long steps, refused;
};

struct actor {
	struct pair *pair;
	const struct operation *op;
	struct env *env;
	int id;
	struct worker workers[MAX_THREADS];
	unsigned int nr_workers;
	/* What it has stored last of a page, or -1. */
	int stored[NR_HOT];
	struct words words;
	int poisoned;
	pid_t child;
	int to_child, from_child;
};

struct pair {
	struct env *env;
	uint64_t number;
	struct actor actors[2];
	pthread_barrier_t barrier;
	unsigned int round, rounds;
	/* The VM is about to be closed, or is. */
	bool ending;
	/* What was to be, of each page, before anything was stored. */
	int private[NR_HOT];
};

static inline struct actor *other_actor(struct worker *w)
{
	return &w->actor->pair->actors[!w->actor->id];
}

static inline unsigned int other_flags(struct worker *w)
{
	return other_actor(w)->op->flags;
}

static inline unsigned int pair_flags(struct pair *pair)
{
	return pair->actors[0].op->flags | pair->actors[1].op->flags;
}

static inline unsigned int both_flags(struct worker *w)
{
	return pair_flags(w->actor->pair);
}

#define NEVER	-1
#define LAST	-2

/* The errno @e is one of those that are possible if @condition. */
#define WHEN(condition, e)	((condition) ? (e) : NEVER)

static inline void check_errno(struct worker *w, const char *what, int err,
			       const int *possible)
{
	struct actor *actor = w->actor;

	if (err)
		w->refused++;
	for (; *possible != LAST; possible++) {
		if (err == *possible)
			return;
	}
	/* Its descriptors are those of /dev/null then, or some of them are. */
	if (actor->pair->ending &&
	    (err == ENOTTY || err == ENODEV || err == EFAULT || err == EINVAL))
		return;
	TEST_FAIL("%s in %s against %s, round %u: errno %d (%s)", what, actor->op->name,
		  other_actor(w)->op->name, actor->pair->round, err, strerror(err));
}

#define CHECK_ERRNO(w, what, err, ...) \
	check_errno(w, what, err, (int[]) { __VA_ARGS__, LAST })

struct range {
	uint64_t first, npages;
};

/* Pages of the file, or of one memslot. */
static inline struct range draw_range(struct worker *w, bool one_slot)
{
	static const struct range ranges[] = {
		{ 0, FILE_PAGES }, { 0, FOLIO_PAGES }, { 0, FOLIO_PAGES },
		{ MAIN_PAGES, OTHER_PAGES }, { 510, 4 }, { 255, 3 }, { 256, 256 },
	};
	uint64_t r = draw(&w->rng), i = r % (2 * ARRAY_SIZE(ranges));
	struct range range;

	if (i >= ARRAY_SIZE(ranges))
		return (struct range) { hot[(r >> 32) % NR_HOT], 1 };
	range = ranges[i];
	if (one_slot && range.npages == FILE_PAGES)
		range.npages = MAIN_PAGES;
	return range;
}

static inline bool in_range(struct range range, uint64_t index)
{
	return index >= range.first && index - range.first < range.npages;
}

/* A large folio has pages in @range, and others. */
static inline bool splits_folio(struct range range)
{
	uint64_t end = range.first + range.npages;

	return (range.first && range.first < FOLIO_PAGES) || end < FOLIO_PAGES;
}

static inline void punch_page(struct worker *w, uint64_t index)
{
	CHECK_ERRNO(w, "hole", errno_of(__gmem_punch_hole(w->actor->env->fd, BYTES(index),
							  PAGE_SIZE)),
		    0, WHEN(index < FOLIO_PAGES, EAGAIN));
}

/* One KVM_RUN, and what a VMM does about the way it ended. */
static inline void run_once(struct worker *w, int id)
{
	struct env *env = w->actor->env;
	struct kvm_vcpu *vcpu = env->vcpus[id];
	unsigned int flags = both_flags(w);
	struct kvm_run *run = vcpu->run;
	int err = errno_of(__vcpu_run(vcpu));
	uint64_t nothing = NOTHING, gpa;
	struct ucall uc;

	if (w->actor->pair->ending)
		return;
	CHECK_ERRNO(w, "KVM_RUN", err, 0, WHEN(flags & (SIGNALS | POISONS), EINTR),
		    WHEN(flags & (GOES | OTHER_GOES | CLOSES), EFAULT),
		    WHEN(env->two_sided && flags & UNMAPS, EFAULT),
		    WHEN(flags & POISONS, EHWPOISON));
	switch (err) {
	case EINTR:
		if (memory_error) {
			TEST_ASSERT_EQ(replace_user_page(env, memory_error), 0);
			memory_error = NULL;
		}
		return;
	case EFAULT:
	case EHWPOISON:
		if (env->two_sided && flags & UNMAPS && err == EFAULT &&
		    run->exit_reason == KVM_EXIT_UNKNOWN)
			return;
		TEST_ASSERT(run->exit_reason == KVM_EXIT_MEMORY_FAULT, "exit %u (%s)",
			    run->exit_reason, exit_reason_str(run->exit_reason));
		gpa = run->memory_fault.gpa;
		TEST_ASSERT_EQ(run->memory_fault.size, (uint64_t)PAGE_SIZE);
		TEST_ASSERT(!(run->memory_fault.flags & ~KVM_MEMORY_EXIT_FLAG_PRIVATE) &&
			    (env->protected || !run->memory_fault.flags), "flags %#llx",
			    run->memory_fault.flags);
		TEST_ASSERT((gpa >= GPA && gpa < GPA + BYTES(MAIN_PAGES)) ||
			    (gpa >= OTHER_GPA && gpa < OTHER_GPA + BYTES(OTHER_PAGES)),
			    "gpa %#lx", gpa);
		if (err == EHWPOISON)
			punch_page(w, gpa < OTHER_GPA ? (gpa - GPA) / PAGE_SIZE :
				   MAIN_PAGES + (gpa - OTHER_GPA) / PAGE_SIZE);
		return;
	}

	if (run->exit_reason == KVM_EXIT_MMIO) {
		TEST_ASSERT(flags & (GOES | OTHER_GOES), "MMIO at %#llx",
			    run->mmio.phys_addr);
		if (!run->mmio.is_write)
			memcpy(run->mmio.data, &nothing, sizeof(nothing));
		return;
	}
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		env->busy[id] = false;
		break;
	case UCALL_ABORT:
		TEST_FAIL("vCPU %d, %s against %s, round %u: page %lu has %#lx, not %#lx, mode %lu",
			  id, w->actor->op->name, other_actor(w)->op->name,
			  w->actor->pair->round, uc.args[GUEST_ASSERT_BUILTIN_NARGS],
			  uc.args[GUEST_ASSERT_BUILTIN_NARGS + 1],
			  uc.args[GUEST_ASSERT_BUILTIN_NARGS + 2],
			  uc.args[GUEST_ASSERT_BUILTIN_NARGS + 3]);
	default:
		TEST_FAIL("Unexpected exit: %u (%s)", run->exit_reason,
			  exit_reason_str(run->exit_reason));
	}
}

/* How often something may be in the way when nobody else is there. */
#define PATIENCE	500

static inline void pair_finish(struct pair *pair, int id)
{
	struct worker *w = &pair->actors[0].workers[0];
	int i;

	for (i = 0; pair->env->busy[id]; i++) {
		TEST_ASSERT(i < PATIENCE, "vCPU %d does not get on, exit %u", id,
			    pair->env->vcpus[id]->run->exit_reason);
		run_once(w, id);
	}
}

static inline void env_finish(struct env *env, int id)
{
	static const struct operation nothing = { .name = "setup" };
	struct pair pair = { .env = env };
	int i;

	for (i = 0; i < 2; i++) {
		pair.actors[i] = (struct actor) {
			.pair = &pair, .op = &nothing, .env = env, .id = i,
		};
		pair.actors[i].workers[0].actor = &pair.actors[i];
	}
	pair_finish(&pair, id);
}

/* The checks, when all is quiet. */

static inline void scan(struct pair *pair)
{
	struct env *env = pair->env;
	struct guest_cmd *cmd = env->cmds[0];

	cmd->op = OP_SCAN;
	env->marks++;
	cmd->mark = TAG(pair->number, 0, WORD_CHECK, (env->marks & 0xff) << 8);
	env->busy[0] = true;
	pair_finish(pair, 0);
}

static inline bool may_be(struct pair *pair, int h, bool private)
{
	bool stored = false;
	int i;

	for (i = 0; i < 2; i++) {
		if (pair->actors[i].stored[h] == private)
			return true;
		stored |= pair->actors[i].stored[h] >= 0;
	}
	return !stored && pair->private[h] == private;
}

/*
 * What the page is, which shows where the guest's mark is and where it is not, must
 * be what it was made; if it is shared the host sees what the guest does.
 */
static inline void check_side(struct pair *pair, int h)
{
	struct env *env = pair->env;
	struct guest_cmd *cmd = env->cmds[0];
	uint64_t seen, i;
	bool private;
	int sig;

	sig = peek(user_word(env, hot[h], WORD_CHECK), &seen);
	if (sig && env->two_sided && pair_flags(pair) & POISONS) {
		/* The side that the guest does not use. */
		TEST_ASSERT_EQ(replace_user_page(env, env->user + BYTES(hot[h])), 0);
		sig = peek(user_word(env, hot[h], WORD_CHECK), &seen);
	}
	if (env->two_sided) {
		TEST_ASSERT(!sig, "signal %d", sig);
		private = seen != cmd->mark + h;
	} else {
		TEST_ASSERT(!sig || sig == SIGBUS, "signal %d", sig);
		private = sig;
	}
	TEST_ASSERT(may_be(pair, h, private), "Page %u should not be %s", hot[h],
		    private ? "private" : "shared");
	pair->private[h] = private;
	if (private) {
		if (!env->two_sided)
			TEST_ASSERT(poke(user_word(env, hot[h], 0), 0) == SIGBUS,
				    "Page %u can be written", hot[h]);
		return;
	}
	for (i = 0; i < NR_OWNERS; i++) {
		seen = *user_word(env, hot[h], i);
		TEST_ASSERT(seen == cmd->seen[h][i],
			    "Page %u, word %lu: the guest sees %#lx, the host %#lx", hot[h],
			    i, cmd->seen[h][i], seen);
	}
}

static inline void check_contents(struct pair *pair, int h)
{
	struct guest_cmd *cmd = pair->env->cmds[0];
	uint64_t owner, seen, seq;

	for (owner = 0; owner < WORD_CHECK; owner++) {
		seen = cmd->seen[h][owner];
		if (owner < WORD_USER)
			seq = pair->env->cmds[owner]->words.seq;
		else
			seq = pair->actors[owner - WORD_USER].words.seq;
		TEST_ASSERT(!seen || (seen == TAG(pair->number, h, owner, TAG_SEQ(seen)) &&
				      TAG_SEQ(seen) && TAG_SEQ(seen) <= seq),
			    "Page %u, word %lu: %#lx", hot[h], owner, seen);
	}
	TEST_ASSERT_EQ(cmd->seen[h][WORD_CHECK], cmd->mark + h);
	seen = cmd->seen[h][NR_OWNERS];
	TEST_ASSERT(!seen || seen == BODY(pair->number, h), "Page %u: %#lx", hot[h], seen);
	TEST_ASSERT(!cmd->torn[h], "Page %u differs from word %lu on", hot[h], cmd->torn[h]);
}

/* Is the guest's page that of the file? */
static inline bool is_in_file(struct pair *pair, int h)
{
	return !pair->env->two_sided || pair->private[h];
}

static inline int write_hot(struct env *env, int h)
{
	ssize_t n = pwrite(env->fd, (void *)env->source + BYTES(hot[h]), PAGE_SIZE,
			   BYTES(hot[h]));

	TEST_ASSERT(n == -1 || n == PAGE_SIZE, "%zd bytes", n);
	return n == -1 ? errno : 0;
}

static inline void check_user_cannot_read(struct pair *pair)
{
	struct env *env = pair->env;
	int fds[2], h, err;

	if (env->two_sided) {
		TEST_ASSERT_EQ(errno_of((long)mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED,
						   env->fd, 0)), ENODEV);
		return;
	}
	TEST_ASSERT(!pipe(fds), "pipe(), errno: %d", errno);
	for (h = 0; h < NR_HOT; h++) {
		err = errno_of(write(fds[1], (void *)user_word(env, hot[h], 0), 8));
		TEST_ASSERT(err == (pair->private[h] ? EFAULT : 0),
			    "Page %u: errno %d of write() to a pipe", hot[h], err);
	}
	close(fds[0]);
	close(fds[1]);
}

static inline void check_quiet(struct pair *pair)
{
	struct env *env = pair->env;
	struct guest_cmd *cmd = env->cmds[0];
	int h, i;

	/* mprotect() stops where another thread has just unmapped something. */
	if (pair->actors[0].op == pair->actors[1].op && pair_flags(pair) & UNMAPS)
		TEST_ASSERT(!mprotect(env->user, BYTES(FILE_PAGES), PROT_READ | PROT_WRITE),
			    "mprotect(), errno: %d", errno);
	/* Somebody may have mapped the file that was about to go. */
	if (pair_flags(pair) & CLOSES && !env->two_sided)
		map_user(env, env->fd, 0, FILE_PAGES);
	if (pair_flags(pair) & (GOES | OTHER_GOES | CLOSES))
		env_rebind(env);
	for (i = 0; i < NR_VCPUS; i++)
		pair_finish(pair, i);

	scan(pair);
	for (h = 0; h < NR_HOT; h++) {
		check_contents(pair, h);
		check_side(pair, h);
	}
	check_user_cannot_read(pair);

	/* What the guest has just touched is what the file has, and not a page that it had. */
	for (h = 0; h < NR_HOT; h++) {
		if (is_in_file(pair, h))
			TEST_ASSERT(write_hot(env, h) == EEXIST,
				    "Page %u is in the guest, and not in the file", hot[h]);
	}

	/* And all goes, and all that comes is accounted for. */
	gmem_punch_hole(env->fd, 0, BYTES(FILE_PAGES));
	TEST_ASSERT_EQ(gmem_allocated_pages(env->fd), 0UL);
	for (h = 0; h < NR_HOT; h++)
		TEST_ASSERT_EQ(write_hot(env, h), 0);
	TEST_ASSERT_EQ(gmem_allocated_pages(env->fd), (uint64_t)NR_HOT);
	scan(pair);
	for (h = 0; h < NR_HOT; h++) {
		if (!is_in_file(pair, h))
			continue;
		for (i = 0; i < WORD_CHECK; i++)
			TEST_ASSERT(!cmd->seen[h][i], "Page %u, word %d: %#lx in a new page",
				    hot[h], i, cmd->seen[h][i]);
		TEST_ASSERT(cmd->seen[h][NR_OWNERS] == BODY(pair->number, h) &&
			    !cmd->torn[h], "Page %u: %#lx in a new page, torn at %lu",
			    hot[h], cmd->seen[h][NR_OWNERS], cmd->torn[h]);
	}
	TEST_ASSERT_EQ(gmem_allocated_pages(env->fd), (uint64_t)NR_HOT);
}

static inline void words_start(struct words *w, uint64_t mode, uint64_t pair,
			       uint64_t owner)
{
	*w = (struct words) { .mode = mode, .pair = pair, .owner = owner };
}

static inline enum mode pair_mode(struct pair *pair)
{
	unsigned int flags = pair_flags(pair);

	if (flags & (GOES | OTHER_GOES | CLOSES))
		return MODE_LOOSE;
	if (pair->env->two_sided && flags & CONVERTS)
		return MODE_LOOSE;
	if (flags & (DROPS | POISONS))
		return MODE_FRESH;
	if (pair->env->two_sided && flags & UNMAPS)
		return MODE_FRESH;
	return MODE_EXACT;
}

/*
 * Nothing is there that was before; every other page of the guest is private.  Every
 * other pair begins with a page where a large folio would be, and stays with pages
 * until a hole takes all of them: large folios take most of the time.
 */
static inline void pair_start(struct pair *pair)
{
	struct env *env = pair->env;
	enum mode mode = pair_mode(pair);
	uint64_t i, h;

	gmem_punch_hole(env->fd, 0, BYTES(FILE_PAGES));
	env->user_is_shmem = pair_flags(pair) & OFFLINES;
	if (env->two_sided)
		map_user(env, -1, 0, FILE_PAGES);
	if (env->protected) {
		vm_mem_set_shared(env->vm, GPA, BYTES(MAIN_PAGES));
		vm_mem_set_shared(env->vm, OTHER_GPA, BYTES(OTHER_PAGES));
	}
	for (h = 0; h < NR_HOT; h++) {
		pair->private[h] = env->protected && h % 2;
		if (pair->private[h])
			vm_mem_set_private(env->vm, index_gpa(hot[h]), PAGE_SIZE);
		for (i = NR_OWNERS; i < PAGE_WORDS; i++)
			env->source[hot[h] * PAGE_WORDS + i] = BODY(pair->number, h);
		for (i = 0; i < 2; i++)
			pair->actors[i].stored[h] = -1;
	}
	if (pair->number % 2) {
		TEST_ASSERT_EQ(write_hot(env, 0), 0);
		if (env->two_sided && !env->user_is_shmem)
			madvise(env->user, BYTES(FILE_PAGES), MADV_NOHUGEPAGE);
	}
	for (i = 0; i < NR_VCPUS; i++)
		words_start(&env->cmds[i]->words, mode, pair->number, i);
	for (i = 0; i < 2; i++)
		words_start(&pair->actors[i].words, mode, pair->number, WORD_USER + i);
}

#endif /* SELFTEST_KVM_GMEM_PAIRS_H */
