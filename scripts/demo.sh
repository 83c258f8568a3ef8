#!/bin/sh
# Boot Linux in VMs whose whole memory is guest_memfd memory.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: demo.sh [OPTION]...

Builds the patched host kernel, an unmodified guest kernel and gmem_vmm, boots
the host in QEMU (no hardware virtualisation needed) and in it the guest, with
the console shown as it comes. With J not 1 two machines run at a time: the output
of one follows that of the other.

  1 vCPU, ordinary memory   the control: a secret of the guest's is found in it
  1 vCPU, shared memory     and is found by a second process that has the file;
                            there is one copy of all memory, in the file
  1 vCPU, shared memory     mapped before the guest runs: it never faults on RAM,
                            by KVM's own counters, as it did in the run before
  1 vCPU, in-place memory   the secret is not found; pages keep their content when
                            the guest converts them, and there is one copy
  1 vCPU, private memory    the secret is not found
  4 vCPUs, private memory
  1 vCPU, private memory    mapped before the guest runs
  1 vCPU, private memory    the same, loaded and measured by the software back
                            end: the digest is what gmem_measure.sh computes here,
                            and another one for another command line
  1 vCPU, private memory    a page is poisoned: the process that touches it gets
                            SIGBUS, the guest's kernel goes on. Only on a host kernel
                            with CONFIG_KVM_GMEM_INJECT_ERRORS

The guest is told of everything that KVM supports. It finds its clock, its
interrupts and, with more vCPUs than processors, stolen time as in any VM of KVM.

A run that fails is repeated, up to seven times, if QEMU has lost its guest, see
scripts/init, or delivered an interrupt twice: with 4 vCPUs that has been seen in up
to every second run, with 1 vCPU in every tenth.

Options:
  --memory KIND              only the runs with this kind of memory: private,
                             inplace, shared or ordinary
  --cpus N                   all runs with N vCPUs (1 to 4)
  --mem SIZE[K|M|G]          memory of the guest (default 64M)
  --build DIR                build directory of a host kernel that is built
                             already, in place of the series in OUT/linux
  -h, --help                 print this text

Environment: OUT output directory, J parallel jobs, V=1 shows the builds.
What was printed stays in OUT/log/demo-*.out, the host's console in demo-*.log.

Exit status: 0 every guest reached user space, no check failed, all memory was
private (in private and in-place runs), and counters and digests were as above; 1
otherwise or a build failed; 2 wrong usage.
EOF
}

# On emulated SVM KVM does not see the guest set XCR0, and the two disagree about
# what XSAVE saves; the guest is better off without.
guest_append=noxsave

memory=
cpus=
mem=64M
build=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--memory | --cpus | --mem | --build)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--memory) memory=$2 ;;
		--cpus) cpus=$2 ;;
		--mem) mem=$2 ;;
		--build) build=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done
case $memory in
'' | private | inplace | shared | ordinary) ;;
*) fail_usage "--memory $memory: not private, inplace, shared or ordinary" ;;
esac
case $cpus in
'' | [1-4]) ;;
*) fail_usage "--cpus $cpus: not a number from 1 to 4" ;;
esac

scripts=$REPO/scripts
demo=$OUT/demo
guest=$OUT/build/pristine-guest
mkdir -p "$demo" "$OUT/log"

build_all()
{
	if [ -z "$build" ]; then
		say "building the host kernel: the series, configs/vm.config"
		"$scripts/kernel.sh" --config vm
		build=$OUT/build/vm
	fi
	say "building the guest kernel: unmodified, configs/guest.config"
	BASE=pristine "$scripts/kernel.sh" --config guest
	say "building gmem_vmm and the guest's programs"
	# A make around this script must not hand its job server or variables down.
	unset MAKEFLAGS MFLAGS MAKELEVEL
	log=$OUT/log/demo-build.log
	if ! make -C "$REPO/tools/kvm/gmem_vmm" OUTPUT="$demo/" KDIR="$guest" \
		all initrd >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		die "building tools/kvm/gmem_vmm failed, see $log"
	fi
	cp -- "$guest/arch/x86/boot/bzImage" "$demo/bzImage"
}

