// SPDX-License-Identifier: GPL-2.0
/* The command line: every mistake is one line on stderr and exit status 2. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define MIN_MEM	(16ULL << 20)
#define MAX_MEM	(1024 * GIB)
#define MAX_PERIOD	3600

const char * const memory_names[NR_MEMORY_KINDS] = {
	[MEMORY_PRIVATE] = "private",
	[MEMORY_INPLACE] = "inplace",
	[MEMORY_SHARED] = "shared",
	[MEMORY_ORDINARY] = "ordinary",
};

static const char usage[] =
"Usage: gmem_vmm --kernel BZIMAGE [OPTION]...\n"
"\n"
"Boot a Linux kernel in a KVM VM whose RAM is a guest_memfd, with a serial console\n"
"on standard input and output.  When the guest ends, or on SIGINT or SIGTERM, print\n"
"a table of what its memory did.\n"
"\n"
"  --kernel FILE      bzImage to boot, x86-64, any unmodified Linux\n"
"  --initrd FILE      initial RAM disk\n"
"  --append TEXT      added to the kernel command line\n"
"  --mem SIZE[K|M|G]  RAM in bytes, KiB, MiB or GiB: multiple of 4K, 16M to\n"
"                     1024G (default 64M)\n"
"  --cpus N           vCPUs, 1 to 4 (default 1)\n"
"  --memory KIND      private: in a file that the VMM cannot map; pages that the\n"
"                     guest shares are ordinary memory (default)\n"
"                     inplace: in a file that the VMM can map; pages are private\n"
"                     or shared where they are\n"
"                     shared: in a file that the VMM can map, all of it\n"
"                     ordinary: in ordinary memory, the baseline\n"
"  --inplace          same as --memory inplace\n"
"  --shared           same as --memory shared\n"
"  --second-process   of shared memory: give the file to a second process, which\n"
"                     looks for the demo guest's secret as well\n"
"  --prefault         map all RAM before the guest runs, so that it never faults on\n"
"                     RAM; what it converts is mapped again at once\n"
"  --measure          give kernel, initrd and boot tables to /dev/kvm-gmem-soft to\n"
"                     load and to measure, and print the digest; gmem_measure.sh\n"
"                     computes the same from the same options\n"
"  --poison           have the demo guest run into a memory error, which the kernel\n"
"                     makes for us (root, CONFIG_KVM_GMEM_INJECT_ERRORS)\n"
"  --dump-image       start no VM; write to standard output what --measure would\n"
"                     measure: the address and the content of each page\n"
"  --stats SECONDS    print each so many seconds, 1 to 3600, and at the end, a line\n"
"                     of counters on stderr: of the file, of KVM's mappings\n"
"  -v, --verbose      report conversions and memory-fault exits on stderr as\n"
"                     they happen, and list all exits by kind in the table\n"
"  -h, --help         this text\n"
"\n"
"The guest ends the VM by writing a byte to I/O port 0xf4: 0 if all is well.\n"
"Resetting ends it too, but counts as a failure: that is how a panic ends.\n"
"\n"
"Exit status: 0 the guest ended itself with value 0 and no check failed;\n"
"1 it ended otherwise, or something failed while it ran; 2 wrong arguments, a\n"
"missing file, or a kernel without the feature; 128 + N stopped by signal N.\n"
"With --dump-image: 0 all is written; 1 writing failed; 2 as above.\n";

static uint64_t parse_size(const char *text)
{
	unsigned long long value;
	unsigned int shift = 0;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno)
		goto bad;
	if (*end && strchr("Kk", *end))
		shift = 10;
	else if (*end && strchr("Mm", *end))
		shift = 20;
	else if (*end && strchr("Gg", *end))
		shift = 30;
	if (shift)
		end++;
	if (*end || value > (MAX_MEM >> shift))
		goto bad;
	value <<= shift;
	if (value < MIN_MEM || value % PAGE_SIZE)
		goto bad;
	return value;
bad:
	die(2, "--mem %s: give a size like 64M: a multiple of 4K from 16M to 1024G",
	    text);
}

static unsigned int parse_cpus(const char *text)
{
	if (text[0] < '1' || text[0] > '0' + MAX_VCPUS || text[1])
		die(2, "--cpus %s: give a number from 1 to %d", text, MAX_VCPUS);
	return text[0] - '0';
}

static unsigned int parse_period(const char *text)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || !value || value > MAX_PERIOD)
		die(2, "--stats %s: give a number of seconds from 1 to %d", text,
		    MAX_PERIOD);
	return value;
}

static enum memory_kind parse_memory(const char *text)
{
	unsigned int i;

	for (i = 0; i < NR_MEMORY_KINDS; i++)
		if (!strcmp(text, memory_names[i]))
			return i;
	die(2, "--memory %s: give private, inplace, shared or ordinary", text);
}

static void check_file(const char *option, const char *path)
{
	if (access(path, R_OK))
		die(2, "%s %s: %s", option, path, strerror(errno));
}

/* Each option is right, some do not go together. */
static void check_combination(const struct options *opt)
{
	if (opt->dump_image && opt->measure)
		die(2, "--dump-image starts no VM: not with --measure, see --help");
	if (opt->dump_image && opt->prefault)
		die(2, "--dump-image starts no VM: not with --prefault, see --help");
	if (opt->dump_image && opt->stats)
		die(2, "--dump-image starts no VM: not with --stats, see --help");
	if (opt->dump_image && opt->poison)
		die(2, "--dump-image starts no VM: not with --poison, see --help");
	if (opt->poison && opt->memory == MEMORY_ORDINARY)
		die(2, "--poison is for memory in a file: not with --memory ordinary, see --help");
	if ((opt->dump_image || opt->measure) && opt->memory != MEMORY_PRIVATE)
		die(2, "%s is for private memory: not with --memory %s, see --help",
		    opt->measure ? "--measure" : "--dump-image",
		    memory_names[opt->memory]);
	if (opt->second_process && opt->memory != MEMORY_SHARED)
		die(2, "--second-process is for shared memory: not with --memory %s, see --help",
		    memory_names[opt->memory]);
}

