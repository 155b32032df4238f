//! Network limits of common instance types, for nodes that may not ask DescribeInstanceTypes. The figures are EC2's own;
//! of types with several network cards, those of the first.

use crate::ipam::plan::Limits;

/// (types, ENIs, IPv4 addresses per ENI, whether prefixes can be delegated)
type Row = (&'static [&'static str], u32, u32, bool);

const TABLE: &[Row] = &[
    (&["t2.micro"], 2, 2, false),
    (&["t3.nano", "t3.micro"], 2, 2, true),
    (&["t3.small"], 3, 4, true),
    (&["a1.medium"], 2, 4, true),
    (&["t3.medium", "t4g.medium"], 3, 6, true),
    (&["m4.large"], 2, 10, false),
    (
        &[
            "c5.large",
            "c6in.large",
            "c7g.large",
            "m5.large",
            "m6i.large",
            "m7i.large",
            "r5.large",
            "g4dn.xlarge",
        ],
        3,
        10,
        true,
    ),
    (&["t3.large"], 3, 12, true),
    (
        &[
            "c5.xlarge",
            "c6in.xlarge",
            "c6in.2xlarge",
            "g5.xlarge",
            "m5.xlarge",
            "m5.2xlarge",
            "t3.xlarge",
            "t3.2xlarge",
        ],
        4,
        15,
        true,
    ),
    (&["m4.4xlarge"], 8, 30, false),
    (
        &[
            "c5.4xlarge",
            "c6in.4xlarge",
            "c6in.8xlarge",
            "m5.4xlarge",
            "m5.8xlarge",
            "m5.12xlarge",
            "m6a.4xlarge",
        ],
        8,
        30,
        true,
    ),
    (&["p5.48xlarge"], 2, 50, true),
    (&["p5en.48xlarge"], 4, 50, true),
    (&["trn1.32xlarge"], 5, 50, true),
    (&["g5.48xlarge"], 7, 50, true),
    (&["c6in.32xlarge"], 8, 50, true),
    (&["c8gn.48xlarge"], 12, 50, true),
    (&["c8in.96xlarge"], 12, 64, true),
    (
        &[
            "c5.metal",
            "c5n.18xlarge",
            "c6in.16xlarge",
            "i4i.16xlarge",
            "inf2.48xlarge",
            "m5.24xlarge",
            "m5.metal",
            "m6i.32xlarge",
            "m7i.48xlarge",
            "m8g.48xlarge",
            "p4d.24xlarge",
        ],
        15,
        50,
        true,
    ),
];

/// The limits of a type, if it is a common one.
#[must_use]
pub fn known_limits(instance_type: &str) -> Option<Limits> {
    let row = TABLE
        .iter()
        .find(|(types, ..)| types.contains(&instance_type));
    row.map(|(_, enis, addresses_per_eni, prefixes)| Limits {
        enis: *enis,
        addresses_per_eni: *addresses_per_eni,
        prefixes: *prefixes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_in_one_row() {
        let mut names: Vec<_> = TABLE.iter().flat_map(|(types, ..)| types.iter()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!(known_limits("m5.large").unwrap().enis, 3);
        assert_eq!(known_limits("x99.unheard-of"), None);
    }
}
