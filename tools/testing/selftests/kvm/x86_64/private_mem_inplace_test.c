// SPDX-License-Identifier: GPL-2.0
/*
 * Conversion in place: the guest's memory is one mapped file, and a page of it
 * changes between shared and private with what it holds.
 *
 * Proves that the contents are kept and exist once, whichever way and however often
 * memory is converted; that every mapping follows, and so do slots that come and go;
 * and that it stays so while the guest and the host use the memory all the time.
 *
 * A bug that others had and that shows here: a hole or a conversion that unmaps one
 * kind of mapping only.
 *
 * Who may hold pages: private_mem_pinned_test.  What processes cannot do to private
 * ones: private_mem_unreachable_test.
 */
#include "gmem_inplace.h"

#include <stdio.h>

/* There and back, each side seeing what the other one left. */
TEST_F(inplace, contents_stay)
{
	struct env *env = &self->env;
	unsigned long i, round;

	for (round = 0; round < 3; round++) {
		make_vals(self->vals, 2 * round + 1);
		host_fill(env, self->vals);
		ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));

		set_private(env, 0, NR_PAGES);
		guest_check(env, 0, NR_PAGES, self->vals);
		all_sigbus(env->mem);

		make_vals(self->vals, 2 * round + 2);
		guest_write(env, 0, NR_PAGES, self->vals);
		all_sigbus(env->mem);
		guest_check(env, 0, NR_PAGES, self->vals);

		set_shared(env, 0, NR_PAGES);
		for (i = 0; i < NR_PAGES; i++)
			host_check(env, i, self->vals[i]);
		guest_check(env, 0, NR_PAGES, self->vals);
		ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	}
}

/* Pages that nobody has touched are zero, also for whoever comes second. */
TEST_F(inplace, untouched_pages)
{
	struct env *env = &self->env;
	uint64_t zeroes[NR_PAGES] = {};
	unsigned long i;

	set_private(env, 0, NR_PAGES / 2);
	ASSERT_EQ(0, gmem_allocated_pages(env->fd));
	guest_check(env, 0, NR_PAGES, zeroes);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	set_shared(env, 0, NR_PAGES / 2);
	for (i = 0; i < NR_PAGES; i++)
		host_check(env, i, 0);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
}

/* A hole frees private memory; the guest gets a fresh page in its place. */
TEST_F(inplace, punch_private)
{
	struct env *env = &self->env;
	unsigned long i;

	host_fill(env, self->vals);
	set_private(env, 0, NR_PAGES);
	for (i = 4; i < 8; i++) {
		gmem_punch_hole(env->fd, file_index(i) * PAGE_SIZE, PAGE_SIZE);
		self->vals[i] = 0;
	}
	ASSERT_EQ(NR_PAGES - 4, gmem_allocated_pages(env->fd));
	guest_check(env, 0, NR_PAGES, self->vals);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
	all_sigbus(env->mem);
}

/* What the guest puts out, or takes in, of all its pages. */
static void string_io(struct env *env, int op, const uint64_t *vals)
{
	struct guest_cmd *cmd = guest_cmd_of(env);
	struct kvm_run *run = env->vcpus[0]->run;
	unsigned long i;
	uint8_t *data;

	cmd->op = op;
	cmd->page = 0;
	cmd->npages = NR_PAGES;
	for (i = 0; i < NR_PAGES; i++) {
		vcpu_run(env->vcpus[0]);
		TEST_ASSERT_EQ(run->exit_reason, (uint32_t)KVM_EXIT_IO);
		TEST_ASSERT_EQ(run->io.port, PORT);
		data = (uint8_t *)run + run->io.data_offset;
		if (op == OP_OUTS)
			TEST_ASSERT_EQ(*data, (uint8_t)vals[i]);
		else
			*data = vals[i];
	}
	vcpu_run_to_sync(env->vcpus[0]);
}

/* KVM reaches a shared page through the mapping, a private one in the file. */
TEST_F(inplace, accesses_of_kvm)
{
	struct env *env = &self->env;
	unsigned long i, n;

	for (i = 0; i < NR_PAGES; i++)
		self->vals[i] |= i + 1;
	host_fill(env, self->vals);

	for (n = 0; n < 3; n++) {
		set_private(env, n * 10, NR_PAGES / 2);
		string_io(env, OP_OUTS, self->vals);
		for (i = 0; i < NR_PAGES; i++)
			self->vals[i] += 16;
		string_io(env, OP_INS, self->vals);
		__guest_check(env, OP_PEEK, 0, NR_PAGES, self->vals);

		for (i = n * 10; i < n * 10 + NR_PAGES / 2; i++)
			expect_sigbus(host_page(env, i));
		set_shared(env, 0, NR_PAGES);
		for (i = 0; i < NR_PAGES; i++)
			ASSERT_EQ(self->vals[i], *host_page(env, i));
	}
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
}

