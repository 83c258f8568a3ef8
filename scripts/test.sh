#!/bin/sh
# Run tests in an emulated machine, a line per test.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: test.sh [OPTION]... [[--test] NAME|base|project|short]...

Builds the kernel of a configuration and the KVM selftests, boots it in an emulator
and runs the tests. Prints a line per test, and at the end a line with the totals.
Tests that report their cases are counted by case. A test whose guest QEMU has
lost, see scripts/lost.sh, runs again, twice at most; a line "again NAME" says so.
With J not 1 two machines share the tests.

Tests:
  NAME      a test, as its makefile calls it; the directory may be left out
  base      the tests the base has. Those that fail or hang on the bare base, see
            scripts/base-selftests.txt, count as skipped if they fail here too
  project   the tests the series adds; scripts only where KVM is a module, which it
            is with "debug", "module" and "coverage"
  short     those in scripts/ept-selftests.txt that take no more than 25 seconds
Default: base and project with --config vm, else project; with --platform ept all
in scripts/ept-selftests.txt, which has the reasons for what is not in there.

Options:
  --config NAME     kernel configuration: vm (default), debug, module, coverage
  --platform NAME   npt (default): AMD processor, emulated by QEMU; ept: Intel
                    processor, emulated by Bochs, see scripts/boot.sh
  --append TEXT     more kernel command line
  --base pristine   run the tests of the base on the base, without the series, print
                    their status in the format of scripts/base-selftests.txt and
                    compare with it (half an hour, as some hang until killed);
                    BASE=pristine does the same
  --update          with --base pristine: write scripts/base-selftests.txt
  --kernel FILE     run on this kernel image, build none
  --selftests DIR   take the tests from this output of selftests.sh, build none
  --each SECONDS    time for one program (default 300, on debug 900)
  -h, --help        print this text

With CONFIG_GCOV_KERNEL, as "coverage" has it, what each machine has counted goes next to
its log, with .gcda.tgz in place of .log, see scripts/coverage.sh.

Environment: OUT output directory, J parallel jobs, V=1 verbose.

Exit status: 0 all passed or skipped; 1 a test failed, or a status differs from
the list; 2 wrong usage.
EOF
}

config=vm
platform=npt
update=
kernel=
selftests=
append=
each=
tests=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--update) update=1 ;;
	--test | --config | --platform | --append | --base | --kernel | --selftests | --each)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--test) tests="$tests $2" ;;
		--config) config=$2 ;;
		--platform) platform=$2 ;;
		--append) append=$2 ;;
		--base) BASE=$2 ;;
		--kernel) kernel=$2 ;;
		--selftests) selftests=$2 ;;
		--each) each=$2 ;;
		esac
		shift
		;;
	-*) fail_usage "$1: unknown option" ;;
	*) tests="$tests $1" ;;
	esac
	shift
done
: "${BASE:=series}"
export BASE
case $BASE in
series) build=$OUT/build/$config ;;
pristine) build=$OUT/build/pristine-$config ;;
*) fail_usage "--base $BASE: neither pristine nor series" ;;
esac
run=$BASE-$config
known=$REPO/scripts/base-selftests.txt
case $platform in
npt) ;;
ept)
	[ "$BASE" = series ] || fail_usage "--base $BASE is for --platform npt"
	run=$run-ept
	;;
*) fail_usage "--platform $platform: neither npt nor ept" ;;
esac
if [ -z "$each" ]; then
	each=300
	[ "$config" != debug ] || each=900
fi

if [ -n "$update" ] && { [ "$BASE" != pristine ] || [ -n "$tests" ]; }; then
	fail_usage "--update goes with --base pristine and all tests"
fi
make_tmp
sed -e 's/[[:space:]]*#.*//' -e '/^$/d' "$known" >"$tmp/known"
sed 's/^[0-9]* //' "$tmp/known" >"$tmp/base"
# What the base does on the other platform says nothing about this one.
[ "$platform" = npt ] || known=/dev/null

