#!/bin/sh
# Usage: compose.sh [--into DIR [--base REV]]
#
# Compose the series: every row of patches/series becomes a commit on the base,
# and the tree OUT/linux moves to the last of them on its branch "series". Only
# files that differ are written, so that what is built stays built. The commits
# depend on base and repository alone: composing twice gives the same ids.
#
# A row is a patch and the new files its commit carries:
#   NNNN-topic.patch path/of/new/file another/new/file
# The patch is a mail (From, Date, Subject, changelog, ---) with the edits to
# files the base has, if any. It must apply without fuzz. New files stand whole
# in the repository. After # follows a comment.
#
# Options:
#   --into DIR   create the commits in the new bare repository DIR, as its branch
#                "series", and leave OUT/linux alone
#   --base REV   the commit of BASE_DIR to compose on (default base)
#   -h, --help   print this text
#
# Environment: OUT output directory (default out), BASE_DIR repository of the
# base (default OUT/base), REPO what to compose (default this repository).
#
# Exit status: 0 composed; 1 refused, OUT/linux is as before; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

into=
base=base
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--into | --base)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--into) into=$2 ;;
		--base) base=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done

isolate_git
make_tmp
linux=$OUT/linux
[ -e "$BASE_DIR/.git" ] || die "$BASE_DIR: no base tree there; run scripts/fetch.sh (make fetch) first"
base=$(git -C "$BASE_DIR" rev-parse -q --verify "$base^{commit}") ||
	die "--base $base: no such commit in $BASE_DIR"
base_name=$(git -C "$BASE_DIR" log -1 --format=%s "$base")
base_objects=$(git -C "$BASE_DIR" rev-parse --path-format=absolute --git-path objects)
cd "$REPO"
[ -f patches/series ] || die "$REPO/patches/series: no such file"

# Rows against files: what is missing, twice or left over. All of it is named
# before giving up.
series_rows patches/series >"$tmp/rows"
kernel_files >"$tmp/files"
for patch in patches/*.patch; do
	[ ! -e "$patch" ] || printf '%s\n' "${patch#patches/}"
done >"$tmp/patches"
awk -v kernel_dirs="$KERNEL_DIRS" '
	FILENAME ~ /patches$/ { patch_there[$1]; next }
	FILENAME ~ /files$/ { file_there[$0]; next }
	{
		if ($1 !~ /^[0-9][0-9][0-9][0-9]-[A-Za-z0-9._-]+\.patch$/)
			print "patches/series has \"" $1 "\" where NNNN-topic.patch should be"
		else if ($1 in row)
			print "patches/" $1 " is in two rows of patches/series"
		else if (!($1 in patch_there))
			print "patches/" $1 " does not exist but has a row in patches/series"
		row[$1]
		for (i = 2; i <= NF; i++) {
			top = $i
			sub(/\/.*/, "", top)
			if (index(" " kernel_dirs " ", " " top " ") == 0)
				print $i " (with " $1 " in patches/series) is not in any of: " kernel_dirs
			else if ($i in owner)
				print $i " is in patches/series twice, with " owner[$i] " and " $1
			else if (!($i in file_there))
				print $i " does not exist but is listed with " $1 " in patches/series"
			owner[$i] = $1
		}
	}
	END {
		for (patch in patch_there)
			if (!(patch in row))
				print "patches/" patch " is in no row of patches/series"
		for (file in file_there)
			if (!(file in owner))
				print file " is in no row of patches/series"
	}' "$tmp/patches" "$tmp/files" "$tmp/rows" >"$tmp/complaints"
while read -r path; do
	[ -f "$path" ] && [ ! -L "$path" ] || echo "$path is not a plain file"
done <"$tmp/files" >>"$tmp/complaints"
tr '\n' '\0' <"$tmp/files" |
	xargs -0 -r git -C "$BASE_DIR" ls-tree --full-tree --name-only "$base" -- |
	sed 's/$/ is a new file here but the base has one of that name/' >>"$tmp/complaints"
