#!/bin/sh
# Usage: gmem_vmm_cli_test.sh
#
# Test how tools/kvm/gmem_vmm takes its command line: every mistake is one line on
# stderr that names the culprit, and exit status 2. Builds gmem_vmm; needs no KVM
# and starts no guest. Prints TAP.
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
	for word in Usage: --kernel --initrd --append --mem --cpus --memory --verbose 'Exit status:'; do
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
for option in --kernel --initrd --append --mem --cpus --memory; do
	refused "$option without its value" "$option needs a value" "$option"
done
for size in '' 0 1 64X 64MB -64M 0x4000000 16777217 15M 1025G 99999999999999999999 ' 64M' 17179869185G; do
	refused "--mem '$size'" "--mem $size: give a size" --kernel "$kernel" --mem "$size"
done
for cpus in '' 0 5 -1 1x 22 two; do
	refused "--cpus '$cpus'" "--cpus $cpus: give a number" --kernel "$kernel" --cpus "$cpus"
done
for memory in '' Private shared; do
	refused "--memory '$memory'" "--memory $memory: give private or ordinary" \
		--kernel "$kernel" --memory "$memory"
done

# Each of these is right, so what is refused is the next thing: no /dev/kvm, a
# kernel without the feature, or a file that is no kernel.
for size in 16M 16384K 16777216 1G 1024G; do
	refused "--mem $size is taken" "(/dev/kvm:|--kernel $kernel:)" --kernel "$kernel" --mem "$size"
done
refused "all options together are taken" "(/dev/kvm:|--kernel $kernel:)" --verbose -v \
	--append 'a b' --cpus 4 --memory private --initrd "$kernel" --kernel "$kernel" --mem 64m

echo "1..$count"
[ "$failed" -eq 0 ]
