//! How the simulated cloud reaches real interfaces: the seam a test bed implements.
//!
//! Guarantees towards an implementor: calls arrive one at a time, in the order the cloud decided them, and never while
//! the cloud's state is locked, so a callback may read the cloud ([`crate::Cloud::eni`] and the other accessors). It
//! must not call anything that changes the cloud: such a call would wait for itself.

use crate::Eni;

/// The hardware side of the cloud.
pub trait Wire: Send + Sync + 'static {
    /// The interface must appear in the instance, down, named `eth{device_index}`, with this MAC.
    ///
    /// Called when the attachment delay is over, before the API reports `attached`. Not called for the primary
    /// interface: [`crate::Cloud::launch_instance`] returns it and its caller plugs it.
    ///
    /// # Errors
    /// Any text; the attachment is then undone and the error kept for [`crate::Cloud::wire_errors`].
    fn attach(&self, instance_id: &str, eni: &Eni) -> Result<(), String>;

    /// The interface must leave the instance.
    ///
    /// # Errors
    /// Any text; the detachment goes on and the error is kept for [`crate::Cloud::wire_errors`].
    fn detach(&self, instance_id: &str, eni: &Eni) -> Result<(), String>;

    /// The set of addresses the ENI owns changed: the VPC delivers by it from now on.
    ///
    /// Also called after every attach and detach, for unattached ENIs (whose addresses reach nobody), and a last time
    /// when the ENI is gone: [`Eni::status`] is then [`crate::EniStatus::Deleted`] and it owns nothing any more.
    fn addresses_changed(&self, eni: &Eni);
}

/// A cloud with no hardware: the API alone.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoWire;

impl Wire for NoWire {
    fn attach(&self, _instance_id: &str, _eni: &Eni) -> Result<(), String> {
        Ok(())
    }

    fn detach(&self, _instance_id: &str, _eni: &Eni) -> Result<(), String> {
        Ok(())
    }

    fn addresses_changed(&self, _eni: &Eni) {}
}
