// SPDX-License-Identifier: GPL-2.0
/*
 * A guest converts memory between shared and private with KVM_HC_MAP_GPA_RANGE.
 *
 * The host keeps a model of every page: which side the guest sees, and what each
 * of the two sides holds.  It tells the guest what to do with which pages, and
 * after every step the guest compares what it sees with the model, and the host
 * compares the shared side.
 *
 * The access type of a VM of type SW_PROTECTED_VM is what the attribute says, so
 * that conversions are always explicit: no access of the guest may exit.
 *
 * Bugs that others had and that show here: a huge page mapped for a neighbour
 * while the attributes of a part of it change, or because "mixed" was not tracked
 * at the head or the tail of a range or in a slot; the page of the file looked up
 * by gfn where it should have been by index (slots and files with odd offsets).
 */
#include "kvm_gmem_util.h"

#include <pthread.h>
#include <sched.h>

#include "gmem_harness.h"

#define MAX_VCPUS	4
#define SLOT		10
#define SLOT_GPA	0x40000000ULL
#define HUGE_PAGES	512

/*
 * An area is a huge page and 16 more pages on both sides of it; there is one for
 * each vCPU.  Huge pages lie where they do in the guest if the slot is aligned.
 */
#define EDGE		16
#define AREA_PAGES	(HUGE_PAGES + 2 * EDGE)
#define AREA_START(i)	((i) * 2 * HUGE_PAGES + HUGE_PAGES - EDGE)
#define SLOT_PAGES	((2 * MAX_VCPUS + 1) * HUGE_PAGES)

#define TORTURE_START	(EDGE - 12)
#define TORTURE_PAGES	24
#define TORTURE_FLIPS	150

/*
 * What a page holds: its value at these offsets, which is 0 or a tag and the gpa.
 * The word in between belongs to the torture test.
 */
static const unsigned int offsets[] = { 0, 2040, 4088 };

#define TORTURE_WORD	8
#define VALUE(tag, gpa)	(((uint64_t)(tag) << 48) | (gpa))
#define VALUE_TAG(v)	((v) >> 48)
#define VALUE_GPA(v)	((v) & ((1ULL << 48) - 1))

enum {
	TAG_SHARED = 1,
	TAG_PRIVATE,
	TAG_TORTURE,
	TAG_FIRST,
};

enum {
	OP_CHECK,
	OP_WRITE,
	OP_CONVERT,
	OP_TORTURE,
};

struct guest_cmd {
	uint64_t op;
	uint64_t gpa;
	uint64_t npages;
	/* The tag to write, or the flags of the conversion. */
	uint64_t arg;
	int64_t ret;
};

/* Guest: one command for each entry, shared with the host. */

static struct guest_cmd guest_cmds[MAX_VCPUS];
static uint64_t guest_want[MAX_VCPUS][AREA_PAGES];
static volatile uint64_t guest_stop;

static volatile uint64_t *guest_word(uint64_t gpa, unsigned int offset)
{
	return (volatile uint64_t *)(gpa + offset);
}

static void guest_check(uint64_t gpa, uint64_t npages, const uint64_t *want)
{
	uint64_t i, seen;
	unsigned int j;

	for (i = 0; i < npages; i++, gpa += PAGE_SIZE)
		for (j = 0; j < ARRAY_SIZE(offsets); j++) {
			seen = *guest_word(gpa, offsets[j]);
			GUEST_ASSERT_3(seen == want[i], gpa, seen, want[i]);
		}
}

static void guest_write(uint64_t gpa, uint64_t npages, uint64_t tag)
{
	unsigned int j;

	for (; npages; npages--, gpa += PAGE_SIZE)
		for (j = 0; j < ARRAY_SIZE(offsets); j++)
			*guest_word(gpa, offsets[j]) = VALUE(tag, gpa);
}

