#!/bin/sh
# Usage: gmem_vmm_cli_test.sh
#
# Test how tools/kvm/gmem_vmm takes its command line: every mistake is one line on
# stderr that names the culprit, and exit status 2. Test the image that it would have
# measured, and the digest of it; and how gmemtop takes its own. Builds gmem_vmm; needs no
# KVM and starts no guest.
# Prints TAP.
#
# Exit status: 0 all passed; 1 a test failed; 2 wrong usage.
set -eu

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"

case ${1-} in
'') ;;
-h | --help) usage; exit 0 ;;
*) fail_usage "$1: unexpected argument" ;;
esac

make_tmp
count=0
failed=0

verdict()
{
	count=$((count + 1))
	if [ -z "$wrong" ]; then
		echo "ok $count $1"
	else
		failed=$((failed + 1))
		echo "not ok $count $1"
		echo "# $wrong"
		sed 's/^/# /' "$tmp/stdout" "$tmp/stderr"
	fi
}

vmm()
{
	got=0
	"$tmp/gmem_vmm" "$@" </dev/null >"$tmp/stdout" 2>"$tmp/stderr" || got=$?
}

# refused NAME REGEX ARGUMENT...: status 2, and one line that matches.
refused()
{
	name=$1
	line=$2
	shift 2
	vmm "$@"
	wrong=
	[ "$got" -eq 2 ] || wrong="exit status $got, expected 2"
	[ ! -s "$tmp/stdout" ] || wrong="${wrong:+$wrong; }output on stdout"
	[ "$(wc -l <"$tmp/stderr")" -eq 1 ] || wrong="${wrong:+$wrong; }not one line on stderr"
	grep -q -E -e "^gmem_vmm: $line" "$tmp/stderr" ||
		wrong="${wrong:+$wrong; }no '$line' on stderr"
	verdict "$name"
}

unset MAKEFLAGS MFLAGS MAKELEVEL
got=0
make -C "$REPO/tools/kvm/gmem_vmm" OUTPUT="$tmp/" >"$tmp/stdout" 2>"$tmp/stderr" || got=$?
wrong=
[ "$got" -eq 0 ] || wrong="make ended with status $got"
verdict "builds without warnings"
if [ "$got" -ne 0 ]; then
	echo "1..$count"
	exit 1
fi

wrong=
if ldd "$tmp/gmem_vmm" >/dev/null 2>&1; then
	wrong="needs shared libraries"
fi
verdict "is static"

for option in --help -h; do
	vmm "$option"
	wrong=
	[ "$got" -eq 0 ] || wrong="exit status $got, expected 0"
	[ ! -s "$tmp/stderr" ] || wrong="${wrong:+$wrong; }output on stderr"
	for word in Usage: --kernel --initrd --append --mem --cpus --memory --inplace --shared \
		--second-process --prefault --measure --poison --dump-image --stats --verbose 'Exit status:'; do
		grep -q -e "$word" "$tmp/stdout" || wrong="${wrong:+$wrong; }no '$word' in it"
	done
	verdict "$option prints the usage"
done

kernel=$tmp/kernel
echo "not a kernel" >"$kernel"
missing=$tmp/missing

refused "no argument" '--kernel FILE is missing'
refused "an unknown option" '--bogus: unknown option' --kernel "$kernel" --bogus
refused "an unknown short option" '-x: unknown option' -x --kernel "$kernel"
refused "an argument that is no option" 'extra: unexpected argument' --kernel "$kernel" extra
refused "a kernel that does not exist" "--kernel $missing: No such file" --kernel "$missing"
refused "an initrd that does not exist" "--initrd $missing: No such file" \
	--kernel "$kernel" --initrd "$missing"
for option in --kernel --initrd --append --mem --cpus --memory --stats; do
	refused "$option without its value" "$option needs a value" "$option"
done
for size in '' 0 1 64X 64MB -64M 0x4000000 16777217 15M 1025G 99999999999999999999 ' 64M' 17179869185G; do
	refused "--mem '$size'" "--mem $size: give a size" --kernel "$kernel" --mem "$size"
