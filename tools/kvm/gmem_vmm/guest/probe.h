/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the demo guest and gmem_vmm say to each other.  Everything goes through
 * I/O ports: values travel in registers, so the channel itself cannot leak
 * guest memory and works the same for private and ordinary memory.
 *
 * A command is zero or more 32-bit writes of arguments to PROBE_PORT_ARG, then
 * one of the command to PROBE_PORT_CMD.  Reading PROBE_PORT_CMD then gives 1
 * when the check passed, otherwise 0.
 */
#ifndef GMEM_PROBE_H
#define GMEM_PROBE_H

#define PROBE_PORT_EXIT		0xf4	/* 8-bit write: end the VM, value 0 = good */
#define PROBE_PORT_CMD		0x510
#define PROBE_PORT_ARG		0x514
#define PROBE_PORT_COUNT	8
#define PROBE_MAX_ARGS		3

#define PROBE_CMDS							\
	/* vCPUs: the first program runs, on so many */			\
	PROBE_CMD(USER_SPACE, 1)					\
	/* seed: memory is full of the secret, look for it */		\
	PROBE_CMD(SECRET, 1)						\
	/* hundredths of a second: stolen time, with all vCPUs busy */	\
	PROBE_CMD(STEAL, 1)						\
	/* pfn, pages, seed: pages are shared and hold the pattern */	\
	PROBE_CMD(CHECK_PATTERN, 3)					\
	/* pfn, pages, seed: write the pattern to these shared pages */	\
	PROBE_CMD(FILL_PATTERN, 3)					\
	/* pfn, pages: nothing of these pages can be seen in the mapping */	\
	PROBE_CMD(CHECK_ABSENT, 2)					\
	/* pfn, pages: hold on to the first of these shared pages */	\
	PROBE_CMD(PIN, 2)						\
	/* and let it go */						\
	PROBE_CMD(UNPIN, 0)						\
	/* is the guest to run into a memory error? */			\
	PROBE_CMD(WANT_POISON, 0)					\
	/* pfn: break this page */					\
	PROBE_CMD(POISON, 1)						\
	/* enum probe_result, passed: the guest's own check */		\
	PROBE_CMD(RESULT, 2)

enum probe_cmd {
	PROBE_NONE,
#define PROBE_CMD(name, args) PROBE_##name,
	PROBE_CMDS
#undef PROBE_CMD
};

enum probe_result {
	PROBE_CLOCK,
	PROBE_INTERRUPTS,
	PROBE_SHARED_STARTS_ZERO,
	PROBE_SHARED_FROM_VMM,
	PROBE_PRIVATE_STARTS_ZERO,
	PROBE_SHARED_AGAIN_ZERO,
	PROBE_SHARED_KEEPS,
	PROBE_PRIVATE_KEEPS,
	PROBE_PIN_REFUSED,
	PROBE_PIN_KEEPS,
	PROBE_ERROR_SIGNAL,
	PROBE_ERROR_NEIGHBOURS,
	PROBE_ERROR_CORRUPTED,
	PROBE_NR_RESULTS
};

#define PROBE_SECRET_WORDS	4	/* 32 bytes, repeated */

/* splitmix64: both sides derive the same words and never send them. */
static inline unsigned long long probe_word(unsigned int seed, unsigned int i)
{
	unsigned long long z = seed + (i + 1ULL) * 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static inline void probe_fill(unsigned long long *words, unsigned int count,
			      unsigned int seed)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		words[i] = probe_word(seed, i);
}

static inline int probe_matches(const unsigned long long *words,
				unsigned int count, unsigned int seed)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (words[i] != probe_word(seed, i))
			return 0;
	return 1;
}

#endif /* GMEM_PROBE_H */
