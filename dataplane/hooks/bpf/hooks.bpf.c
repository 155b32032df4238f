/*
 * One object of all hooks, so that they share one set of maps. Nothing else is here.
 *
 * No helper the hooks call is reserved for GPL programs, so the licence string is the sources'.
 */
#include "pod.bpf.c"
#include "trunk.bpf.c"
#include "trunk_rx.bpf.c"
#include "uplink.bpf.c"
#include "uplink_tcx.bpf.c"

char LICENSE[] SEC("license") = "Apache-2.0";
