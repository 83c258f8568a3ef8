/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What user space can know of guest memory: which pages the files have and what is
 * in them, where the slots are, what is private; and what follows from that for each
 * operation and for each access of the guest or of the host.
 *
 * There are three kinds of page numbers:
 *  page   of the guest, from GPA on; the window has PAGES of them
 *  index  of a page in a file
 *  hpage  of memory of the process, from its arena on: first the alias, which is
 *         ordinary memory, then a place for a mapping of each file, then nothing
 */
#ifndef SELFTEST_KVM_GMEM_FUZZ_MODEL_H
#define SELFTEST_KVM_GMEM_FUZZ_MODEL_H

#include "kvm_gmem_util.h"

#define FILES		3
#define SLOTS		6
#define VCPUS		2

#define LARGE		512UL
#define PAGES		(3 * LARGE)
#define BYTES(npages)	((npages) * 4096UL)
#define NO_FILE		0xff

/* A mapping of a file is longer than the file. */
#define FILE_MAX	(2 * LARGE + 100)
#define FILE_HPAGES	PAGES
#define FILE_HPAGE(f)	(PAGES + (f) * FILE_HPAGES)
#define NO_HPAGE	FILE_HPAGE(FILES)
#define HPAGES		(NO_HPAGE + PAGES)

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define FLAG_MMAP	GUEST_MEMFD_FLAG_MMAP
#define FLAG_SHARED	GUEST_MEMFD_FLAG_INIT_SHARED
#define FLAG_WRITE	GUEST_MEMFD_FLAG_WRITE

enum op_kind {
	OP_CREATE,
	OP_CLOSE,
	OP_MMAP,
	OP_MUNMAP,
	OP_SET,
	OP_DELETE,
	OP_ATTR,
	OP_FALLOC,
	OP_PUNCH,
	OP_WRITE,
	OP_PREFAULT,
	OP_GUEST,
	OP_KVM,
	OP_HOST,
	OP_DONTNEED,
	/* All that can be seen, without a change to it. */
	OP_CHECK,
	OP_KINDS,
};

/*
 * A step.  It says what is tried, and means something whatever came before it, so
 * that any part of a sequence is one, too.
 */
struct op {
	uint8_t kind;
	/* Which file, slot or vCPU. */
	uint8_t who;
	/* For OP_SET. */
	uint8_t file;
	/* 0, or what is wrong with the arguments. */
	uint8_t wrong;
	bool write;
	/* The range; of what depends on the kind. */
	uint64_t first, n;
	/* For OP_SET; OP_CREATE has flags. */
	uint64_t hpage, index, flags;
};

enum {
	CREATE_SIZE_0 = 1,
	CREATE_SIZE_ODD,
	CREATE_SIZE_NEGATIVE,
	CREATE_FLAG,
	CREATE_FLAG_HIGH,
	CREATE_WRONGS,
};

enum {
	MMAP_PRIVATE = 1,
	MMAP_EXEC,
	MMAP_WRONGS,
};

enum {
	/* Found before anything else. */
	SET_SIZE_ODD = 1,
	SET_GPA_ODD,
	SET_HVA_ODD,
	SET_HVA_KERNEL,
	SET_ID,
	SET_FLAG,
	SET_READONLY,
	SET_LOG,
	SET_WRAP,
	SET_V1,
	/* Found once the range is free: of the file. */
	SET_FD_CLOSED,
	SET_FD_OTHER,
	SET_FD_VM,
	SET_INDEX_ODD,
	SET_INDEX_BEYOND,
	SET_INDEX_WRAP,
	SET_WRONGS,
};

enum {
	ATTR_FLAGS = 1,
	ATTR_BIT,
	ATTR_BIT_HIGH,
	ATTR_SIZE_0,
	ATTR_SIZE_ODD,
	ATTR_ADDRESS_ODD,
	ATTR_WRAP,
	/* Nothing is wrong: on to an address far away. */
	ATTR_FAR,
	ATTR_WRONGS,
};

