// SPDX-License-Identifier: GPL-2.0
/*
 * write() to a guest_memfd, which fills pages that the file does not have yet: the
 * way to load a guest that needs no mapping, and no copy at fault time.  No guest
 * runs here.
 *
 * What may go wrong, and would be seen by the guest only: a page that is there
 * before all of it is written, one that is written twice, and a count that says
 * more or less than what was done.
 */
#include "kvm_gmem_util.h"

#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <linux/kvm_gmem_soft.h>

#include "gmem_harness.h"

#define FLAG_MMAP	GUEST_MEMFD_FLAG_MMAP
#define FLAG_SHARED	GUEST_MEMFD_FLAG_INIT_SHARED
#define FLAG_WRITE	GUEST_MEMFD_FLAG_WRITE

#define SHARED_FLAGS	(FLAG_WRITE | FLAG_MMAP | FLAG_SHARED)

#define NR_PAGES	16ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
#define GPA		0x40000000ULL

#define NR_WRITERS	3
#define NR_RACES	200

FIXTURE(gmem) {
	struct kvm_vm *vm;
	/* SIZE bytes to write, and nothing readable behind them. */
	uint8_t *buf;
	int fd;
};

FIXTURE_VARIANT(gmem) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(gmem, shared) {
	.type = KVM_X86_DEFAULT_VM,
	.flags = SHARED_FLAGS,
};

FIXTURE_VARIANT_ADD(gmem, not_mapped) {
	.type = KVM_X86_DEFAULT_VM,
	.flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(gmem, sw_protected) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(gmem, sw_protected_mmap) {
	.type = KVM_X86_SW_PROTECTED_VM,
	.flags = FLAG_WRITE | FLAG_MMAP,
};

FIXTURE_SETUP(gmem)
{
	self->buf = anonymous_pages(SIZE + PAGE_SIZE);
	ASSERT_EQ(0, mprotect(self->buf + SIZE, PAGE_SIZE, PROT_NONE));
	fill_pages(self->buf, NR_PAGES);
	self->vm = vm_create_barebones_type(variant->type);
	self->fd = vm_create_guest_memfd(self->vm, SIZE, variant->flags);
}

FIXTURE_TEARDOWN(gmem)
{
	close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);
	munmap(self->buf, SIZE + PAGE_SIZE);
}

/*
 * What the file has is what is in @want from page @first on, if the host may look
 * at all.  Pages that it looks at are there from then on.
 */
static void expect_contents(int fd, uint64_t flags, uint64_t first, const void *want,
			    uint64_t npages)
{
	void *mem;

	if (!(flags & FLAG_SHARED))
		return;
	mem = gmem_map(fd, npages * PAGE_SIZE, first * PAGE_SIZE);
	TEST_ASSERT(!memcmp(mem, want, npages * PAGE_SIZE), "Wrong contents");
	munmap(mem, npages * PAGE_SIZE);
}

TEST_F(gmem, whole)
{
	ASSERT_EQ(SIZE, write(self->fd, self->buf, SIZE));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	ASSERT_EQ(SIZE, lseek(self->fd, 0, SEEK_CUR));
	expect_contents(self->fd, variant->flags, 0, self->buf, NR_PAGES);
}

TEST_F(gmem, position)
{
	const size_t page = PAGE_SIZE;

	ASSERT_EQ(page, write(self->fd, self->buf, page));
	ASSERT_EQ(page, write(self->fd, self->buf + page, page));
	ASSERT_EQ(2 * page, lseek(self->fd, 0, SEEK_CUR));

	/* Holes can be left, and pwrite() does not move. */
	ASSERT_EQ(4 * page, lseek(self->fd, 2 * page, SEEK_CUR));
	ASSERT_EQ(page, write(self->fd, self->buf + 4 * page, page));
	ASSERT_EQ(page, pwrite(self->fd, self->buf + 8 * page, page, 8 * page));
	ASSERT_EQ(5 * page, lseek(self->fd, 0, SEEK_CUR));
	ASSERT_EQ(SIZE - page, lseek(self->fd, -page, SEEK_END));
	ASSERT_EQ(page, write(self->fd, self->buf + SIZE - page, page));
	ASSERT_EQ(5, gmem_allocated_pages(self->fd));

	ASSERT_EQ(0, lseek(self->fd, 0, SEEK_SET));
	ASSERT_EQ(EINVAL, errno_of(lseek(self->fd, -page, SEEK_SET)));
	ASSERT_EQ(0, lseek(self->fd, 0, SEEK_CUR));

	memset(self->buf + 2 * page, 0, 2 * page);
	memset(self->buf + 5 * page, 0, 3 * page);
	memset(self->buf + 9 * page, 0, (NR_PAGES - 10) * page);
	expect_contents(self->fd, variant->flags, 0, self->buf, NR_PAGES);
}

