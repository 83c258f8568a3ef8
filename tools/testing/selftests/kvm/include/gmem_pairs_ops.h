/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What guest_memfd_pairs_test does at the same time, each as a step with arguments
 * that are drawn, and an errno that must be one of those that are documented for it
 * and that the other side of the pair can cause.
 */
#ifndef SELFTEST_KVM_GMEM_PAIRS_OPS_H
#define SELFTEST_KVM_GMEM_PAIRS_OPS_H

#include "gmem_pairs.h"

#define TOUCHES		12

/* Of each thread. */
static unsigned long nr_steps;
static bool has_memcg;

/* The guest, on two vCPUs. */

static inline void step_guest(struct worker *w)
{
	struct actor *actor = w->actor;
	struct env *env = actor->env;
	int id = MAX_THREADS * actor->id + w->id;
	struct guest_cmd *cmd = env->cmds[id];

	if (!env->busy[id]) {
		cmd->op = OP_TOUCH;
		cmd->count = TOUCHES;
		cmd->rng = draw(&w->rng);
		env->busy[id] = true;
	}
	run_once(w, id);
}

/* Mapping ahead, each with a vCPU of its own. */

static inline void map_ahead(struct worker *w, bool pre_fault)
{
	struct env *env = w->actor->env;
	struct kvm_vcpu *vcpu = env->vcpus[MAX_THREADS * w->actor->id];
	struct range range = draw_range(w, true);
	uint64_t size = BYTES(range.npages), gpa = index_gpa(range.first), left;
	unsigned int flags = both_flags(w);
	int err;

	err = errno_of(pre_fault ? __vcpu_pre_fault(vcpu, gpa, size, &left) :
				   __vcpu_map_memory(vcpu, gpa, size, &left));
	CHECK_ERRNO(w, "mapping ahead", err, 0, WHEN(flags & SIGNALS, EINTR),
		    WHEN(flags & (GOES | OTHER_GOES | CLOSES), EAGAIN),
		    WHEN(flags & (GOES | OTHER_GOES | CLOSES), ENOENT),
		    WHEN(flags & CLOSES, EFAULT),
		    WHEN(env->two_sided && flags & UNMAPS, EFAULT),
		    WHEN(flags & POISONS, EHWPOISON));
	/* What 0 means is not the same for both. */
	if (pre_fault)
		TEST_ASSERT(err ? left == size : left < size, "errno %d, %lu of %lu left",
			    err, left, size);
	else
		TEST_ASSERT(!err == !left, "errno %d, %lu of %lu left", err, left, size);
}

static inline void step_pre_fault(struct worker *w)
{
	map_ahead(w, true);
}

static inline void step_map_memory(struct worker *w)
{
	map_ahead(w, false);
}

/* Conversion. */

static inline void step_attributes(struct worker *w)
{
	struct actor *actor = w->actor;
	struct env *env = actor->env;
	struct range range = draw_range(w, true);
	bool private = draw(&w->rng) % 2;
	int h, err;

	err = errno_of(__vm_set_memory_attributes(env->vm, index_gpa(range.first),
						  BYTES(range.npages),
						  private ? PRIVATE : 0));
	if (!env->protected) {
		CHECK_ERRNO(w, "attributes", err, private ? EINVAL : 0);
		return;
	}
	CHECK_ERRNO(w, "attributes", err, 0,
		    WHEN(env->layout == LAYOUT_IN_PLACE && private, EAGAIN));
	if (err)
		return;
	for (h = 0; h < NR_HOT; h++) {
		if (in_range(range, hot[h]))
			actor->stored[h] = private;
	}
}

/* The file. */

static inline void step_hole(struct worker *w)
{
	struct range range = draw_range(w, false);
	int err = errno_of(__gmem_punch_hole(w->actor->env->fd, BYTES(range.first),
					     BYTES(range.npages)));

	CHECK_ERRNO(w, "hole", err, 0, WHEN(splits_folio(range), EAGAIN));
}

static inline void step_allocate(struct worker *w)
{
	struct range range = draw_range(w, false);
	int err = errno_of(__gmem_allocate(w->actor->env->fd, BYTES(range.first),
					   BYTES(range.npages)));

	CHECK_ERRNO(w, "fallocate()", err, 0, WHEN(both_flags(w) & SIGNALS, EINTR));
}

