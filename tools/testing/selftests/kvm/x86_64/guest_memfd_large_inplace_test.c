// SPDX-License-Identifier: GPL-2.0
/*
 * Conversion in place of memory in large folios.
 *
 * A folio that is shared as a whole is mapped by one entry in the process, as it is in
 * the guest.  Proves that this entry never shows the process a page that is private,
 * whichever part of the folio that is, and why: by its attribute, or because no slot
 * has it; that nobody else loses anything by a conversion of a part; and that a page
 * that somebody holds does not become private because it is one of many.
 *
 * A folio stays whole until the process touches a page of one that is shared in part.
 * How it is mapped in the guest, the statistics of the VM tell; how in the process,
 * smaps.
 */
#include "gmem_large.h"

#include <sys/syscall.h>
#include <sys/uio.h>

#define NR_ALL		(2 * LARGE)
/* So many pages from where it is another matter each of them is looked at closely. */
#define EDGE		8

static void share(struct large *l, uint64_t page, uint64_t npages)
{
	vm_mem_set_shared(l->env.vm, PAGE_GPA(page), BYTES(npages));
}

static int __hide(struct large *l, uint64_t page, uint64_t npages)
{
	return __vm_set_memory_attributes(l->env.vm, PAGE_GPA(page), BYTES(npages),
					  KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static void hide(struct large *l, uint64_t page, uint64_t npages)
{
	vm_mem_set_private(l->env.vm, PAGE_GPA(page), BYTES(npages));
}

static uint64_t nr_splits(struct large *l)
{
	return gmem_counter(l->env.vm, "gmem_split");
}

/* The process can read these pages, and finds what it should. */
static void expect_shared(void *mem, uint64_t first, uint64_t npages, uint64_t value)
{
	struct sigaction old;
	uint64_t i, word;

	catch_sigbus(&old);
	for (i = first; i < first + npages; i++) {
		if (sigsetjmp(touch_env, 0))
			TEST_FAIL("Page %lu: SIGBUS", i);
		word = *word_of(mem, i);
		TEST_ASSERT(word == WORD(value, i), "Page %lu has %#lx, not %#lx", i,
			    word, WORD(value, i));
	}
	sigaction(SIGBUS, &old, NULL);
}

/* Is a page next to one that may be another matter, because of the range or the folio? */
static bool at_edge(uint64_t page, uint64_t first, uint64_t npages)
{
	uint64_t in_folio = page % LARGE;

	return page < first + EDGE || page + EDGE >= first + npages ||
	       in_folio < EDGE || in_folio >= LARGE - EDGE;
}

/* How many of the pages has the process in its page tables? */
static uint64_t nr_present(void *mem, uint64_t first, uint64_t npages)
{
	static uint64_t entries[NR_ALL];
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t i, sum;

	TEST_ASSERT(fd >= 0 && npages <= NR_ALL &&
		    pread(fd, entries, npages * 8, ((uintptr_t)mem / PAGE_SIZE + first) * 8) ==
		    (ssize_t)(npages * 8), "pagemap, errno %d", errno);
	close(fd);
	for (i = 0, sum = 0; i < npages; i++)
		sum += entries[i] >> 63;
	return sum;
}

/*
 * It can neither read nor write any of them: it maps none, and is refused when it would.
 * A refusal takes a debug kernel a millisecond, so that far from the edges each page has
 * its turn at every second call, by reading and by writing.
 */
static void expect_private(void *mem, uint64_t first, uint64_t npages)
{
	static uint64_t turn;
	struct sigaction old;
	uint64_t i, write;

	turn++;
	TEST_ASSERT_EQ(nr_present(mem, first, npages), 0UL);
	catch_sigbus(&old);
	for (i = first; i < first + npages; i++) {
		for (write = 0; write < 2; write++) {
			if (!at_edge(i, first, npages) && (i + turn) % 4 != 2 * write)
				continue;
			if (!sigsetjmp(touch_env, 0)) {
				if (write)
					*word_of(mem, i) = 0;
				else
					(void)*word_of(mem, i);
				TEST_FAIL("Page %lu: %s", i, write ? "written" : "read");
			}
			TEST_ASSERT(touch_info.si_code == BUS_ADRERR &&
				    touch_info.si_addr == mem + BYTES(i),
				    "Page %lu: code %d at %p", i, touch_info.si_code,
				    touch_info.si_addr);
		}
	}
	sigaction(SIGBUS, &old, NULL);
}

static void expect_large(struct large *l, uint64_t nr)
{
	TEST_ASSERT_EQ(mapped_by_pmd(l->env.mem), nr);
	expect_mapped(l, nr, (2 - nr) * LARGE);
	TEST_ASSERT_EQ(allocated(l), NR_ALL);
}

/*
 * Free the memory and, with the mapping, the page tables: the process maps nothing by
 * one entry where it has a table of small ones.
 */
static void start_anew(struct large *l)
{
	punch_pages(l, 0, NR_ALL);
	TEST_ASSERT(mmap(l->env.mem, BYTES(NR_ALL), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, l->env.fd, 0) == l->env.mem,
		    "mmap(), errno %d", errno);
}

/* Two folios that are shared as a whole, and mapped everywhere. */
static void start_shared(struct large *l)
{
	start_anew(l);
	share(l, 0, NR_ALL);
	host_write(l->env.mem, 0, NR_ALL, HOST_VALUE);
	guest_checks(l, 0, NR_ALL, HOST_VALUE);
	expect_large(l, 2);
}

/* Two folios that are private as a whole. */
static void start_private(struct large *l)
{
	start_anew(l);
	hide(l, 0, NR_ALL);
	guest_writes(l, 0, NR_ALL, GUEST_VALUE);
	TEST_ASSERT_EQ(allocated(l), NR_ALL);
	expect_mapped(l, 2, 0);
}

static void setup(struct large *l)
{
	struct userspace_mem_region *region;

	large_setup(l, KVM_X86_SW_PROTECTED_VM, FLAG_MMAP, NR_ALL);
	region = memslot2region(l->env.vm, 0);
	/* Fork must not change how the guest's other memory is mapped. */
	madvise(region->host_mem, region->region.memory_size, MADV_DONTFORK);
}

FIXTURE(inplace) {
	struct large large;
};

FIXTURE_SETUP(inplace)
{
	setup(&self->large);
}

FIXTURE_TEARDOWN(inplace)
{
	large_teardown(&self->large);
}

/* As a whole, there and back. */
TEST_F(inplace, whole)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;
	int i;

	REQUIRE_LARGE_PAGES();
	ASSERT_EQ(0, (uintptr_t)mem % LARGE_SIZE);
	bind_at(l, 0, NR_ALL, 0);
	share(l, 0, NR_ALL);
	/* Each side is the first to use one of them. */
	ASSERT_EQ(0, touch(mem + BYTES(5), -1));
	ASSERT_EQ(LARGE, allocated(l));
	ASSERT_EQ(1, mapped_by_pmd(mem));
	ASSERT_EQ(1, guest_checks(l, LARGE, LARGE, 0));
	ASSERT_EQ(2, gmem_counter(l->env.vm, "gmem_alloc_2m"));
	ASSERT_TRUE(pages_are_zero(mem, NR_ALL));

	for (i = 0; i < 3; i++) {
		host_write(mem, 0, NR_ALL, HOST_VALUE + i);
		guest_checks(l, 0, NR_ALL, HOST_VALUE + i);
		expect_large(l, 2);
		ASSERT_EQ(0, guest_writes(l, 0, NR_ALL, GUEST_VALUE));
		expect_shared(mem, 0, NR_ALL, GUEST_VALUE);

		hide(l, 0, NR_ALL);
		expect_private(mem, 0, NR_ALL);
		ASSERT_EQ(2, guest_checks(l, 0, NR_ALL, GUEST_VALUE));
		ASSERT_EQ(0, guest_writes(l, 0, NR_ALL, OTHER_VALUE + i));
		expect_mapped(l, 2, 0);
		ASSERT_EQ(0, smaps_kb(mem, "Rss:"));

		/* One of them, to see that it takes not the other one along. */
		share(l, 0, LARGE);
		expect_shared(mem, 0, LARGE, OTHER_VALUE + i);
		expect_private(mem, LARGE, LARGE);
		ASSERT_EQ(1, mapped_by_pmd(mem));
		share(l, LARGE, LARGE);
		expect_shared(mem, 0, NR_ALL, OTHER_VALUE + i);
		ASSERT_EQ(2, guest_checks(l, 0, NR_ALL, OTHER_VALUE + i));
		expect_large(l, 2);
	}
	expect_counters(l->env.vm, .alloc_2m = 2);
}

/* Parts that are converted: first page, how many, and the folios not concerned. */

FIXTURE(part) {
	struct large large;
};

FIXTURE_VARIANT(part) {
	uint64_t first;
	uint64_t npages;
	uint64_t whole;
};

FIXTURE_VARIANT_ADD(part, start) { .first = 0, .npages = 10, .whole = 1 };
FIXTURE_VARIANT_ADD(part, middle) { .first = 100, .npages = 50, .whole = 1 };
FIXTURE_VARIANT_ADD(part, end) { .first = LARGE - 1, .npages = 1, .whole = 1 };
FIXTURE_VARIANT_ADD(part, across) { .first = 300, .npages = 400 };
FIXTURE_VARIANT_ADD(part, most) { .first = 1, .npages = NR_ALL - 2 };

FIXTURE_SETUP(part)
{
	setup(&self->large);
}

FIXTURE_TEARDOWN(part)
{
	large_teardown(&self->large);
}

/* While the process does not touch the rest, the folio stays what it is. */
TEST_F(part, untouched)
{
	const uint64_t first = variant->first, n = variant->npages;
	const uint64_t whole = variant->whole;
	struct large *l = &self->large;
	void *mem = l->env.mem;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	for (i = 0; i < 2; i++) {
		start_shared(l);
		hide(l, first, n);
		ASSERT_EQ(whole, mapped_by_pmd(mem));
		ASSERT_EQ(whole * LARGE_SIZE / 1024, smaps_kb(mem, "Rss:"));
		guest_checks(l, 0, NR_ALL, HOST_VALUE);
		expect_large(l, whole);
		guest_writes(l, 0, NR_ALL, GUEST_VALUE);
		expect_private(mem, first, n);

		share(l, first, n);
		guest_checks(l, 0, NR_ALL, GUEST_VALUE);
		expect_mapped(l, 2, 0);
		expect_shared(mem, 0, NR_ALL, GUEST_VALUE);
		expect_large(l, 2);
		ASSERT_EQ(0, nr_splits(l));
	}
}

/* What every mapping shows.  @rest is what the other pages have, as does all of it. */
static void expect_rest(void *mem, uint64_t first, uint64_t npages, uint64_t rest)
{
	expect_private(mem, first, npages);
	expect_shared(mem, 0, first, rest);
	expect_shared(mem, first + npages, NR_ALL - first - npages, rest);
	expect_private(mem, first, npages);
}

/* A process that has all of it mapped at each of the steps. */
struct sibling {
	pid_t pid;
	int go[2];
	int done[2];
};

static void step_done(struct sibling *s)
{
	char c = 0;

	TEST_ASSERT(write(s->done[1], &c, 1) == 1 && read(s->go[0], &c, 1) == 1,
		    "Pipe, errno %d", errno);
}

static void step(struct sibling *s)
{
	char c = 0;

	/* If it is dead nobody else has the pipe open, and there is an end of it. */
	TEST_ASSERT(write(s->go[1], &c, 1) == 1 && read(s->done[0], &c, 1) == 1,
		    "The other process is gone");
}

static void start_sibling(struct sibling *s, struct large *l, void *other,
			  uint64_t first, uint64_t npages)
{
	void *mem = l->env.mem, *own;
	char c;

	TEST_ASSERT(!pipe(s->go) && !pipe(s->done), "pipe(), errno %d", errno);
	s->pid = fork();
	TEST_ASSERT(s->pid >= 0, "fork(), errno %d", errno);
	if (!s->pid) {
		close(s->go[1]);
		close(s->done[0]);
		own = gmem_map(l->env.fd, BYTES(NR_ALL), 0);
		expect_shared(mem, 0, NR_ALL, HOST_VALUE);
		expect_shared(other, 0, NR_ALL, HOST_VALUE);
		expect_shared(own, 0, NR_ALL, HOST_VALUE);
		step_done(s);
		expect_rest(own, first, npages, HOST_VALUE);
		expect_rest(other, first, npages, HOST_VALUE);
		expect_rest(mem, first, npages, HOST_VALUE);
		step_done(s);
		expect_rest(own, first, npages, GUEST_VALUE);
		expect_rest(other, first, npages, GUEST_VALUE);
		expect_rest(mem, first, npages, GUEST_VALUE);
		step_done(s);
		expect_shared(own, 0, NR_ALL, GUEST_VALUE);
		expect_shared(other, 0, NR_ALL, GUEST_VALUE);
		expect_shared(mem, 0, NR_ALL, GUEST_VALUE);
		c = 0;
		_exit(write(s->done[1], &c, 1) != 1);
	}
	close(s->go[0]);
	close(s->done[1]);
	TEST_ASSERT(read(s->done[0], &c, 1) == 1, "The other process is gone");
}

static void stop_sibling(struct sibling *s)
{
	close(s->go[1]);
	close(s->done[0]);
	wait_for_child(s->pid);
}

/* The process goes on using the rest, page by page. */
TEST_F(part, touched)
{
	const uint64_t first = variant->first, n = variant->npages;
	const uint64_t whole = variant->whole;
	struct large *l = &self->large;
	void *mem = l->env.mem, *other;
	struct sibling sibling;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	for (i = 1; i <= 2; i++) {
		start_shared(l);
		other = gmem_map(l->env.fd, BYTES(NR_ALL), 0);
		expect_shared(other, 0, NR_ALL, HOST_VALUE);
		ASSERT_EQ(2, mapped_by_pmd(other));
		start_sibling(&sibling, l, other, first, n);

		hide(l, first, n);
		/* The second time the other process is the first one. */
		if (i == 2)
			step(&sibling);
		expect_rest(mem, first, n, HOST_VALUE);
		ASSERT_EQ(i * (2 - whole), nr_splits(l));
		expect_rest(other, first, n, HOST_VALUE);
		if (i != 2)
			step(&sibling);
		guest_checks(l, 0, NR_ALL, HOST_VALUE);
		expect_large(l, whole);
		ASSERT_EQ(whole, mapped_by_pmd(other));

		guest_writes(l, 0, NR_ALL, GUEST_VALUE);
		expect_rest(mem, first, n, GUEST_VALUE);
		expect_rest(other, first, n, GUEST_VALUE);
		step(&sibling);

		share(l, first, n);
		expect_shared(mem, 0, NR_ALL, GUEST_VALUE);
		expect_shared(other, 0, NR_ALL, GUEST_VALUE);
		step(&sibling);
		guest_checks(l, 0, NR_ALL, GUEST_VALUE);
		expect_large(l, whole);
		stop_sibling(&sibling);

		ASSERT_EQ(i * (2 - whole), nr_splits(l));
		munmap(other, BYTES(NR_ALL));
	}
}

/* One page, none of whose neighbours may be seen. */

/* The errno of what it takes to read @len bytes at @addr by other means. */

static int errno_of_process_vm(void *addr, size_t len)
{
	static char buffer[4096];
	struct iovec remote = { addr, len }, local = { buffer, len };

	return errno_of(syscall(SYS_process_vm_readv, getpid(), &local, 1UL, &remote,
				1UL, 0UL));
}

static int errno_of_vmsplice(const int *pipes, void *addr)
{
	struct iovec iov = { addr, PAGE_SIZE };

	return errno_of(vmsplice(pipes[1], &iov, 1, 0));
}

enum {
	READ_BY_PIPE,
	HOLD_BY_PIPE,
	READ_BY_PROC,
	WRITE_BY_PROC,
	READ_BY_PROCESS_VM,
	READ_BY_DISK,
	POPULATE,
	NR_WAYS,
};

/* What a process has open for them. */
struct ways {
	int pipes[2];
	int proc;
	/* Those that not every kernel has. */
	int ram;
	bool process_vm;
};

static void expect_refused(struct ways *ways, int way, void *addr)
{
	uint64_t word = 0;

	switch (way) {
	case READ_BY_PIPE:
		TEST_ASSERT_EQ(errno_of(write(ways->pipes[1], addr, 8)), EFAULT);
		break;
	case HOLD_BY_PIPE:
		TEST_ASSERT_EQ(errno_of_vmsplice(ways->pipes, addr), EFAULT);
		break;
	case READ_BY_PROC:
		TEST_ASSERT_EQ(errno_of(pread(ways->proc, &word, 8, (off_t)addr)), EIO);
		break;
	case WRITE_BY_PROC:
		TEST_ASSERT_EQ(errno_of(pwrite(ways->proc, &word, 8, (off_t)addr)), EIO);
		break;
	case READ_BY_PROCESS_VM:
		if (ways->process_vm)
			TEST_ASSERT_EQ(errno_of_process_vm(addr, 8), EFAULT);
		break;
	case READ_BY_DISK:
		if (ways->ram >= 0)
			TEST_ASSERT_EQ(errno_of(pwrite(ways->ram, addr, PAGE_SIZE, 0)),
				       EFAULT);
		break;
	case POPULATE:
		TEST_ASSERT_EQ(errno_of(madvise(addr, PAGE_SIZE, MADV_POPULATE_READ)),
			       EFAULT);
	}
}

/* At the edges by all means, elsewhere by each of them in turn. */
static void expect_unreachable(void *mem, uint64_t first, uint64_t npages)
{
	struct ways ways = {
		.proc = open("/proc/self/mem", O_RDWR),
		.ram = open("/dev/ram0", O_RDWR | O_DIRECT),
		.process_vm = !errno_of_process_vm(NULL, 0),
	};
	static uint64_t turn;
	uint64_t i;
	int way;

	TEST_ASSERT(ways.proc >= 0 && !pipe(ways.pipes), "errno %d", errno);
	turn++;
	for (i = first; i < first + npages; i++) {
		for (way = 0; way < NR_WAYS; way++) {
			if (at_edge(i, first, npages) || (i + turn) % NR_WAYS == way)
				expect_refused(&ways, way, mem + BYTES(i));
		}
	}
	if (ways.ram >= 0)
		close(ways.ram);
	close(ways.pipes[0]);
	close(ways.pipes[1]);
	close(ways.proc);
}

static void expect_only(void *mem, uint64_t page)
{
	expect_private(mem, 0, page);
	expect_private(mem, page + 1, NR_ALL - page - 1);
	expect_unreachable(mem, 0, page);
	expect_unreachable(mem, page + 1, NR_ALL - page - 1);
	TEST_ASSERT(!touch(mem + BYTES(page), -1), "Page %lu", page);
	TEST_ASSERT_EQ(smaps_kb(mem, "Rss:"), PAGE_SIZE / 1024);
}

/* How the process gets at it, the first time. */

enum first_use {
	BY_TOUCH,
	BY_PIPE,
	BY_PROC,
	BY_POPULATE,
};

FIXTURE(one_page) {
	struct large large;
};

FIXTURE_VARIANT(one_page) {
	enum first_use use;
	uint64_t page;
};

FIXTURE_VARIANT_ADD(one_page, touch) { .use = BY_TOUCH, .page = 300 };
FIXTURE_VARIANT_ADD(one_page, pipe) { .use = BY_PIPE, .page = LARGE };
FIXTURE_VARIANT_ADD(one_page, proc) { .use = BY_PROC, .page = LARGE - 1 };
FIXTURE_VARIANT_ADD(one_page, populate) { .use = BY_POPULATE, .page = 0 };

FIXTURE_SETUP(one_page)
{
	setup(&self->large);
}

FIXTURE_TEARDOWN(one_page)
{
	large_teardown(&self->large);
}

static uint64_t use_page(enum first_use use, void *addr)
{
	struct iovec iov = { addr, PAGE_SIZE };
	uint64_t page[PAGE_SIZE / 8];
	int fds[2];

	page[0] = 0;
	switch (use) {
	case BY_TOUCH:
		page[0] = *(volatile uint64_t *)addr;
		break;
	case BY_PIPE:
		TEST_ASSERT(!pipe(fds), "pipe(), errno %d", errno);
		TEST_ASSERT_EQ(vmsplice(fds[1], &iov, 1, 0), (ssize_t)PAGE_SIZE);
		TEST_ASSERT_EQ(read(fds[0], page, PAGE_SIZE), (ssize_t)PAGE_SIZE);
		close(fds[0]);
		close(fds[1]);
		break;
	case BY_PROC:
		fds[0] = open("/proc/self/mem", O_RDWR);
		TEST_ASSERT_EQ(pread(fds[0], page, 8, (off_t)addr), 8L);
		close(fds[0]);
		break;
	case BY_POPULATE:
		TEST_ASSERT(!madvise(addr, PAGE_SIZE, MADV_POPULATE_WRITE), "errno %d",
			    errno);
		page[0] = *(volatile uint64_t *)addr;
		break;
	}
	return page[0];
}

TEST_F(one_page, neighbours)
{
	const uint64_t page = variant->page;
	struct large *l = &self->large;
	void *mem = l->env.mem, *other;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	start_private(l);
	other = gmem_map(l->env.fd, BYTES(NR_ALL), 0);
	expect_private(mem, 0, NR_ALL);

	share(l, page, 1);
	expect_private(mem, 0, page);
	expect_private(mem, page + 1, NR_ALL - page - 1);
	ASSERT_EQ(0, nr_splits(l));
	guest_checks(l, 0, NR_ALL, GUEST_VALUE);
	expect_mapped(l, 1, LARGE);

	ASSERT_EQ(WORD(GUEST_VALUE, page), use_page(variant->use, mem + BYTES(page)));
	ASSERT_EQ(1, nr_splits(l));
	expect_only(mem, page);
	expect_shared(other, page, 1, GUEST_VALUE);
	expect_only(other, page);
	ASSERT_EQ(1, nr_splits(l));
	/* A call that begins with it does not get further. */
	ASSERT_EQ(EFAULT, errno_of(madvise(mem, 2 * LARGE_SIZE, MADV_POPULATE_READ)));
	ASSERT_EQ(PAGE_SIZE / 1024, smaps_kb(mem, "Rss:"));

	host_write(mem, page, 1, OTHER_VALUE);
	guest_checks(l, page, 1, OTHER_VALUE);
	guest_checks(l, 0, page, GUEST_VALUE);
	guest_checks(l, page + 1, NR_ALL - page - 1, GUEST_VALUE);
	expect_mapped(l, 1, LARGE);
	ASSERT_EQ(NR_ALL, allocated(l));

	hide(l, page, 1);
	expect_private(mem, 0, NR_ALL);
	expect_private(other, 0, NR_ALL);
	guest_checks(l, page, 1, OTHER_VALUE);
	munmap(other, BYTES(NR_ALL));
}

/* Memory that is shared in part when it is allocated. */
TEST_F(one_page, absent)
{
	const uint64_t page = variant->page;
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	share(l, page, 1);
	ASSERT_EQ(0, use_page(variant->use, mem + BYTES(page)));
	expect_only(mem, page);
	host_write(mem, page, 1, HOST_VALUE);
	guest_checks(l, page, 1, HOST_VALUE);
	guest_checks(l, 0, page, 0);
	guest_checks(l, page + 1, NR_ALL - page - 1, 0);
	guest_writes(l, 0, NR_ALL, GUEST_VALUE);
	expect_shared(mem, page, 1, GUEST_VALUE);
	expect_only(mem, page);
	ASSERT_EQ(NR_ALL, allocated(l));
	share(l, 0, NR_ALL);
	expect_shared(mem, 0, NR_ALL, GUEST_VALUE);
}

/* Memory that fallocate() has put there is zero, in whichever way a folio is split. */
TEST_F(inplace, allocated_ahead)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	/* Leave something in the memory that is likely to come back. */
	share(l, 0, NR_ALL);
	fill_pages(mem, NR_ALL);
	start_anew(l);
	hide(l, 0, NR_ALL);
	gmem_allocate(l->env.fd, 0, BYTES(NR_ALL));
	ASSERT_EQ(NR_ALL, allocated(l));

	share(l, 5, 1);
	ASSERT_TRUE(pages_are_zero(mem + BYTES(5), 1));
	expect_only(mem, 5);
	punch_pages(l, LARGE + 10, 10);
	ASSERT_EQ(NR_ALL - 10, allocated(l));
	ASSERT_EQ(2, nr_splits(l));
	guest_checks(l, 0, LARGE, 0);
	share(l, 0, NR_ALL);
	ASSERT_TRUE(pages_are_zero(mem, NR_ALL));
	guest_checks(l, 0, NR_ALL, 0);
	ASSERT_EQ(NR_ALL, allocated(l));
}