TEST_F(gmem, alignment)
{
	const struct {
		size_t len;
		off_t offset;
	} cases[] = {
		{ 1, 0 },
		{ PAGE_SIZE - 1, 0 },
		{ PAGE_SIZE + 1, 0 },
		{ PAGE_SIZE, 1 },
		{ PAGE_SIZE, 512 },
		{ PAGE_SIZE, PAGE_SIZE - 1 },
		{ PAGE_SIZE - 1, 1 },
		{ PAGE_SIZE, SIZE - 1 },
		{ PAGE_SIZE, SIZE + 1 },
		{ PAGE_SIZE, -PAGE_SIZE },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(EINVAL, errno_of(pwrite(self->fd, self->buf, cases[i].len,
						  cases[i].offset))) {
			TH_LOG("case %d", i);
		}
	}
	ASSERT_EQ(EINVAL, errno_of(write(self->fd, self->buf, PAGE_SIZE / 2)));
	ASSERT_EQ(0, lseek(self->fd, 0, SEEK_CUR));
	ASSERT_EQ(7, lseek(self->fd, 7, SEEK_SET));
	ASSERT_EQ(EINVAL, errno_of(write(self->fd, self->buf, PAGE_SIZE)));
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));

	/* The buffer need not be aligned, and nothing is nothing. */
	ASSERT_EQ(0, pwrite(self->fd, self->buf, 0, 0));
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	ASSERT_EQ(2 * PAGE_SIZE, pwrite(self->fd, self->buf + 123, 2 * PAGE_SIZE, 0));
	expect_contents(self->fd, variant->flags, 0, self->buf + 123, 2);
}

TEST_F(gmem, past_the_end)
{
	const size_t page = PAGE_SIZE;

	ASSERT_EQ(ENOSPC, errno_of(pwrite(self->fd, self->buf, page, SIZE)));
	ASSERT_EQ(ENOSPC, errno_of(pwrite(self->fd, self->buf, page, SIZE + page)));
	ASSERT_EQ(ENOSPC, errno_of(pwrite(self->fd, self->buf, page, 1LL << 50)));
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));

	ASSERT_EQ(2 * page, pwrite(self->fd, self->buf, 4 * page, SIZE - 2 * page));
	ASSERT_EQ(2, gmem_allocated_pages(self->fd));
	expect_contents(self->fd, variant->flags, NR_PAGES - 2, self->buf, 2);

	/* The end of the file is where appending would begin. */
	ASSERT_EQ(0, fcntl(self->fd, F_SETFL, O_APPEND));
	ASSERT_EQ(ENOSPC, errno_of(write(self->fd, self->buf, page)));
	ASSERT_EQ(ENOSPC, errno_of(pwrite(self->fd, self->buf, page, 0)));
	ASSERT_EQ(0, fcntl(self->fd, F_SETFL, 0));
	ASSERT_EQ(page, write(self->fd, self->buf, page));
	ASSERT_EQ(3, gmem_allocated_pages(self->fd));
}

