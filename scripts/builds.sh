#!/bin/sh
# Compile the series in other ways than the tests do, and look at it with tools.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: builds.sh [OPTION]... [NAME]...

Compiles KVM of the composed tree, OUT/linux, in various ways. A line "ok N - NAME" or
"not ok N - NAME" for each with the first things found, and a plan at the end. Where it
looks for warnings, those in the series' new files count.

Names (default: all):
  w1            GCC with the warnings of W=1
  clang         Clang and LLVM's linker, whole kernel, warnings are errors
  sparse        sparse: address spaces, locks, endianness
  coccinelle    the kernel's own semantic patches (make coccicheck)
  off           the features off; warnings are errors, as in all that follow
  sev           with SEV's code
  module        KVM as modules, whole kernel
  i386          32 bits, where the features are not to be had
  arm64         cross-compiled
  allmodconfig  whatever there is to select, KVM only

Options:
  --setup      install the Debian packages that this needs, and stop
  -h, --help   print this text

Environment: OUT output directory, J parallel jobs, V=1 shows what is found in full.

Exit status: 0 nothing found; 1 something was; 2 wrong usage.
EOF
}

all='w1 clang sparse coccinelle off sev module i386 arm64 allmodconfig'
packages='clang lld llvm sparse coccinelle ocaml ocaml-findlib'
names=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--setup)
		apt-get update
		# shellcheck disable=SC2086 # a list
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
		exit 0
		;;
	-*) fail_usage "$1: unknown option" ;;
	*)
		case " $all " in
		*" $1 "*) names="$names $1" ;;
		*) fail_usage "$1: no such build" ;;
		esac
		;;
	esac
	shift
done
: "${names:=$all}"

unset MAKEFLAGS MFLAGS MAKELEVEL BASE ARCH CROSS_COMPILE LLVM CC
linux=$OUT/linux
[ -f "$linux/Kbuild" ] || die "$linux: no kernel source there; run make tree first"
make_tmp
mkdir -p "$OUT/log"

# The new kernel files that are compiled, as a pattern for the start of a line.
files=$(cd "$REPO" && find virt arch include -name '*.[ch]' | sort | tr '\n' '|')
ours="(^|/)(${files%|}):[0-9]+"

# sparse cannot follow a lock that a function takes if it succeeds, and its caller drops.
expected="context imbalance in '(lock_private_page|kvm_gmem_try_kmap_guest|kvm_gmem_kunmap_guest)'"

need()
{
	command -v "$1" >/dev/null || die "$1 is missing: scripts/builds.sh --setup"
}

# configure CONFIG NAME: a configuration in OUT/builds/NAME
configure()
{
	"$REPO/scripts/kernel.sh" --config "$1" --build "$OUT/builds/$2" --target config
}

# compile NAME ARGUMENT...
compile()
{
	dir=$OUT/builds/$1
	shift
	mkdir -p "$dir"
	make -C "$linux" O="$dir" -j "$J" "$@" </dev/null
}

# A tool prints what it finds and goes on: compile the files again for it.
again()
{
	# shellcheck disable=SC2046 # names
	(cd "$OUT/builds/$1" && rm -f $(cd "$REPO" && find virt arch -name '*.c' | sed 's/c$/o/'))
}

# run_build NAME: what it prints is looked at; a status other than 0 is a failure, too
run_build()
{
	case $1 in
	w1)
		configure vm gcc
		again gcc
		compile gcc W=1 arch/x86/kvm/
		;;
	sparse)
		need sparse
		configure vm gcc
		again gcc
		compile gcc C=2 arch/x86/kvm/
		;;
	clang)
		need ld.lld
		export LLVM=1
		configure vm clang
		# The frame of the base's do_sys_poll() is larger with it than the limit.
		compile clang KCFLAGS='-Werror -Wno-error=frame-larger-than' bzImage
		;;
	coccinelle)
		need spatch
		configure vm gcc
		compile gcc coccicheck MODE=report M=virt/kvm
		compile gcc coccicheck MODE=report M=arch/x86/kvm/mmu
		;;
	off)
		configure off off
		compile off KCFLAGS=-Werror arch/x86/kvm/
		;;
	sev)
		configure sev sev
		compile sev KCFLAGS=-Werror arch/x86/kvm/
		;;
	module)
		configure module module
		compile module KCFLAGS=-Werror bzImage modules
		;;
	i386)
		compile i386 ARCH=i386 tinyconfig
		cat >>"$OUT/builds/i386/.config" <<EOF
CONFIG_SMP=y
CONFIG_HIGH_RES_TIMERS=y
CONFIG_X86_LOCAL_APIC=y
CONFIG_VIRTUALIZATION=y
CONFIG_KVM=y
CONFIG_KVM_AMD=y
CONFIG_KVM_INTEL=y
EOF
		compile i386 ARCH=i386 olddefconfig
		grep -q '^CONFIG_KVM_INTEL=y' "$OUT/builds/i386/.config"
		compile i386 ARCH=i386 KCFLAGS=-Werror prepare
		compile i386 ARCH=i386 KCFLAGS=-Werror arch/x86/kvm/
		;;
	arm64)
		export ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-
		configure arm64 arm64
		compile arm64 KCFLAGS=-Werror arch/arm64/kvm/
		;;
	allmodconfig)
		compile allmodconfig allmodconfig
		# The signing key and what certificates need are of no interest.
		(cd "$OUT/builds/allmodconfig" && "$linux/scripts/config" --file .config \
			-d MODULE_SIG -d SYSTEM_TRUSTED_KEYRING -d GCC_PLUGINS -d DEBUG_INFO_BTF)
		compile allmodconfig olddefconfig
		grep -q '^CONFIG_KVM_GUEST_MEMFD=y' "$OUT/builds/allmodconfig/.config"
		compile allmodconfig KCFLAGS=-Werror prepare
		compile allmodconfig KCFLAGS=-Werror arch/x86/kvm/
		;;
	esac
}

number=0
failed=0
for name in $names; do
	number=$((number + 1))
	log=$OUT/log/builds-$name.log
	began=$(date +%s)
	status=0
	# A shell of its own: "set -e" has no effect in what "||" or "if" looks at.
	(set -e; run_build "$name") >"$log" 2>&1 &
	wait $! || status=$?
	grep -a -E "$ours" "$log" | grep -v -E "$expected" >"$tmp/found" || :
	took="$(($(date +%s) - began)) s"
	if [ "$status" -eq 0 ] && [ ! -s "$tmp/found" ]; then
		echo "ok $number - $name ($took)"
		continue
	fi
	failed=1
	echo "not ok $number - $name ($took), see $log"
	[ -s "$tmp/found" ] ||
		grep -a -E -A 4 'error:|Error |undefined reference|\*\*\*|is missing' "$log" >"$tmp/found" || :
	if [ "${V:-0}" = 1 ]; then
		sed 's/^/# /' "$tmp/found"
	else
		head -n 10 "$tmp/found" | sed 's/^/# /'
	fi
done
echo "1..$number"
exit "$failed"
