// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors by guest address: gmem_poison in the debugfs directory of a VM.
 *
 * Whatever kind of memory a gfn has, and whether it is there or not: exactly the page
 * of the gfn is lost.  The guest, KVM and the VMM are refused where they touch it, the
 * VMM replaces it, the guest goes on, and nothing else is missing.  Which page of the
 * machine it was is what the kernel's log says.
 *
 * Needs CONFIG_KVM_GMEM_INJECT_ERRORS and, to have the pages back afterwards,
 * CONFIG_HWPOISON_INJECT.
 */
#include "gmem_large_model.h"
#include "gmem_poison.h"

#include <sys/prctl.h>
#include <sys/uio.h>

#define STEPS		200
#define KMSG		"/dev/kmsg"

/* What is lost of a folio, and what somebody holds of it. */
#define VICTIM		300UL
#define HELD		40UL

static const struct model_layout whole_layout = {
	"whole", 2 * LARGE, { { 0, 0, 2 * LARGE } }, true,
};

/* The file. */

static void poison_path(char *path, size_t size, pid_t pid, int vm_fd)
{
	snprintf(path, size, DEBUGFS "/kvm/%d-%d/gmem_poison", pid, vm_fd);
}

static int open_poison(struct kvm_vm *vm)
{
	char path[128];
	int fd;

	poison_path(path, sizeof(path), getpid(), vm->fd);
	fd = open(path, O_WRONLY);
	TEST_ASSERT(fd >= 0, "%s: errno %d", path, errno);
	return fd;
}

/* Returns the errno of the write, or 0. */
static int poison_text(int fd, const char *text)
{
	size_t len = strlen(text);
	ssize_t ret = write(fd, text, len);

	TEST_ASSERT(ret == -1 || ret == len, "write() of %zu returned %zd", len, ret);
	return ret == -1 ? errno : 0;
}

static int poison_fd(int fd, uint64_t gpa, uint64_t size)
{
	char text[64];

	snprintf(text, sizeof(text), "%#lx %#lx\n", gpa, size);
	return poison_text(fd, text);
}

static int poison(struct kvm_vm *vm, uint64_t gpa, uint64_t size)
{
	int fd = open_poison(vm), err = poison_fd(fd, gpa, size);

	close(fd);
	return err;
}

/* The log. */

static int kmsg = -1;
/* By page from GPA on: what was there when it was poisoned last. */
static uint64_t logged[ALL];

static void open_log(void)
{
	kmsg = open(KMSG, O_RDONLY | O_NONBLOCK);
	TEST_ASSERT(kmsg >= 0 && !lseek(kmsg, 0, SEEK_END), "%s: errno %d", KMSG, errno);
	memset(logged, 0, sizeof(logged));
}

static void read_log(void)
{
	uint64_t gpa, pfn;
	char record[1024];
	ssize_t len;
	char *line;

	for (;;) {
		len = read(kmsg, record, sizeof(record) - 1);
		/* Some records were lost to newer ones. */
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		line = strstr(record, "injecting memory failure at gpa ");
		if (line && sscanf(line, "injecting memory failure at gpa %lx, pfn %lx",
				   &gpa, &pfn) == 2 && gpa - GPA < BYTES(ALL))
			logged[(gpa - GPA) / PAGE_SIZE] = pfn;
	}
	TEST_ASSERT(len < 0 && errno == EAGAIN, "%s: errno %d", KMSG, errno);
}

static uint64_t logged_pfn(uint64_t page)
{
	read_log();
	TEST_ASSERT(logged[page], "The log has no page %lu", page);
	TEST_ASSERT(is_poisoned(logged[page]), "Page %#lx is not marked", logged[page]);
	return logged[page];
}

static uint64_t poison_page(struct kvm_vm *vm, uint64_t page)
{
	TEST_ASSERT_EQ(poison(vm, PAGE_GPA(page), PAGE_SIZE), 0);
	return logged_pfn(page);
}

/* Memory of a file that belongs to the slot. */

FIXTURE(inject) {
	struct model model;
	struct large large;
	uint64_t corrupted;
};

