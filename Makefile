# Thin calls of scripts/, each of which also works without make and has --help.
#
# What to pass: T= tests, PLATFORM=npt|ept, CONFIG=vm|debug|..., BASE=pristine,
# APPEND= more kernel command line, PEER=none|6.12, J= parallel jobs, V=1 verbose,
# OUT= output directory.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
scripts := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))scripts

# The scripts read these from the environment. No default here: theirs count.
ifdef OUT
override OUT := $(abspath $(OUT))
export OUT
endif
ifdef BASE
export BASE
endif
ifdef J
export J
endif
ifdef V
export V
endif

.PHONY: help setup fetch tree kernel demo shell test docs check coverage bench series deb debtest export bisect clean distclean

help:		## print this list
	@sed -n 's/^\([a-z]*\):[^#]*## */  \1\t/p' $(lastword $(MAKEFILE_LIST)) | expand -t 14
	@echo
	@echo "  T=NAME PLATFORM=npt|ept CONFIG=NAME BASE=pristine APPEND=TEXT PEER=none|6.12 J=JOBS V=1 OUT=DIR"

setup:		## install the Debian packages that are missing
	$(scripts)/setup.sh

fetch: setup	## import the kernel source once (out/base)
	$(scripts)/fetch.sh

tree: fetch	## compose the series on it, writing only what changed (out/linux)
	$(scripts)/compose.sh

# BASE=pristine is the base itself: the series need not even compose.
kernel: $(if $(filter pristine,$(BASE)),fetch,tree)	## build the kernel of CONFIG= (out/build)
	$(scripts)/kernel.sh $(if $(CONFIG),--config $(CONFIG))

demo: tree	## boot Linux in VMs whose memory is guest_memfd memory
	$(scripts)/demo.sh

shell: kernel	## boot the kernel of CONFIG= to a shell with the tests inside
	$(scripts)/selftests.sh
	$(scripts)/boot.sh --build "$(out)/build/$(if $(filter pristine,$(BASE)),pristine-)$(or $(CONFIG),vm)" --shell

test: $(if $(filter pristine,$(BASE)),fetch,tree)	## run the tests, or T= of them
	$(scripts)/test.sh $(if $(T),--test $(T)) $(if $(PLATFORM),--platform $(PLATFORM)) \
		$(if $(CONFIG),--config $(CONFIG)) $(if $(APPEND),--append "$(APPEND)") \
		$(if $(filter pristine,$(BASE)),--base pristine)

docs: tree	## build the documents as HTML and check them (out/docs)
	$(scripts)/docs.sh

check:		## everything that CI runs; ends with N passed, N failed, N skipped
	$(scripts)/check.sh

coverage: tree	## which lines of the series the tests, or T= of them, reach (out/coverage)
	$(scripts)/coverage.sh $(if $(PLATFORM),--platform $(PLATFORM)) \
		$(if $(APPEND),--append "$(APPEND)") $(T)

bench: tree	## measure what it costs, next to PEER=6.12 or none (out/bench)
	$(if $(filter none,$(PEER)),,$(scripts)/setup.sh --bench)
	$(scripts)/bench.sh $(if $(PEER),--peer $(PEER))

series: tree	## write the series for git am and quilt (out/series)
	$(scripts)/series.sh

deb: tree	## Debian packages of the kernel, of gmem_vmm and of the tests (out/deb)
	$(scripts)/setup.sh --deb
	$(scripts)/deb.sh $(if $(CONFIG),--config $(CONFIG))

debtest: deb	## install them into a Debian system, boot it, run the tests, or T=
	$(scripts)/deb-test.sh $(if $(CONFIG),--packages "$(out)/$(CONFIG)") \
		$(if $(APPEND),--append "$(APPEND)") $(T)

export:		## commits made in out/linux back to patches/ and whole files
	$(scripts)/export.sh

bisect: tree	## build every patch of the series
	$(scripts)/bisect.sh $(if $(CONFIG),--config $(CONFIG))

out := $(or $(OUT),$(dir $(scripts))out)

clean:		## remove what was built, keep the source trees
	rm -rf $(addprefix "$(out)"/,build selftests demo docs bench series bisect log coverage deb deb-small deb-test)

distclean: clean	## remove the source trees too, with all that is not exported
	rm -rf "$(out)/linux" "$(out)/base" "$(out)/peer"
	[ ! -d "$(out)" ] || rmdir "$(out)"
