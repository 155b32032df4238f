//! The plugin's contract with runtimes that needs no privileges: bad input C01 to C10 and C13 to
//! C16, versions, a control that is away. Each test runs the built binary.

mod rig;

use std::path::Path;
use std::time::Duration;

use penstock_control_api::{Failure, PodRow, Request, Response, Status};
use rig::{ADDRESS, Call, Control, attachment, config};
use serde_json::{Value, json};

fn nowhere() -> &'static Path {
    Path::new("/nonexistent/penstock")
}

fn call(command: &str) -> Call {
    Call::new(command, &config("1.0.0", nowhere()))
}

#[test]
fn c01_missing_variables_are_named() {
    let error = call("ADD").without("CNI_COMMAND").run().refused(4);
    assert!(error["msg"].as_str().unwrap().contains("CNI_COMMAND"));
    call("ATTACH").run().refused(4);
    call("add").run().refused(4);
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let error = call("ADD").without(name).run().refused(4);
        assert!(error["msg"].as_str().unwrap().contains(name), "{error}");
        call("ADD").with(name, "").run().refused(4);
    }
    let error = call("ADD")
        .without("CNI_NETNS")
        .without("CNI_IFNAME")
        .run()
        .refused(4);
    let text = error["msg"].as_str().unwrap();
    assert!(text.contains("CNI_NETNS") && text.contains("CNI_IFNAME"));
}

#[test]
fn c01_needs_no_standard_input() {
    let mut child = call("NONSENSE").command().spawn().unwrap();
    let held_open = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    drop(held_open);
}

#[test]
fn c02_container_ids_are_checked() {
    for bad in ["../x", "a\nb", "-a", "a/b", "a b", &"a".repeat(4096)] {
        call("ADD").with("CNI_CONTAINERID", bad).run().refused(4);
        call("DEL").with("CNI_CONTAINERID", bad).run().refused(4);
    }
}

#[test]
fn c03_interface_names_are_checked() {
    for bad in ["sixteen-bytes-xx", ".", "..", "a/b", "a:b", "a b", "eth%d"] {
        call("ADD").with("CNI_IFNAME", bad).run().refused(4);
    }
}

#[test]
fn c04_what_is_not_a_namespace_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, b"").unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let missing = directory.path().join("missing");
    for path in [plain.as_path(), &fifo, directory.path(), &missing] {
        let path = path.to_str().unwrap();
        let answer = call("ADD").with("CNI_NETNS", path).run();
        let error = answer.refused(5);
        assert!(error["msg"].as_str().unwrap().contains(path), "{error}");
        assert!(answer.took < Duration::from_secs(1), "{answer:?}");
        let answer = call("DEL").with("CNI_NETNS", path).run();
        answer.done();
        assert!(answer.took < Duration::from_secs(1), "{answer:?}");
    }
}

#[test]
fn c04_the_nodes_own_namespace_is_refused() {
    let own = "/proc/self/ns/net";
    call("ADD").with("CNI_NETNS", own).run().refused(8);
    call("DEL").with("CNI_NETNS", own).run().done();
}

#[test]
fn c05_standard_input_is_bounded() {
    call("ADD").input("").run().refused(6);
    call("ADD").input(r#"{"cniVersion":"1.0"#).run().refused(6);
    let huge = vec![b' '; 16 << 20];
    call("ADD").input(huge).run().refused(6);
}

#[test]
fn c05_a_standard_input_that_never_ends_is_given_up() {
    let mut child = call("ADD").command().spawn().unwrap();
    let held_open = child.stdin.take();
    let started = std::time::Instant::now();
    let output = child.wait_with_output().unwrap();
    let took = started.elapsed();
    drop(held_open);
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 5, "{error}");
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8));
}