/* A mapping in which no folio can be mapped as a whole. */
TEST_F(inplace, odd_mapping)
{
	struct large *l = &self->large;
	void *mem = l->env.mem, *room, *odd;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	start_shared(l);
	room = anonymous_pages(BYTES(NR_ALL + LARGE));
	odd = mmap(align_ptr_up(room, LARGE_SIZE) + PAGE_SIZE, LARGE_SIZE,
		   PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, l->env.fd, 0);
	ASSERT_NE(MAP_FAILED, odd);
	expect_shared(odd, 0, LARGE, HOST_VALUE);
	ASSERT_EQ(0, mapped_by_pmd(odd));
	expect_large(l, 2);

	/* The others of its pages are mapped one by one, and the folio is whole. */
	hide(l, 17, 3);
	expect_private(odd, 17, 3);
	ASSERT_EQ(0, nr_splits(l));
	expect_shared(odd, 0, 17, HOST_VALUE);
	ASSERT_EQ(1, nr_splits(l));
	expect_shared(odd, 20, LARGE - 20, HOST_VALUE);
	expect_private(odd, 17, 3);
	ASSERT_EQ((LARGE - 3) * PAGE_SIZE / 1024, smaps_kb(odd, "Rss:"));
	expect_rest(mem, 17, 3, HOST_VALUE);
	guest_checks(l, 0, NR_ALL, HOST_VALUE);
	expect_large(l, 1);

	share(l, 17, 3);
	expect_shared(odd, 0, LARGE, HOST_VALUE);
	munmap(room, BYTES(NR_ALL + LARGE));
}