FIXTURE_VARIANT(inject) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(inject, private) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(inject, shared) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED | FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(inject, in_place) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_MMAP | FLAG_WRITE,
};

static void note_poison(struct model *m, uint64_t page)
{
	struct model_slot *slot = slot_of_page(m, page);
	uint64_t index = page - slot->page + slot->index;

	model_add(m, index);
	m->file[index].bad = logged_pfn(page);
}

/* As a step of a sequence, whether the file has the page or not. */
static void poison_index(struct model *m, uint64_t index)
{
	struct model_slot *slot = slot_of_index(m, index);
	uint64_t page = index - slot->index + slot->page;
	int err;

	/* Shared, and not of the file. */
	if (!file_page(m, page))
		return;
	err = poison(m->l->env.vm, PAGE_GPA(page), PAGE_SIZE);
	TEST_ASSERT_EQ(err, m->file[index].bad ? EHWPOISON : 0);
	if (!err)
		note_poison(m, page);
}

FIXTURE_SETUP(inject)
{
	struct model *m = &self->model;

	memset(m, 0, sizeof(*m));
	m->unpoison = unpoison;
	model_start(m, &self->large, variant->type, variant->flags, &whole_layout, 1);
	self->corrupted = corrupted_pages();
	open_log();
}

FIXTURE_TEARDOWN(inject)
{
	close(kmsg);
	model_end(&self->model);
}

static void fill(struct model *m)
{
	m->step++;
	model_guest(m, OP_WRITE, 0, 2 * LARGE);
	expect_mapped(m->l, 2, 0);
}

/* By all ways to each page, with all of it private or shared if it can be either. */
static void check_sides(struct model *m)
{
	int shared;

	for (shared = 0; shared < 2; shared++) {
		model_guest(m, OP_CHECK, 0, 2 * LARGE);
		model_guest(m, OP_OUTS, VICTIM - 2, 4);
		model_pre_fault(m, 0, 2 * LARGE);
		if (m->mapped)
			model_host(m, m->l->env.mem, false, 0, 2 * LARGE);
		if (m->l->type == KVM_X86_DEFAULT_VM)
			break;
		model_convert(m, shared, 0, 2 * LARGE);
	}
}

/* The way out: the guest stops at the page, gets a fresh one and goes on. */
static void replace_page(struct model *m, uint64_t page)
{
	uint64_t flags = m->private[page] ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0;
	struct env *env = &m->l->env;

	m->l->words[page] = 0;
	set_cmd(env, OP_CHECK_ALL, page, 1, 0);
	__vcpu_run_memory_fault(env->vcpu, PAGE_GPA(page), flags, EHWPOISON);
	model_punch(m, page, 1);
	run_to_sync(env);
	model_add(m, page);
}

TEST_F(inject, mapped)
{
	struct model *m = &self->model;
	struct kvm_vm *vm = m->l->env.vm;

	REQUIRE_LARGE_PAGES();
	fill(m);
	poison_index(m, VICTIM);
	ASSERT_EQ(self->corrupted + 1, corrupted_pages());
	/* The rest of the folio has been taken away as well, and comes page by page. */
	expect_mapped(m->l, 1, 0);
	model_guest(m, OP_CHECK, 0, 2 * LARGE);
	expect_mapped(m->l, 1, LARGE - 1);
	check_sides(m);
	ASSERT_EQ(EHWPOISON, poison(vm, PAGE_GPA(VICTIM), PAGE_SIZE));
	ASSERT_EQ(2 * LARGE, allocated(m->l));
	ASSERT_EQ(self->corrupted + 1, corrupted_pages());

	replace_page(m, VICTIM);
	ASSERT_EQ(self->corrupted, corrupted_pages());
	ASSERT_EQ(2 * LARGE, allocated(m->l));
	model_check_all(m);
	check_sides(m);

	/* The fresh one is as good as any other. */
	poison_index(m, VICTIM);
	replace_page(m, VICTIM);
	model_empty(m);
}

/* Allocated as the guest would have. */
TEST_F(inject, absent)
{
	struct model *m = &self->model;

	REQUIRE_LARGE_PAGES();
	poison_index(m, VICTIM);
	expect_mapped(m->l, 0, 0);
	ASSERT_EQ(LARGE, allocated(m->l));
	check_sides(m);
	replace_page(m, VICTIM);
	model_check_all(m);
}