if [ -z "$kernel" ]; then
	"$REPO/scripts/kernel.sh" --config "$config"
	kernel=$build/arch/x86/boot/bzImage
fi
if [ -z "$selftests" ]; then
	"$REPO/scripts/selftests.sh"
	selftests=$OUT/selftests/$BASE
fi

# The line of the base's list for a test: field "status" or "reason".
listed()
{
	sed -n "s|^\([0-9]\{1,\}\) $2[[:space:]]*\(# *\(.*\)\)\{0,1\}\$|\1 \3|p" "$known" |
		case $1 in
		status) cut -d ' ' -f 1 ;;
		reason) cut -d ' ' -f 2- ;;
		esac
}

kind()
{
	case $1 in
	0) echo passed ;;
	4) echo skipped ;;
	'') echo unknown ;;
	*) echo failed ;;
	esac
}

# Is KVM to be loaded?
modular()
{
	grep -q '^CONFIG_KVM=m' "$build/.config" 2>/dev/null
}

# Does the kernel count the lines it runs?
counting()
{
	grep -q '^CONFIG_GCOV_KERNEL=y' "$build/.config" 2>/dev/null
}

project_tests()
{
	grep -v -x -F -f "$tmp/base" "$selftests/list" |
		if modular; then
			cat
		else
			grep -v '\.sh$'
		fi || :
}

if [ "$BASE" = pristine ]; then
	: "${tests:=all}"
elif [ "$platform" = ept ]; then
	: "${tests:=$(sed 's/#.*//' "$REPO/scripts/ept-selftests.txt")}"
elif [ "$config" = vm ]; then
	: "${tests:=base project}"
else
	: "${tests:=project}"
fi
for name in $tests; do
	case $name in
	short) awk '!/^#/ && $3 <= 25 { print $1 }' "$REPO/scripts/ept-selftests.txt" ;;
	*) echo "$name" ;;
	esac
done >"$tmp/names"
while read -r name; do
	case $name in
	all) cat "$selftests/list" ;;
	base) cat "$tmp/base" ;;
	project) project_tests ;;
	*)
		grep -x -F -e "$name" -e "x86_64/$name" "$selftests/list" ||
			fail_usage "$name: no such test; they are in $selftests/list"
		;;
	esac
done <"$tmp/names" >"$tmp/wanted"

# Why not to run a test that is one of many: what hangs on the bare base cannot show
# anything about the series.
reason_not_to_run()
{
	if [ "$BASE" = series ] && [ "$(listed status "$1")" = 143 ]; then
		listed reason "$1"
	else
		case $config-${1##*/} in
		debug-guest_memfd_huge_test) echo "takes ten minutes on this kernel, run it by name" ;;
		debug-guest_memfd_large_model_test) echo "takes five minutes on this kernel, run it by name" ;;
		esac
	fi
}

: >"$tmp/run"
: >"$tmp/left-out"
while read -r name; do
	if [ "$(wc -l <"$tmp/wanted")" -gt 1 ] && [ -n "$(reason_not_to_run "$name")" ]; then
		echo "$name" >>"$tmp/left-out"
	else
		echo "$name" >>"$tmp/run"
	fi
done <"$tmp/wanted"