/* Pages locked in memory wait in batches that hold references. */
TEST_F(inplace, locked)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	for (i = 1; i <= 2; i++) {
		start_shared(l);
		ASSERT_EQ(0, mlock(mem, 2 * LARGE_SIZE));
		ASSERT_EQ(0, errno_of(__hide(l, 100, 10)));
		expect_rest(mem, 100, 10, HOST_VALUE);
		ASSERT_EQ(2 * i - 1, nr_splits(l));
		ASSERT_EQ(0, errno_of(__hide(l, 200, LARGE)));
		guest_writes(l, 0, NR_ALL, GUEST_VALUE);
		share(l, 100, 10);
		expect_rest(mem, 200, LARGE, GUEST_VALUE);
		ASSERT_EQ(2 * i, nr_splits(l));
		ASSERT_EQ(0, munlock(mem, 2 * LARGE_SIZE));
	}
}

/* Who holds a page. */

struct pin {
	int pipe[2];
};

static void pin_page(struct pin *pin, void *addr)
{
	struct iovec iov = { addr, PAGE_SIZE };

	TEST_ASSERT(!pipe(pin->pipe), "pipe(), errno %d", errno);
	TEST_ASSERT_EQ(vmsplice(pin->pipe[1], &iov, 1, 0), (ssize_t)PAGE_SIZE);
}

