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
       boot.sh [OPTION]... --disk IMAGE --initrd FILE

Boots a kernel in an emulator, whose processor can virtualise even if the one it runs
on cannot, with a file system in memory, runs programs in it, and reports how they
ended.

What to run:
  --run FILE...      copy the static programs, or shell scripts named *.sh, into
                     the guest and run each in turn; after --, arguments for the
                     program (one program only)
  --shell            a shell on this terminal, with the selftests in /tests
  --disk IMAGE       the system on this disk, whose file system is the whole of it and
                     is not changed. What it runs has to report as scripts/init
                     does: "=== run NAME" and "=== end NAME" in the kernel log and on
                     ttyS2, a line "STATUS NAME SECONDS" on ttyS1, last "verdict clean"
  --initrd FILE      its initial file system
  --files FILE...    copy more files into /tests, run nothing with them
  --modules DIR      copy the kernel modules found in DIR (a build directory), for
                     insmod into /modules, and for modprobe

The machine:
  --platform NAME    npt (default): QEMU, an AMD processor with nested paging
                     ept: Bochs, an Intel processor with EPT. One processor; a second
                     of its time is 100 million instructions, which take about one
  --kernel FILE      kernel image (default OUT/build/vm/arch/x86/boot/bzImage)
  --build DIR        kernel build directory, in place of --kernel
  --smp N            processors (default 2, with ept 1 and no more)
  --mem SIZE         memory, as QEMU writes it (default 3G)
  --cpu MODEL        processor model (default max, with ept corei7_skylake_x)
  --append TEXT      more kernel command line
  --icount           time is the number of instructions executed, a nanosecond each,
                     so that every run is the same; one processor
  --plugin FILE      plugin for QEMU, with arguments after commas
--icount, --plugin, --shell and --disk are for npt only. A machine with --disk has half
of its memory on each of two nodes; others split it with a debugging option.

Limits and output:
  --each SECONDS     time for one program; it is killed then (default 60)
  --timeout SECONDS  time without a program ending, booting and the last checks
                     included, after which the machine is given up (default: 60
                     more than for one program, with ept twice that)
  --log FILE         the kernel's console (default OUT/log/boot.log); next to it,
                     with .out and .result in place of .log: what the programs
                     print, and a line "STATUS NAME SECONDS" per program that
                     ended (STATUS is "lost" if it was killed because QEMU had
                     lost the registers of its guest, see scripts/lost.sh), with a
                     fourth word "splat" if the kernel complained
                     while it ran, and one named "kernel" if it complained at
                     another time
  --gcov FILE        what a kernel with CONFIG_GCOV_KERNEL has counted when the last
                     program has ended: a tar.gz of .gcda files, each with the path of
                     its object. Nothing if the machine stops before that
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

mode=
disk=
initrd=
kernel=
build=
modules=
platform=npt
smp=
mem=3G
cpu=
append=
icount=
plugin=
each=60
timeout=
log=$OUT/log/boot.log
gcov=
quiet=

work=$(mktemp -d)
machine=
# shellcheck disable=SC2317 # called by the trap
cleanup()
{
	[ -z "$machine" ] || kill "$machine" 2>/dev/null || :
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

# Set megs to the value of --mem.
megabytes()
{
	case $mem in
	*[!0-9MG]* | *[MG]?* | [!1-9]*) fail_usage "--mem $mem: not a number with M or G" ;;
	*G) megs=$((${mem%G} * 1024)) ;;
	*) megs=${mem%M} ;;
	esac
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
	--disk | --initrd | --platform | --kernel | --build | --modules | --smp | --mem | --cpu | --append | --plugin | --each | --timeout | --log | --gcov)
		need "$1" $#
		case $1 in
		--disk) disk=$2 ;;
		--initrd) initrd=$2 ;;
		--platform) platform=$2 ;;
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
		--gcov) gcov=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done

if [ -n "$disk" ]; then
	[ -z "$mode" ] || fail_usage "--disk goes without --run and --shell"
	mode=disk
fi
[ -n "$mode" ] || fail_usage "nothing to run"
case $platform in
npt)
	[ -z "$icount" ] || smp=1
	: "${smp:=2}" "${cpu:=max}"
	;;