/* The pages flip all the time.  What is seen is of the right page, and whole. */
static void guest_torture(uint64_t gpa, uint64_t npages, bool zero_ok)
{
	volatile uint64_t *word;
	uint64_t i, addr, seen;

	while (!guest_stop) {
		for (i = 0; i < npages; i++) {
			addr = gpa + i * PAGE_SIZE;
			seen = *guest_word(addr, 0);
			GUEST_ASSERT_3(seen == VALUE(TAG_SHARED, addr) ||
				       seen == VALUE(TAG_PRIVATE, addr) ||
				       (zero_ok && !seen), addr, seen, 0);

			word = guest_word(addr, TORTURE_WORD);
			seen = *word;
			GUEST_ASSERT_3(!seen || VALUE_GPA(seen) == addr, addr, seen, 0);
			/* Differs every time, so that a write is noticed. */
			*word = VALUE(seen ? VALUE_TAG(seen) % 1000 + TAG_TORTURE :
				      TAG_TORTURE, addr);
		}
	}
}

static void guest_main(uint64_t id)
{
	volatile struct guest_cmd *cmd = &guest_cmds[id];

	for (;;) {
		GUEST_SYNC(0);

		switch (cmd->op) {
		case OP_CHECK:
			guest_check(cmd->gpa, cmd->npages, guest_want[id]);
			break;
		case OP_WRITE:
			guest_write(cmd->gpa, cmd->npages, cmd->arg);
			break;
		case OP_CONVERT:
			cmd->ret = kvm_hypercall(KVM_HC_MAP_GPA_RANGE, cmd->gpa,
						 cmd->npages, cmd->arg, 0);
			break;
		case OP_TORTURE:
			guest_torture(cmd->gpa, cmd->npages, cmd->arg);
			break;
		default:
			GUEST_ASSERT(0);
		}
	}
}

/* Host. */

struct page_model {
	bool private;
	/* What the shared and the private side hold. */
	uint64_t val[2];
};

FIXTURE(conversions) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	int fd;
	uint64_t gpa;
	uint8_t *hva;
	uint64_t file_offset;
	bool punch;
	bool refuse;
	struct page_model model[MAX_VCPUS][AREA_PAGES];
	/* All vCPUs on area 0: followers only check. */
	int nr_followers;
	pthread_barrier_t barrier;
	uint64_t check_start, check_pages;
	bool stop;
};

FIXTURE_VARIANT(conversions) {
	enum vm_mem_backing_src_type src;
	/* In pages. */
	uint64_t slot_offset;
	uint64_t file_offset;
	/* Does the VMM free the side that the guest does not use? */
	bool punch;
};

FIXTURE_VARIANT_ADD(conversions, small_pages_keep) {
	.src = VM_MEM_SRC_ANONYMOUS,
};

FIXTURE_VARIANT_ADD(conversions, huge_pages_keep) {
	.src = VM_MEM_SRC_ANONYMOUS_THP,
};

FIXTURE_VARIANT_ADD(conversions, huge_pages_punch) {
	.src = VM_MEM_SRC_ANONYMOUS_THP,
	.punch = true,
};

FIXTURE_VARIANT_ADD(conversions, huge_odd_file_keep) {
	.src = VM_MEM_SRC_ANONYMOUS_THP,
	.file_offset = 3,
};

FIXTURE_VARIANT_ADD(conversions, odd_slot_punch) {
	.src = VM_MEM_SRC_ANONYMOUS,
	.slot_offset = 3,
	.file_offset = 1,
	.punch = true,
};