static inline void step_write(struct worker *w)
{
	struct env *env = w->actor->env;
	struct range range = draw_range(w, false);
	bool readable = draw(&w->rng) % 8;
	void *from = readable ? env->source : env->nothing;
	ssize_t size = BYTES(range.npages), n;

	n = pwrite(env->fd, from + BYTES(range.first), size, BYTES(range.first));
	if (n < 0) {
		CHECK_ERRNO(w, "write()", errno, EEXIST, WHEN(!readable, EFAULT),
			    WHEN(both_flags(w) & SIGNALS, EINTR));
		return;
	}
	TEST_ASSERT((readable || w->actor->pair->ending) && n && n <= size &&
		    !(n % PAGE_SIZE), "write() of %zd says %zd", size, n);
}

/* User space reads and writes its own word, through its mapping. */
static inline void step_user(struct worker *w)
{
	struct actor *actor = w->actor;
	struct pair *pair = actor->pair;
	struct env *env = actor->env;
	unsigned int flags = both_flags(w);
	volatile uint64_t *word;
	uint64_t seen = 0, tag;
	int h, sig, i;
	bool bus, closed;

	for (i = 0; i < 4; i++) {
		h = draw(&w->rng) % NR_HOT;
		word = user_word(env, hot[h], actor->words.owner);
		sig = peek(word, &seen);
		if (!sig) {
			TEST_ASSERT(word_is_right(&actor->words, h, seen),
				    "User space against %s, round %u: page %u has %#lx, not %#lx",
				    other_actor(w)->op->name, pair->round, hot[h], seen,
				    actor->words.last[h]);
			tag = TAG(pair->number, h, actor->words.owner,
				  actor->words.seq + 1);
			sig = poke(word, tag);
			if (!sig) {
				actor->words.seq++;
				actor->words.last[h] = tag;
			}
		}
		if (sig)
			w->refused++;
		if (pair->ending)
			continue;
		/* May it be refused, must it be? */
		closed = flags & CONVERTS ||
			 flags & (GOES | OTHER_GOES | CLOSES);
		bus = (env->layout == LAYOUT_IN_PLACE && (pair->private[h] || closed)) ||
		      flags & POISONS;
		TEST_ASSERT(!sig || (sig == SIGBUS && bus) ||
			    (sig == SIGSEGV && flags & UNMAPS),
			    "User space against %s, round %u: page %u, signal %d",
			    other_actor(w)->op->name, pair->round, hot[h], sig);
		TEST_ASSERT(sig || env->layout != LAYOUT_IN_PLACE || !pair->private[h] ||
			    flags & CONVERTS || (env->two_sided && flags & UNMAPS),
			    "User space against %s, round %u: page %u is private, no signal",
			    other_actor(w)->op->name, pair->round, hot[h]);
	}
}

/*
 * Memslots.  In place somebody may hold a page for a moment, and the slot cannot be
 * made until it is given back.
 */
static inline void bind_slot(struct worker *w, bool main_slot)
{
	struct env *env = w->actor->env;
	bool others = other_flags(w) & (CLOSES | GOES | OTHER_GOES);
	int err, i;

	for (i = 0; ; i++) {
		err = main_slot ? bind_main_errno(env) : bind_other_errno(env);
		if (err != EAGAIN)
			break;
		TEST_ASSERT(env->layout == LAYOUT_IN_PLACE && i < PATIENCE,
			    "EAGAIN for the slot, %d times", i);
		w->refused++;
		usleep(1000);
	}
	CHECK_ERRNO(w, "new slot", err, 0, WHEN(others, EEXIST), WHEN(others, EINVAL));
}

static inline void delete_slot(struct worker *w, bool main_slot)
{
	bool others = other_flags(w) & (CLOSES | GOES | OTHER_GOES);

	CHECK_ERRNO(w, "deletion of a slot",
		    delete_errno(w->actor->env, main_slot ? SLOT_MAIN : SLOT_OTHER), 0,
		    WHEN(others, EINVAL));
}

/* No range of the file can be in two slots. */
static inline void bind_twin(struct worker *w)
{
	struct env *env = w->actor->env;
	bool others = both_flags(w) & (CLOSES | GOES);
	bool twins = !strcmp(w->actor->op->name, other_actor(w)->op->name);
	int err = bind_errno(env, SLOT_TWIN, TWIN_GPA, 0, FOLIO_PAGES);

	CHECK_ERRNO(w, "second slot for a range", err, EEXIST, WHEN(others, 0),
		    WHEN(others && twins, EINVAL));
	if (!err)
		CHECK_ERRNO(w, "deletion of that", delete_errno(env, SLOT_TWIN), 0,
			    WHEN(twins, EINVAL));
}