ept)
	: "${smp:=1}" "${cpu:=corei7_skylake_x}"
	[ "$smp" = 1 ] || fail_usage "--platform ept has one processor"
	[ -z "$icount$plugin" ] || fail_usage "--platform ept has no --icount and no --plugin"
	[ "$mode" = run ] || fail_usage "--platform ept has no --shell and no --disk"
	megabytes
	command -v bochs >/dev/null || die "bochs not found; run scripts/setup.sh"
	;;
*) fail_usage "--platform $platform: neither npt nor ept" ;;
esac
for number in "$smp" "$each" "${timeout:-1}"; do
	case $number in
	'' | *[!0-9]* | 0) fail_usage "'$number' is not a positive number" ;;
	esac
done
slow=1
[ "$platform" = npt ] || slow=2
: "${timeout:=$(((each + 60) * slow))}"
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
disk)
	for file in "$disk" "$initrd"; do
		[ -f "$file" ] || fail_usage "--disk and --initrd: '$file': no such file"
	done
	megabytes
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
if [ -n "$gcov" ]; then
	: >"$gcov"
	: >"$root/job/gcov"
fi
if [ "$mode" = disk ]; then
	cp -- "$initrd" "$work/initrd"
else
	cp -- "$busybox" "$root/bin/busybox"
	cp -- "$REPO/scripts/init" "$root/init"
	cp -- "$REPO/scripts/lost.sh" "$root/job/lost.sh"
	(cd "$root" && find . | cpio -o -H newc --quiet) >"$work/initrd"
fi

# printk.devkmsg: or most of the guest's marks in the kernel log are dropped.
# no_timer_check: on a busy machine the emulated timer can be late for the check at
# boot, which then panics.
# oops=panic: whoever had the locks is gone, and all would wait for them in vain.
# numa=fake: two nodes out of one, for tests of memory policies.
# disable_numa: the kernel warns of a node that has none of the processors.
line="console=ttyS0,115200 log_buf_len=4M panic=-1 oops=panic printk.devkmsg=on no_timer_check numa=fake=2"
[ "$smp" -gt 1 ] || line="$line workqueue.disable_numa=1"
[ "$mode" != disk ] || line="$line root=/dev/vda ro"

# Kernel, verdict, programs and counts each have a port: no line ends up inside another.
: >"$log"
: >"$output"
: >"$work/verdict"

# thread=single: with a thread for each processor QEMU 7.2 loses nested guests
# now and then, see scripts/lost.sh, and sometimes a processor that is in such a guest: it
# takes no interrupt any more, and the others wait for it for ever.
start_npt()
{
	set -- -accel "tcg,thread=${TCG_THREAD:-single}" -cpu "$cpu" -smp "$smp" -m "$mem" \
		-nodefaults -display none -no-reboot \
		-kernel "$kernel" -initrd "$work/initrd" -append "$line $append"
	if [ -n "$icount" ]; then
		# The clock and the random numbers of the host would make a difference.
		set -- "$@" -icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm -seed 1
	fi
	[ -z "$plugin" ] || set -- "$@" -plugin "$plugin"
	if [ "$mode" = disk ]; then
		set -- "$@" -drive "file=$disk,if=virtio,format=raw,snapshot=on"
	fi
	# The kernel warns of a node that has none of the processors, and of a processor that
	# is in two.
	if [ "$mode" = disk ] && [ "$smp" -gt 1 ]; then
		set -- "$@" -smp "$smp,sockets=$smp" -object "memory-backend-ram,id=node0,size=$((megs / 2))M" \
			-object "memory-backend-ram,id=node1,size=$((megs - megs / 2))M" \
			-numa "node,memdev=node0,cpus=0-$((smp / 2 - 1))" \
			-numa "node,memdev=node1,cpus=$((smp / 2))-$((smp - 1))"
	fi
	if [ "$mode" = shell ]; then
		qemu-system-x86_64 "$@" -serial mon:stdio
		exit
	fi
	set -- "$@" -serial "file:$log" -serial "file:$work/verdict" -serial "file:$output"
	[ -z "$gcov" ] || set -- "$@" -serial "file:$gcov"
	qemu-system-x86_64 "$@" </dev/null >"$work/emulator.log" 2>&1 &
	machine=$!
}