enum {
	FALLOC_MODE_0 = 1,
	FALLOC_MODE_ZERO,
	FALLOC_MODE_COLLAPSE,
	FALLOC_PUNCH_ONLY,
	FALLOC_OFFSET_ODD,
	FALLOC_LEN_ODD,
	FALLOC_LEN_0,
	FALLOC_NEGATIVE,
	FALLOC_MAX,
	FALLOC_BEYOND,
	FALLOC_WRONGS,
};

enum {
	PUNCH_ODD = 1,
	/* Nothing is wrong: MADV_REMOVE, and a hole past the end. */
	PUNCH_MADVISE,
	PUNCH_BEYOND,
	PUNCH_WRONGS,
};

enum {
	WRITE_LEN_ODD = 1,
	WRITE_OFFSET_ODD,
	WRITE_AT_END,
	WRITE_BUFFER,
	WRITE_WRONGS,
};

enum {
	PREFAULT_FLAGS = 1,
	PREFAULT_GPA_ODD,
	PREFAULT_SIZE_ODD,
	PREFAULT_SIZE_0,
	PREFAULT_WRAP,
	PREFAULT_HIGH,
	PREFAULT_WRONGS,
};

struct fuzz_page {
	uint64_t value;
	/* Is it there?  A large folio may always be replaced by small ones. */
	bool must, may;
};

struct fuzz_file {
	/* The file exists while it is open or mapped. */
	bool open, mapped;
	uint64_t npages, flags;
	struct fuzz_page pages[FILE_MAX];
};

struct fuzz_slot {
	uint64_t page, npages, hpage, index, flags;
	/* Of a slot with a file: NO_FILE once that is gone. */
	uint8_t file;
	bool only;
};

struct model {
	bool protected;
	/* Do new files have folios? */
	bool large;
	struct fuzz_file files[FILES];
	struct fuzz_slot slots[SLOTS];
	bool private[PAGES];
	uint64_t alias[PAGES];
	uint64_t values;
};

enum where {
	/* Memory, with contents. */
	IN_ALIAS,
	IN_FILE,
	/* KVM_EXIT_MEMORY_FAULT, for a private or a shared gfn. */
	FAULT_PRIVATE,
	FAULT_SHARED,
	/* KVM_EXIT_MMIO. */
	MMIO,
	/* Nobody maps it: the guest gets EFAULT, the host a signal. */
	NOTHING,
};

struct place {
	enum where where;
	uint8_t file;
	uint64_t index;
};

static inline bool is_memory(struct place place)
{
	return place.where == IN_ALIAS || place.where == IN_FILE;
}

static inline bool file_exists(const struct fuzz_file *file)
{
	return file->open || file->mapped;
}

static inline uint64_t *value_at(struct model *m, struct place place)
{
	return place.where == IN_ALIAS ? &m->alias[place.index] :
		&m->files[place.file].pages[place.index].value;
}

/* A value that nothing else has or had. */
static inline uint64_t new_value(struct model *m)
{
	return ++m->values * 0x9e3779b97f4a7c15ULL;
}

static inline struct fuzz_slot *slot_of_page(struct model *m, uint64_t page)
{
	return model_slot_at(m->slots, page, page);
}

static inline struct fuzz_slot *slot_of_index(struct model *m, uint8_t file,
					      uint64_t index)
{
	int i;

	for (i = 0; i < SLOTS; i++) {
		struct fuzz_slot *slot = &m->slots[i];

		if (slot->npages && (slot->flags & KVM_MEM_GUEST_MEMFD) &&
		    slot->file == file && index - slot->index < slot->npages)
			return slot;
	}
	return NULL;
}

/* May a process touch what is in the file there? */
static inline bool may_touch(struct model *m, uint8_t file, uint64_t index)
{
	struct fuzz_slot *slot;

	if (index >= m->files[file].npages)
		return false;
	if (!m->protected)
		return m->files[file].flags & FLAG_SHARED;
	slot = slot_of_index(m, file, index);
	return slot && !m->private[index - slot->index + slot->page];
}

