//! The agent on a node of the lab and its cluster: a directory of objects, an API server that is away; and what operators
//! read over HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod rig;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use ec2_sim::CloudConfig;
use penstock_control_api::code;
use penstock_lab::{LabConfig, OUTSIDE_ADDRESSES};
use rig::Rig;
use rig::traffic::Conversation;
use serde_json::Value;

/// The body of a page the agent serves on its node.
fn page(rig: &Rig, port: u16, path: &str) -> String {
    let answer = rig.netns().run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.expect("namespace").unwrap_or_default();
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_cluster_in_a_directory_is_heard_and_told_and_pages_are_served() {
    let rig = Rig::bare();
    let cluster = rig.node().directory().join("cluster");
    fs::create_dir(&cluster).unwrap();
    let name = rig.node().name();
    let node =
        format!("kind: Node\nmetadata: {{name: {name}}}\nstatus: {{capacity: {{pods: '5'}}}}\n");
    fs::write(cluster.join("node.yaml"), node).unwrap();
    let objects = cluster.to_str().unwrap();
    rig.node()
        .start_control(&[
            ("PENSTOCK_KUBERNETES", objects),
            ("ANNOTATE_POD_IP", "true"),
            ("MAX_ENI", "1"),
        ])
        .expect("agent");
    let shows = |rig: &Rig, line: &str| {
        page(rig, 61_678, "/metrics")
            .lines()
            .any(|shown| shown == line)
    };
    rig.eventually("the node's capacity", 10, |rig| {
        shows(rig, "penstock_max_pods 5.0") || shows(rig, "penstock_max_pods 5")
    });

    let pod = rig.attach("c0", "p0");
    let object = format!(
        "kind: Pod\nmetadata: {{name: p0, namespace: t}}\nspec: {{nodeName: {name}, containers: []}}\n"
    );
    fs::write(cluster.join("pod.yaml"), object).unwrap();
    let notices = || -> Vec<Value> {
        let text = fs::read_to_string(cluster.join("notices.jsonl")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let annotation = |notice: &Value| {
        notice["metadata"]["annotations"]["vpc.amazonaws.com/pod-ips"] == pod.address.to_string()
    };
    rig.eventually("the annotation", 10, |_| notices().iter().any(annotation));
    for n in 1..3 {
        rig.add(&format!("c{n}"), &format!("p{n}")).unwrap();
    }
    let failure = rig.add("c3", "p3").unwrap_err();
    assert_eq!(failure.code, code::NO_ADDRESS);
    let warned = |notice: &Value| {
        notice["reason"] == "FailedAssignAddress"
            && notice["involvedObject"]["name"] == "p3"
            && notice["message"]
                .as_str()
                .is_some_and(|text| text.contains("3 assigned"))
    };
    rig.eventually("the warning", 10, |_| notices().iter().any(warned));

    let enis: Value = serde_json::from_str(&page(&rig, 61_679, "/v1/enis")).unwrap();
    assert_eq!(enis["0"]["AssignedIPs"], 3);
    let cidr = &enis["0"]["ENIs"][rig.node().primary_eni()]["AvailableIPv4Cidrs"]
        [format!("{}/32", pod.address)];
    let held = &cidr["IPAddresses"][pod.address.to_string()];
    assert_eq!(held["IPAMMetadata"]["k8sPodName"], "p0", "{enis}");
    let pods: Value = serde_json::from_str(&page(&rig, 61_679, "/v1/pods")).unwrap();
    assert_eq!(pods.as_array().map(Vec::len), Some(3));
    let settings: Value =
        serde_json::from_str(&page(&rig, 61_679, "/v1/ipamd-env-settings")).unwrap();
    assert_eq!(
        (&settings["MAX_ENI"], &settings["WARM_ENI_TARGET"]),
        (&"1".into(), &"1".into())
    );
    let metrics = page(&rig, 61_678, "/metrics");
    for name in [
        "awscni_assigned_ip_addresses 3",
        "awscni_no_available_ip_addresses 1",
        "awscni_add_ip_req_count 4",
    ] {
        let shown = metrics
            .lines()
            .any(|line| line == name || line.strip_suffix(".0") == Some(name));
        assert!(shown, "{name} is not in\n{metrics}");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn with_custom_networking_pods_live_in_the_configured_subnet() {
    let config = LabConfig::unique("ctl");
    let zones = vec![config.cloud.availability_zones[0].clone()];
    // Both subnets in one zone.
    let rig = Rig::of(LabConfig {
        instance_type: "t3.small".to_owned(),
        cloud: CloudConfig {
            availability_zones: zones,
            ..config.cloud.clone()
        },
        ..config
    });
    let subnets = rig.lab.cloud().config().subnets.clone();
    let (own, pods) = (&subnets[0], &subnets[1]);
    assert!(own.cidr.contains(&rig.node().primary_address()));
    let cluster = rig.node().directory().join("cluster");
    fs::create_dir(&cluster).unwrap();
    let objects = cluster.to_str().unwrap();
    let settings = [
        ("PENSTOCK_KUBERNETES", objects),
        ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
    ];
    rig.node().start_control(&settings).expect("agent");
    let failure = rig.add("early", "early").unwrap_err();
    assert_eq!(failure.code, code::TRY_AGAIN);
    assert!(
        failure.details.contains("custom networking waits"),
        "{failure:?}"
    );

    let name = rig.node().name();
    let node = format!(
        "kind: Node\nmetadata: {{name: {name}, annotations: {{k8s.amazonaws.com/eniConfig: pods}}}}\n"
    );
    let eni_config = format!(
        "kind: ENIConfig\nmetadata: {{name: pods}}\nspec: {{subnet: {}}}\n",
        pods.subnet_id
    );
    fs::write(
        cluster.join("objects.yaml"),
        format!("{node}---\n{eni_config}"),
    )
    .unwrap();
    rig.eventually("addresses", 15, |rig| rig.status().pool.free > 0);
    let [a, b] = ["a", "b"].map(|name| rig.node().add_pod("t", name).expect("pod"));
    assert!(pods.cidr.contains(&a.address()) && pods.cidr.contains(&b.address()));
    let outside = (rig.lab.outside(), OUTSIDE_ADDRESSES[0]);
    let talks = [
        Conversation::start((a.netns(), a.address()), (b.netns(), b.address())),
        Conversation::start((a.netns(), a.address()), outside),
    ];
    for talk in talks {
        // Long enough for a few; each is checked.
        std::thread::sleep(Duration::from_millis(100));
        let report = talk.end();
        assert!(report.sent > 10 && report.lost == 0, "{report:?}");
    }
    a.del().expect("DEL");
    b.del().expect("DEL");
}

/// T19.
#[test]
#[ignore = "needs root and network namespaces"]
fn an_api_server_that_is_away_is_not_waited_for() {
    let rig = Rig::bare();
    let nowhere = [
        ("PENSTOCK_KUBERNETES", "api"),
        ("CLUSTER_ENDPOINT", "https://127.0.0.1:1"),
    ];
    let took = rig.node().start_control(&nowhere).expect("agent");
    assert!(took < Duration::from_secs(5), "{took:?}");
    rig.attach("c1", "a");
}