/* What was taken has had @word in it all the time. */
static void unpin_page(struct pin *pin, uint64_t word)
{
	uint64_t page[PAGE_SIZE / 8];

	TEST_ASSERT_EQ(read(pin->pipe[0], page, PAGE_SIZE), (ssize_t)PAGE_SIZE);
	TEST_ASSERT_EQ(page[0], word);
	close(pin->pipe[0]);
	close(pin->pipe[1]);
}

#define PINNED		300UL

/* One page holds all of the folio, and what is to be converted along with it. */
TEST_F(inplace, held)
{
	static const struct {
		uint64_t first, npages;
	} parts[] = {
		{ PINNED, 1 }, { 0, 1 }, { LARGE - 1, 1 }, { PINNED + 1, 100 },
		{ 0, PINNED }, { 0, LARGE }, { 0, NR_ALL }, { LARGE - 12, 100 },
	};
	struct large *l = &self->large;
	void *mem = l->env.mem;
	struct pin pin;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		start_shared(l);
		pin_page(&pin, mem + BYTES(PINNED));
		ASSERT_EQ(EAGAIN, errno_of(__hide(l, parts[i].first, parts[i].npages)));
		guest_checks(l, 0, NR_ALL, HOST_VALUE);
		expect_shared(mem, 0, NR_ALL, HOST_VALUE);
		expect_large(l, 2);
		host_write(mem, 0, NR_ALL, OTHER_VALUE);
		ASSERT_EQ(0, guest_checks(l, 0, NR_ALL, OTHER_VALUE));
		/* The other folio is free to go. */
		ASSERT_EQ(0, errno_of(__hide(l, LARGE + 5, 200)));
		ASSERT_EQ(EAGAIN, errno_of(__hide(l, parts[i].first, parts[i].npages)));
		expect_private(mem, LARGE + 5, 200);
		expect_shared(mem, 0, LARGE, OTHER_VALUE);
		ASSERT_EQ(0, nr_splits(l));

		unpin_page(&pin, WORD(OTHER_VALUE, PINNED));
		ASSERT_EQ(0, errno_of(__hide(l, parts[i].first, parts[i].npages)));
		expect_private(mem, parts[i].first, parts[i].npages);
		guest_checks(l, 0, NR_ALL, OTHER_VALUE);
	}
	ASSERT_EQ(0, nr_splits(l));
}

