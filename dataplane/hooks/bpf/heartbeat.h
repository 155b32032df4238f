/*
 * The dead-man switch: whether a worker is there to take packets.
 *
 * A worker that froze, spins or dumps core keeps its sockets bound, so an empty socket map is
 * not enough to notice. The coarse clock advances once per tick and costs a tenth of the exact
 * one; it is never ahead, so a live worker is never found late.
 */
#pragma once

#include "maps.h"

static __always_inline void note_absence(struct lapse *lapse, __u64 now)
{
	if (now - lapse->last_ns > RETURN_AFTER_NS)
		lapse->count++;
	lapse->last_ns = now;
}

/* Whether `worker` wrote its stamp lately, and has been doing so for RETURN_AFTER_NS. */
static __always_inline int worker_is_alive(__u32 worker, __u64 stale_ns)
{
	__u64 *stamp = bpf_map_lookup_elem(&heartbeat, &worker);
	struct lapse *lapse = bpf_map_lookup_elem(&lapses, &worker);
	__u64 now = bpf_ktime_get_coarse_ns();

	if (!stamp || !lapse)
		return 0;
	if ((__s64)(now - *(volatile __u64 *)stamp) > (__s64)stale_ns) {
		note_absence(lapse, now);
		return 0;
	}
	return !lapse->last_ns || now - lapse->last_ns > RETURN_AFTER_NS;
}
