// SPDX-License-Identifier: GPL-2.0
/*
 * Conversion in place of pages that somebody else holds.
 *
 * Who has a reference to a page can read and write it for as long as it likes, in
 * spite of all mappings being gone: a device by DMA, another process by a pipe.
 * Proves that such a page does not become private; that a conversion, or a slot,
 * that would need it is refused as a whole with EAGAIN; that it works as soon as the
 * reference is gone; and that it is not refused for references of no consequence,
 * which the kernel itself has in per-CPU batches of new and of locked pages.  Others
 * had the bug that these made conversions fail for no reason.
 */
#include "gmem_inplace.h"

#include <sys/ioctl.h>

#include <linux/userfaultfd.h>

/*
 * References that others hold.  Some ways to get one last as long as the system
 * call, which is made to wait for a page fault that this process serves.
 */

enum pin_how {
	PIN_VMSPLICE,
	PIN_DIRECT_IO,
	PIN_PROCESS_VM,
};

struct pin {
	enum pin_how how;
	uint8_t *page;
	/* What the holder got in the end. */
	uint8_t *data;
	int pipe[2];
	int uffd;
	void *blocker;
	pthread_t thread;
	ssize_t ret;
};

static void *pin_thread(void *arg)
{
	struct pin *pin = arg;
	struct iovec iov[2] = {
		{ .iov_base = pin->page, .iov_len = PAGE_SIZE },
		{ .iov_base = pin->blocker, .iov_len = PAGE_SIZE },
	};
	int fd;

	if (pin->how == PIN_PROCESS_VM) {
		pin->ret = syscall(SYS_process_vm_readv, getpid(), &iov[1], 1UL,
				   &iov[0], 1UL, 0UL);
		return NULL;
	}

	fd = open("/dev/ram0", O_RDWR | O_DIRECT);
	pin->ret = pwritev(fd, iov, 2, 0);
	close(fd);
	return NULL;
}

/* Start a system call that has pin->page, and waits for pin->blocker. */
static void pin_start(struct pin *pin)
{
	struct uffd_msg msg;

	pin->blocker = anonymous_pages(PAGE_SIZE);
	pin->uffd = userfault_missing(pin->blocker, PAGE_SIZE);
	TEST_ASSERT(pin->uffd >= 0, "userfaultfd(), errno: %d", errno);

	pthread_create(&pin->thread, NULL, pin_thread, pin);
	TEST_ASSERT_EQ(read(pin->uffd, &msg, sizeof(msg)), (ssize_t)sizeof(msg));
	TEST_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
}

static void pin_stop(struct pin *pin)
{
	struct uffdio_zeropage zero = {
		.range.start = (unsigned long)pin->blocker,
		.range.len = PAGE_SIZE,
	};
	int fd;

	TEST_ASSERT(!ioctl(pin->uffd, UFFDIO_ZEROPAGE, &zero), "UFFDIO_ZEROPAGE");
	pthread_join(pin->thread, NULL);
	close(pin->uffd);

	if (pin->how == PIN_PROCESS_VM) {
		TEST_ASSERT_EQ(pin->ret, (ssize_t)PAGE_SIZE);
		memcpy(pin->data, pin->blocker, PAGE_SIZE);
	} else {
		TEST_ASSERT_EQ(pin->ret, (ssize_t)(2 * PAGE_SIZE));
		fd = open("/dev/ram0", O_RDONLY);
		TEST_ASSERT_EQ(pread(fd, pin->data, PAGE_SIZE, 0), (ssize_t)PAGE_SIZE);
		close(fd);
	}
	munmap(pin->blocker, PAGE_SIZE);
}

/* Is there that way, on this system? */
static bool pin_possible(enum pin_how how)
{
	int fd;

	switch (how) {
	case PIN_VMSPLICE:
		return true;
	case PIN_DIRECT_IO:
		fd = open("/dev/ram0", O_RDWR | O_DIRECT);
		close(fd);
		return fd >= 0;
	case PIN_PROCESS_VM:
		return has_process_vm();
	}
	return false;
}