/* Of a folio that has been split, it is that page. */
TEST_F(inplace, held_after_split)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;
	struct pin pin;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	start_shared(l);
	hide(l, 7, 1);
	pin_page(&pin, mem + BYTES(PINNED));
	ASSERT_EQ(1, nr_splits(l));
	ASSERT_EQ(EAGAIN, errno_of(__hide(l, 0, NR_ALL)));
	expect_rest(mem, 7, 1, HOST_VALUE);
	ASSERT_EQ(0, errno_of(__hide(l, 0, PINNED)));
	ASSERT_EQ(EAGAIN, errno_of(__hide(l, PINNED, 1)));
	ASSERT_EQ(0, errno_of(__hide(l, PINNED + 1, NR_ALL - PINNED - 1)));
	ASSERT_EQ(EAGAIN, errno_of(__hide(l, 0, NR_ALL)));
	expect_only(mem, PINNED);
	guest_checks(l, 0, NR_ALL, HOST_VALUE);
	guest_writes(l, 0, NR_ALL, GUEST_VALUE);
	unpin_page(&pin, WORD(GUEST_VALUE, PINNED));
	ASSERT_EQ(0, errno_of(__hide(l, 0, NR_ALL)));
	expect_private(mem, 0, NR_ALL);
	guest_checks(l, 0, NR_ALL, GUEST_VALUE);
}

/* Slots. */

/* Two of them, with the boundary inside of the second folio. */
#define BOUNDARY	(LARGE + 200)
#define NR_SECOND	(NR_ALL - BOUNDARY)
/* Where else the pages of the second one can be in the guest. */
#define ELSEWHERE	(NR_ALL + 200)

static void bind_second(struct large *l, uint64_t page)
{
	vm_set_user_memory_region2(l->env.vm, SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   PAGE_GPA(page), BYTES(NR_SECOND),
				   l->env.mem + BYTES(BOUNDARY), l->env.fd,
				   BYTES(BOUNDARY));
}

