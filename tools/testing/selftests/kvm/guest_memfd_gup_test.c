// SPDX-License-Identifier: GPL-2.0
/*
 * Mapped guest_memfd in the hands of others: system calls that access memory on
 * the process's behalf, or hold on to its pages, and processes that were given the
 * file.  No guest runs here.
 *
 * Known bugs of other implementations that are checked here:
 *  - memory that faults for the process but that the kernel can be asked to read;
 *  - holes punched that left the page to the file because somebody pinned it.
 *
 * Wants CONFIG_CROSS_MEMORY_ATTACH, CONFIG_BLK_DEV_RAM and CONFIG_USERFAULTFD, and
 * skips what it cannot test.
 */
#include "kvm_gmem_util.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/io_uring.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include "gmem_harness.h"

#define FLAG_MMAP	GUEST_MEMFD_FLAG_MMAP
#define FLAG_SHARED	GUEST_MEMFD_FLAG_INIT_SHARED

#define NR_PAGES	16ULL
#define SIZE		(NR_PAGES * PAGE_SIZE)
#define GPA		0x40000000ULL
#define CANARY		0xee

#define BLOCK_DEVICE	"/dev/ram0"

/*
 * Accesses of the kernel on the process's behalf, each its own way.  They return
 * an errno: ENOSYS or ENXIO if the kernel has no such access.  Whether it was
 * complete, the contents tell.
 */

