// SPDX-License-Identifier: GPL-2.0
/*
 * Every operation on guest memory against every other one, and against itself, on a
 * VM with each kind of memory: what each says must be what is documented for it, and
 * when all is quiet again the guest has what it is to have, see gmem_pairs.h.
 *
 * A case is an operation with half of the others, so that each pair is run once. Both
 * sides of a pair do a number of steps, each step begun at the same time. Where the
 * rest of a step goes is for the scheduler; the arguments come from a seed, so that a
 * pair does the same each time.
 *
 * Environment: GMEM_PAIRS_STEPS steps of each thread, GMEM_PAIRS_SEED where the random
 * numbers begin, GMEM_PAIRS_WITH the only partner that is wanted.
 *
 * Bugs that others had and that show here, most of them on a kernel that watches
 * itself: a page that a fault maps while a hole takes it out of the file; a memslot
 * used after its end by one who came from the file; a file that ends while a fault
 * looks at it; locks taken in two orders; a reference that is never given back.
 */
#include "gmem_pairs_ops.h"

#define DEFAULT_STEPS	4UL
#define DEFAULT_SEED	1UL

static unsigned long seed;
static const char *only_with;

/* What has been run, of all processes of the harness. */
static struct {
	unsigned long pairs[NR_LAYOUTS];
	unsigned long steps[NR_OPS], refused[NR_OPS];
} *totals;

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pair *pair = w->actor->pair;
	unsigned int round, i;

	if (w->cpu >= 0)
		pin_to_cpu(w->cpu);
	for (round = 0; round < pair->rounds; round++) {
		pthread_barrier_wait(&pair->barrier);
		for (i = draw(&w->rng) % 4; i > 1; i--)
			sched_yield();
		w->actor->op->step(w);
		w->steps++;
		/* Nobody is in the next round before all have left this one. */
		if (pthread_barrier_wait(&pair->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			pair->round = round + 1;
	}
	return NULL;
}

static void run_rounds(struct pair *pair, unsigned int rounds)
{
	unsigned int nr = pair->actors[0].nr_workers + pair->actors[1].nr_workers;
	/* Anywhere, on one processor, or each side on one of its own. */
	int where = draw(&(uint64_t) { pair->number }) % 3;
	int i, j;

	pair->rounds = rounds;
	pair->round = 0;
	TEST_ASSERT(!pthread_barrier_init(&pair->barrier, NULL, nr), "barrier");
	for (i = 0; i < 2; i++) {
		struct actor *actor = &pair->actors[i];

		for (j = 0; j < actor->nr_workers; j++) {
			struct worker *w = &actor->workers[j];

			w->cpu = where == 0 ? -1 : where == 1 ? 0 :
				 i % sysconf(_SC_NPROCESSORS_ONLN);
			TEST_ASSERT(!pthread_create(&w->thread, NULL, worker_main, w),
				    "pthread_create()");
		}
	}
	for (i = 0; i < 2; i++)
		for (j = 0; j < pair->actors[i].nr_workers; j++)
			pthread_join(pair->actors[i].workers[j].thread, NULL);
	pthread_barrier_destroy(&pair->barrier);
}

static void run_pair(struct env *env, int first, int second)
{
	struct pair pair = { .env = env };
	const int which[] = { first, second };
	int i, j;

	pair.number = 1 + (env->layout * NR_OPS + first) * NR_OPS + second;
	for (i = 0; i < 2; i++) {
		struct actor *actor = &pair.actors[i];
		uint64_t rng = seed << 32 | pair.number << 8 | i << 4;

		actor->pair = &pair;
		actor->op = &ops[which[i]];
		actor->env = env;
		actor->id = i;
		actor->nr_workers = actor->op->nr_threads;
		for (j = 0; j < actor->nr_workers; j++) {
			actor->workers[j].actor = actor;
			actor->workers[j].id = j;
			actor->workers[j].rng = rng + j;
			draw(&actor->workers[j].rng);
		}
	}
	pair_start(&pair);
	for (i = 0; i < 2; i++)
		if (pair.actors[i].op->setup)
			pair.actors[i].op->setup(&pair.actors[i]);

	run_rounds(&pair, nr_steps);
	/* Both sides may have left pieces of two files. */
	if (first == CLOSE && second == CLOSE)
		swap_file(&pair.actors[0].workers[0]);
	check_quiet(&pair);
	if (first == EXIT || second == EXIT) {
		pair.ending = true;
		for (i = 0; i < 2; i++)
			pair.actors[i].words.mode = MODE_LOOSE;
		run_rounds(&pair, 1);
	}

	for (i = 0; i < 2; i++) {
		struct actor *actor = &pair.actors[i];

		if (actor->op->teardown)
			actor->op->teardown(actor);
		for (j = 0; j < actor->nr_workers; j++) {
			totals->steps[which[i]] += actor->workers[j].steps;
			totals->refused[which[i]] += actor->workers[j].refused;
		}
	}
	totals->pairs[env->layout]++;
	if (pair.ending) {
		env_free_ended(env);
		env_setup(env, env->layout);
	}
}

FIXTURE(pairs) {
	struct env env;
};

FIXTURE_VARIANT(pairs) {
	enum layout layout;
};

FIXTURE_VARIANT_ADD(pairs, private_memory) {
	.layout = LAYOUT_ALIAS,
};

FIXTURE_VARIANT_ADD(pairs, in_place) {
	.layout = LAYOUT_IN_PLACE,
};

FIXTURE_VARIANT_ADD(pairs, ordinary_vm) {
	.layout = LAYOUT_ORDINARY,
};

FIXTURE_SETUP(pairs)
{
	catch_signals();
	env_setup(&self->env, variant->layout);
}

FIXTURE_TEARDOWN(pairs)
{
	env_teardown(&self->env);
}

/*
 * With itself and half of the others; those have the rest.  Returns why the operation
 * cannot be run, or NULL.
 */
static const char *run_pairs(struct env *env, int first)
{
	const struct operation *op = &ops[first];
	int i, second;

	if (op->missing && op->missing(env->layout))
		return op->missing(env->layout);

	for (i = 0; i <= NR_OPS / 2; i++) {
		second = (first + i) % NR_OPS;
		/* Halfway round an even number of them is the same both ways. */
		if (NR_OPS % 2 == 0 && i == NR_OPS / 2 && first >= NR_OPS / 2)
			continue;
		op = &ops[second];
		if (op->missing && op->missing(env->layout))
			continue;
		if (only_with && strcmp(only_with, op->name))
			continue;
		run_pair(env, first, second);
	}
	return NULL;
}

#define TEST_OPERATION(name, which)						\
TEST_F(pairs, name)								\
{										\
	const char *missing = run_pairs(&self->env, which);			\
										\
	if (missing)								\
		SKIP(return, "%s", missing);					\
}

TEST_OPERATION(guest, GUEST)
TEST_OPERATION(pre_fault, PRE_FAULT)
TEST_OPERATION(map_memory, MAP_MEMORY)
TEST_OPERATION(attributes, ATTRIBUTES)
TEST_OPERATION(hole, HOLE)
TEST_OPERATION(allocate, ALLOCATE)
TEST_OPERATION(user, USER)
TEST_OPERATION(write, WRITE)
TEST_OPERATION(bind, BIND)
TEST_OPERATION(unbind, UNBIND)
TEST_OPERATION(close, CLOSE)
TEST_OPERATION(slot, SLOT)
TEST_OPERATION(alias, ALIAS)
TEST_OPERATION(poison, POISON)
TEST_OPERATION(soft_offline, SOFT_OFFLINE)
TEST_OPERATION(unload, UNLOAD)
TEST_OPERATION(exit, EXIT)
TEST_OPERATION(memcg, MEMCG)
TEST_OPERATION(signal, SIGNAL)

static unsigned long from_environment(const char *name, unsigned long value)
{
	const char *text = getenv(name);

	return text && *text ? strtoul(text, NULL, 0) : value;
}

/* The harness does not return.  Its children, and what a child forks, end here, too. */
static pid_t main_pid;

static void at_end(void)
{
	unsigned long steps = 0;
	int i;

	if (getpid() != main_pid)
		return;
	if (has_memcg) {
		rmdir(GROUP);
		umount_cgroup2();
	}
	for (i = 0; i < NR_OPS; i++) {
		steps += totals->steps[i];
		printf("# %-12s %7lu steps, %lu calls refused\n", ops[i].name,
		       totals->steps[i], totals->refused[i]);
	}
	printf("# seed %lu: %lu pairs with an alias, %lu in place, %lu ordinary, %lu steps\n",
	       seed, totals->pairs[LAYOUT_ALIAS], totals->pairs[LAYOUT_IN_PLACE],
	       totals->pairs[LAYOUT_ORDINARY], steps);
}

int main(int argc, char *argv[])
{
	char limit[32];

	TEST_REQUIRE(kvm_has_private_vms());
	TEST_REQUIRE(kvm_has_gmem_flags(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED |
					GUEST_MEMFD_FLAG_WRITE));
	setbuf(stdout, NULL);
	nr_steps = from_environment("GMEM_PAIRS_STEPS", DEFAULT_STEPS);
	seed = from_environment("GMEM_PAIRS_SEED", DEFAULT_SEED);
	only_with = getenv("GMEM_PAIRS_WITH");
	TEST_ASSERT(nr_steps, "GMEM_PAIRS_STEPS is not a number of steps");
	printf("# seed %lu, %lu steps of each thread\n", seed, nr_steps);

	totals = mmap(NULL, sizeof(*totals), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(totals != MAP_FAILED, "mmap(), errno: %d", errno);
	has_memcg = mount_cgroup2();
	if (has_memcg) {
		TEST_ASSERT(!mkdir(GROUP, 0755), "%s, errno: %d", GROUP, errno);
		snprintf(limit, sizeof(limit), "%llu", ROOM);
		write_line(GROUP "/memory.max", limit);
	}
	main_pid = getpid();
	atexit(at_end);
	return test_harness_run(argc, argv);
}