/* Hold a reference to a page, until unpin_page(). */
static void pin_page(struct pin *pin, enum pin_how how, void *page)
{
	struct iovec iov = { .iov_base = page, .iov_len = PAGE_SIZE };

	pin->how = how;
	pin->page = page;
	pin->data = anonymous_pages(PAGE_SIZE);

	if (how == PIN_VMSPLICE) {
		TEST_ASSERT(!pipe(pin->pipe), "pipe(), errno: %d", errno);
		TEST_ASSERT_EQ(vmsplice(pin->pipe[1], &iov, 1, 0), (ssize_t)PAGE_SIZE);
	} else {
		pin_start(pin);
	}
}

/* What the holder read had @val in it. */
static void unpin_page(struct pin *pin, uint64_t val)
{
	if (pin->how == PIN_VMSPLICE) {
		TEST_ASSERT_EQ(read(pin->pipe[0], pin->data, PAGE_SIZE),
			       (ssize_t)PAGE_SIZE);
		close(pin->pipe[0]);
		close(pin->pipe[1]);
	} else {
		pin_stop(pin);
	}
	TEST_ASSERT_EQ(*(uint64_t *)pin->data, val);
	TEST_ASSERT_EQ((unsigned long)check_page((uint64_t *)pin->data), PAGE_WORDS);
	munmap(pin->data, PAGE_SIZE);
}

FIXTURE(pinned) {
	struct env env;
	uint64_t vals[NR_PAGES];
	struct pin pin;
	bool possible;
};

FIXTURE_VARIANT(pinned) {
	enum pin_how how;
};

FIXTURE_VARIANT_ADD(pinned, vmsplice)	{ .how = PIN_VMSPLICE };
FIXTURE_VARIANT_ADD(pinned, direct_io)	{ .how = PIN_DIRECT_IO };
FIXTURE_VARIANT_ADD(pinned, process_vm)	{ .how = PIN_PROCESS_VM };

FIXTURE_SETUP(pinned)
{
	env_setup(&self->env);
	make_vals(self->vals, 1);
	host_fill(&self->env, self->vals);
	self->possible = pin_possible(variant->how);
}

FIXTURE_TEARDOWN(pinned)
{
	env_teardown(&self->env);
}

#define PINNED		37UL

/* Refused as a whole: no page of the range has become private. */
TEST_F(pinned, all_or_nothing)
{
	struct env *env = &self->env;
	unsigned long i;

	if (!self->possible)
		SKIP(return, "no reference to be had this way");

	/* Some of the range is private already, and stays so. */
	set_private(env, 50, 4);
	pin_page(&self->pin, variant->how, host_page(env, PINNED));

	ASSERT_EQ(EAGAIN, errno_of(__set_private(env, 0, NR_PAGES)));
	ASSERT_EQ(EAGAIN, errno_of(__set_private(env, PINNED, 1)));
	ASSERT_EQ(EAGAIN, errno_of(__set_private(env, PINNED, NR_PAGES - PINNED)));
	for (i = 0; i < NR_PAGES; i++) {
		if (i >= 50 && i < 54)
			expect_sigbus(host_page(env, i));
		else
			host_check(env, i, self->vals[i]);
	}
	guest_check(env, 0, NR_PAGES, self->vals);

	/* Both sides can go on. */
	for (i = 0; i < NR_PAGES; i++) {
		if (i == PINNED || (i >= 50 && i < 54))
			continue;
		self->vals[i] = VAL(2, i);
		fill_page(host_page(env, i), self->vals[i]);
	}
	guest_check(env, 0, NR_PAGES, self->vals);
	ASSERT_EQ(EAGAIN, errno_of(__set_private(env, 0, NR_PAGES)));

	/* The reference concerns its page only. */
	set_private(env, 0, PINNED);
	set_private(env, PINNED + 1, NR_PAGES - PINNED - 1);
	for (i = 0; i < NR_PAGES; i++)
		if (i != PINNED)
			expect_sigbus(host_page(env, i));
	host_check(env, PINNED, self->vals[PINNED]);
	ASSERT_EQ(EAGAIN, errno_of(__set_private(env, 0, NR_PAGES)));
	/* Nothing to do for pages that are shared and stay so. */
	set_shared(env, PINNED - 1, 2);

	unpin_page(&self->pin, self->vals[PINNED]);
	set_private(env, 0, NR_PAGES);
	all_sigbus(env->mem);
	guest_check(env, 0, NR_PAGES, self->vals);
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(env->fd));
}

