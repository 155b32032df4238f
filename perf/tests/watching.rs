//! What others change in the kernel is put back within five seconds, or refused, and told of.
//! Rows F25, F26, F28, F42 and F43 of the failure modes, and targets T24 and T51.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::time::{Duration, Instant};

use penstock_control_api as control;
use penstock_dataplane_api::{Request, Response, Status, UplinkMode};
use penstock_lab::traffic::{End, udp};
use penstock_lab::{Lab, LabConfig, Node, OUTSIDE_ADDRESSES, Pod, Verdict};

/// The promise of T51.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(5);

fn lab(id: &str) -> Lab {
    Lab::up(LabConfig {
        nodes: 1,
        ..LabConfig::unique(id)
    })
    .expect("lab")
}

fn dataplane(node: &Node) -> Status {
    match node.dataplane_call(&Request::Status).expect("dataplane") {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn agent(node: &Node) -> control::Status {
    match node
        .control_call(&control::Request::Status)
        .expect("control")
    {
        control::Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Waits until `done` holds; how long it took.
#[track_caller]
fn within(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(
            began.elapsed() < PUT_BACK_WITHIN,
            "{what} within {PUT_BACK_WITHIN:?}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    began.elapsed()
}

/// Waits until what is read is `whole` again and that was told; names the lines that are not.
#[track_caller]
fn put_back(
    what: &str,
    whole: &str,
    mut read: impl FnMut() -> String,
    mut told: impl FnMut() -> bool,
) -> Duration {
    let began = Instant::now();
    loop {
        let now = read();
        if now == whole && told() {
            return began.elapsed();
        }
        let missing: Vec<_> = whole.lines().filter(|line| !now.contains(line)).collect();
        let foreign: Vec<_> = now.lines().filter(|line| !whole.contains(line)).collect();
        assert!(
            began.elapsed() < PUT_BACK_WITHIN,
            "{what}: missing {missing:#?}, foreign {foreign:#?}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Everything the agent keeps in the kernel, without counters and without what the kernel itself
/// moves about.
fn kernel(node: &Node) -> String {
    let ip = |arguments: &[&str]| node.netns().ip(arguments).expect("ip");
    let nft = |family| {
        let arguments = ["--stateless", "list", "table", family, "penstock"];
        node.netns().tool("nft", &arguments).unwrap_or_default()
    };
    // Rules of one priority come back in any order.
    let rules = ip(&["rule"]);
    let mut rules: Vec<&str> = rules.lines().collect();
    rules.sort_unstable();
    let mut routes: Vec<String> = ip(&["route", "show", "table", "all"])
        .lines()
        .filter(|line| !line.starts_with("local") && !line.starts_with("broadcast"))
        .map(|line| {
            line.replace(" linkdown", "")
                .replace(" proto static", "")
                .trim()
                .to_owned()
        })
        .collect();
    routes.sort_unstable();
    let links: Vec<String> = ip(&["-o", "link", "show", "up"])
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let value = |key| {
                words
                    .iter()
                    .skip_while(|word| **word != key)
                    .nth(1)
                    .copied()
            };
            format!(
                "{:?} {:?} {:?}",
                words.get(1),
                value("mtu"),
                value("link/ether")
            )
        })
        .collect();
    [
        nft("ip"),
        nft("ip6"),
        rules.join("\n"),
        routes.join("\n"),
        links.join("\n"),
    ]
    .join("\n---\n")
}

fn reaches_outside(lab: &Lab, pod: &Pod) -> bool {
    let client = End {
        netns: pod.netns(),
        address: pod.address(),
    };
    let server = End {
        netns: lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    };
    udp(client, server, 3, 256).expect("sockets").received == 3
}

/// Pods of both ENIs; the first and the last are the ones of interest.
fn pods_of_both_enis(node: &Node) -> Vec<Pod> {
    let mut pods = Vec::new();
    loop {
        let pod = node.add_pod("w", &format!("p{}", pods.len())).expect("ADD");
        let address = pod.address();
        pods.push(pod);
        let control::Response::Pods(rows) =
            node.control_call(&control::Request::Pods).expect("control")
        else {
            panic!("not pods");
        };
        if rows
            .iter()
            .any(|row| row.address == address && row.device_number == 1)
        {
            return pods;
        }
        assert!(pods.len() < 64, "the primary ENI never fills");
    }
}

/// The host side of the pod's interface.
fn host_side(node: &Node, pod: &Pod) -> String {
    let to = format!("{}/32", pod.address());
    let route = node.netns().ip(&["route", "show", &to]).expect("ip");
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).expect("a route by a device").to_owned()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t51_f42_f43_what_others_change_of_the_kernels_path_is_put_back() {
    let lab = lab("t51");
    let node = &lab.nodes()[0];
    node.start_dataplane(&[]).expect("dataplane");
    // No ENI in stock that would come in the middle of it.
    let stock = [("WARM_IP_TARGET", "1")];
    node.start_control(&stock).expect("control");
    let pods = pods_of_both_enis(node);
    let (first, second) = (&pods[0], pods.last().expect("pods"));
    let veth = host_side(node, first);
    let other = host_side(node, second);
    let (address, from) = (first.address().to_string(), second.address().to_string());
    // The second ENI's own interface settles after its first pod.
    within("quiet", || reaches_outside(&lab, second));
    let whole = kernel(node);
    let before = agent(node).repairs;

    let net = |arguments: &[&str]| node.netns().ip(arguments).map(drop);
    let nft = |arguments: &[&str]| node.netns().tool("nft", arguments).map(drop);
    type Change<'a> = (&'a str, Box<dyn Fn() -> penstock_lab::Result<()> + 'a>);
    let changes: Vec<Change<'_>> = vec![
        ("nft flush", Box::new(|| nft(&["flush", "ruleset"]))),
        (
            "one chain emptied",
            Box::new(|| nft(&["flush", "chain", "ip", "penstock", "guard"])),
        ),
        (
            "a foreign rule in ours",
            Box::new(|| nft(&["insert", "rule", "ip", "penstock", "stray", "accept"])),
        ),
        (
            "rule to a pod",
            Box::new(|| net(&["rule", "del", "to", &address, "pref", "512"])),
        ),
        (
            "rule from a pod",
            Box::new(|| net(&["rule", "del", "from", &from, "pref", "1536"])),
        ),
        (
            "rule for marks",
            Box::new(|| net(&["rule", "del", "pref", "1024"])),
        ),
        (
            "all rules",
            Box::new(|| {
                net(&["rule", "flush"])?;
                net(&["rule", "add", "pref", "32766", "lookup", "main"])?;
                net(&["rule", "add", "pref", "32767", "lookup", "default"])
            }),
        ),
        (
            "a pod's route",
            Box::new(|| net(&["route", "del", &address])),
        ),
        (
            "the second ENI's table",
            Box::new(|| net(&["route", "flush", "table", "2"])),
        ),
        (
            "host MAC",
            Box::new(|| net(&["link", "set", &veth, "address", "02:00:00:00:00:99"])),
        ),
        (
            "host side down",
            Box::new(|| net(&["link", "set", &other, "down"])),
        ),
        (
            "host side's MTU",
            Box::new(|| net(&["link", "set", &veth, "mtu", "1280"])),
        ),
        (
            "ENI's MTU",
            Box::new(|| net(&["link", "set", "eth1", "mtu", "1280"])),
        ),
        (
            "second ENI down",
            Box::new(|| net(&["link", "set", "eth1", "down"])),
        ),
        (
            "primary ENI down",
            Box::new(|| net(&["link", "set", "eth0", "down"])),
        ),
    ];
    let mut repairs = before;
    for (what, change) in &changes {
        change().expect(what);
        let took = put_back(
            what,
            &whole,
            || kernel(node),
            || agent(node).repairs > repairs,
        );
        eprintln!("{what}: put back in {took:?}: {}", agent(node).last_repair);
        repairs = agent(node).repairs;
        for pod in [first, second] {
            within(what, || reaches_outside(&lab, pod));
        }
    }
    let log = std::fs::read_to_string(node.control_log()).expect("log");
    let told = log.matches("others changed this; put back").count();
    assert!(
        told as u64 >= repairs - before,
        "{told} lines for {repairs} repairs"
    );
    let counters = lab.fabric().counters().expect("fabric");
    assert_eq!(
        counters.verdict(Verdict::SourceCheck),
        0,
        "packets by the wrong ENI"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t24_f25_an_eni_that_goes_harms_no_other() {
    let lab = lab("t24");
    let node = &lab.nodes()[0];
    node.start_dataplane(&[]).expect("dataplane");
    node.start_control(&[]).expect("control");
    let pods = pods_of_both_enis(node);
    let (first, second) = (&pods[0], pods.last().expect("pods"));
    for pod in [first, second] {
        within("both ENIs forward", || reaches_outside(&lab, pod));
    }
    let client = End {
        netns: first.netns(),
        address: first.address(),
    };
    let server = End {
        netns: lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    };
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| udp(client, server, 20_000, 200));
        within("under load", || {
            dataplane(node)
                .uplinks
                .iter()
                .any(|uplink| uplink.ifname == "eth1")
        });
        node.netns().ip(&["link", "del", "eth1"]).expect("ip");
        within("let go", || {
            let status = dataplane(node);
            let eth1 = status.uplinks.iter().find(|uplink| uplink.ifname == "eth1");
            eth1.is_none_or(|uplink| uplink.mode == UplinkMode::Kernel)
        });
        load.join().expect("load").expect("sockets")
    });
    assert_eq!(report.received, report.sent, "the other ENI lost nothing");
    node.settled_counters().expect("every packet accounted for");
    assert!(node.dataplane_pid().is_some() && node.control_pid().is_some());
}