static int process_vm_from(void *mem, void *buf, size_t len)
{
	struct iovec local = { buf, len }, remote = { mem, len };

	return errno_of(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
}

static int process_vm_to(void *mem, void *buf, size_t len)
{
	struct iovec local = { buf, len }, remote = { mem, len };

	return errno_of(process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
}

static int proc_mem_from(void *mem, void *buf, size_t len)
{
	int fd = open("/proc/self/mem", O_RDWR);
	int err = errno_of(pread(fd, buf, len, (uintptr_t)mem));

	close(fd);
	return err;
}

static int proc_mem_to(void *mem, void *buf, size_t len)
{
	int fd = open("/proc/self/mem", O_RDWR);
	int err = errno_of(pwrite(fd, buf, len, (uintptr_t)mem));

	close(fd);
	return err;
}

/* Takes references to the pages, and copies later. */
static int pipe_from(void *mem, void *buf, size_t len)
{
	struct iovec iov = { mem, len };
	int fds[2], err;

	TEST_ASSERT(!pipe(fds), "pipe(), errno: %d", errno);
	err = errno_of(vmsplice(fds[1], &iov, 1, 0));
	if (!err)
		TEST_ASSERT(read(fds[0], buf, len) == len, "errno %d", errno);
	close(fds[0]);
	close(fds[1]);
	return err;
}

/* As a disk's DMA does it.  The other side takes ordinary memory. */
static int direct_from(void *mem, void *buf, size_t len)
{
	int fd = open(BLOCK_DEVICE, O_RDWR | O_DIRECT), err;

	if (fd < 0)
		return ENXIO;
	err = errno_of(pwrite(fd, mem, len, 0));
	if (!err)
		TEST_ASSERT(pread(fd, buf, len, 0) == len, "errno %d", errno);
	close(fd);
	return err;
}

static int direct_to(void *mem, void *buf, size_t len)
{
	int fd = open(BLOCK_DEVICE, O_RDWR | O_DIRECT), err;

	if (fd < 0)
		return ENXIO;
	TEST_ASSERT(pwrite(fd, buf, len, 0) == len, "errno %d", errno);
	err = errno_of(pread(fd, mem, len, 0));
	close(fd);
	return err;
}

/* The same, asked for by io_uring: one request in a ring of its own. */
static int do_uring(int op, void *mem, size_t len)
{
	const int prot = PROT_READ | PROT_WRITE;
	struct io_uring_params p = {};
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int disk, ring, res;
	size_t sq_len, cq_len;
	void *sq, *cq;

	disk = open(BLOCK_DEVICE, O_RDWR | O_DIRECT);
	if (disk < 0)
		return ENXIO;
	ring = syscall(SYS_io_uring_setup, 1, &p);
	if (ring < 0) {
		close(disk);
		return ENOSYS;
	}

	sq_len = p.sq_off.array + p.sq_entries * sizeof(__u32);
	cq_len = p.cq_off.cqes + p.cq_entries * sizeof(*cqe);
	sq = mmap(NULL, sq_len, prot, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, cq_len, prot, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqe = mmap(NULL, sizeof(*sqe), prot, MAP_SHARED, ring, IORING_OFF_SQES);
	TEST_ASSERT(sq != MAP_FAILED && cq != MAP_FAILED && sqe != MAP_FAILED,
		    "mmap() of the rings, errno: %d", errno);

	*sqe = (struct io_uring_sqe) {
		.opcode = op,
		.fd = disk,
		.addr = (uintptr_t)mem,
		.len = len,
	};
	*(__u32 *)(sq + p.sq_off.array) = 0;
	__atomic_store_n((__u32 *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	res = syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS,
		      NULL, 0);
	TEST_ASSERT(res == 1, "io_uring_enter(): %d, errno: %d", res, errno);
	cqe = cq + p.cq_off.cqes;
	res = cqe->res;
	TEST_ASSERT(res < 0 || res == len, "%d of %zu bytes", res, len);

	munmap(sqe, sizeof(*sqe));
	munmap(cq, cq_len);
	munmap(sq, sq_len);
	close(ring);
	close(disk);
	return res < 0 ? -res : 0;
}

static int uring_from(void *mem, void *buf, size_t len)
{
	int err = do_uring(IORING_OP_WRITE, mem, len);

	return err ? err : do_uring(IORING_OP_READ, buf, len);
}

static int uring_to(void *mem, void *buf, size_t len)
{
	int err = do_uring(IORING_OP_WRITE, buf, len);

	return err ? err : do_uring(IORING_OP_READ, mem, len);
}

FIXTURE(gup) {
	struct kvm_vm *vm;
	void *buf;
	void *mem;
	int fd;
};

FIXTURE_VARIANT(gup) {
	int (*from)(void *mem, void *buf, size_t len);
	int (*to)(void *mem, void *buf, size_t len);
	/* What it is if the memory cannot be had. */
	int err;
};

FIXTURE_VARIANT_ADD(gup, process_vm) {
	.from = process_vm_from,
	.to = process_vm_to,
	.err = EFAULT,
};

FIXTURE_VARIANT_ADD(gup, proc_mem) {
	.from = proc_mem_from,
	.to = proc_mem_to,
	.err = EIO,
};

FIXTURE_VARIANT_ADD(gup, vmsplice) {
	.from = pipe_from,
	.err = EFAULT,
};

FIXTURE_VARIANT_ADD(gup, direct_io) {
	.from = direct_from,
	.to = direct_to,
	.err = EFAULT,
};

FIXTURE_VARIANT_ADD(gup, io_uring) {
	.from = uring_from,
	.to = uring_to,
	.err = EFAULT,
};

FIXTURE_SETUP(gup)
{
	self->vm = vm_create_barebones();
	self->buf = anonymous_pages(SIZE);
	memset(self->buf, CANARY, SIZE);
	self->fd = -1;
}

FIXTURE_TEARDOWN(gup)
{
	close(self->fd);
	kvm_vm_free(self->vm);
	munmap(self->buf, SIZE);
}

/* Does the kernel have it, for memory that is like any other? */
static bool is_available(const FIXTURE_VARIANT(gup) *variant, void *mem)
{
	int err = variant->from(mem, mem, PAGE_SIZE);

	TEST_ASSERT(!err || err == ENOSYS || err == ENXIO, "errno %d", err);
	return !err;
}

TEST_F(gup, shared)
{
	if (!is_available(variant, self->buf))
		SKIP(return, "the kernel has no such access");
	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP | FLAG_SHARED);
	self->mem = gmem_map(self->fd, SIZE, 0);

	/* Pages that nobody has touched. */
	ASSERT_EQ(0, variant->from(self->mem, self->buf, SIZE));
	ASSERT_TRUE(pages_are_zero(self->buf, NR_PAGES));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));

	fill_pages(self->mem, NR_PAGES);
	ASSERT_EQ(0, variant->from(self->mem, self->buf, SIZE));
	ASSERT_TRUE(pages_are_filled(self->buf, NR_PAGES));

	if (variant->to) {
		gmem_punch_hole(self->fd, 0, SIZE / 2);
		memset(self->buf, CANARY, SIZE);
		ASSERT_EQ(0, variant->to(self->mem, self->buf, SIZE));
		ASSERT_EQ(0, memcmp(self->mem, self->buf, SIZE));
		ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	}
	munmap(self->mem, SIZE);
}

TEST_F(gup, unshared)
{
	if (!is_available(variant, self->buf))
		SKIP(return, "the kernel has no such access");
	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP);
	self->mem = gmem_map(self->fd, SIZE, 0);
	gmem_allocate(self->fd, 0, SIZE / 2);

	ASSERT_EQ(variant->err, variant->from(self->mem, self->buf, SIZE));
	ASSERT_EQ(variant->err, variant->from(self->mem + SIZE / 2, self->buf, SIZE / 2));
	ASSERT_TRUE(page_is(self->buf, 0, CANARY));
	if (variant->to)
		ASSERT_EQ(variant->err, variant->to(self->mem, self->buf, SIZE));
	ASSERT_EQ(NR_PAGES / 2, gmem_allocated_pages(self->fd));
	munmap(self->mem, SIZE);
}