static void bind_two(struct large *l)
{
	bind_at(l, 0, BOUNDARY, 0);
	bind_second(l, BOUNDARY);
	share(l, 0, ALL);
	host_write(l->env.mem, 0, NR_ALL, HOST_VALUE);
	guest_checks(l, 0, NR_ALL, HOST_VALUE);
	/* The guest cannot have more of a folio than a slot has. */
	expect_mapped(l, 1, LARGE);
	TEST_ASSERT_EQ(mapped_by_pmd(l->env.mem), 2UL);
	TEST_ASSERT_EQ(nr_splits(l), 0UL);
}

/* The process can have what the guest shares, wherever that is bound. */
TEST_F(inplace, two_slots)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_two(l);

	/* A slot that comes back to shared gfns: all as before. */
	vm_delete_slot(l->env.vm, SLOT + 1);
	ASSERT_EQ(1, mapped_by_pmd(mem));
	expect_private(mem, BOUNDARY, NR_SECOND);
	bind_second(l, ELSEWHERE);
	expect_shared(mem, 0, NR_ALL, HOST_VALUE);
	ASSERT_EQ(2, mapped_by_pmd(mem));
	ASSERT_EQ(0, nr_splits(l));

	/* It is the attribute there that counts, not the one where they were. */
	hide(l, BOUNDARY, NR_SECOND);
	expect_shared(mem, 0, NR_ALL, HOST_VALUE);
	ASSERT_EQ(2, mapped_by_pmd(mem));
	ASSERT_EQ(0, nr_splits(l));
	share(l, BOUNDARY, NR_SECOND);
	hide(l, ELSEWHERE + 7, 1);
	ASSERT_EQ(1, mapped_by_pmd(mem));
	expect_rest(mem, BOUNDARY + 7, 1, HOST_VALUE);
	ASSERT_EQ(1, mapped_by_pmd(mem));
	ASSERT_EQ(1, nr_splits(l));
	guest_checks(l, 0, BOUNDARY, HOST_VALUE);
	ASSERT_EQ(NR_ALL, allocated(l));
}

/* The part that has no slot belongs to nobody. */
TEST_F(inplace, slot_deleted)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_two(l);
	vm_delete_slot(l->env.vm, SLOT + 1);
	expect_shared(mem, BOUNDARY - 1, 1, HOST_VALUE);
	ASSERT_EQ(1, nr_splits(l));
	expect_rest(mem, BOUNDARY, NR_SECOND, HOST_VALUE);
	expect_unreachable(mem, BOUNDARY, NR_SECOND);
	ASSERT_EQ(1, mapped_by_pmd(mem));
	guest_checks(l, 0, BOUNDARY, HOST_VALUE);

	/* To private gfns it comes back as private memory. */
	hide(l, ELSEWHERE, 100);
	bind_second(l, ELSEWHERE);
	expect_rest(mem, BOUNDARY, 100, HOST_VALUE);
	vm_delete_slot(l->env.vm, SLOT + 1);
	bind_second(l, BOUNDARY);
	expect_shared(mem, 0, NR_ALL, HOST_VALUE);
	guest_checks(l, 0, NR_ALL, HOST_VALUE);

	/* The slot with the start of it. */
	vm_delete_slot(l->env.vm, SLOT);
	expect_private(mem, 0, BOUNDARY);
	expect_shared(mem, BOUNDARY, NR_SECOND, HOST_VALUE);
	expect_private(mem, 0, BOUNDARY);
	guest_checks(l, BOUNDARY, NR_SECOND, HOST_VALUE);
}

/* The part that has no slot is the start of it. */
TEST_F(inplace, first_slot_deleted)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_two(l);
	vm_delete_slot(l->env.vm, SLOT);
	ASSERT_EQ(0, mapped_by_pmd(mem));
	expect_private(mem, 0, BOUNDARY);
	ASSERT_EQ(0, nr_splits(l));
	expect_shared(mem, BOUNDARY, NR_SECOND, HOST_VALUE);
	ASSERT_EQ(1, nr_splits(l));
	expect_private(mem, 0, BOUNDARY);
	guest_checks(l, BOUNDARY, NR_SECOND, HOST_VALUE);
	ASSERT_EQ(BYTES(NR_SECOND) / 1024, smaps_kb(mem, "Rss:"));
	ASSERT_EQ(NR_ALL, allocated(l));
}

/* The file begins with pages that no slot has. */
TEST_F(inplace, slot_inside)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 100, NR_ALL - 200, 100);
	guest_writes(l, 100, NR_ALL - 200, GUEST_VALUE);
	ASSERT_EQ(NR_ALL, allocated(l));
	share(l, 0, ALL);
	expect_private(mem, 0, 100);
	expect_private(mem, NR_ALL - 100, 100);
	expect_shared(mem, 100, NR_ALL - 200, GUEST_VALUE);
	ASSERT_EQ(0, mapped_by_pmd(mem));
	ASSERT_EQ(2, nr_splits(l));
	expect_private(mem, 0, 100);
	expect_private(mem, NR_ALL - 100, 100);
	expect_unreachable(mem, 0, 100);
	expect_unreachable(mem, NR_ALL - 100, 100);
}

/*
 * A slot can be deleted while somebody holds a page that it has.  Then the folio cannot
 * be split, and a page of the other slot is mapped without that.
 */
