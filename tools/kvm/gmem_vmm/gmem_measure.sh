#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Usage: gmem_measure.sh OPTION...
#
# Print the digest that gmem_vmm --measure prints for a guest, in the same form,
# without starting it: from the same --kernel, --initrd, --append, --mem and --cpus.
# Needs no KVM, no special kernel and no privilege.
#
# Environment: GMEM_VMM the program (default: gmem_vmm beside this script).
#
# Exit status: 0 the digest is printed; otherwise that of gmem_vmm --dump-image,
# nothing is printed.
set -eu

case ${1-} in
-h | --help)
	sed -n '3,/^[^#]/s/^#\( \|$\)//p' "$0"
	exit 0
	;;
esac

# The status of the first command of a pipe would be lost: it comes as a line too.
lines=$({ {
	status=0
	"${GMEM_VMM:-$(dirname "$0")/gmem_vmm}" --dump-image "$@" || status=$?
	echo "status $status" >&3
} | sha256sum; } 3>&1)
status=$(printf '%s\n' "$lines" | sed -n 's/^status //p')
[ "${status:=1}" -eq 0 ] || exit "$status"
printf '%s\n' "$lines" | sed -n 's/^\([0-9a-f]\{64\}\) .*/sha256:\1/p'
