#!/bin/sh
# Plant bugs in KVM, one at a time, and see whether a test finds them.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOT
Usage: mutants.sh [OPTION]... [NAME]...

Each scripts/mutants/NAME.patch is a bug, as a patch of the composed tree, that
somebody could have written. For each of them, or for those that are named: apply it
to a copy of the tree, build the kernel, and run a test, which must fail on it or make
the kernel complain. A line for each:

  caught NAME: seed 1, protected VM, shrunk to 4 steps: page 7: errno 0, ...
  caught NAME: Page 7 is in the guest, and not in the file
  caught NAME: WARNING: possible circular locking dependency detected
  MISSED NAME

The first line of a patch says what is wrong. After it may stand, each on a line,

  Test: NAME     the test that is to find it (default guest_memfd_fuzz_test)
  Config: NAME   the configuration of the kernel, vm or debug (default vm)
  Append: TEXT   more kernel command line, as for a test that wants more steps
  Says: TEXT     what the kernel has to complain of; anything else is a miss

The copies of the tree and of a build of it are made once, in OUT/mutants, which is to
be removed if anything is wrong with them. As they begin with the objects of the other
build, only KVM is compiled for a mutant: that takes a minute or two.

Options:
  --selftests DIR  take the tests from this output of selftests.sh, build none
  -l, --list       print the names, with the first line of each patch
  -h, --help       print this text

Environment: OUT output directory, J parallel jobs, V=1 shows the build.

Exit status: 0 all caught; 1 one was missed, does not apply or does not compile;
2 wrong usage.
EOT
}

mutants=$REPO/scripts/mutants
selftests=
list=
names=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	-l | --list) list=1 ;;
	--selftests)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		selftests=$2
		shift
		;;
	-*) fail_usage "$1: unknown option" ;;
	*)
		[ -f "$mutants/$1.patch" ] || fail_usage "$1: no scripts/mutants/$1.patch"
		names="$names $1"
		;;
	esac
	shift
done
if [ -z "$names" ]; then
	for patch in "$mutants"/*.patch; do
		patch=${patch##*/}
		names="$names ${patch%.patch}"
	done
fi
if [ -n "$list" ]; then
	for name in $names; do
		printf '%-24s %s\n' "$name" "$(sed q "$mutants/$name.patch")"
	done
	exit 0
fi

# header NAME KEY: what the head of a patch has for a key
header()
{
	sed -n -e '/^---/q' -e "s/^$2: *//p" "$mutants/$1.patch"
}

config_of()
{
	header "$1" Config | grep . || echo vm
}

test_of()
{
	header "$1" Test | grep . || echo guest_memfd_fuzz_test
}

tree=$OUT/linux
scratch=$OUT/mutants
configs=$(for name in $names; do config_of "$name"; done | sort -u)
for config in $configs; do
	"$REPO/scripts/kernel.sh" --config "$config"
done
if [ -z "$selftests" ]; then
	"$REPO/scripts/selftests.sh"
	selftests=$OUT/selftests/series
fi

# Copies with the times of the files, so that make finds all up to date; the commands
# that it compares name the tree and the build.
copy_tree()
{
	say "copying $tree"
	rm -rf "$scratch/linux"
	mkdir -p "$scratch/linux"
	(cd "$tree" && tar -cf - --exclude=./.git .) | (cd "$scratch/linux" && tar -xpf -)
}

copy_build()
{
	build=$OUT/build/$1
	copy=$scratch/build/$1
	say "copying $build"
	rm -rf "$copy"
	mkdir -p "$scratch/build"
	cp -a "$build" "$copy"
	find "$copy" -type f \( -name '*.cmd' -o -name '*.d' \) -exec sed -i \
		-e "s|$tree\([/\" ]\)|$scratch/linux\1|g" -e "s|$tree\$|$scratch/linux|" \
		-e "s|$build\([/\" ]\)|$copy\1|g" {} +
	rm -f "$copy/source"
}

