#!/bin/sh
# Configure and build a kernel from the fragments in configs/.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: kernel.sh [OPTION]...

Builds a kernel out of tree. Its configuration is "make tinyconfig" plus the
fragment configs/NAME.config; every option of the fragment must be in the result
as written. Only what changed is built again.

A line "# include OTHER" in a fragment stands for configs/OTHER.config. The
fragment "series" holds options that the patch series adds; it is left out when
BASE=pristine. A line "# start FILE" has the configuration FILE, which may be
compressed by xz, take the place of tinyconfig's.

With CONFIG_GCOV_KERNEL the kernel counts which lines it runs, of the files that the
series adds or changes.

Options:
  --config NAME    configuration (default vm)
  --tree DIR       kernel source (default OUT/linux; with BASE=pristine OUT/base)
  --build DIR      build directory (default OUT/build/NAME; with BASE=pristine
                   OUT/build/pristine-NAME)
  --target TARGET  what to make (default bzImage, and modules if there are any);
                   "config" stops after the configuration
  -h, --help       print this text

Environment: OUT output directory, J parallel jobs, V=1 shows the build,
BASE=pristine builds the base without the series, CC the compiler.

Exit status: 0 built; 1 an option did not survive or the build failed; 2 wrong
usage.
EOF
}

# Print a fragment with its includes in place. The subshell keeps the variables
# of the recursion apart.
expand()
(
	file=$REPO/configs/$1.config
	[ -f "$file" ] || die "configs/$1.config: no such fragment"
	while IFS= read -r line || [ -n "$line" ]; do
		case $line in
		'# include series')
			[ "${BASE:-}" = pristine ] || expand series ;;
		'# include '*)
			expand "${line#\# include }" ;;
		*)
			printf '%s\n' "$line" ;;
		esac
	done <"$file"
)

# Print the C files that the series adds or changes. Kbuild goes by the name of the object
# alone, so none may be named as one of arch/x86/boot: not sev.c, not mm/memory.c. Of mm/
# those where more than an export is changed.
series_sources()
{
	kernel_files | grep -E '^(virt|arch)/.*\.c$'
	sed -n 's,^+++ b/\(\(virt\|arch/x86\)/kvm/[^[:space:]]*\.c\).*,\1,p' "$REPO"/patches/*.patch |
		grep -v '/sev\.c$'
	echo mm/page_alloc.c
	echo mm/memory-failure.c
}

config=vm
tree=
build=
target=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--config | --tree | --build | --target)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--config) config=$2 ;;
		--tree) tree=$2 ;;
		--build) build=$2 ;;
		--target) target=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done

case ${BASE:-} in
pristine)
	: "${tree:=$OUT/base}" "${build:=$OUT/build/pristine-$config}" ;;
'' | series)
	: "${tree:=$OUT/linux}" "${build:=$OUT/build/$config}" ;;
*)
	fail_usage "BASE=$BASE: neither pristine nor series" ;;
esac
[ -f "$REPO/configs/$config.config" ] || fail_usage "--config $config: no configs/$config.config"
[ -f "$tree/Kbuild" ] || die "$tree: no kernel source there; run scripts/setup.sh and scripts/compose.sh first"

mkdir -p "$build" "$OUT/log"
build=$(cd "$build" && pwd)
log=$OUT/log/kernel-$(basename "$build").log
: >"$log"
# A make around this script must not hand its job server or variables down.
unset MAKEFLAGS MFLAGS MAKELEVEL

build_make()
{
	if [ "${V:-0}" = 1 ]; then
		make -C "$tree" O="$build" ${CC:+"CC=$CC"} "$@"
	elif ! make -C "$tree" O="$build" ${CC:+"CC=$CC"} "$@" >>"$log" 2>&1; then
		grep -a -E -B 2 -A 6 'error:|Error |undefined reference|\*\*\*' "$log" | head -n 60 >&2
		# The last one is what to make.
		for target; do :; done
		die "make $target failed, see $log"
	fi
}

# Options are only ever added by hand here, so the stored copy of the fragment
# tells whether the configuration is still the right one.
expand "$config" >"$build/.fragment.new"
start=$(sed -n 's/^# start //p' "$build/.fragment.new")
if [ -n "$start" ]; then
	[ -f "$start" ] || die "$start: no such configuration; a package is missing, see scripts/setup.sh --help"
	sum=$(sha256sum "$start")
	echo "# sha256 ${sum%% *}" >>"$build/.fragment.new"
fi
if ! cmp -s "$build/.fragment.new" "$build/.fragment" || [ ! -f "$build/.config" ]; then
	rm -f "$build/.fragment"
	if [ -n "$start" ]; then
		xz -d -c -f "$start" >"$build/.config"
	else
		build_make tinyconfig
	fi
	cat "$build/.fragment.new" >>"$build/.config"
fi
# Also for an old configuration: the tree may have new options.
build_make olddefconfig

# The last line that speaks of an option is the one that counts.
lost=$(awk -F = '
	function name(line) {
		if (line ~ /^CONFIG_[A-Z0-9a-z_]+=/) {
			sub(/=.*/, "", line)
			return line
		}
		if (line ~ /^# CONFIG_[A-Z0-9a-z_]+ is not set$/) {
			split(line, word, " ")
			return word[2]
		}
		return ""
	}
	{
		option = name($0)
		if (option == "")
			next
		value = $0
		if (value ~ /^#/ || value ~ /=n$/)
			value = option "=n"
		if (FNR == NR)
			want[option] = value
		else
			have[option] = value
	}
	END {
		for (option in want) {
			got = option in have ? have[option] : option "=n"
			if (got != want[option])
				print "  " want[option] " (is " got ")"
		}
	}' "$build/.fragment.new" "$build/.config")
if [ -n "$lost" ]; then
	say "configs/$config.config: options did not survive make olddefconfig, a dependency is missing:"
	printf '%s\n' "$lost" >&2
	exit 1
fi
mv "$build/.fragment.new" "$build/.fragment"

[ "$target" != config ] || exit 0
set --
if grep -q '^CONFIG_GCOV_KERNEL=y' "$build/.config"; then
	for name in $(series_sources | sed 's,.*/\(.*\)\.c$,\1,' | sort -u); do
		set -- "$@" "GCOV_PROFILE_$name.o=y"
	done
	# As the kernel has it, and without those passes that come before the counters are put
	# in and drop what needs no code of its own, like "return -EINVAL;".
	flags='-fprofile-arcs -ftest-coverage -fno-tree-loop-im -fprofile-update=prefer-atomic'
	flags="$flags -fno-early-inlining"
	for pass in ccp1 forwprop1 fre1 evrp mergephi1 cddce1 phiopt1; do
		flags="$flags -fdisable-tree-$pass"
	done
	set -- "$@" "CFLAGS_GCOV=$flags"
fi
if [ -n "$target" ]; then
	build_make "$@" -j "$J" "$target"
elif grep -q '^CONFIG_MODULES=y' "$build/.config"; then
	build_make "$@" -j "$J" bzImage modules
else
	build_make "$@" -j "$J" bzImage
fi
