// SPDX-License-Identifier: GPL-2.0-only
/*
 * A back end for private memory in software: what SEV-SNP, TDX or pKVM have in
 * hardware or below the kernel is a table here.  It encrypts nothing; it is there
 * to check the code that calls back ends, and to test launches that are measured.
 *
 * The table says for each page whose it is: VM and gfn.  The rules are those of
 * hardware that keeps such a table:
 * - a page has one owner, a page that has one cannot be given to another gfn;
 * - a page is nobody's when it is freed.
 * A rule that is broken is counted and logged, and the page is not mapped.
 *
 * <linux/kvm_gmem_soft.h> describes the interface for user space.
 */

#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/kvm_gmem_soft.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>
#include <crypto/hash.h>
#include <crypto/sha2.h>

#include "guest_memfd.h"

#define SOFT_MAX_ORDER	18

struct soft_vm {
	struct kvm *kvm;
	unsigned int max_order;
	/* Serialises populate, finalise and status. */
	struct mutex lock;
	struct shash_desc *hash;
	u64 populated;
	bool finalised;
	/* By owners_lock. */
	u64 prepared;
	u64 invalidated;
	u64 owned;
	u64 violations;
	u32 bugs;
};

struct owner {
	struct soft_vm *vm;
	gfn_t gfn;
	/* Of the block that the page was last mapped with. */
	unsigned int order;
};

/* pfn to struct owner.  Below the folio lock. */
static DEFINE_XARRAY(owners);
static DEFINE_MUTEX(owners_lock);

static struct soft_vm *to_soft_vm(struct kvm *kvm)
{
	return kvm->gmem_ops_data;
}

static void violation(struct soft_vm *vm, const struct owner *owner,
		      kvm_pfn_t pfn, const char *what)
{
	vm->violations++;
	pr_err("kvm-gmem-soft: pfn %#llx %s, owned as gfn %#llx of order %u\n",
	       pfn, what, owner->gfn, owner->order);
}

static int own_page(struct soft_vm *vm, gfn_t gfn, kvm_pfn_t pfn,
		    unsigned int order)
{
	struct owner *owner = xa_load(&owners, pfn);
	int r;

	if (owner) {
		if (owner->vm != vm || owner->gfn != gfn) {
			violation(vm, owner, pfn, "is given to another gfn");
			return -EIO;
		}
		owner->order = order;
		return 0;
	}

	owner = kmalloc(sizeof(*owner), GFP_KERNEL_ACCOUNT);
	if (!owner)
		return -ENOMEM;
	*owner = (struct owner){ .vm = vm, .gfn = gfn, .order = order };
	r = xa_err(xa_store(&owners, pfn, owner, GFP_KERNEL_ACCOUNT));
	if (r) {
		kfree(owner);
		return r;
	}
	vm->prepared++;
	vm->owned++;

	return 0;
}

static void disown_page(struct owner *owner, kvm_pfn_t pfn)
{
	xa_erase(&owners, pfn);
	owner->vm->owned--;
	kfree(owner);
}

static int soft_may_run(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(to_soft_vm(vcpu->kvm)->finalised) ? 0 : -EPERM;
}

static unsigned int soft_max_order(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
				   unsigned int order)
{
	return to_soft_vm(kvm)->max_order;
}

static int soft_prepare(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
			unsigned int order)
{
	unsigned long i;
	int r = 0;

	mutex_lock(&owners_lock);
	for (i = 0; i < 1UL << order && !r; i++)
		r = own_page(to_soft_vm(kvm), gfn + i, pfn + i, order);
	mutex_unlock(&owners_lock);

	return r;
}

static void soft_invalidate(struct kvm *kvm, kvm_pfn_t pfn, unsigned long nr)
{
	struct soft_vm *vm = to_soft_vm(kvm);
	struct owner *owner;

	mutex_lock(&owners_lock);
	if (vm->bugs & KVM_GMEM_SOFT_FORGET_INVALIDATE) {
		vm->bugs &= ~KVM_GMEM_SOFT_FORGET_INVALIDATE;
		nr = 0;
	}
	for (; nr; nr--, pfn++) {
		owner = xa_load(&owners, pfn);
		/* In the file, but the guest has not had it yet. */
		if (!owner)
			continue;
		if (owner->vm != vm) {
			violation(vm, owner, pfn, "is invalidated by another VM");
			continue;
		}
		vm->invalidated++;
		disown_page(owner, pfn);
	}
	mutex_unlock(&owners_lock);
}

