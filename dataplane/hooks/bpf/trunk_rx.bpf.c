/*
 * Hook `trunk-rx`: XDP on trunk1. Hands queue w of the trunk to worker w's socket.
 *
 * The decision was made by hook `pod`; a queue without a socket has nowhere else to go and is
 * dropped by name.
 */
#include "count.h"

SEC("xdp.frags")
int trunk_rx(struct xdp_md *xdp)
{
	__u32 queue = xdp->rx_queue_index;
	__u32 outcome = DROP(DROP_HOOK_REDIRECT);
	int action = XDP_DROP;

	if (queue < MAX_QUEUES)
		action = bpf_redirect_map(&xsks, TRUNK_SLOT * MAX_QUEUES + queue, XDP_DROP);
	if (action == XDP_REDIRECT)
		outcome = TO_WORKER;
	settle(HOOK_TRUNK_RX, outcome, 1, 0);
	return action;
}