# What has changed since, in this tree or by an interrupted run; written now, so that
# make notices.
copy_changed()
{
	{
		(cd "$tree" && find . -path ./.git -prune -o -type f -newer "$scratch/stamp" -print)
		sed -n 's|^+++ b/|./|p' "$mutants"/*.patch
	} | sort -u | while read -r file; do
		cmp -s "$tree/$file" "$scratch/linux/$file" && continue
		mkdir -p "$(dirname "$scratch/linux/$file")"
		cp "$tree/$file" "$scratch/linux/$file"
	done
}

trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$scratch/log"
touch "$scratch/stamp.new"
if [ -f "$scratch/stamp" ]; then
	copy_changed
else
	copy_tree
fi
mv "$scratch/stamp.new" "$scratch/stamp"
for config in $configs; do
	[ -d "$scratch/build/$config" ] || copy_build "$config"
done

# apply NAME [-R]: without a word, but for what is wrong. The files are written now,
# which make notices.
apply()
{
	patch -p1 -s -f -d "$scratch/linux" --no-backup-if-mismatch ${2:+"$2"} \
		<"$mutants/$1.patch"
}

# What the first case that failed has said, on the last line before its verdict.
said()
{
	cat "$scratch"/log/test-series-*.out 2>/dev/null | tr -d '\r' | awk '
		/^==== Test Assertion Failure/ { on = 1 }
		/^# / && on { print text; exit }
		on && !/addr2line/ { text = $0; sub(/^ */, "", text) }'
}

# The first complaint of the kernel.
complaint()
{
	sed -n 's/^  [^ ]* \[ *[0-9.]*\] *//p' "$scratch/log/$1.out" | sed q
}

# What the tests have said of it.
verdict()
{
	says=$(header "$1" Says)
	shrunk=$(cat "$scratch"/log/test-series-*.out 2>/dev/null | tr -d '\r' |
		sed -n 's/^# SHRUNK, seed \(.*\), to \([0-9]* steps\)/seed \1, shrunk to \2/p' |
		sed q)
	if [ -n "$says" ]; then
		case $(complaint "$1") in
		*"$says"*) echo "caught $1: $(complaint "$1")" ;;
		*)
			echo "MISSED $1"
			return 1
			;;
		esac
	elif [ -n "$shrunk" ]; then
		echo "caught $1: $shrunk"
	elif grep -q 'the kernel complained\|took the machine down' "$scratch/log/$1.out"; then
		echo "caught $1: $(complaint "$1" | grep . || echo the machine goes down)"
	elif grep -q '^not ok.*killed after' "$scratch/log/$1.out"; then
		echo "caught $1: the test hangs"
	elif [ "$test" != guest_memfd_fuzz_test ] && grep -q "^not ok .*$test" "$scratch/log/$1.out"; then
		echo "caught $1: $(said)"
	else
		echo "MISSED $1"
		return 1
	fi
}

status=0
for name in $names; do
	if ! apply "$name"; then
		echo "FAILED $name: the patch does not apply"
		status=1
		continue
	fi
	config=$(config_of "$name")
	build=$scratch/build/$config
	if "$REPO/scripts/kernel.sh" --config "$config" --tree "$scratch/linux" --build "$build"; then
		rm -f "$scratch"/log/test-series-*
		test=$(test_of "$name")
		ended=0
		OUT=$scratch "$REPO/scripts/test.sh" --selftests "$selftests" "$test" \
			--config "$config" --kernel "$build/arch/x86/boot/bzImage" \
			--append "$(header "$name" Append)" \
			>"$scratch/log/$name.out" 2>&1 || ended=$?
		if [ "$ended" -gt 1 ]; then
			echo "FAILED $name: $test does not run, see $scratch/log/$name.out"
			status=1
		else
			verdict "$name" || status=1
		fi
	else
		echo "FAILED $name: it does not compile"
		status=1
	fi
	apply "$name" -R
done
exit $status