/* Memory that the host shares. */
FIXTURE(shared) {
	struct kvm_vm *vm;
	void *mem;
	int fd;
};

FIXTURE_SETUP(shared)
{
	self->vm = vm_create_barebones();
	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP | FLAG_SHARED);
	self->mem = gmem_map(self->fd, SIZE, 0);
}

FIXTURE_TEARDOWN(shared)
{
	munmap(self->mem, SIZE);
	close(self->fd);
	kvm_vm_free(self->vm);
}

/* A hole is one even if somebody holds on to the old page. */
TEST_F(shared, punch_hole_while_pinned)
{
	struct iovec iov = { self->mem, 2 * PAGE_SIZE };
	char buf[2 * PAGE_SIZE];
	int fds[2];

	fill_pages(self->mem, 2);
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(sizeof(buf), vmsplice(fds[1], &iov, 1, 0));

	gmem_punch_hole(self->fd, 0, SIZE);
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	ASSERT_TRUE(pages_are_zero(self->mem, 2));
	*word_of(self->mem, 0) = 1234;

	ASSERT_EQ(sizeof(buf), read(fds[0], buf, sizeof(buf)));
	ASSERT_TRUE(pages_are_filled(buf, 2));
	ASSERT_EQ(1234, *word_of(self->mem, 0));

	gmem_punch_hole(self->fd, 0, SIZE);
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	close(fds[0]);
	close(fds[1]);
}

TEST_F(shared, populate)
{
	void *mem;

	ASSERT_EQ(0, madvise(self->mem, 2 * PAGE_SIZE, MADV_POPULATE_READ));
	ASSERT_EQ(2, gmem_allocated_pages(self->fd));
	ASSERT_EQ(0, madvise(self->mem, 4 * PAGE_SIZE, MADV_POPULATE_WRITE));
	ASSERT_EQ(4, gmem_allocated_pages(self->fd));
	mem = mmap(NULL, SIZE / 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		   self->fd, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(NR_PAGES / 2, gmem_allocated_pages(self->fd));
	munmap(mem, SIZE / 2);

	/* Locked pages can be removed too, in a hole and with the mapping. */
	ASSERT_EQ(0, mlock(self->mem, SIZE));
	ASSERT_EQ(NR_PAGES, gmem_allocated_pages(self->fd));
	fill_pages(self->mem, NR_PAGES);
	gmem_punch_hole(self->fd, 0, PAGE_SIZE);
	ASSERT_EQ(NR_PAGES - 1, gmem_allocated_pages(self->fd));
	ASSERT_TRUE(pages_are_zero(self->mem, 1));
	ASSERT_EQ(0, munlock(self->mem, SIZE / 2));
	ASSERT_TRUE(page_is(self->mem, 1, PAGE_BYTE(1)));

	/* Past the end there is nothing to be had. */
	mem = gmem_map(self->fd, SIZE + PAGE_SIZE, 0);
	ASSERT_EQ(EFAULT, errno_of(madvise(mem, SIZE + PAGE_SIZE, MADV_POPULATE_READ)));
	ASSERT_EQ(ENOMEM, errno_of(mlock(mem, SIZE + PAGE_SIZE)));
	munmap(mem, SIZE + PAGE_SIZE);
}

/* Would hand the filling of guest memory to whoever has the descriptor. */
TEST_F(shared, userfaultfd)
{
	static const uint64_t modes[] = {
		UFFDIO_REGISTER_MODE_MISSING,
		UFFDIO_REGISTER_MODE_WP,
		UFFDIO_REGISTER_MODE_MINOR,
	};
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range.len = SIZE };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC), i;

	if (fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		reg.range.start = (uintptr_t)self->mem;
		reg.mode = modes[i];
		ASSERT_EQ(EINVAL, errno_of(ioctl(fd, UFFDIO_REGISTER, &reg)));
	}

	/* Nothing else is wrong with the calls. */
	reg.range.start = (uintptr_t)anonymous_pages(SIZE);
	reg.mode = modes[0];
	ASSERT_EQ(0, ioctl(fd, UFFDIO_REGISTER, &reg));
	close(fd);
}

/* Memory that is the guest's alone. */
FIXTURE(unshared) {
	struct kvm_vm *vm;
	int fd;
};