/* In the file, cleared by nobody yet. */
TEST_F(inject, allocated)
{
	struct model *m = &self->model;

	REQUIRE_LARGE_PAGES();
	model_allocate(m, 0, 2 * LARGE);
	poison_index(m, VICTIM);
	expect_mapped(m->l, 0, 0);
	check_sides(m);
	replace_page(m, VICTIM);
	model_check_all(m);
}

/* Mapped ahead of the guest, which then does not touch it before it is punched. */
TEST_F(inject, pre_faulted_and_punched)
{
	struct model *m = &self->model;

	REQUIRE_LARGE_PAGES();
	model_pre_fault(m, 0, 2 * LARGE);
	expect_mapped(m->l, 2, 0);
	poison_index(m, 0);
	poison_index(m, LARGE - 1);
	model_punch(m, 0, LARGE);
	ASSERT_EQ(LARGE, allocated(m->l));
	ASSERT_EQ(self->corrupted, corrupted_pages());
	model_guest(m, OP_WRITE, 0, 2 * LARGE);
	model_check_all(m);
}

/* Page by page, up to the first that it cannot be done to. */
TEST_F(inject, range)
{
	struct model *m = &self->model;
	struct kvm_vm *vm = m->l->env.vm;
	uint64_t i;

	REQUIRE_LARGE_PAGES();
	fill(m);
	ASSERT_EQ(0, poison(vm, PAGE_GPA(LARGE - 2), BYTES(4)));
	for (i = LARGE - 2; i < LARGE + 2; i++)
		note_poison(m, i);
	model_guest(m, OP_CHECK, 0, 2 * LARGE);

	/* One is bad already. */
	ASSERT_EQ(EHWPOISON, poison(vm, PAGE_GPA(LARGE - 4), BYTES(8)));
	for (i = LARGE - 4; i < LARGE - 2; i++)
		note_poison(m, i);
	ASSERT_EQ(self->corrupted + 6, corrupted_pages());

	/* The slot ends. */
	ASSERT_EQ(ENXIO, poison(vm, PAGE_GPA(2 * LARGE - 2), BYTES(8)));
	for (i = 2 * LARGE - 2; i < 2 * LARGE; i++)
		note_poison(m, i);
	ASSERT_EQ(self->corrupted + 8, corrupted_pages());

	check_sides(m);
	model_empty(m);
	ASSERT_EQ(self->corrupted, corrupted_pages());
	fill(m);
}

/* The page stays bad where it is, and the other side of the gfn is none the worse. */
TEST_F(inject, converted)
{
	struct model *m = &self->model;
	uint64_t first = VICTIM - 1;

	REQUIRE_LARGE_PAGES();
	if (m->l->type == KVM_X86_DEFAULT_VM)
		SKIP(return, "nothing to convert");
	fill(m);
	poison_index(m, VICTIM);
	model_convert(m, false, first, 3);
	model_guest(m, OP_WRITE, first, 3);
	model_guest(m, OP_CHECK, 0, LARGE);
	if (m->mapped)
		model_host(m, m->l->env.mem, true, first, 3);
	else
		model_alias(m, true, first, 3);
	model_convert(m, true, first, 3);
	model_guest(m, OP_CHECK, 0, LARGE);
	replace_page(m, VICTIM);
	model_check_all(m);
}

