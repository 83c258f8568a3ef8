// SPDX-License-Identifier: GPL-2.0
/*
 * Private memory in a file that the process has mapped.
 *
 * Proves that its contents cannot be reached by any means that a process has:
 * system calls that take an address, those that take the file, those that have
 * somebody else read or write, other VMs, other slots.  Most of them are tried on a
 * shared page as well, where they work.
 */
#include "gmem_inplace.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>

#include <linux/io_uring.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

FIXTURE(unreachable) {
	struct env env;
	uint64_t vals[NR_PAGES];
	uint64_t *private;
	uint64_t *shared;
	uint64_t buffer[PAGE_WORDS] __aligned(PAGE_SIZE);
};

#define PRIVATE_PAGE	30UL
#define SHARED_PAGE	31UL

FIXTURE_SETUP(unreachable)
{
	env_setup(&self->env);
	make_vals(self->vals, 1);
	host_fill(&self->env, self->vals);
	set_private(&self->env, PRIVATE_PAGE, 1);
	self->private = host_page(&self->env, PRIVATE_PAGE);
	self->shared = host_page(&self->env, SHARED_PAGE);
}

/* Whatever was tried, the guest has its data, and it is still private. */
FIXTURE_TEARDOWN(unreachable)
{
	guest_check(&self->env, 0, NR_PAGES, self->vals);
	expect_sigbus(self->private);
	env_teardown(&self->env);
}

TEST_F(unreachable, proc_mem)
{
	int fd = open("/proc/self/mem", O_RDWR);
	uint64_t word;

	ASSERT_LE(0, fd);
	ASSERT_EQ(8, pread(fd, &word, 8, (off_t)self->shared));
	ASSERT_EQ(self->vals[SHARED_PAGE], word);
	ASSERT_EQ(EIO, errno_of(pread(fd, &word, 8, (off_t)self->private)));
	ASSERT_EQ(EIO, errno_of(pwrite(fd, &word, 8, (off_t)self->private)));
	close(fd);
}

TEST_F(unreachable, process_vm)
{
	struct iovec remote = { self->private, PAGE_SIZE };
	struct iovec local = { self->buffer, PAGE_SIZE };

	if (!has_process_vm())
		SKIP(return, "no process_vm_readv()");

	ASSERT_EQ(EFAULT, errno_of(syscall(SYS_process_vm_readv, getpid(), &local, 1UL,
					   &remote, 1UL, 0UL)));
	ASSERT_EQ(EFAULT, errno_of(syscall(SYS_process_vm_writev, getpid(), &local, 1UL,
					   &remote, 1UL, 0UL)));
	remote.iov_base = self->shared;
	ASSERT_EQ(PAGE_SIZE, syscall(SYS_process_vm_readv, getpid(), &local, 1UL,
				     &remote, 1UL, 0UL));
	ASSERT_EQ(self->vals[SHARED_PAGE], self->buffer[0]);
}

TEST_F(unreachable, ptrace)
{
	uint64_t word = 0;
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));

	errno = 0;
	ASSERT_EQ(self->vals[SHARED_PAGE],
		  ptrace(PTRACE_PEEKDATA, pid, self->shared, NULL));
	ASSERT_EQ(0, errno);
	errno = 0;
	ASSERT_EQ(-1, ptrace(PTRACE_PEEKDATA, pid, self->private, NULL));
	ASSERT_EQ(EIO, errno);
	ASSERT_EQ(EIO, errno_of(ptrace(PTRACE_POKEDATA, pid, self->private, word)));

	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	wait_for_child(pid);
}

/* System calls that take the memory as a buffer. */
TEST_F(unreachable, buffer)
{
	struct iovec iov = { self->private, PAGE_SIZE };
	uint64_t word;
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(EFAULT, errno_of(write(pipes[1], self->private, 8)));
	ASSERT_EQ(EFAULT, errno_of(vmsplice(pipes[1], &iov, 1, 0)));
	ASSERT_EQ(EFAULT, errno_of(vmsplice(pipes[1], &iov, 1, SPLICE_F_GIFT)));

	ASSERT_EQ(8, write(pipes[1], self->shared, 8));
	ASSERT_EQ(EFAULT, errno_of(read(pipes[0], self->private, 8)));
	ASSERT_EQ(8, write(pipes[1], self->shared, 8));
	ASSERT_EQ(8, read(pipes[0], &word, 8));
	ASSERT_EQ(self->vals[SHARED_PAGE], word);
	close(pipes[0]);
	close(pipes[1]);

	ASSERT_EQ(EFAULT, errno_of(madvise(self->private, PAGE_SIZE,
					   MADV_POPULATE_READ)));
	ASSERT_EQ(0, madvise(self->shared, PAGE_SIZE, MADV_POPULATE_READ));
	ASSERT_EQ(ENOMEM, errno_of(mlock(self->private, PAGE_SIZE)));
	ASSERT_EQ(0, mlock(self->shared, PAGE_SIZE));
}