/* A page that is there, however it came to be, is not written. */
TEST_F(gmem, present)
{
	const size_t page = PAGE_SIZE;

	gmem_allocate(self->fd, 2 * page, page);
	ASSERT_EQ(EEXIST, errno_of(pwrite(self->fd, self->buf, page, 2 * page)));
	ASSERT_EQ(page, pwrite(self->fd, self->buf, page, 4 * page));
	ASSERT_EQ(EEXIST, errno_of(pwrite(self->fd, self->buf + page, page, 4 * page)));
	expect_contents(self->fd, variant->flags, 4, self->buf, 1);

	/* In the middle. */
	ASSERT_EQ(2 * page, write(self->fd, self->buf, SIZE));
	ASSERT_EQ(2 * page, lseek(self->fd, 0, SEEK_CUR));
	ASSERT_EQ(4, gmem_allocated_pages(self->fd));
	ASSERT_EQ(EEXIST, errno_of(write(self->fd, self->buf, SIZE)));
	ASSERT_EQ(2 * page, lseek(self->fd, 0, SEEK_CUR));

	/* A hole can be written again. */
	gmem_punch_hole(self->fd, 0, 3 * page);
	ASSERT_EQ(4 * page, pwrite(self->fd, self->buf, SIZE, 0));
	ASSERT_EQ(5, gmem_allocated_pages(self->fd));
	expect_contents(self->fd, variant->flags, 0, self->buf, 4);
	expect_contents(self->fd, variant->flags, 4, self->buf, 1);
}

/* st_mtime is that of the last call that has written something. */
TEST_F(gmem, times)
{
	uint64_t created, written, more;

	created = gmem_mtime(self->fd);
	ASSERT_EQ(PAGE_SIZE, pwrite(self->fd, self->buf, PAGE_SIZE, 2 * PAGE_SIZE));
	written = gmem_mtime(self->fd);
	ASSERT_LT(created, written);

	ASSERT_EQ(EEXIST, errno_of(pwrite(self->fd, self->buf, PAGE_SIZE, 2 * PAGE_SIZE)));
	ASSERT_EQ(EINVAL, errno_of(pwrite(self->fd, self->buf, 1, 0)));
	ASSERT_EQ(written, gmem_mtime(self->fd));

	/* In part, as the third page is there. */
	ASSERT_EQ(2 * PAGE_SIZE, pwrite(self->fd, self->buf, SIZE, 0));
	more = gmem_mtime(self->fd);
	ASSERT_LT(written, more);
}

/* A page is written as a whole or not at all. */
TEST_F(gmem, bad_buffer)
{
	const size_t page = PAGE_SIZE;

	ASSERT_EQ(EFAULT, errno_of(write(self->fd, self->buf + SIZE, page)));
	ASSERT_EQ(EFAULT, errno_of(write(self->fd, self->buf + SIZE - page / 2, page)));
	ASSERT_EQ(EFAULT, errno_of(write(self->fd, self->buf + SIZE - page + 1, page)));
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	ASSERT_EQ(0, lseek(self->fd, 0, SEEK_CUR));

	ASSERT_EQ(2 * page, write(self->fd, self->buf + SIZE - 2 * page, 4 * page));
	ASSERT_EQ(2 * page, write(self->fd, self->buf + SIZE - 3 * page + 1, 4 * page));
	ASSERT_EQ(4, gmem_allocated_pages(self->fd));
	ASSERT_EQ(4 * page, lseek(self->fd, 0, SEEK_CUR));
	expect_contents(self->fd, variant->flags, 0, self->buf + SIZE - 2 * page, 2);
	expect_contents(self->fd, variant->flags, 2, self->buf + SIZE - 3 * page + 1, 2);

	/* The page that failed was left alone. */
	ASSERT_EQ(page, write(self->fd, self->buf, page));
	expect_contents(self->fd, variant->flags, 4, self->buf, 1);
}

TEST_F(gmem, writev)
{
	const size_t page = PAGE_SIZE;
	struct iovec odd[] = {
		{ self->buf, 1 },
		{ self->buf + 1, page - 1 },
		{ self->buf + page, 100 },
		{ NULL, 0 },
		{ self->buf + page + 100, 3 * page - 101 },
		{ self->buf + 4 * page - 1, page + 1 },
	};
	struct iovec bad[] = {
		{ self->buf, page + page / 2 },
		{ self->buf + SIZE, page / 2 },
		{ self->buf, page },
	};

	ASSERT_EQ(5 * page, writev(self->fd, odd, ARRAY_SIZE(odd)));
	expect_contents(self->fd, variant->flags, 0, self->buf, 5);
	ASSERT_EQ(5, gmem_allocated_pages(self->fd));

	/* The sum counts. */
	ASSERT_EQ(EINVAL, errno_of(writev(self->fd, odd, ARRAY_SIZE(odd) - 1)));
	ASSERT_EQ(5, gmem_allocated_pages(self->fd));

	/* What follows the bad part is of no use. */
	ASSERT_EQ(page, pwritev(self->fd, bad, ARRAY_SIZE(bad), 8 * page));
	ASSERT_EQ(6, gmem_allocated_pages(self->fd));
	expect_contents(self->fd, variant->flags, 8, self->buf, 1);
}