/* Every mapping of every process. */
TEST_F(inplace, all_mappings)
{
	struct env *env = &self->env;
	int go[2], ready[2];
	void *before, *after;
	pid_t pid, late;
	char c;

	before = gmem_map(env->fd, FILE_SIZE, 0);
	host_fill(env, self->vals);
	ASSERT_EQ(self->vals[7], *page_in(before, 7));

	/* A process that has the pages mapped when they become private. */
	ASSERT_EQ(0, pipe(go));
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	if (!pid) {
		void *own = gmem_map(env->fd, FILE_SIZE, 0);
		unsigned long i;

		for (i = 0; i < NR_PAGES; i++) {
			if (*host_page(env, i) != self->vals[i] ||
			    *page_in(own, i) != self->vals[i])
				_exit(1);
		}
		if (write(ready[1], "r", 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(2);
		all_sigbus(env->mem);
		all_sigbus(before);
		all_sigbus(own);
		if (write(ready[1], "r", 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(3);
		for (i = 0; i < NR_PAGES; i++) {
			if (*host_page(env, i) != VAL(2, i) ||
			    *page_in(own, i) != VAL(2, i))
				_exit(4);
		}
		_exit(0);
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));

	set_private(env, 0, NR_PAGES);
	ASSERT_EQ(1, write(go[1], "g", 1));
	all_sigbus(env->mem);
	all_sigbus(before);
	after = gmem_map(env->fd, FILE_SIZE, 0);
	all_sigbus(after);
	ASSERT_EQ(1, read(ready[0], &c, 1));

	late = fork();
	if (!late) {
		all_sigbus(env->mem);
		all_sigbus(after);
		_exit(0);
	}
	wait_for_child(late);

	make_vals(self->vals, 2);
	guest_write(env, 0, NR_PAGES, self->vals);
	set_shared(env, 0, NR_PAGES);
	ASSERT_EQ(1, write(go[1], "g", 1));
	wait_for_child(pid);
	ASSERT_EQ(self->vals[5], *page_in(before, 5));
	ASSERT_EQ(self->vals[6], *page_in(after, 6));
	munmap(before, FILE_SIZE);
	munmap(after, FILE_SIZE);
}

/* Pages that no slot has belong to nobody. */
TEST_F(inplace, unbound_pages)
{
	struct env *env = &self->env;
	unsigned long i;

	for (i = 0; i < UNBOUND_PAGES; i++)
		expect_sigbus(env->mem + i * PAGE_SIZE);
	ASSERT_EQ(0, gmem_allocated_pages(env->fd));
	/* Not even if their gfn would have them shared. */
	gmem_allocate(env->fd, 0, FILE_SIZE);
	for (i = 0; i < UNBOUND_PAGES; i++)
		expect_sigbus(env->mem + i * PAGE_SIZE);
	host_check(env, 0, 0);
}

static long system_pages(const char *item)
{
	return vmstat_value("/proc/vmstat", item);
}

/* What a mapping has of a kind, in pages. */
static long mapping_pages(void *mem, const char *field)
{
	return smaps_kb(mem, field) * 1024 / PAGE_SIZE;
}

#define MANY_PAGES	1024L

/* The guest uses all of a larger file, which is the only memory it costs. */
static void guest_many(uint64_t gpa, uint64_t npages)
{
	uint64_t i;

	for (;;) {
		GUEST_SYNC(0);
		for (i = 0; i < npages; i++)
			++*(volatile uint64_t *)(gpa + i * PAGE_SIZE);
	}
}

TEST(one_copy)
{
	const size_t size = MANY_PAGES * PAGE_SIZE;
	long file, anon, mapped, i, round;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint64_t *mem;
	int fd;

	vm = vm_create_type_with_one_vcpu(KVM_X86_SW_PROTECTED_VM, &vcpu, MANY_PAGES,
					  guest_many);
	vcpu_args_set(vcpu, 2, GPA, (uint64_t)MANY_PAGES);
	virt_map(vm, GPA, GPA, MANY_PAGES);
	vcpu_run_to_sync(vcpu);
	fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP);
	mem = gmem_map(fd, size, 0);
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, size, mem, fd, 0);

	file = system_pages("nr_file_pages");
	anon = system_pages("nr_anon_pages");
	mapped = system_pages("nr_mapped");

	for (i = 0; i < MANY_PAGES; i++)
		mem[i * PAGE_WORDS] = 100;
	ASSERT_NEAR(file + MANY_PAGES, system_pages("nr_file_pages"));
	ASSERT_NEAR(mapped + MANY_PAGES, system_pages("nr_mapped"));
	ASSERT_EQ(MANY_PAGES, mapping_pages(mem, "Rss:"));
	ASSERT_EQ(MANY_PAGES, mapping_pages(mem, "Pss:"));

	for (round = 1; round <= 3; round++) {
		/* The last time, one half only. */
		long private = round == 3 ? MANY_PAGES / 2 : MANY_PAGES;

		vm_mem_set_private(vm, GPA, private * PAGE_SIZE);
		ASSERT_EQ(MANY_PAGES - private, mapping_pages(mem, "Rss:"));
		vcpu_run_to_sync(vcpu);

		ASSERT_EQ(MANY_PAGES, gmem_allocated_pages(fd));
		ASSERT_NEAR(file + MANY_PAGES, system_pages("nr_file_pages"));
		ASSERT_NEAR(anon, system_pages("nr_anon_pages"));
		ASSERT_NEAR(mapped + MANY_PAGES - private, system_pages("nr_mapped"));
		ASSERT_EQ(MANY_PAGES - private, mapping_pages(mem, "Rss:"));
		ASSERT_EQ(0, mapping_pages(mem, "Anonymous:"));

		vm_mem_set_shared(vm, GPA, size);
		for (i = 0; i < MANY_PAGES; i++)
			ASSERT_EQ(100 + round, mem[i * PAGE_WORDS]);
		ASSERT_EQ(MANY_PAGES, gmem_allocated_pages(fd));
		ASSERT_NEAR(file + MANY_PAGES, system_pages("nr_file_pages"));
		ASSERT_NEAR(anon, system_pages("nr_anon_pages"));
		ASSERT_EQ(MANY_PAGES, mapping_pages(mem, "Rss:"));
		ASSERT_EQ(0, mapping_pages(mem, "Anonymous:"));
	}

	munmap(mem, size);
	close(fd);
	kvm_vm_free(vm);
}

/* Random conversions and accesses against a model. */
FIXTURE(random) {
	struct env env;
	uint64_t vals[NR_PAGES];
	bool private[NR_PAGES];
};

FIXTURE_VARIANT(random) {
	unsigned int seed;
};

FIXTURE_VARIANT_ADD(random, seed1) { .seed = 1 };
FIXTURE_VARIANT_ADD(random, seed2) { .seed = 20261121 };

FIXTURE_SETUP(random)
{
	env_setup(&self->env);
}

FIXTURE_TEARDOWN(random)
{
	env_teardown(&self->env);
}

/* One way each time: a refusal takes a debug kernel a millisecond. */
static void expect_refused(void *addr, bool write)
{
	TEST_ASSERT(touch(addr, write ? 0 : -1) == SIGBUS &&
		    touch_info.si_code == BUS_ADRERR && touch_info.si_addr == addr,
		    "%s %p: signal %d, code %d at %p", write ? "Write to" : "Read of", addr,
		    touch_info.si_signo, touch_info.si_code, touch_info.si_addr);
}

static unsigned int random_below(unsigned int *seed, unsigned int n)
{
	*seed = *seed * 1103515245 + 12345;
	return (*seed >> 16) % n;
}

TEST_F(random, model)
{
	struct env *env = &self->env;
	unsigned int seed = variant->seed, op, step;
	unsigned long page, npages, i;

	for (step = 0; step < 500; step++) {
		page = random_below(&seed, NR_PAGES);
		npages = 1 + random_below(&seed, NR_PAGES - page);
		op = random_below(&seed, 5);

		switch (op) {
		case 0:
		case 1:
			/* Some are so already. */
			if (op)
				set_private(env, page, npages);
			else
				set_shared(env, page, npages);
			for (i = page; i < page + npages; i++)
				self->private[i] = op;
			break;
		case 2:
			for (i = page; i < page + npages; i++)
				self->vals[i] = VAL(step + 1, i);
			guest_write(env, page, npages, self->vals + page);
			break;
		case 3:
			for (i = page; i < page + npages; i++) {
				if (self->private[i])
					continue;
				self->vals[i] = VAL(step + 1, i);
				fill_page(host_page(env, i), self->vals[i]);
			}
			break;
		case 4:
			gmem_punch_hole(env->fd, file_index(page) * PAGE_SIZE, PAGE_SIZE);
			self->vals[page] = 0;
			break;
		}

		if (step % 2)
			guest_check(env, page, npages, self->vals + page);
		for (i = page; i < page + npages; i++) {
			if (self->private[i])
				expect_refused(host_page(env, i), (step + i) % 2);
			else
				host_check(env, i, self->vals[i]);
		}
	}

	guest_check(env, 0, NR_PAGES, self->vals);
	for (i = 0; i < NR_PAGES; i++) {
		if (self->private[i])
			expect_sigbus(host_page(env, i));
		else
			host_check(env, i, self->vals[i]);
	}
}

/* Slots. */

/* Without its slot a page is private; the slot brings it back as it was. */
TEST_F(inplace, delete_and_rebind)
{
	struct env *env = &self->env;
	unsigned long i;

	host_fill(env, self->vals);
	guest_check(env, 0, NR_PAGES, self->vals);

	vm_delete_slot(env->vm, SLOT + 1);
	for (i = 0; i < NR_PAGES; i++) {
		if (i < FIRST_PAGES)
			host_check(env, i, self->vals[i]);
		else
			expect_sigbus(host_page(env, i));
	}
	vm_delete_slot(env->vm, SLOT);
	all_sigbus(env->mem);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));

	env_bind(env);
	for (i = 0; i < NR_PAGES; i++)
		host_check(env, i, self->vals[i]);
	guest_check(env, 0, NR_PAGES, self->vals);

	/* Attributes belong to gfns, and stay without a slot. */
	set_private(env, 10, 20);
	env_unbind(env);
	set_private(env, 5, 5);
	env_bind(env);
	for (i = 0; i < NR_PAGES; i++) {
		if (i >= 5 && i < 30)
			expect_sigbus(host_page(env, i));
		else
			host_check(env, i, self->vals[i]);
	}
	guest_check(env, 0, NR_PAGES, self->vals);

	/* The same page at another gfn: what counts is where it is bound now. */
	vm_delete_slot(env->vm, SLOT);
	vm_set_user_memory_region2(env->vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA + 4 * SIZE,
				   FIRST_PAGES * PAGE_SIZE, host_page(env, 0), env->fd,
				   file_index(0) * PAGE_SIZE);
	for (i = 0; i < FIRST_PAGES; i++)
		host_check(env, i, self->vals[i]);
	vm_mem_set_private(env->vm, GPA + 4 * SIZE, PAGE_SIZE);
	expect_sigbus(host_page(env, 0));
	host_check(env, 1, self->vals[1]);
}

