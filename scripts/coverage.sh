#!/bin/sh
# Which lines of the series do its tests run?
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOT
Usage: coverage.sh [OPTION]... [TEST]...

Builds the kernel of configs/coverage.config, which counts how often it runs each line
of the files that the series adds or changes, runs tests on it (default: project, see
test.sh), and says which lines were reached. What a machine has counted is lost if it
crashes, all else is added up.

In OUT/coverage:
  report.txt     per file the lines reached, and those there are. Of the files that the
                 base has, the lines that the series changes
  unreached.txt  the other lines: "FILE:LINE: FUNCTION: TEXT", each with the reason why no
                 test reaches it
  branches.txt   lines that were reached, but have a branch that was never taken: in the same
                 format, for a person to look at. The only place for a "return;", a "goto"
                 and the like, which have no code of their own to count
  gcov/          the sources, each line with its count
  counts/        what the machines have counted

The reasons are in scripts/coverage-unreached.txt, "FILE:FUNCTION: LINES: REASON" for the
LINES lines of a function that no test reaches, or, with "?" behind the number, that some
runs do not reach. A line without a reason is "new" in the report, a reason for more
lines than there are is "stale".

Options:
  --platform NAME, --append TEXT, --selftests DIR
               as those of test.sh
  --add        add to what the last runs have counted, with the same kernel
  --report     no run: report on what has been counted
  -h, --help   print this text

Environment: OUT output directory, J parallel jobs, V=1 verbose.

Exit status: 0 all is reached or has a reason; 1 it is not, a reason is stale, or a test
failed; 2 wrong usage.
EOT
}

add=
report=
platform=npt
append=
selftests=
tests=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--add) add=1 ;;
	--report) report=1 ;;
	--platform | --append | --selftests)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--platform) platform=$2 ;;
		--append) append=$2 ;;
		--selftests) selftests=$2 ;;
		esac
		shift
		;;
	-*) fail_usage "$1: unknown option" ;;
	*) tests="$tests $1" ;;
	esac
	shift
done
[ -z "$report" ] || [ -z "$add$append$tests" ] || fail_usage "--report runs no tests"
unset BASE

linux=$OUT/linux
build=$OUT/build/coverage
out=$OUT/coverage
reasons=$REPO/scripts/coverage-unreached.txt
for program in gcov gcov-tool; do
	command -v $program >/dev/null || die "no $program, which comes with gcc; run scripts/setup.sh"
done
make_tmp
mkdir -p "$out/counts"
failed=0

# One archive per machine, see test.sh.
run_tests()
{
	"$REPO/scripts/kernel.sh" --config coverage
	[ -n "$add" ] || rm -f "$out"/counts/*
	rm -f "$OUT"/log/test-series-coverage*.gcda.tgz
	# shellcheck disable=SC2086 # words
	"$REPO/scripts/test.sh" --config coverage --platform "$platform" --append "$append" \
		--kernel "$build/arch/x86/boot/bzImage" ${selftests:+--selftests "$selftests"} \
		${tests:-project} || failed=1
	n=0
	for archive in "$OUT"/log/test-series-coverage*.gcda.tgz; do
		while [ -e "$out/counts/$n.tgz" ]; do
			n=$((n + 1))
		done
		if [ ! -e "$archive" ]; then
			break
		elif gzip -t "$archive" 2>/dev/null; then
			mv "$archive" "$out/counts/$n.tgz"
		else
			say "${archive##*/}: nothing was counted, the machine stopped early"
		fi
	done
}