static inline void step_bind(struct worker *w)
{
	delete_slot(w, false);
	bind_slot(w, false);
	if (draw(&w->rng) % 2)
		bind_twin(w);
}

static inline void step_unbind(struct worker *w)
{
	bind_slot(w, false);
	delete_slot(w, false);
}

static inline void unbind_at_first(struct actor *actor)
{
	int err = delete_errno(actor->env, SLOT_OTHER);

	TEST_ASSERT(!err || err == EINVAL, "errno %d", err);
}

/* A slot with a file cannot be moved, others can. */
static inline void step_slot(struct worker *w)
{
	struct env *env = w->actor->env;
	bool others = other_flags(w) & (CLOSES | GOES | OTHER_GOES);
	uint64_t r = draw(&w->rng);
	int err;

	switch (r % 4) {
	case 0:
		err = bind_errno(env, SLOT_MAIN, TWIN_GPA, 0, MAIN_PAGES);
		CHECK_ERRNO(w, "move of a slot with a file", err, EINVAL,
			    WHEN(others, 0), WHEN(others, EEXIST));
		break;
	case 1:
		err = plain_slot_errno(env, PLAIN_GPA + BYTES((r >> 32) % 8));
		CHECK_ERRNO(w, "move of a slot", err, 0);
		break;
	default:
		delete_slot(w, true);
		sched_yield();
		bind_slot(w, true);
	}
}

/*
 * The end of the file: another one takes its place under the same number, so that
 * nobody meets a descriptor that is not his.
 */
static inline void swap_file(struct worker *w)
{
	struct env *env = w->actor->env;
	int new = __vm_create_guest_memfd(env->vm, BYTES(FILE_PAGES),
					  layout_flags(env->layout));

	if (new < 0) {
		CHECK_ERRNO(w, "KVM_CREATE_GUEST_MEMFD", errno, NEVER);
		return;
	}
	if (draw(&w->rng) % 2)
		gmem_allocate(new, 0, BYTES(8));
	if (!env->two_sided)
		map_user(env, new, 0, FILE_PAGES);
	TEST_ASSERT(dup2(new, env->fd) == env->fd, "dup2(), errno: %d", errno);
	close(new);
}

static inline void step_close(struct worker *w)
{
	if (w->actor->pair->ending)
		return;
	swap_file(w);
	sched_yield();
	delete_slot(w, true);
	delete_slot(w, false);
	bind_slot(w, true);
	bind_slot(w, false);
}

/* User space's mapping: the notifier has much to say, or nothing at all. */
static inline void step_alias(struct worker *w)
{
	struct env *env = w->actor->env;
	struct range range = draw_range(w, false);
	void *at = env->user + BYTES(range.first);
	size_t size = BYTES(range.npages);
	bool others = other_flags(w) & UNMAPS;
	uint64_t r = draw(&w->rng);

	switch (r % 4) {
	case 0:
		CHECK_ERRNO(w, "MADV_DONTNEED", errno_of(madvise(at, size, MADV_DONTNEED)),
			    0, WHEN(others, ENOMEM));
		break;
	case 1:
	case 2:
		CHECK_ERRNO(w, "mprotect()",
			    errno_of(mprotect(at, size, r % 2 ? PROT_NONE : PROT_READ)), 0,
			    WHEN(others, ENOMEM));
		sched_yield();
		CHECK_ERRNO(w, "mprotect()",
			    errno_of(mprotect(at, size, PROT_READ | PROT_WRITE)), 0,
			    WHEN(others, ENOMEM));
		break;
	case 3:
		CHECK_ERRNO(w, "munmap()", errno_of(munmap(at, size)), 0);
		sched_yield();
		/* Of the file that is there at the end, whoever closes it. */
		if (!w->actor->pair->ending || env->two_sided)
			map_user(env, env->fd, range.first, range.npages);
	}
}

/* Memory failure and soft offline, of what user space has mapped. */

static inline const char *missing_memory_failure(enum layout layout)
{
	return madvise(NULL, 0, MADV_HWPOISON) ? "no memory failure" : NULL;
}

