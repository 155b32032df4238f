//! Every target of the design (section 6), by scenario and figure.
//!
//! The one place that knows them: a figure is held to the row that bears its name, and the report
//! lists the rows nobody measured.

use std::sync::LazyLock;

use crate::report::Target;

/// The comparator of most ratios.
pub const KERNEL: &str = "kernel path with the VPC CNI's rules";
const DESIGN: &str = "the design";

/// One target.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Scenario that measures it.
    pub scenario: &'static str,
    /// Name of its figure.
    pub figure: String,
    /// The bound.
    pub target: Target,
    /// What the figure is compared with.
    pub vs: &'static str,
}

static ALL: LazyLock<Vec<Row>> = LazyLock::new(rows);

/// All of them, in the design's order.
#[must_use]
pub fn all() -> &'static [Row] {
    &ALL
}

/// The target of a figure.
#[must_use]
pub fn of(scenario: &str, figure: &str) -> Option<&'static Row> {
    ALL.iter()
        .find(|row| row.scenario == scenario && row.figure == figure)
}

/// The rows as they are added.
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, scenario: &'static str, figure: String, target: Target, vs: &'static str) {
        self.0.push(Row {
            scenario,
            figure,
            target,
            vs,
        });
    }

    /// The same figure at 110 pods and at 4.
    fn by_pods(&mut self, scenario: &'static str, figure: &str, bounds: [Target; 2]) {
        for (pods, target) in [110, 4].into_iter().zip(bounds) {
            self.add(scenario, format!("{figure}, {pods} pods"), target, KERNEL);
        }
    }
}

fn rows() -> Vec<Row> {
    use Target::{AtLeast, AtMost};
    let mut rows = Rows(Vec::new());
    for (flows, cycles) in [(4_096, 100.0), (1_000_000, 160.0)] {
        for batch in [32, 256] {
            let figure = format!("snat4_flows_{flows}_batch_{batch}_cycles_per_packet");
            rows.add("pipeline", figure, AtMost(cycles), "VPP nat44-ed");
        }
    }
    let cost = "node cost, offload on, 64 B";
    rows.by_pods("egress-snat", cost, [AtMost(0.15), AtMost(0.4)]);
    rows.by_pods("ingress", cost, [AtMost(0.15), AtMost(0.25)]);
    let pps = "packets per second, offload off, 64 B";
    rows.by_pods("egress-snat", pps, [AtLeast(3.0), AtLeast(1.5)]);
    rows.add(
        "egress-snat",
        "packets per second, offload off, 64 B, VPP".to_owned(),
        AtLeast(2.0),
        "VPP nat44-ed over AF_XDP",
    );
    tcp_bulk(&mut rows);
    for protocol in ["UDP", "TCP"] {
        for load in ["idle", "half load"] {
            for percentile in ["p50", "p99"] {
                let figure = format!("{protocol} {percentile}, {load}, offload on");
                rows.by_pods("rr", &figure, [AtMost(0.7), AtMost(0.9)]);
            }
        }
    }
    for flows in ["new UDP flows", "new TCP flows"] {
        let figure = format!("{flows}, offload on");
        rows.by_pods("cps", &figure, [AtLeast(1.5), AtLeast(1.5)]);
    }
    let real = "connect, request, close, offload on";
    rows.by_pods("cps", real, [AtLeast(1.0), AtLeast(1.0)]);
    for family in [4, 6] {
        let figure = format!("memory_per_flow_{family}");
        rows.add("pipeline", figure, AtMost(256.0), DESIGN);
    }
    rows.add(
        "pipeline",
        "new_sessions_per_second".to_owned(),
        AtLeast(1e6),
        DESIGN,
    );
    rows.add(
        "scale",
        "node cost, 1000000 flows and 250 pods".to_owned(),
        AtMost(1.5),
        "64 flows and 4 pods",
    );
    for (figure, bound) in [("ADD alone", 15.0), ("ADD, 50 at once, p99", 100.0)] {
        rows.add("cni-add", figure.to_owned(), AtMost(bound), DESIGN);
    }
    for (figure, bound) in [
        ("packets of offloaded flows lost", 0.0),
        ("longest gap of other flows", 50.0),
        ("connections reset", 0.0),
    ] {
        rows.add("crash", figure.to_owned(), AtMost(bound), DESIGN);
    }
    for scenario in [
        "egress-snat",
        "ingress",
        "tcp-bulk",
        "rr",
        "cps",
        "scale",
        "crash",
    ] {
        let figure = "packets unaccounted for".to_owned();
        rows.add(scenario, figure, AtMost(0.0), DESIGN);
    }
    rows.0
}

fn tcp_bulk(rows: &mut Rows) {
    use Target::AtLeast;
    for path in ["SNAT", "pod to pod"] {
        for mtu in [1_500, 9_001] {
            for (streams, many_pods) in [(1, 1.2), (8, 2.0)] {
                let figure = format!("out, {path}, streams {streams}, MTU {mtu}");
                rows.by_pods("tcp-bulk", &figure, [AtLeast(many_pods), AtLeast(1.1)]);
            }
        }
    }
    let figure = "in, SNAT, streams 1, MTU 1500";
    rows.by_pods("tcp-bulk", figure, [AtLeast(3.0), AtLeast(1.6)]);
    let figure = "same node, streams 1, MTU 9001";
    rows.by_pods("tcp-bulk", figure, [AtLeast(1.0), AtLeast(1.0)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_figure_has_two_targets() {
        let names: HashSet<_> = all()
            .iter()
            .map(|row| (row.scenario, &row.figure))
            .collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn every_target_belongs_to_a_scenario() {
        for row in all() {
            assert!(
                crate::scenario::by_name(row.scenario).is_ok(),
                "{} is held by no scenario",
                row.figure
            );
        }
    }
}