/* The mapping keeps the memory, the VM's view of it included. */
TEST_F(inplace, close_file)
{
	struct env *env = &self->env;
	unsigned long i;

	host_fill(env, self->vals);
	set_private(env, 0, NR_PAGES / 2);
	close(env->fd);
	env->fd = -1;

	guest_check(env, 0, NR_PAGES, self->vals);
	make_vals(self->vals, 2);
	guest_write(env, 0, NR_PAGES, self->vals);
	set_shared(env, 0, NR_PAGES / 2);
	set_private(env, NR_PAGES / 2, NR_PAGES / 2);
	for (i = 0; i < NR_PAGES; i++) {
		if (i < NR_PAGES / 2)
			host_check(env, i, self->vals[i]);
		else
			expect_sigbus(host_page(env, i));
	}

	/* The last user is gone, and the guest's memory with it. */
	munmap(env->mem, FILE_SIZE);
	guest_fails(env, 1, 0);
	guest_fails(env, 1, 0);
	set_private(env, 0, 2);
	guest_fails(env, 1, PRIVATE);
	env->mem = NULL;
}

/* The VM goes first; what is mapped then stays as it is until the end. */
TEST_F(inplace, vm_goes_first)
{
	struct env *env = &self->env;
	unsigned long i;

	host_fill(env, self->vals);
	set_private(env, 0, NR_PAGES / 2);
	kvm_vm_free(env->vm);
	env->vm = NULL;

	for (i = 0; i < NR_PAGES; i++) {
		if (i < NR_PAGES / 2)
			expect_sigbus(host_page(env, i));
		else
			host_check(env, i, self->vals[i]);
	}
}

