#!/bin/sh
# Usage: bisect.sh [--config NAME]... [--boot] [RANGE]
#
# Build every commit of the composed series: KVM, and the other directories that
# the series touches, with warnings as errors. A line "ok N - subject (config)" or
# "not ok ..." for each commit and configuration, and a plan at the end.
#
# Options:
#   --config NAME  fragment in configs/ (default: vm and module)
#   --boot         build the whole kernel, boot it and look for /dev/kvm
#   RANGE          commits of OUT/linux to build (default base..series)
#   -h, --help     print this text
#
# Environment: OUT output directory (default out), J parallel jobs, CC compiler;
# LLVM=1 compiles with Clang and LLVM's tools (scripts/builds.sh --setup).
#
# Exit status: 0 all built, and booted if asked for; 1 some did not; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

configs=
boot=
range=base..series
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--boot) boot=y ;;
	--config)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		[ -f "$REPO/configs/$2.config" ] || fail_usage "--config $2: no configs/$2.config"
		configs="$configs $2"
		shift
		;;
	-*) fail_usage "$1: unknown option" ;;
	*) range=$1 ;;
	esac
	shift
done
: "${configs:=vm module}"

isolate_git
make_tmp
linux=$OUT/linux
[ -e "$linux/.git" ] || die "$linux: no composed tree there; run make tree first"
commits=$(git -C "$linux" rev-list --reverse "$range") || die "$range: no such commits in $linux"
[ -n "$commits" ] || die "$range: no commits"

# A source tree of its own, so that out/linux and what is built from it stay as
# they are. It moves from commit to commit, writing only what differs.
source=$OUT/bisect/source
if [ ! -d "$source/.git" ]; then
	mkdir -p "$source"
	git init -q --template= "$source"
	mkdir -p "$source/.git/info"
fi
cat >"$source/.git/objects/info/alternates" <<EOF
$(git -C "$linux" rev-parse --path-format=absolute --git-path objects)
EOF
move_to()
{
	# Writes only what differs, and also what an interrupted run left behind.
	git -C "$source" reset -q --hard "$1"
}

# Besides KVM: directories with sources that this architecture builds.
touched=$(git -C "$linux" diff --name-only base series -- '*.c' |
	sed -n -e 's/^\(arch\/x86\/.*\)\/[^/]*$/\1\//p' -e '/^\(arch\|virt\|tools\|samples\)\//!s/\/[^/]*$/\//p' |
	grep -v '^arch/x86/kvm/' | sort -u || :)

# The frame of the base's do_sys_poll() is larger with Clang than the limit.
flags=-Werror
[ -z "${LLVM:-}" ] || flags="$flags -Wno-error=frame-larger-than"

# Run make in the tree of the commit; the output goes to the log.
build()
{
	make -C "$source" O="$objects" ${CC:+"CC=$CC"} KCFLAGS="$flags" -j "$J" "$@" </dev/null
}

check_commit()
{
	# The options that the series adds appear on the way; what is not there yet
	# falls out again.
	BASE=pristine "$REPO/scripts/kernel.sh" --config "$config" --tree "$source" \
		--build "$objects" --target config || return
	# The fragment has the last word: "off" takes the options away again.
	cat "$REPO/configs/series.config" "$REPO/configs/$config.config" >>"$objects/.config"
	build olddefconfig || return
	if [ -z "$boot" ]; then
		# shellcheck disable=SC2086 # a list of directories
		build prepare && build arch/x86/kvm/ $touched
		return
	fi
	modules=
	build bzImage || return
	if grep -q '^CONFIG_MODULES=y' "$objects/.config"; then
		build modules || return
		modules=$objects
	fi
	"$REPO/scripts/boot.sh" --build "$objects" ${modules:+--modules "$modules"} \
		--log "$OUT/log/bisect-boot-$name.log" --run "$tmp/smoke"
}

cat >"$tmp/smoke" <<'EOF'
#!/bin/sh
set -e
if [ -f /modules/kvm.ko ]; then
	insmod /modules/kvm.ko
	insmod /modules/kvm-amd.ko
fi
test -c /dev/kvm
EOF

# A make around this script must not hand its job server or variables down.
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir -p "$OUT/log"
number=0
failed=0
for commit in $commits; do
	move_to "$commit"
	subject=$(git -C "$linux" log -1 --format=%s "$commit")
	for config in $configs; do
		number=$((number + 1))
		name=$config${LLVM:+-clang}
		objects=$OUT/bisect/$name
		log=$OUT/log/bisect-$name.log
		if check_commit >"$log" 2>&1; then
			echo "ok $number - $subject ($name)"
		else
			echo "not ok $number - $subject ($name)"
			grep -a -E -A 4 'error:|Error |undefined reference|\*\*\*' "$log" | head -n 30 | sed 's/^/# /'
			cp "$log" "$OUT/log/bisect-$name-failed-$number.log"
			echo "# see $OUT/log/bisect-$name-failed-$number.log"
			failed=1
		fi
	done
done
echo "1..$number"
exit "$failed"
