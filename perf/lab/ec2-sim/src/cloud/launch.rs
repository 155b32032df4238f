//! Starting and ending instances: what a test bed calls, not the API.

use crate::cloud::{Cloud, lock};
use crate::{ApiError, Instance, Tags};

impl Cloud {
    /// Starts an instance with a primary interface in `subnet_id` and a `Name` tag.
    ///
    /// The primary interface is attached at once and [`crate::Wire::attach`] is not called for it: the caller makes
    /// the instance's place first and plugs `primary_eni` itself.
    ///
    /// # Errors
    /// Unknown type (`InvalidInstanceType`) or subnet, or the subnet is full.
    pub fn launch_instance(
        &self,
        instance_type: &str,
        subnet_id: &str,
        name: &str,
    ) -> Result<Instance, ApiError> {
        let tags = Tags::from([("Name".to_owned(), name.to_owned())]);
        self.change(|state, now| state.launch(instance_type, subnet_id, tags, now))
    }

    /// Ends an instance: its interfaces are unplugged (the primary's unplugging is the caller's), those with
    /// delete-on-termination are deleted and the others become available.
    ///
    /// # Errors
    /// Unknown instance.
    pub fn terminate_instance(&self, instance_id: &str) -> Result<(), ApiError> {
        let turn = lock(&self.delivery);
        // Whatever was under way finishes first, so that no attachment completes into an instance that is gone.
        self.settle_in_turn();
        self.lock().terminate(instance_id)?;
        self.settle_in_turn();
        drop(turn);
        Ok(())
    }
}