done
for cpus in '' 0 5 -1 1x 22 two; do
	refused "--cpus '$cpus'" "--cpus $cpus: give a number" --kernel "$kernel" --cpus "$cpus"
done
for period in '' 0 -1 1.5 1s 3601 99999999999999999999 ' 1'; do
	refused "--stats '$period'" "--stats $period: give a number of seconds from 1 to 3600" \
		--kernel "$kernel" --stats "$period"
done
for memory in '' Private in-place; do
	refused "--memory '$memory'" "--memory $memory: give private, inplace, shared or ordinary" \
		--kernel "$kernel" --memory "$memory"
done

# Each of these is right, so what is refused is the next thing: no /dev/kvm, a
# kernel without the feature, or a file that is no kernel.
for size in 16M 16384K 16777216 1G 1024G; do
	refused "--mem $size is taken" "(/dev/kvm:|--kernel $kernel:)" --kernel "$kernel" --mem "$size"
done
refused "all options together are taken" "(/dev/kvm:|--kernel $kernel:)" --verbose -v \
	--append 'a b' --cpus 4 --memory private --initrd "$kernel" --kernel "$kernel" --mem 64m \
	--prefault --measure
for memory in private inplace shared; do
	refused "--poison with --memory $memory is taken" "(/dev/kvm:|--poison: /sys/|--kernel $kernel:)" \
		--kernel "$kernel" --poison --memory "$memory"
done
for memory in private inplace shared ordinary; do
	refused "--stats with --memory $memory is taken" "(/dev/kvm:|--kernel $kernel:)" \
		--kernel "$kernel" --stats 3600 --memory "$memory"
done
for memory in private inplace shared ordinary; do
	refused "--prefault with --memory $memory is taken" "(/dev/kvm:|--kernel $kernel:)" \
		--kernel "$kernel" --prefault --memory "$memory"
done
refused "--shared with --second-process is taken" "(/dev/kvm:|--kernel $kernel:)" \
	--kernel "$kernel" --shared --second-process

for memory in inplace shared ordinary; do
	refused "--measure with --memory $memory" \
		"--measure is for private memory: not with --memory $memory" \
		--kernel "$kernel" --measure --memory "$memory"
	refused "--dump-image with --memory $memory" \
		"--dump-image is for private memory: not with --memory $memory" \
		--kernel "$kernel" --memory "$memory" --dump-image
done
for memory in inplace shared; do
	refused "--$memory is --memory $memory" "--measure is for private memory: not with --memory $memory" \
		--kernel "$kernel" --measure "--$memory"
done
for memory in private inplace ordinary; do
	refused "--second-process with --memory $memory" \
		"--second-process is for shared memory: not with --memory $memory" \
		--kernel "$kernel" --second-process --memory "$memory"
done
refused "--dump-image with --measure" '--dump-image starts no VM: not with --measure' \
	--kernel "$kernel" --measure --dump-image
refused "--dump-image with --prefault" '--dump-image starts no VM: not with --prefault' \
	--kernel "$kernel" --dump-image --prefault
refused "--dump-image with --poison" '--dump-image starts no VM: not with --poison' \
	--kernel "$kernel" --poison --dump-image
refused "--dump-image with --stats" '--dump-image starts no VM: not with --stats' \
	--kernel "$kernel" --stats 1 --dump-image
refused "--poison with --memory ordinary" \
	'--poison is for memory in a file: not with --memory ordinary' \
	--kernel "$kernel" --poison --memory ordinary
refused "--dump-image of a file that is no kernel" "--kernel $kernel: not a bzImage" \
	--kernel "$kernel" --dump-image