# run_row ROW MEMORY [PARAMETER]
#
# Run the tests of a row in machines of MEMORY, one after the other: a boot for as many
# as get through. PARAMETER is one more for the kernel. What ended goes to "results", as
# boot.sh writes it; the test that took the machine down gets the word "died" for a
# status, and the rest another boot. A test that the emulator has spoilt, see
# scripts/init, has shown nothing: it runs again, twice at most.
run_row()
{
	dir=$tmp/row-$1
	cp "$dir/tests" "$dir/todo"
	: >"$dir/results"
	: >"$dir/output"
	: >"$dir/lost"
	boots=0
	while [ -s "$dir/todo" ]; do
		boots=$((boots + 1))
		log=$OUT/log/test-$run-$1-$boots.log
		set -- "$1" "$2" "${3-}"
		while read -r name; do
			set -- "$@" "$selftests/kvm/$name"
		done <"$dir/todo"
		while read -r name; do
			set -- "$@" --files "$selftests/kvm/$name"
		done <"$selftests/helpers"
		! modular || set -- "$@" --modules "$build"
		! counting || set -- "$@" --gcov "${log%.log}.gcda.tgz"
		(
			mem=$2
			line="$append $3"
			shift 3
			"$REPO/scripts/boot.sh" --quiet --platform "$platform" --append "$line" \
				--kernel "$kernel" --each "$each" --mem "$mem" --log "$log" --run "$@"
		) || :
		cat "${log%.log}.result" >>"$dir/results"
		tr -d '\r' <"${log%.log}.out" >>"$dir/output"
		sed -n 's/^lost \([^ ]*\) [0-9.]*$/\1/p' "${log%.log}.result" >"$dir/lost-now"
		ended=$(grep -c -v '^1 kernel ' "${log%.log}.result" || :)
		if [ "$ended" -lt "$(wc -l <"$dir/todo")" ]; then
			name=$(sed -n "$((ended + 1))p" "$dir/todo")
			echo "died ${name##*/} 0.0" >>"$dir/results"
			ended=$((ended + 1))
		fi
		sed "1,${ended}d" "$dir/todo" >"$dir/rest"
		while read -r name; do
			again "$name" "$(sed "${ended}q" "$dir/todo" | grep -E "(^|/)$name\$")"
		done <"$dir/lost-now"
		mv "$dir/rest" "$dir/todo"
	done
}

# Print the row of its own that a test wants, if any. One piece of 1 GiB, with two nodes,
# takes more than 4G; and one test takes all memory and leaves it in small pieces, which
# others would miss: the less there is the sooner it is done.
own_row()
{
	case ${1##*/} in
	guest_memfd_huge_test) echo large ;;
	guest_memfd_large_memcg_test) echo small ;;
	esac
}

# About how many seconds a test takes, for those that take longest.
seconds_of()
{
	case $config-${1##*/} in
	debug-guest_memfd_large_inplace_test | debug-guest_memfd_pairs_test) echo 300 ;;
	debug-guest_memfd_large_memcg_test) echo 250 ;;
	debug-private_mem_conversions_test | debug-guest_memfd_large_poison_test) echo 150 ;;
	debug-guest_memfd_large_test | debug-guest_memfd_unload_test.sh) echo 120 ;;
	debug-guest_memfd_inject_test) echo 100 ;;
	debug-memory_attributes_test) echo 70 ;;
	debug-private_mem_caches_test | debug-private_mem_emulation_test) echo 55 ;;
	debug-guest_memfd_large_shared_test) echo 60 ;;
	debug-guest_memfd_*test | debug-private_mem_*test | debug-*memory*test) echo 35 ;;
	debug-*) echo 15 ;;
	*-access_tracking_perf_test) echo 135 ;;
	*-dirty_log_test) echo 105 ;;
	*-dirty_log_perf_test | *-guest_memfd_huge_test) echo 55 ;;
	*-kvm_page_table_test | *-guest_memfd_large_inplace_test) echo 25 ;;
	*-guest_memfd_large_model_test | *-private_mem_conversions_test) echo 25 ;;
	*-demand_paging_test | *-memslot_modification_stress_test) echo 20 ;;
	*-guest_memfd_large_memcg_test | *-private_mem_emulation_test) echo 12 ;;
	*) echo 1 ;;
	esac
}