TEST_F(unreachable, direct_io)
{
	int fd = open("/dev/ram0", O_RDWR | O_DIRECT);

	if (fd < 0)
		SKIP(return, "no /dev/ram0");

	memset(self->buffer, 0x77, PAGE_SIZE);
	ASSERT_EQ(PAGE_SIZE, pwrite(fd, self->buffer, PAGE_SIZE, 0));
	ASSERT_EQ(EFAULT, errno_of(pwrite(fd, self->private, PAGE_SIZE, 0)));
	ASSERT_EQ(EFAULT, errno_of(pread(fd, self->private, PAGE_SIZE, 0)));
	ASSERT_EQ(PAGE_SIZE, pread(fd, self->buffer, PAGE_SIZE, 0));
	ASSERT_EQ(0x7777777777777777ULL, self->buffer[0]);

	ASSERT_EQ(PAGE_SIZE, pwrite(fd, self->shared, PAGE_SIZE, 0));
	ASSERT_EQ(PAGE_SIZE, pread(fd, self->buffer, PAGE_SIZE, 0));
	ASSERT_EQ(self->vals[SHARED_PAGE], self->buffer[0]);
	close(fd);
}

/* The file has no way in but the mapping. */
TEST_F(unreachable, file)
{
	struct env *env = &self->env;
	off_t offset = file_index(PRIVATE_PAGE) * PAGE_SIZE, to = 0;
	int pipes[2], other;

	ASSERT_EQ(0, pipe(pipes));
	other = open("/tmp/private_mem_unreachable_test", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (other < 0)
		other = memfd_create("other", 0);
	ASSERT_LE(0, other);

	ASSERT_EQ(EINVAL, errno_of(read(env->fd, self->buffer, PAGE_SIZE)));
	ASSERT_EQ(ESPIPE, errno_of(pread(env->fd, self->buffer, PAGE_SIZE, offset)));
	ASSERT_EQ(EINVAL, errno_of(write(env->fd, self->buffer, PAGE_SIZE)));
	ASSERT_EQ(ESPIPE, errno_of(pwrite(env->fd, self->buffer, PAGE_SIZE, offset)));
	ASSERT_EQ(EINVAL, errno_of(splice(env->fd, NULL, pipes[1], NULL, PAGE_SIZE, 0)));
	ASSERT_EQ(EINVAL, errno_of(sendfile(pipes[1], env->fd, NULL, PAGE_SIZE)));
	ASSERT_EQ(EXDEV, errno_of(copy_file_range(env->fd, &offset, other, &to,
						  PAGE_SIZE, 0)));
	/* Not a private copy either. */
	ASSERT_EQ(EINVAL, errno_of((long)mmap(NULL, FILE_SIZE, PROT_READ, MAP_PRIVATE,
					      env->fd, 0)));

	close(other);
	unlink("/tmp/private_mem_unreachable_test");
	close(pipes[0]);
	close(pipes[1]);
}

/*
 * Registered buffers are pinned for good.  Io_uring refuses files that are not on
 * shmem or hugetlbfs anyway, but only after it has pinned the pages.
 */
TEST_F(unreachable, io_uring)
{
	struct iovec iov = { self->private, PAGE_SIZE };
	struct io_uring_params params = {};
	int fd = syscall(SYS_io_uring_setup, 1, &params);

	if (fd < 0)
		SKIP(return, "no io_uring");
	ASSERT_EQ(EFAULT, errno_of(syscall(SYS_io_uring_register, fd,
					   IORING_REGISTER_BUFFERS, &iov, 1)));
	iov.iov_base = self->shared;
	ASSERT_EQ(EOPNOTSUPP, errno_of(syscall(SYS_io_uring_register, fd,
					       IORING_REGISTER_BUFFERS, &iov, 1)));
	set_private(&self->env, SHARED_PAGE, 1);
	expect_sigbus(self->shared);
	close(fd);
}

TEST_F(unreachable, userfaultfd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.start = (unsigned long)self->private,
		.range.len = PAGE_SIZE,
	};
	static const uint64_t modes[] = {
		UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP,
		UFFDIO_REGISTER_MODE_MINOR,
	};
	unsigned int i;
	int fd;

	fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "no userfaultfd()");
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		reg.mode = modes[i];
		ASSERT_EQ(EINVAL, errno_of(ioctl(fd, UFFDIO_REGISTER, &reg)));
	}
	close(fd);
}

