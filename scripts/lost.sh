# shellcheck shell=dash
# Tell whether QEMU has lost a guest of KVM. Sourced in the emulated machine, by
# scripts/init and by what scripts/deb-test.sh runs there.
#
# QEMU's emulation of nested SVM loses a guest now and then (seen with 7.2: once in
# some hundred thousand exits of four vCPUs on two processors). It leaves the guest
# twice, the second time with what it has just restored for the host: a nested page
# fault says that the guest was at the instruction after the host's own VMRUN, and
# from then on the guest runs with the host's registers. Where that ends is anybody's
# guess: in page faults that KVM injects for ever, or in a shutdown. Such a run has
# shown nothing, so have the kernel record these faults, of which there are none
# otherwise.
lost=/sys/kernel/debug/tracing/instances/lost

# When KVM is loaded, and again when it was loaded anew.
watch_exits()
{
	exits=$lost/events/kvm/kvm_exit
	run=$(sed -n 's/ . __svm_vcpu_run\(\t.*\)\{0,1\}$//p' /proc/kallsyms)
	[ -n "$run" ] && mkdir -p $lost && [ -e $exits ] || return 0
	end=$(printf %x $((0x$run + 0x100)))
	echo "exit_reason == 0x400 && guest_rip > 0x$run && guest_rip < 0x$end" >$exits/filter
	echo 1 >$exits/enable
}

lost_guest()
{
	grep -q '^entries: [1-9]' $lost/per_cpu/cpu*/stats 2>/dev/null
}

# Not to wait for the time limit of the program.
stop_when_lost()
{
	until lost_guest; do
		sleep 2
	done
	kill "$1"
}

# Print what was recorded and forget it.
take_lost()
{
	grep kvm_exit $lost/trace
	echo >$lost/trace
}