# Add up what the machines have counted, in $tmp/sum, with the notes of the compiler.
add_up()
{
	number=0
	for archive in "$out"/counts/*.tgz; do
		[ -e "$archive" ] || die "nothing has been counted"
		number=$((number + 1))
		rm -rf "$tmp/one" "$tmp/two"
		mkdir -p "$tmp/one"
		tar -x -z -f "$archive" -C "$tmp/one"
		[ -d "$tmp/one$build" ] || die "$archive: not counted by the kernel in $build"
		if [ -d "$tmp/sum" ]; then
			mv "$tmp/sum" "$tmp/two"
			gcov-tool merge -o "$tmp/sum" "$tmp/two" "$tmp/one$build" >"$tmp/merge.log" 2>&1 ||
				die "$(cat "$tmp/merge.log")"
		else
			mv "$tmp/one$build" "$tmp/sum"
		fi
	done
	(cd "$tmp/sum" && find . -name '*.gcda') | sed 's/gcda$/gcno/' >"$tmp/objects"
	while read -r object; do
		cp "$build/$object" "$tmp/sum/$object"
	done <"$tmp/objects"
}

# Print "FILE<tab>LINE<tab>COUNT<tab>MISSED<tab>TEXT" for each line that was compiled,
# MISSED being how many of its branches were never taken. A line of a header has as many
# counts as the header has users.
count_lines()
{
	while read -r object; do
		gcov -t -b -c "$tmp/sum/$object"
	done <"$tmp/objects" >"$tmp/gcov" 2>"$tmp/gcov.log"
	! grep -q -i 'mismatch\|cannot open notes' "$tmp/gcov.log" ||
		die "the kernel is not the one that counted: $(head -n 1 "$tmp/gcov.log")"
	awk -v tree="$linux/" '
		match($0, /^ *-: *0:Source:/) {
			file = substr($0, RLENGTH + 1)
			while (sub(/\/[^\/.][^\/]*\/\.\.\//, "/", file))
				;
			on = sub("^" tree, "", file)
			next
		}
		on && line && match($0, /^branch +[0-9]+ /) {
			taken[line, $2] += $4
			if ($2 + 1 > branches[line])
				branches[line] = $2 + 1
		}
		/^(function|call|branch) / { next }
		{ line = "" }
		!on || /^ *-:/ || !match($0, /^ *[^:]*: *[0-9]+:/) { next }
		{
			text = substr($0, RLENGTH + 1)
			split($0, field, ":")
			count = field[1] ~ /[#=]/ ? 0 : field[1] + 0
			line = file "\t" (field[2] + 0)
			counts[line] += count
			texts[line] = text
		}
		END {
			for (line in counts) {
				missed = 0
				for (i = 0; i < branches[line]; i++)
					missed += !taken[line, i]
				print line "\t" counts[line] "\t" missed "\t" texts[line]
			}
		}' "$tmp/gcov" | sort -t "$(printf '\t')" -k 1,1 -k 2,2n
}

# Print "FILE<tab>LINE" for each line of a file that the series has changed.
changed_lines()
{
	isolate_git
	git -C "$linux" diff -U0 --no-renames --diff-filter=M base -- virt arch include mm |
		awk '
			/^\+\+\+ / { file = substr($2, 3) }
			/^@@ / {
				split(substr($3, 2), range, ",")
				n = range[2] == "" ? 1 : range[2]
				for (i = 0; i < n; i++)
					print file "\t" range[1] + i
			}'
}

# From the lines that matter, print a table and write unreached.txt. The kernel's style
# is enough to tell in which function a line is.
judge()
{
	awk -F '\t' -v tree="$linux/" -v reasons="$reasons" -v unreached="$out/unreached.txt" \
		-v branches="$out/branches.txt" '
		function find_functions(file,	line, n, begin, name, inside) {
			n = begin = 0
			name = inside = "-"
			while ((getline line <(tree file)) > 0) {
				n++
				if (line ~ /^[A-Za-z_].*\(/ && line !~ /;$/) {
					name = line
					sub(/\(.*/, "", name)
					sub(/.*[ *]/, "", name)
					if (name == "FNAME" && match(line, /FNAME\([^)]*\)/))
						name = substr(line, RSTART, RLENGTH)
					begin = n
				}
				if (line ~ /^[{]/ || line ~ /^[A-Za-z_].*\).*[{].*[}]$/) {
					inside = name
					for (; begin < n; begin++)
						where[file, begin] = inside
				}
				where[file, n] = inside
				if (line ~ /^[}]/ || line ~ /[}]$/ && line ~ /^[A-Za-z_]/)
					inside = "-"
			}
			close(tree file)
		}
		function percent(part, all) {
			return all ? sprintf("%5.1f", 100 * part / all) : "    -"
		}
		function table(kind, title,	i, sum, sum_reached) {
			print title
			for (i = 1; i <= files; i++) {
				if (kinds[order[i]] != kind)
					continue
				sum += total[order[i]]
				sum_reached += reached[order[i]]
				printf "  %5d of %5d  %s %%  %s\n", reached[order[i]], total[order[i]],
					percent(reached[order[i]], total[order[i]]), order[i]
			}
			printf "  %5d of %5d  %s %%  in all\n\n", sum_reached, sum,
				percent(sum_reached, sum)
		}
		BEGIN {
			while ((getline line <reasons) > 0) {
				if (line !~ /^[^#:]+:[^:]+: [0-9]+[?]?: ./)
					continue
				split(line, part, ":")
				key = part[1] ":" part[2]
				known[++listed] = key
				sometimes[key] = part[3] ~ /[?]/
				allowed[key] = part[3] + 0
				reason[key] = substr(line, length(key part[3]) + 4)
			}
			printf "" >unreached
			printf "" >branches
		}
		{
			kind = $1
			file = $2
			if (!(file in total)) {
				order[++files] = file
				kinds[file] = kind
				find_functions(file)
			}
			total[file]++
			# The text may have tabs of its own.
			text = substr($0, length($1 $2 $3 $4 $5) + 6)
			gsub(/^[ \t]+/, "", text)
			text = file ":" $3 ": " where[file, $3] ": " text
			if ($4 > 0) {
				reached[file]++
				if ($5 > 0 && kind == "new")
					print text >branches
				next
			}
			key = file ":" where[file, $3]
			missing[key]++
			lines[++n] = text
			of[n] = key
		}
		END {
			table("new", "Lines of the files that the series adds")
			table("old", "Lines that the series changes in files of the base")
			for (i = 1; i <= n; i++) {
				if (missing[of[i]] > allowed[of[i]]) {
					print "new: " lines[i]
					unexplained++
				}
				print lines[i] (of[i] in reason ? "\n\t" reason[of[i]] : "") >unreached
			}
			for (i = 1; i <= listed; i++) {
				key = known[i]
				if (sometimes[key] || missing[key] >= allowed[key])
					continue
				print "stale: " key ": " missing[key] + 0 " lines, not " allowed[key]
				stale++
			}
			printf "\n%d lines are not reached, %d of them without a reason; %d reasons are stale\n",
				n, unexplained, stale
			exit unexplained || stale
		}'
}

[ -n "$report" ] || run_tests
add_up
count_lines >"$tmp/lines"
rm -rf "$out/gcov"
mkdir "$out/gcov"
(
	cd "$out/gcov"
	while read -r object; do
		gcov -p -r -s "$linux" "$tmp/sum/$object"
	done <"$tmp/objects"
) >/dev/null 2>&1 || :
(cd "$REPO" && find virt arch include -name '*.[ch]') | sort >"$tmp/new"
changed_lines >"$tmp/changed"
awk -F '\t' '
	FILENAME == ARGV[1] { new[$1] = 1; next }
	FILENAME == ARGV[2] { changed[$1, $2] = 1; next }
	$1 in new { print "new\t" $0; next }
	($1, $2) in changed { print "old\t" $0 }' "$tmp/new" "$tmp/changed" "$tmp/lines" >"$tmp/series"
[ -s "$tmp/series" ] || die "no line of the series has been counted"
judge <"$tmp/series" >"$out/report.txt" || failed=1
cat "$out/report.txt"
exit "$failed"
