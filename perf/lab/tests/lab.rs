//! A lab comes up, goes away without a trace, and survives what its process does to it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed test is a panic, in its helpers too"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use penstock_lab::traffic::{self, End};
use penstock_lab::{DIRECTORY, Error, Lab, LabConfig, NetNs, netns, sweep};

/// Makes this test's program, started again, build a lab of this id and die without cleaning up.
const CRASH: &str = "PENSTOCK_LAB_TEST_CRASH";

fn leftovers(id: &str) -> Vec<String> {
    let mut found = netns::list(&format!("pen-{id}-")).unwrap();
    if Path::new(DIRECTORY).join(id).exists() {
        found.push(format!("{DIRECTORY}/{id}"));
    }
    found
}

fn ping_across(lab: &Lab) -> u32 {
    let [one, two] = lab.nodes() else { panic!() };
    let [from, to] = [one, two].map(|node| End {
        netns: node.netns(),
        address: node.primary_address(),
    });
    traffic::ping(from, to, 3, 56).unwrap().received
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_lab_leaves_nothing_behind_and_the_caller_where_it_was() {
    let here = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let config = LabConfig::unique("lab");
    let id = config.id.clone();
    let lab = Lab::up(config.clone()).unwrap();
    assert_eq!(leftovers(&id).len(), 5);
    let again = Lab::up(config).err().expect("an id is taken once");
    assert!(matches!(again, Error::Invalid(_)), "{again}");
    assert!(!sweep(&id).unwrap(), "a live lab is not swept");
    lab.down().unwrap();
    assert_eq!(leftovers(&id), Vec::<String>::new());
    assert_eq!(here(), before);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn two_labs_with_the_same_addresses_do_not_meet() {
    let one = Lab::up(LabConfig::unique("lab")).unwrap();
    let two = Lab::up(LabConfig::unique("lab")).unwrap();
    assert_eq!(
        one.nodes()[0].primary_address(),
        two.nodes()[0].primary_address()
    );
    let untouched = two.fabric().counters().unwrap().total().tx_packets;
    assert_eq!(ping_across(&one), 3);
    assert_eq!(
        two.fabric().counters().unwrap().total().tx_packets,
        untouched
    );
    drop(one);
    assert_eq!(ping_across(&two), 3);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_instance_finds_its_metadata_and_the_api_inside_its_namespace() {
    let lab = Lab::up(LabConfig::unique("lab")).unwrap();
    for node in lab.nodes() {
        let answer = node.netns().run(|| {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(penstock_lab::IMDS_ENDPOINT)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(
                b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
                  X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\
                  Connection: close\r\n\r\n",
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        });
        let answer = answer.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let reached = node
            .netns()
            .run(|| std::net::TcpStream::connect(penstock_lab::EC2_ENDPOINT));
        reached.unwrap().unwrap();
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_a_crashed_run_left_is_swept_with_its_processes() {
    let id = LabConfig::unique("boom").id;
    // The dying process leaves a lab and a child inside it, recorded as daemons are.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "die_with_a_lab_up"])
        .env(CRASH, &id)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    let left = leftovers(&id);
    assert_eq!(left.len(), 5, "{left:?}");
    let child = fs::read_to_string(Path::new(DIRECTORY).join(&id).join("sleeper")).unwrap();
    assert!(
        Path::new("/proc").join(&child).exists(),
        "the child outlived its parent"
    );

    assert!(sweep(&id).unwrap());
    assert_eq!(leftovers(&id), Vec::<String>::new());
    let deadline = Instant::now() + Duration::from_secs(5);
    let running = || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while running() {
        assert!(
            Instant::now() < deadline,
            "process {child} survived the sweep"
        );
        std::thread::yield_now();
    }
    assert!(!sweep(&id).unwrap(), "nothing is left to sweep");
}

/// Not a test of its own: the crash in the one above.
#[test]
#[ignore = "only run by what_a_crashed_run_left_is_swept_with_its_processes"]
fn die_with_a_lab_up() {
    let Ok(id) = std::env::var(CRASH) else { return };
    let lab = Lab::up(LabConfig {
        id: id.clone(),
        ..LabConfig::default()
    })
    .unwrap();
    let mut command = Command::new("sleep");
    command
        .arg("600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = lab.spawn_recorded(lab.nodes()[0].netns(), command).unwrap();
    let path = Path::new(DIRECTORY).join(&id).join("sleeper");
    fs::write(path, child.id().to_string()).unwrap();
    std::process::abort();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_namespace_keeps_its_sockets_to_itself() {
    let config = LabConfig::unique("ns");
    let netns = NetNs::create(&format!("pen-{}-alone", config.id)).unwrap();
    let names = netns.run(interface_names).unwrap();
    assert_eq!(names, ["lo"]);
    assert!(NetNs::create(netns.name()).is_err(), "a name is taken once");
    let name = netns.name().to_owned();
    drop(netns);
    assert!(NetNs::open(&name).is_err());
}

/// Names of the interfaces the calling thread sees.
fn interface_names() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}
