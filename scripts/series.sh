#!/bin/sh
# Usage: series.sh [--tree DIR] [--base REV] [--output DIR] [--verify]
#
# Export the composed series as complete patches, 0001-....patch and so on, with
# a cover letter, 0000-cover-letter.patch, made of patches/cover-letter (first
# line subject, then text), a list of the patches and a diffstat; and a file "series",
# which makes DIR a directory for quilt. In a clean tree of the base all of them apply
# with either of
#	git am --empty=drop DIR/*.patch
#	QUILT_PATCHES=DIR quilt push -a		(DIR has to be absolute)
#
# Options:
#   --tree DIR    kernel tree (default OUT/linux); its HEAD is what is exported
#   --base REV    the commit in it that the series starts from (default base)
#   --output DIR  where to write (default OUT/series)
#   --verify      apply the result to a clean tree of the base with git am, and to
#                 another with quilt, print the id of the resulting git tree, and fail
#                 if it is not the one that was exported
#   -h, --help    print this text
#
# Environment: OUT output directory (default out).
#
# Exit status: 0 written, and verified if asked for; 1 failed; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$OUT/linux
base=base
output=$OUT/series
verify=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--verify) verify=y ;;
	--tree | --base | --output)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--tree) tree=$2 ;;
		--base) base=$2 ;;
		--output) output=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done

isolate_git
make_tmp
letter=$REPO/patches/cover-letter
[ -s "$letter" ] || die "patches/cover-letter does not exist or is empty"
[ -e "$tree/.git" ] || die "$tree: no git tree there; run make tree first"
base=$(git -C "$tree" rev-parse -q --verify "$base^{commit}") || die "--base $base: no such commit in $tree"
count=$(git -C "$tree" rev-list --count "$base..HEAD")
[ "$count" -gt 0 ] || die "$tree has no commits on its base"

# Numbers as wide as git format-patch makes them.
zero=$(printf '%s' "$count" | tr 0-9 0)
git -C "$tree" format-patch -q --numbered --zero-commit --no-signature --full-index --no-renames \
	--binary -o "$tmp/series" "$base..HEAD"
{
	echo 'From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001'
	git -C "$tree" log -1 --format='From: %an <%ae>%nDate: %aD' HEAD
	sed -e "1s|^|Subject: [PATCH $zero/$count] |" -e '1G' "$letter"
	echo
	git -C "$tree" shortlog "$base..HEAD"
	git -C "$tree" diff --stat=78 --summary --no-renames "$base" HEAD
} | cat -s >"$tmp/series/0000-cover-letter.patch"

mkdir -p "$output"
rm -f "$output"/[0-9][0-9][0-9][0-9]-*.patch
cp "$tmp/series"/*.patch "$output"
(cd "$tmp/series" && ls) | sed 1d >"$output/series"
say "$output: $count patches and a cover letter"
[ -n "$verify" ] || exit 0

# A clone that borrows the objects, in the output directory for want of space
# in /tmp: it is as large as a kernel tree.
output=$(cd "$output" && pwd -P)
clone=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf "$tmp" "$clone"' EXIT
git init -q --template= "$clone"
git -C "$tree" rev-parse --path-format=absolute --git-path objects >"$clone/.git/objects/info/alternates"
git -C "$clone" -c checkout.workers=0 checkout -q "$base"
GIT_COMMITTER_NAME=verify GIT_COMMITTER_EMAIL=verify@localhost \
	git -C "$clone" -c gc.auto=0 am -q --empty=drop "$output"/*.patch >"$tmp/am.log" 2>&1 || {
	cat "$tmp/am.log" >&2
	die "the patches in $output do not apply to their own base"
}
want=$(git -C "$tree" rev-parse 'HEAD^{tree}')
have=$(git -C "$clone" rev-parse 'HEAD^{tree}')
[ "$have" = "$want" ] || die "git am of $output gives tree $have, but $tree has $want"
[ "$(git -C "$clone" rev-list --count "$base..HEAD")" = "$count" ] ||
	die "git am of $output does not give $count commits"

git -C "$clone" checkout -q "$base"
(
	cd "$clone"
	export QUILT_PATCHES="$output" QUILT_PC="$tmp/pc"
	quilt --quiltrc - push -a >"$tmp/quilt.log" 2>&1
) || {
	tail -n 20 "$tmp/quilt.log" >&2
	die "quilt cannot apply the patches in $output"
}
git -C "$clone" add -f -A
have=$(git -C "$clone" write-tree)
[ "$have" = "$want" ] || die "quilt push -a of $output gives tree $have, but $tree has $want"
echo "$have"
