//! Making an ENI: create, attach, wait for both views and the kernel, put to use.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{LOOKS_PER_CALL, MAX_REPEATS, VISIBLE_PATIENCE, Worker, halve};
use crate::discover::{self, Found, Origin};
use crate::ec2::{
    Created, DESCRIPTION_PREFIX, Ec2Error, ErrorKind, Filter, NewEni, TAG_CLUSTER, TAG_CREATED,
    TAG_INSTANCE, Tags,
};
use crate::ipam::plan::Units;
use crate::provision::orders::{OrderId, Trial};
use crate::provision::place::Place;
use crate::provision::{ProvisionError, Site};

/// An ENI shows its addresses one after the other; after so many looks what is there is taken.
const LOOKS_FOR_ALL: u32 = 12;

impl<S: Site> Worker<S> {
    /// Makes an ENI with `units` and puts it to use.
    pub(in crate::provision) async fn add_eni(
        &self,
        order: OrderId,
        units: Units,
        trial: &mut Trial,
    ) -> Result<(), ProvisionError> {
        let place = self.choose_place(units).await?;
        Self::in_subnet(trial, &place.subnet_id);
        let made = self.create(order, &place, units).await;
        let created = match made {
            Ok(created) => created,
            Err(error) => {
                // Whatever was made without our hearing of it is found by its tag.
                let unheard = [
                    ErrorKind::Transport,
                    ErrorKind::TokenReused,
                    ErrorKind::Other,
                ];
                if unheard.contains(&error.kind) {
                    self.clear_orphans().await;
                }
                return Err(error.into());
            }
        };
        let attachment = match self.attach(order, &created.eni_id).await {
            Ok(attachment) => attachment,
            Err(error) => {
                self.discard(&created.eni_id).await;
                return Err(error.into());
            }
        };
        let found = match self.await_visible(&created).await {
            Ok(found) => found,
            Err(error) => {
                self.site.lock().orders.give_up(order);
                tracing::error!(%error, eni = %created.eni_id, "an ENI hangs in its attachment; given up");
                self.site.kick().notify_one();
                self.retract(&created.eni_id).await;
                return Err(error.into());
            }
        };
        let used = self.put_to_use(&found, Some(order)).await;
        let worker = self.clone();
        tokio::spawn(async move {
            worker.bind_to_instance(&created.eni_id, &attachment).await;
        });
        used
    }

    async fn create(
        &self,
        order: OrderId,
        place: &Place,
        units: Units,
    ) -> Result<Created, Ec2Error> {
        let mut request = NewEni {
            client_token: String::new(),
            subnet_id: place.subnet_id.clone(),
            groups: place.groups.clone(),
            description: format!("{DESCRIPTION_PREFIX}{}", self.site.instance().id),
            // Made once: the same token must come with the same request.
            tags: self.tags(),
            units,
        };
        let started = self.now().0;
        let mut lost = 0;
        for attempt in 0u32.. {
            if lost == 0 {
                let instance = &self.site.instance().id;
                request.client_token = format!("{instance}-{started}-{order}-{attempt}");
            }
            let error = match self.site.ec2().create(request.clone()).await {
                Ok(created) => return Ok(created),
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::Transport if lost < MAX_REPEATS => lost += 1,
                ErrorKind::TokenReused if attempt < MAX_REPEATS => lost = 0,
                ErrorKind::SubnetFull if halve(&mut request.units) => {
                    self.exhausted(&place.subnet_id);
                    lost = 0;
                }
                _ => return Err(error),
            }
        }
        unreachable!("every turn of the loop ends it or is counted")
    }

    fn tags(&self) -> Tags {
        let config = self.site.config();
        let mut tags = config.eni_tags.clone();
        tags.insert(TAG_INSTANCE.to_owned(), self.site.instance().id.clone());
        tags.extend(created_now());
        if let Some(cluster) = &config.cluster_name {
            tags.insert(TAG_CLUSTER.to_owned(), cluster.clone());
            tags.insert("eks:eni:owner".to_owned(), "amazon-vpc-cni".to_owned());
        }
        tags
    }

    /// The attachment's id.
    async fn attach(&self, order: OrderId, eni_id: &str) -> Result<String, Ec2Error> {
        let ec2 = self.site.ec2();
        let instance = &self.site.instance().id;
        let mut pause = self.pause(VISIBLE_PATIENCE);
        let mut taken = self.device_numbers();
        let mut number = self.choose_number(order, &taken);
        loop {
            let error = match ec2.attach(eni_id, instance, number).await {
                Ok(attachment) => return Ok(attachment),
                Err(error) => error,
            };
            match error.kind {
                // What was just created may not be visible yet.
                ErrorKind::NotFound if pause.again().await => {}
                ErrorKind::DeviceTaken => {
                    taken.push(number);
                    number = self.choose_number(order, &taken);
                }
                ErrorKind::Transport | ErrorKind::Other => match self.plugged(eni_id).await? {
                    Some(attachment) => return Ok(attachment),
                    None if pause.again().await => {}
                    None => return Err(error),
                },
                _ => return Err(error),
            }
        }
    }