FIXTURE_SETUP(conversions)
{
	int i;

	self->gpa = SLOT_GPA + variant->slot_offset * PAGE_SIZE;
	self->file_offset = variant->file_offset * PAGE_SIZE;
	self->punch = variant->punch;

	self->vm = vm_create_type_with_vcpus(KVM_X86_SW_PROTECTED_VM, MAX_VCPUS,
					     2 * SLOT_PAGES, guest_main,
					     self->vcpus);
	for (i = 0; i < MAX_VCPUS; i++)
		vcpu_args_set(self->vcpus[i], 1, (uint64_t)i);
	vm_enable_cap(self->vm, KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE);

	self->fd = vm_create_guest_memfd(self->vm, self->file_offset +
					 SLOT_PAGES * PAGE_SIZE, 0);
	vm_gmem_region_add(self->vm, variant->src, self->gpa, SLOT, SLOT_PAGES,
			   self->fd, self->file_offset);
	self->hva = addr_gpa2hva(self->vm, self->gpa);
	virt_map(self->vm, self->gpa, self->gpa, SLOT_PAGES);
}

FIXTURE_TEARDOWN(conversions)
{
	kvm_vm_free(self->vm);
	close(self->fd);
}

static uint64_t page_gpa(FIXTURE_DATA(conversions) *self, int area, uint64_t page)
{
	return self->gpa + (AREA_START(area) + page) * PAGE_SIZE;
}

static uint64_t *shared_word(FIXTURE_DATA(conversions) *self, uint64_t gpa,
			     unsigned int offset)
{
	return (uint64_t *)(self->hva + gpa - self->gpa + offset);
}

/* What a VMM does for a conversion. */
static void convert(FIXTURE_DATA(conversions) *self, uint64_t gpa, uint64_t size,
		    bool private)
{
	uint64_t offset = gpa - self->gpa;
	int ret;

	vm_set_memory_attributes(self->vm, gpa, size,
				 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	if (!self->punch)
		return;

	if (private) {
		ret = madvise(self->hva + offset, size, MADV_DONTNEED);
		TEST_ASSERT(!ret, "madvise() failed, errno: %d", errno);
	} else {
		gmem_punch_hole(self->fd, self->file_offset + offset, size);
	}
}

static void handle_hypercall(FIXTURE_DATA(conversions) *self, struct kvm_run *run,
			     struct guest_cmd *cmd)
{
	uint64_t flags = run->hypercall.args[2];

	TEST_ASSERT_EQ(run->hypercall.nr, KVM_HC_MAP_GPA_RANGE);
	TEST_ASSERT_EQ(run->hypercall.args[0], cmd->gpa);
	TEST_ASSERT_EQ(run->hypercall.args[1], cmd->npages);
	TEST_ASSERT_EQ(flags, cmd->arg);

	if (self->refuse) {
		run->hypercall.ret = -KVM_EPERM;
		return;
	}
	convert(self, run->hypercall.args[0], run->hypercall.args[1] * PAGE_SIZE,
		flags & KVM_MAP_GPA_RANGE_ENCRYPTED);
	run->hypercall.ret = 0;
}

/* Runs to the next sync, at which the guest takes commands. */
static void run_vcpu(FIXTURE_DATA(conversions) *self, int id)
{
	struct kvm_vcpu *vcpu = self->vcpus[id];
	struct kvm_run *run = vcpu->run;
	struct guest_cmd *cmd = addr_gva2hva(self->vm, (uint64_t)&guest_cmds[id]);
	struct ucall uc;
	int ret;

	for (;;) {
		ret = _vcpu_run(vcpu);
		TEST_ASSERT(!ret, "KVM_RUN failed, errno: %d, exit: %u, gpa: %#llx",
			    errno, run->exit_reason, run->memory_fault.gpa);
		if (run->exit_reason != KVM_EXIT_HYPERCALL)
			break;
		handle_hypercall(self, run, cmd);
	}

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT_3(uc, "gpa %#lx, seen %#lx, wanted %#lx");
	default:
		TEST_FAIL("Unexpected exit: %u (%s)", run->exit_reason,
			  exit_reason_str(run->exit_reason));
	}
}

static int64_t run_cmd(FIXTURE_DATA(conversions) *self, int id, uint64_t op,
		       uint64_t gpa, uint64_t npages, uint64_t arg)
{
	struct guest_cmd *cmd = addr_gva2hva(self->vm, (uint64_t)&guest_cmds[id]);

	cmd->op = op;
	cmd->gpa = gpa;
	cmd->npages = npages;
	cmd->arg = arg;
	run_vcpu(self, id);
	return cmd->ret;
}