/* What the process has there. */
static inline struct place host_place(struct model *m, uint64_t hpage)
{
	struct place place = { .where = NOTHING };

	if (hpage < PAGES) {
		place.where = IN_ALIAS;
		place.index = hpage;
	} else if (hpage < NO_HPAGE) {
		place.file = (hpage - PAGES) / FILE_HPAGES;
		place.index = hpage - FILE_HPAGE(place.file);
		if (m->files[place.file].mapped &&
		    may_touch(m, place.file, place.index))
			place.where = IN_FILE;
	}
	return place;
}

/* Which signal brings a touch there, if it is nothing? */
static inline int host_signal(struct model *m, uint64_t hpage)
{
	struct place place = host_place(m, hpage);

	return hpage < NO_HPAGE && m->files[place.file].mapped ? SIGBUS : SIGSEGV;
}

/* What the guest has there, for reading or writing. */
static inline struct place guest_place(struct model *m, uint64_t page, bool write)
{
	struct fuzz_slot *slot = slot_of_page(m, page);
	bool has_file = slot && (slot->flags & KVM_MEM_GUEST_MEMFD);
	struct place place = { .where = MMIO };

	if (m->private[page] ? !has_file || slot->file == NO_FILE :
			       has_file && slot->only && slot->file == NO_FILE) {
		place.where = m->private[page] ? FAULT_PRIVATE : FAULT_SHARED;
	} else if (m->private[page] || (has_file && slot->only)) {
		place.where = IN_FILE;
		place.file = slot->file;
		place.index = page - slot->page + slot->index;
	} else if (slot && !(write && (slot->flags & KVM_MEM_READONLY))) {
		place = host_place(m, slot->hpage + page - slot->page);
	}
	return place;
}

/* The same for KVM, which reaches shared memory as the process does. */
static inline struct place kvm_place(struct model *m, uint64_t page)
{
	struct fuzz_slot *slot = slot_of_page(m, page);

	if (m->private[page] || !slot)
		return guest_place(m, page, false);
	return host_place(m, slot->hpage + page - slot->page);
}

/* What is there is used: it gets a page if there is none. */
static inline void use_place(struct model *m, struct place place)
{
	struct fuzz_file *file = &m->files[place.file];
	uint64_t start = place.index / LARGE * LARGE, i;
	bool empty;

	if (place.where != IN_FILE || file->pages[place.index].must)
		return;

	/* A folio, of all that is to be in it, or a page. */
	empty = m->large && start + LARGE <= file->npages;
	for (i = start; empty && i < start + LARGE; i++)
		empty = !file->pages[i].must;
	for (i = start; empty && i < start + LARGE; i++)
		file->pages[i].may = true;
	file->pages[place.index].must = true;
	file->pages[place.index].may = true;
}

/* The file has that many pages: false if it cannot.  Mostly this tells which. */
static inline bool learn_size(struct fuzz_file *file, uint64_t seen,
			      uint64_t *least, uint64_t *most)
{
	uint64_t i;

	*least = 0;
	*most = 0;
	for (i = 0; i < file->npages; i++) {
		*least += file->pages[i].must;
		*most += file->pages[i].may;
	}
	for (i = 0; i < file->npages; i++) {
		if (seen == *most)
			file->pages[i].must = file->pages[i].may;
		else if (seen == *least)
			file->pages[i].may = file->pages[i].must;
	}
	return seen >= *least && seen <= *most;
}

static inline void drop_pages(struct fuzz_file *file, uint64_t first, uint64_t n)
{
	for (; n && first < file->npages; first++, n--)
		file->pages[first] = (struct fuzz_page) {};
}

/* It has been closed, or unmapped: is that the end of it? */
static inline void release_file(struct model *m, uint8_t file)
{
	int i;

	if (file_exists(&m->files[file]))
		return;
	drop_pages(&m->files[file], 0, FILE_MAX);
	for (i = 0; i < SLOTS; i++) {
		if (m->slots[i].file == file)
			m->slots[i].file = NO_FILE;
	}
}

