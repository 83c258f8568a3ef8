// SPDX-License-Identifier: GPL-2.0
/*
 * Random sequences of all that can be done to guest memory, with arguments that are
 * valid and others that are not, against a model: see gmem_fuzz_model.h.
 *
 * After each step its outcome is compared: errno, what is left to be done, the value
 * that was read, the exit with all that it tells, the signal; and the size of each
 * file.  Now and then, and at the end, all that the guest and the host can see is.
 *
 * A sequence that fails is shrunk, by running parts of it.  Each runs in a process
 * and a VM of its own, so that anything may happen to it.
 */
#include "gmem_fuzz_gen.h"
#include "gmem_fuzz_ops.h"

#include <stdlib.h>
#include <time.h>

#define PARAMETER	"/sys/module/kvm/parameters/gmem_max_order"

#define DEFAULT_STEPS	300UL
#define MAX_STEPS	1000000UL
/* Of those that come last before a mismatch, unless -v asks for all. */
#define SHOWN_STEPS	20
/* How often to run parts of a sequence that fails. */
#define MAX_SHRINKS	600
/* A step that takes longer hangs. */
#define STEP_SECONDS	200

static const uint64_t default_seeds[] = { 1, 2, 3, 20261121 };

static const struct {
	unsigned long type;
	const char *name;
} modes[] = {
	{ KVM_X86_SW_PROTECTED_VM, "protected" },
	{ KVM_X86_DEFAULT_VM, "ordinary" },
};

struct options {
	unsigned long type, nr_ops;
	bool verbose;
	/* Draw the steps from this seed, or else run those of the report. */
	bool draw;
	uint64_t seed;
};

static bool files_have_folios(void)
{
	FILE *file = fopen(PARAMETER, "r");
	unsigned int order;
	bool have = file && fscanf(file, "%u", &order) == 1 && order >= 9;

	if (file)
		fclose(file);
	/* Where the kernel is not built for it there are none: they may, never must. */
	return have;
}

static void fuzz_setup(struct fuzz *f, struct report *report, unsigned long type)
{
	const size_t size = BYTES(HPAGES), align = BYTES(LARGE);
	void *mem;
	int i;

	memset(f, 0, sizeof(*f));
	f->report = report;
	f->m.protected = type == KVM_X86_SW_PROTECTED_VM;
	f->m.large = files_have_folios();
	for (i = 0; i < FILES; i++)
		f->fds[i] = -1;

	mem = anonymous_pages(size + align);
	f->arena = (void *)(((uintptr_t)mem + align - 1) & ~(align - 1));
	reserve(f->arena + BYTES(PAGES), HPAGES - PAGES);
	f->buf = anonymous_pages(BYTES(PAGES));

	f->other_fd = vm_create_guest_memfd(vm_create_barebones_type(type), BYTES(FILE_MAX),
					    0);
	f->vm = vm_create_type_with_vcpus(type, VCPUS, PAGES, guest_main, f->vcpus);
	virt_map(f->vm, GPA, GPA, PAGES);
	for (i = 0; i < VCPUS; i++)
		vcpu_regs_get(f->vcpus[i], &f->starts[i]);
}

/* In a process of its own; does not return if something is wrong. */
static void run_steps(struct report *report, const struct options *opt)
{
	static struct fuzz fuzz;
	struct fuzz *f = &fuzz;
	struct gen gen;
	char line[200];

	alarm(STEP_SECONDS);
	memset(report->counts, 0, sizeof(report->counts));
	report->text[0] = 0;
	report->step = 0;
	fuzz_setup(f, report, opt->type);
	gen_start(&gen, &f->m, opt->seed);

	for (f->step = 0; f->step < opt->nr_ops; f->step++) {
		struct op *op = &report->ops[f->step];

		report->step = f->step;
		if (opt->draw)
			gen_op(&gen, op);
		if (opt->verbose) {
			op_print(line, sizeof(line), op);
			printf("# %lu: %s\n", f->step, line);
			fflush(stdout);
		}
		alarm(STEP_SECONDS);
		do_op(f, op);
		check_sizes(f);
	}
	check_all(f, &(struct op) { .kind = OP_CHECK }, true);
	_exit(KSFT_PASS);
}

