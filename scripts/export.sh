#!/bin/sh
# Usage: export.sh [--tree DIR] [--base REV] [--force]
#
# The inverse of compose.sh: write the commits of a kernel tree back to this
# repository, new files whole at their path, edits of existing files to patches/,
# and the rows of patches/series. Files and patches that went away are deleted;
# what did not change is not written. The result is composed again for a check
# before anything is written.
#
# The .gitignore of Debian's source ignores everything: to commit a new file in the
# tree, use git add -f.
#
# Options:
#   --tree DIR   kernel tree (default OUT/linux); its HEAD is what is exported
#   --base REV   the commit in it that the series starts from (default base)
#   --force      even if that loses what only this repository has
#   -h, --help   print this text
#
# Environment: OUT output directory (default out), REPO where to write (default
# this repository).
#
# Exit status: 0 exported; 1 refused, nothing was written; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tree=$OUT/linux
base=base
force=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--force) force=y ;;
	--tree | --base)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--tree) tree=$2 ;;
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
[ -e "$tree/.git" ] || die "$tree: no git tree there; run make tree first"
tree=$(cd "$tree" && pwd -P)
here=$(cd "$(dirname "$0")" && pwd -P)
cd "$tree"
base=$(git rev-parse -q --verify "$base^{commit}") || die "--base $base: no such commit in $tree"
head=$(git rev-parse HEAD)
git merge-base --is-ancestor "$base" "$head" || die "HEAD of $tree is not based on $base"
merge=$(git rev-list --merges "$base..$head" | tail -n 1)
[ -z "$merge" ] || die "$merge in $tree is a merge: make the series linear with git rebase"
git update-index -q --refresh >/dev/null || :
dirty=$(git diff-index --name-only HEAD -- | paste -s -d ' ')
[ -z "$dirty" ] || say "note: not committed in $tree, so not exported: $dirty"
sed '/^\/\*$/d' .gitignore >"$tmp/ignore"
# shellcheck disable=SC2086 # a list of directories
new=$(git ls-files -o -X "$tmp/ignore" -- $KERNEL_DIRS | paste -s -d ' ')
[ -z "$new" ] || say "note: not committed in $tree (new files need git add -f), so not exported: $new"

# An edit made in the repository since it was composed would be undone: only
# "make tree" brings such an edit to the kernel tree.
composed=$(git rev-parse -q --verify "refs/composed^{commit}" || :)
if [ -z "$force" ] && [ -n "$composed" ]; then
	(BASE_DIR=$tree "$here/compose.sh" --into "$tmp/repo.git" --base "$base") ||
		die "the repository must compose before the export overwrites it: mend that, or give up what it has with --force"
	export GIT_ALTERNATE_OBJECT_DIRECTORIES="$tmp/repo.git/objects"
	repo=$(git --git-dir="$tmp/repo.git" rev-parse series)
	git diff-tree -r --no-renames --name-only "$composed" "$repo" | sort >"$tmp/edited-here"
	git diff-tree -r --no-renames --name-only "$repo" "$head" | sort >"$tmp/would-change"
	unset GIT_ALTERNATE_OBJECT_DIRECTORIES
	lost=$(comm -12 "$tmp/edited-here" "$tmp/would-change" | paste -s -d ' ')
	[ -z "$lost" ] ||
		die "the repository has edits of its own in $lost since make tree: make them in $tree as well, or give them up with --force"
fi

# Everything is prepared in a copy of what the composer reads.
stage=$tmp/stage
mkdir -p "$stage/patches" "$tmp/old"
cp "$REPO/patches/base" "$stage/patches/"
touch "$tmp/old/subjects" "$tmp/old/series"
[ ! -f "$REPO/patches/series" ] || cp "$REPO/patches/series" "$tmp/old/series"
series_rows "$tmp/old/series" | while read -r patch _; do
	[ -f "$REPO/patches/$patch" ] || continue
	git mailinfo -b /dev/null /dev/null <"$REPO/patches/$patch" |
		sed -n "s/^Subject: /$patch /p"
done >"$tmp/old/subjects"

# Print the name of the patch that had this subject, or nothing.
old_patch()
{
	subject=$1 awk '{
		patch = $1
		sub(/^[^ ]* /, "")
		if ($0 == ENVIRON["subject"]) {
			print patch
			exit
		}
	}' "$tmp/old/subjects"
}

# Print the comment and empty lines that stand above the row of a patch; those
# at the end of the file for "".
comments()
{
	patch=$1 awk '
		/^[[:space:]]*(#|$)/ { block = block $0 "\n"; next }
		$1 == ENVIRON["patch"] { found = block }
		{ block = "" }
		END { printf "%s", ENVIRON["patch"] == "" ? block : found }' "$tmp/old/series"
}

git ls-tree -r --name-only "$base" >"$tmp/base-files"
: >"$tmp/created"

# Check one path that a commit touches: the base's files may be edited, new ones
# belong to the commit that creates them.
check_path()
{
	if [ "$2" != A ]; then
		first=$(awk -v path="$3" '$2 == path { print $1 }' "$tmp/created")
		[ -z "$first" ] ||
			die "$3 is created by $(git log -1 --format='%h ("%s")' "$first") and changed by $(git log -1 --format='%h ("%s")' "$1"): squash the edit, git commit --fixup and git rebase --autosquash"
		return
	fi
	! grep -q -x -F -e "$3" "$tmp/base-files" ||
		die "$(git log -1 --format='%h ("%s")' "$1") creates $3, but the base has one of that name"
	case " $KERNEL_DIRS " in
	*" ${3%%/*} "*) ;;
	*) die "$(git log -1 --format='%h ("%s")' "$1") creates $3, which is not in any of: $KERNEL_DIRS" ;;
	esac
	echo "$1 $3" >>"$tmp/created"
}