/* Memory failure says that it has not done all that is to be done. */
TEST_F(inject, held)
{
	struct model *m = &self->model;
	struct env *env = &m->l->env;
	struct iovec iov;
	int pipes[2];

	REQUIRE_LARGE_PAGES();
	if (!m->mapped)
		SKIP(return, "nobody can hold private memory");
	fill(m);
	if (m->l->type == KVM_X86_SW_PROTECTED_VM)
		model_convert(m, false, 0, 2 * LARGE);

	/* A page of a folio. */
	iov.iov_base = env->mem + BYTES(HELD);
	iov.iov_len = PAGE_SIZE;
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE_SIZE, vmsplice(pipes[1], &iov, 1, 0));
	ASSERT_EQ(EBUSY, poison(env->vm, PAGE_GPA(VICTIM), PAGE_SIZE));
	note_poison(m, VICTIM);
	ASSERT_EQ(EHWPOISON, poison(env->vm, PAGE_GPA(VICTIM), PAGE_SIZE));
	close(pipes[0]);
	close(pipes[1]);
	punch_pages(m->l, VICTIM, 1);
	unpoison(m->file[VICTIM].bad);
	m->file[VICTIM] = (struct model_page) {};
	model_guest(m, OP_CHECK, 0, 2 * LARGE);

	/* The page itself: the guest has lost it, the other one has it still. */
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE_SIZE, vmsplice(pipes[1], &iov, 1, 0));
	ASSERT_EQ(EBUSY, poison(env->vm, PAGE_GPA(HELD), PAGE_SIZE));
	note_poison(m, HELD);
	model_guest(m, OP_CHECK, 0, 2 * LARGE);
	model_host(m, env->mem, false, 0, 2 * LARGE);
	close(pipes[0]);
	close(pipes[1]);
	replace_page(m, HELD);
	ASSERT_EQ(self->corrupted, corrupted_pages());
	model_check_all(m);
}

/* Anything, at random, with memory errors among it. */

static void run_random(FIXTURE_DATA(inject) *self,
		       const FIXTURE_VARIANT(inject) *variant,
		       const struct model_layout *layout)
{
	struct model *m = &self->model;

	model_end(m);
	memset(m, 0, sizeof(*m));
	m->poison = poison_index;
	m->unpoison = unpoison;
	model_start(m, &self->large, variant->type, variant->flags, layout, 20261121);
	model_run(m, STEPS);
	TEST_ASSERT_EQ(corrupted_pages(), self->corrupted);
}

TEST_F(inject, random_inside)
{
	REQUIRE_LARGE_PAGES();
	run_random(self, variant, &inside_layout);
}

TEST_F(inject, random_two_slots)
{
	REQUIRE_LARGE_PAGES();
	run_random(self, variant, &two_layout);
}

/* Memory that the guest has through the VMM's address of it. */

FIXTURE(alias) {
	struct large large;
	void *mem;
	bool of_file;
	uint64_t corrupted;
};

FIXTURE_VARIANT(alias) {
	unsigned long type;
	uint64_t flags;
};

FIXTURE_VARIANT_ADD(alias, anonymous) {
	.type = KVM_X86_DEFAULT_VM,
};

/* A guest_memfd that the slot does not know. */
FIXTURE_VARIANT_ADD(alias, mapped_file) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED,
};

FIXTURE_VARIANT_ADD(alias, shared_side) {
	.type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_SETUP(alias)
{
	struct large *l = &self->large;

	large_setup(l, variant->type, variant->flags, LARGE);
	self->of_file = variant->flags;
	self->mem = self->of_file ? l->env.mem : l->alias;
	if (l->type == KVM_X86_DEFAULT_VM) {
		vm_set_user_memory_region(l->env.vm, SLOT, 0, GPA, LARGE_SIZE, self->mem);
	} else {
		bind_at(l, 0, LARGE, 0);
		vm_mem_set_shared(l->env.vm, GPA, LARGE_SIZE);
	}
	self->corrupted = corrupted_pages();
	open_log();
}

FIXTURE_TEARDOWN(alias)
{
	close(kmsg);
	large_teardown(&self->large);
}

static siginfo_t bus_info;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	bus_info = *info;
}

static void expect_bus_signal(int code, void *addr)
{
	TEST_ASSERT(bus_info.si_signo == SIGBUS && bus_info.si_code == code &&
		    bus_info.si_addr == addr && bus_info.si_addr_lsb == 12,
		    "Wanted SIGBUS code %d at %p, got signal %d code %d at %p, lsb %d",
		    code, addr, bus_info.si_signo, bus_info.si_code, bus_info.si_addr,
		    bus_info.si_addr_lsb);
	bus_info.si_signo = 0;
}