if [ -s "$tmp/complaints" ]; then
	sort "$tmp/complaints" | while read -r line; do say "$line"; done
	exit 1
fi

# The commits are made in a repository of their own, with the base as a second
# object store: a refusal leaves nothing behind.
[ -n "$into" ] || into=$tmp/series.git
git init -q --bare --template= -b series "$into"
into=$(cd "$into" && pwd -P)
printf '%s\n' "$base_objects" >"$into/objects/info/alternates"
export GIT_DIR="$into"

# Mails into changelog, author and edits; new files into "path blob mode".
while read -r patch _; do
	git mailinfo -b "$tmp/$patch.body" "$tmp/$patch.diff" \
		<"patches/$patch" >"$tmp/$patch.info" || die "patches/$patch is not a mail"
	for field in Author Email Subject Date; do
		grep -q "^$field: ." "$tmp/$patch.info" || die "patches/$patch has no $field"
	done
done <"$tmp/rows"
git hash-object -w --no-filters --stdin-paths <"$tmp/files" >"$tmp/hashes"
paste -d ' ' "$tmp/files" "$tmp/hashes" >"$tmp/blobs"

# An index of just the files that some patch edits keeps every step small.
export GIT_INDEX_FILE="$tmp/index"
while read -r patch _; do
	sed -n -e 's/^diff --git a\/\([^ ]*\) b\/\([^ ]*\)$/\1\n\2/p' \
		-e 's/^--- a\/\([^	]*\).*/\1/p' "$tmp/$patch.diff"
done <"$tmp/rows" | LC_ALL=C sort -u | tr '\n' '\0' |
	xargs -0 -r git ls-tree --full-tree -r "$base" -- | git update-index --index-info
edited=$(git write-tree)

# Say why a patch does not apply, from what git apply said.
refuse()
{
	conflicts=$(sed -n -e 's/^error: \(.*\): patch does not apply$/\1/p' \
		-e 's/^error: No such file or directory: \(.*\)/\1/p' "$tmp/log" | sort -u | paste -s -d ' ')
	[ -z "$conflicts" ] ||
		die "patches/$1 does not apply to $base_name without fuzz: conflict in $conflicts"
	path=$(sed -n 's/^error: \(.*\): does not exist in index$/\1/p' "$tmp/log" | head -n 1)
	if grep -q -x -F -e "$path" "$tmp/files" && [ -n "$path" ]; then
		die "patches/$1 edits $path, a new file of the series: edit that file itself"
	elif [ -n "$path" ]; then
		die "patches/$1 does not apply to $base_name: it has no $path"
	fi
	path=$(sed -n 's/^error: \(.*\): already exists in index$/\1/p' "$tmp/log" | head -n 1)
	[ -z "$path" ] || die "patches/$1 creates $path, but the base has one of that name"
	die "patches/$1 does not apply: $(paste -s -d ' ' "$tmp/log")"
}