/* Guest of the next test: reads the word that it is told. */
static void guest_peek(uint64_t gpa)
{
	for (;;)
		GUEST_SYNC(*(volatile uint64_t *)gpa);
}

static uint64_t peek(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), (uint64_t)UCALL_SYNC);
	return uc.args[1];
}

#define ALIAS_SLOT	20
#define ALIAS_GPA	(GPA + 16 * SIZE)

/*
 * The mapping is ordinary memory of another VM, which has the page mapped when it
 * becomes private.
 */
TEST_F(unreachable, other_vm)
{
	struct env *env = &self->env;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	set_shared(env, PRIVATE_PAGE, 1);

	vm = vm_create_type_with_one_vcpu(KVM_X86_DEFAULT_VM, &vcpu, NR_PAGES,
					  guest_peek);
	virt_map(vm, ALIAS_GPA, ALIAS_GPA, NR_PAGES);
	vcpu_args_set(vcpu, 1, ALIAS_GPA);
	vm_set_user_memory_region2(vm, ALIAS_SLOT, 0, ALIAS_GPA, PAGE_SIZE,
				   self->private, 0, 0);
	ASSERT_EQ(self->vals[PRIVATE_PAGE], peek(vcpu));

	for (i = 0; i < 2; i++) {
		/* KVM holds no reference for what a guest has mapped. */
		set_private(env, PRIVATE_PAGE, 1);
		ASSERT_EQ(EFAULT, errno_of(_vcpu_run(vcpu)));
		ASSERT_EQ(EFAULT, errno_of(_vcpu_run(vcpu)));
		guest_check(env, PRIVATE_PAGE, 1, &self->vals[PRIVATE_PAGE]);

		self->vals[PRIVATE_PAGE] = VAL(i + 2, PRIVATE_PAGE);
		guest_write(env, PRIVATE_PAGE, 1, &self->vals[PRIVATE_PAGE]);
		set_shared(env, PRIVATE_PAGE, 1);
		ASSERT_EQ(self->vals[PRIVATE_PAGE], peek(vcpu));
	}

	set_private(env, PRIVATE_PAGE, 1);
	kvm_vm_free(vm);
}

/* The same with a slot of the VM itself, whose gfn there is shared. */
TEST_F(unreachable, alias_slot)
{
	struct env *env = &self->env;
	struct guest_cmd *cmd = guest_cmd_of(env);
	const unsigned long page = (ALIAS_GPA - GPA) / PAGE_SIZE;
	int i;

	virt_map(env->vm, ALIAS_GPA, ALIAS_GPA, 1);
	vm_set_user_memory_region2(env->vm, ALIAS_SLOT, 0, ALIAS_GPA, PAGE_SIZE,
				   self->private, 0, 0);
	cmd->op = OP_READ;
	cmd->page = page;
	cmd->npages = 1;
	ASSERT_EQ(EFAULT, errno_of(_vcpu_run(env->vcpus[0])));
	ASSERT_EQ(EFAULT, errno_of(_vcpu_run(env->vcpus[0])));

	set_shared(env, PRIVATE_PAGE, 1);
	guest_goes_on(env, self->vals[PRIVATE_PAGE]);
	for (i = 0; i < 2; i++) {
		guest_check(env, page, 1, &self->vals[PRIVATE_PAGE]);
		set_private(env, PRIVATE_PAGE, 1);
		cmd->op = OP_READ;
		cmd->page = page;
		ASSERT_EQ(EFAULT, errno_of(_vcpu_run(env->vcpus[0])));
		set_shared(env, PRIVATE_PAGE, 1);
		guest_goes_on(env, self->vals[PRIVATE_PAGE]);
	}
	set_private(env, PRIVATE_PAGE, 1);
	vm_delete_slot(env->vm, ALIAS_SLOT);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(GUEST_MEMFD_FLAG_MMAP));
	disable_guest_interrupts();

	return test_harness_run(argc, argv);
}