/* The guest's access is a signal to the vCPU's thread, as often as it is tried. */
static void guest_gets_signal(struct large *l, uint64_t page, void *addr)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO,
	}, old;
	int i, ret;

	sigaction(SIGBUS, &action, &old);
	set_cmd(&l->env, OP_CHECK, page, 1, 0);
	for (i = 0; i < 2; i++) {
		/* Not _vcpu_run(), which goes on after a signal. */
		ret = __vcpu_run(l->env.vcpu);
		TEST_ASSERT(ret == -1 && errno == EINTR, "KVM_RUN: %d, errno: %d", ret,
			    errno);
		expect_bus_signal(BUS_MCEERR_AR, addr);
	}
	sigaction(SIGBUS, &old, NULL);
}

/* As the VMM does it: the guest, which is stopped there, finds zeroes and goes on. */
static void replace_alias(struct large *l, void *mem, bool of_file, uint64_t page)
{
	uint64_t pfn = logged_pfn(page);

	if (of_file)
		punch_pages(l, page, 1);
	else
		TEST_ASSERT(!madvise(mem + BYTES(page), PAGE_SIZE, MADV_DONTNEED),
			    "MADV_DONTNEED, errno: %d", errno);
	l->words[page] = 0;
	run_to_sync(&l->env);
	unpoison(pfn);
}

TEST_F(alias, mapped)
{
	struct large *l = &self->large;
	void *addr = self->mem + BYTES(VICTIM);
	uint64_t left;

	guest_writes(l, 0, LARGE, GUEST_VALUE);
	poison_page(l->env.vm, VICTIM);
	ASSERT_EQ(self->corrupted + 1, corrupted_pages());
	expect_signal(addr, SIGBUS, BUS_MCEERR_AR);
	guest_checks(l, 0, VICTIM, GUEST_VALUE);
	guest_checks(l, VICTIM + 1, LARGE - VICTIM - 1, GUEST_VALUE);
	ASSERT_EQ(EHWPOISON, poison(l->env.vm, PAGE_GPA(VICTIM), PAGE_SIZE));
	ASSERT_EQ(EHWPOISON, errno_of(__vcpu_map_memory(l->env.vcpu, PAGE_GPA(VICTIM),
							PAGE_SIZE, &left)));

	guest_gets_signal(l, VICTIM, addr);
	replace_alias(l, self->mem, self->of_file, VICTIM);
	ASSERT_EQ(self->corrupted, corrupted_pages());
	guest_writes(l, VICTIM, 1, GUEST_VALUE);
	guest_checks(l, 0, LARGE, GUEST_VALUE);
	host_check(self->mem, 0, LARGE, GUEST_VALUE);
}

TEST_F(alias, absent)
{
	struct large *l = &self->large;

	poison_page(l->env.vm, VICTIM);
	guest_gets_signal(l, VICTIM, self->mem + BYTES(VICTIM));
	replace_alias(l, self->mem, self->of_file, VICTIM);
	ASSERT_EQ(self->corrupted, corrupted_pages());
	guest_checks(l, 0, LARGE, 0);
}

/* A VMM that wants to know of errors before the guest runs into them is told. */
TEST_F(alias, early)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO,
	}, old;
	struct large *l = &self->large;

	guest_writes(l, 0, LARGE, GUEST_VALUE);
	host_check(self->mem, 0, LARGE, GUEST_VALUE);
	ASSERT_EQ(0, prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	sigaction(SIGBUS, &action, &old);
	poison_page(l->env.vm, VICTIM);
	/* A large folio of a file is split first, and has no mapping left by that. */
	if (self->of_file)
		TEST_ASSERT_EQ(bus_info.si_signo, 0);
	else
		expect_bus_signal(BUS_MCEERR_AO, self->mem + BYTES(VICTIM));
	sigaction(SIGBUS, &old, NULL);
	guest_gets_signal(l, VICTIM, self->mem + BYTES(VICTIM));
	replace_alias(l, self->mem, self->of_file, VICTIM);
	guest_checks(l, 0, VICTIM, GUEST_VALUE);
}

/* Errors. */

