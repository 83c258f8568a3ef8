/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_gmem

#if !defined(_TRACE_KVM_GMEM_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_GMEM_H

/*
 * What happens to guest memory.  A file is told by the number of its inode, which
 * fstat() and /proc/PID/fdinfo have, too.  Ranges are in pages and without their end.
 */

#include <linux/tracepoint.h>

TRACE_EVENT(kvm_gmem_create,
	TP_PROTO(unsigned long ino, u64 size, u64 flags),
	TP_ARGS(ino, size, flags),

	TP_STRUCT__entry(
		__field(unsigned long,	ino)
		__field(u64,		size)
		__field(u64,		flags)
	),

	TP_fast_assign(
		__entry->ino	= ino;
		__entry->size	= size;
		__entry->flags	= flags;
	),

	TP_printk("ino %lu size %#llx flags %#llx", __entry->ino, __entry->size,
		  __entry->flags)
);

/* A memslot has its pages from the file, or has them no longer. */
DECLARE_EVENT_CLASS(kvm_gmem_binding,
	TP_PROTO(unsigned long ino, int slot, u64 gfn, u64 npages, u64 index),
	TP_ARGS(ino, slot, gfn, npages, index),

	TP_STRUCT__entry(
		__field(unsigned long,	ino)
		__field(int,		slot)
		__field(u64,		gfn)
		__field(u64,		npages)
		__field(u64,		index)
	),

	TP_fast_assign(
		__entry->ino	= ino;
		__entry->slot	= slot;
		__entry->gfn	= gfn;
		__entry->npages	= npages;
		__entry->index	= index;
	),

	TP_printk("ino %lu slot %d gfn %#llx npages %#llx index %#llx",
		  __entry->ino, __entry->slot, __entry->gfn, __entry->npages,
		  __entry->index)
);

DEFINE_EVENT(kvm_gmem_binding, kvm_gmem_bind,
	TP_PROTO(unsigned long ino, int slot, u64 gfn, u64 npages, u64 index),
	TP_ARGS(ino, slot, gfn, npages, index)
);

DEFINE_EVENT(kvm_gmem_binding, kvm_gmem_unbind,
	TP_PROTO(unsigned long ino, int slot, u64 gfn, u64 npages, u64 index),
	TP_ARGS(ino, slot, gfn, npages, index)
);

/* A fault, or mapping ahead, has got a page of a file, or has not. */
TRACE_EVENT(kvm_gmem_fault,
	TP_PROTO(unsigned int vcpu_id, u64 gfn, u64 pfn, unsigned int order,
		 bool private, int err),
	TP_ARGS(vcpu_id, gfn, pfn, order, private, err),

	TP_STRUCT__entry(
		__field(unsigned int,	vcpu_id)
		__field(u64,		gfn)
		__field(u64,		pfn)
		__field(unsigned int,	order)
		__field(bool,		private)
		__field(int,		err)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->gfn	= gfn;
		__entry->pfn	= err ? 0 : pfn;
		__entry->order	= err ? 0 : order;
		__entry->private = private;
		__entry->err	= err;
	),

	TP_printk("vcpu %u gfn %#llx pfn %#llx order %u %s err %d",
		  __entry->vcpu_id, __entry->gfn, __entry->pfn, __entry->order,
		  __entry->private ? "private" : "shared", __entry->err)
);

/* Attributes of [start, end) are set, and were not all so before. */
TRACE_EVENT(kvm_gmem_convert,
	TP_PROTO(u64 start, u64 end, u64 attributes, int err),
	TP_ARGS(start, end, attributes, err),

	TP_STRUCT__entry(
		__field(u64,	start)
		__field(u64,	end)
		__field(u64,	attributes)
		__field(int,	err)
	),

	TP_fast_assign(
		__entry->start	= start;
		__entry->end	= end;
		__entry->attributes = attributes;
		__entry->err	= err;
	),

	TP_printk("gfn %#llx to %#llx attributes %#llx err %d", __entry->start,
		  __entry->end, __entry->attributes, __entry->err)
);

TRACE_EVENT(kvm_gmem_punch,
	TP_PROTO(unsigned long ino, u64 start, u64 end, int err),
	TP_ARGS(ino, start, end, err),

	TP_STRUCT__entry(
		__field(unsigned long,	ino)
		__field(u64,		start)
		__field(u64,		end)
		__field(int,		err)
	),

	TP_fast_assign(
		__entry->ino	= ino;
		__entry->start	= start;
		__entry->end	= end;
		__entry->err	= err;
	),

	TP_printk("ino %lu index %#llx to %#llx err %d", __entry->ino,
		  __entry->start, __entry->end, __entry->err)
);

/* A back end has filled so many of the pages that it was asked for, or an errno. */
TRACE_EVENT(kvm_gmem_populate,
	TP_PROTO(u64 gfn, u64 npages, long done),
	TP_ARGS(gfn, npages, done),

	TP_STRUCT__entry(
		__field(u64,	gfn)
		__field(u64,	npages)
		__field(long,	done)
	),

	TP_fast_assign(
		__entry->gfn	= gfn;
		__entry->npages	= npages;
		__entry->done	= done;
	),

	TP_printk("gfn %#llx npages %#llx done %ld", __entry->gfn, __entry->npages,
		  __entry->done)
);

TRACE_EVENT(kvm_gmem_poison,
	TP_PROTO(unsigned long ino, u64 index, u64 pfn),
	TP_ARGS(ino, index, pfn),

	TP_STRUCT__entry(
		__field(unsigned long,	ino)
		__field(u64,		index)
		__field(u64,		pfn)
	),

	TP_fast_assign(
		__entry->ino	= ino;
		__entry->index	= index;
		__entry->pfn	= pfn;
	),

	TP_printk("ino %lu index %#llx pfn %#llx", __entry->ino, __entry->index,
		  __entry->pfn)
);

#endif /* _TRACE_KVM_GMEM_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
