#!/bin/sh
# Run tests on the kernel that watches for data races, and sort what it reports.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOT
Usage: kcsan.sh [OPTION]... [NAME|project]...

Builds the kernel of configs/kcsan.config and runs the tests of the series that have
threads, or those that are named, on it, see scripts/test.sh. "project", all of them,
takes hours: this kernel is some fifteen times slower than the fast one. The base has
races of its own, so a report does not fail a test here. Instead the reports are put
into classes, by the two functions that race:

  series   one of them is in a file that the series adds
  below    neither is, but such a function is among their callers
  kvm      another function of KVM
  other    the rest of the kernel

A line for each pair of functions, with the number of reports, and at the end how many
pairs there are in each class. Those in scripts/kcsan-known.txt, which has a reason for
each, are "known" and do not count. The reports themselves are in the logs.

Options:
  --logs       do not run tests, sort what the last run has left in OUT/log
  -h, --help   print this text

Environment: OUT output directory, J parallel jobs, V=1 verbose. TCG_THREAD, see
scripts/boot.sh: processors that take turns do so at a pause, which is how KCSAN waits
for another access, so they are not worse at this than threads.

Exit status: 0 the tests passed, no race of the first two classes but known ones; 1
otherwise; 2 wrong usage.
EOT
}

logs=
names=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--logs) logs=1 ;;
	-*) fail_usage "$1: unknown option" ;;
	*) names="$names $1" ;;
	esac
	shift
done

build=$OUT/build/kcsan
known=$REPO/scripts/kcsan-known.txt
make_tmp
failed=0

if [ -z "$names" ]; then
	names=$(cd "$REPO/tools/testing/selftests/kvm" &&
		grep -l pthread_create ./*_test.c x86_64/*_test.c | sed 's,.*/\(.*\)\.c$,\1,')
fi
if [ -z "$logs" ]; then
	rm -f "$OUT"/log/test-series-kcsan-*
	# A report is a complaint of the kernel, which fails the test for test.sh.
	status=0
	# shellcheck disable=SC2086 # a list of words
	"$REPO/scripts/test.sh" --config kcsan --each 900 $names >"$tmp/tests" 2>&1 || status=$?
	[ "$status" -le 1 ] || { cat "$tmp/tests" >&2; exit 2; }
	sed -n '/^\(ok\|skip\) /p' "$tmp/tests"
	cp "$tmp/tests" "$OUT/log/kcsan-tests.out"
fi
ls "$OUT"/log/test-series-kcsan-*.result >/dev/null 2>&1 || die "no test has run on this kernel"

# What is wrong other than what the kernel said.
cat "$OUT"/log/test-series-kcsan-*.result | grep -v -E '^(0|4) |^1 kernel ' >"$tmp/wrong" || :
if [ -s "$tmp/wrong" ]; then
	sed 's/^\([^ ]*\) \([^ ]*\) .*/not ok \2: status \1/' "$tmp/wrong"
	failed=1
fi
ran=$(cat "$OUT"/log/test-series-kcsan-*.result | grep -c -v ' kernel ')

# Functions that the objects define; a part that the compiler has split off is the function.
functions()
{
	while read -r object; do
		[ ! -f "$build/$object" ] || nm "$build/$object"
	done | awk '$2 ~ /^[tT]$/ { sub(/\..*/, "", $3); print $3 }' | sort -u
}
kernel_files | sed -n 's/\.c$/.o/p' | grep -E '^(virt|arch)/' | functions >"$tmp/series"
(cd "$build" && find virt/kvm arch/x86/kvm -name '*.o' ! -name 'built-in*' ! -name 'kvm*.o') |
	functions >"$tmp/kvm"

# A report goes from its title to the line of "=".
cat "$OUT"/log/test-series-kcsan-*.log | tr -d '\r' | sed 's/^\[ *[0-9.]*\] //' | awk '
	function name(word) {
		sub(/\+0x.*/, "", word)
		sub(/\..*/, "", word)
		return word
	}
	function done() {
		if (title == "")
			return
		class = "other"
		for (i in racing)
			if (i in kvm)
				class = "kvm"
		for (i in callers)
			if (i in series)
				class = "below"
		for (i in racing)
			if (i in series)
				class = "series"
		count[class "\t" title]++
		title = ""
	}
	FILENAME == ARGV[1] { series[$1]; next }
	FILENAME == ARGV[2] { kvm[$1]; next }
	/^BUG: KCSAN: / {
		done()
		title = $0
		sub(/.* in /, "", title)
		delete racing
		delete callers
		n = split(title, word, " / ")
		for (i = 1; i <= n; i++)
			racing[name(word[i])]
		# Which of them was seen first does not matter.
		first = name(word[1])
		second = n == 2 ? name(word[2]) : ""
		if (n < 2)
			title = first
		else if (first < second)
			title = first " / " second
		else
			title = second " / " first
	}
	/^=====/ { done() }
	title != "" && /^ [a-zA-Z_]/ { callers[name($1)] }
	END {
		done()
		for (i in count)
			print count[i] "\t" i
	}' "$tmp/series" "$tmp/kvm" - >"$tmp/found"
tab=$(printf '\t')
sort -t "$tab" -k 2,2 -k 1,1nr -k 3,3 "$tmp/found" >"$tmp/races"

# Why a race may be.
reason_for()
{
	grep '^[^#]' "$known" | while IFS=: read -r pattern reason; do
		# shellcheck disable=SC2254 # it is a pattern
		case $1 in
		$pattern) echo "${reason# }"; break ;;
		esac
	done
}

while IFS=$tab read -r number class title; do
	reason=
	case $class in
	series | below) reason=$(reason_for "$title") ;;
	esac
	[ -z "$reason" ] || class=known
	echo "$class" >>"$tmp/classes"
	echo "$number $class: $title${reason:+ ($reason)}"
done <"$tmp/races"
: >>"$tmp/classes"
of()
{
	grep -c -x -e "$1" "$tmp/classes" || :
}
echo "races: $ran tests run; $(of series) in the series, $(of below) below it, $(of known) known, $(of kvm) in the rest of KVM, $(of other) elsewhere"
if [ "$(of series)" -gt 0 ] || [ "$(of below)" -gt 0 ]; then
	failed=1
fi
exit "$failed"
