// SPDX-License-Identifier: GPL-2.0
/*
 * gmem_probe - prove from inside the guest what converting a page does
 *
 * KVM takes hypercalls from ring 0 only, and the guest kernel is unmodified,
 * so this module makes the conversion of a few pages that init cannot make.
 * It fails to load (EIO) when any check failed; nothing stays allocated.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/string.h>
#include <asm/processor.h>
#include <uapi/linux/kvm_para.h>

#include "probe.h"

#define ORDER	2
#define PAGES	(1U << ORDER)
#define BYTES	(PAGE_SIZE << ORDER)
#define WORDS	(BYTES / sizeof(u64))

static bool inplace;
module_param(inplace, bool, 0);
MODULE_PARM_DESC(inplace, "Conversions keep the content");

static unsigned long long *area;
static u32 area_pfn;
static bool all_good = true;

static void verdict(bool good, const char *what)
{
	pr_info("%s: %s\n", good ? "ok" : "FAILED", what);
	all_good &= good;
}

/* The VMM looks at its own mapping of the pages. */
static void ask_vmm(enum probe_cmd cmd, u32 seed, const char *what)
{
	outl(area_pfn, PROBE_PORT_ARG);
	outl(PAGES, PROBE_PORT_ARG);
	if (cmd == PROBE_CHECK_PATTERN || cmd == PROBE_FILL_PATTERN)
		outl(seed, PROBE_PORT_ARG);
	outl(cmd, PROBE_PORT_CMD);
	verdict(inl(PROBE_PORT_CMD), what);
}

/* The guest looked; the VMM keeps the score. */
static void tell_vmm(enum probe_result result, bool good, const char *what)
{
	outl(result, PROBE_PORT_ARG);
	outl(good, PROBE_PORT_ARG);
	outl(PROBE_RESULT, PROBE_PORT_CMD);
	verdict(good, what);
}

static bool area_is_zero(void)
{
	return !memchr_inv(area, 0, BYTES);
}

static bool area_matches(u32 seed)
{
	return probe_matches(area, WORDS, seed);
}

static long ask_conversion(unsigned long attributes)
{
	return kvm_hypercall3(KVM_HC_MAP_GPA_RANGE, (u64)area_pfn << PAGE_SHIFT,
			      PAGES, attributes | KVM_MAP_GPA_RANGE_PAGE_SZ_4K);
}

static int convert(unsigned long attributes)
{
	long ret = ask_conversion(attributes);

	if (ret)
		pr_err("MAP_GPA_RANGE of pfn %#x failed: %ld\n", area_pfn, ret);
	return ret ? -EIO : 0;
}

/* The area is shared: guest and VMM see the same pages. */
static void probe_sharing(void)
{
	probe_fill(area, WORDS, 2);
	ask_vmm(PROBE_CHECK_PATTERN, 2, "the VMM reads what is shared");
	ask_vmm(PROBE_FILL_PATTERN, 3, "the VMM writes shared pages");
	tell_vmm(PROBE_SHARED_FROM_VMM, area_matches(3),
		 "the guest reads what the VMM wrote");
}

/* Private and shared side are two places: a conversion starts from zero. */
static int probe_two_sides(void)
{
	int ret;

	probe_fill(area, WORDS, 1);
	ask_vmm(PROBE_CHECK_ABSENT, 0, "private data is not in the VMM's mapping");

	ret = convert(KVM_MAP_GPA_RANGE_DECRYPTED);
	if (ret)
		return ret;
	tell_vmm(PROBE_SHARED_STARTS_ZERO, area_is_zero(),
		 "pages converted to shared read zero");
	probe_sharing();

	ret = convert(KVM_MAP_GPA_RANGE_ENCRYPTED);
	if (ret)
		return ret;
	tell_vmm(PROBE_PRIVATE_STARTS_ZERO, area_is_zero(),
		 "pages converted back to private read zero");
	ask_vmm(PROBE_CHECK_ABSENT, 0, "the VMM's side reads zero as well");
	probe_fill(area, WORDS, 4);

	ret = convert(KVM_MAP_GPA_RANGE_DECRYPTED);
	if (ret)
		return ret;
	tell_vmm(PROBE_SHARED_AGAIN_ZERO, area_is_zero(),
		 "converted again, the private data is gone");
	return convert(KVM_MAP_GPA_RANGE_ENCRYPTED);
}

/* One place: a conversion keeps the content, and only says who may see it. */
static int probe_in_place(void)
{
	int ret;

	probe_fill(area, WORDS, 1);
	ask_vmm(PROBE_CHECK_ABSENT, 0, "the VMM cannot touch private pages");

	ret = convert(KVM_MAP_GPA_RANGE_DECRYPTED);
	if (ret)
		return ret;
	tell_vmm(PROBE_SHARED_KEEPS, area_matches(1),
		 "pages converted to shared keep their content");
	ask_vmm(PROBE_CHECK_PATTERN, 1, "the VMM reads what was private");
	probe_sharing();

	ret = convert(KVM_MAP_GPA_RANGE_ENCRYPTED);
	if (ret)
		return ret;
	tell_vmm(PROBE_PRIVATE_KEEPS, area_matches(3),
		 "pages converted back to private keep their content");
	ask_vmm(PROBE_CHECK_ABSENT, 0, "the VMM cannot touch them any more");
	return 0;
}

/* As long as the VMM holds on to a page, it could change it: it stays shared. */
static int probe_pin(void)
{
	int ret;

	ret = convert(KVM_MAP_GPA_RANGE_DECRYPTED);
	if (ret)
		return ret;
	probe_fill(area, WORDS, 5);
	ask_vmm(PROBE_PIN, 0, "the VMM pins a page");
	tell_vmm(PROBE_PIN_REFUSED, ask_conversion(KVM_MAP_GPA_RANGE_ENCRYPTED) == -KVM_EPERM,
		 "a pinned page is not converted to private");
	ask_vmm(PROBE_CHECK_PATTERN, 5, "all of them are shared as before");
	outl(PROBE_UNPIN, PROBE_PORT_CMD);
	ret = convert(KVM_MAP_GPA_RANGE_ENCRYPTED);
	if (ret)
		return ret;
	tell_vmm(PROBE_PIN_KEEPS, area_matches(5), "released, it is converted");
	return 0;
}

static int probe_conversion(void)
{
	int ret;

	if (!inplace)
		return probe_two_sides();
	ret = probe_in_place();
	return ret ?: probe_pin();
}

/* What kvm_para_has_feature() would say, which is not exported to modules. */
static bool can_convert(void)
{
	u32 base = hypervisor_cpuid_base(KVM_SIGNATURE, 0);

	return base && cpuid_eax(base | KVM_CPUID_FEATURES) &
		       BIT(KVM_FEATURE_HC_MAP_GPA_RANGE);
}

static int __init gmem_probe_init(void)
{
	int ret;

	if (!can_convert())
		return -ENODEV;
	area = (void *)__get_free_pages(GFP_KERNEL, ORDER);
	if (!area)
		return -ENOMEM;
	area_pfn = virt_to_phys(area) >> PAGE_SHIFT;
	ret = probe_conversion();
	/* After a failed conversion nobody knows what the pages are: leak them. */
	if (ret)
		return ret;
	free_pages((unsigned long)area, ORDER);
	return all_good ? 0 : -EIO;
}
module_init(gmem_probe_init);

MODULE_DESCRIPTION("Page conversion checks for the gmem_vmm demo guest");
MODULE_LICENSE("GPL");
