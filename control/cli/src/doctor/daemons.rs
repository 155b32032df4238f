//! Both daemons: there, ready, agreed, and with nothing left to the kernel that need not be.

use penstock_dataplane_api::{UplinkMode, UplinkReport};

use super::{Finding, Verdict};
use crate::scene::Scene;

/// All of it.
pub(super) fn check(scene: &Scene) -> Vec<Finding> {
    let mut findings = vec![control(scene), dataplane(scene)];
    findings.extend(hooks(scene));
    if let Ok(status) = &scene.dataplane {
        findings.extend(status.uplinks.iter().map(uplink));
    }
    findings.extend(unpinned(scene));
    findings
}

fn control(scene: &Scene) -> Finding {
    let name = ("agent", "node");
    match &scene.control {
        Ok(status) if status.ready && status.problem.is_empty() => {
            Finding::pass(name.0, name.1, format!("pid {}", status.pid))
        }
        Ok(status) => {
            let verdict = if status.ready {
                Verdict::Warn
            } else {
                Verdict::Fail
            };
            let found = match status.problem.as_str() {
                "" => "not ready to add pods",
                problem => problem,
            };
            Finding::bad(verdict, name, found, "see the log of penstock-control")
        }
        Err(failure) => away(name, &failure.to_string()),
    }
}

fn dataplane(scene: &Scene) -> Finding {
    let name = ("dataplane", "node");
    let status = match &scene.dataplane {
        Ok(status) => status,
        Err(failure) => return away(name, &failure.to_string()),
    };
    let published = scene
        .control
        .as_ref()
        .map_or(0, |control| control.generation);
    if status.fallback_queues > 0 {
        let found = format!(
            "the kernel serves {} queues whose worker is late",
            status.fallback_queues
        );
        let fix = "give the workers cores of their own: see `penstock get workers`";
        return Finding::bad(Verdict::Warn, name, found, fix);
    }
    if status.generation < published {
        let found = format!(
            "forwards by generation {}, the agent is at {published}",
            status.generation
        );
        let fix = "see the log of penstock-control for what was refused";
        return Finding::bad(Verdict::Fail, name, found, fix);
    }
    Finding::pass(name.0, name.1, format!("pid {}", status.pid))
}

/// The failure's first line is what is wrong, its second what to do.
fn away(name: (&str, &str), failure: &str) -> Finding {
    let (found, fix) = failure.split_once('\n').unwrap_or((failure, ""));
    Finding::bad(Verdict::Fail, name, found, fix)
}

/// A hook on every pod.
fn hooks(scene: &Scene) -> Option<Finding> {
    let status = scene.dataplane.as_ref().ok()?;
    scene.control.as_ref().ok()?;
    let pods = scene.pods.iter().filter(|pod| pod.confirmed).count();
    let name = ("pod-hooks", "node");
    let found = format!("{} of {pods} pods", status.endpoints);
    Some(if status.endpoints as usize == pods {
        Finding::pass(name.0, name.1, found)
    } else {
        let fix = "see the log of penstock-dataplane; others' pods take the kernel path";
        Finding::bad(Verdict::Warn, name, found, fix)
    })
}

fn uplink(uplink: &UplinkReport) -> Finding {
    let name = ("uplink", uplink.ifname.as_str());
    if !uplink.problem.is_empty() {
        let fix = "detach what holds it (`ip link show` names the program), or see the problem";
        return Finding::bad(Verdict::Warn, name, &uplink.problem, fix);
    }
    match uplink.mode {
        UplinkMode::Kernel => {
            let found = "not bound: its traffic takes the kernel path";
            let fix = "see the log of penstock-dataplane";
            Finding::bad(Verdict::Warn, name, found, fix)
        }
        UplinkMode::Copy => Finding::pass(name.0, name.1, "bound, the kernel copies"),
        UplinkMode::ZeroCopy => Finding::pass(name.0, name.1, "bound, zero-copy"),
    }
}

fn unpinned(scene: &Scene) -> Vec<Finding> {
    let workers = scene.counters.iter().flat_map(|counters| &counters.workers);
    workers
        .filter(|worker| worker.core.is_none())
        .map(|worker| {
            let on = format!("worker {}", worker.worker);
            let found = "not pinned to a core";
            let fix = "allow the process the cores it was told: see its cpuset and --cores";
            Finding::bad(Verdict::Warn, ("worker-core", &on), found, fix)
        })
        .collect()
}
