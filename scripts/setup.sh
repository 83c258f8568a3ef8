#!/bin/sh
# Usage: setup.sh [--bench] [--deb] [--list]
#
# Install the Debian packages that building, booting and checking need. Does
# nothing, and needs no network, when they are all there.
#
# Options:
#   --bench      with what scripts/bench.sh needs on top: the source of the kernel that
#                it compares with, and what draws the chart
#   --deb        with what scripts/deb.sh and scripts/deb-test.sh need on top: Debian's own
#                configuration, what makes packages, and what makes a system of them
#   --list       print the packages and stop
#   -h, --help   print this text
#
# Exit status: 0 all are installed; 1 something is missing; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# One line per purpose: kernel source and what keeps it; kernel build; faster
# rebuilds; emulator and its guest; emulator of Intel processors, its firmware and what
# it boots from; documents; checks.
packages="
	linux-source-6.1 git quilt xz-utils
	build-essential gcc-aarch64-linux-gnu flex bison bc libelf-dev libssl-dev kmod
	ccache
	qemu-system-x86 busybox-static cpio
	bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso
	python3-sphinx python3-sphinx-rtd-theme
	sparse shellcheck
"

list=
while [ $# -gt 0 ]; do
	case $1 in
	--bench) packages="$packages linux-source-6.12 gnuplot-nox" ;;
	--deb) packages="$packages linux-config-6.1 rsync fakeroot mmdebstrap uidmap e2fsprogs" ;;
	--list) list=1 ;;
	-h | --help) usage; exit 0 ;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done
if [ -n "$list" ]; then
	# shellcheck disable=SC2086 # a list of words
	printf '%s\n' $packages
	exit 0
fi

command -v dpkg-query >/dev/null || die "no dpkg-query: this is not a Debian system; setup.sh --list prints what is needed"
missing=
for package in $packages; do
	case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || :) in
	installed) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	die "missing packages; as root run: apt-get update && apt-get install$missing"
fi
[ -t 0 ] || export DEBIAN_FRONTEND=noninteractive
say "installing$missing"
apt-get update -q
# shellcheck disable=SC2086 # a list of words
apt-get install -q -y --no-install-recommends $missing
