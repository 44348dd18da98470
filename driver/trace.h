/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM som

#if !defined(_SOM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _SOM_TRACE_H

#include <linux/tracepoint.h>

#ifndef _SOM_TRACE_ONCE
#define _SOM_TRACE_ONCE
#define SOM_FAULT_RESULT(name)	((__force unsigned long)VM_FAULT_##name)

enum som_lease_event {
	SOM_LEASE_CREATED,
	SOM_LEASE_REVOKED,
	SOM_LEASE_GAVE_BACK,
	SOM_LEASE_DESTROYED,
};
#endif

TRACE_EVENT(som_fault,
	TP_PROTO(u32 lease, unsigned long addr, unsigned int order, u32 chunk,
		 vm_fault_t result),
	TP_ARGS(lease, addr, order, chunk, result),
	TP_STRUCT__entry(
		__field(u32, lease)
		__field(unsigned long, addr)
		__field(unsigned int, order)
		__field(u32, chunk)
		__field(unsigned int, result)
	),
	TP_fast_assign(
		__entry->lease = lease;
		__entry->addr = addr;
		__entry->order = order;
		__entry->chunk = chunk;
		__entry->result = (__force unsigned int)result;
	),
	TP_printk("lease=%u addr=%#lx order=%u chunk=%u result=%s",
		  __entry->lease, __entry->addr, __entry->order, __entry->chunk,
		  __print_flags(__entry->result, "|",
				{ SOM_FAULT_RESULT(NOPAGE), "mapped" },
				{ SOM_FAULT_RESULT(FALLBACK), "fallback" },
				{ SOM_FAULT_RESULT(SIGBUS), "sigbus" },
				{ SOM_FAULT_RESULT(OOM), "oom" }))
);

TRACE_EVENT(som_lease,
	TP_PROTO(u32 lease, u32 pool, enum som_lease_event event, u64 quota,
		 u64 held),
	TP_ARGS(lease, pool, event, quota, held),
	TP_STRUCT__entry(
		__field(u32, lease)
		__field(u32, pool)
		__field(unsigned int, event)
		__field(u64, quota)
		__field(u64, held)
	),
	TP_fast_assign(
		__entry->lease = lease;
		__entry->pool = pool;
		__entry->event = event;
		__entry->quota = quota;
		__entry->held = held;
	),
	TP_printk("lease=%u pool=%u %s quota=%llu held=%llu",
		  __entry->lease, __entry->pool,
		  __print_symbolic(__entry->event,
				   { SOM_LEASE_CREATED, "created" },
				   { SOM_LEASE_REVOKED, "revoked" },
				   { SOM_LEASE_GAVE_BACK, "gave back" },
				   { SOM_LEASE_DESTROYED, "destroyed" }),
		  __entry->quota, __entry->held)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
