#!/bin/sh
# Install the Debian packages into a Debian system, boot it and run the selftests.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: deb-test.sh [OPTION]... [NAME...]

Makes a root file system of Debian 12's own packages, installs those of
scripts/deb.sh into it with dpkg, boots it in QEMU, from a disk and with the initrd
that the installation has made, and has the system run the tests of the package
gmem-tools once it is up: in a machine with 6 GiB, and the one that takes all memory in
another with 2 GiB. Prints a line per test, and at the end
"tests: N passed, N failed, N skipped".

NAMEs limit the run to these tests, see gmem-selftests --list. Default: all that the
series adds.

Debian's packages come from where this machine's apt has them from.

Options:
  --packages DIR   the packages (default OUT/deb)
  --mirror URL     where Debian's packages are
  --each SECONDS   time for one test (default 600)
  --append TEXT    more kernel command line
  -h, --help       print this text

Environment: OUT output directory, V=1 shows the console while it runs, TCG_THREAD see
scripts/boot.sh.

Exit status: 0 all passed or skipped; 1 something failed: the installation, the boot, a
unit of the system, a test, or the kernel complained; 2 wrong usage.
EOF
}

suite=bookworm
packages=$OUT/deb
mirror=
each=600
append=
tests=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--packages | --mirror | --each | --append)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--packages) packages=$2 ;;
		--mirror) mirror=$2 ;;
		--each) each=$2 ;;
		--append) append=$2 ;;
		esac
		shift
		;;
	-*) fail_usage "$1: unknown option" ;;
	*) tests="$tests $1" ;;
	esac
	shift
done
case $each in
'' | *[!0-9]* | 0) fail_usage "--each '$each': not a positive number" ;;
esac
for program in mmdebstrap fakeroot mke2fs; do
	command -v $program >/dev/null || die "$program not found; run scripts/setup.sh --deb"
done

# Set file to the only package of that name there is.
package()
{
	file=
	for found in "$packages/$1"*.deb; do
		[ -f "$found" ] || die "$packages: no $1; run scripts/deb.sh (make deb) first"
		[ -z "$file" ] || die "$packages: more than one $1"
		file=$found
	done
}

make_tmp
mkdir "$tmp/packages"
set --
for name in linux-image- linux-headers- gmem-tools_; do
	package $name
	cp -- "$file" "$tmp/packages"
	set -- "$@" "--customize-hook=upload $tmp/packages/${file##*/} /root/${file##*/}"
