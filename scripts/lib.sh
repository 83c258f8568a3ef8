# shellcheck shell=sh
# What the scripts share. Sourced with the script's own $0, never run.

me=${0##*/}

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() { say "$*"; exit 1; }
fail_usage() { say "$*; see $me --help"; exit 2; }

# A script that has no usage() of its own prints its header comment.
usage() { sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"; }

# The repository is what holds scripts/; tests and staging areas point REPO
# elsewhere.
if [ -z "${REPO:-}" ]; then
	REPO=$(cd "$(dirname "$0")" && pwd -P)
	REPO=${REPO%/scripts*}
fi
: "${OUT:=$REPO/out}"
case $OUT in /*) ;; *) OUT=$PWD/$OUT ;; esac
: "${BASE_DIR:=$OUT/base}"
: "${J:=$(nproc)}"
export REPO OUT BASE_DIR J

# Where a new kernel file may stand in the repository, at its in-tree path.
# shellcheck disable=SC2034 # for the scripts that source this
KERNEL_DIRS='virt include arch Documentation tools'

# What the kernel prints when something is wrong. Matched against lines that
# start with a kernel time stamp, so a test may print these words.
# shellcheck disable=SC2034 # for the scripts that source this
splats='WARNING: |BUG: |KASAN: |UBSAN: |\[#[0-9]+\] |Kernel panic|unchecked MSR access|possible circular locking|possible recursive locking|inconsistent (lock|\{)|irq lock inversion|suspicious RCU usage|held lock freed|lock held (when|at task)|bad unlock balance|soft lockup|hard LOCKUP|blocked for more than|rcu: INFO|stall on CPU|unreferenced object|Bad page|bad: scheduling|Object corrupted|Redzone|Poison overwritten|refcount_t: |ODEBUG: |pagealloc: (memory corruption|single bit error)|kmemleak: .*disabled|trying to register non-static key'

# Print the value of a key of patches/base.
series_base() { sed -n "s/^$1[[:space:]]\{1,\}//p" "$REPO/patches/base"; }

# Make the result of git depend on the sources alone, not on its user.
isolate_git()
{
	unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_EXTERNAL_DIFF
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 LC_ALL=C
}

# Create a directory, in the variable "tmp", that goes when the script ends.
make_tmp()
{
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# Print the new files of the repository.
kernel_files()
{
	(
		cd "$REPO" || exit
		for dir in $KERNEL_DIRS; do
			[ ! -d "$dir" ] || find "$dir" ! -type d ! -name '*~' ! -name '.*.sw?'
		done
	) | LC_ALL=C sort
}

# Print the rows of a series file, without comments.
series_rows() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1"; }
