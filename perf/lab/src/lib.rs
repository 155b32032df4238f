//! A VPC on one machine: namespaces, a fabric and an EC2 simulator.
