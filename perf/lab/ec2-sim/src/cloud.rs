//! The cloud: one VPC's interfaces, addresses and instances, and the calls that change them.
//!
//! Guarantees: calls are atomic (an error changes nothing); limits are EC2's; [`Wire`] hears of every change in order,
//! outside the state lock. [`Cloud::settle`] carries out what has become due (attachments, detachments); every change
//! settles before it returns, and whoever configures delays has to settle when [`Cloud::next_due`] says so (the HTTP
//! front does).
//!
//! Must not: read the clock anywhere but through [`Cloud::now`]; open sockets; block other than on [`Wire`].

mod address;
mod create;
mod describe;
mod fault;
mod interface;
mod launch;
mod state;
mod tag;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::{ApiError, AttachmentStatus, CloudConfig, ConfigError, Eni, Instance, NoWire, Wire};

pub use address::{AddressChoice, AssignRequest, Assigned};
pub use create::CreateRequest;
pub use describe::{Filter, Page, PageLimits, PageRequest, SubnetView, TagView, VpcView};
pub use fault::FaultKind;
pub(crate) use fault::{Budget, IMDS};
pub use interface::{AttachRequest, InterfaceChange};
pub(crate) use state::State;
use state::Work;

/// Time since the Unix epoch, as the cloud sees it.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A simulated VPC and its EC2 API.
pub struct Cloud {
    config: CloudConfig,
    clock: Clock,
    state: Mutex<State>,
    wire: Mutex<Arc<dyn Wire>>,
    /// Held while work is carried out on the wire, so that it hears of changes one at a time and in order.
    delivery: Mutex<()>,
}

impl Cloud {
    /// A cloud on the machine's clock.
    ///
    /// # Errors
    /// A configuration EC2 would refuse.
    pub fn new(config: CloudConfig) -> Result<Arc<Self>, ConfigError> {
        let started = Instant::now();
        let epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self::with_clock(config, Arc::new(move || epoch + started.elapsed()))
    }

    /// A cloud on a clock of the caller's.
    ///
    /// # Errors
    /// A configuration EC2 would refuse.
    pub fn with_clock(config: CloudConfig, clock: Clock) -> Result<Arc<Self>, ConfigError> {
        config.validate()?;
        let state = Mutex::new(State::new(&config));
        let wire: Arc<dyn Wire> = Arc::new(NoWire);
        Ok(Arc::new(Self {
            config,
            clock,
            state,
            wire: Mutex::new(wire),
            delivery: Mutex::new(()),
        }))
    }

    /// Puts hardware behind the cloud. Changes made before are not repeated to it.
    pub fn set_wire(&self, wire: Arc<dyn Wire>) {
        *lock(&self.wire) = wire;
    }

    /// What the cloud was built from.
    #[must_use]
    pub fn config(&self) -> &CloudConfig {
        &self.config
    }

    /// The cloud's time since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> Duration {
        (self.clock)()
    }

    /// One interface, whatever its visibility.
    #[must_use]
    pub fn eni(&self, eni_id: &str) -> Option<Eni> {
        self.lock()
            .enis
            .get(eni_id)
            .map(|record| record.eni.clone())
    }

    /// Every interface, by id.
    #[must_use]
    pub fn enis(&self) -> Vec<Eni> {
        self.lock()
            .enis
            .values()
            .map(|record| record.eni.clone())
            .collect()
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, instance_id: &str) -> Option<Instance> {
        self.lock().instance_view(instance_id)
    }

    /// Every instance, by id.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        let state = self.lock();
        state
            .instances
            .keys()
            .filter_map(|id| state.instance_view(id))
            .collect()
    }

    /// The interfaces of an instance as its metadata service shows them, by device index: those that are there, as they
    /// were a while ago if views lag.
    #[must_use]
    pub fn metadata_enis(&self, instance_id: &str) -> Vec<Eni> {
        let plugged = |eni: &Eni| {
            matches!(
                eni.attachment_status,
                AttachmentStatus::Attached | AttachmentStatus::Detaching
            ) && eni.instance_id.as_deref() == Some(instance_id)
        };
        let mut enis = self.lock().shown(self.now());
        enis.retain(plugged);
        enis.sort_by_key(|eni| eni.device_index);
        enis
    }

    /// The interfaces of an instance, by device index, in every state of attachment.
    #[must_use]
    pub fn instance_enis(&self, instance_id: &str) -> Vec<Eni> {
        self.lock().enis_of(instance_id)
    }

    /// How often each action was called, failed calls included.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.lock().calls.clone()
    }

    /// What [`Wire`] refused so far, oldest first; only the latest are kept.
    #[must_use]
    pub fn wire_errors(&self) -> Vec<String> {
        self.lock().wire_errors.iter().cloned().collect()
    }

    /// How long until something becomes due; `None` when nothing is under way.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.lock().next_due()?;
        Some(due.saturating_sub(self.now()))
    }

    /// How long until each end of an attachment or detachment that nobody has taken yet; the caller undertakes to
    /// [`Self::settle`] then.
    pub(crate) fn take_timers(&self) -> Vec<Duration> {
        let now = self.now();
        let timers = self.lock().take_timers();
        timers
            .into_iter()
            .map(|due| due.saturating_sub(now))
            .collect()
    }

    /// Carries out everything that is due and tells the wire.
    pub fn settle(&self) {
        let _turn = lock(&self.delivery);
        self.settle_in_turn();
        let now = self.now();
        self.lock().remember(now);
    }

    fn settle_in_turn(&self) {
        loop {
            let now = self.now();
            let work = self.lock().next_work(now);
            let Some(work) = work else { return };
            self.carry_out(work);
        }
    }

    fn carry_out(&self, work: Work) {
        let wire = Arc::clone(&lock(&self.wire));
        match work {
            Work::Addresses(eni) => wire.addresses_changed(&eni),
            Work::Attach { instance_id, eni } => {
                let result = wire.attach(&instance_id, &eni);
                self.lock().attach_done(&eni.eni_id, result);
            }
            Work::Detach { instance_id, eni } => {
                let result = wire.detach(&instance_id, &eni);
                self.lock().detach_done(&eni.eni_id, result);
            }
        }
    }

    /// Runs one change and settles what it made due.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut State, Duration) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let now = self.now();
        let result = change(&mut self.lock(), now);
        self.settle();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A poisoned lock is taken anyway: the state is consistent between statements, and a test that panicked on one thread
/// shall not hang the others.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