FIXTURE_SETUP(unshared)
{
	self->vm = vm_create_barebones();
	self->fd = vm_create_guest_memfd(self->vm, SIZE, FLAG_MMAP);
}

FIXTURE_TEARDOWN(unshared)
{
	close(self->fd);
	kvm_vm_free(self->vm);
}

TEST_F(unshared, populate)
{
	void *mem;

	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		   self->fd, 0);
	ASSERT_NE(MAP_FAILED, mem);
	expect_sigbus(mem);
	ASSERT_EQ(EFAULT, errno_of(madvise(mem, SIZE, MADV_POPULATE_READ)));
	ASSERT_EQ(EFAULT, errno_of(madvise(mem, SIZE, MADV_POPULATE_WRITE)));
	/* The call's way to say that there is something that cannot be locked. */
	ASSERT_EQ(ENOMEM, errno_of(mlock(mem, SIZE)));
	expect_sigbus(mem);
	ASSERT_EQ(0, gmem_allocated_pages(self->fd));
	munmap(mem, SIZE);
}

/* Another process, which has nothing but a descriptor that it was sent. */

struct creation {
	pid_t pid;
	int vm_fd;
};

static void send_file(int sock, struct creation *creation, int fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = creation, .iov_len = sizeof(*creation) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	TEST_ASSERT(sendmsg(sock, &msg, 0) == sizeof(*creation), "errno %d", errno);
}

static int receive_file(int sock, struct creation *creation)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = creation, .iov_len = sizeof(*creation) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};
	int fd;

	TEST_ASSERT(recvmsg(sock, &msg, 0) == sizeof(*creation), "errno %d", errno);
	TEST_ASSERT_EQ(control.header.cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

/* KVM has a directory in debugfs for each VM. */
static bool vm_is_there(const struct creation *creation)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d", creation->pid,
		 creation->vm_fd);
	return !access(path, F_OK);
}

static void create_and_exit(int sock, bool killed)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd = vm_create_guest_memfd(vm, SIZE, FLAG_MMAP | FLAG_SHARED);
	struct creation creation = { .pid = getpid(), .vm_fd = vm->fd };
	void *mem = gmem_map(fd, SIZE, 0);
	char c;

	vm_bind_gmem(vm, 1, GPA, SIZE, fd, 0);
	fill_pages(mem, NR_PAGES / 2);
	send_file(sock, &creation, fd);
	TEST_ASSERT(read(sock, &c, 1) == 1, "errno %d", errno);
	TEST_ASSERT_EQ(*word_of(mem, 0), 1234UL);
	if (killed)
		raise(SIGKILL);

	munmap(mem, SIZE);
	close(fd);
	kvm_vm_free(vm);
	_exit(0);
}

FIXTURE(sent) {
};

FIXTURE_VARIANT(sent) {
	bool killed;
};

FIXTURE_VARIANT_ADD(sent, by_process_that_exits) {
	.killed = false,
};

FIXTURE_VARIANT_ADD(sent, by_process_that_is_killed) {
	.killed = true,
};

FIXTURE_SETUP(sent)
{
}

FIXTURE_TEARDOWN(sent)
{
}

TEST_F(sent, to_other_process)
{
	struct creation creation;
	int socks[2], fd, status;
	bool has_debugfs;
	void *mem;
	pid_t pid;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		close(socks[0]);
		create_and_exit(socks[1], variant->killed);
	}
	close(socks[1]);
	fd = receive_file(socks[0], &creation);
	has_debugfs = vm_is_there(&creation);
	mem = gmem_map(fd, SIZE, 0);
	ASSERT_TRUE(pages_are_filled(mem, NR_PAGES / 2));
	*word_of(mem, 0) = 1234;
	close(fd);
	ASSERT_EQ(1, write(socks[0], "", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(variant->killed ? SIGKILL : 0, status);

	/* The mapping is all that is left of the VM. */
	ASSERT_EQ(has_debugfs, vm_is_there(&creation));
	ASSERT_EQ(1234, *word_of(mem, 0));
	ASSERT_TRUE(page_is(mem, 1, PAGE_BYTE(1)));
	ASSERT_TRUE(pages_are_zero(mem + SIZE / 2, NR_PAGES / 2));
	fill_pages(mem, NR_PAGES);
	ASSERT_EQ(0, madvise(mem, PAGE_SIZE, MADV_REMOVE));
	ASSERT_TRUE(pages_are_zero(mem, 1));
	ASSERT_EQ(0, munmap(mem, SIZE));
	ASSERT_FALSE(vm_is_there(&creation));
	close(socks[0]);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_MMAP | FLAG_SHARED));

	return test_harness_run(argc, argv);
}