/* For all pages of all guest_memfds: they leave the file. */
void kvm_gmem_soft_check_freed(kvm_pfn_t pfn, unsigned long nr)
{
	struct owner *owner;
	unsigned long i;

	/* The owner of a page that is being freed has not just come. */
	if (xa_empty(&owners))
		return;

	mutex_lock(&owners_lock);
	xa_for_each_range(&owners, i, owner, pfn, pfn + nr - 1) {
		violation(owner->vm, owner, i, "is freed");
		disown_page(owner, i);
	}
	mutex_unlock(&owners_lock);
}

static void free_vm(struct soft_vm *vm)
{
	crypto_free_shash(vm->hash->tfm);
	kfree_sensitive(vm->hash);
	kfree(vm);
}

static void soft_destroy(struct kvm *kvm)
{
	struct soft_vm *vm = to_soft_vm(kvm);
	struct owner *owner;
	unsigned long pfn;

	mutex_lock(&owners_lock);
	/* The files are gone, each has held the VM. */
	xa_for_each(&owners, pfn, owner) {
		if (owner->vm != vm)
			continue;
		violation(vm, owner, pfn, "is left behind");
		disown_page(owner, pfn);
	}
	mutex_unlock(&owners_lock);
	free_vm(vm);
}

static const struct kvm_gmem_ops soft_ops = {
	.may_run	= soft_may_run,
	.max_order	= soft_max_order,
	.prepare	= soft_prepare,
	.invalidate	= soft_invalidate,
	.destroy	= soft_destroy,
};

static struct soft_vm *alloc_vm(struct kvm *kvm, unsigned int max_order)
{
	struct crypto_shash *tfm;
	struct soft_vm *vm;

	vm = kzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	if (!vm)
		return ERR_PTR(-ENOMEM);

	tfm = crypto_alloc_shash("sha256", 0, 0);
	if (IS_ERR(tfm)) {
		kfree(vm);
		return ERR_CAST(tfm);
	}
	vm->hash = kzalloc(sizeof(*vm->hash) + crypto_shash_descsize(tfm),
			   GFP_KERNEL_ACCOUNT);
	if (!vm->hash) {
		crypto_free_shash(tfm);
		kfree(vm);
		return ERR_PTR(-ENOMEM);
	}
	vm->hash->tfm = tfm;
	crypto_shash_init(vm->hash);
	mutex_init(&vm->lock);
	vm->kvm = kvm;
	vm->max_order = max_order;

	return vm;
}

static int attach_vm(struct file *file, struct kvm *kvm, unsigned int max_order)
{
	struct soft_vm *vm;
	int r;

	vm = alloc_vm(kvm, max_order);
	if (IS_ERR(vm))
		return PTR_ERR(vm);

	r = kvm_gmem_set_ops(kvm, &soft_ops, vm);
	if (r) {
		free_vm(vm);
		return r;
	}

	kvm_get_kvm(kvm);
	/* Pairs with soft_ioctl(). */
	smp_store_release(&file->private_data, vm);

	return 0;
}

/* Two attaches on one descriptor. */
static DEFINE_MUTEX(attach_lock);

static int soft_attach(struct file *file, void __user *argp)
{
	struct kvm_gmem_soft_attach args;
	struct file *vm_file;
	struct kvm *kvm;
	int r = -EINVAL;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (args.max_order > SOFT_MAX_ORDER)
		return -EINVAL;

	vm_file = fget(args.vm_fd);
	if (!vm_file)
		return -EBADF;

	if (!file_is_kvm(vm_file))
		goto out;
	kvm = vm_file->private_data;
	if (!kvm_arch_has_private_mem(kvm) || kvm->mm != current->mm)
		goto out;

	mutex_lock(&attach_lock);
	r = file->private_data ? -EBUSY : attach_vm(file, kvm, args.max_order);
	mutex_unlock(&attach_lock);
out:
	fput(vm_file);
	return r;
}

static int measure_and_copy(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn,
			    struct page *src, void *opaque)
{
	__le64 gpa = cpu_to_le64(gfn_to_gpa(gfn));
	struct soft_vm *vm = opaque;
	void *contents;

	/* What is measured is the copy, the source may change any time. */
	copy_highpage(pfn_to_page(pfn), src);
	contents = kmap_local_page(pfn_to_page(pfn));
	crypto_shash_update(vm->hash, (u8 *)&gpa, sizeof(gpa));
	crypto_shash_update(vm->hash, contents, PAGE_SIZE);
	kunmap_local(contents);
	vm->populated++;

	return 0;
}