number=0
for commit in $(git rev-list --reverse "$base..$head"); do
	number=$((number + 1))
	subject=$(git log -1 --format=%s "$commit")
	case $subject in
	fixup!* | squash!* | amend!*)
		die "$commit is a \"$subject\": run git rebase -i --autosquash base in $tree first" ;;
	esac
	git diff-tree -r --no-renames --no-commit-id "$commit" >"$tmp/raw"
	files=
	edited=
	while IFS='	' read -r info path; do
		check_path "$commit" "${info##* }" "$path"
		if [ "${info##* }" != A ]; then
			edited=y
			continue
		fi
		mkdir -p "$stage/$(dirname "$path")"
		git cat-file blob "$commit:$path" >"$stage/$path"
		case $info in
		*' 100644 '*' '*) ;;
		*' 100755 '*' '*) chmod +x "$stage/$path" ;;
		*) die "$(git log -1 --format='%h ("%s")' "$commit") creates $path, which is not a plain file" ;;
		esac
		files="$files $path"
	done <"$tmp/raw"

	patch=$(old_patch "$subject")
	comments "${patch:-none}" >>"$stage/patches/series"
	if [ -n "$patch" ]; then
		topic=${patch#????-}
	else
		topic=$(printf '%s' "$subject" | tr '[:upper:]' '[:lower:]' | tr -c -s 'a-z0-9' - | cut -c 1-60)
		topic=${topic#-}
		topic=${topic%-}.patch
	fi
	patch=$(printf '%04d-%s' "$number" "$topic")
	printf '%s%s\n' "$patch" "$files" >>"$stage/patches/series"
	{
		echo 'From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001'
		git log -1 --format='From: %an <%ae>%nDate: %aD%nSubject: [PATCH] %s%n%n%b---' "$commit"
		# Blob ids would change with every edit further up in the series.
		if [ -n "$edited" ]; then
			echo
			git diff-tree -p -U3 --no-renames --no-commit-id --diff-filter=a --diff-algorithm=myers \
				--indent-heuristic --src-prefix=a/ --dst-prefix=b/ "$commit" |
				sed '/^index [0-9a-f]*\.\.[0-9a-f]*\( [0-7]*\)\{0,1\}$/d'
		fi
	} >"$stage/patches/$patch"
done
comments "" >>"$stage/patches/series"

# What was prepared must lead back to these commits.
(REPO=$stage BASE_DIR=$tree "$here/compose.sh" --into "$tmp/again.git" --base "$base") ||
	die "the export of $tree does not compose, nothing was written"
git rev-list --reverse "$base..$head" >"$tmp/commits"
git --git-dir="$tmp/again.git" rev-list --reverse "$base..series" | paste -d ' ' "$tmp/commits" - |
	while read -r commit again; do
		what='%T%n%an <%ae> %ad%n%B'
		git log -1 --date=raw --format="$what" "$commit" >"$tmp/commit"
		git --git-dir="$tmp/again.git" log -1 --date=raw --format="$what" "$again" |
			cmp -s - "$tmp/commit" ||
			die "$(git log -1 --format='%h ("%s")' "$commit") does not survive as a mail (a line of its changelog that looks like a header, \"---\" or a diff?), nothing was written"
	done

# What the old series had and the new one has not goes away. A tree that was not
# composed from here may just never have had a file: ask before losing it.
series_rows "$tmp/old/series" | while read -r patch files; do
	for path in "patches/$patch" $files; do
		[ -e "$stage/$path" ] || [ ! -e "$REPO/$path" ] || printf '%s\n' "$path"
	done
done >"$tmp/gone"
if [ -z "$force" ] && [ -z "$composed" ]; then
	lost=$({ grep -v '^patches/' "$tmp/gone" || :; cd "$stage" && find . -path ./patches -prune -o -type f -print |
		sed 's/^\.\///' | while read -r path; do
		[ ! -e "$REPO/$path" ] || cmp -s "$path" "$REPO/$path" || printf '%s\n' "$path"
	done; } | paste -s -d ' ')
	[ -z "$lost" ] ||
		die "$tree was not composed from this repository and has another version, or none, of $lost: use --force to take it"
fi

# Write what differs.
cd "$stage"
find . -type f | sed 's/^\.\///' | while read -r path; do
	to=$REPO/$path
	if ! cmp -s "$path" "$to"; then
		mkdir -p "$(dirname "$to")"
		cat "$path" >"$to"
		say "wrote $path"
	fi
	if [ -x "$path" ]; then
		[ -x "$to" ] || chmod +x "$to"
	else
		[ ! -x "$to" ] || chmod -x "$to"
	fi
done
cd "$REPO"
while read -r path; do
	rm -f "$path"
	rmdir -p "$(dirname "$path")" 2>/dev/null || :
	say "deleted $path"
done <"$tmp/gone"
if [ "$tree" = "$(cd "$OUT" 2>/dev/null && pwd -P)/linux" ]; then
	git -C "$tree" update-ref refs/composed "$head"
fi
say "$number commits exported from $tree"
