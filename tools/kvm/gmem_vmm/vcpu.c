// SPDX-License-Identifier: GPL-2.0
/*
 * vCPU threads.  A thread sits in KVM_RUN; each return is an exit to handle.
 * The two that concern private memory are KVM_EXIT_HYPERCALL, by which the
 * guest asks for a conversion, and KVM_EXIT_MEMORY_FAULT, by which KVM says that
 * an access does not fit the attributes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "gmem_vmm.h"

#define KICK_SIGNAL	SIGUSR2

#define CR0_PE		1ULL

void vcpu_create(struct vmm *vmm, unsigned int id)
{
	struct vcpu *vcpu = &vmm->vcpu[id];

	vcpu->vmm = vmm;
	vcpu->id = id;
	vcpu->fd = ioctl(vmm->vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (vcpu->fd < 0)
		die(1, "KVM_CREATE_VCPU %u: %s", id, strerror(errno));
	vcpu->run = mmap(NULL, vmm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die(1, "vCPU %u: mmap of kvm_run: %s", id, strerror(errno));
	cpuid_set(vcpu);
	error_reports_on(vcpu);
	vcpu->stats_fd = stats_open(vcpu->fd);
}

/* 32-bit protected mode, flat segments, no paging, interrupts off. */
void vcpu_flat_mode(struct vcpu *vcpu, uint64_t rip, uint64_t rsi)
{
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = BOOT_CS, .type = 11,
		.present = 1, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_segment data = code;
	struct kvm_regs regs = {
		.rip = rip, .rsi = rsi, .rflags = 2,
	};
	struct kvm_sregs sregs;

	data.selector = BOOT_DS;
	data.type = 3;
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die(1, "KVM_GET_SREGS: %s", strerror(errno));
	sregs.cs = code;
	sregs.ds = data;
	sregs.es = data;
	sregs.fs = data;
	sregs.gs = data;
	sregs.ss = data;
	sregs.gdt.base = GDT_GPA;
	sregs.gdt.limit = BOOT_DS + 7;
	sregs.cr0 |= CR0_PE;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) ||
	    ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die(1, "KVM_SET_SREGS, KVM_SET_REGS: %s", strerror(errno));
}

/* Of a vCPU that does not run; 0 if KVM does not know it. */
uint64_t vcpu_msr(struct vcpu *vcpu, uint32_t msr)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry.index = msr };

	return ioctl(vcpu->fd, KVM_GET_MSRS, &msrs) == 1 ? msrs.entry.data : 0;
}

/* The first reason to stop is kept; the main thread does the stopping. */
void vm_stop(struct vmm *vmm, int status, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&vmm->stop_lock);
	if (!vmm->stop) {
		va_start(ap, fmt);
		vsnprintf(vmm->reason, sizeof(vmm->reason), fmt, ap);
		va_end(ap);
		vmm->status = status;
		__atomic_store_n(&vmm->stop, true, __ATOMIC_RELEASE);
		pthread_kill(vmm->main_thread, SIGUSR1);
	}
	pthread_mutex_unlock(&vmm->stop_lock);
}

static void handle_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint32_t i, value;

	for (i = 0; i < run->io.count; i++, data += run->io.size) {
		value = 0;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, run->io.size);
			port_out(vcpu->vmm, run->io.port, value);
		} else {
			value = port_in(vcpu->vmm, run->io.port);
			memcpy(data, &value, run->io.size);
		}
	}
}

/* No device has MMIO here, so this is a probe: nothing answers. */
static void handle_mmio(struct vcpu *vcpu)
{
	if (!vcpu->run->mmio.is_write)
		memset(vcpu->run->mmio.data, 0xff, sizeof(vcpu->run->mmio.data));
}

/*
 * With --prefault RAM is always mapped: also what was just converted, which the
 * guest is about to use.  If yet another conversion overtakes this one, it maps
 * what is right by then.
 */
static void map_converted(struct vcpu *vcpu, uint64_t gpa, uint64_t size)
{
	int ret = vcpu->vmm->opt.prefault ? prefault_converted(vcpu, gpa, size) : 0;

	if (ret)
		vm_stop(vcpu->vmm, 1, "mapping gpa %#llx after conversion: %s",
			(unsigned long long)gpa, strerror(-ret));
}

/*
 * MAP_GPA_RANGE(gpa, pages, attributes).  KVM checked alignment and wrap.  What
 * is not RAM is refused, so that the guest does not take it for converted; and so
 * is what cannot become private as somebody holds on to it.
 */
