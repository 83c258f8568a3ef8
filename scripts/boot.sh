#!/bin/sh
# Boot a kernel in an emulated machine and run programs in it.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: boot.sh [OPTION]... --run FILE... [-- ARGUMENT...]
       boot.sh [OPTION]... --shell

Boots a kernel in QEMU (no hardware virtualisation needed: the machine has an
emulated AMD processor whose SVM works) with a file system in memory, runs
programs in it, and reports how they ended.

What to run:
  --run FILE...      copy the static programs, or shell scripts named *.sh, into
                     the guest and run each in turn; after --, arguments for the
                     program (one program only)
  --shell            a shell on this terminal, with the selftests in /tests
  --files FILE...    copy more files into /tests, run nothing with them
  --modules DIR      copy the kernel modules found in DIR (a build directory), for
                     insmod into /modules, and for modprobe

The machine:
  --kernel FILE      kernel image (default OUT/build/vm/arch/x86/boot/bzImage)
  --build DIR        kernel build directory, in place of --kernel
  --smp N            processors (default 2)
  --mem SIZE         memory, as QEMU writes it (default 3G)
  --cpu MODEL        processor model (default max)
  --append TEXT      more kernel command line
  --icount           time is the number of instructions executed, a nanosecond each,
                     so that every run is the same; one processor
  --plugin FILE      plugin for QEMU, with arguments after commas

Limits and output:
  --each SECONDS     time for one program; it is killed then (default 60)
  --timeout SECONDS  time without a program ending, booting and the last checks
                     included, after which the machine is given up (default: 60
                     more than for one program)
  --log FILE         the kernel's console (default OUT/log/boot.log); next to it,
                     with .out and .result in place of .log: what the programs
                     print, and a line "STATUS NAME SECONDS" per program that
                     ended (STATUS is "lost" if it was killed because QEMU had
                     lost the registers of its guest, see scripts/init), with a
                     fourth word "splat" if the kernel complained
                     while it ran, and one named "kernel" if it complained at
                     another time
  -q, --quiet        print nothing but errors
  -h, --help         print this text

Environment: OUT output directory, V=1 shows the console while it runs,
TCG_THREAD=multi gives each processor a thread of its own: more races are met, and
some runs are spoilt by the emulator (default single).

Exit status: 0 all programs ended with 0, or with 4 (test skipped); 1 a program
failed or the kernel complained (warning, bug, lockdep, KASAN, leak, ...); 2
wrong usage; 124 out of time; 125 the machine stopped without a verdict.
EOF
}

# What the kernel prints when something is wrong. Matched against lines that
# start with a kernel time stamp, so a test may print these words.
splats='WARNING: |BUG: |KASAN: |UBSAN: |\[#[0-9]+\] |Kernel panic|unchecked MSR access|possible circular locking|possible recursive locking|inconsistent (lock|\{)|irq lock inversion|suspicious RCU usage|held lock freed|lock held (when|at task)|bad unlock balance|soft lockup|hard LOCKUP|blocked for more than|rcu: INFO|stall on CPU|unreferenced object|Bad page|bad: scheduling|Object corrupted|Redzone|Poison overwritten|refcount_t: '

mode=
kernel=
build=
modules=
smp=2
mem=3G
cpu=max
append=
icount=
plugin=
each=60
timeout=
log=$OUT/log/boot.log
quiet=

work=$(mktemp -d)
qemu=
# shellcheck disable=SC2317 # called by the trap
cleanup()
{
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || :
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
root=$work/root
mkdir -p "$root/bin" "$root/job" "$root/tests" "$root/modules"
: >"$work/programs"

# Copy FILE to /tests; debug information stays at home, it is most of the size.
pack()
{
	[ -f "$1" ] || fail_usage "$1: no such file"
	to=$root/tests/$(basename "$1")
	[ ! -e "$to" ] || fail_usage "$1: two files of this name"
	strip -g -o "$to" "$1" 2>/dev/null || cp -- "$1" "$to"
	chmod +x "$to"
}

need()
{
	[ "$2" -ge 2 ] || fail_usage "$1 needs a value"
}

arguments=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--shell) mode=shell ;;
	-q | --quiet) quiet=1 ;;
	--icount) icount=1 ;;
	--run | --files)
		what=$1
		[ "$what" = --files ] || mode=run
		need "$1" $#
		while [ $# -gt 1 ]; do
			case $2 in
			-*) break ;;
			esac
			shift
			pack "$1"
			[ "$what" = --files ] || basename "$1" >>"$work/programs"
		done
		;;
	--)
		shift
		for argument in "$@"; do
			arguments="$arguments '$(printf %s "$argument" | sed "s/'/'\\\\''/g")'"
		done
		break
		;;
	--kernel | --build | --modules | --smp | --mem | --cpu | --append | --plugin | --each | --timeout | --log)
		need "$1" $#
		case $1 in
		--kernel) kernel=$2 ;;
		--build) build=$2 ;;
		--modules) modules=$2 ;;
		--smp) smp=$2 ;;
		--mem) mem=$2 ;;
		--cpu) cpu=$2 ;;
		--append) append=$2 ;;
		--plugin) plugin=$2 ;;
		--each) each=$2 ;;
		--timeout) timeout=$2 ;;
		--log) log=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done

[ -n "$mode" ] || fail_usage "nothing to run"
for number in "$smp" "$each" "${timeout:-1}"; do
	case $number in
	'' | *[!0-9]* | 0) fail_usage "'$number' is not a positive number" ;;
	esac
done
: "${timeout:=$((each + 60))}"
if [ -z "$kernel" ]; then
	kernel=${build:-$OUT/build/vm}/arch/x86/boot/bzImage