/* A thread's part: the area it works on and the vCPU that it runs next. */
struct worker {
	FIXTURE_DATA(conversions) *self;
	int area;
	/* Areas there are: each takes its share of the steps. */
	int nr_areas;
	int vcpu;
	uint64_t tag;
	unsigned int seed;
};

static void check_guest(struct worker *w, int id, uint64_t start, uint64_t npages)
{
	FIXTURE_DATA(conversions) *self = w->self;
	struct page_model *model = self->model[w->area];
	uint64_t *want = addr_gva2hva(self->vm, (uint64_t)guest_want[id]);
	uint64_t i;

	for (i = 0; i < npages; i++)
		want[i] = model[start + i].val[model[start + i].private];
	run_cmd(self, id, OP_CHECK, page_gpa(self, w->area, start), npages, 0);
}

/* Everybody compares what it sees with the model. */
static void check(struct worker *w, uint64_t start, uint64_t npages)
{
	FIXTURE_DATA(conversions) *self = w->self;
	uint64_t i, gpa, seen;
	unsigned int j;

	if (self->nr_followers) {
		self->check_start = start;
		self->check_pages = npages;
		pthread_barrier_wait(&self->barrier);
	}
	check_guest(w, w->area, start, npages);

	for (i = start; i < start + npages; i++) {
		gpa = page_gpa(self, w->area, i);
		for (j = 0; j < ARRAY_SIZE(offsets); j++) {
			seen = *shared_word(self, gpa, offsets[j]);
			TEST_ASSERT(seen == self->model[w->area][i].val[0],
				    "Shared side of gpa %#lx: seen %#lx, wanted %#lx",
				    gpa, seen, self->model[w->area][i].val[0]);
		}
	}
	if (self->nr_followers)
		pthread_barrier_wait(&self->barrier);
}

/* The range and what is around it. */
static void check_around(struct worker *w, uint64_t start, uint64_t npages)
{
	uint64_t first = start > EDGE ? start - EDGE : 0;
	uint64_t end = min(start + npages + EDGE, (uint64_t)AREA_PAGES);

	check(w, first, end - first);
}

/* In turn, if there are several on the same area. */
static int next_vcpu(struct worker *w)
{
	if (w->self->nr_followers)
		w->vcpu = (w->vcpu + 1) % (w->self->nr_followers + 1);
	return w->vcpu;
}

static void guest_writes(struct worker *w, uint64_t start, uint64_t npages)
{
	FIXTURE_DATA(conversions) *self = w->self;
	struct page_model *p = &self->model[w->area][start];
	uint64_t gpa = page_gpa(self, w->area, start), i;

	w->tag++;
	run_cmd(self, next_vcpu(w), OP_WRITE, gpa, npages, w->tag);
	for (i = 0; i < npages; i++, p++)
		p->val[p->private] = VALUE(w->tag, gpa + i * PAGE_SIZE);
}

static void host_writes(struct worker *w, uint64_t start, uint64_t npages)
{
	FIXTURE_DATA(conversions) *self = w->self;
	uint64_t i, gpa;
	unsigned int j;

	w->tag++;
	for (i = start; i < start + npages; i++) {
		gpa = page_gpa(self, w->area, i);
		for (j = 0; j < ARRAY_SIZE(offsets); j++)
			*shared_word(self, gpa, offsets[j]) = VALUE(w->tag, gpa);
		self->model[w->area][i].val[0] = VALUE(w->tag, gpa);
	}
}