/* Did all go well? */
static bool run(struct report *report, const struct options *opt, bool quiet)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork, errno %d", errno);
	if (!pid) {
		if (quiet && (!freopen("/dev/null", "w", stdout) ||
			      !freopen("/dev/null", "w", stderr)))
			_exit(KSFT_FAIL);
		run_steps(report, opt);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid, errno %d", errno);
	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_PASS)
		return true;
	if (WIFSIGNALED(status))
		snprintf(report->text, sizeof(report->text), "signal %d%s",
			 WTERMSIG(status), WTERMSIG(status) == SIGALRM ?
			 ", it hangs" : "");
	else if (!report->text[0])
		snprintf(report->text, sizeof(report->text),
			 "an assertion of the library");
	return false;
}

static void print_steps(const struct report *report, unsigned long first,
			unsigned long past)
{
	char line[200];

	for (; first < past; first++) {
		op_print(line, sizeof(line), &report->ops[first]);
		printf("#   %lu: %s\n", first, line);
	}
}

/*
 * Leave out as much as can be: large parts first, then smaller ones, then single
 * steps, again and again until nothing can be left out.  @best has the sequence.
 */
static void shrink(struct report *best, struct report *try, struct options *opt)
{
	unsigned long part, at, n, runs = 0;
	bool less;

	for (part = best->nr_ops / 2; part; part = less ? part : part / 2) {
		less = false;
		for (at = 0; at < best->nr_ops && runs < MAX_SHRINKS; ) {
			n = best->nr_ops - at < part ? best->nr_ops - at : part;
			memcpy(try->ops, best->ops, at * sizeof(struct op));
			memcpy(try->ops + at, best->ops + at + n,
			       (best->nr_ops - at - n) * sizeof(struct op));
			opt->nr_ops = best->nr_ops - n;
			runs++;
			if (run(try, opt, true)) {
				at += n;
				continue;
			}
			less = true;
			/* What comes after the mismatch has not been run. */
			best->nr_ops = opt->nr_ops;
			if (try->step + 1 < best->nr_ops)
				best->nr_ops = try->step + 1;
			memcpy(best->ops, try->ops, best->nr_ops * sizeof(struct op));
			memcpy(best->text, try->text, sizeof(best->text));
		}
		if (runs >= MAX_SHRINKS)
			break;
	}
	printf("# %lu runs of parts of it\n", runs);
}

/* It takes a while: of what fails the first only, -s does it for another. */
static void shrink_once(struct report *best, struct report *try, struct options *opt,
			const char *mode)
{
	static bool done;

	if (done)
		return;
	done = true;
	opt->draw = false;
	opt->verbose = false;
	shrink(best, try, opt);
	printf("# SHRUNK, seed %lu, %s VM, to %lu steps: %s\n", opt->seed, mode,
	       best->nr_ops, best->text);
	print_steps(best, 0, best->nr_ops);
}