/*
 * Torture.  A thread reads and writes the mapping by all means, another vCPU
 * counts in the pages, and all the time they are converted.  While they are
 * private the guest has a stamp in them.
 */

#define TORTURE_PAGE	(FIRST_PAGES - 4)
#define TORTURE_PAGES	8UL
#define TORTURE_ROUNDS	150

/* Values by who wrote them: no thread but the guest writes a stamp. */
#define STAMP		0x57a3ULL
#define HOST_VALUE	0x4057ULL

struct torture {
	struct env *env;
	volatile bool stop;
	unsigned long touches, refused, stamps;
};

static void *torture_thread(void *arg)
{
	struct torture *t = arg;
	struct iovec remote = { .iov_len = 8 }, local = { .iov_len = 8 };
	uint64_t i, val;
	int mem_fd;
	bool ok;

	mem_fd = open("/proc/self/mem", O_RDWR);
	TEST_ASSERT(mem_fd >= 0, "/proc/self/mem, errno: %d", errno);

	for (i = 0; !t->stop; i++) {
		uint64_t *page = host_page(t->env, TORTURE_PAGE +
					   i / 6 % TORTURE_PAGES);
		bool write = i & 1;

		val = write ? HOST_VALUE << 48 | i : 0;
		switch (i % 6 / 2) {
		case 0:
			ok = try_word(page, &val, write);
			break;
		case 1:
			ok = (write ? pwrite(mem_fd, &val, 8, (off_t)page) :
			      pread(mem_fd, &val, 8, (off_t)page)) == 8;
			break;
		default:
			remote.iov_base = page;
			local.iov_base = &val;
			ok = syscall(write ? SYS_process_vm_writev :
				     SYS_process_vm_readv, getpid(), &local, 1UL,
				     &remote, 1UL, 0UL) == 8;
		}

		if (!ok)
			t->refused++;
		else if (val >> 48 == STAMP)
			t->stamps++;
		t->touches++;
	}
	close(mem_fd);
	return NULL;
}