# Write the commit of a row to the stream of git fast-import.
commit_row()
{
	patch=$1
	shift
	if grep -q -e '^diff --git ' -e '^--- a/' "$tmp/$patch.diff"; then
		git apply --cached --whitespace=nowarn --verbose "$tmp/$patch.diff" 2>"$tmp/log" ||
			refuse "$patch"
		! grep -q '(offset ' "$tmp/log" ||
			say "note: patches/$patch applies with an offset; make export writes the new line numbers"
	fi
	before=$edited
	edited=$(git write-tree)
	git diff-tree -r --no-renames "$before" "$edited" >"$tmp/edits"
	path=$(awk -F '\t' '$1 ~ / A$/ { print $2; exit }' "$tmp/edits")
	[ -z "$path" ] ||
		die "patches/$patch creates $path itself: store it whole in the repository and list it in the row"
	[ -s "$tmp/edits" ] || [ $# -gt 0 ] || die "patches/$patch edits nothing and its row has no file"

	who=$(awk -v info="$tmp/$patch.info" 'BEGIN {
		while ((getline line < info) > 0) {
			key = line
			sub(/: .*/, "", key)
			sub(/^[A-Za-z]*: /, "", line)
			value[key] = line
		}
		print value["Author"] " <" value["Email"] "> " value["Date"]
	}')
	{
		sed -n 's/^Subject: //p' "$tmp/$patch.info"
		echo
		cat "$tmp/$patch.body"
	} | git stripspace >"$tmp/message"
	printf 'commit refs/heads/series\nauthor %s\ncommitter %s\ndata %d\n' \
		"$who" "$who" "$(wc -c <"$tmp/message")"
	cat "$tmp/message"
	[ -z "$base" ] || printf 'from %s\n' "$base"
	base=
	awk -F '\t' '{
		split($1, field, " ")
		print field[5] == "D" ? "D " $2 : "M " field[2] " " field[4] " " $2
	}' "$tmp/edits"
	for path; do
		mode=100644
		[ ! -x "$path" ] || mode=100755
		awk -v path="$path" -v mode="$mode" '$1 == path { print "M", mode, $2, path }' "$tmp/blobs"
	done
}

if [ -s "$tmp/rows" ]; then
	# shellcheck disable=SC2086 # the new files of a row are words
	while read -r patch files; do
		commit_row "$patch" $files
	done <"$tmp/rows" >"$tmp/stream"
	git fast-import --quiet --date-format=rfc2822 <"$tmp/stream"
else
	git update-ref refs/heads/series "$base"
fi
new=$(git rev-parse refs/heads/series)
unset GIT_DIR GIT_INDEX_FILE
[ "$into" = "$tmp/series.git" ] || exit 0

# The tree follows. refs/composed is the last commit known to be in patches/.
dir=$linux
if [ ! -d "$linux/.git" ]; then
	dir=$linux.new
	rm -rf "$dir"
	git init -q --template= -b series "$dir"
fi
cd "$dir"
mkdir -p .git/info
printf '%s\n' "$base_objects" >.git/objects/info/alternates
old=$(git rev-parse -q --verify refs/heads/series || :)
if [ -n "$old" ]; then
	[ "$(git symbolic-ref -q HEAD || :)" = refs/heads/series ] ||
		die "$linux is not on its branch series: finish or abort what goes on there (git status), then git checkout series"
	git update-index -q --refresh >/dev/null || :
	dirty=$(git diff-index --name-only HEAD -- | paste -s -d ' ')
	[ -z "$dirty" ] ||
		die "$linux has uncommitted edits in $dirty: commit them there and run make export, or discard them (git reset --hard)"
	[ "$old" = "$(git rev-parse refs/composed)" ] || [ "$old" = "$new" ] ||
		die "$linux has commits that are not in patches/: run make export to keep them, or git reset --hard refs/composed there to drop them"
fi
git fetch -q --no-write-fetch-head --no-auto-maintenance "$into" refs/heads/series
[ -z "$old" ] || git diff-tree -r --no-renames --name-only --diff-filter=A "$old" "$new" |
	while read -r path; do
		# Ignored by git like all new files there, it would be overwritten.
		[ ! -e "$path" ] || git cat-file blob "$new:$path" | cmp -s - "$path" ||
			die "$linux has an uncommitted $path that is not the one to compose: commit it there (git add -f), or remove it"
	done
git -c checkout.workers=0 read-tree -m -u ${old:+"$old"} "$new"
git update-ref refs/heads/series "$new"
git update-ref refs/composed "$new"
git update-ref refs/heads/base "$(git -C "$BASE_DIR" rev-parse refs/heads/base)"
[ "$dir" = "$linux" ] || mv "$dir" "$linux"

made_for="$(series_base package) $(series_base version)"
[ "$made_for" = "$base_name" ] || say "note: the series was made for $made_for and is now on $base_name"
say "$linux is at $(git -C "$linux" rev-parse --short=12 HEAD), $(wc -l <"$tmp/rows") commits on $base_name"