# patch FILE OFFSET BYTES: bytes as printf takes them.
patch()
{
	# shellcheck disable=SC2059 # escapes to be interpreted
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# fake_kernel FILE TEXT: the header of a bzImage, boot protocol 2.15, that unpacks
# to 64 KiB at 1 MiB; the text is where the kernel's code would be.
fake_kernel()
{
	head -c 1024 /dev/zero >"$1"
	patch "$1" 497 '\001'				# one sector of setup code
	patch "$1" 512 '\353\150HdrS\017\002'		# jump, magic, version
	patch "$1" 529 '\001'				# loaded high
	patch "$1" 532 '\000\000\020\000'		# entry: 1 MiB
	patch "$1" 556 '\377\377\377\177'		# end of where the initrd may be
	patch "$1" 568 '\377\007\000\000'		# length of the command line
	patch "$1" 600 '\000\000\020\000'		# preferred address: 1 MiB
	patch "$1" 608 '\000\000\001\000'		# memory to unpack to
	printf '%s' "$2" >>"$1"
}

image=$tmp/bzImage
initrd=$tmp/initrd
fake_kernel "$image" "this would be code"
head -c 5000 /dev/zero | tr '\000' i >"$initrd"

measure()
{
	got=0
	GMEM_VMM=$tmp/gmem_vmm "$REPO/tools/kvm/gmem_vmm/gmem_measure.sh" "$@" \
		</dev/null >"$tmp/stdout" 2>"$tmp/stderr" || got=$?
}

# Text at an offset in the record of a page: record ADDRESS OFFSET LENGTH
record()
{
	number=$(grep -n -x "$(printf %d "$1")" "$tmp/addresses" | cut -d : -f 1)
	[ -n "$number" ] || return 0
	tail -c "+$(((number - 1) * 4104 + 8 + $2 + 1))" "$tmp/image" | head -c "$3"
}

vmm --kernel "$image" --initrd "$initrd" --append "some words" --dump-image
wrong=
[ "$got" -eq 0 ] || wrong="exit status $got, expected 0"
[ ! -s "$tmp/stderr" ] || wrong="${wrong:+$wrong; }output on stderr"
mv "$tmp/stdout" "$tmp/image"
: >"$tmp/stdout"
# Boot tables, parameters, command line, MP table, kernel, two pages of initrd.
[ "$(wc -c <"$tmp/image")" -eq $((7 * 4104)) ] || wrong="${wrong:+$wrong; }not seven records"
verdict "--dump-image writes a record per page"

od -A n -v -t u8 -w4104 "$tmp/image" | awk '{ print $1 }' >"$tmp/addresses"
wrong=
printf '%d\n' 0 0x7000 0x20000 0x9f000 0x100000 0x3ffe000 0x3fff000 |
	cmp -s - "$tmp/addresses" || wrong="the addresses are $(tr '\n' ' ' <"$tmp/addresses")"
verdict "the records are in ascending order of address"

wrong=
[ "$(record 0x100000 0 18)" = "this would be code" ] || wrong="the kernel is not at 1 MiB"
[ "$(record 0x3fff000 0 904 | tr -d i | wc -c)" -eq 0 ] ||
	wrong="${wrong:+$wrong; }the initrd does not end where RAM ends"
[ "$(record 0x3fff000 904 3192 | tr -d '\000' | wc -c)" -eq 0 ] ||
	wrong="${wrong:+$wrong; }the rest of its page is not zero"
record 0x20000 0 2048 | tr -d '\000' >"$tmp/cmdline"
grep -q -x 'console=ttyS0 reboot=k panic=-1 gmem_memory=private some words' "$tmp/cmdline" ||
	wrong="${wrong:+$wrong; }more on the command line"
verdict "the records hold the kernel, the initrd and the command line"

wrong=
status=0
"$tmp/gmem_vmm" --kernel "$image" --dump-image >/dev/full 2>"$tmp/stderr" || status=$?
[ "$status" -eq 1 ] || wrong="exit status $status, expected 1"
grep -q '^gmem_vmm: writing the image: No space left' "$tmp/stderr" ||
	wrong="${wrong:+$wrong; }no message"
verdict "--dump-image to a full device"

measure --kernel "$image" --initrd "$initrd" --append "some words"
digest=$(cat "$tmp/stdout")
wrong=
[ "$got" -eq 0 ] || wrong="exit status $got, expected 0"
[ "$digest" = "sha256:$(sha256sum <"$tmp/image" | cut -d ' ' -f 1)" ] ||
	wrong="${wrong:+$wrong; }not the digest of the image"
verdict "gmem_measure.sh prints the digest of the image"

# This one changes when the image does, and for no other reason: not with the
# machine, the day or the user.
wrong=
[ "$digest" = sha256:8793551bcffda6c12247e1a2b9fd49ebf68a64b3539d9558ee07c0e09733d151 ] || wrong="the digest is $digest"
verdict "the digest depends on the options and the files only"

cp "$image" "$tmp/other-name"
touch -d '1 January 2001' "$tmp/other-name"
(cd / && TZ=Asia/Tokyo measure --kernel "$tmp/other-name" --initrd "$initrd" --mem 65536K \
	--append "some words" --cpus 1 --memory private)
wrong=
[ "$(cat "$tmp/stdout")" = "$digest" ] || wrong="another digest"
verdict "names and dates of the files and the form of the options do not count"

fake_kernel "$tmp/other-kernel" "this would be Code"
tr i I <"$initrd" >"$tmp/other-initrd"
# differs WHAT OPTION...: what was measured before, with another value for one.
differs()
{
	what=$1
	shift
	measure --kernel "$image" --initrd "$initrd" --append "some words" "$@"
	wrong=
	[ "$got" -eq 0 ] || wrong="exit status $got, expected 0"
	grep -q -x 'sha256:[0-9a-f]\{64\}' "$tmp/stdout" || wrong="${wrong:+$wrong; }no digest"
	[ "$(cat "$tmp/stdout")" != "$digest" ] || wrong="${wrong:+$wrong; }the same digest"
	verdict "another $what, another digest"
}
differs kernel --kernel "$tmp/other-kernel"
differs initrd --initrd "$tmp/other-initrd"
differs "command line" --append "some word"
differs "size of RAM" --mem 65M
differs "number of vCPUs" --cpus 2

measure --kernel "$missing"
wrong=
[ "$got" -eq 2 ] || wrong="exit status $got, expected 2"
[ ! -s "$tmp/stdout" ] || wrong="${wrong:+$wrong; }output on stdout"
grep -q "^gmem_vmm: --kernel $missing: No such file" "$tmp/stderr" ||
	wrong="${wrong:+$wrong; }no message"
verdict "gmem_measure.sh prints no digest of an image that cannot be built"

# gmemtop NAME STATUS REGEX ARGUMENT...: that status, and a line on stdout, or on
# stderr if it is not 0, that matches.
gmemtop()
{
	name=$1
	want=$2
	line=$3
	shift 3
	got=0
	"$REPO/tools/kvm/gmem_vmm/gmemtop.sh" "$@" >"$tmp/stdout" 2>"$tmp/stderr" || got=$?
	wrong=
	[ "$got" -eq "$want" ] || wrong="exit status $got, expected $want"
	where=$tmp/stdout
	[ "$want" -eq 0 ] || where=$tmp/stderr
	grep -q -E -e "$line" "$where" || wrong="${wrong:+$wrong; }no '$line'"
	verdict "$name"
}
gmemtop "gmemtop --help" 0 '^Usage: gmemtop.sh ' --help
gmemtop "gmemtop shows its columns where there is nothing" 0 '^ +PID +FD +INODE +SIZE' -n 1
gmemtop "gmemtop refuses a count that is none" 2 "^gmemtop.sh: 'x' is not a number" -n x
gmemtop "gmemtop refuses a delay that is none" 2 "^gmemtop.sh: '' is not a number" -d ''
gmemtop "gmemtop refuses other arguments" 2 '^gmemtop.sh: all: no such argument' -n 1 all
gmemtop "gmemtop refuses other options" 2 '^Usage: gmemtop.sh ' -x

echo "1..$count"
[ "$failed" -eq 0 ]
