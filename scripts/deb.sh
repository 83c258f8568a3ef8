#!/bin/sh
# Build Debian packages of the kernel and of the programs.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: deb.sh [OPTION]...

Builds Debian packages for amd64 of the composed series:
  linux-image-RELEASE    the kernel and its modules
  linux-headers-RELEASE  what modules from elsewhere are built with
  linux-libc-dev         the headers for programs, in place of Debian's package of
                         this name; no other package needs it
  gmem-tools             gmem_vmm, gmem_measure, gmemtop, and gmem-selftests, which
                         runs the KVM selftests; no matter which kernel

RELEASE, which is what uname -r prints, ends with CONFIG_LOCALVERSION, so the kernel can
be installed next to Debian's. The version of all packages is that of the base, then
"+gmem", the date of the newest commit of the series, and the commit it ends with:
6.1.192-2+gmem20261122.0123456789ab. Debian's next release is newer than that.

Nothing is signed: Secure Boot refuses this kernel.

Options:
  --config NAME  configuration of the kernel (default deb: what Debian's kernel for
                 cloud machines has, and the series)
  --output DIR   where the packages go (default OUT/NAME); those that are there go
  -h, --help     print this text

Environment: OUT output directory, J parallel jobs, V=1 shows the build, CC the
compiler.

Exit status: 0 built; 1 failed; 2 wrong usage.
EOF
}

config=deb
output=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--config | --output)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--config) config=$2 ;;
		--output) output=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done
[ "${BASE:-series}" = series ] || fail_usage "BASE=$BASE: packages are of the series"
# Neither Debian's kernel nor another one of this version may be taken for it.
grep -q -s '^CONFIG_LOCALVERSION="-gmem' "$REPO/configs/$config.config" ||
	fail_usage "--config $config: no configs/$config.config with a CONFIG_LOCALVERSION that begins with -gmem"
: "${output:=$OUT/$config}"
build=$OUT/build/$config
linux=$OUT/linux
[ -e "$linux/.git" ] || die "$linux: no kernel source there; run scripts/setup.sh and scripts/compose.sh first"
for program in dpkg-buildpackage rsync fakeroot; do
	command -v $program >/dev/null || die "$program not found; run scripts/setup.sh --deb"
done

isolate_git
make_tmp
umask 022
[ -z "$(git -C "$linux" status --porcelain --untracked-files=no)" ] ||
	die "$linux has edits that are not committed: the version would name something else"

# The newest, as the last of the series may be an old one.
commits=$(series_rows "$REPO/patches/series" | wc -l)
seconds=$(git -C "$linux" log --format=%ct -n "$commits" | sort -n | tail -n 1)
commit=$(git -C "$linux" rev-parse --short=12 HEAD)
version=$(series_base version)+gmem$(date -u -d "@$seconds" +%Y%m%d).$commit
maintainer=$(sed -n 's/^M:[[:space:]]*//p' "$REPO/MAINTAINERS" | head -n 1)
# Nothing about who builds, where and when.
SOURCE_DATE_EPOCH=$seconds
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$seconds")
export SOURCE_DATE_EPOCH KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER=gmem KBUILD_BUILD_HOST=debian
export KDEB_SOURCENAME=linux-gmem KDEB_CHANGELOG_DIST=bookworm
export KDEB_PKGVERSION="$version" DEBEMAIL="$maintainer"
# Set but empty: no "+" at the end of the release.
export LOCALVERSION=

