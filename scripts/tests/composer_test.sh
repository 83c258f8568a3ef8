#!/bin/sh
# Usage: composer_test.sh [NAME...]
#
# Tests of fetch.sh, compose.sh, export.sh and series.sh on a toy base of a few
# files. Prints TAP: a line "ok N - name" or "not ok N - name" for each test, with
# the output of those that fail. NAMEs, as printed, limit the run to these tests.
#
# Exit status: 0 all passed; 1 some failed.
# shellcheck disable=SC2317 # the tests are called by the name they are found by
set -eu

case ${1-} in
-h | --help) sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"; exit 0 ;;
esac

scripts=$(cd "$(dirname "$0")/.." && pwd -P)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The scripts must not need what a user has configured.
HOME=$work
export HOME
unset BASE_DIR
export GIT_AUTHOR_NAME='Ünit Tester' GIT_AUTHOR_EMAIL=unit@example.com
export GIT_COMMITTER_NAME=Committer GIT_COMMITTER_EMAIL=committer@example.com
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
# Nothing here needs to survive a power cut.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.fsync GIT_CONFIG_VALUE_0=none

# A test runs in a copy of the toy, with these set.
use() { REPO=$1/repo OUT=$1/out linux=$1/out/linux; export REPO OUT; }

in_linux() { git -C "$linux" "$@"; }
commit() { in_linux add -f -A && GIT_AUTHOR_DATE=$1 in_linux commit -q -m "$2"; }

# Everything that a refused compose must leave alone.
state()
{
	in_linux for-each-ref
	in_linux ls-files -s
	find "$linux" -path "$linux/.git" -prune -o -type f -printf '%p %T@ %m\n' | sort
}

repo_state() { (cd "$REPO" && find . -type f -exec sha256sum {} + -printf '%m\n' | sort); }

# SENTENCE COMMAND...: the command fails with status 1, says just this sentence
# (a pattern of grep -x), and changes neither tree nor repository.
refuses()
{
	sentence=$1
	shift
	state >"$work/before"
	repo_state >>"$work/before"
	status=0
	"$@" >"$work/said" 2>&1 || status=$?
	cat "$work/said"
	test "$status" -eq 1
	test "$(wc -l <"$work/said")" -eq 1
	grep -q -x -e "[a-z]*.sh: $sentence" "$work/said"
	state >"$work/after"
	repo_state >>"$work/after"
	cmp "$work/before" "$work/after"
}

compose() { "$scripts/compose.sh"; }
export_() { "$scripts/export.sh" "$@"; }

# Lines "N text", so that every context is unique.
lines() { seq "$1" "$2" | sed 's/$/ line of the toy/'; }

make_toy()
{
	use "$work/toy"
	mkdir -p "$REPO/patches" "$work/linux-6.1.7/virt/kvm" "$work/linux-6.1.7/Documentation"
	(
		cd "$work/linux-6.1.7"
		printf 'VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 7\n' >Makefile
		lines 1 60 >virt/kvm/kvm_main.c
		lines 1 9 >virt/kvm/old.c
		lines 1 20 >Documentation/api.rst
		# Debian's source ignores everything at the top.
		printf '%s\n' '*.ign' '/*' >.gitignore
		echo ignored >virt/kvm/a.ign
	)
	tar -C "$work" -cJf "$work/toy.tar.xz" linux-6.1.7
	printf 'package toy\nversion 6.1.7\nkernel 6.1.7\n' >"$REPO/patches/base"
	printf 'KVM: The toy series\n\nWhat it is for.\n' >"$REPO/patches/cover-letter"
	: >"$REPO/patches/series"
	"$scripts/fetch.sh" --archive "$work/toy.tar.xz"
	compose
	(
		cd "$linux"
		mkdir -p include/linux tools
		echo 'int gmem;' >virt/kvm/gmem.c
		echo '/* header */' >include/linux/gmem.h
		commit '2026-01-02T03:04:05 +0200' 'KVM: Add gmem

Add a file -- and a header.

  - with a list
Signed-off-by: Unit <unit@example.com>'
		sed -i -e '10s/.*/10 ten/' -e '50s/.*/50 fifty/' virt/kvm/kvm_main.c
		git rm -q virt/kvm/old.c
		echo '#!/bin/sh' >tools/run.sh
		chmod +x tools/run.sh
		commit '2026-01-03T03:04:05 -0330' 'KVM: x86/mmu: Wire gmem()'
		echo 'the end, ümläut' >>Documentation/api.rst
		commit '2026-01-04T03:04:05 +0000' 'KVM: Document gmem

Ünicode.'
	) >/dev/null
	export_
	{
		printf '# A comment at the top.\n\n'
		sed '3i# Above the third row.' "$REPO/patches/series"
		printf '# The end.\n'
	} >"$work/series"
	cp "$work/series" "$REPO/patches/series"
	compose
}

