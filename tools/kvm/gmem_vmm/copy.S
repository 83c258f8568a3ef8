/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest's first program: copies boot files from the window into RAM.
 *
 * Runs on vCPU 0 in flat 32-bit mode without paging, straight from the window.
 * %ebx points to a list of { destination, source, count of 4-byte words },
 * ended by a count of zero.  It has no stack and touches nothing else.
 */
#define COPY_DONE_PORT 0xf5

	.section .rodata
	.globl copy_stub, copy_stub_end
	.code32
copy_stub:
	cld
1:	movl	(%ebx), %edi
	movl	4(%ebx), %esi
	movl	8(%ebx), %ecx
	jecxz	2f
	addl	$12, %ebx
	rep movsl
	jmp	1b
2:	outb	%al, $COPY_DONE_PORT
	hlt
	jmp	2b
copy_stub_end:

	.section .note.GNU-stack, "", @progbits