# QEMU's emulation of nested SVM now and then delivers an interrupt twice that KVM has
# injected once (seen with 7.2: one or two in a boot of four vCPUs). The second comes
# even when the guest has interrupts off, so the guest may crash, or hang with a lock
# held. Two traces tell: the next exit has in EXITINTINFO the vector as that of an
# exception, which none from 0x20 on is; and KVM sees the end of an interrupt that it
# has not begun, unless PV EOI keeps it from seeing that. A guest that hangs is ended
# here, so that its table is printed.
write_runner()
{
	cat >"$demo/guest.sh" <<'EOF'
case " $* " in
*" --memory ordinary "*) ordinary=1 ;;
*) ordinary= ;;
esac
trace=/sys/kernel/debug/tracing/instances/twice
mkdir $trace
echo 'vector < 0' >$trace/events/kvm/kvm_eoi/filter
echo 'intr_info & 0xe0 && intr_info & 0x100 && intr_info & 0x200' \
	>$trace/events/kvm/kvm_exit/filter
echo 1 >$trace/events/kvm/kvm_eoi/enable
echo 1 >$trace/events/kvm/kvm_exit/enable
# What an operator sees of it meanwhile, when there is something to be seen.
while sleep 1; do
	./gmemtop.sh -n 1 >top.new
	mv top.new top
	awk '$1 ~ /^[0-9]+$/ { files++ } $1 ~ /^[0-9]+-[0-9]+$/ { vms++ }
		END { exit !vms || (files < vms && !ordinary) }' ordinary="$ordinary" top && break
done &
top=$!
timeout 60 ./gmem_vmm "$@"
status=$?
kill $top 2>/dev/null
sed 's/^/gmemtop: /' top
grep -e kvm_exit: -e kvm_eoi: $trace/trace
echo "interrupts delivered twice: $(grep -c -e kvm_exit: -e kvm_eoi: $trace/trace)"
exit $status
EOF
}

# Whether what went wrong in a run shows nothing, as the emulator is known to have done
# harm. What is wrong indeed is so without its help, too.
spoilt()
{
	grep -q '^lost ' "$OUT/log/$1.result" ||
		grep -q '^interrupts delivered twice: [1-9]' "$OUT/log/$1.out"
}

# Something is wrong with this run: say it now and with the verdict.
wrong()
{
	say "$1"
	reasons="$reasons$(printf '\n         %s' "$1")"
	failed=1
}

# expect FILE PATTERN WHAT: a line of the output matches, or WHAT is wrong.
expect()
{
	grep -q -E -e "$2" "$1" || wrong "$3, see $1"
}

# Can the host kernel make memory errors?
injects()
{
	grep -q '^CONFIG_KVM_GMEM_INJECT_ERRORS=y' "$build/.config" && return
	say "no run with a memory error: $build cannot make one"
	return 1
}

# Page faults on RAM, as KVM counts them: the runs that are mapped ahead have none.
check_faults()
{
	if [ "$2" = plain ] || [ "$2" = poison ]; then
		expect "$3" '^  page faults on RAM +[1-9][0-9]* before user space' \
			"the control has no page faults on RAM, so counting them shows nothing"
		return
	fi
	# A conversion unmaps what is around it, where another vCPU may be just then.
	after=0
	[ "$1" -eq 1 ] || after='[0-9]+'
	expect "$3" "^  page faults on RAM +0 before user space, $after after\$" \
		"the guest faulted on RAM that was mapped ahead"
	if [ "$(grep -c '^    vCPU [0-9] at user space .* pf_fixed 0,' "$3")" -ne "$1" ]; then
		wrong "pf_fixed is not 0 at user space on every vCPU, see $3"
	fi
	bytes=$(awk '/^  RAM (private|shared) / { sum += $3 } END { printf "%d", sum }' "$3")
	expect "$3" "^  mapped ahead +$bytes bytes" "not all RAM was mapped ahead"
}