patch1=0001-kvm-add-gmem.patch
patch2=0002-kvm-x86-mmu-wire-gmem.patch
patch3=0003-kvm-document-gmem.patch

t_fetch_imports_ignored_files_in_a_reproducible_commit()
{
	git -C "$OUT/base" cat-file -e base:virt/kvm/a.ign
	first=$(git -C "$OUT/base" rev-parse base)
	"$scripts/fetch.sh" --archive /nonexistent
	rm -rf "$OUT/base"
	"$scripts/fetch.sh" --archive "$work/toy.tar.xz"
	test "$(git -C "$OUT/base" rev-parse base)" = "$first"
}

t_fetch_says_that_the_base_is_another_version()
{
	sed -i 's/^version .*/version 6.1.8/' "$REPO/patches/base"
	"$scripts/fetch.sh" --archive "$work/toy.tar.xz" >"$work/said" 2>&1
	grep -q 'made for toy 6.1.8, .* is toy 6.1.7' "$work/said"
	compose >"$work/said" 2>&1
	grep -q 'made for toy 6.1.8 and is now on toy 6.1.7' "$work/said"
}

t_a_row_becomes_a_commit_with_its_author_date_and_changelog()
{
	test "$(in_linux rev-list --count base..series)" -eq 3
	test "$(in_linux log -1 --format='%an <%ae> %aI' series~2)" = \
		'Ünit Tester <unit@example.com> 2026-01-02T03:04:05+02:00'
	test "$(in_linux log -1 --format='%cn <%ce> %cI' series~2)" = \
		'Ünit Tester <unit@example.com> 2026-01-02T03:04:05+02:00'
	test "$(in_linux log -1 --format=%B series)" = 'KVM: Document gmem

Ünicode.'
	test "$(in_linux diff-tree --no-commit-id --name-status -r series~1 | tr '\t\n' '  ')" = \
		'A tools/run.sh M virt/kvm/kvm_main.c D virt/kvm/old.c '
	test "$(sed -n -e 10p -e 50p "$linux/virt/kvm/kvm_main.c")" = '10 ten
50 fifty'
	cmp "$REPO/virt/kvm/gmem.c" "$linux/virt/kvm/gmem.c"
}

t_composing_again_gives_the_same_ids_anywhere()
{
	first=$(in_linux rev-parse series)
	cp -a "$REPO" "$work/elsewhere"
	GIT_COMMITTER_NAME=Another REPO=$work/elsewhere "$scripts/compose.sh" --into "$work/ids.git"
	test "$(git --git-dir="$work/ids.git" rev-parse series)" = "$first"
}

t_compose_then_export_is_the_identity()
{
	repo_state >"$work/before"
	export_
	repo_state >"$work/after"
	cmp "$work/before" "$work/after"
	grep -q '^# Above the third row' "$REPO/patches/series"
}

