//! What the hardware side hears, and when.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ec2_sim::cloud::{AddressChoice, AssignRequest, AttachRequest, CreateRequest};
use ec2_sim::{AttachmentStatus, Cloud, CloudConfig, Eni, EniStatus, Instance, Wire};

const SUBNET: &str = "subnet-0000000000000000a";
const DELAY: Duration = Duration::from_secs(4);

/// Writes down what it hears and, like a real one, reads the cloud while it does.
struct Recorder {
    cloud: Weak<Cloud>,
    heard: Mutex<Vec<String>>,
    refuse: bool,
}

impl Recorder {
    fn note(&self, text: String) {
        self.heard.lock().unwrap().push(text);
    }

    fn status(&self, eni: &Eni) -> &'static str {
        let cloud = self.cloud.upgrade().unwrap();
        cloud
            .eni(&eni.eni_id)
            .map_or("gone", |eni| eni.attachment_status.as_str())
    }
}

impl Wire for Recorder {
    fn attach(&self, _instance_id: &str, eni: &Eni) -> Result<(), String> {
        self.note(format!(
            "attach eth{} while {}",
            eni.device_index,
            self.status(eni)
        ));
        if self.refuse {
            Err("no room".to_owned())
        } else {
            Ok(())
        }
    }

    fn detach(&self, _instance_id: &str, eni: &Eni) -> Result<(), String> {
        self.note(format!(
            "detach eth{} while {}",
            eni.device_index,
            self.status(eni)
        ));
        Ok(())
    }

    fn addresses_changed(&self, eni: &Eni) {
        let attached = if eni.instance_id.is_some() {
            "plugged"
        } else {
            "loose"
        };
        let count = eni.addresses().count();
        self.note(format!(
            "{count} addresses, {attached}, {}",
            eni.status.as_str()
        ));
    }
}

struct Bench {
    cloud: Arc<Cloud>,
    wire: Arc<Recorder>,
    seconds: Arc<AtomicU64>,
    instance: Instance,
}

impl Bench {
    fn new(refuse: bool) -> Self {
        let seconds = Arc::new(AtomicU64::new(1_000_000));
        let reader = Arc::clone(&seconds);
        let clock = Arc::new(move || Duration::from_secs(reader.load(Ordering::SeqCst)));
        let config = CloudConfig {
            attach_delay: DELAY,
            detach_delay: DELAY,
            ..CloudConfig::default()
        };
        let cloud = Cloud::with_clock(config, clock).unwrap();
        let instance = cloud.launch_instance("m5.large", SUBNET, "node").unwrap();
        let wire = Arc::new(Recorder {
            cloud: Arc::downgrade(&cloud),
            heard: Mutex::default(),
            refuse,
        });
        cloud.set_wire(Arc::clone(&wire) as Arc<dyn Wire>);
        Self {
            cloud,
            wire,
            seconds,
            instance,
        }
    }

    fn wait(&self, time: Duration) {
        self.seconds.fetch_add(time.as_secs(), Ordering::SeqCst);
        self.cloud.settle();
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.wire.heard.lock().unwrap())
    }

    fn create(&self) -> Eni {
        let request = CreateRequest {
            subnet_id: SUBNET.to_owned(),
            ..CreateRequest::default()
        };
        self.cloud.create_network_interface(&request).unwrap()
    }

    fn attach(&self, eni: &Eni) -> String {
        let (eni_id, instance_id) = (eni.eni_id.clone(), self.instance.instance_id.clone());
        let request = AttachRequest {
            eni_id,
            instance_id,
            device_index: 1,
        };
        self.cloud.attach_network_interface(&request).unwrap()
    }

    fn status(&self, eni: &Eni) -> (EniStatus, AttachmentStatus) {
        let eni = self.cloud.eni(&eni.eni_id).unwrap();
        (eni.status, eni.attachment_status)
    }
}

