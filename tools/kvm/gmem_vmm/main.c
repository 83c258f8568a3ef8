// SPDX-License-Identifier: GPL-2.0
/*
 * The life of the VM: create it, load the guest, run it, say what happened.
 *
 * The main thread only waits.  Each vCPU has a thread of its own; the first one
 * that sees the guest end calls vm_stop(), which wakes the main thread with
 * SIGUSR1.  SIGINT and SIGTERM come the same way, so that there is one path on
 * which vCPUs stop and the table is printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gmem_vmm.h"

static void vreport(const char *fmt, va_list ap)
{
	fflush(stdout);
	fputs("gmem_vmm: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void die(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vreport(fmt, ap);
	va_end(ap);
	serial_exit();
	exit(status);
}

void warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vreport(fmt, ap);
	va_end(ap);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Blocked in every thread: only wait_for_end() takes them. */
static void block_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, set, NULL);
}

static void wait_for_end(struct vmm *vmm, const sigset_t *set)
{
	const struct timespec period = { .tv_sec = vmm->opt.stats };
	unsigned int i;
	int sig;

	while ((sig = vmm->opt.stats ? sigtimedwait(set, NULL, &period) :
				       sigwaitinfo(set, NULL)) < 0) {
		if (errno == EAGAIN)
			live_line(vmm);
	}
	if (sig != SIGUSR1)
		vm_stop(vmm, 128 + sig, "signal %d (%s)", sig, strsignal(sig));
	for (i = 0; i < vmm->opt.cpus; i++)
		vcpu_stop(&vmm->vcpu[i]);
}

int main(int argc, char **argv)
{
	static struct vmm vmm = {
		.ram.lock = PTHREAD_MUTEX_INITIALIZER,
		.stop_lock = PTHREAD_MUTEX_INITIALIZER,
	};
	sigset_t set;
	unsigned int i;
	bool failed;

	parse_options(&vmm.opt, argc, argv);
	if (vmm.opt.dump_image) {
		dump_image(&vmm);
		return 0;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	block_signals(&set);
	vmm.main_thread = pthread_self();

	if (vmm.opt.second_process)
		second_start();
	vm_create(&vmm);
	ram_create(&vmm);
	if (vmm.opt.second_process)
		second_give_file(&vmm);
	if (vmm.opt.measure)
		measure_attach(&vmm);
	for (i = 0; i < vmm.opt.cpus; i++)
		vcpu_create(&vmm, i);
	serial_init(&vmm);
	vmm.start_ns = now_ns();
	load_guest(&vmm);
	if (vmm.opt.prefault)
		prefault_ram(&vmm);

	for (i = 0; i < vmm.opt.cpus; i++)
		vcpu_start(&vmm.vcpu[i]);
	wait_for_end(&vmm, &set);

	serial_exit();
	if (vmm.opt.stats)
		live_line(&vmm);
	report(&vmm);
	failed = vmm.proofs_failed ||
		 (vmm.opt.measure && measure_status(&vmm).violations);
	return failed && !vmm.status ? 1 : vmm.status;
}