TEST(wrong_text)
{
	static const char * const invalid[] = {
		"\n", "0x40000000", "0x40000000 ", " 0x40000000", "a page", "1 4096",
		"0x40000001 0x1000", "0x40000000 1", "0x40000000 0x1001", "0x40000000 0",
		"-4096 4096", "4096 -4096", "0x40000000 0x1000 0", "0x40000000,0x1000",
		"0xfffffffffffff000 0x1000", "0xfffffffffffff000 0x2000",
		/* More than there is room for. */
		"0x40000000 0x00000000000000000000000000000000000000000000000000001000",
	};
	static const char * const none_there[] = {
		"0 4096", "0x40000000 0x1000", "0x40000000 4096\n", " 0x40000000  0x1000 ",
		"1073741824 010000", "0xffffffffffffe000 0x1000",
	};
	struct kvm_vm *vm = vm_create_barebones();
	void *gone = anonymous_pages(PAGE_SIZE);
	int fd = open_poison(vm), i;
	char byte;

	munmap(gone, PAGE_SIZE);
	for (i = 0; i < ARRAY_SIZE(invalid); i++) {
		EXPECT_EQ(EINVAL, poison_text(fd, invalid[i]))
			TH_LOG("'%s'", invalid[i]);
	}
	EXPECT_EQ(ERANGE, poison_text(fd, "0x10000000000000000 0x1000"));
	EXPECT_EQ(ERANGE, poison_text(fd, "0x1000 0x10000000000000000"));
	for (i = 0; i < ARRAY_SIZE(none_there); i++) {
		EXPECT_EQ(ENXIO, poison_text(fd, none_there[i]))
			TH_LOG("'%s'", none_there[i]);
	}
	EXPECT_EQ(EFAULT, errno_of(write(fd, gone, 16)));
	EXPECT_EQ(EBADF, errno_of(read(fd, &byte, 1)));
	EXPECT_EQ(ESPIPE, errno_of(lseek(fd, 0, SEEK_SET)));
	close(fd);
	kvm_vm_free(vm);
}

TEST(nothing_there)
{
	struct kvm_vm *vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	void *mem = anonymous_pages(BYTES(8)), *ro;
	uint64_t corrupted = corrupted_pages();
	int fd, inplace;

	open_log();

	/* Private, and no file is there, or none any more. */
	vm_set_user_memory_region(vm, SLOT, 0, GPA, BYTES(4), mem);
	vm_mem_set_private(vm, GPA, BYTES(1));
	EXPECT_EQ(EFAULT, poison(vm, GPA, PAGE_SIZE));
	vm_delete_slot(vm, SLOT);
	EXPECT_EQ(ENXIO, poison(vm, GPA, PAGE_SIZE));
	fd = vm_create_guest_memfd(vm, BYTES(4), 0);
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_GUEST_MEMFD, GPA, BYTES(4), mem, fd, 0);
	close(fd);
	EXPECT_EQ(EFAULT, poison(vm, GPA, PAGE_SIZE));

	/* The shared side is. */
	poison_page(vm, 2);
	vm_delete_slot(vm, SLOT);

	/* In place there is none. */
	inplace = vm_create_guest_memfd(vm, BYTES(4), FLAG_MMAP);
	vm_bind_gmem(vm, SLOT, GPA, BYTES(4), inplace, 0);
	close(inplace);
	EXPECT_EQ(EFAULT, poison(vm, PAGE_GPA(1), PAGE_SIZE));
	vm_delete_slot(vm, SLOT);

	/* Nothing mapped, or nothing that the guest may write. */
	ro = anonymous_pages(BYTES(4));
	vm_set_user_memory_region(vm, SLOT, 0, PAGE_GPA(4), BYTES(4), ro);
	mprotect(ro, BYTES(1), PROT_READ);
	EXPECT_EQ(EFAULT, poison(vm, PAGE_GPA(4), PAGE_SIZE));
	munmap(ro, BYTES(1));
	EXPECT_EQ(EFAULT, poison(vm, PAGE_GPA(4), PAGE_SIZE));
	vm_delete_slot(vm, SLOT);

	/* A ROM: zeroes that everybody else has, too, or a page of its own. */
	vm_set_user_memory_region(vm, SLOT, KVM_MEM_READONLY, PAGE_GPA(4), BYTES(3),
				  ro + PAGE_SIZE);
	EXPECT_EQ(EFAULT, poison(vm, PAGE_GPA(4), PAGE_SIZE));
	memset(ro + PAGE_SIZE, 1, PAGE_SIZE);
	poison_page(vm, 4);
	EXPECT_EQ(corrupted + 2, corrupted_pages());

	close(kmsg);
	kvm_vm_free(vm);
	munmap(mem, BYTES(8));
	munmap(ro + BYTES(1), BYTES(3));
	unpoison(logged[2]);
	unpoison(logged[4]);
}

