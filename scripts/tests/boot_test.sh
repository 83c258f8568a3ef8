#!/bin/sh
# Usage: boot_test.sh [KERNEL]
#
# Test scripts/boot.sh: whatever ends a run, it must show in the exit status.
# Boots KERNEL (default OUT/build/vm/arch/x86/boot/bzImage) about fifteen times, a
# minute and a half in all. Prints TAP.
#
# Exit status: 0 all passed; 1 a test failed; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"

case ${1-} in
-h | --help) usage; exit 0 ;;
-*) fail_usage "$1: unknown option" ;;
esac
kernel=${1:-$OUT/build/vm/arch/x86/boot/bzImage}
[ -f "$kernel" ] || die "$kernel: no such kernel; build it with scripts/kernel.sh"

make_tmp
count=0
failed=0

# Write a script for the guest; its text comes from standard input.
guest()
{
	cat >"$tmp/$1"
}

boot()
{
	got=0
	"$REPO/scripts/boot.sh" --kernel "$kernel" --log "$tmp/boot.log" "$@" \
		>"$tmp/stdout" 2>"$tmp/stderr" || got=$?
}

# expect NAME STATUS [FILE REGEX]...: the last boot's status and what it wrote.
expect()
{
	name=$1
	want=$2
	shift 2
	count=$((count + 1))
	wrong=
	[ "$got" = "$want" ] || wrong="exit status $got, expected $want"
	while [ $# -gt 0 ]; do
		grep -q -a -E -e "$2" "$tmp/$1" || wrong="${wrong:+$wrong; }no '$2' in $1"
		shift 2
	done
	if [ -z "$wrong" ]; then
		echo "ok $count $name"
	else
		failed=$((failed + 1))
		echo "not ok $count $name"
		echo "# $wrong"
		sed 's/^/# /' "$tmp/stdout" "$tmp/stderr"
	fi
}

guest pass.sh <<'EOF'
echo "arguments: [$1] [$2]"
EOF
guest fail.sh <<'EOF'
exit 3
EOF
guest skip.sh <<'EOF'
exit 4
EOF
guest hang.sh <<'EOF'
trap '' TERM
while :; do sleep 1; done
EOF
guest orphan.sh <<'EOF'
(trap '' TERM; tail -f /dev/null) &
EOF
guest no_orphan.sh <<'EOF'
# Not sleep: /init does that itself.
! pidof tail
EOF
guest complain.sh <<'EOF'
echo "WARNING: CPU: 0 PID: 1 at mm/example.c:1" >/dev/kmsg
EOF
guest talk.sh <<'EOF'
echo "WARNING: a program may say so"
echo "BUG: and so"
EOF
guest panic.sh <<'EOF'
echo c >/proc/sysrq-trigger
sleep 100
EOF
guest time.sh <<'EOF'
cat /proc/uptime
EOF
guest intel.sh <<'EOF'
grep -q '^flags.* vmx ' /proc/cpuinfo || exit 1
for parameter in kvm_intel/parameters/ept kvm_intel/parameters/eptad kvm/parameters/tdp_mmu; do
	grep -q Y /sys/module/$parameter || exit 1
done
EOF
guest counts.sh <<'EOF'
# As a kernel with CONFIG_GCOV_KERNEL has it.
mount -t tmpfs tmpfs /sys/kernel/debug
mkdir -p /sys/kernel/debug/gcov/build/dir
echo "some numbers" >/sys/kernel/debug/gcov/build/dir/file.gcda
echo "a link" >/sys/kernel/debug/gcov/build/dir/file.gcno
EOF
guest leave.sh <<'EOF'
poweroff -f
EOF

# shellcheck disable=SC2016 # the guest is to see the dollar
boot --run "$tmp/pass.sh" -- "it's one" '$two'
expect "a program passes and gets its arguments" 0 \
	stdout '^0 pass.sh [0-9.]+$' boot.out "arguments: \[it's one\] \[\\\$two\]"

boot --run "$tmp/fail.sh" "$tmp/skip.sh" "$tmp/pass.sh"
expect "a failure is returned, the next ones still run" 1 \
	boot.result '^3 fail.sh ' boot.result '^4 skip.sh ' boot.result '^0 pass.sh '

boot --run "$tmp/skip.sh"
expect "a skipped test is no failure" 0 stdout '^4 skip.sh '

boot --each 2 --run "$tmp/hang.sh" "$tmp/pass.sh"
expect "a program that hangs is killed, the next ones still run" 1 \
	boot.result '^1(37|43) hang.sh ' boot.result '^0 pass.sh '

boot --run "$tmp/orphan.sh" "$tmp/no_orphan.sh"
expect "what a program leaves running is killed" 0 boot.result '^0 no_orphan.sh '

boot --run "$tmp/pass.sh" "$tmp/complain.sh" "$tmp/skip.sh"
expect "a complaint of the kernel fails the run and names the program" 1 \
	stderr 'the kernel complained' boot.result '^0 pass.sh [0-9.]+$' \
	boot.result '^0 complain.sh [0-9.]+ splat$' boot.result '^4 skip.sh [0-9.]+$'

boot --run "$tmp/talk.sh"
expect "a program's words are no complaint of the kernel" 0 stdout '^0 talk.sh [0-9.]+$'

boot --run "$tmp/pass.sh" "$tmp/panic.sh" "$tmp/skip.sh"
expect "a panic is no verdict" 125 \
	stderr 'without a verdict, last started was panic.sh' boot.result '^0 pass.sh '

boot --run "$tmp/leave.sh"
expect "a machine that stops early has no verdict" 125 stderr 'without a verdict'

boot --gcov "$tmp/counts.tgz" --run "$tmp/counts.sh"
tar -t -z -f "$tmp/counts.tgz" >"$tmp/names" || got="$got, no archive"
! grep -q gcno "$tmp/names" || got="$got, too much"
tar -x -z -O -f "$tmp/counts.tgz" ./build/dir/file.gcda >"$tmp/counts" || :
expect "what the kernel has counted comes out of the machine" 0 counts '^some numbers$'

boot --gcov "$tmp/counts.tgz" --run "$tmp/pass.sh"
[ ! -s "$tmp/counts.tgz" ] || got="$got, something was counted"
expect "a kernel that counts nothing passes, too" 0 stdout '^0 pass.sh '

boot --each 1000 --timeout 8 --run "$tmp/hang.sh"
expect "a machine that makes no progress is given up" 124 stderr 'nothing ended for 8 s'

boot --append "rdinit=/missing init=/missing" --run "$tmp/pass.sh"
expect "a machine that does not get to its programs has no verdict" 125 \
	stderr 'without a verdict'

boot --icount --run "$tmp/time.sh"
expect "time is instructions" 0 boot.out '^[0-9.]+ [0-9.]+'
cp "$tmp/boot.out" "$tmp/first.out"
boot --icount --run "$tmp/time.sh"
cmp -s "$tmp/boot.out" "$tmp/first.out" || got="$got, other times"
expect "and the same in each run" 0

# shellcheck disable=SC2016 # the guest is to see the dollar
boot --platform ept --run "$tmp/pass.sh" -- "it's one" '$two'
expect "ept: a program passes and gets its arguments" 0 \
	stdout '^0 pass.sh [0-9.]+$' boot.out "arguments: \[it's one\] \[\\\$two\]"

boot --platform ept --each 4 --run "$tmp/intel.sh" "$tmp/fail.sh" "$tmp/hang.sh" \
	"$tmp/complain.sh" "$tmp/panic.sh" "$tmp/skip.sh"
expect "ept: EPT is there, and whatever goes wrong is seen" 125 \
	stderr 'without a verdict, last started was panic.sh' stderr 'the kernel complained' \
	boot.result '^0 intel.sh [0-9.]+$' boot.result '^3 fail.sh [0-9.]+$' \
	boot.result '^1(37|43) hang.sh ' boot.result '^0 complain.sh [0-9.]+ splat$'

boot --platform ept --timeout 3 --run "$tmp/pass.sh"
expect "ept: a machine that makes no progress is given up" 124 stderr 'nothing ended for 3 s'

boot --platform ept --smp 2 --run "$tmp/pass.sh"
expect "ept: more than one processor is refused" 2 stderr 'one processor'

boot --run "$tmp/pass.sh" "$tmp/skip.sh" -- argument
expect "arguments for two programs are refused" 2 stderr 'one program only'

boot --run "$tmp/missing"
expect "a missing program is refused" 2 stderr 'missing: no such file'

boot --disk "$tmp/pass.sh"
expect "a disk without an initial file system is refused" 2 stderr "'': no such file"

boot --disk "$tmp/pass.sh" --initrd "$tmp/pass.sh" --run "$tmp/pass.sh"
expect "a disk and programs are refused" 2 stderr 'without --run'

boot --platform ept --disk "$tmp/pass.sh" --initrd "$tmp/pass.sh"
expect "ept: a disk is refused" 2 stderr 'no --disk'

kernel=$tmp/missing
boot --run "$tmp/pass.sh"
expect "a missing kernel is refused" 2 stderr 'missing: no such kernel'

echo "1..$count"
[ "$failed" -eq 0 ]
