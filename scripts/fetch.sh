#!/bin/sh
# Usage: fetch.sh [--archive FILE]
#
# Import the kernel source of the Debian package linux-source-6.1 into a git
# repository, OUT/base, as one commit on the branch "base". Done once; the commit
# id depends on nothing but the source.
#
# Options:
#   --archive FILE  import this tar archive of Linux 6.1.x instead of the package's
#   -h, --help      print this text
#
# Environment: OUT output directory (default out), BASE_DIR repository of the
# base (default OUT/base).
#
# Exit status: 0 imported now or before; 1 failed; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

archive=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--archive)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		archive=$2
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done

isolate_git
package=$(series_base package)
version=$(series_base version)

# What the archive holds is named by the package; a foreign archive by its own
# makefile, once unpacked.
found=
if [ -z "$archive" ]; then
	archive=/usr/src/$package.tar.xz
	# shellcheck disable=SC2016 # a format of dpkg-query
	found=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || :)
fi

if [ ! -e "$BASE_DIR/.git" ]; then
	[ -f "$archive" ] || die "$archive does not exist; run scripts/setup.sh (make setup) first"
	mkdir -p "$(dirname "$BASE_DIR")"
	new=$(mktemp -d "$BASE_DIR.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	chmod 755 "$new"
	say "unpacking $archive"
	tar -x -f "$archive" -C "$new" --strip-components 1 --no-same-owner
	[ -f "$new/Makefile" ] || die "$archive does not hold a kernel source"
	[ -n "$found" ] || found=$(awk '
		$1 == "VERSION" || $1 == "PATCHLEVEL" || $1 == "SUBLEVEL" { printf "%s%s", dot, $3; dot = "." }
		' "$new/Makefile")
	say "importing Linux $found"
	(
		cd "$new"
		git init -q --template= -b base
		mkdir -p .git/info
		# With this threshold the files go to one pack, not to a file each.
		git -c core.bigFileThreshold=1 -c core.compression=1 add -f -A .
		GIT_AUTHOR_NAME=base GIT_AUTHOR_EMAIL=base@localhost GIT_AUTHOR_DATE='@0 +0000' \
			GIT_COMMITTER_NAME=base GIT_COMMITTER_EMAIL=base@localhost GIT_COMMITTER_DATE='@0 +0000' \
			git commit -q -m "$package $found"
	)
	mv "$new" "$BASE_DIR"
	trap - EXIT
fi

imported=$(git -C "$BASE_DIR" log -1 --format=%s base)
[ "$imported" = "$package $version" ] ||
	say "note: the series was made for $package $version, $BASE_DIR is $imported"
[ -z "$found" ] || [ "$imported" = "$package $found" ] ||
	say "note: $package $found is installed but $BASE_DIR is $imported; make distclean, then make fetch imports it"
