//! ADD, DEL and CHECK: the order of things between the agent, the kernel and the runtime.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use penstock_control_api::{Attachment, Failure, MacAddr, Request, code};
use penstock_netlink::{Ipv4Net, Netlink};

use crate::agent::{DEL_DEADLINE, ask, ask_attachment};
use crate::clock::Clock;
use crate::config::Config;
use crate::failure::{CONFIG, IO, failure};
use crate::invocation::Invocation;
use crate::netns::Namespace;
use crate::pod::{Pair, Sides, mismatch};
use crate::previous::Previous;
use crate::result::{Attached, added};
use crate::{print, report};

/// Longest a CHECK waits for the agent.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);
/// Longest a failed ADD waits to give the address back; after that the agent's lease does.
const ROLLBACK_DEADLINE: Duration = Duration::from_secs(2);

/// Attaches the pod and prints the result.
pub(crate) fn add(
    invocation: &Invocation,
    config: &Config,
    mut clock: Clock,
) -> Result<(), Failure> {
    config.is_grantable()?;
    somebody_listens()?;
    let mut sides = open_sides(invocation)?;
    clock.lap("open_us");
    let key = invocation.key(&config.name);
    let reserve = Request::Add {
        key: key.clone(),
        pod: invocation.pod.clone(),
        netns: sandbox(invocation),
        veth_prefix: config.veth_prefix.clone(),
    };
    let attachment = ask_attachment(&config.run_dir, &reserve, clock.deadline())?;
    clock.lap("reserve_us");
    if attachment.confirmed && sides.exists(&invocation.ifname) {
        // A repeated ADD of a live pod: the same answer, or an error that leaves it alone.
        let pair = sides.inspect(&invocation.ifname, &attachment, None)?;
        return print(&added(config, &attached(invocation, &attachment, &pair)?));
    }
    let done = attach(&mut sides, invocation, config, &attachment, &mut clock);
    clock.report();
    done.map_err(|mut failure| {
        let deadline = Instant::now() + ROLLBACK_DEADLINE;
        let undo = Request::Del {
            key,
            generation: attachment.generation,
        };
        if let Err(second) = ask(&config.run_dir, &undo, deadline) {
            failure.details += &format!("; and returning the address failed: {second}");
        }
        failure
    })
}

/// From reservation to printed result; on failure the veth pair is gone again.
fn attach(
    sides: &mut Sides,
    invocation: &Invocation,
    config: &Config,
    attachment: &Attachment,
    clock: &mut Clock,
) -> Result<(), Failure> {
    if let Some(most) = config.mtu.filter(|most| *most < attachment.mtu) {
        return Err(failure(
            CONFIG,
            format!("mtu {most} is less than the agent's {}", attachment.mtu),
            "the agent sets the MTU of all pods; change it there or leave `mtu` out here",
        ));
    }
    let pair = sides.build(&invocation.ifname, attachment)?;
    clock.lap("netlink_us");
    let mut finish = || {
        let attached = attached(invocation, attachment, &pair)?;
        let confirm = Request::Confirm {
            key: invocation.key(&config.name),
            host_ifindex: pair.host.index,
            host_mac: attached.host_mac,
            pod_mac: attached.pod_mac,
            generation: attachment.generation,
        };
        ask(&config.run_dir, &confirm, clock.deadline())?;
        clock.lap("confirm_us");
        print(&added(config, &attached))
    };
    finish().map_err(|mut failure: Failure| {
        if let Err(second) = sides.remove(&pair) {
            failure.details += &format!("; and removing the veth pair failed: {}", second.details);
        }
        failure
    })
}

/// Detaches the pod. Succeeds whatever is missing: what cannot be done now, the agent finishes
/// from its record, and the runtime must not keep a dead pod for it.
pub(crate) fn del(invocation: &Invocation, config: &Config) -> Result<(), Failure> {
    let request = Request::Del {
        key: invocation.key(&config.name),
        generation: 0,
    };
    let deadline = Instant::now() + DEL_DEADLINE;
    if let Err(failure) = ask(&config.run_dir, &request, deadline) {
        report(&config.version, &failure, &mut io::stderr());
    }
    // What is left of the pair, when the agent is away or has lost its record. It is looked for in
    // this sandbox's own namespace: a newer pod of the same name is not touched.
    if let Ok(mut sides) = open_sides(invocation) {
        let listed = config.previous.as_ref();
        let mac = listed.and_then(|result| Previous(result).mac(&invocation.ifname));
        let _ = sides.remove_pod_end(&invocation.ifname, &config.veth_prefix, mac);
    }
    Ok(())
}

/// Compares the record, the runtime's memory and the kernel.
pub(crate) fn check(invocation: &Invocation, config: &Config) -> Result<(), Failure> {
    let previous = config.previous.as_ref().ok_or_else(|| {
        failure(
            CONFIG,
            "network configuration: `prevResult` is missing",
            "CHECK compares with the result of ADD",
        )
    })?;
    let mut sides = open_sides(invocation)?;
    let request = Request::Check {
        key: invocation.key(&config.name),
    };
    let attachment = ask_attachment(&config.run_dir, &request, Instant::now() + CHECK_DEADLINE)?;
    if !attachment.confirmed {
        return Err(mismatch("the attachment was never completed".to_owned()));
    }
    let previous = Previous(previous);
    if !previous.has_address(Ipv4Net::from(attachment.address)) {
        return Err(mismatch(format!(
            "prevResult does not hold {}/32, the address on record",
            attachment.address
        )));
    }
    sides
        .inspect(&invocation.ifname, &attachment, Some(previous))
        .map(drop)
}

/// An address nobody would hear of is not taken. A closed standard output is `/dev/null` by now:
/// the Rust runtime opens that before `main`, so that no other file gets the number.
fn somebody_listens() -> Result<(), Failure> {
    let null = |path| nix::sys::stat::stat(path).map(|stat| stat.st_rdev);
    let ours = nix::sys::stat::fstat(io::stdout()).map(|stat| stat.st_rdev);
    if ours.is_ok_and(|device| device != 0 && null("/dev/null") == Ok(device)) {
        let details = "the runtime must read standard output";
        return Err(failure(IO, "the result of ADD would be lost", details));
    }
    Ok(())
}

fn open_sides(invocation: &Invocation) -> Result<Sides, Failure> {
    let own = Namespace::own()?;
    let path = invocation.netns.as_deref().unwrap_or(Path::new(""));
    let pod = Namespace::pod(path, &own)?.netlink(&own)?;
    let host = Netlink::open()
        .map_err(|error| failure(IO, "cannot use netlink on the node", error.to_string()))?;
    Ok(Sides { own, host, pod })
}

fn attached(
    invocation: &Invocation,
    attachment: &Attachment,
    pair: &Pair,
) -> Result<Attached, Failure> {
    let mac = |found: Option<[u8; 6]>| {
        found.map(MacAddr).ok_or_else(|| {
            failure(
                code::KERNEL,
                "a veth end has no MAC address",
                "report this with `ip -d link`",
            )
        })
    };
    Ok(Attached {
        address: attachment.address,
        mtu: attachment.mtu,
        host_ifname: attachment.host_ifname.clone(),
        host_mac: mac(pair.host.mac)?,
        pod_ifname: invocation.ifname.clone(),
        pod_mac: mac(pair.pod.mac)?,
        sandbox: sandbox(invocation),
    })
}

fn sandbox(invocation: &Invocation) -> String {
    let path = invocation.netns.as_deref().unwrap_or(Path::new(""));
    path.to_string_lossy().into_owned()
}
