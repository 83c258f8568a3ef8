#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Load KVM, use a guest_memfd, unload KVM right after the last close.  An inode or
# a folio that outlives the file would call into modules that are gone.

set -eu

usage() {
	cat <<USAGE
Usage: ${0##*/} [-n ROUNDS] [MODULE_DIR]
Load and unload KVM with a guest_memfd closed just before, in a loop.

  -n ROUNDS    rounds of each kind, default 4
  MODULE_DIR   directory of kvm.ko, kvm-amd.ko or kvm-intel.ko, and irqbypass.ko
               if the kernel has it as a module; default: what modprobe finds
  -h, --help   print this

Needs root, a KVM that is not in use, and guest_memfd_hold beside this script.
Prints TAP. Exit status: 0 passed, 1 failed, 2 wrong arguments, 4 skipped (KVM is
built in, or has no guest_memfd, or the CPU no virtualisation).
USAGE
}

rounds=4
dir=
case ${1-} in
-h | --help)
	usage
	exit 0
	;;
esac
while getopts n: opt; do
	case $opt in
	n) rounds=$OPTARG ;;
	*)
		usage >&2
		exit 2
		;;
	esac
done
shift $((OPTIND - 1))
case $rounds in
'' | *[!0-9]* | 0)
	echo "${0##*/}: -n wants a number of rounds, not '$rounds'" >&2
	exit 2
	;;
esac
if [ $# -gt 1 ]; then
	usage >&2
	exit 2
fi
dir=${1-}

here=$(dirname "$0")
hold=$here/guest_memfd_hold

skip() {
	echo "1..0 # SKIP $*"
	exit 4
}

[ -x "$hold" ] || {
	echo "${0##*/}: $hold is missing: build the selftests" >&2
	exit 1
}

if grep -qw svm /proc/cpuinfo; then
	vendor=kvm_amd
elif grep -qw vmx /proc/cpuinfo; then
	vendor=kvm_intel
else
	skip "no virtualisation in /proc/cpuinfo"
fi

loaded() {
	grep -q "^$1 " /proc/modules
}

if [ -d /sys/module/kvm ] && ! loaded kvm; then
	skip "KVM is built into the kernel"
fi

# load MODULE: from the directory if there is one, where '_' may be '-'
load() {
	if loaded "$1"; then
		return 0
	fi
	if [ -z "$dir" ]; then
		modprobe "$1"
		return
	fi
	for file in "$dir/$1.ko" "$dir/$(echo "$1" | tr _ -).ko"; do
		if [ -e "$file" ]; then
			insmod "$file"
			return
		fi
	done
	echo "${0##*/}: no $1.ko in $dir" >&2
	return 1
}

load_kvm() {
	if [ -n "$dir" ] && [ -e "$dir/irqbypass.ko" ]; then
		load irqbypass
	fi
	load kvm
	load "$vendor"
}

unload_kvm() {
	for module in "$vendor" kvm; do
		if loaded "$module"; then
			rmmod "$module"
		fi
	done
}

failed=0
number=0
# result STATUS NAME
result() {
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number $2"
	else
		echo "not ok $number $2"
		failed=1
	fi
}

# one_round close|exit [OPTION]...
# close: the program unloads both modules itself, between two system calls.
# exit: the last close is the end of the process, which gives up more than files.
one_round() {
	how=$1
	shift
	load_kvm || return 1
	if [ "$how" = close ]; then
		"$hold" "$@" -u "$vendor" -u kvm || return 1
	else
		"$hold" "$@" && unload_kvm || return 1
	fi
	! loaded kvm
}

# repeat NAME one_round's arguments: stops at the first round that fails
repeat() {
	name=$1
	shift
	round=0
	status=0
	while [ "$status" -eq 0 ] && [ "$round" -lt "$rounds" ]; do
		round=$((round + 1))
		one_round "$@" || status=1
	done
	if [ "$status" -ne 0 ]; then
		echo "# round $round failed"
	fi
	result "$status" "$name"
}

unload_kvm
load_kvm
status=0
"$hold" || status=$?
if [ "$status" -eq 4 ]; then
	skip "KVM has no guest_memfd"
fi
unload_kvm

echo "TAP version 13"
echo "1..6"
result "$status" "file created and closed"

repeat "unload right after the file was closed last" close
repeat "unload right after the VM was closed last" close -v
repeat "unload right after a file of 16 MiB was closed" close -p 4096
repeat "unload right after the end of the process" exit

# Whatever a round left behind has nobody who knows of it any more.
status=0
leaks=/sys/kernel/debug/kmemleak
if [ -w "$leaks" ]; then
	# The first scan only marks what is new.
	echo scan >"$leaks"
	sleep 6
	echo scan >"$leaks"
	if [ -s "$leaks" ] && [ -n "$(cat "$leaks")" ]; then
		sed 's/^/# /' "$leaks"
		status=1
	fi
	result "$status" "no leak"
else
	number=$((number + 1))
	echo "ok $number no leak # SKIP no $leaks"
fi

exit "$failed"
