//! What makes the simulated cloud's interfaces real: the hardware side of [`ec2_sim::Cloud`].
//!
//! Attaching an ENI plugs a cable between the fabric and the instance's namespace; a changed
//! address set changes what the fabric delivers there. Must not call back into the cloud.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ec2_sim::{AttachmentStatus, Eni, Wire};
use penstock_dataplane_api::MacAddr;

use crate::error::{Error, Result};
use crate::fabric::{Cable, Fabric, Ownership};
use crate::netns::NetNs;

/// A node's place in the machine room.
struct Place {
    index: usize,
    netns: Arc<NetNs>,
}

/// Where each instance's interfaces go.
pub(crate) struct Cabling {
    fabric: Arc<Fabric>,
    places: Mutex<BTreeMap<String, Place>>,
}

impl Cabling {
    pub(crate) fn new(fabric: Arc<Fabric>) -> Self {
        Self {
            fabric,
            places: Mutex::new(BTreeMap::new()),
        }
    }

    /// Says which namespace is the instance.
    pub(crate) fn place(&self, instance_id: &str, index: usize, netns: Arc<NetNs>) {
        self.lock()
            .insert(instance_id.to_owned(), Place { index, netns });
    }

    /// Plugs an ENI into its instance: the interface is there, down, and owns nothing yet.
    pub(crate) fn plug(&self, instance_id: &str, eni: &Eni) -> Result<()> {
        let (index, netns) = {
            let places = self.lock();
            let place = places
                .get(instance_id)
                .ok_or_else(|| Error::Invalid(format!("no node is instance {instance_id}")))?;
            (place.index, Arc::clone(&place.netns))
        };
        self.fabric.plug(Cable {
            name: &eni.eni_id,
            near: &format!("n{}e{}", index + 1, eni.device_index),
            netns: &netns,
            far: &format!("eth{}", eni.device_index),
            mac: MacAddr(eni.mac),
            subnet: eni.subnet_cidr,
        })
    }

    /// Makes the fabric deliver by what the ENI owns now.
    pub(crate) fn own(&self, eni: &Eni) -> Result<()> {
        let attached = eni.attachment_status != AttachmentStatus::Detached;
        let ownership = Ownership {
            addresses: eni.delivered().filter(|_| attached).collect(),
            node_primary: (eni.device_index == 0).then_some(eni.primary),
            source_check: eni.source_dest_check,
        };
        self.fabric.set_ownership(&eni.eni_id, ownership)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Cabling {
    fn attach(&self, instance_id: &str, eni: &Eni) -> std::result::Result<(), String> {
        self.plug(instance_id, eni)
            .map_err(|error| error.to_string())
    }

    fn detach(&self, _instance_id: &str, eni: &Eni) -> std::result::Result<(), String> {
        self.fabric
            .unplug(&eni.eni_id)
            .map_err(|error| error.to_string())
    }

    fn addresses_changed(&self, eni: &Eni) {
        if let Err(error) = self.own(eni) {
            tracing::error!(eni = eni.eni_id, %error, "address ownership not changed");
        }
    }
}
