//! The tables as people see them, from literal reports.

use std::net::Ipv4Addr;

use penstock_dataplane_api::{Bucket, DropCount};

use super::*;
use crate::arguments::Format;

fn written(view: &View, format: Format) -> String {
    let mut bytes = Vec::new();
    view.write(format, true, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn pod(name: &str, last: u8, confirmed: bool) -> PodRow {
    PodRow {
        namespace: "default".to_owned(),
        pod: name.to_owned(),
        address: Ipv4Addr::new(10, 0, 1, last),
        eni_id: "eni-0a".to_owned(),
        device_number: 1,
        host_ifname: format!("eni{last:011x}"),
        network: "penstock".to_owned(),
        container_id: "c0ffee".to_owned(),
        ifname: "eth0".to_owned(),
        confirmed,
    }
}

#[test]
fn pods_are_sorted_by_name() {
    let view = pods(vec![pod("web-1", 11, false), pod("db-0", 200, true)]);
    assert_eq!(
        written(&view, Format::Table),
        "\
NAMESPACE  POD    ADDRESS     ENI     DEVICE  HOST INTERFACE  STATE
default    db-0   10.0.1.200  eni-0a       1  eni000000000c8  live
default    web-1  10.0.1.11   eni-0a       1  eni0000000000b  attaching
"
    );
    let wide = written(&view, Format::Wide);
    assert!(
        wide.contains("live       penstock  eth0       c0ffee"),
        "{wide}"
    );
    let json: Value = serde_json::from_str(&written(&view, Format::Json)).unwrap();
    assert_eq!(json[0]["pod"], "db-0");
    assert_eq!(json[1]["confirmed"], false);
}

#[test]
fn no_pods_are_a_header_and_an_empty_list() {
    let view = pods(Vec::new());
    assert_eq!(written(&view, Format::Table).lines().count(), 1);
    assert_eq!(written(&view, Format::Json), "[]\n");
}

#[test]
fn enis_are_sorted_by_device() {
    let eni = |device_number: u32| EniRow {
        eni_id: format!("eni-{device_number}"),
        ifname: format!("eth{device_number}"),
        device_number,
        address: Ipv4Addr::new(10, 0, 1, 5),
        subnet_id: "subnet-1".to_owned(),
        table: 1 + device_number,
        addresses: 9,
        assigned: 4,
        mtu: 9001,
    };
    assert_eq!(
        written(&enis(vec![eni(1), eni(0)]), Format::Wide),
        "\
ENI    INTERFACE  DEVICE  ADDRESS   ASSIGNED  ADDRESSES   MTU  SUBNET    TABLE
eni-0  eth0            0  10.0.1.5         4          9  9001  subnet-1      1
eni-1  eth1            1  10.0.1.5         4          9  9001  subnet-1      2
"
    );
}

#[test]
fn flows_show_both_sides_and_the_translation() {
    let translated = FlowRow {
        worker: 1,
        protocol: 6,
        pod: Ipv4Addr::new(10, 0, 1, 9).into(),
        pod_port: 40_000,
        remote: Ipv4Addr::new(198, 51, 100, 10).into(),
        remote_port: 443,
        snat: Some(Ipv4Addr::new(10, 0, 1, 5).into()),
        snat_port: 11_000,
        out: "eni-0a".to_owned(),
        state: "established".to_owned(),
        packets_out: 12,
        packets_in: 10,
        idle_ms: 250,
    };
    let inside = FlowRow {
        protocol: 1,
        remote_port: 0,
        snat: None,
        pod: Ipv4Addr::new(10, 0, 1, 8).into(),
        state: "-".to_owned(),
        ..translated.clone()
    };
    assert_eq!(
        written(&flows(vec![translated, inside]), Format::Table),
        "\
PROTOCOL  POD             REMOTE             SNAT            OUT     STATE        PACKETS OUT  PACKETS IN  IDLE MS
icmp      10.0.1.8:40000  198.51.100.10:0    -               eni-0a  -                     12          10      250
tcp       10.0.1.9:40000  198.51.100.10:443  10.0.1.5:11000  eni-0a  established           12          10      250
"
    );
}

fn dropped(reason: &str, packets: u64) -> DropCount {
    DropCount {
        reason: reason.to_owned(),
        packets,
    }
}

fn hook(name: &str, drops: Vec<DropCount>) -> HookReport {
    HookReport {
        hook: name.to_owned(),
        seen: 100,
        to_worker: 60,
        to_kernel: 30,
        fallback: 2,
        to_pod: 5,
        offloaded: 0,
        offloaded_bytes: 0,
        drops,
    }
}

fn worker(index: u32, drops: Vec<DropCount>) -> WorkerReport {
    WorkerReport {
        worker: index,
        core: (index == 0).then_some(3),
        rx: 60,
        tx: 50,
        to_kernel: 4,
        originated: 1,
        handed_off: 2,
        handed_in: 2,
        snat: 20,
        flows: 7,
        flows_created: 9,
        flows_expired: 2,
        snat_ports: 5,
        offloaded: 3,
        offload_deferred: 0,
        polls: 1000,
        busy_polls: 254,
        drops,
        frames: Bucket {
            free: 4000,
            receiving: 90,
            sending: 6,
            total: 4096,
        },
    }
}

#[test]
fn drops_merge_hooks_and_workers_and_say_what_they_mean() {
    let counters = Counters {
        hooks: vec![
            hook("pod", vec![dropped("spoof_ip", 3), dropped("ttl", 1)]),
            hook("uplink", vec![dropped("spoof_ip", 1)]),
        ],
        workers: vec![
            worker(0, vec![dropped("ttl", 5), dropped("from_the_future", 2)]),
            worker(1, vec![dropped("ttl", 1)]),
        ],
        ports: Vec::new(),
    };
    let view = drops(&counters);
    let table = written(&view, Format::Table);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(
        lines[0],
        "REASON           PACKETS  AT HOOKS  AT WORKERS  MEANING"
    );
    assert!(lines[1].starts_with("ttl                    7         1           6  A packet"));
    assert!(lines[1].contains(DropReason::Ttl.when()));
    assert!(lines[2].starts_with("spoof_ip               4         4           0  A pod sent"));
    assert!(lines[3].starts_with("from_the_future        2         0           2  (a newer"));
    let wide = written(&view, Format::Wide);
    assert!(wide.contains("pod=1 worker0=5 worker1=1"), "{wide}");
    assert_eq!(
        view.json[1],
        json!({
            "reason": "spoof_ip",
            "packets": 4,
            "hooks": { "pod": 3, "uplink": 1 },
            "workers": {},
            "meaning": DropReason::SpoofIp.when(),
        })
    );
}

#[test]
fn workers_show_their_load() {
    let view = workers(vec![
        worker(1, vec![dropped("ttl", 1), dropped("mtu", 2)]),
        worker(0, Vec::new()),
    ]);
    assert_eq!(
        written(&view, Format::Table),
        "\
WORKER  CORE  RX  TX  TO KERNEL  SNAT  HANDED OFF  HANDED IN  DROPS  FLOWS  BUSY %
     0     3  60  50          4    20           2          2      0      7      25
     1     -  60  50          4    20           2          2      3      7      25
"
    );
}

#[test]
fn hooks_keep_the_order_of_the_path() {
    let view = hooks(&[
        hook("pod", vec![dropped("mtu", 5)]),
        hook("trunk", Vec::new()),
    ]);
    assert_eq!(
        written(&view, Format::Table),
        "\
HOOK   SEEN  TO WORKER  TO KERNEL  TO POD  OFFLOADED  DROPS  FALLBACK
pod     100         60         30       5          0      5         2
trunk   100         60         30       5          0      0         2
"
    );
}

#[test]
fn ports_are_sorted_by_interface_and_queue() {
    let port = |ifname: &str, queue: u32| PortReport {
        worker: queue,
        ifname: ifname.to_owned(),
        queue,
        rx_packets: 10,
        rx_bytes: 640,
        tx_packets: 11,
        tx_bytes: 704,
        kernel_rx_dropped: 1,
        kernel_rx_ring_full: 2,
        kernel_rx_fill_empty: 3,
        kernel_tx_invalid: 4,
    };
    let view = ports(vec![port("trunk1", 1), port("eth0", 0), port("trunk1", 0)]);
    assert_eq!(
        written(&view, Format::Table),
        "\
INTERFACE  QUEUE  WORKER  RX PACKETS  TX PACKETS  RING FULL  FILL EMPTY  KERNEL DROPS
eth0           0       0          10          11          2           3             1
trunk1         0       0          10          11          2           3             1
trunk1         1       1          10          11          2           3             1
"
    );
}

#[test]
fn a_worker_that_never_polled_has_no_load() {
    assert_eq!(percent(0, 0), "-");
    assert_eq!(percent(u64::MAX, u64::MAX), "100");
}