static struct report *new_report(unsigned long nr_ops)
{
	struct report *report = mmap(NULL, sizeof(*report) + nr_ops * sizeof(struct op),
				     PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	TEST_ASSERT(report != MAP_FAILED, "mmap, errno %d", errno);
	return report;
}

static void free_report(struct report *report, unsigned long nr_ops)
{
	munmap(report, sizeof(*report) + nr_ops * sizeof(struct op));
}

static void print_counts(const struct report *report)
{
	const unsigned long *counts = report->counts;

	printf("# memory: %lu guest reads, %lu writes, %lu by KVM, %lu by the host; ",
	       counts[READ_MEMORY], counts[WROTE_MEMORY], counts[READ_BY_KVM],
	       counts[HOST_MEMORY]);
	printf("faults %lu, %lu, signals %lu; MMIO %lu, %lu; nothing %lu, %lu; ",
	       counts[READ_FAULT], counts[WROTE_FAULT], counts[HOST_SIGNAL],
	       counts[READ_MMIO], counts[WROTE_MMIO], counts[READ_NOTHING],
	       counts[WROTE_NOTHING]);
	printf("done %lu, refused %lu; grown by folios %lu\n", counts[DONE],
	       counts[REFUSED], counts[FOLIOS]);
}

static bool fuzz_seed(const char *mode, struct options *opt, unsigned long nr_ops)
{
	struct report *best = new_report(nr_ops), *try = new_report(nr_ops);
	unsigned long first;
	bool ok;

	opt->draw = true;
	opt->nr_ops = nr_ops;
	ok = run(best, opt, false);
	if (ok) {
		print_counts(best);
	} else {
		best->nr_ops = best->step + 1;
		first = best->nr_ops > SHOWN_STEPS && !opt->verbose ?
			best->nr_ops - SHOWN_STEPS : 0;
		printf("# MISMATCH, seed %lu, %s VM, step %lu: %s\n", opt->seed, mode,
		       best->step, best->text);
		print_steps(best, first, best->nr_ops);
		shrink_once(best, try, opt, mode);
	}
	free_report(best, nr_ops);
	free_report(try, nr_ops);
	return ok;
}

static void help(const char *name)
{
	printf("Usage: %s [-s SEED] [-c COUNT] [-n STEPS] [-m MODE] [-v]\n"
	       "  -s SEED   a sequence from this seed, instead of a few that are always the\n"
	       "            same; 0 takes the time for one\n"
	       "  -c COUNT  so many, from as many seeds from SEED on\n"
	       "  -n STEPS  its length (default %lu)\n"
	       "  -m MODE   protected or ordinary: the type of the VM (default both)\n"
	       "  -v        print each step before it is done\n",
	       name, DEFAULT_STEPS);
}

int main(int argc, char *argv[])
{
	unsigned long nr_ops = DEFAULT_STEPS;
	unsigned long nr_seeds = 0, j;
	const char *mode = NULL;
	bool verbose = false, given = false, ok = true;
	uint64_t seed = 1;
	int i, c;

	while ((c = getopt(argc, argv, "s:c:n:m:vh")) != -1) {
		switch (c) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			if (!seed)
				seed = time(NULL);
			if (!nr_seeds)
				nr_seeds = 1;
			break;
		case 'c':
			nr_seeds = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			nr_ops = strtoul(optarg, NULL, 0);
			break;
		case 'm':
			mode = optarg;
			break;
		case 'v':
			verbose = true;
			break;
		default:
			help(argv[0]);
			return c == 'h' ? 0 : KSFT_FAIL;
		}
	}
	for (i = 0; mode && i < ARRAY_SIZE(modes); i++) {
		if (!strcmp(mode, modes[i].name))
			break;
	}
	if (!nr_ops || nr_ops > MAX_STEPS || (mode && i == ARRAY_SIZE(modes))) {
		help(argv[0]);
		return KSFT_FAIL;
	}

	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(FLAG_MMAP | FLAG_SHARED | FLAG_WRITE));
	disable_guest_interrupts();
	setbuf(stdout, NULL);
	ksft_print_header();
	given = nr_seeds;
	if (!given)
		nr_seeds = ARRAY_SIZE(default_seeds);
	ksft_set_plan(nr_seeds * (mode ? 1 : ARRAY_SIZE(modes)));
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		if (mode && strcmp(mode, modes[i].name))
			continue;
		for (j = 0; j < nr_seeds; j++) {
			struct options opt = {
				.type = modes[i].type,
				.verbose = verbose,
				.seed = given ? seed + j : default_seeds[j],
			};

			if (fuzz_seed(modes[i].name, &opt, nr_ops)) {
				ksft_test_result_pass("%s VM, seed %lu, %lu steps\n",
						      modes[i].name, opt.seed, nr_ops);
			} else {
				ksft_test_result_fail("%s VM, seed %lu, %lu steps\n",
						      modes[i].name, opt.seed, nr_ops);
				ok = false;
			}
		}
	}
	return ok ? ksft_exit_pass() : ksft_exit_fail();
}