t_export_then_compose_gives_the_same_trees()
{
	echo more >>"$linux/include/linux/gmem.h"
	in_linux commit -q -a --fixup :/Add.gmem
	GIT_SEQUENCE_EDITOR=: in_linux rebase -q -i --autosquash base
	in_linux log --format='%T %an %ad %B' base.. >"$work/before"
	export_
	find "$linux" -name '*.[ch]' -printf '%p %T@\n' | sort >"$work/mtimes"
	compose
	in_linux log --format='%T %an %ad %B' base.. >"$work/after"
	cmp "$work/before" "$work/after"
	find "$linux" -name '*.[ch]' -printf '%p %T@\n' | sort | cmp - "$work/mtimes"
	grep -q more "$REPO/include/linux/gmem.h"
}

t_only_changed_files_are_written()
{
	find "$linux" -path "$linux/.git" -prune -o -type f -exec touch -d 2001-01-01 {} +
	echo '/* edit */' >>"$REPO/virt/kvm/gmem.c"
	compose
	test "$(find "$linux" -path "$linux/.git" -prune -o -type f -newermt 2001-01-02 -printf '%P\n')" = \
		virt/kvm/gmem.c
}

t_mode_bits_go_both_ways()
{
	test -x "$linux/tools/run.sh"
	test ! -x "$linux/virt/kvm/gmem.c"
	in_linux rev-parse series >"$work/before"
	chmod -x "$REPO/tools/run.sh"
	compose
	test ! -x "$linux/tools/run.sh"
	chmod +x "$linux/tools/run.sh"
	in_linux commit -q -a --amend --no-edit
	test "$(in_linux ls-files -s tools/run.sh | cut -c 1-6)" = 100755
	in_linux reset -q --hard refs/composed
	chmod +x "$REPO/tools/run.sh"
	compose
	in_linux rev-parse series | cmp - "$work/before"
	rm "$REPO/tools/run.sh"
	export_ --force
	test -x "$REPO/tools/run.sh"
}

t_git_am_of_the_exported_series_gives_the_same_tree()
{
	tree=$("$scripts/series.sh" --verify)
	test "$tree" = "$(in_linux rev-parse 'series^{tree}')"
	test "$(cd "$OUT/series" && echo ????-*.patch | wc -w)" -eq 4
	grep -q '^Subject: \[PATCH 0/3\] KVM: The toy series$' "$OUT/series/0000-cover-letter.patch"
	grep -q '^What it is for.$' "$OUT/series/0000-cover-letter.patch"
	grep -q 'KVM: Add gmem' "$OUT/series/0000-cover-letter.patch"
	grep -q '6 files changed' "$OUT/series/0000-cover-letter.patch"
}

t_refuses_an_orphan()
{
	echo orphan >"$REPO/virt/kvm/orphan.c"
	refuses 'virt/kvm/orphan.c is in no row of patches/series' compose
}

t_refuses_a_file_in_two_rows()
{
	sed -i "s|^$patch3.*|& virt/kvm/gmem.c|" "$REPO/patches/series"
	refuses "virt/kvm/gmem.c is in patches/series twice, with $patch1 and $patch3" compose
}

t_refuses_a_patch_in_two_rows()
{
	echo "$patch3" >>"$REPO/patches/series"
	refuses "patches/$patch3 is in two rows of patches/series" compose
}

t_refuses_a_patch_in_no_row()
{
	sed -i "/^$patch3/d" "$REPO/patches/series"
	refuses "patches/$patch3 is in no row of patches/series" compose
}

t_refuses_a_row_without_patch()
{
	rm "$REPO/patches/$patch3"
	refuses "patches/$patch3 does not exist but has a row in patches/series" compose
}

t_refuses_a_row_without_a_patch_name()
{
	echo 'virt/kvm/gmem.c' >>"$REPO/patches/series"
	refuses 'patches/series has "virt/kvm/gmem.c" where NNNN-topic.patch should be' compose
}

t_refuses_a_missing_new_file()
{
	rm "$REPO/virt/kvm/gmem.c"
	refuses "virt/kvm/gmem.c does not exist but is listed with $patch1 in patches/series" compose
}

