#!/bin/sh
# Measure what guest_memfd costs, on the series and on mainline's kernel.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat <<EOF
Usage: bench.sh [OPTION]...

Builds the kernel of the series and the benchmark, x86_64/guest_memfd_bench of the
KVM selftests, and runs it in QEMU with time that is the number of instructions
executed, twice, which must agree: with folios of 2 MiB, and with pages alone
(kvm.gmem_max_order=0). The same binary runs on the peer: Linux 6.12 of Debian's
linux-source-6.12, configured as the series is, see configs/peer.config. Then once
more with a plugin that counts by function.

Writes to OUT/bench:
  report.md   the figures next to the aims, with ratios; what grows with what; where
              the instructions go
  bench.csv   all of them: case,bytes,pages,ours,pages_only,peer (instructions in
              total, bytes for the cases memory-*)
  bench.svg   a chart

With --guard it measures the series alone, and compares some figures with those in
scripts/bench-recorded.csv; prints TAP.

Options:
  --guard            is anything dearer than recorded, by more than a twentieth?
  --record           as --guard, and write scripts/bench-recorded.csv
  --peer NAME        6.12 (default) or none; so does PEER=NAME
  --peer-build DIR   build directory of a peer that is built already
  --build DIR        build directory of a kernel that is built already, in place of
                     the series in OUT/linux
  --program FILE     benchmark that is built already
  --append TEXT      more kernel command line for the series, as
                     kvm.gmem_max_order=0
  --size MIB         size of the memory; can be repeated (default 64 and 256). The
                     table of aims has the last one
  --rounds N         rounds in each run, of which the least counts (default 2)
  --no-profile       leave out the run with the plugin
  -h, --help         print this text

Environment: OUT output directory, J parallel jobs, V=1 shows the builds.

Exit status: 0 measured, all aims met, nothing dearer than recorded; 1 an aim is
missed, something is dearer, two runs differ by more than a two-hundredth, or something
failed; 2 wrong usage.
EOF
}

peer_package=linux-source-6.12
# With these clearing or copying a page would be 4,096 instructions, not 512.
cpu=max,-erms,-fsrm

: "${PEER:=6.12}"
build=
peer_build=
program=
append=
sizes=
rounds=2
profile=1
guard=
record=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--no-profile) profile= ;;
	--guard) guard=1 ;;
	--record) guard=1 record=1 ;;
	--peer | --peer-build | --build | --program | --append | --size | --rounds)
		[ $# -ge 2 ] || fail_usage "$1 needs a value"
		case $1 in
		--peer) PEER=$2 ;;
		--peer-build) peer_build=$2 ;;
		--build) build=$2 ;;
		--program) program=$2 ;;
		--append) append="$append $2" ;;
		--size) sizes="$sizes $2" ;;
		--rounds) rounds=$2 ;;
		esac
		shift
		;;
	*) fail_usage "$1: unknown option" ;;
	esac
	shift
done
case $PEER in
none | 6.12) ;;
*) fail_usage "--peer $PEER: neither none nor 6.12" ;;
esac
if [ -n "$guard" ]; then
	[ -z "$sizes" ] || fail_usage "--guard has a size of its own"
	PEER=none
	profile=
	sizes=64
fi
: "${sizes:=64 256}"
for number in $sizes "$rounds"; do
	case $number in
	'' | *[!0-9]* | 0) fail_usage "'$number' is not a positive number" ;;
	esac
done

scripts=$REPO/scripts
bench=$OUT/bench
recorded=$scripts/bench-recorded.csv
pages_only=' kvm.gmem_max_order=0'
mkdir -p "$bench" "$OUT/log"
make_tmp

# The source of the peer, unpacked once.
fetch_peer()
{
	tree=$OUT/peer
	[ ! -e "$tree/.unpacked" ] || return 0
	archive=/usr/src/$peer_package.tar.xz
	[ -f "$archive" ] || die "$archive does not exist; run scripts/setup.sh --bench first, or use --peer none"
	say "unpacking $archive"
	rm -rf "$tree"
	mkdir -p "$tree"
	tar -x -f "$archive" -C "$tree" --strip-components 1 --no-same-owner
	: >"$tree/.unpacked"
}