# The digest by another program, on another machine: the one that runs this script.
recompute()
{
	GMEM_VMM=$demo/gmem_vmm "$REPO/tools/kvm/gmem_vmm/gmem_measure.sh" \
		--kernel "$demo/bzImage" --initrd "$demo/initrd.cpio" \
		--cpus "$1" --mem "$mem" --append "$2"
}

check_measurement()
{
	measured=$(sed -n 's/^  measurement *//p' "$3")
	recomputed=$(recompute "$1" "$2") || wrong "no digest could be computed here"
	changed=$(recompute "$1" "$2 changed") || wrong "no digest could be computed here"
	printf '\nmeasured by the back end             %s\n' "${measured:--}"
	printf 'recomputed on this machine           %s\n' "${recomputed:--}"
	printf 'with "changed" on the command line   %s\n' "${changed:--}"
	if [ -z "$measured" ] || [ "$measured" != "$recomputed" ]; then
		wrong "the digests differ, see $3"
	fi
	if [ "$measured" = "$changed" ]; then
		wrong "a changed command line does not change the digest"
	fi
	expect "$3" '^  back end +.* 0 broken rules$' "the back end found fault with KVM"
}

# check_output MEMORY CPUS FILE KIND
check_output()
{
	if ! grep -q '^gmem_vmm: .* ended by: ' "$3"; then
		wrong "gmem_vmm printed no table, see $3"
		return
	fi
	expect "$3" '^  boot to user space +[0-9]+ ms$' "the guest did not reach user space"
	expect "$3" '^gmem_vmm: .* ended by: exit port, value 0$' "the guest did not end well"
	expect "$3" '^  checks +[1-9][0-9]* passed, 0 failed$' "checks failed"
	expect "$3" "^  vCPUs that use +kvm-clock $2, steal time $2, async page faults $2, PV EOI $2$" \
		"the guest does not use what KVM offers"
	expect "$3" '^gmemtop: +[0-9]+-[0-9]+ ' "gmemtop did not show the VM"
	if [ "$1" != ordinary ]; then
		expect "$3" '^gmemtop: +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+[KM] +[1-9]' \
			"gmemtop did not show the file"
	fi
	case $1 in
	private | inplace)
		expect "$3" '^  RAM shared +0 bytes' "some memory is not private"
		expect "$3" '^  conversions +[1-9][0-9]* to shared, [1-9]' "no page was converted"
		expect "$3" '^  pages the VMM has mapped 0 of the file, 0 of its own$' \
			"the VMM has pages of a guest whose memory is private"
		;;
	esac
	if [ "$1" != ordinary ]; then
		expect "$3" '^  pages in the guest_memfd [1-9]' "no memory in the guest_memfd"
		expect "$3" '^  huge pages of the file +[1-9]' "the guest_memfd has no huge page"
	fi
	case $1 in
	shared | inplace) expect "$3" '^gmem_vmm: ok: one copy: ' "memory is there twice" ;;
	esac
	if [ "$1" = inplace ]; then
		expect "$3" '^  conversions .* 1 refused for a pinned page$' "no pinned page was refused"
	fi
	if [ "$4" = poison ]; then
		expect "$3" '^gmem_vmm: ok: KVM_RUN fails with EHWPOISON' "no memory error was seen"
		expect "$3" '^  memory errors +1,' "the guest was not told of one memory error"
		expect "$3" '^gmem_vmm: ok: the guest.s kernel counts one page as lost' \
			"the guest did not survive a memory error"
	fi
	if grep -q -E '^\[ *[0-9.]+\] (WARNING|BUG|Kernel panic|.*unchecked MSR)' "$3"; then
		wrong "the guest's kernel complained, see $3"
	fi
}

# boot MEMORY CPUS NAME APPEND OPTIONS: a guest, shown as it runs
boot()
{
	out=$OUT/log/$3.out
	: >"$out"
	# shellcheck disable=SC2086 # a list of options
	"$scripts/boot.sh" --quiet --build "$build" --log "$OUT/log/$3.log" \
		--smp 2 --each 300 --files "$demo/gmem_vmm" "$REPO/tools/kvm/gmem_vmm/gmemtop.sh" "$demo/bzImage" "$demo/initrd.cpio" \
		--run "$demo/guest.sh" -- --kernel bzImage --initrd initrd.cpio \
		--memory "$1" --cpus "$2" --mem "$mem" --verbose \
		--append "$4" $5 &
	tail -n +1 -f -s 0.2 --pid="$!" "$out"
	wait "$!"
}