TEST_F(gmem, read)
{
	uint8_t buf[64] = "";
	struct iovec iov = { buf, sizeof(buf) };

	ASSERT_EQ(SIZE, pwrite(self->fd, self->buf, SIZE, 0));
	ASSERT_EQ(EINVAL, errno_of(read(self->fd, buf, sizeof(buf))));
	ASSERT_EQ(EINVAL, errno_of(readv(self->fd, &iov, 1)));
	ASSERT_EQ(EINVAL, errno_of(pread(self->fd, buf, sizeof(buf), 0)));
	ASSERT_EQ(EINVAL, errno_of(preadv(self->fd, &iov, 1, 0)));
	ASSERT_EQ(0, buf[0]);
}

TEST_F(gmem, closed_vm)
{
	vm_bind_gmem(self->vm, 1, GPA, SIZE, self->fd, 0);
	kvm_vm_free(self->vm);
	self->vm = NULL;
	ASSERT_EQ(SIZE, write(self->fd, self->buf, SIZE));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	expect_contents(self->fd, variant->flags, 0, self->buf, NR_PAGES);
}

static void ignore_signal(int sig)
{
}

/* A signal stops a write; the count says where. */
TEST_F(gmem, interrupted)
{
	const size_t size = 64 << 20;
	const struct sigaction action = { .sa_handler = ignore_signal };
	/* Much shorter than it takes to copy so much. */
	struct itimerval timer = {
		.it_value.tv_usec = 2000,
		.it_interval.tv_usec = 2000,
	};
	ssize_t done;
	void *buf;
	int fd;

	buf = anonymous_pages(size);
	fd = vm_create_guest_memfd(self->vm, size, variant->flags);
	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));
	done = write(fd, buf, size);
	if (done < 0) {
		ASSERT_EQ(EINTR, errno);
		done = 0;
	}
	memset(&timer, 0, sizeof(timer));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));

	ASSERT_LT(done, size);
	ASSERT_EQ(0, done % PAGE_SIZE);
	ASSERT_EQ(done / PAGE_SIZE, gmem_allocated_pages(fd));
	ASSERT_EQ(done, lseek(fd, 0, SEEK_CUR));
	ASSERT_EQ(size - done, write(fd, buf, size - done));
	ASSERT_EQ(size / PAGE_SIZE, gmem_allocated_pages(fd));
	munmap(buf, size);
	close(fd);
}

/* Several who want to write the same pages, in the same order. */
struct writer {
	pthread_t thread;
	pthread_barrier_t *barrier;
	int fd;
	uint8_t *page;
	bool won[NR_RACES];
};

static void *write_all(void *arg)
{
	struct writer *writer = arg;
	ssize_t ret;
	int i;

	for (i = 0; i < NR_RACES; i++) {
		/* All get to the page at once. */
		pthread_barrier_wait(writer->barrier);
		ret = pwrite(writer->fd, writer->page, PAGE_SIZE, i * PAGE_SIZE);
		TEST_ASSERT(ret == PAGE_SIZE || (ret == -1 && errno == EEXIST),
			    "pwrite() returned %zd, errno: %d", ret, errno);
		writer->won[i] = ret == PAGE_SIZE;
	}
	return NULL;
}