# Of a build that was broken off, or of another version.
rm -f "$OUT"/build/*.deb "$OUT"/build/linux-gmem_*
say "building the kernel, configs/$config.config, version $version"
"$REPO/scripts/kernel.sh" --config "$config" --target bindeb-pkg
mkdir -p "$output"
rm -f "$output"/*.deb
mv "$OUT"/build/*.deb "$output"
rm -f "$OUT"/build/linux-gmem_*

say "building gmem-tools"
"$REPO/scripts/selftests.sh"
selftests=$OUT/selftests/series
log=$OUT/log/deb-tools.log
(
	# A make around this script must not hand its job server or variables down.
	unset MAKEFLAGS MFLAGS MAKELEVEL
	make -C "$REPO/tools/kvm/gmem_vmm" OUTPUT="$tmp/vmm/" >"$log" 2>&1
) || die "building tools/kvm/gmem_vmm failed, see $log"

root=$tmp/root
lib=$root/usr/lib/gmem-selftests
doc=$root/usr/share/doc/gmem-tools
overrides=$root/usr/share/lintian/overrides
man=$root/usr/share/man
mkdir -p "$root/DEBIAN" "$root/usr/bin" "$root/usr/sbin" "$lib" "$doc" "$overrides" \
	"$man/man1" "$man/man8"

program()
{
	# Scripts have nothing to strip.
	strip -s -R .comment -R .note -o "$2" "$1" 2>/dev/null || cp -- "$1" "$2"
	chmod 755 "$2"
}

# manual NAME SECTION PURPOSE: a manual page, from what the program says of itself on
# standard input
manual()
{
	{
		printf '.TH %s %s "" "%s"\n' "$1" "$2" "gmem-tools $version"
		printf '.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n' "$1" "$3"
		sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\&&/"
		echo .fi
	} | gzip -n -9 >"$man/man$2/$1.$2.gz"
}

program "$tmp/vmm/gmem_vmm" "$root/usr/bin/gmem_vmm"
program "$REPO/tools/kvm/gmem_vmm/gmem_measure.sh" "$root/usr/bin/gmem_measure"
sed -i 's/gmem_measure\.sh/gmem_measure/' "$root/usr/bin/gmem_measure"
program "$REPO/tools/kvm/gmem_vmm/gmemtop.sh" "$root/usr/bin/gmemtop"
program "$REPO/scripts/deb/gmem-selftests" "$root/usr/sbin/gmem-selftests"
"$root/usr/bin/gmem_vmm" --help | manual gmem_vmm 1 "example VMM for guest_memfd"
"$root/usr/bin/gmem_measure" --help | manual gmem_measure 1 "digest of a measured guest"
"$root/usr/bin/gmemtop" --help | manual gmemtop 1 "guest_memfds and their VMs, live"
"$root/usr/sbin/gmem-selftests" --help | manual gmem-selftests 8 "run the selftests of KVM"
# All in one directory; those that the base has, and those of the series, in a list each.
sort "$selftests/list" "$selftests/helpers" | while read -r name; do
	[ ! -e "$lib/${name##*/}" ] || die "$name: two tests of this name"
	program "$selftests/kvm/$name" "$lib/${name##*/}"
done
sed -e 's/[[:space:]]*#.*//' -e '/^$/d' -e 's/^[0-9]* //' "$REPO/scripts/base-selftests.txt" >"$tmp/base"
grep -x -F -f "$tmp/base" "$selftests/list" | sed 's,.*/,,' >"$lib/base"
# First the test that wants memory in large pieces, last the one that leaves small ones.
grep -v -x -F -f "$tmp/base" "$selftests/list" | sed 's,.*/,,' |
	awk '/large_memcg/ { print 2, $0; next } { print !/memfd_huge_test/, $0 }' |
	sort -s -n -k 1,1 | cut -d ' ' -f 2 >"$lib/series"

cp "$REPO/scripts/deb/copyright" "$doc/copyright"
cp "$REPO/tools/kvm/gmem_vmm/README" "$doc/README.gmem_vmm"
cp "$REPO"/Documentation/virt/kvm/guest-memfd*.rst "$doc"
gzip -n -9 "$doc"/README.gmem_vmm "$doc"/*.rst
gzip -n -9 >"$doc/changelog.Debian.gz" <<EOF
gmem-tools ($version) bookworm; urgency=medium

  * gmem_vmm and the KVM selftests of the series that ends with commit
    $commit.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$seconds")
EOF
cat >"$overrides/gmem-tools" <<EOF
# They also run in machines that have a kernel and nothing else.
gmem-tools: statically-linked-binary
EOF
cat >"$root/DEBIAN/control" <<EOF
Package: gmem-tools
Version: $version
Architecture: amd64
Maintainer: $maintainer
Installed-Size: $(du -k -s --apparent-size "$root/usr" | cut -f 1)
Depends: kmod
Suggests: linux-image-$(cat "$build/include/config/kernel.release")
Section: kernel
Priority: optional
Description: example VMM and selftests for KVM's guest_memfd
 gmem_vmm boots Linux in virtual machines whose whole memory is a guest_memfd:
 private, shared with the VMM, or converted in place. gmem_measure computes the
 digest that it prints for a measured guest. gmemtop shows the guest_memfds of a
 machine.
 .
 gmem-selftests runs the selftests of KVM, those for guest_memfd by default.
 They are for machines that are there for tests.
EOF
(cd "$root" && find usr -type f -exec md5sum {} + | LC_ALL=C sort -k 2) >"$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$root" "$output" >>"$log"

(cd "$output" && ls -- *.deb)