# run MEMORY CPUS plain|prefault|measured|poison: prints a verdict to descriptor 3. Status 1 if
# something was wrong.
run()
{
	name=demo-$1-$2
	options=
	case $3 in
	prefault)
		name=$name-prefault
		options=--prefault
		;;
	measured)
		name=$name-measured
		options='--prefault --measure'
		;;
	poison)
		name=$name-poison
		options=--poison
		;;
	esac
	[ "$1" != shared ] || options="${options:+$options }--second-process"
	printf '\n=== %s memory, %s vCPU(s), %s%s\n' "$1" "$2" "$mem" "${options:+, $options}"
	for try in 1 2 3 4 5 6 7 8; do
		failed=0
		reasons=
		boot "$1" "$2" "$name" "$guest_append" "$options" ||
			wrong "the run ended with: $(tr '\n' ' ' <"$OUT/log/$name.result")"
		tr -d '\r' <"$out" >"$demo/$name.txt"
		check_output "$1" "$2" "$demo/$name.txt" "$3"
		check_faults "$2" "$3" "$demo/$name.txt"
		[ "$3" != measured ] ||
			check_measurement "$2" "$guest_append" "$demo/$name.txt"
		if [ "$failed" = 0 ] || [ "$try" = 8 ] || ! spoilt "$name"; then
			break
		fi
		say "again: QEMU has spoilt this run"
	done
	verdict=ok
	[ "$failed" = 0 ] || verdict=FAILED
	boot=$(sed -n 's/^  boot to user space *//p' "$demo/$name.txt")
	faults=$(sed -n 's/^  page faults on RAM *\([0-9]*\) before.*/\1/p' "$demo/$name.txt")
	printf '%-8s %-8s memory, %s vCPU(s), %-9s user space after %s and %s page faults on RAM%s\n' \
		"$verdict" "$1" "$2" "$3:" "${boot:--}" "${faults:--}" "$reasons" >&3
	return "$failed"
}

# start MEMORY CPUS plain|prefault|measured|poison: a run at the same time as others, of which
# there may be so many.
start()
{
	[ "$((started - shown))" -lt "$at_once" ] || show
	started=$((started + 1))
	: >"$demo/run-$started.out"
	run "$@" >>"$demo/run-$started.out" 2>&1 3>"$demo/run-$started.verdict" &
	pids="$pids $!"
}

# Show the oldest run that was not shown yet, until it ends.
show()
{
	shown=$((shown + 1))
	# shellcheck disable=SC2086 # a list of process ids
	set -- $pids
	tail -n +1 -f -s 0.2 --pid="$1" "$demo/run-$shown.out"
	wait "$1" || status=1
	shift
	pids=$*
}

build_all
write_runner
status=0
started=0
shown=0
pids=
# QEMU uses one processor.
at_once=2
[ "$J" -gt 1 ] || at_once=1
for kind in ${memory:-ordinary shared inplace private}; do
	case $kind in
	ordinary) start ordinary "${cpus:-1}" plain ;;
	shared)
		start shared "${cpus:-1}" plain
		start shared "${cpus:-1}" prefault
		;;
	inplace) start inplace "${cpus:-1}" plain ;;
	private)
		start private "${cpus:-1}" plain
		[ -n "$cpus" ] || start private 4 plain
		start private "${cpus:-1}" prefault
		start private "${cpus:-1}" measured
		! injects || start private "${cpus:-1}" poison
		;;
	esac
done
while [ "$shown" -lt "$started" ]; do
	show
done
echo
number=0
while [ "$number" -lt "$started" ]; do
	number=$((number + 1))
	cat "$demo/run-$number.verdict"
done
exit "$status"