t_refuses_a_new_file_that_the_base_has()
{
	echo mine >"$REPO/virt/kvm/kvm_main.c"
	sed -i "s|^$patch1.*|& virt/kvm/kvm_main.c|" "$REPO/patches/series"
	refuses 'virt/kvm/kvm_main.c is a new file here but the base has one of that name' compose
}

t_refuses_a_new_file_outside_the_kernel_directories()
{
	sed -i "s|^$patch1.*|& patches/cover-letter|" "$REPO/patches/series"
	refuses "patches/cover-letter (with $patch1 in patches/series) is not in any of: virt .*" compose
}

t_refuses_a_symbolic_link()
{
	ln -sf gmem.h "$REPO/include/linux/link.h"
	sed -i "s|^$patch1.*|& include/linux/link.h|" "$REPO/patches/series"
	refuses 'include/linux/link.h is not a plain file' compose
}

t_refuses_a_patch_that_creates_a_file()
{
	cat >>"$REPO/patches/$patch3" <<-'EOF'
		diff --git a/virt/kvm/created.c b/virt/kvm/created.c
		new file mode 100644
		--- /dev/null
		+++ b/virt/kvm/created.c
		@@ -0,0 +1 @@
		+int created;
	EOF
	refuses "patches/$patch3 creates virt/kvm/created.c itself: store it whole.*" compose
}

t_refuses_a_patch_that_renames_a_file()
{
	cat >>"$REPO/patches/$patch3" <<-'EOF'
		diff --git a/virt/kvm/a.ign b/virt/kvm/b.ign
		similarity index 100%
		rename from virt/kvm/a.ign
		rename to virt/kvm/b.ign
	EOF
	refuses "patches/$patch3 creates virt/kvm/b.ign itself: store it whole.*" compose
}

t_refuses_a_patch_that_edits_a_new_file()
{
	cat >>"$REPO/patches/$patch3" <<-'EOF'
		diff --git a/virt/kvm/gmem.c b/virt/kvm/gmem.c
		--- a/virt/kvm/gmem.c
		+++ b/virt/kvm/gmem.c
		@@ -1 +1 @@
		-int gmem;
		+int other;
	EOF
	refuses "patches/$patch3 edits virt/kvm/gmem.c, a new file of the series: edit that file itself" compose
}

t_refuses_a_patch_of_a_file_that_does_not_exist()
{
	sed -i 's|Documentation/api.rst|Documentation/none.rst|g' "$REPO/patches/$patch3"
	refuses "patches/$patch3 does not apply to toy 6.1.7: it has no Documentation/none.rst" compose
}

t_refuses_fuzz()
{
	# git am and patch would let the outermost context line differ.
	sed -i 's/^ 7 line of the toy/ 7 line of another toy/' "$REPO/patches/$patch2"
	grep -q '7 line of another' "$REPO/patches/$patch2"
	refuses "patches/$patch2 does not apply to toy 6.1.7 without fuzz: conflict in virt/kvm/kvm_main.c" compose
}

t_refuses_a_different_blank_in_the_context()
{
	sed -i 's/^ 7 line of the toy/ 7  line of the toy/' "$REPO/patches/$patch2"
	refuses "patches/$patch2 does not apply to toy 6.1.7 without fuzz: conflict in virt/kvm/kvm_main.c" compose
}

t_accepts_an_offset_and_export_mends_it()
{
	sed -i -e 's/^@@ -7,7 +7,7 @@/@@ -9,7 +9,7 @@/' -e 's/^@@ -47,7 +47,7 @@/@@ -40,7 +40,7 @@/' \
		"$REPO/patches/$patch2"
	before=$(in_linux rev-parse series)
	compose >"$work/said" 2>&1
	grep -q "note: patches/$patch2 applies with an offset" "$work/said"
	test "$(in_linux rev-parse series)" = "$before"
	export_
	grep -q '^@@ -7,7 +7,7 @@' "$REPO/patches/$patch2"
	cmp "$REPO/patches/$patch2" "$work/toy/repo/patches/$patch2"
}