void parse_options(struct options *opt, int argc, char **argv)
{
	static const struct option options[] = {
		{ "kernel",	required_argument,	NULL, 'k' },
		{ "initrd",	required_argument,	NULL, 'i' },
		{ "append",	required_argument,	NULL, 'a' },
		{ "mem",	required_argument,	NULL, 'm' },
		{ "cpus",	required_argument,	NULL, 'c' },
		{ "memory",	required_argument,	NULL, 't' },
		{ "inplace",	no_argument,		NULL, 'I' },
		{ "shared",	no_argument,		NULL, 'S' },
		{ "second-process", no_argument,	NULL, '2' },
		{ "prefault",	no_argument,		NULL, 'p' },
		{ "measure",	no_argument,		NULL, 'M' },
		{ "poison",	no_argument,		NULL, 'P' },
		{ "dump-image",	no_argument,		NULL, 'd' },
		{ "stats",	required_argument,	NULL, 's' },
		{ "verbose",	no_argument,		NULL, 'v' },
		{ "help",	no_argument,		NULL, 'h' },
		{ }
	};
	int c;

	*opt = (struct options){
		.mem = 64ULL << 20, .append = "", .cpus = 1,
	};
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":vh", options, NULL)) != -1) {
		switch (c) {
		case 'k':
			opt->kernel = optarg;
			break;
		case 'i':
			opt->initrd = optarg;
			break;
		case 'a':
			opt->append = optarg;
			break;
		case 'm':
			opt->mem = parse_size(optarg);
			break;
		case 'c':
			opt->cpus = parse_cpus(optarg);
			break;
		case 't':
			opt->memory = parse_memory(optarg);
			break;
		case 'I':
			opt->memory = MEMORY_INPLACE;
			break;
		case 'S':
			opt->memory = MEMORY_SHARED;
			break;
		case '2':
			opt->second_process = true;
			break;
		case 'p':
			opt->prefault = true;
			break;
		case 'M':
			opt->measure = true;
			break;
		case 'P':
			opt->poison = true;
			break;
		case 'd':
			opt->dump_image = true;
			break;
		case 's':
			opt->stats = parse_period(optarg);
			break;
		case 'v':
			opt->verbose = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		case ':':
			die(2, "%s needs a value, see --help", argv[optind - 1]);
		default:
			die(2, "%s: unknown option, see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		die(2, "%s: unexpected argument, see --help", argv[optind]);
	if (!opt->kernel)
		die(2, "--kernel FILE is missing, see --help");
	check_combination(opt);
	check_file("--kernel", opt->kernel);
	if (opt->initrd)
		check_file("--initrd", opt->initrd);
}