static void guest_converts(struct worker *w, uint64_t start, uint64_t npages,
			   bool private)
{
	FIXTURE_DATA(conversions) *self = w->self;
	struct page_model *p = &self->model[w->area][start];
	uint64_t i;
	int64_t ret;

	ret = run_cmd(self, next_vcpu(w), OP_CONVERT, page_gpa(self, w->area, start),
		      npages, private ? KVM_MAP_GPA_RANGE_ENCRYPTED :
					KVM_MAP_GPA_RANGE_DECRYPTED);
	TEST_ASSERT_EQ(ret, (int64_t)0);

	for (i = 0; i < npages; i++, p++) {
		p->private = private;
		if (self->punch)
			p->val[!private] = 0;
	}
}

/* Parts of an area: at, across and between the ends of the huge page in it. */
static const struct {
	unsigned int start, npages;
} parts[] = {
	{ EDGE, 1 },
	{ EDGE - 1, 1 },
	{ EDGE - 1, 2 },
	{ EDGE - 3, 7 },
	{ EDGE + HUGE_PAGES - 1, 1 },
	{ EDGE + HUGE_PAGES, 1 },
	{ EDGE + HUGE_PAGES - 1, 2 },
	{ EDGE, HUGE_PAGES },
	{ EDGE + 1, HUGE_PAGES - 1 },
	{ EDGE - 1, HUGE_PAGES + 2 },
	{ 200, 1 },
	{ 0, EDGE },
};

static void convert_part(struct worker *w, uint64_t start, uint64_t npages)
{
	uint64_t first = start > 4 ? start - 4 : 0;
	uint64_t end = min(start + npages + 4, (uint64_t)AREA_PAGES);

	guest_converts(w, start, npages, false);
	check_around(w, start, npages);
	guest_writes(w, start, npages);
	check_around(w, start, npages);

	/* Private neighbours must not notice. */
	host_writes(w, first, end - first);
	check_around(w, start, npages);

	guest_converts(w, start, npages, true);
	check_around(w, start, npages);
	guest_writes(w, start, npages);
	check_around(w, start, npages);
}

static void random_steps(struct worker *w, int steps)
{
	uint64_t start, npages;

	while (steps--) {
		start = rand_r(&w->seed) % AREA_PAGES;
		npages = min(1UL << rand_r(&w->seed) % 10, AREA_PAGES - start);

		switch (rand_r(&w->seed) % 4) {
		case 0:
			host_writes(w, start, npages);
			break;
		case 1:
			guest_writes(w, start, npages);
			break;
		default:
			guest_converts(w, start, npages, rand_r(&w->seed) % 2);
		}
		check_around(w, start, npages);
	}
}

static void *convert_area(void *arg)
{
	struct worker *w = arg;
	int i;

	w->tag = TAG_FIRST;
	w->seed = w->area;

	/* Without attributes all is shared. */
	host_writes(w, 0, AREA_PAGES);
	check(w, 0, AREA_PAGES);

	/* Private memory starts as zeroes. */
	guest_converts(w, 0, AREA_PAGES, true);
	check(w, 0, AREA_PAGES);
	guest_writes(w, 0, AREA_PAGES);

	for (i = w->area; i < ARRAY_SIZE(parts); i += w->nr_areas)
		convert_part(w, parts[i].start, parts[i].npages);
	check(w, 0, AREA_PAGES);

	random_steps(w, 24 / w->nr_areas);
	check(w, 0, AREA_PAGES);

	guest_converts(w, 0, AREA_PAGES, false);
	check(w, 0, AREA_PAGES);
	return NULL;
}

static void *follow(void *arg)
{
	struct worker *w = arg;
	FIXTURE_DATA(conversions) *self = w->self;

	for (;;) {
		pthread_barrier_wait(&self->barrier);
		if (self->stop)
			return NULL;
		check_guest(w, w->vcpu, self->check_start, self->check_pages);
		pthread_barrier_wait(&self->barrier);
	}
}

static void start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	int ret = pthread_create(thread, NULL, fn, arg);

	TEST_ASSERT(!ret, "pthread_create() failed: %d", ret);
}