    /// Makes EC2 delete the ENI when the instance goes. Pods wait for the ENI and nobody waits for this.
    async fn bind_to_instance(&self, eni_id: &str, attachment: &str) {
        let ec2 = self.site.ec2();
        ec2.at_leisure().await;
        for _ in 0..MAX_REPEATS {
            match ec2.delete_on_termination(eni_id, attachment).await {
                Ok(()) => return,
                Err(error) if error.kind == ErrorKind::Transport => {}
                Err(error) => {
                    tracing::warn!(%error, eni = eni_id, "the ENI will outlive the instance");
                    return;
                }
            }
        }
    }

    /// The attachment an attach without an answer made.
    async fn plugged(&self, eni_id: &str) -> Result<Option<String>, Ec2Error> {
        let described = self
            .site
            .ec2()
            .describe(Filter::Eni(eni_id.to_owned()))
            .await;
        let enis = match described {
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Transport) => {
                return Ok(None);
            }
            described => described?,
        };
        let ours = &self.site.instance().id;
        let plugs = enis.into_iter().filter_map(|eni| eni.attachment);
        Ok(plugs
            .filter(|plug| plug.instance_id == *ours)
            .map(|plug| plug.id)
            .next())
    }

    fn device_numbers(&self) -> Vec<u32> {
        let state = self.site.lock();
        let ours = state.enis.values().map(|eni| eni.device_number);
        ours.chain(state.foreign_devices.iter().copied()).collect()
    }

    fn choose_number(&self, order: OrderId, taken: &[u32]) -> u32 {
        self.site.lock().orders.choose_device_number(order, taken)
    }

    /// What EC2 granted at creation counts when the metadata service, or EC2 asked anew, shows it.
    async fn await_visible(&self, created: &Created) -> Result<Found, Ec2Error> {
        let mut pause = self.pause(VISIBLE_PATIENCE);
        let granted = &created.granted;
        let all = granted.addresses.len() + granted.prefixes.len();
        for look in 1u32.. {
            let found = if look.is_multiple_of(LOOKS_PER_CALL) {
                self.described(created).await
            } else {
                let observed = self.site.ec2().observe_eni(created.mac).await;
                observed.map(|eni| eni.as_ref().and_then(Found::observed))
            };
            match found {
                Ok(Some(mut found)) => {
                    found.secondaries.retain(|a| granted.addresses.contains(a));
                    found.prefixes.retain(|p| granted.prefixes.contains(p));
                    let shown = found.secondaries.len() + found.prefixes.len();
                    if shown == all || look >= LOOKS_FOR_ALL {
                        return Ok(found);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, eni = %created.eni_id, "not visible yet"),
            }
            if !pause.again().await {
                break;
            }
        }
        Err(Ec2Error {
            call: "AttachNetworkInterface",
            kind: ErrorKind::NotFound,
            code: String::new(),
            message: format!(
                "{} is not visible after {VISIBLE_PATIENCE:?}",
                created.eni_id
            ),
        })
    }

    async fn described(&self, created: &Created) -> Result<Option<Found>, Ec2Error> {
        let described = self
            .site
            .ec2()
            .describe(Filter::Eni(created.eni_id.clone()))
            .await?;
        let state = self.site.lock();
        let eni = described
            .into_iter()
            .find(|eni| eni.eni_id == created.eni_id);
        Ok(eni.and_then(|eni| {
            let own = state.primary().map(|own| (&own.subnet_id, own.subnet));
            let places = state
                .places
                .iter()
                .map(|place| (&place.subnet_id, place.cidr));
            let mut known = places.chain(own);
            let (_, cidr) = known.find(|(id, _)| **id == eni.subnet_id)?;
            Found::described(&eni, cidr)
        }))
    }

    /// Lets the kernel and everybody else know an ENI; `order` ends with it.
    pub(in crate::provision) async fn put_to_use(
        &self,
        found: &Found,
        order: Option<OrderId>,
    ) -> Result<(), ProvisionError> {
        let eni = self.site.plug(found).await?;
        {
            let mut state = self.site.lock();
            let origin = match order {
                Some(_) => Origin::Granted,
                None => Origin::Sighted,
            };
            discover::enter(&mut state, eni, found, origin, self.now());
            if let Some(order) = order {
                state.orders.close(order);
            }
        }
        self.site.changed();
        let published = self.site.publish().await;
        published.map_err(ProvisionError::State)
    }
}

/// The tag that says when an ENI was made.
pub(in crate::provision) fn created_now() -> Option<(String, String)> {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).ok()?;
    Some((TAG_CREATED.to_owned(), now))
}