build_all()
{
	if [ -z "$build" ]; then
		say "building the kernel: the series, configs/vm.config"
		"$scripts/kernel.sh" --config vm
		build=$OUT/build/vm
	fi
	if [ -z "$program" ]; then
		"$scripts/selftests.sh" x86_64/guest_memfd_bench
		program=$OUT/selftests/series/kvm/x86_64/guest_memfd_bench
	fi
	if [ "$PEER" != none ] && [ -z "$peer_build" ]; then
		fetch_peer
		say "building the peer: Linux $PEER, configs/peer.config"
		peer_build=$OUT/build/peer
		BASE=pristine "$scripts/kernel.sh" --config peer --tree "$OUT/peer" \
			--build "$peer_build"
	fi
	if [ -n "$profile" ]; then
		"${CC:-cc}" -O2 -Wall -shared -fPIC -o "$bench/insn_profile.so" \
			"$scripts/insn_profile.c"
	fi
}

# What else runs in the guest is in the way: each exit pays for the harness' watch for
# lost guests, and a task of real-time priority is throttled. Threads that share the
# processor are to take turns often.
write_runner()
{
	cat >"$bench/measure.sh" <<'EOF'
for events in /sys/kernel/debug/tracing/instances/*/events/enable; do
	[ ! -e "$events" ] || echo 0 >"$events"
done
echo -1 >/proc/sys/kernel/sched_rt_runtime_us
echo 1 >/proc/sys/kernel/sched_rr_timeslice_ms
exec ./guest_memfd_bench -i "$@"
EOF
}

# measure BUILD NAME ROUNDS APPEND [OPTION OF boot.sh]...: leaves NAME.csv, NAME.release
measure()
{
	from=$1
	name=$2
	count=$3
	more=$4
	shift 4
	log=$OUT/log/bench-$name.log
	arguments=
	for size in $sizes; do
		arguments="$arguments -s $size"
	done
	# One node, as there is one processor.
	# shellcheck disable=SC2086 # a list of arguments
	"$scripts/boot.sh" --quiet --build "$from" --log "$log" --icount --cpu "$cpu" \
		--append "numa=fake=1 nokaslr$more" --each 3600 "$@" \
		--files "$program" --run "$bench/measure.sh" -- -r "$count" $arguments || {
		tail -n 5 "${log%.log}.out" >&2
		die "the benchmark failed, see $log"
	}
	tr -d '\r' <"${log%.log}.out" >"$tmp/out"
	grep -E '^[a-z0-9-]+,[0-9]+,[0-9]+,' "$tmp/out" >"$bench/$name.csv" ||
		die "the benchmark printed no figures, see $log"
	sed -n 's/^# kernel: //p' "$tmp/out" >"$bench/$name.release"
}

# agree NAME OTHER: within a two-hundredth, or the few instructions of a cache
agree()
{
	paste -d , "$bench/$1.csv" "$bench/$2.csv" | awk -F , '
		$1 != $6 || $2 != $7 { print "different cases"; exit }
		$4 == "n/a" || $9 == "n/a" {
			if ($4 != $9)
				print $1 ": there in one run only"
			next
		}
		{
			d = $4 < $9 ? $9 - $4 : $4 - $9
			if (d > $4 / 200 && d > 200)
				printf "%s, %.0f bytes: %.0f and %.0f\n", $1, $2, $4, $9
		}' >"$tmp/differ"
	[ -s "$tmp/differ" ] || return 0
	say "two runs differ:"
	sed 's/^/  /' "$tmp/differ" >&2
	status=1
}

# measure_kernel BUILD NAME APPEND
measure_kernel()
{
	for run in 1 2; do
		say "measuring: $2, run $run of 2"
		measure "$1" "$2-$run" "$rounds" "$3"
	done
	agree "$2-1" "$2-2"
	cp "$bench/$2-1.csv" "$bench/$2.csv"
	cp "$bench/$2-1.release" "$bench/$2.release"
	[ -n "$profile" ] || return 0
	say "measuring: $2, by function"
	measure "$1" "$2-profile" 1 "$3" --plugin "$bench/insn_profile.so,out=$bench/$2.counts"
	by_function "$1/System.map" "$bench/$2-profile.csv" "$bench/$2.counts" \
		>"$bench/$2.profile"
}

# by_function SYSTEM.MAP CSV COUNTS: lines "CASE BYTES PAGES INSTRUCTIONS FUNCTION".
# The pairs of marks come in the order in which the cases are listed.
by_function()
{
	sort "$1" | awk '
		function number(hex,  i, value)
		{
			value = 0
			for (i = 9; i <= 16; i++)
				value = value * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
			return value
		}
		function symbol(hex,  value, low, high, middle)
		{
			if (length(hex) < 16)
				return length(hex) <= 5 ? "(guest)" : "(user)"
			value = number(hex)
			low = 0
			high = nr - 1
			while (low < high) {
				middle = int((low + high + 1) / 2)
				if (at[middle] <= value)
					low = middle
				else
					high = middle - 1
			}
			return called[low]
		}
		FNR == 1 { file++ }
		file == 1 {
			if ($2 ~ /^[tTwW]$/ && $1 ~ /^ffffffff/) {
				at[nr + 0] = number($1)
				called[nr + 0] = $3
				nr++
			}
			next
		}
		file == 2 {
			split($0, field, ",")
			if (field[4] != "n/a" && field[1] !~ /^memory-/)
				name[++cases] = field[1] " " field[2] " " field[3]
			next
		}
		{ sum[$1 SUBSEP symbol($2)] += $3 }
		END {
			for (key in sum) {
				split(key, part, SUBSEP)
				printf "%s %s %.0f %s\n", part[1], name[part[1]], sum[key], part[2]
			}
		}' - "$2" "$3" | sort -k 1,1n -k 5,5rn | cut -d ' ' -f 2-
}

# The table of aims: LABEL|CASE|BYTES|UNIT|FLOOR|AIM. BYTES is a size of its own, where a
# case has one. The figure is per page of 4 KiB, or per call.
operations()
{
	cat <<'EOF'
pre-fault, cold|prefault-cold||page|512|600
first touch by the guest, private|touch-private||page|512|650
first touch by the guest, shared file|touch-shared-file||page|512|
(first touch, ordinary memory, THP)|touch-thp||page|512|
(first touch, ordinary memory, 4 KiB)|touch-4k||page|512|
pre-fault of allocated, zeroed memory|prefault-warm||page||60
fallocate|fallocate||page||30
pre-fault after fallocate|prefault-fallocated||page||
write()|write||page|512|
set attributes, unmapped, 1 GiB|attributes|1073741824|page||1
set attributes, unmapped, 1 TiB|attributes|1099511627776|call||
set attributes of one page|attributes|4096|call||
set attributes of every other page|attributes-alternating||page||
convert to shared, mapped|convert-private-to-shared||page||30
convert to private, mapped|convert-shared-to-private||page||30
convert to private in place, mapped|inplace-to-private||page||30
convert to shared in place, mapped|inplace-to-shared||page||30
punch hole, mapped|punch-mapped||page||60
(free ordinary memory, THP)|free-thp||page||
close, mapped|close-mapped||page||
attribute memory per range, bytes|memory-attributes-alternating||page||1024
attribute memory of 1 GiB, one range, bytes|memory-attributes|1073741824|call||
page tables of the guest, bytes|memory-page-tables||page||
create|create||call||
bind|bind||call||
EOF
}

# all_figures: what bench.csv has, from the files of each kernel
all_figures()
{
	echo case,bytes,pages,ours,pages_only,peer
	[ -f "$bench/peer.csv" ] || : >"$bench/peer.csv"
	awk -F , '
		FILENAME == ARGV[1] { small[$1, $2] = $4; next }
		FILENAME == ARGV[2] { peer[$1, $2] = $4; next }
		{
			print $1 "," $2 "," $3 "," $4 "," small[$1, $2] "," peer[$1, $2]
		}' "$bench/series-4k.csv" "$bench/peer.csv" "$bench/series.csv"
}

# table: lines LABEL|UNIT|OURS|PAGES ONLY|PEER|FLOOR|AIM|VERDICT, "-" for what is not there
table()
{
	operations | awk -F '|' -v last="${sizes##* }" '
		FNR == 1 { file++ }
		file == 1 { order[++rows] = $0; next }
		{
			split($0, f, ",")
			pages[f[1], f[2]] = f[3]
			for (who = 1; who <= 3; who++)
				total[who, f[1], f[2]] = f[3 + who]
		}
		function value(who, name, bytes, unit,  t)
		{
			t = total[who, name, bytes]
			if (t == "" || t == "n/a")
				return "-"
			return unit == "page" ? t / pages[name, bytes] : t
		}
		END {
			for (i = 1; i <= rows; i++) {
				split(order[i], o, "|")
				bytes = o[3] != "" ? o[3] : last * 1048576
				ours = value(1, o[2], bytes, o[4])
				verdict = ""
				if (o[6] != "" && ours != "-")
					verdict = ours + 0 <= o[6] + 0 ? "met" : "MISSED"
				print o[1] "|" o[4] "|" ours "|" \
					value(2, o[2], bytes, o[4]) "|" \
					value(3, o[2], bytes, o[4]) "|" o[5] "|" o[6] "|" verdict
			}
		}' - "$bench/bench.csv"
}

# Numbers as people write them.
figures='
	function group(n,  s, r)
	{
		s = sprintf("%.0f", n)
		r = ""
		while (length(s) > 3) {
			r = "," substr(s, length(s) - 2) r
			s = substr(s, 1, length(s) - 3)
		}
		return s r
	}
	function figure(n)
	{
		if (n == "-" || n == "")
			return n
		return n < 10 ? sprintf("%.2f", n) : n < 100 ? sprintf("%.1f", n) : group(n)
	}
	function ratio(a, b)
	{
		if (a == "-" || b == "-" || b + 0 == 0)
			return ""
		return a / b < 0.0995 ? sprintf("%.4f", a / b) : sprintf("%.2f", a / b)
	}'

# What must not grow: LABEL|OF WHAT|UNIT|CASE:BYTES...
scaling()
{
	gib=1073741824
	tib=1099511627776
	slots="$gib $((32 * gib)) $((tib - gib))"
	# cases NAME BYTES...
	cases()
	{
		case_name=$1
		shift
		for bytes; do
			printf '%s:%s ' "$case_name" "$bytes"
		done
	}
	# shellcheck disable=SC2086 # lists
	cat <<EOF
set attributes, no slot|4 KiB, 2 MiB, 1 GiB, 1 TiB|call|$(cases attributes 4096 2097152 $gib $tib)
set attributes of a slot|1, 32, 1,023 GiB|call|$(cases sparse-attributes $slots)
convert a slot, 64 MiB of it mapped|1, 32, 1,023 GiB|call|$(cases sparse-convert $slots)
punch a slot, 64 MiB of it mapped|1, 32, 1,023 GiB|page|$(cases sparse-punch $slots)
close its file|1, 32, 1,023 GiB|page|$(cases sparse-close $slots)
first touch in it|1, 32, 1,023 GiB|page|$(cases sparse-touch $slots)
first touch, other slots|1, 128, 8,192|page|$(for n in 1 128 8192; do cases slots-$n-touch 67108864; done)
convert, other slots|1, 128, 8,192|call|$(for n in 1 128 8192; do cases slots-$n-convert 67108864; done)
first touch, other files|1, 128, 2,048|page|$(for n in 1 128 2048; do cases files-$n-touch 67108864; done)
convert, other files|1, 128, 2,048|call|$(for n in 1 128 2048; do cases files-$n-convert 67108864; done)
first touch, vCPUs|1, 2, 3, 4|page|$(for n in 1 2 3 4; do cases vcpus-$n-touch 67108864; done)
EOF
}

write_scaling()
{
	cat <<'EOF'

## What does not grow

With the size of a slot, of a hole or of a range, with other slots and files of the VM,
with vCPUs that fault in turns. In instructions per call, or per page of 4 KiB that is
mapped. Growth is the last figure to the first.

| operation | of | per | ours | growth | ours, pages only | growth | peer | growth |
|---|---|---|--:|--:|--:|--:|--:|--:|
EOF
	scaling | awk -F '|' "$figures"'
		FNR == 1 { file++ }
		file == 1 { order[++rows] = $0; next }
		{
			split($0, f, ",")
			for (who = 1; who <= 3; who++)
				value[who, f[1] ":" f[2]] = f[3 + who]
			pages[f[1] ":" f[2]] = f[3]
		}
		END {
			for (i = 1; i <= rows; i++) {
				split(order[i], o, "|")
				n = split(o[4], key, " ")
				printf "| %s | %s | %s |", o[1], o[2], o[3]
				for (who = 1; who <= 3; who++) {
					text = ""
					for (j = 1; j <= n; j++) {
						v = value[who, key[j]]
						if (v == "")
							continue
						if (v != "n/a")
							v = figure(o[3] == "page" ? v / pages[key[j]] : v)
						text = text (text ? "; " : "") v
					}
					first = value[who, key[1]]
					v = value[who, key[n]]
					printf " %s | %s |", text, v == "" || v == "n/a" ? "" : ratio(v, first)
				}
				printf "\n"
			}
		}' - "$bench/bench.csv"
}

write_memory()
{
	cat <<'EOF'

## Memory that it takes

In KiB per GiB of guest memory, beside that memory itself.

| what | ours | ours, pages only | peer |
|---|--:|--:|--:|
EOF
	awk -F , -v last="${sizes##* }" "$figures"'
		function kib(total)
		{
			return total == "" || total == "n/a" ? total : figure(total * 1048576 / $2)
		}
		BEGIN {
			label["memory-page-tables"] = "page tables of the guest"
			label["memory-file-mapped"] = "slab, for the pages of the file"
			label["memory-attributes"] = "slab, for attributes, all the same"
			label["memory-attributes-alternating"] = "slab, for attributes, no two the same"
			last *= 1048576
		}
		$1 in label && $2 == last {
			printf "| %s | %s | %s | %s |\n", label[$1], kib($4), kib($5), kib($6)
		}' "$bench/bench.csv"
}

write_report()
{
	cat <<EOF
# What guest_memfd costs

Instructions, counted by an emulated processor ($(qemu-system-x86_64 --version | sed -n '1s/ *(.*//p')); written by
\`scripts/bench.sh\` on $(date -u +%Y-%m-%d). The figures are the same on every machine.

- ours: Linux $(cat "$bench/series.release"), the series$append
EOF
	[ "$PEER" = none ] || cat <<EOF
- peer: Linux $(cat "$bench/peer.release"), mainline's implementation, from $peer_package
  $(dpkg-query -W -f '${Version}' "$peer_package" 2>/dev/null || :)
EOF
	cat <<EOF

The floor is what the processor cannot do without: to clear or copy a page takes 512
instructions. Memory of ${sizes##* } MiB, where nothing else is said. "Pages only" is the
series where there are no folios of 2 MiB, which the peer never has. What is in brackets
is there for comparison.

## Aims

| operation | per | ours | ours, pages only | peer | floor | aim | | ours/peer | ours/floor |
|---|---|--:|--:|--:|--:|--:|---|--:|--:|
EOF
	awk -F '|' "$figures"'
		{
			printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", $1, $2,
				figure($3), figure($4), figure($5), $6, $7 == "" ? "" : "≤ " $7, $8,
				ratio($3, $5), $6 == "" ? "" : ratio($3, $6)
		}' "$tmp/table"
	cat <<EOF

![chart](bench.svg)
EOF
	write_scaling
	write_memory
	cat <<EOF

## All cases

What grows with the memory has the same figure per page of 4 KiB in each size; what does
not has the same total. "n/a" is what a kernel does not have, or what would take too long.

| case | bytes | ours | per page | ours, pages only | per page | peer | per page | ours/peer |
|---|--:|--:|--:|--:|--:|--:|--:|--:|
EOF
	awk -F , "$figures"'
		function per(total, pages)
		{
			return total == "" || total == "n/a" ? "" : sprintf("%.2f", total / pages)
		}
		function count(n) { return n == "" || n == "n/a" ? n : group(n) }
		function numeric(n) { return n == "" || n == "n/a" ? "-" : n }
		NR > 1 {
			printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", $1, group($2),
				count($4), per($4, $3), count($5), per($5, $3), count($6),
				per($6, $3), ratio(numeric($4), numeric($6))
		}' "$bench/bench.csv"
	for who in series series-4k peer; do
		[ ! -f "$bench/$who.profile" ] || write_profile "$who"
	done
}

write_profile()
{
	cat <<EOF

## Where the instructions go: $1

Per page of 4 KiB, or per call, as in the table of aims. The first ten functions that
have more than a hundredth of it; "(user)" is the benchmark, "(guest)" what runs in
its VM.

EOF
	operations | awk -v last="${sizes##* }" "$figures"'
		FNR == 1 { file++ }
		file == 1 {
			split($0, o, "|")
			order[++rows] = o[2] " " (o[3] != "" ? o[3] : last * 1048576)
			label[rows] = o[1]
			unit[rows] = o[4]
			next
		}
		{
			key = $1 " " $2
			sum[key] += $4
			pages[key] = $3
			line[key, ++lines[key]] = $4 " " $5
		}
		END {
			for (i = 1; i <= rows; i++) {
				key = order[i]
				if (!(key in sum))
					continue
				per = unit[i] == "page" ? pages[key] : 1
				text = ""
				for (j = 1; j <= lines[key] && j <= 10; j++) {
					split(line[key, j], p, " ")
					if (p[1] < sum[key] / 100)
						break
					text = text (j > 1 ? ", " : "") "`" p[2] "` " figure(p[1] / per)
				}
				printf "- **%s** %s: %s\n", label[i], figure(sum[key] / per), text
			}
		}' - "$bench/$1.profile"
}

write_chart()
{
	if ! command -v gnuplot >/dev/null; then
		say "no chart, as there is no gnuplot: scripts/setup.sh --bench installs it"
		return
	fi
	awk -F '|' '$2 == "page" && $3 != "-" && $1 !~ /bytes$/ {
		print "\"" $1 "\"", $3, $4 == "-" ? "NaN" : $4, $5 == "-" ? "NaN" : $5,
			$7 == "" ? "NaN" : $7
	}' "$tmp/table" >"$bench/chart.dat"
	bars=
	[ "$PEER" = none ] || bars="'' using 4 title 'mainline $PEER' lc rgb '#c9704b',"
	cat >"$bench/chart.gp" <<EOF
set terminal svg size 1000,620 font 'sans,12' background '#ffffff'
set output '$bench/bench.svg'
set ylabel 'instructions per page of 4 KiB'
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 noborder
set logscale y
set yrange [0.001:20000]
set format y '%g'
set grid ytics lc rgb '#dddddd'
set xtics rotate by 40 right scale 0 noenhanced
set key outside top center horizontal
set lmargin 22
plot '$bench/chart.dat' using 2:xtic(1) title 'ours' lc rgb '#1f6f8b', \\
     '' using 3 title 'ours, pages only' lc rgb '#8fb8c6', \\
     $bars \\
     '' using 0:5 with points pt 2 ps 1 lc rgb '#222222' title 'aim'
EOF
	gnuplot "$bench/chart.gp"
}

# Compare with what is recorded. That an operation got cheaper is told, and no failure.
compare_recorded()
{
	awk -F , -v record="$record" '
		FILENAME == ARGV[1] { now[$1, $2, 9] = $4; next }
		FILENAME == ARGV[2] { now[$1, $2, 0] = $4; next }
		$1 == "case" { next }
		{
			n++
			new = now[$1, $2, $3]
			what = n " - " $1 ", " $2 " bytes, order " $3 ": "
			if (new == "" || new == "n/a")
				print "not ok " what "not measured"
			else if (new > $4 * 1.05 && !record)
				print "not ok " what new " instructions, recorded " $4
			else if (new < $4 * 0.95 && !record)
				print "ok " what new ", recorded " $4 " (record it)"
			else
				print "ok " what new
		}
		END { print "1.." n }' "$bench/series.csv" "$bench/series-4k.csv" "$recorded"
}

# The same cases with the figures of now.
record_figures()
{
	awk -F , '
		FILENAME == ARGV[1] { now[$1, $2, 9] = $4; next }
		FILENAME == ARGV[2] { now[$1, $2, 0] = $4; next }
		$1 == "case" { print; next }
		{ print $1 "," $2 "," $3 "," now[$1, $2, $3] }
		' "$bench/series.csv" "$bench/series-4k.csv" "$recorded" >"$tmp/recorded"
	cp "$tmp/recorded" "$recorded"
}

status=0
rm -f "$bench"/*.csv "$bench"/*.profile "$bench"/*.release
build_all
write_runner
if [ -n "$guard" ]; then
	measure "$build" series "$rounds" "$append"
	measure "$build" series-4k "$rounds" "$append$pages_only"
	compare_recorded >"$tmp/tap"
	cat "$tmp/tap"
	! grep -q '^not ok' "$tmp/tap" || exit 1
	[ -z "$record" ] || record_figures
	exit 0
fi
measure_kernel "$build" series "$append"
measure_kernel "$build" series-4k "$append$pages_only"
[ "$PEER" = none ] || measure_kernel "$peer_build" peer ''
all_figures >"$bench/bench.csv"
table >"$tmp/table"
write_report >"$bench/report.md"
write_chart
sed -n '/^## Aims/,/^!/p' "$bench/report.md" | grep '^|'
say "see $bench/report.md, bench.csv and bench.svg"
if grep -q 'MISSED$' "$tmp/table"; then
	say "not all aims are met"
	status=1
fi
exit "$status"