/* Binding pages where gfns are private already makes them private. */
TEST_F(pinned, bind_to_private)
{
	struct env *env = &self->env;
	const uint64_t size = (NR_PAGES - FIRST_PAGES) * PAGE_SIZE;
	const uint64_t gpa = PAGE_GPA(FIRST_PAGES), elsewhere = GPA + 4 * SIZE;
	uint64_t *mem = host_page(env, FIRST_PAGES);
	const uint64_t offset = file_index(FIRST_PAGES) * PAGE_SIZE;

	if (!self->possible)
		SKIP(return, "no reference to be had this way");

	pin_page(&self->pin, variant->how, host_page(env, PINNED));
	vm_delete_slot(env->vm, SLOT + 1);
	expect_sigbus(mem);
	set_private(env, 30, 20);

	ASSERT_EQ(EAGAIN, errno_of(__vm_set_user_memory_region2(env->vm, SLOT + 1,
								KVM_MEM_GUEST_MEMFD,
								gpa, size, mem,
								env->fd, offset)));
	/* There is no slot, nor is the range of the file taken. */
	ASSERT_EQ(EINVAL, errno_of(__vm_delete_slot(env->vm, SLOT + 1)));
	guest_fails(env, 31, PRIVATE);
	expect_sigbus(mem);
	expect_sigbus(host_page(env, PINNED));

	/* Where all gfns are shared the reference does no harm. */
	vm_set_user_memory_region2(env->vm, SLOT + 1, KVM_MEM_GUEST_MEMFD, elsewhere,
				   size, mem, env->fd, offset);
	host_check(env, PINNED, self->vals[PINNED]);
	vm_delete_slot(env->vm, SLOT + 1);
	expect_sigbus(host_page(env, PINNED));

	unpin_page(&self->pin, self->vals[PINNED]);
	vm_set_user_memory_region2(env->vm, SLOT + 1, KVM_MEM_GUEST_MEMFD, gpa, size,
				   mem, env->fd, offset);
	guest_goes_on(env, self->vals[31]);
	guest_check(env, 0, NR_PAGES, self->vals);
	expect_sigbus(host_page(env, PINNED));
	host_check(env, 29, self->vals[29]);
	host_check(env, 50, self->vals[50]);
}

/* A page that is removed from the file while it is held is no page of the file. */
TEST_F(pinned, punched)
{
	struct env *env = &self->env;

	if (!self->possible)
		SKIP(return, "no reference to be had this way");

	pin_page(&self->pin, variant->how, host_page(env, PINNED));
	gmem_punch_hole(env->fd, file_index(PINNED) * PAGE_SIZE, PAGE_SIZE);
	set_private(env, 0, NR_PAGES);
	unpin_page(&self->pin, self->vals[PINNED]);

	self->vals[PINNED] = 0;
	guest_check(env, 0, NR_PAGES, self->vals);
	all_sigbus(env->mem);
}

/*
 * New pages wait in batches, one for each CPU, and the kernel holds them there.
 * Somebody who converts such a page on another CPU must not be told to come again.
 */