#[test]
fn c06_bad_json_is_refused_without_overflow() {
    for bad in ["{", "[]", "null", "3", "\u{0}", "{\"name\":}"] {
        call("ADD").input(bad).run().refused(6);
    }
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    call("ADD").input(deep.as_str()).run().refused(6);
    let hidden = format!(r#"{{"cniVersion":"1.0.0","name":"n","x":{deep}}}"#);
    call("ADD").input(hidden).run().refused(6);
    let twice = r#"{"cniVersion":"1.0.0","name":"a","name":"b"}"#;
    call("ADD").input(twice).run().refused(6);
    for mtu in [json!("abc"), json!(-1), json!(1_000_000_000), json!([])] {
        let mut config = config("1.0.0", nowhere());
        config["mtu"] = mtu;
        Call::new("ADD", &config).run().refused(7);
    }
}

#[test]
fn c07_versions_are_listed_when_refused() {
    for version in [None, Some("0.1.0"), Some("0.3.0"), Some("2.0.0"), Some("")] {
        let mut config = config("1.0.0", nowhere());
        match version {
            Some(text) => config["cniVersion"] = text.into(),
            None => drop(config.as_object_mut().unwrap().remove("cniVersion")),
        }
        for command in ["ADD", "DEL"] {
            let error = Call::new(command, &config).run().refused(1);
            let details = error["details"].as_str().unwrap();
            assert!(details.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{details}");
        }
    }
}

#[test]
fn c08_network_names_are_checked() {
    let mut config = config("1.0.0", nowhere());
    config.as_object_mut().unwrap().remove("name");
    Call::new("ADD", &config).run().refused(7);
    for bad in ["", "a/b", "../x", "-a", "a b", "ü"] {
        config["name"] = bad.into();
        Call::new("ADD", &config).run().refused(7);
    }
}

#[test]
fn c09_arguments_are_checked() {
    let long = format!("K8S_POD_NAMESPACE=a;K8S_POD_NAME={}", "p".repeat(300));
    for bad in [
        ";;=",
        "=x",
        "K8S_POD_NAME",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=\u{1b}[31m",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=$(reboot)",
        &long,
    ] {
        call("ADD").with("CNI_ARGS", bad).run().refused(4);
    }
    call("ADD").without("CNI_ARGS").run().refused(4);
    call("DEL").with("CNI_ARGS", ";;=").run().done();
}

#[test]
fn c10_check_needs_the_earlier_result_and_del_does_not() {
    let error = call("CHECK").run().refused(7);
    assert!(error["msg"].as_str().unwrap().contains("prevResult"));
    call("DEL").run().done();
}

#[test]
fn check_is_younger_than_0_3_1() {
    for (command, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        let error = Call::new(command, &config(version, nowhere()))
            .run()
            .refused(1);
        assert_eq!(error["cniVersion"], version);
    }
}

#[test]
fn c15_version_needs_nobody() {
    let supported = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let bare = Call::new("VERSION", &json!({}))
        .without("CNI_NETNS")
        .without("CNI_CONTAINERID");
    for (input, version) in [
        ("", "1.1.0"),
        ("{}", "1.1.0"),
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"7.0.0"}"#, "1.1.0"),
    ] {
        let result = bare.clone().input(input).run().result();
        assert_eq!(result["supportedVersions"], supported);
        assert_eq!(result["cniVersion"], version, "{input:?}");
    }
}

#[test]
fn del_repeats_and_succeeds_whatever_control_says() {
    let control = Control::serve(|_| Some(Response::Done));
    let del = Call::new("DEL", &config("1.0.0", &control.run_dir()));
    for _ in 0..3 {
        del.run().done();
    }
    del.clone().without("CNI_NETNS").run().done();
    let asked = control.asked();
    assert_eq!(asked.len(), 4);
    let Request::Del { key, generation: 0 } = &asked[0] else {
        unreachable!("asked {asked:?}");
    };
    assert_eq!(key.network, "penstock");
    assert_eq!(key.container_id, "0123abcd");
    assert_eq!(key.ifname, "eth0");

    let refusing = Control::serve(|_| {
        Some(Response::Error(Failure {
            code: 101,
            message: "rule stays".to_owned(),
            details: "device busy".to_owned(),
        }))
    });
    let answer = Call::new("DEL", &config("1.0.0", &refusing.run_dir())).run();
    answer.done();
    assert!(answer.stderr.contains("rule stays"), "{answer:?}");
}

#[test]
fn f06_control_away() {
    let started = call("DEL").run();
    started.done();
    assert!(started.took < Duration::from_secs(2), "{started:?}");
    let status = Call::new("STATUS", &config("1.1.0", nowhere())).run();
    let error = status.refused(50);
    assert!(
        error["details"]
            .as_str()
            .unwrap()
            .contains("penstock-control"),
        "{error}"
    );
    assert!(status.took < Duration::from_secs(2), "{status:?}");
}

#[test]
fn f08_a_silent_control_holds_del_for_its_deadline_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(penstock_control_api::SOCKET_NAME);
    let _accepts_nothing = std::os::unix::net::UnixListener::bind(path).unwrap();
    let answer = Call::new("DEL", &config("1.0.0", directory.path())).run();
    answer.done();
    assert!(answer.took < Duration::from_secs(7), "{answer:?}");
    assert!(answer.stderr.contains("does not answer"), "{answer:?}");
}

#[test]
fn c14_status_says_what_is_wrong() {
    let status = |ready: bool, dataplane_generation: u64| Status {
        version: "0.1.0".to_owned(),
        pid: 1,
        uptime_seconds: 1,
        instance_id: "i-0".to_owned(),
        instance_type: "m5.large".to_owned(),
        ready,
        problem: if ready { "" } else { "no addresses left" }.to_owned(),
        generation: 3,
        dataplane_generation,
        repairs: 0,
        last_repair: String::new(),
        pool: penstock_control_api::PoolReport::default(),
    };
    let ask = |status: Status| {
        let control = Control::serve(move |_| Some(Response::Status(Box::new(status.clone()))));
        Call::new("STATUS", &config("1.1.0", &control.run_dir())).run()
    };
    ask(status(true, 3)).done();
    let error = ask(status(false, 3)).refused(50);
    assert_eq!(error["details"], "no addresses left");
    ask(status(true, 0)).refused(51);
}

#[test]
fn c13_gc_removes_what_the_runtime_no_longer_has() {
    let row = |network: &str, container_id: &str| PodRow {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        address: ADDRESS,
        eni_id: "eni-0".to_owned(),
        device_number: 0,
        host_ifname: "eni0".to_owned(),
        network: network.to_owned(),
        container_id: container_id.to_owned(),
        ifname: "eth0".to_owned(),
        confirmed: true,
    };
    let rows = vec![
        row("penstock", "live"),
        row("penstock", "stale"),
        row("other", "foreign"),
    ];
    let control = Control::serve(move |request| match request {
        Request::Pods => Some(Response::Pods(rows.clone())),
        _ => Some(Response::Done),
    });
    let mut config = config("1.1.0", &control.run_dir());
    Call::new("GC", &config).run().refused(7);
    assert!(control.asked().is_empty());
    config["cni.dev/valid-attachments"] = json!([
        { "containerID": "live", "ifname": "eth0" },
        { "containerID": "unknown", "ifname": "eth0" },
    ]);
    Call::new("GC", &config).run().done();
    let removed: Vec<_> = control
        .asked()
        .into_iter()
        .filter_map(|request| match request {
            Request::Del { key, .. } => Some(key.container_id),
            _ => None,
        })
        .collect();
    assert_eq!(removed, ["stale"]);
}

#[test]
fn check_of_a_vanished_sandbox_does_not_bother_control() {
    let control = Control::serve(|_| Some(Response::Attachment(attachment(false))));
    let mut config = config("1.0.0", &control.run_dir());
    config["prevResult"] = json!({ "cniVersion": "1.0.0", "ips": [] });
    Call::new("CHECK", &config).run().refused(5);
    assert!(control.asked().is_empty());
}

#[test]
fn c18_unknown_keys_and_other_plugins_capabilities_are_ignored() {
    let mut config = config("1.1.0", nowhere());
    config["penstock.example/hint"] = json!({ "a": [1, 2] });
    config["cniVersions"] = json!(["1.0.0", "1.1.0"]);
    config["disableGC"] = json!(true);
    config["args"] = json!({ "cni": { "labels": [] } });
    config["runtimeConfig"] = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 1000, "ingressBurst": 1000 },
        "ips": [],
        "mac": "",
        "aliases": ["a"],
    });
    // Far enough to find that there is no such namespace.
    Call::new("ADD", &config).run().refused(5);
}