/* Each vCPU has memory of its own. */
static void run_own_areas(FIXTURE_DATA(conversions) *self, int nr_vcpus)
{
	struct worker workers[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	int i;

	for (i = 0; i < nr_vcpus; i++) {
		workers[i] = (struct worker) {
			.self = self,
			.area = i,
			.nr_areas = nr_vcpus,
			.vcpu = i,
		};
		run_vcpu(self, i);
	}
	for (i = 0; i < nr_vcpus; i++)
		start_thread(&threads[i], convert_area, &workers[i]);
	for (i = 0; i < nr_vcpus; i++)
		pthread_join(threads[i], NULL);
}

/* Every vCPU sees what any of them did, and convert in turn. */
static void run_same_area(FIXTURE_DATA(conversions) *self, int nr_vcpus)
{
	struct worker workers[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	int i;

	self->nr_followers = nr_vcpus - 1;
	pthread_barrier_init(&self->barrier, NULL, nr_vcpus);
	for (i = 0; i < nr_vcpus; i++) {
		workers[i] = (struct worker) {
			.self = self,
			.nr_areas = 1,
			.vcpu = i,
		};
		run_vcpu(self, i);
	}
	for (i = 1; i < nr_vcpus; i++)
		start_thread(&threads[i], follow, &workers[i]);
	convert_area(&workers[0]);
	self->stop = true;
	pthread_barrier_wait(&self->barrier);
	for (i = 1; i < nr_vcpus; i++)
		pthread_join(threads[i], NULL);
}

TEST_F(conversions, one_vcpu)
{
	run_own_areas(self, 1);
}

TEST_F(conversions, two_vcpus)
{
	run_own_areas(self, 2);
}

TEST_F(conversions, four_vcpus)
{
	run_own_areas(self, 4);
}

TEST_F(conversions, two_vcpus_same_memory)
{
	run_same_area(self, 2);
}

TEST_F(conversions, four_vcpus_same_memory)
{
	run_same_area(self, 4);
}

static void *torture_vcpu(void *arg)
{
	struct worker *w = arg;

	run_cmd(w->self, w->vcpu, OP_TORTURE, page_gpa(w->self, 0, TORTURE_START),
		TORTURE_PAGES, w->self->punch);
	return NULL;
}

/*
 * The host flips attributes while vCPUs read and write.  When the ioctl that
 * makes memory private has returned, no vCPU may write to the shared side any
 * more, whatever it had mapped or was about to map.
 */
TEST_F(conversions, torture)
{
	struct worker workers[MAX_VCPUS];
	uint64_t before[TORTURE_PAGES], seen, gpa, start, npages, i;
	volatile uint64_t *stop = addr_gva2hva(self->vm, (uint64_t)&guest_stop);
	uint64_t first = page_gpa(self, 0, TORTURE_START);
	pthread_t threads[MAX_VCPUS];
	int flip, id;

	for (id = 0; id < MAX_VCPUS; id++) {
		workers[id] = (struct worker) { .self = self, .vcpu = id };
		run_vcpu(self, id);
	}
	/* The shared and the private side of all that will be flipped. */
	workers[0].tag = TAG_SHARED - 1;
	host_writes(&workers[0], 0, AREA_PAGES);
	run_cmd(self, 0, OP_CONVERT, first, TORTURE_PAGES, KVM_MAP_GPA_RANGE_ENCRYPTED);
	run_cmd(self, 0, OP_WRITE, first, TORTURE_PAGES, TAG_PRIVATE);
	vm_mem_set_shared(self->vm, first, TORTURE_PAGES * PAGE_SIZE);

	for (id = 0; id < MAX_VCPUS; id++)
		start_thread(&threads[id], torture_vcpu, &workers[id]);

	for (flip = 0; flip < TORTURE_FLIPS; flip++) {
		/* All, one page, and some that grow. */
		start = flip % 3 ? flip % TORTURE_PAGES : 0;
		npages = flip % 3 == 1 ? 1 : TORTURE_PAGES - start;
		gpa = first + start * PAGE_SIZE;

		convert(self, gpa, npages * PAGE_SIZE, true);
		for (i = 0; i < npages; i++)
			before[i] = *shared_word(self, gpa + i * PAGE_SIZE, TORTURE_WORD);
		usleep(500);
		for (i = 0; i < npages; i++) {
			seen = *shared_word(self, gpa + i * PAGE_SIZE, TORTURE_WORD);
			TEST_ASSERT(seen == before[i],
				    "The shared side of private gpa %#llx changed from %#lx to %#lx",
				    gpa + i * PAGE_SIZE, before[i], seen);
		}
		convert(self, gpa, npages * PAGE_SIZE, false);
		sched_yield();
	}

	*stop = 1;
	for (id = 0; id < MAX_VCPUS; id++)
		pthread_join(threads[id], NULL);

	/* Both sides are what they were, or have been freed. */
	for (i = 0; i < TORTURE_PAGES; i++) {
		gpa = first + i * PAGE_SIZE;
		seen = *shared_word(self, gpa, 0);
		TEST_ASSERT_EQ(seen, self->punch ? 0 : VALUE(TAG_SHARED, gpa));
	}
	convert(self, first, TORTURE_PAGES * PAGE_SIZE, true);
	for (i = 0; i < TORTURE_PAGES; i++) {
		struct page_model *p = &self->model[0][TORTURE_START + i];

		p->private = true;
		p->val[1] = self->punch ? 0 : VALUE(TAG_PRIVATE, first + i * PAGE_SIZE);
	}
	check_guest(&workers[0], 0, TORTURE_START, TORTURE_PAGES);
}

FIXTURE(hypercall) {
	FIXTURE_DATA(conversions) c;
};

FIXTURE_SETUP(hypercall)
{
	FIXTURE_VARIANT(conversions) plain = { .src = VM_MEM_SRC_ANONYMOUS };

	conversions_setup(_metadata, &self->c, &plain);
	run_vcpu(&self->c, 0);
}

FIXTURE_TEARDOWN(hypercall)
{
	conversions_teardown(_metadata, &self->c, NULL);
}

static int64_t hypercall(FIXTURE_DATA(hypercall) *self, uint64_t gpa, uint64_t npages)
{
	return run_cmd(&self->c, 0, OP_CONVERT, gpa, npages,
		       KVM_MAP_GPA_RANGE_ENCRYPTED);
}

/* KVM checks the range, and the VMM does not hear of a bad one. */
TEST_F(hypercall, bad_range)
{
	EXPECT_EQ(-KVM_EINVAL, hypercall(self, self->c.gpa + 8, 1));
	EXPECT_EQ(-KVM_EINVAL, hypercall(self, self->c.gpa, 0));
	EXPECT_EQ(-KVM_EINVAL, hypercall(self, self->c.gpa, -1ULL));
}

/* The VMM's answer reaches the guest, and KVM changes nothing by itself. */
TEST_F(hypercall, refused)
{
	struct worker w = { .self = &self->c, .tag = TAG_FIRST };

	host_writes(&w, 0, AREA_PAGES);
	self->c.refuse = true;
	EXPECT_EQ(-KVM_EPERM, hypercall(self, page_gpa(&self->c, 0, 0), AREA_PAGES));
	check_guest(&w, 0, 0, AREA_PAGES);
}

TEST_F(hypercall, not_enabled)
{
	vm_enable_cap(self->c.vm, KVM_CAP_EXIT_HYPERCALL, 0);
	EXPECT_EQ(-KVM_ENOSYS, hypercall(self, self->c.gpa, 1));
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_EXIT_HYPERCALL) & (1 << KVM_HC_MAP_GPA_RANGE));
	/* Some variants put the shared side in huge pages. */
	TEST_REQUIRE(thp_configured());

	return test_harness_run(argc, argv);
}
