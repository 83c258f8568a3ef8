// SPDX-License-Identifier: GPL-2.0
/*
 * Large folios of guest_memfd, at random against a model: whatever guest, VMM and
 * KVM do to a file, in whichever order, each page holds what was written to it last
 * and belongs to whom it was given, and the file has what was used and no more.
 *
 * See gmem_large_model.h.
 */
#include "gmem_large_model.h"

#define STEPS	200

FIXTURE(model) {
	struct model model;
};

FIXTURE_VARIANT(model) {
	unsigned long type;
	uint64_t flags;
};

/* Shared memory beside it. */
FIXTURE_VARIANT_ADD(model, private) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(model, shared) {
	.type = KVM_X86_DEFAULT_VM, .flags = FLAG_MMAP | FLAG_SHARED | FLAG_WRITE,
};

FIXTURE_VARIANT_ADD(model, in_place) {
	.type = KVM_X86_SW_PROTECTED_VM, .flags = FLAG_MMAP | FLAG_WRITE,
};

FIXTURE_SETUP(model)
{
}

FIXTURE_TEARDOWN(model)
{
}

static void run(FIXTURE_DATA(model) *self, const FIXTURE_VARIANT(model) *variant,
		const struct model_layout *layout)
{
	static const unsigned int seeds[] = { 1, 20261121 };
	struct model *m = &self->model;
	struct large l;
	int i;

	for (i = 0; i < ARRAY_SIZE(seeds); i++) {
		memset(m, 0, sizeof(*m));
		model_start(m, &l, variant->type, variant->flags, layout, seeds[i]);
		model_run(m, STEPS);
		model_end(m);
	}
}

TEST_F(model, small)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &small_layout);
}

TEST_F(model, inside)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &inside_layout);
}

TEST_F(model, odd)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &odd_layout);
}

TEST_F(model, two_slots)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &two_layout);
}

TEST_F(model, gap)
{
	REQUIRE_LARGE_PAGES();
	run(self, variant, &gap_layout);
}

int main(int argc, char *argv[])
{
	return large_main(argc, argv);
}
