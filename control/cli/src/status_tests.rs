//! The verdict and its page, from literal reports.

use std::io;
use std::path::PathBuf;

use penstock_control_api::PoolReport;
use serde_json::Value;

use super::*;

fn control() -> ControlStatus {
    ControlStatus {
        version: "0.1.0".to_owned(),
        pid: 41,
        uptime_seconds: 3720,
        instance_id: "i-0123".to_owned(),
        instance_type: "m5.large".to_owned(),
        ready: true,
        problem: String::new(),
        generation: 5,
        dataplane_generation: 5,
        pool: PoolReport {
            total: 18,
            assigned: 8,
            cooling: 1,
            free: 9,
            limit: 27,
        },
        repairs: 0,
        last_repair: String::new(),
    }
}

fn dataplane() -> DataplaneStatus {
    DataplaneStatus {
        version: "0.1.0".to_owned(),
        pid: 42,
        uptime_seconds: 59,
        generation: 5,
        endpoints: 8,
        workers: 2,
        fallback_queues: 0,
        offload: OffloadReport::default(),
        uplinks: vec![UplinkReport {
            eni_id: "eni-0a".to_owned(),
            ifname: "eth0".to_owned(),
            mode: UplinkMode::ZeroCopy,
            queues: 2,
            problem: String::new(),
        }],
    }
}

fn away(daemon: &'static str) -> Failure {
    Failure::Away {
        daemon,
        path: PathBuf::from(format!("/run/penstock/{daemon}.sock")),
        cause: io::ErrorKind::NotFound.into(),
    }
}

fn written(report: &Report, format: Format) -> String {
    let mut bytes = Vec::new();
    report.write(format, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_healthy_node_on_one_page() {
    let report = Report::of(Ok(control()), Ok(dataplane()));
    assert_eq!(report.health, Health::Ok);
    assert_eq!(
        written(&report, Format::Table),
        "\
PART       HEALTH  DETAIL
control    ok      0.1.0, pid 41, up 1h2m, i-0123 (m5.large), generation 5
dataplane  ok      0.1.0, pid 42, up 59s, 2 workers, 8 pods, offload off, generation 5
pool       ok      8 assigned, 1 cooling, 9 free of 18 addresses; at most 27
eth0       ok      eni-0a, zero-copy, 2 queues

Penstock is ok.
"
    );
}

#[test]
fn one_daemon_away_is_degraded_and_both_are_down() {
    let alone = Report::of(Ok(control()), Err(away("penstock-dataplane")));
    assert_eq!(alone.health, Health::Degraded);
    let page = written(&alone, Format::Table);
    assert!(
        page.contains("dataplane  down    traffic takes the kernel path"),
        "{page}"
    );
    assert!(
        page.contains("Start it with `penstock-dataplane --run-dir"),
        "{page}"
    );
    let other = Report::of(Err(away("penstock-control")), Ok(dataplane()));
    assert_eq!(other.health, Health::Degraded);
    let none = Report::of(
        Err(away("penstock-control")),
        Err(away("penstock-dataplane")),
    );
    assert_eq!(none.health, Health::Down);
    assert!(written(&none, Format::Table).ends_with("Penstock is down.\n"));
}

#[test]
fn each_problem_degrades_and_is_printed() {
    let with_control = |change: fn(&mut ControlStatus)| {
        let mut status = control();
        change(&mut status);
        Report::of(Ok(status), Ok(dataplane()))
    };
    let with_dataplane = |change: fn(&mut DataplaneStatus)| {
        let mut status = dataplane();
        change(&mut status);
        Report::of(Ok(control()), Ok(status))
    };
    let cases = [
        (with_control(|s| s.ready = false), "not ready"),
        (
            with_control(|s| "throttled".clone_into(&mut s.problem)),
            "throttled",
        ),
        (
            with_control(|s| (s.pool.free, s.pool.total) = (0, 27)),
            "every address",
        ),
        (
            with_control(|s| s.generation = 6),
            "generation 5 while control is at 6",
        ),
        (
            with_dataplane(|s| s.fallback_queues = 1),
            "1 queues pass to the kernel",
        ),
        (
            with_dataplane(|s| "foreign program".clone_into(&mut s.uplinks[0].problem)),
            "foreign program",
        ),
    ];
    for (report, words) in cases {
        assert_eq!(report.health, Health::Degraded, "{words}");
        let page = written(&report, Format::Table);
        assert!(page.contains(words), "{page}");
    }
}

#[test]
fn json_carries_verdict_parts_and_the_daemons_own_words() {
    let report = Report::of(Ok(control()), Err(away("penstock-dataplane")));
    let json: Value = serde_json::from_str(&written(&report, Format::Json)).unwrap();
    assert_eq!(json["health"], "degraded");
    assert_eq!(json["control"]["pool"]["free"], 9);
    assert_eq!(json["dataplane"], Value::Null);
    assert_eq!(json["parts"][1]["health"], "down");
}

#[test]
fn durations_keep_two_units() {
    assert_eq!(duration(7), "7s");
    assert_eq!(duration(240), "4m0s");
    assert_eq!(duration(2 * 86_400 + 3 * 3600 + 59), "2d3h");
}

#[test]
fn repairs_are_told() {
    let changed = ControlStatus {
        repairs: 2,
        last_repair: "eth1: [Down]".to_owned(),
        ..control()
    };
    let report = Report::of(Ok(changed), Ok(dataplane()));
    let detail = |name: &str| {
        let part = report.parts.iter().find(|part| part.name == name);
        part.map(|part| part.detail.clone()).unwrap_or_default()
    };
    assert!(detail("control").ends_with("2 repairs, the last: eth1: [Down]"));
    assert_eq!(report.health, Health::Ok, "what was put back is well");
}