TEST_F(gmem, concurrent)
{
	struct writer writers[NR_WRITERS] = {};
	pthread_barrier_t barrier;
	int fd, i, w, winner, wins;

	fd = vm_create_guest_memfd(self->vm, NR_RACES * PAGE_SIZE, variant->flags);
	pthread_barrier_init(&barrier, NULL, NR_WRITERS);
	for (w = 0; w < NR_WRITERS; w++) {
		writers[w].fd = fd;
		writers[w].barrier = &barrier;
		writers[w].page = self->buf + w * PAGE_SIZE;
		ASSERT_EQ(0, pthread_create(&writers[w].thread, NULL, write_all,
					    &writers[w]));
	}
	for (w = 0; w < NR_WRITERS; w++)
		pthread_join(writers[w].thread, NULL);

	ASSERT_EQ(NR_RACES, gmem_allocated_pages(fd));
	for (i = 0; i < NR_RACES; i++) {
		winner = 0;
		wins = 0;
		for (w = 0; w < NR_WRITERS; w++) {
			if (writers[w].won[i]) {
				winner = w;
				wins++;
			}
		}
		ASSERT_EQ(1, wins);
		expect_contents(fd, variant->flags, i, writers[winner].page, 1);
	}
	close(fd);
}

struct puncher {
	int fd;
	volatile bool stop;
};

static void *punch_all(void *arg)
{
	struct puncher *puncher = arg;

	while (!puncher->stop)
		gmem_punch_hole(puncher->fd, 0, SIZE);
	return NULL;
}

TEST_F(gmem, punch_while_writing)
{
	struct puncher puncher = { .fd = self->fd };
	pthread_t thread;
	ssize_t done;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, punch_all, &puncher));
	for (i = 0; i < NR_RACES; i++) {
		done = pwrite(self->fd, self->buf, SIZE, 0);
		if (done < 0) {
			EXPECT_EQ(EEXIST, errno);
			continue;
		}
		EXPECT_EQ(0, done % PAGE_SIZE);
		EXPECT_GT(done, 0);
	}
	puncher.stop = true;
	pthread_join(thread, NULL);
	gmem_punch_hole(self->fd, 0, SIZE);
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	ASSERT_EQ(SIZE, pwrite(self->fd, self->buf, SIZE, 0));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	expect_contents(self->fd, variant->flags, 0, self->buf, NR_PAGES);
}

/* A file that the host has mapped. */

FIXTURE(mapped) {
	struct kvm_vm *vm;
	uint8_t *buf;
	void *mem;
	int fd;
};

FIXTURE_SETUP(mapped)
{
	self->buf = anonymous_pages(SIZE);
	fill_pages(self->buf, NR_PAGES);
	self->vm = vm_create_barebones();
	self->fd = vm_create_guest_memfd(self->vm, SIZE, SHARED_FLAGS);
	self->mem = gmem_map(self->fd, SIZE, 0);
}