fi
[ -f "$kernel" ] || fail_usage "$kernel: no such kernel; build it with scripts/kernel.sh"
busybox=$(command -v busybox) || die "busybox not found; install the package busybox-static"
if [ -n "$modules" ]; then
	[ -d "$modules" ] || fail_usage "$modules: no such directory"
	find "$modules" -name '*.ko' -exec cp -t "$root/modules" {} +
fi
output=${log%.log}.out
result=${log%.log}.result
mkdir -p "$(dirname "$log")"

case $mode in
run)
	[ -s "$work/programs" ] || fail_usage "--run needs a program"
	if [ -n "$arguments" ] && [ "$(wc -l <"$work/programs")" -ne 1 ]; then
		fail_usage "arguments after -- go with one program only"
	fi
	while read -r name; do
		case $name in
		*.sh) command="sh ./$name" ;;
		*) command=./$name ;;
		esac
		echo "$each $name $command$arguments"
	done <"$work/programs" >"$root/job/list"
	;;
shell)
	: >"$root/job/shell"
	tests=$OUT/selftests/series
	if [ -f "$tests/list" ]; then
		while read -r name; do
			[ ! -f "$tests/kvm/$name" ] || pack "$tests/kvm/$name"
		done <"$tests/list"
	fi
	;;
esac
printf '%s\n' "$splats" >"$root/job/splats"
cp -- "$busybox" "$root/bin/busybox"
cp -- "$REPO/scripts/init" "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$work/initrd"

# printk.devkmsg: or most of the guest's marks in the kernel log are dropped.
# no_timer_check: on a busy machine the emulated timer can be late for the check at
# boot, which then panics.
# thread=single: with a thread for each processor QEMU 7.2 loses nested guests
# now and then, see scripts/init, and sometimes a processor that is in such a guest: it
# takes no interrupt any more, and the others wait for it for ever.
# numa=fake: two nodes out of one, for tests of memory policies.
set -- -accel "tcg,thread=${TCG_THREAD:-single}" -cpu "$cpu" -smp "$smp" -m "$mem" \
	-nodefaults -display none -no-reboot \
	-kernel "$kernel" -initrd "$work/initrd" \
	-append "console=ttyS0 log_buf_len=4M panic=-1 printk.devkmsg=on no_timer_check numa=fake=2 $append"

if [ -n "$icount" ]; then
	# The clock and the random numbers of the host would make a difference.
	set -- "$@" -smp 1 -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm -seed 1
fi

[ -z "$plugin" ] || set -- "$@" -plugin "$plugin"

if [ "$mode" = shell ]; then
	qemu-system-x86_64 "$@" -serial mon:stdio
	exit
fi

# Kernel, verdict and programs each have a port: no line ends up inside another.
: >"$log"
: >"$output"
: >"$work/verdict"
qemu-system-x86_64 "$@" -serial "file:$log" -serial "file:$work/verdict" \
	-serial "file:$output" </dev/null >"$work/qemu.log" 2>&1 &
qemu=$!
if [ "${V:-0}" = 1 ]; then
	tail -q -f --pid="$qemu" "$log" "$output" &
fi
late=
ended=-1
while kill -0 "$qemu" 2>/dev/null; do
	now=$(date +%s)
	if [ "$(wc -l <"$work/verdict")" -ne "$ended" ]; then
		ended=$(wc -l <"$work/verdict")
		deadline=$((now + timeout))
	elif [ "$now" -ge "$deadline" ]; then
		late=1
		kill "$qemu"
		break
	fi
	sleep 0.2
done
wait "$qemu" 2>/dev/null || :
qemu=
[ ! -s "$work/qemu.log" ] || cat "$work/qemu.log" >&2

tr -d '\r' <"$work/verdict" >"$work/lines"
verdict=$(sed -n 's/^verdict //p' "$work/lines")
# Complaints, each with the program that ran at the time.
tr -d '\r' <"$log" | splats=$splats awk '
	BEGIN { splat = "^\\[ *[0-9]+\\.[0-9]+\\].*(" ENVIRON["splats"] ")" }
	/^\[ *[0-9.]+\].*=== run / { name = $NF }
	/^\[ *[0-9.]+\].*=== end / { name = "" }
	$0 ~ splat { print (name == "" ? "-" : name) " " $0 }
' >"$work/splats"
cut -d ' ' -f 1 "$work/splats" | sort -u >"$work/guilty"
sed '/^verdict /d' "$work/lines" | while read -r status name seconds; do
	if grep -q -x -F -e "$name" "$work/guilty"; then
		seconds="$seconds splat"
	fi
	echo "$status $name $seconds"
done >"$result"
if grep -q -x -e - "$work/guilty" || { [ "$verdict" = splat ] && [ ! -s "$work/splats" ]; }; then
	echo "1 kernel 0.0 splat" >>"$result"
fi

if [ -z "$quiet" ]; then
	cat "$result"
fi
running=$(sed -n 's/.*=== run //p' "$output" | tr -d '\r' | tail -n 1)
status=0
if [ -s "$work/splats" ]; then
	say "the kernel complained, see $log:"
	sed 's/^/  /' "$work/splats" >&2
	status=1
elif [ "$verdict" = splat ]; then
	say "the kernel complained, see $log"
	status=1
fi
if [ -n "$late" ]; then
	say "nothing ended for $timeout s${running:+, last started was $running}, see $log"
	exit 124
fi
if [ -z "$verdict" ]; then
	say "the machine stopped without a verdict${running:+, last started was $running}, see $log"
	exit 125
fi
if grep -q -v -E '^(0|4) ' "$result"; then
	status=1
fi
exit "$status"