/* Two of them per pair, as the page is lost; then what a VMM would do about it. */
static inline void step_poison(struct worker *w)
{
	struct actor *actor = w->actor;
	struct env *env = actor->env;
	int round = actor->pair->round % (nr_steps / 2 + 1);
	uint64_t unused;
	void *at;

	if (!round)
		actor->poisoned = draw(&w->rng) % NR_HOT;
	at = env->user + BYTES(hot[actor->poisoned]);
	switch (round) {
	case 0:
		/* A page that may not be touched, or is not there, cannot be named. */
		CHECK_ERRNO(w, "MADV_HWPOISON", errno_of(madvise(at, PAGE_SIZE, MADV_HWPOISON)),
			    0, EFAULT, EBUSY, EHWPOISON);
		break;
	case 1:
		peek(at, &unused);
		break;
	default:
		if (env->two_sided)
			CHECK_ERRNO(w, "MADV_REMOVE", replace_user_page(env, at), 0,
				    WHEN(other_flags(w) & UNMAPS, ENOMEM),
				    WHEN(other_flags(w) & UNMAPS, EACCES));
		else
			punch_page(w, hot[actor->poisoned]);
	}
}

/* A page of the file stays where it is, others move. */
static inline void step_soft_offline(struct worker *w)
{
	struct env *env = w->actor->env;
	unsigned int flags = both_flags(w);
	void *at = env->user + BYTES(hot[draw(&w->rng) % NR_HOT]);
	bool gone = env->two_sided || flags & (DROPS | CLOSES | POISONS);

	CHECK_ERRNO(w, "MADV_SOFT_OFFLINE", errno_of(madvise(at, PAGE_SIZE, MADV_SOFT_OFFLINE)),
		    EBUSY, EIO, WHEN(gone, 0),
		    WHEN(flags & POISONS, EHWPOISON),
		    WHEN(env->layout == LAYOUT_IN_PLACE || flags & (UNMAPS | POISONS),
			 EFAULT));
}

/* Modules that are in use. */

static inline const char *vendor_module(void)
{
	return this_cpu_has(X86_FEATURE_SVM) ? "kvm_amd" : "kvm_intel";
}

static inline int unload_errno(const char *module)
{
	return errno_of(syscall(SYS_delete_module, module, O_NONBLOCK));
}

static inline const char *missing_modules(enum layout layout)
{
	return access("/sys/module/kvm/initstate", F_OK) ? "KVM is not a module" : NULL;
}

/* Here /dev/kvm is open, two VMs and their files are. */
static inline void step_unload(struct worker *w)
{
	bool vendor = draw(&w->rng) % 2;
	int err = unload_errno(vendor ? vendor_module() : "kvm");

	CHECK_ERRNO(w, "delete_module()", err, EWOULDBLOCK,
		    WHEN(both_flags(w) & SIGNALS, EINTR));
}

/* Another VM, which shares nothing but the code: made, used, and ended in any order. */

static inline void close_all(struct worker *w, int *fds, int nr)
{
	int first = draw(&w->rng) % nr, i;

	for (i = 0; i < nr; i++)
		TEST_ASSERT(!close(fds[(first + i) % nr]), "close(), errno: %d", errno);
}

static inline void other_vm(struct worker *w)
{
	struct env *env = w->actor->env;
	struct kvm_create_guest_memfd create = {
		.size = BYTES(OTHER_PAGES),
		.flags = layout_flags(env->layout),
	};
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = GPA,
		.memory_size = create.size,
	};
	struct kvm_memory_attributes attributes = {
		.address = GPA,
		.size = create.size,
		.attributes = env->protected ? PRIVATE : 0,
	};
	struct kvm_memory_mapping mapping = {
		.base_address = GPA,
		.size = create.size,
	};
	int fds[3], err, i;

	for (i = 0; ; i++) {
		fds[0] = ioctl(env->kvm_fd, KVM_CREATE_VM, layout_type(env->layout));
		if (fds[0] >= 0)
			break;
		CHECK_ERRNO(w, "KVM_CREATE_VM", errno,
			    WHEN(both_flags(w) & SIGNALS && i < PATIENCE, EINTR));
	}
	fds[1] = ioctl(fds[0], KVM_CREATE_VCPU, 0);
	TEST_ASSERT(fds[1] >= 0, "KVM_CREATE_VCPU, errno: %d", errno);
	fds[2] = ioctl(fds[0], KVM_CREATE_GUEST_MEMFD, &create);
	TEST_ASSERT(fds[2] >= 0, "KVM_CREATE_GUEST_MEMFD, errno: %d", errno);
	region.guest_memfd = fds[2];
	TEST_ASSERT(!ioctl(fds[0], KVM_SET_USER_MEMORY_REGION2, &region), "errno: %d", errno);
	TEST_ASSERT(!ioctl(fds[0], KVM_SET_MEMORY_ATTRIBUTES, &attributes), "errno: %d", errno);
	err = errno_of(ioctl(fds[1], KVM_MAP_MEMORY, &mapping));
	CHECK_ERRNO(w, "KVM_MAP_MEMORY", err, 0, WHEN(both_flags(w) & SIGNALS, EINTR));
	close_all(w, fds, ARRAY_SIZE(fds));
}

