// SPDX-License-Identifier: GPL-2.0
/*
 * I/O ports.  Besides the serial port and the demo guest's ports: a clock that
 * only tells the time, and the keyboard controller's reset line.  Ports nobody
 * answers read as all ones, as on a real bus.
 */
#include <time.h>

#include "gmem_vmm.h"
#include "guest/probe.h"

#define RTC_INDEX	0x70
#define RTC_DATA	0x71
#define KBD_STATUS	0x64	/* commands when written */
#define KBD_FULL	0x01
#define KBD_RESET	0xfe

/* Devices are shared by all vCPUs: one at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint8_t rtc_index;

static uint8_t bcd(int value)
{
	return (value / 10 % 10) << 4 | value % 10;
}

static uint8_t rtc_read(void)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (rtc_index) {
	case 0:
		return bcd(tm.tm_sec);
	case 2:
		return bcd(tm.tm_min);
	case 4:
		return bcd(tm.tm_hour);
	case 6:
		return bcd(tm.tm_wday + 1);
	case 7:
		return bcd(tm.tm_mday);
	case 8:
		return bcd(tm.tm_mon + 1);
	case 9:
		return bcd(tm.tm_year % 100);
	case 0xb:
		return 2;	/* 24 hours, BCD */
	case 0xd:
		return 0x80;	/* the battery is good */
	default:
		return 0;
	}
}

static uint32_t read_port(struct vmm *vmm, uint16_t port)
{
	if (port >= SERIAL_PORT && port < SERIAL_PORT + 8)
		return serial_in(vmm, port - SERIAL_PORT);
	switch (port) {
	case RTC_DATA:
		return rtc_read();
	case KBD_STATUS:
		/* Never empty: drivers see at once that there is no keyboard. */
		return KBD_FULL;
	case PROBE_PORT_CMD:
		return probe_answer();
	default:
		return 0xffffffff;
	}
}

static void write_port(struct vmm *vmm, uint16_t port, uint32_t value)
{
	if (port >= SERIAL_PORT && port < SERIAL_PORT + 8) {
		serial_out(vmm, port - SERIAL_PORT, value);
		return;
	}
	switch (port) {
	case RTC_INDEX:
		rtc_index = value & 0x7f;
		break;
	case KBD_STATUS:
		/* Not a good end: a panic leads here as well. */
		if ((value & 0xff) == KBD_RESET)
			vm_stop(vmm, 1, "reset");
		break;
	case PROBE_PORT_EXIT:
		vm_stop(vmm, value & 0xff ? 1 : 0, "exit port, value %u", value & 0xff);
		break;
	case PROBE_PORT_ARG:
		probe_arg(value);
		break;
	case PROBE_PORT_CMD:
		probe_command(vmm, value);
		break;
	}
}

uint32_t port_in(struct vmm *vmm, uint16_t port)
{
	uint32_t value;

	pthread_mutex_lock(&lock);
	value = read_port(vmm, port);
	pthread_mutex_unlock(&lock);
	return value;
}

void port_out(struct vmm *vmm, uint16_t port, uint32_t value)
{
	pthread_mutex_lock(&lock);
	write_port(vmm, port, value);
	pthread_mutex_unlock(&lock);
}
