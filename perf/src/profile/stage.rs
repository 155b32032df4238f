//! Which stage of a packet's way a function belongs to.

/// Nothing to do.
pub(super) const IDLE: &str = "idle";
const OTHER_PROGRAMS: &str = "other programs";

/// How a name is recognised.
#[derive(Debug, Clone, Copy)]
enum Is {
    /// It begins so.
    From(&'static str),
    /// It contains this.
    With(&'static str),
}

use Is::{From, With};

/// The kernel's functions, more telling ones first.
const KERNEL: &[(Is, &str)] = &[
    (With("idle"), IDLE),
    (From("pv_native_safe_halt"), IDLE),
    (From("acpi_safe_halt"), IDLE),
    (From("bpf_prog_"), "kernel: hooks"),
    (With("xsk"), "kernel: rings"),
    (From("xp_"), "kernel: rings"),
    (With("conntrack"), "kernel: netfilter"),
    (From("nf_"), "kernel: netfilter"),
    (From("nft_"), "kernel: netfilter"),
    (From("ipt_"), "kernel: netfilter"),
    (From("xt_"), "kernel: netfilter"),
    (From("fib"), "kernel: routing"),
    (From("ip_route"), "kernel: routing"),
    (From("inet_lookup_ifaddr"), "kernel: routing"),
    (From("rt_"), "kernel: routing"),
    (With("neigh"), "kernel: forwarding"),
    (From("ip_"), "kernel: forwarding"),
    (From("__ip_"), "kernel: forwarding"),
    (From("ip6"), "kernel: forwarding"),
    (With("gro_"), "kernel: GRO"),
    (With("skb_segment"), "kernel: segmentation"),
    (From("veth"), "kernel: veth"),
    (From("page_pool"), "kernel: buffers"),
    (With("xdp_frame"), "kernel: buffers"),
    (From("kmem_cache"), "kernel: buffers"),
    (From("skb_"), "kernel: buffers"),
    (From("__skb"), "kernel: buffers"),
    (With("alloc_skb"), "kernel: buffers"),
    (With("kfree_skb"), "kernel: buffers"),
    (With("consume_skb"), "kernel: buffers"),
    (From("tcp_"), "sockets"),
    (From("__tcp"), "sockets"),
    (From("udp_"), "sockets"),
    (From("__udp"), "sockets"),
    (From("sock"), "sockets"),
    (From("inet_"), "sockets"),
    (With("xdp_test_run"), "generator"),
    (From("bpf_test_run"), "generator"),
    (From("xdp_"), "kernel: hooks"),
    (From("bpf_"), "kernel: hooks"),
    (With("htab_map"), "kernel: hooks"),
    (From("tcx_"), "kernel: hooks"),
    (From("__dev_queue_xmit"), "kernel: queues"),
    (From("dev_"), "kernel: queues"),
    (From("__netif_receive"), "kernel: queues"),
    (From("process_backlog"), "kernel: queues"),
    (From("net_rx_action"), "kernel: queues"),
    (With("napi"), "kernel: queues"),
    (From("sch_"), "kernel: queues"),
    (From("schedule"), "scheduler"),
    (From("__schedule"), "scheduler"),
    (From("futex"), "scheduler"),
    (From("do_futex"), "scheduler"),
];

/// The programs' functions; the engine's parts before the worker that calls them.
const PROGRAMS: &[(Is, &str)] = &[
    (With("penstock_packet::checksum"), "rewrite"),
    (With("penstock_packet::rewrite"), "rewrite"),
    (With("penstock_flow::rewrite"), "rewrite"),
    (With("penstock_packet::"), "parse"),
    (With("penstock_flow::table"), "lookup"),
    (With("penstock_flow::hash"), "lookup"),
    (With("::locate"), "lookup"),
    (With("::look"), "lookup"),
    (With("penstock_flow::look"), "lookup"),
    (With("penstock_flow::decide"), "decide"),
    (With("penstock_flow::nat"), "decide"),
    (With("penstock_flow::expir"), "expiry"),
    (With("penstock_flow::"), "forward"),
    (With("penstock_xsk::"), "rings"),
    (With("penstock_dataplane::"), "worker"),
    (With("penstock_perf::pipeline::load"), "generator"),
    (With("penstock_perf::"), "generator and counters"),
];

/// Stage of a call chain, innermost function first: the first name that tells.
pub(super) fn of(names: &[String], in_kernel: bool) -> Option<&'static str> {
    let rules = if in_kernel { KERNEL } else { PROGRAMS };
    names.iter().find_map(|name| {
        let rule = rules.iter().find(|(is, _)| match is {
            From(start) => name.starts_with(start),
            With(part) => name.contains(part),
        });
        rule.map(|(_, stage)| *stage)
    })
}

/// Stage of what names no stage: the kernel's rest by what it was doing it for.
pub(super) fn of_process(process: &str, in_kernel: bool) -> &'static str {
    match (in_kernel, process) {
        (true, _) => "kernel: other",
        (false, name) if name.starts_with("penstock") || name.starts_with("worker") => "worker",
        (false, _) => OTHER_PROGRAMS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(names: &[&str], in_kernel: bool) -> Option<&'static str> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        of(&names, in_kernel)
    }

    #[test]
    fn the_innermost_telling_function_decides() {
        let copy = [
            "memcpy",
            "veth_xmit",
            "__dev_queue_xmit",
            "ip_finish_output2",
        ];
        assert_eq!(stage(&copy, true), Some("kernel: veth"));
        let rule = ["nf_hook_slow", "ip_forward"];
        assert_eq!(stage(&rule, true), Some("kernel: netfilter"));
        assert_eq!(stage(&["_raw_spin_lock"], true), None);
        let inlined = [
            "core::ptr::read",
            "penstock_packet::glance4",
            "penstock_flow::forward::look",
        ];
        assert_eq!(stage(&inlined, false), Some("parse"));
    }
}
