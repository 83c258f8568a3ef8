#!/bin/sh
# Build the KVM selftests of a kernel tree, statically, outside the tree.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: selftests.sh [OPTION]...

Installs the kernel headers of a tree and builds its KVM selftests against them
as static programs. Nothing is written to the tree. Only what changed, headers
included, is built again. The names of the tests go to the file "list" in the
output directory, one per line.

Options:
  --tree DIR    kernel source (default OUT/linux; with BASE=pristine OUT/base)
  --output DIR  where to build (default OUT/selftests/series; with BASE=pristine
                OUT/selftests/pristine); the programs end up in DIR/kvm
  -h, --help    print this text

Arguments of the form NAME or x86_64/NAME limit the build to these tests.

Environment: OUT output directory, J parallel jobs, V=1 shows the build,
BASE=pristine builds the tests of the base without the series, CC the compiler.

Exit status: 0 built; 1 the build failed; 2 wrong usage.
EOF
}

tree=
output=
wanted=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--tree | --output)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--tree) tree=$2 ;;
		--output) output=$2 ;;
		esac
		shift
		;;
	-*) fail_usage "$1: unknown option" ;;
	*) wanted="$wanted $1" ;;
	esac
	shift
done

fix=
case ${BASE:-} in
pristine)
	: "${tree:=$OUT/base}" "${output:=$OUT/selftests/pristine}"
	# What the series mends: dirty_log_test uses a macro that the library
	# lacks, and <asm/kvm.h> one whose header it does not include.
	fix='-include linux/stddef.h -DTEST_ASSERT_EQ=ASSERT_EQ'
	;;
'' | series)
	: "${tree:=$OUT/linux}" "${output:=$OUT/selftests/series}" ;;
*)
	fail_usage "BASE=$BASE: neither pristine nor series" ;;
esac
tests=$tree/tools/testing/selftests/kvm
[ -f "$tests/Makefile" ] || die "$tree: no kernel source there; run scripts/setup.sh and scripts/compose.sh first"

mkdir -p "$output/headers" "$output/kvm" "$OUT/log"
output=$(cd "$output" && pwd)
log=$OUT/log/selftests-$(basename "$output").log
: >"$log"
# A make around this script must not hand its job server or variables down.
unset MAKEFLAGS MFLAGS MAKELEVEL

logged()
{
	if [ "${V:-0}" = 1 ]; then
		"$@"
	elif ! "$@" >>"$log" 2>&1; then
		grep -a -E -A 4 'error:|undefined reference|\*\*\*' "$log" | head -n 60 >&2
		die "building the selftests failed, see $log"
	fi
}

# Not headers_install: that copies again and would need rsync.
logged make -C "$tree" O="$output/headers" ARCH=x86_64 headers

# The selftests' makefile knows nothing of headers: remove what was built from
# a header that has changed or gone.
find "$output/kvm" -name '*.d' | while read -r depends; do
	product=${depends%.d}
	# shellcheck disable=SC2046 # a list of file names
	newer=$(cd "$tests" && find $(sed 's/^[^:]*: //; s/\\$//' "$depends") \
		-newer "$product" -print 2>&1 | head -n 1)
	[ -z "$newer" ] || rm -f "$product" "$depends"
done

names()
{
	sed -n "s/^$1 *+\{0,1\}= *//p" "$tests/Makefile"
}

{
	names TEST_GEN_PROGS_x86_64
	names TEST_PROGS_x86_64
} >"$output/list"
names TEST_GEN_PROGS_EXTENDED_x86_64 >"$output/helpers"
targets=
for name in $wanted; do
	full=$(grep -x -h -e "$name" -e "x86_64/$name" "$output/list" "$output/helpers") ||
		die "$name: no such test in $tests/Makefile"
	case $full in
	*.sh) ;;
	*) targets="$targets $output/kvm/$full" ;;
	esac
done
# shellcheck disable=SC2016,SC2086 # $@ is for make; targets is a list
logged make -C "$tests" ARCH=x86_64 OUTPUT="$output/kvm" -j "$J" ${CC:+"CC=$CC"} \
	INSTALL_HDR_PATH="$output/headers/usr" \
	KHDR_INCLUDES="-isystem $output/headers/usr/include" \
	USERLDFLAGS=-static USERCFLAGS="-MMD -MF \$@.d -MT \$@ $fix" ${targets:-all}

# Scripts need no building; have everything in one place.
grep '\.sh$' "$output/list" | while read -r name; do
	cp -- "$tests/$name" "$output/kvm/$name"
done