/* The VM of the pair, with all that is open of it, while the other side goes on. */
static inline void end_vm(struct worker *w)
{
	struct env *env = w->actor->env;
	unsigned int flags = other_flags(w);
	int fds[NR_VCPUS + 3], nr = 0, first, i;
	void *mem;

	for (i = 0; i < NR_VCPUS; i++)
		fds[nr++] = env->vcpus[i]->fd;
	fds[nr++] = env->vm->fd;
	fds[nr++] = env->vm->kvm_fd;
	fds[nr++] = env->fd;
	/* What is mapped would keep it open. */
	for (i = 0; i < NR_VCPUS && !(flags & VCPUS); i++) {
		mem = mmap(env->vcpus[i]->run, run_size(env), PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		TEST_ASSERT(mem == env->vcpus[i]->run, "mmap(), errno: %d", errno);
	}
	if (!(flags & MAPPING)) {
		mem = mmap(env->user, BYTES(FILE_PAGES), PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		TEST_ASSERT(mem == env->user, "mmap(), errno: %d", errno);
	}
	first = draw(&w->rng) % nr;
	for (i = 0; i < nr; i++)
		TEST_ASSERT(dup2(env->null_fd, fds[(first + i) % nr]) >= 0,
			    "dup2(), errno: %d", errno);
}

static inline bool ends_vm(struct actor *actor);

static inline void step_exit(struct worker *w)
{
	if (w->actor->pair->ending && ends_vm(w->actor))
		end_vm(w);
	else
		other_vm(w);
}

/*
 * The limit of a memory cgroup: a process in one, as a thread cannot be.  It has all
 * the memory that it needs itself before it gets there, and is not to be killed.
 */

#define ROOM		(BYTES(96))

static inline const char *missing_memcg(enum layout layout)
{
	return has_memcg ? NULL : "no memory cgroup";
}

static inline bool transfer(int fd, uint64_t *value, bool out)
{
	ssize_t n;

	do {
		n = out ? write(fd, value, sizeof(*value)) : read(fd, value, sizeof(*value));
	} while (n < 0 && errno == EINTR);
	return n == sizeof(*value);
}

static inline int limited_step(struct actor *actor, uint64_t rng)
{
	struct worker w = { .actor = actor, .rng = rng };
	struct range range = draw_range(&w, false);
	void *from = actor->env->source + range.first * PAGE_WORDS;
	int fd = actor->env->fd;

	switch (draw(&w.rng) % 4) {
	case 0:
		return errno_of(pwrite(fd, from, BYTES(range.npages), BYTES(range.first)));
	case 1:
		return errno_of(__gmem_punch_hole(fd, BYTES(range.first),
						  BYTES(range.npages)));
	default:
		return errno_of(__gmem_allocate(fd, BYTES(range.first),
						BYTES(range.npages)));
	}
}

#define NO_MORE		(~0ULL)

static inline void limited_process(struct actor *actor, int in, int out)
{
	uint64_t value;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	write_line("/proc/self/oom_score_adj", "-1000");
	/* Each page that is a copy of the parent's now is its own then. */
	for (i = 0; i < 16; i++) {
		limited_step(actor, i);
		value = 0;
		transfer(out, &value, true);
	}
	write_line(GROUP "/cgroup.procs", "0");
	value = 0;
	transfer(out, &value, true);
	while (transfer(in, &value, false) && value != NO_MORE) {
		value = limited_step(actor, value);
		if (!transfer(out, &value, true))
			break;
	}
	_exit(0);
}

static inline void start_limited(struct actor *actor)
{
	int to[2], from[2], i;
	uint64_t value;

	TEST_ASSERT(!pipe(to) && !pipe(from), "pipe(), errno: %d", errno);
	fflush(stdout);
	actor->child = fork();
	TEST_ASSERT(actor->child >= 0, "fork(), errno: %d", errno);
	if (!actor->child) {
		close(to[1]);
		close(from[0]);
		limited_process(actor, to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	actor->to_child = to[1];
	actor->from_child = from[0];
	for (i = 0; i < 17; i++)
		TEST_ASSERT(transfer(actor->from_child, &value, false), "The child is gone");
}

static inline void step_limited(struct worker *w)
{
	struct actor *actor = w->actor;
	uint64_t value = draw(&w->rng);

	TEST_ASSERT(transfer(actor->to_child, &value, true) &&
		    transfer(actor->from_child, &value, false), "The child is gone");
	CHECK_ERRNO(w, "at the limit", (int)value, 0, ENOMEM, EEXIST, EAGAIN,
		    WHEN(both_flags(w) & SIGNALS, EINTR));
}

static inline void stop_limited(struct actor *actor)
{
	uint64_t value = NO_MORE;

	/* Another such process may have the pipe open, too: its end says nothing. */
	TEST_ASSERT(transfer(actor->to_child, &value, true), "The child is gone");
	close(actor->to_child);
	close(actor->from_child);
	wait_for_child(actor->child);
	actor->child = 0;
}

/* Signals to the other side. */
static inline void step_signal(struct worker *w)
{
	struct actor *other = other_actor(w);
	unsigned int i, j;

	for (i = 0; i < 3; i++) {
		for (j = 0; j < other->nr_workers; j++)
			pthread_kill(other->workers[j].thread, SIGUSR1);
		if (other->child > 0)
			kill(other->child, SIGUSR1);
		sched_yield();
	}
}

/* All of them. */

enum {
	GUEST, PRE_FAULT, MAP_MEMORY, ATTRIBUTES, HOLE, ALLOCATE, USER, WRITE, BIND, UNBIND,
	CLOSE, SLOT, ALIAS, POISON, SOFT_OFFLINE, UNLOAD, EXIT, MEMCG, SIGNAL, NR_OPS,
};

static const struct operation ops[NR_OPS] = {
	[GUEST] = { "guest", VCPUS, 2, .step = step_guest },
	[PRE_FAULT] = { "pre_fault", 0, 1, .step = step_pre_fault },
	[MAP_MEMORY] = { "map_memory", 0, 1, .step = step_map_memory },
	[ATTRIBUTES] = { "attributes", CONVERTS, 1, .step = step_attributes },
	[HOLE] = { "hole", DROPS, 1, .step = step_hole },
	[ALLOCATE] = { "allocate", 0, 1, .step = step_allocate },
	[USER] = { "user", MAPPING, 1, .step = step_user },
	[WRITE] = { "write", 0, 1, .step = step_write },
	[BIND] = { "bind", OTHER_GOES, 1, .step = step_bind },
	[UNBIND] = { "unbind", OTHER_GOES, 1, .setup = unbind_at_first, .step = step_unbind },
	[CLOSE] = { "close", DROPS | GOES | OTHER_GOES | CLOSES, 1, .step = step_close },
	[SLOT] = { "slot", GOES, 1, .step = step_slot },
	[ALIAS] = { "alias", UNMAPS | MAPPING, 1, .step = step_alias },
	[POISON] = { "poison", POISONS | DROPS | MAPPING | OFFLINES, 1,
		     .missing = missing_memory_failure, .step = step_poison },
	[SOFT_OFFLINE] = { "soft_offline", MAPPING | OFFLINES, 1,
			   .missing = missing_memory_failure, .step = step_soft_offline },
	[UNLOAD] = { "unload", 0, 1, .missing = missing_modules, .step = step_unload },
	[EXIT] = { "exit", 0, 1, .step = step_exit },
	[MEMCG] = { "memcg", DROPS, 1, .missing = missing_memcg, .setup = start_limited,
		    .step = step_limited, .teardown = stop_limited },
	[SIGNAL] = { "signal", SIGNALS, 1, .step = step_signal },
};

/* The first of the pair that can. */
static inline bool ends_vm(struct actor *actor)
{
	struct pair *pair = actor->pair;

	return actor->op == &ops[EXIT] && (!actor->id || pair->actors[0].op != &ops[EXIT]);
}

#endif /* SELFTEST_KVM_GMEM_PAIRS_OPS_H */
