//! What the stock keeper needs of the node it works on. The agent is one; tests put a thousand of another kind into one
//! process.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::MutexGuard;

use futures::future::BoxFuture;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::Config;
use crate::discover::{Found, PlugError};
use crate::ec2::{Ec2, Instance};
use crate::node::NodeError;
use crate::state::{NodeEni, State};

/// A node with a stock of addresses.
pub(crate) trait Site: Send + Sync + 'static {
    /// Settings.
    fn config(&self) -> &Config;
    /// Who the node is.
    fn instance(&self) -> &Instance;
    /// The cloud.
    fn ec2(&self) -> &dyn Ec2;
    /// The state; never to be kept across an await.
    fn lock(&self) -> MutexGuard<'_, State>;
    /// The time.
    fn clock(&self) -> &dyn Clock;
    /// ADDs that wait for an address.
    fn waiting(&self) -> u32;
    /// Warns people who look at the node in the cluster.
    fn warn(&self, reason: &'static str, message: String);
    /// Wakes the stock keeper.
    fn kick(&self) -> &Notify;
    /// Tells waiting ADDs that the pool changed.
    fn changed(&self);
    /// Makes the kernel use an ENI.
    fn plug<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Result<NodeEni, PlugError>>;
    /// Makes the kernel forget an ENI that is gone.
    fn unplug<'a>(&'a self, eni: &'a NodeEni) -> BoxFuture<'a, ()>;
    /// Whether the kernel still shows an ENI.
    fn plugged_in<'a>(&'a self, eni: &'a NodeEni) -> BoxFuture<'a, bool>;
    /// Addresses the kernel delivers to pods' interfaces, whatever our records say.
    fn live(&self) -> BoxFuture<'_, Result<HashSet<Ipv4Addr>, NodeError>>;
    /// Tells the kernel's policy and the dataplane that the ENIs changed; waits for the dataplane a while.
    fn publish(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Makes the state durable.
    fn persist(&self) -> BoxFuture<'_, Result<(), String>>;
}
