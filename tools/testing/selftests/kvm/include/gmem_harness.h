/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kselftest harness, for tests of guest memory.  Include it after
 * kvm_gmem_util.h, and after everything else that redefines what it has.
 */
#ifndef SELFTEST_KVM_GMEM_HARNESS_H
#define SELFTEST_KVM_GMEM_HARNESS_H

#include "kselftest_harness.h"

/* Emulated CPUs and debug kernels are slow, a hang is the runner's business. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

#endif /* SELFTEST_KVM_GMEM_HARNESS_H */