t_refuses_a_row_that_does_nothing()
{
	sed -i "s|^$patch1.*|$patch1|; s|^$patch2 .*|& virt/kvm/gmem.c include/linux/gmem.h|" "$REPO/patches/series"
	refuses "patches/$patch1 edits nothing and its row has no file" compose
}

t_refuses_a_patch_that_is_no_mail()
{
	sed -i '/^Date:/d' "$REPO/patches/$patch1"
	refuses "patches/$patch1 has no Date" compose
}

t_refuses_to_overwrite_uncommitted_edits_in_the_tree()
{
	echo '/* mine */' >>"$linux/virt/kvm/gmem.c"
	echo '/* repository */' >>"$REPO/include/linux/gmem.h"
	refuses '.*/linux has uncommitted edits in virt/kvm/gmem.c: commit .* make export, or discard .*' compose
}

t_refuses_to_overwrite_an_uncommitted_new_file_in_the_tree()
{
	echo tree >"$linux/virt/kvm/both.c"
	echo repository >"$REPO/virt/kvm/both.c"
	sed -i "s|^$patch1.*|& virt/kvm/both.c|" "$REPO/patches/series"
	refuses '.*/linux has an uncommitted virt/kvm/both.c that is not the one to compose: .*' compose
	echo repository >"$linux/virt/kvm/both.c"
	compose
}

t_refuses_to_drop_commits_that_are_not_exported()
{
	echo '/* mine */' >>"$linux/virt/kvm/gmem.c"
	in_linux commit -q -a -m 'KVM: Mine'
	refuses '.*/linux has commits that are not in patches/: run make export .*' compose
	in_linux reset -q --hard refs/composed
	compose
}

t_refuses_while_the_tree_is_on_another_branch()
{
	in_linux checkout -q --detach base
	refuses '.*/linux is not on its branch series: .*' compose
}

t_export_writes_new_commits_and_deletes_what_went_away()
{
	in_linux reset -q --hard HEAD~2
	echo 'int second;' >"$linux/virt/kvm/second.c"
	sed -i '30s/.*/thirty/' "$linux/virt/kvm/kvm_main.c"
	commit '2026-02-01T00:00:00 +0000' 'KVM: x86/mmu: Say "second", twice (2x)'
	export_
	test "$(cd "$REPO/patches" && echo 0*)" = "$patch1 0002-kvm-x86-mmu-say-second-twice-2x.patch"
	test ! -e "$REPO/tools"
	test "$(tail -n 2 "$REPO/patches/series" | head -n 1)" = \
		'0002-kvm-x86-mmu-say-second-twice-2x.patch virt/kvm/second.c'
	test -z "$(grep second.c "$REPO/patches/0002-kvm-x86-mmu-say-second-twice-2x.patch")"
	compose
}

t_export_keeps_the_topic_of_a_known_subject()
{
	mv "$REPO/patches/$patch3" "$REPO/patches/0003-doc.patch"
	sed -i "s/^$patch3/0003-doc.patch/" "$REPO/patches/series"
	compose
	# The second and third commit change places.
	GIT_SEQUENCE_EDITOR='sed -i "2{h;d};3G"' in_linux rebase -q -i base
	export_
	test "$(cd "$REPO/patches" && echo 0*)" = "$patch1 0002-doc.patch 0003-kvm-x86-mmu-wire-gmem.patch"
	test "$(sed -n '/Above the third row/{n;p}' "$REPO/patches/series")" = 0002-doc.patch
}

t_export_refuses_a_later_edit_of_a_new_file()
{
	echo '/* later */' >>"$linux/virt/kvm/gmem.c"
	in_linux commit -q -a -m 'KVM: Later'
	refuses "virt/kvm/gmem.c is created by [0-9a-f]* (\"KVM: Add gmem\") and changed by [0-9a-f]* (\"KVM: Later\"): squash.*" \
		export_
}