static void *counter_thread(void *arg)
{
	vcpu_run_to_sync(arg);
	return NULL;
}

TEST_F(inplace, torture)
{
	struct torture t = { .env = &self->env };
	struct env *env = &self->env;
	struct guest_cmd *cmd = guest_cmd_of(env);
	volatile uint64_t *stop = addr_gva2hva(env->vm, (uint64_t)&guest_stop);
	pthread_t toucher, counter;
	uint64_t vals[TORTURE_PAGES], zeroes[TORTURE_PAGES] = {};
	unsigned long refused, i, round;
	struct sigaction old;
	int retries = 0;

	catch_sigbus(&old);

	/* The second vCPU takes its command, and goes on until it is stopped. */
	cmd->op = OP_COUNT;
	cmd->page = TORTURE_PAGE;
	cmd->npages = TORTURE_PAGES;
	pthread_create(&counter, NULL, counter_thread, env->vcpus[1]);
	while (!READ_ONCE(host_page(env, TORTURE_PAGE + TORTURE_PAGES - 1)[COUNTER_WORD]))
		sched_yield();
	pthread_create(&toucher, NULL, torture_thread, &t);

	for (round = 0; round < TORTURE_ROUNDS; round++) {
		retries += set_private_retry(env, TORTURE_PAGE, TORTURE_PAGES);
		for (i = 0; i < TORTURE_PAGES; i++)
			vals[i] = STAMP << 48 | round << 16 | i;
		__guest_write(env, OP_POKE, TORTURE_PAGE, TORTURE_PAGES, vals);
		refused = READ_ONCE(t.refused);
		wait_for_count(&t.touches, 8);
		/* All but one that had begun before. */
		ASSERT_LE(refused + 7, READ_ONCE(t.refused));
		__guest_check(env, OP_PEEK, TORTURE_PAGE, TORTURE_PAGES, vals);

		/* The guest takes its secret away before it shares the page. */
		__guest_write(env, OP_POKE, TORTURE_PAGE, TORTURE_PAGES, zeroes);
		set_shared(env, TORTURE_PAGE, TORTURE_PAGES);
		wait_for_count(&t.touches, 8);
	}

	t.stop = true;
	pthread_join(toucher, NULL);
	*stop = 1;
	pthread_join(counter, NULL);
	sigaction(SIGBUS, &old, NULL);

	TH_LOG("%lu touches, %lu refused, %d retries", t.touches, t.refused, retries);
	ASSERT_EQ(0, t.stamps);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(GUEST_MEMFD_FLAG_MMAP));

	return test_harness_run(argc, argv);
}