/* The outcome of operations: 0 or a negative errno, and the model follows. */

static inline int model_create(struct model *m, const struct op *op)
{
	struct fuzz_file *file = &m->files[op->who];

	if (op->wrong)
		return -EINVAL;
	if (m->protected && (op->flags & FLAG_SHARED))
		return -EINVAL;

	memset(file, 0, sizeof(*file));
	file->open = true;
	file->npages = op->n;
	file->flags = op->flags;
	return 0;
}

static inline int model_mmap(struct model *m, const struct op *op)
{
	struct fuzz_file *file = &m->files[op->who];

	if (!(file->flags & FLAG_MMAP))
		return -ENODEV;
	if (op->wrong)
		return op->wrong == MMAP_PRIVATE ? -EINVAL : -EPERM;
	file->mapped = true;
	return 0;
}

static inline int check_binding(struct model *m, const struct op *op)
{
	struct fuzz_file *file;
	uint64_t i;

	if (op->wrong == SET_FD_CLOSED)
		return -EBADF;
	if (op->wrong == SET_FD_OTHER || op->wrong == SET_FD_VM)
		return -EINVAL;
	file = &m->files[op->file];
	if (op->file == NO_FILE || !file->open)
		return -EBADF;
	if (op->wrong || op->index + op->n > file->npages)
		return -EINVAL;
	for (i = op->index; i < op->index + op->n; i++) {
		if (slot_of_index(m, op->file, i))
			return -EEXIST;
	}
	return 0;
}

static inline int model_set(struct model *m, const struct op *op)
{
	struct fuzz_slot *slot = &m->slots[op->who], *other;
	bool has_file = op->flags & KVM_MEM_GUEST_MEMFD;
	int ret;

	if (op->wrong && op->wrong < SET_FD_CLOSED)
		return -EINVAL;
	if (slot->npages) {
		if (has_file || (slot->flags & KVM_MEM_GUEST_MEMFD))
			return -EINVAL;
		if (op->n != slot->npages || op->hpage != slot->hpage ||
		    ((op->flags ^ slot->flags) & KVM_MEM_READONLY))
			return -EINVAL;
	}
	for (other = m->slots; other < m->slots + SLOTS; other++) {
		if (other != slot && other->npages &&
		    op->first < other->page + other->npages &&
		    other->page < op->first + op->n)
			return -EEXIST;
	}
	if (has_file) {
		ret = check_binding(m, op);
		if (ret)
			return ret;
	}

	slot->page = op->first;
	slot->npages = op->n;
	slot->hpage = op->hpage;
	slot->index = op->index;
	slot->flags = op->flags;
	slot->file = has_file ? op->file : NO_FILE;
	slot->only = has_file && (m->files[op->file].flags & FLAG_MMAP);
	return 0;
}

static inline int model_delete(struct model *m, const struct op *op)
{
	struct fuzz_slot *slot = &m->slots[op->who];

	if (!slot->npages)
		return -EINVAL;
	memset(slot, 0, sizeof(*slot));
	slot->file = NO_FILE;
	return 0;
}

static inline int model_attr(struct model *m, const struct op *op)
{
	uint64_t past = op->wrong == ATTR_FAR ? PAGES : op->first + op->n, i;

	if (op->wrong && op->wrong < ATTR_FAR)
		return -EINVAL;
	if (op->write && !m->protected)
		return -EINVAL;
	for (i = op->first; i < past; i++)
		m->private[i] = op->write;
	return 0;
}