/* Advances @args past what is populated, and tells what stopped it. */
static int populate(struct soft_vm *vm, struct kvm_gmem_soft_populate *args)
{
	long r = 0;

	if (!PAGE_ALIGNED(args->gpa) || !PAGE_ALIGNED(args->size) ||
	    !PAGE_ALIGNED(args->source))
		return -EINVAL;
	if (args->gpa + args->size <= args->gpa ||
	    args->source + args->size <= args->source)
		return -EINVAL;
	if (!args->source)
		return -EFAULT;

	while (args->size) {
		r = kvm_gmem_populate(vm->kvm, gpa_to_gfn(args->gpa),
				      u64_to_user_ptr(args->source),
				      args->size >> PAGE_SHIFT,
				      measure_and_copy, vm);
		if (r < 0)
			break;
		args->gpa += r << PAGE_SHIFT;
		args->source += r << PAGE_SHIFT;
		args->size -= r << PAGE_SHIFT;
		r = 0;
	}

	return r;
}

static int soft_populate(struct soft_vm *vm, void __user *argp)
{
	struct kvm_gmem_soft_populate args;
	int r = -EPERM;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	/* What is left must be told: find out before anything is done. */
	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;

	mutex_lock(&vm->lock);
	if (!vm->finalised)
		r = populate(vm, &args);
	mutex_unlock(&vm->lock);

	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;
	return r;
}

static int soft_finalise(struct soft_vm *vm)
{
	int r = -EPERM;

	mutex_lock(&vm->lock);
	if (!vm->finalised) {
		WRITE_ONCE(vm->finalised, true);
		r = 0;
	}
	mutex_unlock(&vm->lock);

	return r;
}

/* The digest of what there is so far; more may follow. */
static int digest(struct soft_vm *vm, u8 *out)
{
	SHASH_DESC_ON_STACK(copy, vm->hash->tfm);
	struct sha256_state state;
	int r;

	copy->tfm = vm->hash->tfm;
	r = crypto_shash_export(vm->hash, &state);
	if (!r)
		r = crypto_shash_import(copy, &state);
	if (!r)
		r = crypto_shash_final(copy, out);

	return r;
}

static int soft_status(struct soft_vm *vm, void __user *argp)
{
	struct kvm_gmem_soft_status status = {};
	int r;

	BUILD_BUG_ON(sizeof(status.digest) != SHA256_DIGEST_SIZE);

	mutex_lock(&vm->lock);
	r = digest(vm, status.digest);
	status.populated = vm->populated;
	status.finalised = vm->finalised;
	mutex_lock(&owners_lock);
	status.prepared = vm->prepared;
	status.invalidated = vm->invalidated;
	status.owned = vm->owned;
	status.violations = vm->violations;
	mutex_unlock(&owners_lock);
	mutex_unlock(&vm->lock);

	if (!r && copy_to_user(argp, &status, sizeof(status)))
		r = -EFAULT;
	return r;
}

static int soft_plant(struct soft_vm *vm, u32 __user *argp)
{
	u32 bugs;

	if (get_user(bugs, argp))
		return -EFAULT;
	if (bugs & ~KVM_GMEM_SOFT_FORGET_INVALIDATE)
		return -EINVAL;

	mutex_lock(&owners_lock);
	vm->bugs = bugs;
	mutex_unlock(&owners_lock);

	return 0;
}

static long soft_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	/* Pairs with attach_vm(). */
	struct soft_vm *vm = smp_load_acquire(&file->private_data);
	void __user *argp = (void __user *)arg;

	switch (ioctl) {
	case KVM_GMEM_SOFT_ATTACH:
		return soft_attach(file, argp);
	case KVM_GMEM_SOFT_POPULATE:
		return vm ? soft_populate(vm, argp) : -EINVAL;
	case KVM_GMEM_SOFT_FINALISE:
		return vm ? soft_finalise(vm) : -EINVAL;
	case KVM_GMEM_SOFT_STATUS:
		return vm ? soft_status(vm, argp) : -EINVAL;
	case KVM_GMEM_SOFT_PLANT:
		return vm ? soft_plant(vm, argp) : -EINVAL;
	default:
		return -ENOTTY;
	}
}

static int soft_open(struct inode *inode, struct file *file)
{
	/* Not the miscdevice that misc_open() has left there. */
	file->private_data = NULL;
	return 0;
}

static int soft_release(struct inode *inode, struct file *file)
{
	struct soft_vm *vm = file->private_data;

	if (vm)
		kvm_put_kvm(vm->kvm);
	return 0;
}

static struct file_operations soft_fops = {
	.open		= soft_open,
	.release	= soft_release,
	.unlocked_ioctl	= soft_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice soft_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "kvm-gmem-soft",
	.fops	= &soft_fops,
	.mode	= 0600,
};

static bool registered;

void kvm_gmem_soft_init(struct module *module)
{
	soft_fops.owner = module;
	registered = !misc_register(&soft_device);
	if (!registered)
		pr_err("kvm-gmem-soft: no device\n");
}

void kvm_gmem_soft_exit(void)
{
	if (registered)
		misc_deregister(&soft_device);
}
