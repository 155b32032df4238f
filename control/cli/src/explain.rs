//! `penstock explain`: what would become of a packet, and why, without sending one.
//!
//! The dataplane answers, by the engine and the snapshot its workers use. Names of pods are looked
//! up at the agent, or taken as addresses while it is away.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use penstock_control_api::PodRow;
use penstock_dataplane_api::{Explanation, Fate, Question};
use serde_json::json;

use crate::arguments::Format;
use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::table::{Column, View, text};

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Sender: a pod as NAMESPACE/NAME, or an address.
    #[arg(long, value_name = "POD")]
    from: String,
    /// Receiver: a pod or an address, with its port where the protocol has ports.
    #[arg(long, value_name = "POD:PORT")]
    to: String,
    /// Protocol.
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: Protocol,
    /// Source port, or ICMP identifier, as of a new conversation.
    #[arg(long, value_name = "PORT", default_value_t = 49_152)]
    from_port: u16,
    /// Bytes of IP packet.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    bytes: u16,
    /// Output format.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table"
    )]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    /// An echo request.
    Icmp,
    Sctp,
}

impl Protocol {
    /// IANA's number, which for ICMP depends on the family.
    fn number(self, to: IpAddr) -> u8 {
        match self {
            Self::Icmp if to.is_ipv6() => 58,
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// Asks and prints; the exit status is 0 when the packet is forwarded or the kernel's, 1 when it
/// is dropped.
pub(crate) fn run(
    daemons: &Daemons,
    arguments: &ExplainArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let pods = daemons.pods().unwrap_or_default();
    let from = address(&pods, &arguments.from)?;
    let (to, to_port) = destination(&pods, arguments)?;
    let question = Question {
        protocol: arguments.protocol.number(to),
        from,
        from_port: arguments.from_port,
        to,
        to_port,
        bytes: arguments.bytes,
    };
    let explanation = daemons.explain(question)?;
    write(&question, &explanation, arguments.format, output)?;
    let dropped = matches!(explanation.fate, Fate::Dropped { .. });
    Ok(ExitCode::from(u8::from(dropped)))
}

/// The address of a pod, or the address itself.
fn address(pods: &[PodRow], name: &str) -> Result<IpAddr, Failure> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let called = |pod: &&PodRow| format!("{}/{}", pod.namespace, pod.pod) == name;
    let found: Vec<&PodRow> = pods.iter().filter(called).collect();
    match found.as_slice() {
        [pod] => Ok(pod.address.into()),
        [] => Err(Failure::Node(format!(
            "{name} is neither an address nor a pod of this node; `penstock get pods` lists them"
        ))),
        _ => Err(Failure::Node(format!(
            "{name} has several interfaces; name one by its address"
        ))),
    }
}

/// The last colon divides, unless the whole is an address.
fn destination(pods: &[PodRow], arguments: &ExplainArguments) -> Result<(IpAddr, u16), Failure> {
    let to = arguments.to.as_str();
    if let Ok(to) = to.parse::<SocketAddr>() {
        return Ok((to.ip(), to.port()));
    }
    let split = to
        .rsplit_once(':')
        .filter(|_| to.parse::<IpAddr>().is_err());
    match split.map(|(name, port)| (name, port.parse::<u16>())) {
        Some((name, Ok(port))) => Ok((address(pods, name)?, port)),
        Some((_, Err(_))) => Err(Failure::Node(format!("{to}: no port after the colon"))),
        None if arguments.protocol.has_ports() => Err(Failure::Node(format!(
            "{to} lacks a port: say {to}:443, or --protocol icmp"
        ))),
        None => Ok((address(pods, to)?, 0)),
    }
}

fn write(
    question: &Question,
    explanation: &Explanation,
    format: Format,
    output: &mut impl Write,
) -> Result<(), Failure> {
    const COLUMNS: &[Column] = &[text("STEP"), text("WHAT")];
    let view = View {
        json: json!({ "question": question, "explanation": explanation }),
        columns: COLUMNS,
        rows: steps(question, explanation)
            .into_iter()
            .map(|(step, what)| vec![step.to_owned(), what])
            .collect(),
    };
    view.write(format, true, output)?;
    Ok(())
}

/// The packet's way, in order.
fn steps(question: &Question, explanation: &Explanation) -> Vec<(&'static str, String)> {
    let named = |address: IpAddr, pod: &Option<String>| match pod {
        Some(pod) => format!("{address}, pod {pod}"),
        None => format!("{address}, no pod of this node"),
    };
    let mut steps = vec![
        ("from", named(question.from, &explanation.from_pod)),
        ("to", named(question.to, &explanation.to_pod)),
        ("rules", format!("generation {}", explanation.generation)),
    ];
    if let Some(flow) = &explanation.flow {
        let state = format!(
            "known to worker {}, {}, {} packets out, {} in, idle {} ms",
            flow.worker, flow.state, flow.packets_out, flow.packets_in, flow.idle_ms
        );
        steps.push(("flow", state));
    }
    match (&explanation.flow, explanation.snat) {
        (Some(flow), _) if flow.snat.is_some() => {
            let address = flow.snat.unwrap_or(question.from);
            steps.push(("SNAT", format!("{address}:{}", flow.snat_port)));
        }
        (None, Some(address)) => {
            let what = format!("{address}, an L4 port chosen when the flow begins");
            steps.push(("SNAT", what));
        }
        _ => steps.push(("SNAT", "none".to_owned())),
    }
    steps.push(match &explanation.fate {
        Fate::Forwarded { eni_id, ifname } if eni_id.is_empty() => {
            ("verdict", format!("forwarded to the pod by {ifname}"))
        }
        Fate::Forwarded { eni_id, ifname } => {
            ("verdict", format!("forwarded by {eni_id} ({ifname})"))
        }
        Fate::Kernel { cidr: Some(cidr) } => (
            "verdict",
            format!("the kernel's: {cidr} is the node's own or a Service's"),
        ),
        Fate::Kernel { cidr: None } => (
            "verdict",
            "the kernel's, by its routes and rules".to_owned(),
        ),
        Fate::Dropped { reason, meaning } => ("verdict", format!("dropped, {reason}: {meaning}")),
    });
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Vec<PodRow> {
        let row = |pod: &str, address: &str| PodRow {
            namespace: "d".to_owned(),
            pod: pod.to_owned(),
            address: address.parse().unwrap(),
            eni_id: "eni-1".to_owned(),
            device_number: 0,
            host_ifname: "eni0".to_owned(),
            network: "penstock".to_owned(),
            container_id: "c".to_owned(),
            ifname: "eth0".to_owned(),
            confirmed: true,
        };
        vec![
            row("a", "10.0.0.5"),
            row("twice", "10.0.0.6"),
            row("twice", "10.0.0.7"),
        ]
    }

    fn asked(to: &str, protocol: Protocol) -> Result<(IpAddr, u16), Failure> {
        let arguments = ExplainArguments {
            from: "d/a".to_owned(),
            to: to.to_owned(),
            protocol,
            from_port: 1,
            bytes: 64,
            format: Format::Table,
        };
        destination(&pods(), &arguments)
    }

    #[test]
    fn a_destination_is_a_pod_or_an_address_with_its_port() {
        let is = |to: &str, protocol, address: &str, port| {
            let expected = (address.parse::<IpAddr>().unwrap(), port);
            assert_eq!(asked(to, protocol).unwrap(), expected, "{to}");
        };
        is("d/a:80", Protocol::Tcp, "10.0.0.5", 80);
        is("192.0.2.1:443", Protocol::Udp, "192.0.2.1", 443);
        is("[2001:db8::1]:443", Protocol::Tcp, "2001:db8::1", 443);
        is("2001:db8::1", Protocol::Icmp, "2001:db8::1", 0);
        is("d/a", Protocol::Icmp, "10.0.0.5", 0);
    }

    #[test]
    fn what_is_missing_or_unclear_is_said() {
        for (to, words) in [
            ("192.0.2.1", "lacks a port"),
            ("d/a:http", "no port after the colon"),
            ("d/b:80", "neither an address nor a pod"),
            ("d/twice:80", "several interfaces"),
        ] {
            let problem = asked(to, Protocol::Tcp).unwrap_err().to_string();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