t_export_refuses_a_fixup()
{
	sed -i '30s/.*/thirty/' "$linux/virt/kvm/kvm_main.c"
	in_linux commit -q -a --fixup HEAD
	refuses '.* is a "fixup! KVM: Document gmem": run git rebase -i --autosquash .*' export_
}

t_export_refuses_a_changelog_that_mail_would_cut()
{
	in_linux commit -q --amend -m 'KVM: Cut

before
---
after'
	refuses '.*("KVM: Cut") does not survive as a mail .*' export_
}

t_export_refuses_to_undo_edits_made_in_the_repository()
{
	echo '/* not composed */' >>"$REPO/virt/kvm/gmem.c"
	refuses 'the repository has edits of its own in virt/kvm/gmem.c since make tree: .*' export_
	export_ --force
	cmp "$REPO/virt/kvm/gmem.c" "$work/toy/repo/virt/kvm/gmem.c"
}

t_export_refuses_to_lose_files_that_a_foreign_tree_lacks()
{
	git clone -q -b base "$OUT/base" "$work/run/foreign"
	sed -i '30s/.*/thirty/' "$work/run/foreign/virt/kvm/kvm_main.c"
	git -C "$work/run/foreign" commit -q -a -m 'KVM: Thirty'
	refuses '.*/foreign was not composed from this repository and has .* none, of include/linux/gmem.h virt/kvm/gmem.c tools/run.sh: .*' \
		export_ --tree "$work/run/foreign" --base origin/base
	export_ --tree "$work/run/foreign" --base origin/base --force
	test ! -e "$REPO/include"
	test "$(cd "$REPO/patches" && echo 0*)" = 0001-kvm-thirty.patch
}

t_export_refuses_when_the_repository_does_not_compose()
{
	echo orphan >"$REPO/virt/kvm/orphan.c"
	status=0
	export_ >"$work/said" 2>&1 || status=$?
	test "$status" -eq 1
	grep -q 'orphan.c is in no row' "$work/said"
	grep -q 'the repository must compose before the export overwrites it' "$work/said"
}

t_export_leaves_what_is_not_committed_and_says_so()
{
	echo '/* wip */' >>"$linux/virt/kvm/gmem.c"
	echo wip >"$linux/virt/kvm/new.c"
	repo_state >"$work/before"
	export_ >"$work/said" 2>&1
	grep -q 'not committed in .*, so not exported: virt/kvm/gmem.c' "$work/said"
	grep -q "not committed in .*git add -f.*, so not exported: virt/kvm/new.c$" "$work/said"
	repo_state | cmp - "$work/before"
}

t_scripts_do_not_depend_on_the_directory()
{
	before=$(in_linux rev-parse series)
	cd /
	rm -rf "$linux"
	compose
	test "$(in_linux rev-parse series)" = "$before"
}

# A relative OUT is taken from where the caller stands.
t_out_may_be_relative()
{
	cd "$OUT/.."
	OUT=out compose
	test ! -e "$REPO/out"
}

make_toy >"$work/log" 2>&1 || {
	cat "$work/log"
	echo 'Bail out! the toy base could not be made'
	exit 1
}

number=0
failed=0
# shellcheck disable=SC2013 # names of functions are words
for test in $(sed -n 's/^t_\([a-z_]*\)()$/\1/p' "$0"); do
	name=$(printf '%s' "$test" | tr _ ' ')
	if [ $# -gt 0 ]; then
		wanted=
		for arg; do [ "$arg" != "$name" ] || wanted=y; done
		[ -n "$wanted" ] || continue
	fi
	number=$((number + 1))
	rm -rf "$work/run"
	cp -a "$work/toy" "$work/run"
	# Not in a condition: there, set -e would not end a test.
	set +e
	(
		set -e
		use "$work/run"
		"t_$test"
	) >"$work/log" 2>&1
	status=$?
	set -e
	if [ "$status" -eq 0 ]; then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		sed 's/^/# /' "$work/log"
		failed=1
	fi
done
echo "1..$number"
exit "$failed"