FIXTURE_TEARDOWN(mapped)
{
	munmap(self->mem, SIZE);
	munmap(self->buf, SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

TEST_F(mapped, present)
{
	void *mem = self->mem;

	ASSERT_EQ(0, *word_of(mem, 2));
	ASSERT_EQ(EEXIST, errno_of(pwrite(self->fd, self->buf, PAGE_SIZE, 2 * PAGE_SIZE)));
	ASSERT_TRUE(page_is(mem, 2, 0));

	/* Its own memory, of which the page is not there yet: read first. */
	ASSERT_EQ(EEXIST, errno_of(pwrite(self->fd, mem, PAGE_SIZE, 0)));
	ASSERT_TRUE(page_is(mem, 0, 0));
	*word_of(mem, 0) = 1234;
	ASSERT_EQ(PAGE_SIZE, pwrite(self->fd, mem, PAGE_SIZE, PAGE_SIZE));
	ASSERT_EQ(1234, *word_of(mem, 1));
}

/* Somebody reads the page while it is being written: all of it, or the zero page. */
static void *touch_all(void *arg)
{
	struct writer *writer = arg;
	volatile uint8_t *page;
	void *mem = gmem_map(writer->fd, NR_RACES * PAGE_SIZE, 0);
	uint8_t last;
	int i;

	for (i = 0; i < NR_RACES; i++) {
		page = mem + i * PAGE_SIZE;
		pthread_barrier_wait(writer->barrier);
		/* Backwards, as a copy goes forwards. */
		last = page[PAGE_SIZE - 1];
		TEST_ASSERT_EQ(page[0], last);
		TEST_ASSERT(!last || last == writer->page[0], "Contents %#x", last);
		/* The mapping came first. */
		writer->won[i] = !last;
	}
	munmap(mem, NR_RACES * PAGE_SIZE);
	return NULL;
}

TEST_F(mapped, concurrent)
{
	struct writer writers[2] = {};
	pthread_barrier_t barrier;
	int fd, i;

	fd = vm_create_guest_memfd(self->vm, NR_RACES * PAGE_SIZE, SHARED_FLAGS);
	pthread_barrier_init(&barrier, NULL, 2);
	for (i = 0; i < 2; i++) {
		writers[i].fd = fd;
		writers[i].barrier = &barrier;
		writers[i].page = self->buf;
	}
	ASSERT_EQ(0, pthread_create(&writers[0].thread, NULL, write_all, &writers[0]));
	ASSERT_EQ(0, pthread_create(&writers[1].thread, NULL, touch_all, &writers[1]));
	pthread_join(writers[0].thread, NULL);
	pthread_join(writers[1].thread, NULL);
	for (i = 0; i < NR_RACES; i++) {
		ASSERT_EQ(!writers[0].won[i], writers[1].won[i]) {
			TH_LOG("page %d", i);
		}
	}
	close(fd);
}

/* Files that were created without the flag. */
TEST(not_asked_for)
{
	static const uint64_t flags[] = { 0, FLAG_MMAP, FLAG_MMAP | FLAG_SHARED };
	struct kvm_vm *vm = vm_create_barebones();
	char buf[PAGE_SIZE] = "";
	int fd, i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		if (!kvm_has_gmem_flags(flags[i]))
			continue;
		fd = vm_create_guest_memfd(vm, SIZE, flags[i]);
		ASSERT_EQ(EINVAL, errno_of(write(fd, buf, PAGE_SIZE)));
		ASSERT_EQ(ESPIPE, errno_of(pwrite(fd, buf, PAGE_SIZE, 0)));
		ASSERT_EQ(ESPIPE, errno_of(pread(fd, buf, PAGE_SIZE, 0)));
		ASSERT_EQ(ESPIPE, errno_of(lseek(fd, 0, SEEK_CUR)));
		ASSERT_EQ(0, gmem_allocated_pages(fd));
		close(fd);
	}
	fd = vm_create_guest_memfd(vm, SIZE, FLAG_WRITE);
	ASSERT_EQ(PAGE_SIZE, write(fd, buf, PAGE_SIZE));
	close(fd);
	kvm_vm_free(vm);
}

/* What measures the memory must see all that goes there. */
TEST(back_end)
{
	int dev = open("/dev/kvm-gmem-soft", O_RDWR | O_CLOEXEC);
	struct kvm_gmem_soft_attach args = { .max_order = 0 };
	struct kvm_vm *vm;
	char buf[PAGE_SIZE] = "";
	int before, after;

	if (dev < 0)
		SKIP(return, "no software back end");
	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	before = vm_create_guest_memfd(vm, SIZE, FLAG_WRITE);
	ASSERT_EQ(PAGE_SIZE, write(before, buf, PAGE_SIZE));
	gmem_punch_hole(before, 0, SIZE);

	args.vm_fd = vm->fd;
	ASSERT_EQ(0, ioctl(dev, KVM_GMEM_SOFT_ATTACH, &args));
	ASSERT_EQ(EPERM, errno_of(write(before, buf, PAGE_SIZE)));
	ASSERT_EQ(EPERM, errno_of(pwrite(before, buf, PAGE_SIZE, 2 * PAGE_SIZE)));
	ASSERT_EQ(0, gmem_allocated_pages(before));

	after = vm_create_guest_memfd(vm, SIZE, FLAG_WRITE);
	ASSERT_EQ(EPERM, errno_of(write(after, buf, PAGE_SIZE)));
	ASSERT_EQ(0, gmem_allocated_pages(after));
	close(before);
	close(after);
	kvm_vm_free(vm);
	close(dev);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_WRITE));

	return test_harness_run(argc, argv);
}
