//! T13: random sequences of what runtimes do, held to a model of what must come of it.
//!
//! Three pod names, four sandboxes, fresh container ids. After each operation the agent's records must
//! be the model's; after each sequence the node's links and rules too. A divergence names the seed and
//! the sequence; `PENSTOCK_MODEL_SEED` runs it again, `PENSTOCK_MODEL_SEQUENCES` runs more or fewer.

mod rig;

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use penstock_control_api::{AttachmentKey, Request, Response};
use penstock_lab::NetNs;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rig::shim::Shim;
use rig::{Rig, SETTINGS, env_number};

/// A tenth of what a release is held to.
const SEQUENCES: u64 = 500;
const OPERATIONS: usize = 8;
const PODS: [&str; 3] = ["web-0", "web-1", "job"];
const SANDBOXES: usize = 4;
/// CNI error code 3 of the specification.
const UNKNOWN_CONTAINER: u64 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Attached, in this sandbox.
    Live {
        pod: &'static str,
        address: Ipv4Addr,
        sandbox: usize,
    },
    /// A newer sandbox of the same pod has its interface's name; the address is still held.
    Superseded { address: Ipv4Addr },
    /// The runtime's DEL was seen.
    Deleted,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Add,
    AddAgain,
    AddKilled,
    Del,
    DelWithoutSandbox,
    DelOfVanished,
    Check,
    UndoOfAnother,
    CollectGarbage,
    AgentDies,
}

/// How often each is drawn.
const WEIGHTS: &[(Operation, u32)] = &[
    (Operation::Add, 30),
    (Operation::AddAgain, 12),
    (Operation::AddKilled, 8),
    (Operation::Del, 14),
    (Operation::DelWithoutSandbox, 6),
    (Operation::DelOfVanished, 5),
    (Operation::Check, 12),
    (Operation::UndoOfAnother, 5),
    (Operation::CollectGarbage, 4),
    (Operation::AgentDies, 1),
];

struct World<'a> {
    rig: &'a Rig,
    shim: &'a Shim,
    sandboxes: &'a [NetNs],
    random: StdRng,
    known: BTreeMap<String, State>,
    serial: String,
    made: usize,
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t13_random_sequences_do_what_the_model_says() {
    let rig = Rig::start("modl");
    let shim = Shim::of(rig.node());
    let sandboxes: Vec<NetNs> = (0..SANDBOXES).map(|n| rig.sandbox(n)).collect();
    let first = env_number("PENSTOCK_MODEL_SEED").unwrap_or(0);
    let count = env_number("PENSTOCK_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    for seed in first..first + count {
        let mut world = World {
            rig: &rig,
            shim: &shim,
            sandboxes: &sandboxes,
            random: StdRng::seed_from_u64(seed),
            known: BTreeMap::new(),
            serial: format!("s{seed}"),
            made: 0,
        };
        let mut done = Vec::new();
        for _ in 0..OPERATIONS {
            let drawn = WEIGHTS.choose_weighted(&mut world.random, |(_, weight)| *weight);
            let (operation, _) = *drawn.expect("weights");
            done.push(operation);
            if let Err(divergence) = world.step(operation) {
                panic!(
                    "seed {seed}, after {done:?}: {divergence}\n{:?}",
                    world.known
                );
            }
        }
        if let Err(divergence) = world.finish() {
            panic!("seed {seed}, at the end of {done:?}: {divergence}");
        }
    }
}

type Outcome = Result<(), String>;