# Run the tests of a file in two rows at the same time, as QEMU uses one processor, or in
# one with J=1. Tests that want a machine to themselves are rows before the first one.
# A test goes to the row that is shorter so far, the longest test first.
run_all()
{
	rows='1 2'
	[ "$J" -gt 1 ] || rows=1
	for row in $rows large small; do
		mkdir "$tmp/row-$row"
		: >"$tmp/row-$row/tests"
	done
	: >"$tmp/by-length"
	length_1=0
	length_2=0
	while read -r name; do
		seconds=$(seconds_of "$name")
		own=$(own_row "$name")
		if [ -n "$own" ]; then
			echo "$name" >>"$tmp/row-$own/tests"
			length_1=$((length_1 + seconds))
		else
			echo "$seconds $name" >>"$tmp/by-length"
		fi
	done <"$1"
	sort -s -r -n -k 1,1 "$tmp/by-length" >"$tmp/longest-first"
	while read -r seconds name; do
		if [ "$rows" = 1 ] || [ "$length_1" -le "$length_2" ]; then
			echo "$name" >>"$tmp/row-1/tests"
			length_1=$((length_1 + seconds))
		else
			echo "$name" >>"$tmp/row-2/tests"
			length_2=$((length_2 + seconds))
		fi
	done <"$tmp/longest-first"
	# To look for poison in 1 GiB at a time, without a rest, is a lockup to the kernel.
	(run_row large 6G page_poison=0; run_row small 2G; run_row 1 3G) &
	[ "$rows" = 1 ] || (run_row 2 3G) &
	wait
	cat "$tmp"/row-*/results >"$tmp/results"
	cat "$tmp"/row-*/output >"$tmp/output"
}

# Put the test NAME, in the list as FULL, back into the queue and forget about this
# run of it, unless it is the third.
again()
{
	echo "$1" >>"$dir/lost"
	[ "$(grep -c -x -F -e "$1" "$dir/lost")" -le 2 ] || return 0
	echo "again $2: QEMU lost the registers of its guest"
	echo "$2" >>"$dir/rest"
	grep -v "^lost $1 " "$dir/results" >"$dir/kept" || :
	mv "$dir/kept" "$dir/results"
	awk -v name="$1" '
		$0 == "=== run " name { off = 1 }
		!off
		$0 == "=== end " name { off = 0 }' "$dir/output" >"$dir/kept"
	mv "$dir/kept" "$dir/output"
}

# The output of a test, from what all of them printed.
output_of()
{
	awk -v name="${1##*/}" '
		/^=== (run|end) / { on = 0 }
		on
		$0 == "=== run " name { on = 1 }' "$tmp/output"
}

# Why a test skipped itself, or failed: what it says.
said()
{
	output_of "$1" | awk '
		/SKIP/ && !skip { skip = $0; sub(/.*SKIP[^A-Za-z0-9]*/, "", skip) }
		/^  / && /\.c:[0-9]+: / && !failed { failed = $0; sub(/^ */, "", failed) }
		END { print skip ? skip : failed }'
}

# What a test says of each case that failed; and at its end, if it is that which failed.
failed_cases()
{
	output_of "$1" | awk '
		{ said[n++] = $0 }
		/^not ok [0-9]+ / {
			print "    " $0
			for (i = n > 15 ? n - 15 : 0; i < n - 1; i++)
				print "    # " said[i]
			shown = 1
		}
		/^(not )?ok [0-9]+ / { n = 0 }
		END {
			for (i = n > 15 ? n - 15 : 0; !shown && i < n; i++)
				print "    # " said[i]
		}'
}

passed=0
failed=0
skipped=0

