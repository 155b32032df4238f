/*
 * One outcome for every packet: seen = to_worker + to_kernel + to_pod + offloaded +
 * drops.
 *
 * A program names its outcome once, at its end, and `settle` counts it: no path can forget.
 * Fallback is a way to the kernel and is counted in both rows.
 */
#pragma once

#include "maps.h"

/* Outcomes; everything from OUTCOME_DROP up is a drop and carries its reason. */
enum outcome {
	TO_WORKER,
	TO_KERNEL,
	FALLBACK,
	TO_POD,
	OFFLOADED,
	OUTCOME_DROP,
};

#define DROP(reason) (OUTCOME_DROP + (reason))

/* Counts `packets` of `bytes` in all with the outcome, and returns the outcome. */
static __always_inline __u32 settle(__u32 hook, __u32 outcome, __u32 packets, __u32 bytes)
{
	struct counters *row = counters_of(hook);
	__u32 reason;

	if (!row)
		return outcome;
	row->seen += packets;
	if (outcome == TO_WORKER) {
		row->to_worker += packets;
	} else if (outcome == TO_KERNEL) {
		row->to_kernel += packets;
	} else if (outcome == FALLBACK) {
		row->to_kernel += packets;
		row->fallback += packets;
	} else if (outcome == TO_POD) {
		row->to_pod += packets;
	} else if (outcome == OFFLOADED) {
		row->offloaded += packets;
		row->offloaded_bytes += bytes;
	} else {
		reason = outcome - OUTCOME_DROP;
		if (reason < DROP_REASON_COUNT)
			row->drops[reason] += packets;
	}
	return outcome;
}