#[test]
fn an_interface_appears_after_the_delay_and_then_counts_as_attached() {
    let bench = Bench::new(false);
    let eni = bench.create();
    assert_eq!(bench.heard(), ["1 addresses, loose, available"]);
    let attachment = bench.attach(&eni);
    assert_eq!(
        bench.status(&eni),
        (EniStatus::InUse, AttachmentStatus::Attaching)
    );
    assert_eq!(bench.cloud.next_due(), Some(DELAY));
    bench.wait(DELAY - Duration::from_secs(1));
    assert!(bench.heard().is_empty());
    let early = bench.cloud.detach_network_interface(&attachment);
    assert_eq!(early.unwrap_err().code, "IncorrectState");

    bench.wait(Duration::from_secs(1));
    assert_eq!(
        bench.heard(),
        [
            "attach eth1 while attaching",
            "1 addresses, plugged, in-use"
        ]
    );
    assert_eq!(
        bench.status(&eni),
        (EniStatus::InUse, AttachmentStatus::Attached)
    );
    assert_eq!(bench.cloud.next_due(), None);
}

#[test]
fn an_interface_leaves_after_the_delay_and_is_told_off_when_deleted() {
    let bench = Bench::new(false);
    let eni = bench.create();
    let attachment = bench.attach(&eni);
    bench.wait(DELAY);
    bench.heard();
    bench.cloud.detach_network_interface(&attachment).unwrap();
    assert_eq!(
        bench.status(&eni),
        (EniStatus::InUse, AttachmentStatus::Detaching)
    );
    let busy = bench.cloud.delete_network_interface(&eni.eni_id);
    assert_eq!(busy.unwrap_err().code, "InvalidNetworkInterface.InUse");
    assert!(bench.heard().is_empty());
    bench.wait(DELAY);
    assert_eq!(
        bench.heard(),
        [
            "detach eth1 while detaching",
            "1 addresses, loose, available"
        ]
    );
    bench.cloud.delete_network_interface(&eni.eni_id).unwrap();
    assert_eq!(bench.heard(), ["1 addresses, loose, deleted"]);
}

#[test]
fn addresses_are_announced_before_the_call_returns() {
    let bench = Bench::new(false);
    let eni = &bench.instance.primary_eni;
    let request = AssignRequest {
        eni_id: eni.eni_id.clone(),
        choice: AddressChoice::Count(3),
        allow_reassignment: false,
    };
    let new = bench.cloud.assign_private_ip_addresses(&request).unwrap();
    assert_eq!(bench.heard(), ["4 addresses, plugged, in-use"]);
    let mut given = new;
    given.addresses.truncate(1);
    bench
        .cloud
        .unassign_private_ip_addresses(&eni.eni_id, &given)
        .unwrap();
    assert_eq!(bench.heard(), ["3 addresses, plugged, in-use"]);
}

#[test]
fn a_refused_attachment_is_undone_and_remembered() {
    let bench = Bench::new(true);
    let eni = bench.create();
    bench.attach(&eni);
    bench.wait(DELAY);
    assert_eq!(
        bench.status(&eni),
        (EniStatus::Available, AttachmentStatus::Detached)
    );
    assert_eq!(
        bench.cloud.wire_errors(),
        [format!("attach {}: no room", eni.eni_id)]
    );
}

#[test]
fn a_terminated_instance_takes_along_what_it_should() {
    let bench = Bench::new(false);
    let eni = bench.create();
    bench.attach(&eni);
    bench.wait(DELAY);
    bench.heard();
    bench
        .cloud
        .terminate_instance(&bench.instance.instance_id)
        .unwrap();
    assert_eq!(
        bench.heard(),
        [
            "1 addresses, loose, deleted",
            "detach eth1 while detached",
            "1 addresses, loose, available"
        ]
    );
    assert_eq!(bench.cloud.instances(), []);
    let left: Vec<String> = bench
        .cloud
        .enis()
        .into_iter()
        .map(|eni| eni.eni_id)
        .collect();
    assert_eq!(
        left,
        [eni.eni_id],
        "it was not to be deleted on termination"
    );
}

#[test]
fn changes_from_many_threads_are_heard_one_at_a_time_and_end_consistent() {
    let bench = Bench::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let eni = bench.create();
                    bench.cloud.delete_network_interface(&eni.eni_id).unwrap();
                }
            });
        }
    });
    let heard = bench.heard();
    let count = |word: &str| heard.iter().filter(|text| text.ends_with(word)).count();
    assert_eq!((count("available"), count("deleted")), (100, 100));
    assert_eq!(bench.cloud.enis().len(), 1);
}