# Bochs boots from a disc and wants a terminal. What the command line has for it:
# reboot=t: a triple fault ends it, after a panic, too.
# clearcpuid: what the processor says of the size of these is wrong, and the kernel warns.
# tsc_early_khz: the clock has that rate, not the one of the model.
# KVM_GUEST_IF: for the tests' environment. A guest that is entered with interrupts
# disabled keeps those of the host off until it exits by itself.
start_ept()
{
	line="$line reboot=t clearcpuid=xsaves,xsavec tsc_early_khz=100000 tsc=reliable"
	line="$line KVM_GUEST_IF=1"
	mkdir "$work/disc"
	cp -- "$kernel" "$work/disc/linux"
	mv "$work/initrd" "$work/disc/initrd"
	cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disc"
	cat >"$work/disc/isolinux.cfg" <<-EOF
		DEFAULT linux
		LABEL linux
		KERNEL linux
		INITRD initrd
		APPEND $line $append
	EOF
	xorriso -as mkisofs -quiet -o "$work/disc.iso" -b isolinux.bin -c boot.cat \
		-no-emul-boot -boot-load-size 4 -boot-info-table "$work/disc" 2>/dev/null ||
		die "cannot write the disc to boot from"
	ln -s "$(realpath "$log")" "$work/log"
	ln -s "$(realpath "$output")" "$work/output"
	[ -z "$gcov" ] || ln -s "$(realpath "$gcov")" "$work/gcov"
	cat >"$work/bochsrc" <<-EOF
		config_interface: textconfig
		display_library: term
		plugin_ctrl: unmapped=1, biosdev=1, extfpuirq=1, serial=1, speaker=0, parallel=0, gameport=0, iodebug=0
		romimage: file=/usr/share/bochs/BIOS-bochs-latest
		vgaromimage: file=/usr/share/vgabios/vgabios.bin
		cpu: model=$cpu, count=1, ips=100000000, ignore_bad_msrs=1, reset_on_triple_fault=0
		memory: guest=$megs, host=$((megs < 2048 ? megs : 2048))
		clock: sync=none, time0=1767225600
		ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
		ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
		boot: cdrom
		com1: enabled=1, mode=file, dev=$work/log
		com2: enabled=1, mode=file, dev=$work/verdict
		com3: enabled=1, mode=file, dev=$work/output
		${gcov:+com4: enabled=1, mode=file, dev=$work/gcov}
		log: $work/bochs.log
		panic: action=fatal
		error: action=ignore
		info: action=ignore
		debug: action=ignore
	EOF
	echo c >"$work/commands"
	TERM=linux script -q -f -e -c "exec bochs -f $work/bochsrc -rc $work/commands" /dev/null \
		</dev/null >"$work/screen" 2>&1 &
	machine=$!
	# The screen is a terminal that Bochs makes; it waits when nobody reads that.
	# The file may not be there yet, the shell in the background makes it.
	tries=50
	until screen=$(sed -n 's/.*connected to screen "\([^"]*\)".*/\1/p' "$work/screen" 2>/dev/null) &&
	      [ -n "$screen" ]; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 0
		sleep 0.2
	done
	cat "$screen" >/dev/null 2>&1 &
}

case $platform in
npt) start_npt ;;
ept) start_ept ;;
esac
if [ "${V:-0}" = 1 ]; then
	tail -q -f --pid="$machine" "$log" "$output" &
fi
late=
ended=-1
while kill -0 "$machine" 2>/dev/null; do
	now=$(date +%s)
	if [ "$(wc -l <"$work/verdict")" -ne "$ended" ]; then
		ended=$(wc -l <"$work/verdict")
		deadline=$((now + timeout))
	elif [ "$now" -ge "$deadline" ]; then
		late=1
		kill "$machine"
		break
	fi
	sleep 0.2
done
wait "$machine" 2>/dev/null || :
machine=
if [ "$platform" = npt ]; then
	cat "$work/emulator.log" >&2
elif [ -f "$work/bochs.log" ]; then
	sed -n 's/^[0-9]*p\[.*>>PANIC<< \(.*\)/Bochs: \1/p' "$work/bochs.log" |
		grep -v 'soft power off' >&2 || :
else
	# It did not begin.
	cat "$work/screen" >&2
fi

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