# Report a test from its line in results: STATUS NAME SECONDS [splat].
report()
{
	name=$1
	base_status=$(listed status "$name")
	# shellcheck disable=SC2046 # words
	set -- $(awk -v name="${name##*/}" '$2 == name' "$tmp/results")
	status=$1
	seconds=$3
	splat=${4:-}
	# shellcheck disable=SC2046 # numbers
	set -- $(output_of "$name" | awk '
		/^1\.\.[0-9]+$/ { plan = substr($0, 4) }
		/^ok [0-9]+ .*# SKIP/ { skip++; next }
		/^ok [0-9]+ / { ok++ }
		/^not ok [0-9]+ / { bad++ }
		END { print plan + 0, ok + 0, bad + 0, skip + 0 }')
	plan=$1
	ok=$2
	bad=$3
	skip=$4
	if [ "$status" = 4 ] && [ "$base_status" != 0 ]; then
		skipped=$((skipped + 1))
		echo "skip $name: $(said "$name")"
		return
	fi
	problem=
	case $status in
	0) ;;
	4) problem="skipped, but passes on the bare base: $(said "$name")" ;;
	died) problem="took the machine down" ;;
	lost) problem="QEMU lost the registers of its guest, three times" ;;
	137 | 143) problem="killed after $each s" ;;
	*) problem="status $status" ;;
	esac
	if [ "$((ok + bad + skip))" -ne "$plan" ]; then
		problem="${problem:+$problem, }$((ok + bad + skip)) of $plan cases reported"
	fi
	if [ -n "$splat" ]; then
		problem="${problem:+$problem, }the kernel complained"
	fi
	if [ -n "$problem" ] && [ -z "$splat" ] && [ "$status" != died ] &&
	   [ -n "$base_status" ] && [ "$base_status" != 0 ]; then
		skipped=$((skipped + 1))
		echo "skip $name: fails on the bare base too: $(listed reason "$name")"
		return
	fi
	if [ "$plan" -gt 0 ]; then
		passed=$((passed + ok))
		skipped=$((skipped + skip))
		failed=$((failed + bad))
		cases=", $ok of $plan cases passed, $skip skipped"
		[ -z "$problem" ] || [ "$bad" -gt 0 ] || failed=$((failed + 1))
	elif [ -n "$problem" ]; then
		cases=
		failed=$((failed + 1))
	else
		cases=
		passed=$((passed + 1))
	fi
	if [ -n "$problem" ]; then
		echo "not ok $name: $problem ($seconds s)$cases"
		failed_cases "$name"
	else
		echo "ok $name ($seconds s)$cases"
	fi
}

run_all "$tmp/run"

if [ "$BASE" = pristine ]; then
	while read -r name; do
		status=$(awk -v name="${name##*/}" '$2 == name { print $1 }' "$tmp/results")
		reason=
		if [ "$status" != 0 ]; then
			reason=$(listed reason "$name")
			[ -n "$reason" ] || reason=$(said "$name")
		fi
		echo "$status $name${reason:+  # $reason}"
	done <"$tmp/run" | sort -s -n -k 1,1 >"$tmp/statuses"
	cat "$tmp/statuses"
	if [ -n "$update" ]; then
		sed -n '/^[^#]/q; p' "$known" >"$tmp/new"
		cat "$tmp/statuses" >>"$tmp/new"
		cp "$tmp/new" "$known"
		exit 0
	fi
	different=0
	while read -r status name reason; do
		want=$(listed status "$name")
		# How a failure shows depends on the load of the machine.
		if [ "$(kind "$status")" != "$(kind "$want")" ]; then
			different=$((different + 1))
			say "$name: status $status, listed ${want:-nowhere}${reason:+ ($reason)}"
		fi
	done <"$tmp/statuses"
	echo "tests: $(wc -l <"$tmp/statuses") run on the bare base, $different differ from scripts/base-selftests.txt"
	[ "$different" -eq 0 ]
	exit
fi

while read -r name; do
	report "$name"
done <"$tmp/run"
if grep -q '^1 kernel ' "$tmp/results"; then
	failed=$((failed + 1))
	echo "not ok kernel: complained while no test ran, see $OUT/log/test-$run-*.log"
fi
while read -r name; do
	skipped=$((skipped + 1))
	echo "skip $name: not run: $(reason_not_to_run "$name")"
done <"$tmp/left-out"
echo "tests: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
