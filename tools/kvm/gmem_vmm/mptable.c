// SPDX-License-Identifier: GPL-2.0
/*
 * The MultiProcessor table (Intel's MP specification 1.4): the smallest thing
 * in which Linux finds processors, the IO-APIC and the wiring of interrupts.
 */
#include <string.h>

#include "gmem_vmm.h"

#define APIC_BASE	0xfee00000U
#define APIC_VERSION	0x14
#define IOAPIC_BASE	0xfec00000U
#define IOAPIC_VERSION	0x11
#define NR_ISA_IRQS	16
#define BROADCAST	0xff

enum { ENTRY_CPU, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INTERRUPT, ENTRY_LOCAL };
enum { KIND_INT, KIND_NMI, KIND_SMI, KIND_EXTINT };

#define CPU_ENABLED	1
#define CPU_BOOT	2
#define IOAPIC_ENABLED	1

struct mp_pointer {
	char signature[4];
	uint32_t table;
	uint8_t length;		/* in 16-byte units */
	uint8_t version;
	uint8_t checksum;
	uint8_t features[5];
};

struct mp_header {
	char signature[4];
	uint16_t length;
	uint8_t version;
	uint8_t checksum;
	char oem[8];
	char product[12];
	uint32_t oem_table;
	uint16_t oem_size;
	uint16_t entries;
	uint32_t apic_base;
	uint32_t extended;
};

struct mp_cpu {
	uint8_t type;
	uint8_t apic_id;
	uint8_t apic_version;
	uint8_t flags;
	uint32_t signature;
	uint32_t features;
	uint32_t reserved[2];
};

struct mp_bus {
	uint8_t type;
	uint8_t id;
	char name[6];
};

struct mp_ioapic {
	uint8_t type;
	uint8_t id;
	uint8_t version;
	uint8_t flags;
	uint32_t address;
};

struct mp_interrupt {
	uint8_t type;
	uint8_t kind;
	uint16_t flags;
	uint8_t src_bus;
	uint8_t src_irq;
	uint8_t dst_apic;
	uint8_t dst_pin;
};

_Static_assert(sizeof(struct mp_pointer) == 16 && sizeof(struct mp_header) == 44 &&
	       sizeof(struct mp_cpu) == 20 && sizeof(struct mp_interrupt) == 8,
	       "the table's entries have no padding");

static uint8_t checksum(const void *data, size_t size)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (size--)
		sum += *p++;
	return -sum;
}

/* Appends one entry and moves on. */
static void *put(void *to, const void *entry, size_t size, struct mp_header *header)
{
	memcpy(to, entry, size);
	header->entries++;
	return (uint8_t *)to + size;
}

#define PUT(to, type, header, ...) \
	put(to, &(type) { __VA_ARGS__ }, sizeof(type), header)

size_t mptable_build(void *buf, unsigned int cpus)
{
	struct mp_pointer *pointer = buf;
	struct mp_header *header = (void *)(pointer + 1);
	uint8_t ioapic_id = cpus;
	void *p = header + 1;
	unsigned int i;

	*header = (struct mp_header){
		.signature = { 'P', 'C', 'M', 'P' }, .version = 4,
		.oem = "GMEM    ", .product = { "GMEM_VMM    " },
		.apic_base = APIC_BASE,
	};
	for (i = 0; i < cpus; i++)
		p = PUT(p, struct mp_cpu, header, .type = ENTRY_CPU, .apic_id = i,
			.apic_version = APIC_VERSION,
			.flags = CPU_ENABLED | (i ? 0 : CPU_BOOT));
	p = PUT(p, struct mp_bus, header, .type = ENTRY_BUS,
		.name = { 'I', 'S', 'A', ' ', ' ', ' ' });
	p = PUT(p, struct mp_ioapic, header, .type = ENTRY_IOAPIC, .id = ioapic_id,
		.version = IOAPIC_VERSION, .flags = IOAPIC_ENABLED, .address = IOAPIC_BASE);
	/* KVM wires ISA interrupt N to pin N unless told otherwise. */
	for (i = 0; i < NR_ISA_IRQS; i++)
		p = PUT(p, struct mp_interrupt, header, .type = ENTRY_INTERRUPT,
			.kind = KIND_INT, .src_irq = i, .dst_apic = ioapic_id, .dst_pin = i);
	p = PUT(p, struct mp_interrupt, header, .type = ENTRY_LOCAL, .kind = KIND_EXTINT);
	p = PUT(p, struct mp_interrupt, header, .type = ENTRY_LOCAL, .kind = KIND_NMI,
		.dst_apic = BROADCAST, .dst_pin = 1);

	header->length = (uint8_t *)p - (uint8_t *)header;
	header->checksum = checksum(header, header->length);
	*pointer = (struct mp_pointer){
		.signature = { '_', 'M', 'P', '_' }, .table = MPTABLE_GPA + sizeof(*pointer),
		.length = 1, .version = 4,
	};
	pointer->checksum = checksum(pointer, sizeof(*pointer));
	return (uint8_t *)p - (uint8_t *)buf;
}
