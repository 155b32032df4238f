/*
 * One object of all hooks, so that they share one set of maps. Nothing else is here.
 *
 * The kernel lets only programs under a licence it counts as compatible with the GPL ask its
 * conntrack, so the sources in this directory are under two licences: BSD-2-Clause or GPL-2.0, at
 * the user's choice (docs/adr/0013-conversations-of-the-kernel.md).
 */
#include "pod.bpf.c"
#include "trunk.bpf.c"
#include "trunk_rx.bpf.c"
#include "uplink.bpf.c"
#include "uplink_tcx.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