TEST_F(inplace, held_by_deleted_slot)
{
	struct large *l = &self->large;
	void *mem = l->env.mem, *other;
	uint64_t word = 1;
	struct pin pin;
	int pipes[2];

	REQUIRE_LARGE_PAGES();
	bind_two(l);
	other = gmem_map(l->env.fd, BYTES(NR_ALL), 0);
	ASSERT_EQ(0, pipe(pipes));
	pin_page(&pin, mem + BYTES(NR_ALL - 1));
	vm_delete_slot(l->env.vm, SLOT + 1);
	ASSERT_EQ(1, mapped_by_pmd(mem));

	/* From here, where there is no page table, and by the kernel. */
	expect_shared(mem, BOUNDARY - 1, 1, HOST_VALUE);
	ASSERT_EQ(8, write(pipes[1], other + BYTES(BOUNDARY - 2), 8));
	ASSERT_EQ(8, read(pipes[0], &word, 8));
	ASSERT_EQ(WORD(HOST_VALUE, BOUNDARY - 2), word);
	ASSERT_EQ(0, nr_splits(l));
	ASSERT_LT(0, gmem_counter(l->env.vm, "gmem_split_fail"));
	ASSERT_EQ(1, mapped_by_pmd(mem));
	ASSERT_EQ((LARGE + 1) * PAGE_SIZE / 1024, smaps_kb(mem, "Rss:"));
	ASSERT_EQ(PAGE_SIZE / 1024, smaps_kb(other, "Rss:"));
	expect_private(mem, BOUNDARY, NR_SECOND);
	expect_unreachable(mem, BOUNDARY, NR_SECOND);
	expect_rest(other, BOUNDARY, NR_SECOND, HOST_VALUE);
	expect_rest(mem, BOUNDARY, NR_SECOND, HOST_VALUE);
	guest_checks(l, 0, BOUNDARY, HOST_VALUE);
	ASSERT_EQ(0, nr_splits(l));
	/* Who holds a page of it holds it all. */
	ASSERT_EQ(EAGAIN, errno_of(__hide(l, BOUNDARY - 1, 1)));
	expect_rest(mem, BOUNDARY, NR_SECOND, HOST_VALUE);

	bind_second(l, BOUNDARY);
	expect_shared(mem, 0, NR_ALL, HOST_VALUE);
	vm_delete_slot(l->env.vm, SLOT + 1);
	expect_rest(mem, BOUNDARY, NR_SECOND, HOST_VALUE);

	unpin_page(&pin, WORD(HOST_VALUE, NR_ALL - 1));
	ASSERT_EQ(0, errno_of(__hide(l, BOUNDARY - 1, 1)));
	expect_rest(mem, BOUNDARY - 1, NR_SECOND + 1, HOST_VALUE);
	ASSERT_EQ(1, nr_splits(l));
	guest_checks(l, 0, BOUNDARY, HOST_VALUE);
	munmap(other, BYTES(NR_ALL));
	close(pipes[0]);
	close(pipes[1]);
}

/* Holes. */

TEST_F(inplace, hole)
{
	struct large *l = &self->large;
	void *mem = l->env.mem;
	int i;

	REQUIRE_LARGE_PAGES();
	bind_at(l, 0, NR_ALL, 0);
	for (i = 0; i < 2; i++) {
		/* Half of it in private pages, and of the others some are used. */
		start_shared(l);
		hide(l, 100, 100);
		if (i == 1)
			expect_shared(mem, 0, 1, HOST_VALUE);
		punch_pages(l, 150, 100);
		ASSERT_EQ(NR_ALL - 100, allocated(l));
		expect_private(mem, 100, 100);
		expect_shared(mem, 0, 100, HOST_VALUE);
		expect_shared(mem, 250, NR_ALL - 250, HOST_VALUE);
		ASSERT_EQ(NR_ALL - 100, allocated(l));
		expect_shared(mem, 200, 50, 0);
		guest_checks(l, 0, 150, HOST_VALUE);
		guest_checks(l, 150, 100, 0);
		guest_checks(l, 250, NR_ALL - 250, HOST_VALUE);
		expect_large(l, 1);
		guest_writes(l, 150, 100, GUEST_VALUE);
		expect_shared(mem, 200, 50, GUEST_VALUE);
		share(l, 100, 100);
		expect_shared(mem, 100, 50, HOST_VALUE);
		expect_shared(mem, 150, 100, GUEST_VALUE);

		/* All private, and the hole is what is shared next. */
		start_private(l);
		punch_pages(l, LARGE + 40, 10);
		expect_mapped(l, 1, 0);
		ASSERT_EQ(NR_ALL - 10, allocated(l));
		share(l, LARGE + 35, 20);
		expect_shared(mem, LARGE + 35, 5, GUEST_VALUE);
		expect_shared(mem, LARGE + 40, 10, 0);
		expect_shared(mem, LARGE + 50, 5, GUEST_VALUE);
		expect_private(mem, 0, LARGE + 35);
		expect_private(mem, LARGE + 55, LARGE - 55);
		guest_checks(l, 0, LARGE + 40, GUEST_VALUE);
		guest_checks(l, LARGE + 40, 10, 0);
		guest_checks(l, LARGE + 50, LARGE - 50, GUEST_VALUE);
	}
}

/*
 * All at once: the guest writes to all pages all the time, a thread uses its mapping,
 * and ranges of pages are converted to and fro.  Guest and thread have a word each in
 * every page, of which no write may be lost.  In the third one the guest has its secret
 * while the page is private; it takes that away before the page is shared.
 */

#define ROUNDS		24
#define CONVERSIONS	8
#define MAX_RETRIES	100

enum {
	WORD_GUEST,
	WORD_USER,
	WORD_SECRET,
};

enum {
	IS_OPEN,
	IS_SECRET,
	/* To be open as soon as the guest has seen this. */
	IS_TO_OPEN,
};

#define SECRET		0x5ec7e7ULL

static volatile uint64_t guest_state[NR_ALL];

static void guest_pass(uint64_t count)
{
	volatile uint64_t *page;
	uint64_t i;

	for (i = 0; i < NR_ALL; i++) {
		page = (uint64_t *)PAGE_GPA(i);
		GUEST_ASSERT_3(page[WORD_GUEST] == count, i, page[WORD_GUEST], count);
		page[WORD_GUEST] = count + 1;
		switch (guest_state[i]) {
		case IS_SECRET:
			page[WORD_SECRET] = SECRET << 32 | i;
			break;
		case IS_TO_OPEN:
			GUEST_ASSERT_3(page[WORD_SECRET] == (SECRET << 32 | i), i,
				       page[WORD_SECRET], SECRET << 32 | i);
			page[WORD_SECRET] = 0;
			guest_state[i] = IS_OPEN;
		}
	}
}

static void race_guest(void)
{
	uint64_t count;

	for (;;) {
		for (count = 0; !guest_cmd.stop; guest_cmd.done = ++count)
			guest_pass(count);
		GUEST_SYNC(0);
	}
}

struct race {
	struct large *l;
	volatile uint64_t *state;
	volatile bool stop;
	unsigned int seed;
	/* What the thread has written last. */
	uint64_t written[NR_ALL];
	unsigned long used, refused;
};

/* By a system call that holds the page meanwhile. */
static bool try_pipe(const int *pipes, volatile uint64_t *word, uint64_t *value)
{
	struct iovec iov = { (void *)word, sizeof(*word) };

	if (vmsplice(pipes[1], &iov, 1, 0) != sizeof(*word))
		return false;
	TEST_ASSERT_EQ(read(pipes[0], value, sizeof(*value)), (ssize_t)sizeof(*value));
	return true;
}