/* A debug file, but what it does is for the administrator. */
TEST(not_root)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd = open_poison(vm);
	char path[128];
	pid_t pid;

	poison_path(path, sizeof(path), getpid(), vm->fd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		TEST_ASSERT(!setresuid(65534, 65534, 65534), "errno %d", errno);
		TEST_ASSERT_EQ(poison_fd(fd, GPA, PAGE_SIZE), EPERM);
		TEST_ASSERT_EQ(errno_of(open(path, O_WRONLY)), EACCES);
		_exit(0);
	}
	wait_for_child(pid);
	close(fd);
	kvm_vm_free(vm);
}

/* A VM with memory of both kinds, in a process that waits to be told to end. */
static void be_vmm(int tell, int wait)
{
	struct kvm_vm *vm = vm_create_barebones();
	void *mem = anonymous_pages(BYTES(4));
	char byte;
	int fd;

	vm_set_user_memory_region(vm, SLOT, 0, GPA, BYTES(4), mem);
	fd = vm_create_guest_memfd(vm, BYTES(4), FLAG_MMAP | FLAG_SHARED);
	vm_bind_gmem(vm, SLOT + 1, PAGE_GPA(4), BYTES(4), fd, 0);
	TEST_ASSERT_EQ(write(tell, &vm->fd, sizeof(vm->fd)), (ssize_t)sizeof(vm->fd));
	TEST_ASSERT_EQ(read(wait, &byte, 1), (ssize_t)0);
	_exit(0);
}

/* Who has the file open need not be the VMM, and may stay when that has ended. */
TEST(vmm_ends)
{
	uint64_t corrupted = corrupted_pages();
	int tell[2], wait[2], vm_fd, fd;
	char path[128];
	pid_t pid;

	open_log();
	ASSERT_EQ(0, pipe(tell));
	ASSERT_EQ(0, pipe(wait));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(wait[1]);
		be_vmm(tell[1], wait[0]);
	}
	ASSERT_EQ(sizeof(vm_fd), read(tell[0], &vm_fd, sizeof(vm_fd)));
	poison_path(path, sizeof(path), pid, vm_fd);
	fd = open(path, O_WRONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, poison_fd(fd, PAGE_GPA(1), PAGE_SIZE));
	logged_pfn(1);
	ASSERT_EQ(0, poison_fd(fd, PAGE_GPA(5), PAGE_SIZE));
	logged_pfn(5);
	ASSERT_EQ(corrupted + 2, corrupted_pages());

	close(wait[1]);
	wait_for_child(pid);
	ASSERT_EQ(ESRCH, poison_fd(fd, PAGE_GPA(0), PAGE_SIZE));
	ASSERT_EQ(EFAULT, poison_fd(fd, PAGE_GPA(4), PAGE_SIZE));
	ASSERT_EQ(0, access(path, F_OK));
	close(fd);
	ASSERT_EQ(ENOENT, errno_of(access(path, F_OK)));
	unpoison(logged[1]);
	unpoison(logged[5]);
	close(kmsg);
}

static bool has_inject(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	char path[128];
	bool there;

	poison_path(path, sizeof(path), getpid(), vm->fd);
	there = !access(path, W_OK);
	kvm_vm_free(vm);
	return there;
}

int main(int argc, char *argv[])
{
	require_hwpoison();
	__TEST_REQUIRE(has_inject(), "No gmem_poison in the debugfs directory of a VM");
	__TEST_REQUIRE(!access(KMSG, R_OK), "%s cannot be read", KMSG);

	return large_main(argc, argv);
}