TEST_F(inplace, fresh_pages)
{
	struct env *env = &self->env;
	unsigned long i;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "one CPU");

	for (i = 0; i < NR_PAGES; i++) {
		pin_to_cpu(i % 2);
		self->vals[i] = VAL(3, i);
		fill_page(host_page(env, i), self->vals[i]);
		pin_to_cpu((i + 1) % 2);
		ASSERT_EQ(0, __set_private(env, i, 1)) {
			TH_LOG("page %lu, errno %d", i, errno);
		}
	}
	guest_check(env, 0, NR_PAGES, self->vals);
}

/* Pages that are locked in memory wait in batches as well. */
TEST_F(inplace, locked_pages)
{
	struct env *env = &self->env;
	unsigned long i, n;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "one CPU");

	for (n = 0; n < 3; n++) {
		pin_to_cpu(1);
		ASSERT_EQ(0, mlock(env->mem + UNBOUND_PAGES * PAGE_SIZE, SIZE));
		make_vals(self->vals, n + 1);
		host_fill(env, self->vals);

		pin_to_cpu(0);
		set_private(env, 0, NR_PAGES);
		guest_check(env, 0, NR_PAGES, self->vals);
		all_sigbus(env->mem);

		set_shared(env, 0, NR_PAGES);
		for (i = 0; i < NR_PAGES; i++)
			host_check(env, i, self->vals[i]);
		if (n)
			ASSERT_EQ(0, munlock(env->mem, FILE_SIZE));
	}
}

/* A thread that has references, but each of them for a moment. */
struct reader {
	struct env *env;
	volatile bool stop;
	unsigned long tries;
	unsigned long refused;
};

static void *reader_thread(void *arg)
{
	struct reader *reader = arg;
	struct iovec remote, local;
	int mem_fd, pipes[2];
	unsigned long i;
	uint64_t data[64];
	bool ok;

	mem_fd = open("/proc/self/mem", O_RDWR);
	TEST_ASSERT(mem_fd >= 0 && !pipe(pipes), "errno: %d", errno);

	for (i = 0; !reader->stop; i++) {
		uint64_t *page = host_page(reader->env, i / 4 % NR_PAGES);

		remote.iov_base = page;
		remote.iov_len = sizeof(data);
		local.iov_len = sizeof(data);
		local.iov_base = data;
		switch (i % 4) {
		case 0:
			ok = pread(mem_fd, data, sizeof(data), (off_t)page) > 0;
			break;
		case 1:
			ok = syscall(SYS_process_vm_readv, getpid(), &local, 1UL,
				     &remote, 1UL, 0UL) > 0;
			break;
		case 2:
			ok = write(pipes[1], page, 8) > 0 && read(pipes[0], data, 8) > 0;
			break;
		default:
			ok = vmsplice(pipes[1], &remote, 1, 0) > 0 &&
			     read(pipes[0], data, sizeof(data)) > 0;
		}
		if (!ok)
			reader->refused++;
		reader->tries++;
	}

	close(pipes[0]);
	close(pipes[1]);
	close(mem_fd);
	return NULL;
}

/* They may make a conversion fail, but not again and again. */
TEST_F(inplace, short_references)
{
	struct reader reader = { .env = &self->env };
	struct env *env = &self->env;
	unsigned long refused, n;
	pthread_t thread;
	int retries = 0;

	host_fill(env, self->vals);
	pthread_create(&thread, NULL, reader_thread, &reader);

	for (n = 0; n < 100; n++) {
		retries += set_private_retry(env, n % 16, 48);
		/* Three of four pages are private; the first access may be old. */
		refused = READ_ONCE(reader.refused);
		wait_for_count(&reader.tries, 1 + 4 * (NR_PAGES - 48) + 1);
		ASSERT_LT(refused, READ_ONCE(reader.refused));
		set_shared(env, 0, NR_PAGES);
		wait_for_count(&reader.tries, 8);
	}

	reader.stop = true;
	pthread_join(thread, NULL);
	TH_LOG("%lu tries, %lu refused, %d retries", reader.tries, reader.refused,
	       retries);
	guest_check(env, 0, NR_PAGES, self->vals);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(GUEST_MEMFD_FLAG_MMAP));

	return test_harness_run(argc, argv);
}
