// SPDX-License-Identifier: GPL-2.0
/*
 * A second process that has the guest's memory (--second-process), as a device model
 * of its own would.  It is started before there is a VM, so it has nothing but what
 * comes over its socket: the file, once, and then the secrets to look for.
 *
 * It maps the file before the guest runs and keeps this mapping.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gmem_vmm.h"

static int sock = -1;

/* Room for one file descriptor beside the data. */
union control {
	struct cmsghdr head;
	char room[CMSG_SPACE(sizeof(int))];
};

static struct msghdr message(struct iovec *iov, union control *control)
{
	return (struct msghdr){
		.msg_iov = iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(*control),
	};
}

static void *receive_file(uint64_t *size)
{
	struct iovec iov = { .iov_base = size, .iov_len = sizeof(*size) };
	union control control = { };
	struct msghdr msg = message(&iov, &control);
	int fd;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != sizeof(*size) ||
	    !msg.msg_controllen || control.head.cmsg_type != SCM_RIGHTS)
		return MAP_FAILED;
	memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	return mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, 0);
}

/* Ends when the VMM has closed its end, or is no more. */
__attribute__((noreturn))
static void second_main(void)
{
	uint64_t size, found;
	uint32_t seed;
	void *ram;

	ram = receive_file(&size);
	while (ram != MAP_FAILED && recv(sock, &seed, sizeof(seed), 0) == sizeof(seed)) {
		found = search_secret(ram, size, seed).found;
		if (send(sock, &found, sizeof(found), MSG_NOSIGNAL) != sizeof(found))
			break;
	}
	_exit(0);
}

void second_start(void)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		die(1, "--second-process: socketpair: %s", strerror(errno));
	switch (fork()) {
	case -1:
		die(1, "--second-process: fork: %s", strerror(errno));
	case 0:
		close(ends[0]);
		sock = ends[1];
		second_main();
	default:
		close(ends[1]);
		sock = ends[0];
	}
}

void second_give_file(struct vmm *vmm)
{
	uint64_t size = vmm->opt.mem;
	struct iovec iov = { .iov_base = &size, .iov_len = sizeof(size) };
	union control control = { };
	struct msghdr msg = message(&iov, &control);

	control.head = (struct cmsghdr){
		.cmsg_len = CMSG_LEN(sizeof(int)),
		.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
	};
	memcpy(CMSG_DATA(&control.head), &vmm->ram.fd, sizeof(int));
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) != sizeof(size))
		die(1, "--second-process: sending the file: %s", strerror(errno));
}

/* How often it finds the secret; 0 as well if it does not answer. */
uint64_t second_search(uint32_t seed)
{
	uint64_t found;

	if (send(sock, &seed, sizeof(seed), MSG_NOSIGNAL) != sizeof(seed) ||
	    recv(sock, &found, sizeof(found), 0) != sizeof(found))
		return 0;
	return found;
}
