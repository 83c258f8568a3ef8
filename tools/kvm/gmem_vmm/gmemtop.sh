#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Show the guest_memfds and the VMs of this machine, from /proc/PID/fdinfo and debugfs.

set -eu

usage() {
	cat <<USAGE
Usage: ${0##*/} [-n COUNT] [-d SECONDS]
Show the guest_memfds of this machine and the VMs that have them, again and again.

  -n COUNT    so many times, then end; default: until interrupted
  -d SECONDS  between two times, default 2
  -h, --help  print this

A line for each file, by the number of its inode; a file that several processes have
open is that of the first:
  PID      process that has it open
  FD       descriptor there
  INODE    as in the trace events kvm_gmem:*
  SIZE     of the file, MEMORY what is allocated of it
  4K 2M    folios of these sizes
  SLOTS    memslots bound to it
  FLAGS    GUEST_MEMFD_FLAG_*

A line for each VM, if debugfs is there to be read:
  VM       PID-FD, as its directory in /sys/kernel/debug/kvm
  PRIVATE  memory that the attributes say is private, in RANGES pieces
  4K 2M 1G mappings of these sizes that the guest has now, of any memory
  PRIV-4K  those of 4K that are of private memory, PRIV-2M of 2M
  TO-PRIV  changes of attributes to private, TO-SHARED to shared
  EXITS    memory faults that went to user space

Root sees all, others what is theirs. Exit status: 0; 2 wrong arguments.
USAGE
}

fail() {
	echo "${0##*/}: $*" >&2
	exit 2
}

count=0
delay=2
case ${1-} in
-h | --help)
	usage
	exit 0
	;;
esac
while getopts n:d: opt; do
	case $opt in
	n) count=$OPTARG ;;
	d) delay=$OPTARG ;;
	*)
		usage >&2
		exit 2
		;;
	esac
done
shift $((OPTIND - 1))
[ $# -eq 0 ] || fail "$1: no such argument"
for number in "$count" "$delay"; do
	case $number in
	'' | *[!0-9]*) fail "'$number' is not a number" ;;
	esac
done

debug=/sys/kernel/debug/kvm

# Bytes as MiB, or as KiB if that is less than ten.
size() {
	if [ "$1" -lt $((10 << 20)) ]; then
		echo "$(($1 >> 10))K"
	else
		echo "$(($1 >> 20))M"
	fi
}

# A process may end, or close a file, at any time: what is gone is left out.
files() {
	printf '%8s %4s %10s %9s %9s %8s %6s %5s  %s\n' \
		PID FD INODE SIZE MEMORY 4K 2M SLOTS FLAGS
	seen=' '
	# shellcheck disable=SC2013 # names without blanks
	for info in $(grep -l '^gmem-size:' /proc/[0-9]*/fdinfo/* 2>/dev/null); do
		# shellcheck disable=SC2046 # numbers
		set -- $(awk '
			$1 == "ino:" { ino = $2 }
			$1 == "gmem-size:" { size = $2 }
			$1 == "gmem-flags:" { flags = $2 }
			$1 == "gmem-allocated:" { memory = $2 }
			$1 == "gmem-folios-4k:" { small = $2 }
			$1 == "gmem-folios-2m:" { large = $2 }
			$1 == "gmem-binding:" { slots++ }
			END { print ino, size, memory, small, large, slots + 0, flags }
		' "$info" 2>/dev/null)
		[ $# -eq 7 ] || continue
		case $seen in
		*" $1 "*) continue ;;
		esac
		seen="$seen$1 "
		pid=${info#/proc/}
		printf '%8s %4s %10s %9s %9s %8s %6s %5s  %s\n' "${pid%%/*}" \
			"${info##*/}" "$1" "$(size "$2")" "$(size "$3")" "$4" "$5" "$6" "$7"
	done
}

value() {
	cat "$1/$2" 2>/dev/null || echo -
}

vms() {
	[ -r "$debug" ] || return 0
	printf '\n%12s %9s %6s %7s %5s %3s %7s %7s %8s %9s %6s\n' \
		VM PRIVATE RANGES 4K 2M 1G PRIV-4K PRIV-2M TO-PRIV TO-SHARED EXITS
	for vm in "$debug"/*-*; do
		[ -r "$vm/memory_attributes" ] || continue
		bytes=0
		ranges=0
		while IFS='- ' read -r start last what; do
			[ "$what" = private ] || continue
			bytes=$((bytes + last - start + 1))
			ranges=$((ranges + 1))
		done <"$vm/memory_attributes"
		printf '%12s %9s %6s %7s %5s %3s %7s %7s %8s %9s %6s\n' "${vm##*/}" \
			"$(size "$bytes")" "$ranges" "$(value "$vm" pages_4k)" \
			"$(value "$vm" pages_2m)" "$(value "$vm" pages_1g)" \
			"$(value "$vm" private_pages_4k)" "$(value "$vm" private_pages_2m)" \
			"$(value "$vm" gmem_to_private)" "$(value "$vm" gmem_to_shared)" \
			"$(value "$vm" memory_fault_exits)"
	done
}

# On a terminal each view takes the place of the one before.
clear=
[ ! -t 1 ] || clear='\033[H\033[J'
shown=0
while :; do
	view=$(files; vms)
	# shellcheck disable=SC2059 # the sequence is a format
	printf "$clear"
	echo "$view"
	shown=$((shown + 1))
	[ "$shown" -ne "$count" ] || exit 0
	sleep "$delay"
done
