// SPDX-License-Identifier: GPL-2.0
/*
 * A 16550A serial port: as much of it as a Linux console and its interrupt
 * driven tty need.  What is sent leaves at once, so the transmitter is always
 * empty.  Input comes from a thread that reads standard input when that is a
 * terminal.
 *
 * ports.c calls with its lock held; the lock here is for the input thread.
 */
#define _GNU_SOURCE
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define INPUT_SIZE	256

static struct {
	pthread_mutex_t lock;
	uint8_t ier, fcr, lcr, mcr, scratch, divisor[2];
	bool thre_pending;	/* a transmitter-empty interrupt is not acknowledged */
	bool irq_level;
	uint8_t input[INPUT_SIZE];
	unsigned int head, tail;
} serial = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct termios saved_termios;
static bool termios_changed;

static bool has_input(void)
{
	return serial.head != serial.tail;
}

/* The interrupt to report: received data goes before transmitter empty. */
static uint8_t pending_interrupt(void)
{
	if ((serial.ier & UART_IER_RDI) && has_input())
		return UART_IIR_RDI;
	if ((serial.ier & UART_IER_THRI) && serial.thre_pending)
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

static void update_irq(struct vmm *vmm)
{
	bool level = pending_interrupt() != UART_IIR_NO_INT;

	if (level == serial.irq_level)
		return;
	serial.irq_level = level;
	vm_irq(vmm, SERIAL_IRQ, level);
}

static uint8_t read_iir(void)
{
	uint8_t iir = pending_interrupt();

	if (iir == UART_IIR_THRI)
		serial.thre_pending = false;
	if (serial.fcr & UART_FCR_ENABLE_FIFO)
		iir |= 0xc0;
	return iir;
}

/* In loopback mode the modem lines show what MCR drives: drivers test this. */
static uint8_t read_msr(void)
{
	uint8_t msr = 0;

	if (!(serial.mcr & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	if (serial.mcr & UART_MCR_RTS)
		msr |= UART_MSR_CTS;
	if (serial.mcr & UART_MCR_DTR)
		msr |= UART_MSR_DSR;
	if (serial.mcr & UART_MCR_OUT1)
		msr |= UART_MSR_RI;
	if (serial.mcr & UART_MCR_OUT2)
		msr |= UART_MSR_DCD;
	return msr;
}

static uint8_t read_register(unsigned int reg)
{
	if (reg <= UART_DLM && (serial.lcr & UART_LCR_DLAB))
		return serial.divisor[reg];
	switch (reg) {
	case UART_RX:
		return has_input() ? serial.input[serial.tail++ % INPUT_SIZE] : 0;
	case UART_IER:
		return serial.ier;
	case UART_IIR:
		return read_iir();
	case UART_LCR:
		return serial.lcr;
	case UART_MCR:
		return serial.mcr;
	case UART_LSR:
		return UART_LSR_TEMT | UART_LSR_THRE | (has_input() ? UART_LSR_DR : 0);
	case UART_MSR:
		return read_msr();
	default:
		return serial.scratch;
	}
}

static void write_register(unsigned int reg, uint8_t value)
{
	if (reg <= UART_DLM && (serial.lcr & UART_LCR_DLAB)) {
		serial.divisor[reg] = value;
		return;
	}
	switch (reg) {
	case UART_TX:
		if (!(serial.mcr & UART_MCR_LOOP))
			putchar(value);
		serial.thre_pending = true;
		break;
	case UART_IER:
		/* Asking for it while the transmitter is empty raises it. */
		if (value & ~serial.ier & UART_IER_THRI)
			serial.thre_pending = true;
		serial.ier = value & 0xf;
		break;
	case UART_FCR:
		serial.fcr = value;
		break;
	case UART_LCR:
		serial.lcr = value;
		break;
	case UART_MCR:
		serial.mcr = value & 0x1f;
		break;
	case UART_SCR:
		serial.scratch = value;
		break;
	}
}

uint8_t serial_in(struct vmm *vmm, unsigned int reg)
{
	uint8_t value;

	pthread_mutex_lock(&serial.lock);
	value = read_register(reg);
	update_irq(vmm);
	pthread_mutex_unlock(&serial.lock);
	return value;
}

void serial_out(struct vmm *vmm, unsigned int reg, uint8_t value)
{
	pthread_mutex_lock(&serial.lock);
	write_register(reg, value);
	update_irq(vmm);
	pthread_mutex_unlock(&serial.lock);
}

/* What does not fit is lost, as on a line without flow control. */
static void *input_thread(void *arg)
{
	struct vmm *vmm = arg;
	uint8_t c;

	while (read(STDIN_FILENO, &c, 1) == 1) {
		pthread_mutex_lock(&serial.lock);
		if (serial.head - serial.tail < INPUT_SIZE)
			serial.input[serial.head++ % INPUT_SIZE] = c;
		update_irq(vmm);
		pthread_mutex_unlock(&serial.lock);
	}
	return NULL;
}

/* Key by key and without echo (the guest echoes); Ctrl-C still ends the VMM. */
void serial_init(struct vmm *vmm)
{
	struct termios t;
	pthread_t thread;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved_termios))
		return;
	t = saved_termios;
	t.c_lflag &= ~(ICANON | ECHO);
	t.c_iflag &= ~ICRNL;
	termios_changed = !tcsetattr(STDIN_FILENO, TCSANOW, &t);
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!pthread_create(&thread, NULL, input_thread, vmm))
		pthread_detach(thread);
}

void serial_exit(void)
{
	if (termios_changed)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved_termios);
	fflush(stdout);
}
