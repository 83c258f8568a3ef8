#!/bin/sh
# Build the documents of the series as the kernel builds its own, and check them.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: docs.sh [OPTION]...

Builds Documentation/virt/kvm of the composed tree as HTML, by the kernel's "make
htmldocs" and Sphinx, all of it each time, and checks

- that there is no warning which the base's own documents do not give;
- that kernel-doc finds nothing in the files that the series adds;
- that the examples which guest-memfd.rst includes compile by themselves, with the
  warnings of -Wall -Wextra as errors (make test runs them);
- that each file to which the documents at the top of the repository link exists, and each
  section of guest-memfd.rst that anything refers to by its number.

What is wrong is printed. Nothing is written to the trees. The first page is
OUT/docs/virt/kvm/index.html.

Options:
  --tree DIR    kernel source (default OUT/linux)
  --base DIR    kernel source to compare with (default OUT/base)
  --output DIR  where to build (default OUT/docs)
  -h, --help    print this text

Environment: OUT output directory, V=1 shows the build, CC the compiler.

Exit status: 0 nothing is wrong; 1 something is, or the build failed; 2 wrong usage.
EOF
}

tree=$OUT/linux
base=$BASE_DIR
output=$OUT/docs
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--tree | --base | --output)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--tree) tree=$2 ;;
		--base) base=$2 ;;
		--output) output=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown argument" ;;
	esac
	shift
done
for dir in "$tree" "$base"; do
	[ -f "$dir/Documentation/Makefile" ] ||
		die "$dir: no kernel source there; run scripts/fetch.sh and scripts/compose.sh first"
done
command -v sphinx-build >/dev/null || die "no sphinx-build; run scripts/setup.sh first"

mkdir -p "$output/base" "$output/headers" "$OUT/log"
output=$(cd "$output" && pwd)
tree=$(cd "$tree" && pwd)
base=$(cd "$base" && pwd)
log=$OUT/log/docs.log
: >"$log"
make_tmp
# A make around this script must not hand its job server or variables down.
unset MAKEFLAGS MFLAGS MAKELEVEL

logged()
{
	if [ "${V:-0}" = 1 ]; then
		"$@"
	elif ! "$@" >>"$log" 2>&1; then
		tail -n 20 "$log" >&2
		die "$1 failed, see $log"
	fi
}

# html TREE OUTPUT WARNINGS
#
# -E, as what is not read again does not warn again. The list has one line for each
# warning, without what may differ where nothing has changed: the path, the line.
html()
{
	logged make -C "$1" O="$2" BUILDDIR="$2" SPHINXDIRS=virt/kvm \
		SPHINXOPTS="-q -E -w $tmp/warnings" htmldocs
	sed -e "s|$1/||g" -e 's/^\([^ :]*\):[0-9]\{1,\}: /\1: /' "$tmp/warnings" | sort >"$3"
}

faults=0
# complain TITLE FILE
#
# The file has a line for each thing that is wrong.
complain()
{
	[ -s "$2" ] || return 0
	faults=$((faults + 1))
	say "$1:"
	sed 's/^/  /' "$2" >&2
}

html "$base" "$output/base" "$tmp/base"
html "$tree" "$output" "$tmp/series"
comm -13 "$tmp/base" "$tmp/series" >"$tmp/new"
complain 'warnings that the base does not have' "$tmp/new"

# With -v it asks for what a function returns, too.
kernel_files | grep -E '^(virt|include|arch)/.*\.[ch]$' | (
	cd "$tree"
	while read -r file; do
		scripts/kernel-doc -none -v "$file" 2>&1 | grep -E 'warning:|error:' || :
	done
) >"$tmp/kernel-doc"
complain kernel-doc "$tmp/kernel-doc"

logged make -C "$tree" O="$output/headers" ARCH=x86_64 headers
cd "$tree/Documentation/virt/kvm"
sed -n 's/^\.\. literalinclude:: *//p' guest-memfd.rst >"$tmp/included"
[ -s "$tmp/included" ] || echo 'guest-memfd.rst includes none' >"$tmp/examples"
while read -r file; do
	${CC:-cc} -Wall -Wextra -Werror -isystem "$output/headers/usr/include" \
		-o "$tmp/example" "$file" 2>&1 || echo "$file does not compile"
done <"$tmp/included" >>"$tmp/examples"
complain examples "$tmp/examples"

cd "$REPO"
# shellcheck disable=SC2016 # for sed
grep -o '](\([^)#]*\)' ./*.md | sed -e 's,^\./,,' -e '/:\/\//d' -e 's/:](/ /' |
	while read -r file link; do
		[ -e "$link" ] || echo "$file: no $link"
	done >"$tmp/links"
complain links "$tmp/links"

# shellcheck disable=SC2086 # a list of directories
grep -r -o -E '[Ss]ections? [0-9]+( and [0-9]+)? of guest-memfd\.rst' \
	./*.md scripts configs $KERNEL_DIRS >"$tmp/named" || :
grep -o -H -E '[Ss]ections? [0-9]+( (and|to) [0-9]+)*' Documentation/virt/kvm/guest-memfd*.rst >>"$tmp/named"
while IFS=: read -r file words; do
	for number in $(printf %s "${words%of*}" | tr -dc '0-9 '); do
		grep -q "^$number\. " Documentation/virt/kvm/guest-memfd.rst ||
			echo "$file: no section $number in guest-memfd.rst"
	done
done <"$tmp/named" >"$tmp/sections"
complain references "$tmp/sections"

[ "$faults" -eq 0 ] || exit 1
say "no warning but $(wc -l <"$tmp/base") of the base's own; see $output/virt/kvm/index.html"
