#!/bin/sh
# Usage: check.sh
#
# Everything that CI runs, from nothing, in order, what is cheap and likely to fail
# first. A stage that fails does not stop the next ones. Installs missing packages.
#
# A stage that prints TAP, or a last line "tests: N passed, N failed, N skipped",
# counts with these numbers, any other as one. The last line printed is
# "N passed, N failed, N skipped" over all stages.
#
# Environment: OUT output directory, J parallel jobs.
#
# Exit status: 0 nothing failed; 1 something did; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

case ${1-} in
'') ;;
-h | --help) usage; exit 0 ;;
*) fail_usage "$1: unknown argument" ;;
esac

# What is in the environment for a single build is not for all of these.
unset BASE ARCH CROSS_COMPILE
cd "$REPO"
scripts=$REPO/scripts
logs=$OUT/log/check
mkdir -p "$logs"
make_tmp
passed=0
failed=0
skipped=0
summary=

# stage NAME COMMAND...
stage()
{
	name=$1
	shift
	log=$logs/$(printf %s "$name" | tr -c 'a-z0-9\n' -).log
	echo "== $name"
	began=$(date +%s)
	{
		status=0
		"$@" 2>&1 || status=$?
		echo "$status" >"$tmp/status"
	} | tee "$log"
	status=$(cat "$tmp/status")
	# shellcheck disable=SC2046 # three numbers
	set -- $(awk -v status="$status" '
		/^tests: / { total = $0 }
		/^1\.\.[0-9]+$/ { tap = 1 }
		/^ok [0-9]+ .*# SKIP/ { skip++; next }
		/^ok [0-9]+/ { ok++ }
		/^not ok [0-9]+/ { bad++ }
		END {
			if (total) {
				split(total, word, /[ ,]+/)
				ok = word[2]; bad = word[4]; skip = word[6]
			} else if (!tap) {
				ok = status == 0; bad = 0; skip = 0
			}
			if (status != 0 && !bad)
				bad = 1
			print ok + 0, bad + 0, skip + 0
		}' "$log")
	passed=$((passed + $1))
	failed=$((failed + $2))
	skipped=$((skipped + $3))
	line="$name: $1 passed, $2 failed, $3 skipped ($(($(date +%s) - began)) s)"
	echo "-- $line"
	summary="$summary$line
"
	# No counting around a failure: it stays one whatever was printed.
	if [ "$2" -gt 0 ] && [ "$status" -eq 0 ]; then
		say "$name: reported failures but ended with status 0"
	fi
}

shell_scripts()
{
	# shellcheck disable=SC2046 # names of tracked files, no blanks in them
	shellcheck -x scripts/*.sh scripts/init scripts/deb/job scripts/deb/gmem-selftests \
		scripts/tests/*.sh .ci/run \
		$(find tools -name '*.sh')
}

# --strict. Left out everywhere: the reminder to update MAINTAINERS, as one entry covers
# all new files; commits of mainline, which the base's history does not have; a struct
# file_operations that is const, as its owner is set when KVM is loaded; and arguments
# that a macro uses twice, none of which have side effects.
# Left out where trace events are defined: lines that end with "(", and alignment with a
# "(", as TP_STRUCT__entry() is written.
# Left out in tests and tools, too: volatile, by which guest and host look at one word;
# macros of the kernel that programs do not have, as BIT(); blanks around the "*" of a
# pointer to a type that checkpatch does not know; macros that expand to lists, that skip
# a test, which is a return, or that take the name of a field; alignment within calls in
# calls of ASSERT_EQ(); _Static_assert(); and errno values as system calls have them.
checkpatch()
{
	ignore=FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID,CONST_STRUCT,MACRO_ARG_REUSE
	trace=$ignore,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
	tools=$ignore,VOLATILE,SPACING,PREFER_DEFINED_ATTRIBUTE_MACRO,COMPLEX_MACRO
	tools=$tools,EMBEDDED_FUNCTION_NAME,INCLUDE_LINUX,LONG_LINE_STRING,LINE_SPACING,ARRAY_SIZE,BRACKET_SPACE
	tools=$tools,MACRO_WITH_FLOW_CONTROL,USE_NEGATIVE_ERRNO,ENOSYS,BIT_MACRO,CAMELCASE,MACRO_ARG_PRECEDENCE
	tools=$tools,PARENTHESIS_ALIGNMENT
	export ignore trace tools
	# It looks for Python modules to check licence tags and does without.
	# shellcheck disable=SC2016 # for the other shell
	find "$OUT/series" -name '[0-9]*.patch' ! -name '0000-*' | sort |
		(cd "$OUT/linux" && xargs -P "$J" -n 1 sh -c '
			types=$ignore
			! grep -q "^diff --git a/include/trace/" "$1" || types=$trace
			! grep -q "^diff --git a/tools/" "$1" || types=$tools
			scripts/checkpatch.pl --strict --quiet --ignore "$types" "$1" 2>/dev/null' sh)
}

arm64()
{
	ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC='' \
		"$scripts/kernel.sh" --config arm64 --target arch/arm64/kvm/
}

stage setup "$scripts/setup.sh"
stage 'shell scripts' shell_scripts
stage 'composer tests' "$scripts/tests/composer_test.sh"
stage 'gmem_vmm command line' "$scripts/tests/gmem_vmm_cli_test.sh"
stage fetch "$scripts/fetch.sh"
stage compose "$scripts/compose.sh"
stage 'series applies with git am and quilt' "$scripts/series.sh" --verify
stage checkpatch checkpatch
stage documents "$scripts/docs.sh"
stage 'compiles with the features off' "$scripts/kernel.sh" --config off --target arch/x86/kvm/
stage 'compiles with SEV' "$scripts/kernel.sh" --config sev --target arch/x86/kvm/
stage 'compiles for arm64' arm64
stage 'compiles for i386' "$scripts/builds.sh" i386
stage 'kernel vm' "$scripts/kernel.sh" --config vm
stage 'boot harness tests' "$scripts/tests/boot_test.sh"
stage 'tests on vm' "$scripts/test.sh" --config vm
stage 'tests on ept' "$scripts/test.sh" --platform ept short
# On other hosts: without the TDP MMU, and where accesses can be told by faults only.
stage 'tests without the tdp mmu' "$scripts/test.sh" --append kvm.tdp_mmu=0 \
	guest_memfd_absent_test set_memory_region_test smm_test
stage 'tests without accessed bits' "$scripts/test.sh" --platform ept \
	--append kvm_intel.eptad=0 guest_memfd_large_test pre_fault_memory_test
stage costs "$scripts/bench.sh" --guard
stage demo "$scripts/demo.sh"
stage 'kernel debug' "$scripts/kernel.sh" --config debug
stage 'tests on debug' "$scripts/test.sh" --config debug

printf '\n%s\n' "$summary"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
