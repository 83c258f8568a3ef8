/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Random sequences of all that can be done to a file that may have large folios,
 * against a model of what each page of it holds and which pages it has.
 *
 * An index is a page of the file, a page is one of the guest's, from GPA on.
 * A failure prints the seed and the last steps.
 */
#ifndef SELFTEST_KVM_GMEM_LARGE_MODEL_H
#define SELFTEST_KVM_GMEM_LARGE_MODEL_H

#include "gmem_large.h"

#define MODEL_SLOTS	2
/* What the report of a failure has. */
#define MODEL_HISTORY	12

#define LAST_WORD	(PAGE_SIZE / sizeof(uint64_t) - 1)
/* No port of the library. */
#define PORT		0x3000

enum {
	/* All words of the pages: the first and the last hold the value. */
	OP_CHECK_ALL = OP_COUNT + 1,
	/* The first byte, by KVM. */
	OP_OUTS,
};

struct model_slot {
	uint64_t page, index, npages;
};

struct model_layout {
	const char *name;
	/* Of the file. */
	uint64_t npages;
	struct model_slot slots[MODEL_SLOTS];
	/* Can the guest have a folio mapped by one entry? */
	bool agrees;
};

/* Of the file. */
struct model_page {
	uint64_t value;
	/* Is it there?  A large folio may always be replaced by small ones. */
	bool must, may;
	/* The pfn if it is poisoned. */
	uint64_t bad;
};

struct model {
	struct large *l;
	bool mapped;
	const struct model_layout *layout;
	unsigned int seed, first_seed, step;
	struct model_slot slots[MODEL_SLOTS];
	struct model_page file[ALL];
	/* By page, bound or not. */
	bool private[ALL];
	uint64_t alias_value[ALL];
	/* Maps the file once more, where no huge page can be. */
	void *disagreeing;
	void *buf;
	/* Has the file grown by a folio? */
	bool grew;
	/* A test that can poison pages does so now and then. */
	void (*poison)(struct model *m, uint64_t index);
	void (*unpoison)(uint64_t pfn);
	char history[MODEL_HISTORY][80];
};

/* For the report; NULL when all went well. */
static struct model *model_running;

static inline void model_report(void)
{
	struct model *m = model_running;
	const char *line;
	unsigned int i;

	if (!m)
		return;
	printf("# Layout %s, seed %u, step %u, after:\n", m->layout->name,
	       m->first_seed, m->step);
	for (i = 1; i <= MODEL_HISTORY; i++) {
		line = m->history[(m->step + i) % MODEL_HISTORY];
		if (*line)
			printf("#   %s\n", line);
	}
}