static inline int model_falloc(struct model *m, const struct op *op)
{
	struct place place = { .where = IN_FILE, .file = op->who };

	switch (op->wrong) {
	case 0:
		break;
	case FALLOC_MODE_0:
	case FALLOC_MODE_ZERO:
	case FALLOC_PUNCH_ONLY:
		return -EOPNOTSUPP;
	case FALLOC_MAX:
		return -EFBIG;
	default:
		return -EINVAL;
	}
	if (op->first + op->n > m->files[op->who].npages)
		return -EINVAL;
	for (place.index = op->first; place.index < op->first + op->n; place.index++)
		use_place(m, place);
	return 0;
}

static inline int model_punch(struct model *m, const struct op *op)
{
	if (op->wrong == PUNCH_ODD)
		return -EINVAL;
	if (op->wrong != PUNCH_BEYOND)
		drop_pages(&m->files[op->who], op->first, op->n);
	return 0;
}

/* Of which page a mapping ahead is going to stop, and why: 0 for nowhere. */
static inline int model_prefault(struct model *m, uint64_t page, uint64_t past,
				 uint64_t *stop)
{
	struct place place;
	int ret = 0;

	for (; page < past; page++) {
		place = guest_place(m, page, false);
		if (!slot_of_page(m, page))
			ret = -ENOENT;
		else if (!is_memory(place))
			ret = -EFAULT;
		if (ret)
			break;
		use_place(m, place);
	}
	*stop = page;
	return ret;
}

static inline int model_dontneed(struct model *m, const struct op *op)
{
	uint64_t i;

	for (i = op->first; i < op->first + op->n && i < PAGES; i++)
		m->alias[i] = 0;
	return 0;
}

/* For people to read, in the units of the operation. */
static inline void op_print(char *line, size_t size, const struct op *op)
{
	static const char * const names[] = {
		[OP_CREATE] = "create file",
		[OP_CLOSE] = "close file",
		[OP_MMAP] = "mmap file",
		[OP_MUNMAP] = "munmap file",
		[OP_SET] = "set slot",
		[OP_DELETE] = "delete slot",
		[OP_ATTR] = "attributes",
		[OP_FALLOC] = "fallocate file",
		[OP_PUNCH] = "punch hole in file",
		[OP_WRITE] = "write() to file",
		[OP_PREFAULT] = "map ahead, vCPU",
		[OP_GUEST] = "guest access, vCPU",
		[OP_KVM] = "read by KVM, vCPU",
		[OP_HOST] = "host access",
		[OP_DONTNEED] = "MADV_DONTNEED",
		[OP_CHECK] = "check of what is there",
	};
	int n = snprintf(line, size, "%s", names[op->kind]);

	if (op->kind != OP_ATTR && op->kind != OP_HOST && op->kind != OP_DONTNEED &&
	    op->kind != OP_CHECK)
		n += snprintf(line + n, size - n, " %u", op->who);
	if (op->kind == OP_CREATE)
		n += snprintf(line + n, size - n, ", %lu pages, flags %#lx", op->n,
			      op->flags);
	else if (op->n)
		n += snprintf(line + n, size - n, ", first %lu, %lu pages", op->first,
			      op->n);
	if (op->kind == OP_SET) {
		n += snprintf(line + n, size - n, ", hpage %lu, flags %#lx", op->hpage,
			      op->flags);
		if (op->flags & KVM_MEM_GUEST_MEMFD)
			n += snprintf(line + n, size - n, ", file %d at %lu",
				      op->file == NO_FILE ? -1 : op->file, op->index);
	}
	if (op->kind == OP_ATTR)
		n += snprintf(line + n, size - n, ", %s",
			      op->write ? "private" : "shared");
	if (op->kind == OP_GUEST || op->kind == OP_HOST)
		n += snprintf(line + n, size - n, ", %s", op->write ? "write" : "read");
	if (op->kind == OP_PREFAULT)
		n += snprintf(line + n, size - n, ", %s",
			      op->write ? "KVM_MAP_MEMORY" : "KVM_PRE_FAULT_MEMORY");
	if (op->wrong)
		snprintf(line + n, size - n, ", variant %u", op->wrong);
}

#endif /* SELFTEST_KVM_GMEM_FUZZ_MODEL_H */