impl World<'_> {
    fn step(&mut self, operation: Operation) -> Outcome {
        match operation {
            Operation::Add => self.add()?,
            Operation::AddAgain => self.add_again()?,
            Operation::AddKilled => self.add_killed()?,
            Operation::Del => self.del(true)?,
            Operation::DelWithoutSandbox => self.del(false)?,
            Operation::DelOfVanished => self.del_of_vanished()?,
            Operation::Check => self.check()?,
            Operation::UndoOfAnother => self.undo_of_another()?,
            Operation::CollectGarbage => self.collect_garbage()?,
            Operation::AgentDies => {
                self.rig.node().kill_control();
                let started = self.rig.node().start_control(SETTINGS);
                started.map_err(|error| error.to_string())?;
                // What has no interface any more is not held over a restart.
                let superseded = |state: &&mut State| matches!(state, State::Superseded { .. });
                let replaced = self.known.values_mut().filter(superseded);
                replaced.for_each(|state| *state = State::Deleted);
            }
        }
        self.compare_records()
    }

    fn add(&mut self) -> Outcome {
        let Some(sandbox) = self.free_sandbox() else {
            return Ok(());
        };
        let (container, pod) = self.fresh();
        let address = self.shim.add(&container, pod, &self.sandboxes[sandbox])?;
        if self.held().contains(&address) {
            return Err(format!("{address} was given out twice"));
        }
        self.supersede(pod);
        let state = State::Live {
            pod,
            address,
            sandbox,
        };
        self.known.insert(container, state);
        Ok(())
    }

    fn add_again(&mut self) -> Outcome {
        let Some((container, state)) = self.any() else {
            return Ok(());
        };
        match state {
            State::Live {
                pod,
                address,
                sandbox,
            } => match self.shim.add(&container, pod, &self.sandboxes[sandbox]) {
                Ok(again) if again == address => Ok(()),
                other => Err(format!("a repeated ADD: {other:?}, not {address}")),
            },
            State::Superseded { .. } | State::Deleted => {
                let sandbox = &self.sandboxes[0];
                match self.shim.add_code(&container, PODS[0], sandbox) {
                    Some(UNKNOWN_CONTAINER) => Ok(()),
                    other => Err(format!("a late ADD of {state:?}: {other:?}")),
                }
            }
        }
    }

    /// The plugin dies somewhere on its way; the runtime then does what runtimes do.
    fn add_killed(&mut self) -> Outcome {
        let Some(sandbox) = self.free_sandbox() else {
            return Ok(());
        };
        let (container, pod) = self.fresh();
        let sandbox = &self.sandboxes[sandbox];
        let after = Duration::from_micros(self.random.random_range(0..25_000));
        self.shim.add_and_kill(&container, pod, sandbox, after)?;
        self.shim.del(&container, Some(sandbox))?;
        // Whether it came far enough to take the name over shows in the older one's record.
        let rows = self.rig.pods();
        let taken = |id: &str| {
            rows.iter()
                .any(|row| row.container_id == *id && !row.confirmed)
        };
        if let Some((id, _)) = self.live_of(pod)
            && taken(&id)
        {
            self.supersede(pod);
        }
        self.known.insert(container, State::Deleted);
        Ok(())
    }

    fn del(&mut self, with_sandbox: bool) -> Outcome {
        let Some((container, state)) = self.any() else {
            return self.shim.del("never-seen", None);
        };
        let sandbox = match state {
            State::Live { sandbox, .. } if with_sandbox => Some(&self.sandboxes[sandbox]),
            _ => None,
        };
        self.shim.del(&container, sandbox)?;
        self.known.insert(container, State::Deleted);
        Ok(())
    }

    /// The interface went with its namespace before the DEL came.
    fn del_of_vanished(&mut self) -> Outcome {
        let live = self.all_live();
        let Some((container, sandbox)) = live.choose(&mut self.random).cloned() else {
            return Ok(());
        };
        let gone = self.sandboxes[sandbox].ip(&["link", "del", "eth0"]);
        gone.map_err(|error| error.to_string())?;
        if self
            .shim
            .check(&container, &self.sandboxes[sandbox])
            .is_ok()
        {
            return Err("CHECK of a vanished interface succeeded".to_owned());
        }
        self.shim.del(&container, Some(&self.sandboxes[sandbox]))?;
        self.known.insert(container, State::Deleted);
        Ok(())
    }

    fn check(&mut self) -> Outcome {
        let Some((container, state)) = self.any() else {
            return Ok(());
        };
        let (live, sandbox) = match state {
            State::Live { sandbox, .. } => (true, sandbox),
            _ => (false, 0),
        };
        match self.shim.check(&container, &self.sandboxes[sandbox]) {
            Ok(()) if live => Ok(()),
            Err(_) if !live => Ok(()),
            other => Err(format!("CHECK of {state:?}: {other:?}")),
        }
    }

    /// An ADD that was overtaken long ago gives its reservation back: not this one.
    fn undo_of_another(&mut self) -> Outcome {
        let Some((container, _)) = self.any() else {
            return Ok(());
        };
        let undo = Request::Del {
            key: AttachmentKey {
                network: penstock_lab::NETWORK.to_owned(),
                container_id: container,
                ifname: penstock_lab::IFNAME.to_owned(),
            },
            generation: 1,
        };
        match self.rig.node().control_call(&undo) {
            Ok(Response::Done) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn collect_garbage(&mut self) -> Outcome {
        let mut valid = Vec::new();
        for (container, state) in &mut self.known {
            if *state != State::Deleted && self.random.random_bool(0.5) {
                valid.push(container.clone());
            } else {
                *state = State::Deleted;
            }
        }
        self.shim.collect_garbage(&valid)
    }

    fn compare_records(&self) -> Outcome {
        let mut expected: Vec<(String, Ipv4Addr, bool)> = Vec::new();
        for (container, state) in &self.known {
            match state {
                State::Live { address, .. } => expected.push((container.clone(), *address, true)),
                State::Superseded { address } => {
                    expected.push((container.clone(), *address, false));
                }
                State::Deleted => {}
            }
        }
        let rows = self.rig.pods().into_iter();
        let row =
            |row: penstock_control_api::PodRow| (row.container_id, row.address, row.confirmed);
        let mut found: Vec<_> = rows.map(row).collect();
        found.sort();
        match found == expected {
            true => Ok(()),
            false => Err(format!("records {found:?}, model {expected:?}")),
        }
    }

    /// The node shows the live ones and nothing else; then everything is taken down.
    fn finish(&mut self) -> Outcome {
        let live = self.all_live();
        let links = self.rig.pod_links();
        if links != live.len() {
            return Err(format!("{links} pod interfaces for {} pods", live.len()));
        }
        for address in self.rig.addresses_in_rules() {
            if !self.held().contains(&address) {
                return Err(format!("a rule for {address} was left"));
            }
        }
        for container in self.known.keys() {
            self.shim.del(container, None)?;
        }
        match (self.rig.pods().len(), self.rig.pod_links()) {
            (0, 0) => Ok(()),
            left => Err(format!("(records, interfaces) left: {left:?}")),
        }
    }

    fn fresh(&mut self) -> (String, &'static str) {
        self.made += 1;
        let pod = PODS[self.random.random_range(0..PODS.len())];
        (format!("{}-{}", self.serial, self.made), pod)
    }

    fn any(&mut self) -> Option<(String, State)> {
        let all: Vec<_> = self.known.clone().into_iter().collect();
        all.choose(&mut self.random).cloned()
    }

    fn all_live(&self) -> Vec<(String, usize)> {
        let live = |(container, state): (&String, &State)| match state {
            State::Live { sandbox, .. } => Some((container.clone(), *sandbox)),
            _ => None,
        };
        self.known.iter().filter_map(live).collect()
    }

    fn live_of(&self, wanted: &str) -> Option<(String, Ipv4Addr)> {
        self.known
            .iter()
            .find_map(|(container, state)| match state {
                State::Live { pod, address, .. } if *pod == wanted => {
                    Some((container.clone(), *address))
                }
                _ => None,
            })
    }

    fn supersede(&mut self, pod: &str) {
        if let Some((container, address)) = self.live_of(pod) {
            self.known.insert(container, State::Superseded { address });
        }
    }

    fn held(&self) -> HashSet<Ipv4Addr> {
        let address = |state: &State| match state {
            State::Live { address, .. } | State::Superseded { address } => Some(*address),
            State::Deleted => None,
        };
        self.known.values().filter_map(address).collect()
    }

    fn free_sandbox(&mut self) -> Option<usize> {
        let taken: HashSet<usize> = self.all_live().into_iter().map(|(_, at)| at).collect();
        let free: Vec<usize> = (0..SANDBOXES).filter(|at| !taken.contains(at)).collect();
        free.choose(&mut self.random).copied()
    }
}