#define model_log(m, fmt, ...)						\
	snprintf((m)->history[(m)->step % MODEL_HISTORY],			\
		 sizeof((m)->history[0]), "%u: " fmt, (m)->step, ##__VA_ARGS__)

static inline uint64_t random_below(struct model *m, uint64_t past)
{
	m->seed = m->seed * 1103515245 + 12345;
	return (m->seed >> 8) % past;
}

/* Guest. */

static inline void model_guest_page(uint64_t op, uint64_t i)
{
	volatile uint64_t *page = (uint64_t *)PAGE_GPA(i);
	uint64_t value = guest_words[i], word;

	if (op == OP_WRITE) {
		page[0] = value;
		page[LAST_WORD] = value;
		return;
	}
	if (op == OP_OUTS) {
		asm volatile("outsb" : "+S"(page) : "d"(PORT) : "memory");
		return;
	}
	GUEST_ASSERT_3(page[0] == value, i, page[0], value);
	GUEST_ASSERT_3(page[LAST_WORD] == value, i, page[LAST_WORD], value);
	for (word = 1; op == OP_CHECK_ALL && word < LAST_WORD; word++)
		GUEST_ASSERT_3(!page[word], i, page[word], 0);
}

static inline void model_guest_main(void)
{
	volatile struct guest_cmd *cmd = &guest_cmd;
	uint64_t i;

	for (;;) {
		for (i = cmd->first; i < cmd->first + cmd->npages; i++)
			model_guest_page(cmd->op, i);
		GUEST_SYNC(0);
	}
}

/* The model. */

/* What @page of the guest may be in the file; NULL if no slot has it. */
static inline struct model_slot *slot_of_page(struct model *m, uint64_t page)
{
	return model_slot_at(m->slots, page, page);
}

static inline struct model_slot *slot_of_index(struct model *m, uint64_t index)
{
	return model_slot_at(m->slots, index, index);
}

/* The page of the file that the guest has there, or NULL if it is of the alias. */
static inline struct model_page *file_page(struct model *m, uint64_t page)
{
	struct model_slot *slot = slot_of_page(m, page);

	if (!slot || (!m->mapped && !m->private[page]))
		return NULL;
	return &m->file[page - slot->page + slot->index];
}

static inline uint64_t *value_of(struct model *m, uint64_t page)
{
	struct model_page *file = file_page(m, page);

	return file ? &file->value : &m->alias_value[page];
}

static inline bool is_bad(struct model *m, uint64_t page)
{
	struct model_page *file = file_page(m, page);

	return file && file->bad;
}

/* May a process touch what is in the file there? */
static inline bool may_touch(struct model *m, uint64_t index)
{
	struct model_slot *slot = slot_of_index(m, index);

	if (m->l->type == KVM_X86_DEFAULT_VM)
		return true;
	return slot && !m->private[index - slot->index + slot->page];
}

/* A value that no other page and no other step has. */
static inline uint64_t new_value(struct model *m, uint64_t page)
{
	return ((m->step + 1) * ALL + page + 1) * 0x9e3779b97f4a7c15ULL;
}

/* The page at @index has been used. */
static inline void model_add(struct model *m, uint64_t index)
{
	uint64_t start = index / LARGE * LARGE, i;
	bool empty = start + LARGE <= m->layout->npages;

	if (m->file[index].must)
		return;
	for (i = start; empty && i < start + LARGE; i++)
		empty = !m->file[i].must;
	for (i = start; empty && i < start + LARGE; i++)
		m->file[i].may = true;
	m->file[index].must = true;
	m->file[index].may = true;
}

static inline void model_add_used(struct model *m, uint64_t page, uint64_t n)
{
	struct model_slot *slot;
	uint64_t i;

	for (i = page; i < page + n; i++) {
		slot = slot_of_page(m, i);
		if (file_page(m, i))
			model_add(m, i - slot->page + slot->index);
	}
}

/* Does st_blocks agree?  Mostly it tells of each page whether it is there. */
static inline void model_check_size(struct model *m)
{
	uint64_t seen = allocated(m->l), least = 0, most = 0, i;

	for (i = 0; i < m->layout->npages; i++) {
		least += m->file[i].must;
		most += m->file[i].may;
	}
	TEST_ASSERT(seen >= least && seen <= most, "The file has %lu pages, not %lu to %lu",
		    seen, least, most);
	m->grew |= seen == most && most - least >= LARGE / 2;
	for (i = 0; i < m->layout->npages; i++) {
		if (seen == most)
			m->file[i].must = m->file[i].may;
		else if (seen == least)
			m->file[i].may = m->file[i].must;
	}
}

/* Steps: the guest. */

static inline void model_run_io(struct model *m, uint64_t page, uint64_t n)
{
	struct kvm_run *run = m->l->env.vcpu->run;
	uint64_t i;

	for (i = page; i < page + n; i++) {
		vcpu_run(m->l->env.vcpu);
		TEST_ASSERT_EQ(run->exit_reason, (uint32_t)KVM_EXIT_IO);
		TEST_ASSERT_EQ(run->io.port, PORT);
		TEST_ASSERT_EQ(*((uint8_t *)run + run->io.data_offset),
			       (uint8_t)*value_of(m, i));
	}
}

/* It gives up the access in the end. */
static inline void model_guest_fails(struct model *m, uint64_t op, uint64_t page,
				     int err)
{
	uint64_t flags = m->private[page] ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0;
	struct env *env = &m->l->env;
	struct kvm_regs regs;
	int i;

	vcpu_regs_get(env->vcpu, &regs);
	set_cmd(env, op, page, 1, 0);
	for (i = 0; i < 2; i++)
		__vcpu_run_memory_fault(env->vcpu, PAGE_GPA(page), flags, err);
	vcpu_regs_set(env->vcpu, &regs);
}

static inline void model_guest(struct model *m, uint64_t op, uint64_t page, uint64_t n)
{
	uint64_t past = page + n, i;

	for (; page < past; page = i) {
		if (is_bad(m, page)) {
			/* KVM reaches shared memory as user space does. */
			if (op != OP_OUTS || m->private[page])
				model_guest_fails(m, op, page, EHWPOISON);
			i = page + 1;
			continue;
		}
		for (i = page; i < past && !is_bad(m, i); i++) {
			if (op == OP_WRITE)
				*value_of(m, i) = new_value(m, i);
			m->l->words[i] = *value_of(m, i);
		}
		model_add_used(m, page, i - page);
		set_cmd(&m->l->env, op, page, i - page, 0);
		if (op == OP_OUTS)
			model_run_io(m, page, i - page);
		run_to_sync(&m->l->env);
	}
}

/* Whatever the guest has and is in the file already, which does not change that. */
static inline void model_check_present(struct model *m)
{
	struct model_slot *slot;
	struct model_page *file;
	uint64_t page, n;

	for (slot = m->slots; slot < m->slots + MODEL_SLOTS; slot++) {
		for (page = slot->page; page < slot->page + slot->npages; page += n + 1) {
			for (n = 0; page + n < slot->page + slot->npages; n++) {
				file = file_page(m, page + n);
				if (file && !file->must)
					break;
			}
			model_guest(m, OP_CHECK, page, n);
		}
	}
}

/* It stops at a bad page, and says so when it starts there. */
static inline void model_pre_fault(struct model *m, uint64_t page, uint64_t n)
{
	struct kvm_vcpu *vcpu = m->l->env.vcpu;
	uint64_t past = page + n, left, i;
	bool all = random_below(m, 2);
	int ret;

	for (; page < past; page = i + 1) {
		for (i = page; i < past && !is_bad(m, i); i++)
			;
		model_add_used(m, page, i - page);
		if (all) {
			ret = __vcpu_map_memory(vcpu, PAGE_GPA(page), BYTES(past - page),
						&left);
			TEST_ASSERT(i < past ? ret == -1 && errno == EHWPOISON : !ret,
				    "KVM_MAP_MEMORY: %d, errno: %d", ret, errno);
			TEST_ASSERT_EQ(left, BYTES(past - i));
			continue;
		}
		vcpu_pre_fault(vcpu, PAGE_GPA(page), BYTES(i - page));
		if (i == past)
			break;
		ret = __vcpu_pre_fault(vcpu, PAGE_GPA(i), BYTES(past - i), &left);
		TEST_ASSERT(ret == -1 && errno == EHWPOISON && left == BYTES(past - i),
			    "KVM_PRE_FAULT_MEMORY: %d, errno: %d", ret, errno);
	}
}

/* Steps: the host. */

static inline void model_expect_signal(struct model *m, void *addr, uint64_t index)
{
	bool bad = may_touch(m, index);

	expect_signal(addr, SIGBUS, bad ? BUS_MCEERR_AR : BUS_ADRERR);
	if (bad)
		TEST_ASSERT_EQ(touch_info.si_addr_lsb, 12);
}

static inline bool is_refused(struct model *m, uint64_t index)
{
	return !may_touch(m, index) || m->file[index].bad;
}

static inline void check_word(void *mem, uint64_t i, uint64_t value)
{
	volatile uint64_t *page = word_of(mem, i);

	TEST_ASSERT(page[0] == value && page[LAST_WORD] == value,
		    "Page %lu has %#lx and %#lx, not %#lx", i, page[0], page[LAST_WORD],
		    value);
}

static inline void put_word(void *mem, uint64_t i, uint64_t value)
{
	volatile uint64_t *page = word_of(mem, i);

	page[0] = value;
	page[LAST_WORD] = value;
}

static inline void model_host(struct model *m, void *mem, bool write,
			      uint64_t index, uint64_t n)
{
	uint64_t i;

	for (i = index; i < index + n; i++) {
		if (is_refused(m, i)) {
			/* Of a row of them the first and the last. */
			if (m->file[i].bad || i == index || i == index + n - 1 ||
			    !is_refused(m, i - 1) || !is_refused(m, i + 1))
				model_expect_signal(m, mem + BYTES(i), i);
			continue;
		}
		if (write) {
			m->file[i].value = new_value(m, i);
			put_word(mem, i, m->file[i].value);
		}
		check_word(mem, i, m->file[i].value);
		model_add(m, i);
	}
}

static inline void model_alias(struct model *m, bool write, uint64_t page, uint64_t n)
{
	uint64_t i;

	for (i = page; i < page + n; i++) {
		if (write) {
			m->alias_value[i] = new_value(m, i);
			put_word(m->l->alias, i, m->alias_value[i]);
		}
		check_word(m->l->alias, i, m->alias_value[i]);
	}
}

static inline void model_punch(struct model *m, uint64_t index, uint64_t n)
{
	uint64_t i;

	if (m->mapped && !random_below(m, 4))
		TEST_ASSERT(!madvise(m->l->env.mem + BYTES(index), BYTES(n), MADV_REMOVE),
			    "MADV_REMOVE, errno: %d", errno);
	else
		punch_pages(m->l, index, n);
	for (i = index; i < index + n; i++) {
		if (m->file[i].bad)
			m->unpoison(m->file[i].bad);
		m->file[i] = (struct model_page) {};
	}
}

static inline void model_allocate(struct model *m, uint64_t index, uint64_t n)
{
	uint64_t i;

	gmem_allocate(m->l->env.fd, BYTES(index), BYTES(n));
	for (i = index; i < index + n; i++)
		model_add(m, i);
}

/* write() stops at the first page that is there. */
static inline void model_write(struct model *m, uint64_t index, uint64_t n)
{
	uint64_t i, done;
	ssize_t ret;

	for (i = index; i < index + n; i++)
		put_word(m->buf, i, new_value(m, i));
	ret = pwrite(m->l->env.fd, m->buf + BYTES(index), BYTES(n), BYTES(index));
	TEST_ASSERT(ret > 0 || (ret == -1 && errno == EEXIST), "pwrite: %ld, errno: %d",
		    ret, errno);
	TEST_ASSERT(ret < 0 || !(ret % PAGE_SIZE), "pwrite: %ld", ret);
	done = ret < 0 ? 0 : ret / PAGE_SIZE;
	for (i = index; i < index + done; i++) {
		TEST_ASSERT(!m->file[i].must, "Page %lu of the file was there", i);
		m->file[i].value = new_value(m, i);
		m->file[i].must = true;
		m->file[i].may = true;
	}
	if (done < n) {
		TEST_ASSERT(m->file[i].may, "Page %lu of the file was not there", i);
		m->file[i].must = true;
	}
}

/* A page that is bad is converted like any other. */
static inline void model_convert(struct model *m, bool private, uint64_t page,
				 uint64_t n)
{
	vm_set_memory_attributes(m->l->env.vm, PAGE_GPA(page), BYTES(n),
				 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	memset(&m->private[page], private, n);
}

/* Steps: slots. */

static inline void model_bind(struct model *m, struct model_slot *slot)
{
	struct env *env = &m->l->env;
	void *hva = m->mapped ? env->mem + BYTES(slot->index) :
				m->l->alias + BYTES(slot->page);

	vm_set_user_memory_region2(env->vm, SLOT + (slot - m->slots),
				   KVM_MEM_GUEST_MEMFD, PAGE_GPA(slot->page),
				   BYTES(slot->npages), hva, env->fd, BYTES(slot->index));
}

static inline bool overlaps(struct model *m, struct model_slot *slot, uint64_t page)
{
	struct model_slot *other = &m->slots[slot == m->slots];

	return page < other->page + other->npages && other->page < page + slot->npages;
}

/* Take it away from the guest, and perhaps give it back at another place. */
static inline void model_rebind(struct model *m, struct model_slot *slot)
{
	struct kvm_vm *vm = m->l->env.vm;
	uint64_t page, npages = slot->npages;

	vm_delete_slot(vm, SLOT + (slot - m->slots));
	slot->npages = 0;
	if (m->l->type == KVM_X86_SW_PROTECTED_VM && m->private[slot->page])
		model_guest_fails(m, OP_CHECK, slot->page, EFAULT);
	if (m->mapped)
		model_host(m, m->l->env.mem, false, slot->index, 1);
	slot->npages = npages;

	page = random_below(m, ALL - npages + 1);
	if (random_below(m, 2))
		page = page / LARGE * LARGE + slot->index % LARGE;
	if (page + npages > ALL || overlaps(m, slot, page))
		page = slot->page;
	slot->page = page;
	model_bind(m, slot);
	model_log(m, "slot %ld to page %lu, index %lu, %lu pages",
		  (long)(slot - m->slots), page, slot->index, npages);
}

/* Small, up to the end of a block, a block, or everything; within @slot. */
static inline void random_range(struct model *m, struct model_slot *slot,
				uint64_t *offset, uint64_t *n)
{
	uint64_t first = random_below(m, slot->npages), index = slot->index + first;
	uint64_t start;

	switch (random_below(m, 8)) {
	case 0 ... 2:
		*n = 1 + random_below(m, 8);
		break;
	case 3:
		*n = 1 + random_below(m, LARGE);
		break;
	case 4:
		*n = LARGE - index % LARGE;
		break;
	case 5 ... 6:
		start = index / LARGE * LARGE;
		first = start < slot->index ? 0 : start - slot->index;
		*n = start + LARGE - slot->index - first;
		break;
	case 7:
		first = 0;
		*n = slot->npages;
	}
	*offset = first;
	if (*n > slot->npages - first)
		*n = slot->npages - first;
}

static inline void model_step(struct model *m)
{
	struct model_slot whole = { .npages = m->layout->npages };
	struct model_slot *slot = &m->slots[random_below(m, MODEL_SLOTS)];
	bool write = random_below(m, 2), odd = random_below(m, 2);
	uint64_t offset, n, page, index;

	if (!slot->npages)
		slot = m->slots;
	random_range(m, slot, &offset, &n);
	page = slot->page + offset;
	index = slot->index + offset;

	switch (random_below(m, 20)) {
	case 0 ... 3:
		model_log(m, "guest %s page %lu, %lu pages", write ? "writes" : "reads",
			  page, n);
		model_guest(m, write ? OP_WRITE : OP_CHECK, page, n);
		break;
	case 4:
		n = n > 4 ? 4 : n;
		model_log(m, "KVM reads page %lu, %lu pages", page, n);
		model_guest(m, OP_OUTS, page, n);
		break;
	case 5 ... 7:
		if (odd) {
			random_range(m, &whole, &index, &n);
			page = index;
		}
		model_log(m, "host %s %lu, %lu pages%s", write ? "writes" : "reads",
			  m->mapped ? index : page, n, odd ? " (whole)" : "");
		if (m->mapped)
			model_host(m, write ? m->l->env.mem : m->disagreeing,
				   random_below(m, 2), index, n);
		else
			model_alias(m, write, page, n);
		break;
	case 8 ... 11:
		if (odd)
			random_range(m, &whole, &index, &n);
		model_log(m, "hole at index %lu, %lu pages", index, n);
		model_punch(m, index, n);
		break;
	case 12:
		if (odd)
			random_range(m, &whole, &index, &n);
		model_log(m, "fallocate at index %lu, %lu pages", index, n);
		model_allocate(m, index, n);
		break;
	case 13 ... 14:
		model_log(m, "pre-fault page %lu, %lu pages", page, n);
		model_pre_fault(m, page, n);
		break;
	case 15:
		if (odd)
			random_range(m, &whole, &index, &n);
		model_log(m, "write() at index %lu, %lu pages", index, n);
		model_write(m, index, n);
		break;
	case 16 ... 18:
		if (m->l->type == KVM_X86_SW_PROTECTED_VM) {
			model_log(m, "page %lu, %lu pages, to %s", page, n,
				  write ? "private" : "shared");
			model_convert(m, write, page, n);
			break;
		}
		model_log(m, "MADV_DONTNEED at index %lu, %lu pages", index, n);
		TEST_ASSERT(!madvise(m->l->env.mem + BYTES(index), BYTES(n),
				     MADV_DONTNEED), "errno: %d", errno);
		break;
	case 19:
		if (odd || !m->poison) {
			model_rebind(m, slot);
			break;
		}
		model_log(m, "poison at index %lu", index);
		m->poison(m, index);
	}
	model_check_size(m);
}

/* Every word of every page that anybody can have. */
static inline void model_check_all(struct model *m)
{
	struct model_slot *slot;
	uint64_t i;

	for (slot = m->slots; slot < m->slots + MODEL_SLOTS; slot++)
		model_guest(m, OP_CHECK_ALL, slot->page, slot->npages);
	model_check_size(m);
	if (!m->mapped) {
		model_alias(m, false, 0, ALL);
		return;
	}
	model_host(m, m->l->env.mem, false, 0, m->layout->npages);
	model_host(m, m->disagreeing, false, 0, m->layout->npages);
	for (i = 0; i < m->layout->npages; i++) {
		if (!is_refused(m, i))
			TEST_ASSERT(!memcmp(m->l->env.mem + BYTES(i) + 8,
					    m->l->env.mem + BYTES(i) + 16, PAGE_SIZE - 24) &&
				    !word_of(m->l->env.mem, i)[1],
				    "Page %lu is not zero", i);
	}
	model_check_size(m);
}

static inline void *map_disagreeing(struct model *m)
{
	const size_t size = BYTES(m->layout->npages);
	void *mem = anonymous_pages(size + 2 * LARGE_SIZE), *at;

	at = align_ptr_up(mem, LARGE_SIZE) + PAGE_SIZE;
	TEST_ASSERT(mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 m->l->env.fd, 0) == at, "mmap, errno: %d", errno);
	return at;
}

/*
 * A file of that layout, with nothing in it; all gfns are private if they can be.
 * @m is all zeroes but for what is to do with poison.
 */
static inline void model_start(struct model *m, struct large *l, unsigned long type,
			       uint64_t flags, const struct model_layout *layout,
			       unsigned int seed)
{
	struct model_slot *slot;
	struct kvm_regs regs;

	large_setup(l, type, flags, layout->npages);
	m->l = l;
	m->mapped = l->env.mem;
	m->layout = layout;
	m->seed = seed;
	m->first_seed = seed;
	memcpy(m->slots, layout->slots, sizeof(m->slots));
	m->buf = anonymous_pages(BYTES(ALL));
	if (m->mapped)
		m->disagreeing = map_disagreeing(m);
	model_running = m;
	atexit(model_report);

	vcpu_regs_get(l->env.vcpu, &regs);
	regs.rip = (unsigned long)model_guest_main;
	vcpu_regs_set(l->env.vcpu, &regs);
	for (slot = m->slots; slot < m->slots + MODEL_SLOTS; slot++) {
		if (slot->npages)
			model_bind(m, slot);
	}
	if (l->type == KVM_X86_SW_PROTECTED_VM)
		model_convert(m, true, 0, ALL);
	l->pages_2m = vm_get_stat(l->env.vm, "pages_2m");
	l->pages_4k = vm_get_stat(l->env.vm, "pages_4k");
}

static inline void model_end(struct model *m)
{
	model_running = NULL;
	munmap(m->buf, BYTES(ALL));
	if (m->mapped)
		munmap(m->disagreeing, BYTES(m->layout->npages));
	large_teardown(m->l);
}

/* Nothing is in the file, and nothing of it in the guest. */
static inline void model_empty(struct model *m)
{
	struct large *l = m->l;

	model_punch(m, 0, m->layout->npages);
	TEST_ASSERT_EQ(allocated(l), 0UL);
	if (l->type == KVM_X86_SW_PROTECTED_VM)
		model_convert(m, true, 0, ALL);
	/* Deletion of a slot has unmapped the rest of memory, too. */
	vcpu_pre_fault(l->env.vcpu, 0, memslot2region(l->env.vm, 0)->region.memory_size);
	expect_mapped(l, 0, 0);
}

static inline void model_run(struct model *m, unsigned int steps)
{
	struct large *l = m->l;
	struct model_slot *slot;

	for (slot = m->slots; slot < m->slots + MODEL_SLOTS; slot++)
		model_guest(m, OP_WRITE, slot->page, slot->npages);
	TEST_ASSERT_EQ(vm_get_stat(l->env.vm, "pages_2m") > l->pages_2m,
		       (uint64_t)m->layout->agrees);
	model_empty(m);

	for (m->step = 0; m->step < steps; m->step++) {
		model_step(m);
		if (m->step % 40 == 39)
			model_check_present(m);
	}
	model_check_all(m);
	model_empty(m);
	/* Of large folios there was something to be seen. */
	TEST_ASSERT(m->grew, "The file never grew by a folio");
	model_guest(m, OP_CHECK_ALL, m->slots->page, m->slots->npages);
	model_check_size(m);
}

/* Odd sizes, odd places, two slots on one file. */

/* One block and a page, everything agrees. */
static const struct model_layout small_layout = {
	"small", LARGE + 1, { { 0, 0, LARGE + 1 } }, true,
};

/* From within a folio on, agreeing. */
static const struct model_layout inside_layout = {
	"inside", ALL - 3, { { 30, 30, ALL - 33 } }, true,
};

/* The guest has all of it, at another distance. */
static const struct model_layout odd_layout = {
	"odd", ALL - 3, { { 3, 0, ALL - 3 } },
};

/* They share a folio and all agree, but are in the other order in the guest. */
static const struct model_layout two_layout = {
	"two", 2 * LARGE, { { LARGE, 0, 600 }, { 88, 600, 2 * LARGE - 600 } },
	true,
};

/* One agrees, the other does not; around them are pages that no slot has. */
static const struct model_layout gap_layout = {
	"gap", 2 * LARGE, { { 11, 10, 400 }, { 500, 500, LARGE + 12 } }, true,
};

#endif /* SELFTEST_KVM_GMEM_LARGE_MODEL_H */