static void *race_user(void *arg)
{
	struct race *race = arg;
	unsigned int seed = race->seed;
	uint64_t value, i, n;
	int pipes[2];

	TEST_ASSERT(!pipe(pipes), "pipe(), errno %d", errno);
	for (n = 1; !race->stop; n++) {
		volatile uint64_t *page;
		bool ok;

		i = rand_r(&seed) % NR_ALL;
		page = word_of(race->l->env.mem, i);
		if (n % 4)
			ok = try_word(&page[WORD_SECRET], &value, false);
		else
			ok = try_pipe(pipes, &page[WORD_SECRET], &value);
		TEST_ASSERT(!ok || !value, "Page %lu shows %#lx", i, value);
		if (ok)
			race->used++;
		else
			race->refused++;

		if (try_word(&page[WORD_USER], &value, false))
			TEST_ASSERT(value == race->written[i],
				    "Page %lu has lost %#lx, has %#lx", i,
				    race->written[i], value);
		value = n;
		if (try_word(&page[WORD_USER], &value, true))
			race->written[i] = n;
	}
	close(pipes[0]);
	close(pipes[1]);
	return NULL;
}

static void wait_for_guest(struct large *l)
{
	const uint64_t done = l->env.cmd->done;

	/* A whole pass, after the one that has begun.  It wants the processor for that. */
	while (l->env.cmd->done < done + 2)
		usleep(500);
}

/* To private.  Returns how often somebody had a page. */
static int race_hide(struct race *race, uint64_t first, uint64_t n)
{
	uint64_t i;
	int tries;

	for (tries = 0; __hide(race->l, first, n); tries++)
		TEST_ASSERT(errno == EAGAIN && tries < MAX_RETRIES, "errno %d, try %d",
			    errno, tries);
	for (i = first; i < first + n; i++)
		race->state[i] = IS_SECRET;
	return tries;
}

static void race_share(struct race *race, uint64_t first, uint64_t n)
{
	uint64_t i;

	/* It must have had the secret, and to take it away again. */
	wait_for_guest(race->l);
	for (i = first; i < first + n; i++) {
		if (race->state[i] == IS_SECRET)
			race->state[i] = IS_TO_OPEN;
	}
	wait_for_guest(race->l);
	share(race->l, first, n);
}

static void expect_readable(void *mem, uint64_t first, uint64_t npages)
{
	struct sigaction old;
	uint64_t i;

	catch_sigbus(&old);
	for (i = first; i < first + npages; i++) {
		if (sigsetjmp(touch_env, 0))
			TEST_FAIL("Page %lu: SIGBUS", i);
		(void)*word_of(mem, i);
	}
	sigaction(SIGBUS, &old, NULL);
}

/* Nobody is running any more. */
static void race_check(struct race *race)
{
	struct large *l = race->l;
	uint64_t i, n, secret;

	for (i = 0; i < NR_ALL; i += n) {
		TEST_ASSERT(race->state[i] != IS_TO_OPEN, "Page %lu", i);
		for (n = 1; i + n < NR_ALL && race->state[i + n] == race->state[i]; n++)
			;
		if (race->state[i] == IS_SECRET)
			expect_private(l->env.mem, i, n);
		else
			expect_readable(l->env.mem, i, n);
	}
	TEST_ASSERT_EQ(allocated(l), NR_ALL);

	share(l, 0, NR_ALL);
	for (i = 0; i < NR_ALL; i++) {
		volatile uint64_t *page = word_of(l->env.mem, i);

		secret = race->state[i] == IS_SECRET ? SECRET << 32 | i : 0;
		TEST_ASSERT(page[WORD_GUEST] == l->env.cmd->done &&
			    page[WORD_USER] == race->written[i] &&
			    page[WORD_SECRET] == secret,
			    "Page %lu has %#lx, %#lx, %#lx, not %#lx, %#lx, %#lx", i,
			    page[WORD_GUEST], page[WORD_USER], page[WORD_SECRET],
			    l->env.cmd->done, race->written[i], secret);
	}
}

/* New folios each time, as none is made large again. */
static int race_round(struct race *race, bool private)
{
	pthread_t guest, user;
	struct large *l = race->l;
	uint64_t i, first, n;
	int retries = 0;

	start_anew(l);
	memset(race->written, 0, sizeof(race->written));
	for (i = 0; i < NR_ALL; i++)
		race->state[i] = private ? IS_SECRET : IS_OPEN;
	vm_set_memory_attributes(l->env.vm, GPA, BYTES(NR_ALL),
				 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	l->env.cmd->done = 0;
	l->env.cmd->stop = 0;
	race->stop = false;
	race->seed = rand_r(&race->seed);
	pthread_create(&guest, NULL, count_on, &l->env);
	pthread_create(&user, NULL, race_user, race);
	wait_for_guest(l);

	for (i = 0; i < CONVERSIONS; i++) {
		first = rand_r(&race->seed) % NR_ALL;
		n = 1 + rand_r(&race->seed) % (i % 2 ? 20 : NR_ALL);
		if (n > NR_ALL - first)
			n = NR_ALL - first;
		if ((i / 2 + private) % 2)
			race_share(race, first, n);
		else
			retries += race_hide(race, first, n);
	}

	wait_for_guest(l);
	race->stop = true;
	pthread_join(user, NULL);
	l->env.cmd->stop = 1;
	pthread_join(guest, NULL);
	race_check(race);
	return retries;
}

TEST_F(inplace, race)
{
	struct race race = { .l = &self->large, .seed = 1 };
	struct large *l = &self->large;
	struct sigaction old;
	struct kvm_regs regs;
	int i, retries = 0;

	REQUIRE_LARGE_PAGES();
	vcpu_regs_get(l->env.vcpu, &regs);
	regs.rip = (uint64_t)race_guest;
	vcpu_regs_set(l->env.vcpu, &regs);
	race.state = addr_gva2hva(l->env.vm, (uint64_t)&guest_state);
	catch_sigbus(&old);
	bind_at(l, 0, NR_ALL, 0);

	for (i = 0; i < ROUNDS; i++)
		retries += race_round(&race, i % 2);
	sigaction(SIGBUS, &old, NULL);

	TH_LOG("%lu used, %lu refused, %d retries, %lu splits", race.used, race.refused,
	       retries, nr_splits(l));
	ASSERT_LE(ROUNDS, nr_splits(l));
	ASSERT_LT(0, race.used);
	ASSERT_LT(0, race.refused);
}

int main(int argc, char *argv[])
{
	return large_main(argc, argv);
}