#[test]
fn wishes_that_cannot_be_granted_are_refused_by_name_and_value() {
    for (key, value, text) in [
        ("ips", json!(["10.0.0.7/24"]), "10.0.0.7/24"),
        ("mac", json!("02:00:00:00:00:07"), "02:00:00:00:00:07"),
    ] {
        let mut config = config("1.0.0", nowhere());
        config["runtimeConfig"] = json!({ key: value });
        let error = Call::new("ADD", &config).run().refused(2);
        let message = error["msg"].as_str().unwrap();
        assert!(message.contains(key) && message.contains(text), "{error}");
        Call::new("DEL", &config).run().done();
    }
}

#[test]
fn c13_gc_goes_on_after_a_failure_and_reports_all() {
    let row = |container_id: &str| PodRow {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        address: ADDRESS,
        eni_id: "eni-0".to_owned(),
        device_number: 0,
        host_ifname: "eni0".to_owned(),
        network: "penstock".to_owned(),
        container_id: container_id.to_owned(),
        ifname: "eth0".to_owned(),
        confirmed: true,
    };
    let rows = vec![row("one"), row("two"), row("three")];
    let control = Control::serve(move |request| match request {
        Request::Pods => Some(Response::Pods(rows.clone())),
        Request::Del { key, .. } if key.container_id == "two" => Some(Response::Done),
        Request::Del { key, .. } => Some(Response::Error(Failure {
            code: 101,
            message: format!("rule of {} stays", key.container_id),
            details: "busy".to_owned(),
        })),
        _ => None,
    });
    let mut config = config("1.1.0", &control.run_dir());
    config["cni.dev/valid-attachments"] = json!([]);
    let error = Call::new("GC", &config).run().refused(101);
    let details = error["details"].as_str().unwrap();
    assert!(details.contains("rule of one stays") && details.contains("rule of three stays"));
    assert_eq!(control.asked().len(), 4, "each was tried");
}

#[test]
fn c13_gc_without_the_agent_says_try_again() {
    let mut config = config("1.1.0", nowhere());
    config["cni.dev/valid-attachments"] = json!([]);
    Call::new("GC", &config).run().refused(11);
}