done
package linux-image-
release=$(dpkg-deb -f "$file" Package)
release=${release#linux-image-}
version=$(dpkg-deb -f "$file" Version)

disk=$OUT/deb-test
log=$OUT/log/deb-test.log
mkdir -p "$disk" "$OUT/log"
if [ -n "$mirror" ]; then
	echo "deb $mirror $suite main" >"$tmp/sources"
else
	# shellcheck disable=SC2016 # fields of apt-get
	apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
		'Created-By: Packages' 'Origin: Debian' |
		grep -E " $suite(-[a-z]+)? " >"$tmp/sources" ||
		die "apt has no source of Debian's $suite here; give a --mirror"
fi

say "making a root file system and installing $release $version"
# shellcheck disable=SC2016 # for the shell of the hook
mmdebstrap --variant=minbase --include=systemd-sysv,udev,initramfs-tools,kmod,zstd \
	--aptopt='Acquire::Languages "none"' "$@" \
	--customize-hook='chroot "$1" sh -c "dpkg -i /root/*.deb && rm /root/*.deb"' \
	"$suite" "$tmp/root.tar" - <"$tmp/sources" >"${log%.log}-install.log" 2>&1 || {
	tail -n 20 "${log%.log}-install.log" >&2
	die "the installation failed, see ${log%.log}-install.log"
}

mkdir "$tmp/job"
cp "$REPO/scripts/deb/job" "$REPO/scripts/lost.sh" "$tmp/job"
# shellcheck disable=SC2154 # in lib.sh
printf '%s\n' "$splats" >"$tmp/job/splats"
echo "$each" >"$tmp/job/each"
echo "$tests" >"$tmp/job/tests"
cat >"$tmp/job/gmem-job.service" <<EOF
[Unit]
Description=Selftests of guest_memfd
After=multi-user.target

[Service]
ExecStart=/opt/gmem-job/job

[Install]
WantedBy=multi-user.target
EOF

# What runs under fakeroot, which knows the owners of the files for as long as it lives.
# The console is the kernel's alone, or its lines could begin in the middle of others.
cat >"$tmp/make-disk" <<'EOF'
set -eu
root=$1/root
units=$root/etc/systemd/system
mkdir "$root"
tar -x -p -f "$1/root.tar" -C "$root"
cp -R "$1/job" "$root/opt/gmem-job"
mkdir -p "$units/multi-user.target.wants"
mv "$root/opt/gmem-job/gmem-job.service" "$units"
ln -s ../gmem-job.service "$units/multi-user.target.wants/gmem-job.service"
ln -s /dev/null "$units/serial-getty@ttyS0.service"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
echo gmem >"$root/etc/hostname"
cp "$root/boot/vmlinuz-$3" "$2/vmlinuz"
cp "$root/boot/initrd.img-$3" "$2/initrd"
size=$(du -m -s "$root" | cut -f 1)
rm -f "$2/disk"
mke2fs -q -t ext4 -d "$root" "$2/disk" "$((size + size / 4 + 256))M"
EOF
fakeroot sh "$tmp/make-disk" "$tmp" "$disk" "$release"
rm -rf "$tmp/root" "$tmp/root.tar"

# machine ROW MEMORY: boot one for the tests of that row, see scripts/deb/job
# A processor that is emulated on a busy machine may stand still for as long as the
# watchdog waits otherwise.
status=0
machine()
{
	row_log=${log%.log}-$1.log
	"$REPO/scripts/boot.sh" --quiet --disk "$disk/disk" --kernel "$disk/vmlinuz" --initrd "$disk/initrd" \
		--mem "$2" --each "$each" --timeout "$((each * 3 + 300))" --log "$row_log" \
		--append "systemd.show_status=0 watchdog_thresh=60 gmem_row=$1 $append" || status=$?
	tr -d '\r' <"${row_log%.log}.out" >>"$tmp/output"
	cat "${row_log%.log}.result" >>"$tmp/result"
}

say "booting Debian with $release and running the tests"
: >"$tmp/output"
: >"$tmp/result"
# A piece of 1 GiB on each of two nodes takes 6G. To take all memory and leave it in
# small pieces takes the longer the more there is.
case " $tests " in
*\ guest_memfd_large_memcg_test\ * | '  ') machine small 2G ;;
esac
[ "${tests# }" = guest_memfd_large_memcg_test ] || machine large 6G

sed -n -e '/^\(kernel\|system\|failed unit\|gmem_vmm\|not run\): /p' -e '/^again /p' -e '/^ok [^0-9]/p' \
	-e '/^not ok [^0-9]/p' -e '/^skip /p' -e '/^    /p' "$tmp/output"
# shellcheck disable=SC2046 # numbers
set -- $(awk '
	/^tests: / { ok += $2; bad += $4; skip += $6 }
	END { print ok + 0, bad + 0, skip + 0 }' "$tmp/output")
failed=$2

# wrong TEXT: what no test tells
wrong()
{
	failed=$((failed + 1))
	echo "not ok $1"
}

grep -q -F -e "kernel: $release #${version##*-} " "$tmp/output" || wrong "boot: not $release $version"
grep -q '^system: Debian .*, running$' "$tmp/output" || wrong "boot: a unit of the system failed"
if grep -q ' splat$' "$tmp/result"; then
	wrong "kernel: it complained, see ${log%.log}-*.log"
fi
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
	wrong "run: ended with status $status, see ${log%.log}-*.log"
fi
# If all are skipped this is not the kernel that it is said to be.
[ "$1" -gt 0 ] || wrong "run: no test passed"
echo "tests: $1 passed, $failed failed, $3 skipped"
[ "$failed" -eq 0 ]