static void handle_hypercall(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t gpa, size;
	int ret;

	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE) {
		run->hypercall.ret = -KVM_ENOSYS;
		return;
	}
	gpa = run->hypercall.args[0];
	size = run->hypercall.args[1] * PAGE_SIZE;
	ret = ram_convert(vcpu->vmm, gpa, size,
			  run->hypercall.args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED);
	run->hypercall.ret = !ret ? 0 : ret == -EAGAIN ? -KVM_EPERM : -KVM_EINVAL;
	if (!ret)
		map_converted(vcpu, gpa, size);
}

/*
 * Give the guest what it accessed, private or shared.  If the attribute is as
 * wanted already, another vCPU may have converted the page while this exit was
 * on its way: then try again.  Otherwise nothing would change: stop.
 */
static void handle_memory_fault(struct vcpu *vcpu)
{
	struct gmem_memory_fault fault = *gmem_memory_fault(vcpu->run);
	bool private = fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE;
	struct vmm *vmm = vcpu->vmm;
	int ret;

	vcpu->faults++;
	if (vmm->opt.verbose)
		warn("vCPU %u: memory fault: gpa %#llx, %llu bytes, %s access", vcpu->id,
		     (unsigned long long)fault.gpa, (unsigned long long)fault.size,
		     private ? "private" : "shared");
	if (ram_in_vmm(vmm, fault.gpa, fault.size) &&
	    ram_is_private(vmm, fault.gpa) == private) {
		if (ram_conversions(vmm) != vcpu->conversions)
			return;
		ret = -EFAULT;
	} else {
		ret = ram_convert(vmm, fault.gpa, fault.size, private);
	}
	if (ret)
		vm_stop(vmm, 1, "memory fault at gpa %#llx, %s access: %s",
			(unsigned long long)fault.gpa, private ? "private" : "shared",
			strerror(-ret));
	else
		map_converted(vcpu, fault.gpa, fault.size);
}

static void handle_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		break;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		break;
	case KVM_EXIT_HYPERCALL:
		handle_hypercall(vcpu);
		break;
	case KVM_EXIT_SHUTDOWN:
		vm_stop(vcpu->vmm, 1, "triple fault on vCPU %u", vcpu->id);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vm_stop(vcpu->vmm, 1, "KVM internal error %u on vCPU %u",
			run->internal.suberror, vcpu->id);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vm_stop(vcpu->vmm, 1, "vCPU %u does not enter the guest: reason %#llx", vcpu->id,
			run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		vm_stop(vcpu->vmm, 1, "unexpected exit %u on vCPU %u", run->exit_reason,
			vcpu->id);
	}
}

/*
 * One KVM_RUN: 0 or -errno.  Memory faults come with EFAULT or EHWPOISON; with
 * any other errno exit_reason means nothing.
 */
static int vcpu_run(struct vcpu *vcpu)
{
	int ret = ioctl(vcpu->fd, KVM_RUN, 0UL) ? -errno : 0;
	uint32_t reason = vcpu->run->exit_reason;

	if ((!ret || ret == -EFAULT || ret == -EHWPOISON) && reason < NR_EXIT_KINDS)
		vcpu->exits[reason]++;
	return ret;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	struct vmm *vmm = vcpu->vmm;
	int ret;

	while (!__atomic_load_n(&vmm->stop, __ATOMIC_ACQUIRE)) {
		vcpu->conversions = ram_conversions(vmm);
		ret = vcpu_run(vcpu);
		if (!ret)
			handle_exit(vcpu);
		else if (ret == -EFAULT && vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT)
			handle_memory_fault(vcpu);
		else if (ret == -EHWPOISON)
			handle_memory_error(vcpu);
		/* EAGAIN: a vCPU that waits for its start-up IPI was woken. */
		else if (ret != -EINTR && ret != -EAGAIN)
			vm_stop(vmm, 1, "KVM_RUN on vCPU %u: %s", vcpu->id, strerror(-ret));
	}
	return NULL;
}

static void kick(int sig)
{
	(void)sig;
}

void vcpu_start(struct vcpu *vcpu)
{
	struct sigaction sa = { .sa_handler = kick };
	int ret;

	sigaction(KICK_SIGNAL, &sa, NULL);
	ret = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (ret)
		die(1, "thread of vCPU %u: %s", vcpu->id, strerror(ret));
}

/*
 * immediate_exit makes the next KVM_RUN return, the signal a running one: the
 * thread cannot slip in between.
 */
void vcpu_stop(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
	pthread_join(vcpu->thread, NULL);
}
