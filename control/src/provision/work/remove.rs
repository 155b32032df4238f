//! Giving an ENI back: the dataplane lets go first, then EC2, then the kernel.

use std::time::Duration;

use super::{Worker, table_name};
use crate::ec2::{Ec2Error, ErrorKind, Filter};
use crate::provision::{ProvisionError, Site};
use crate::state::NodeEni;

/// Longest wait for an ENI to let go before it is asked again.
const DETACH_PATIENCE: Duration = Duration::from_secs(300);
/// Longest pause between two attempts to part from an ENI that hangs.
const MAX_HANG_PAUSE: Duration = Duration::from_secs(600);
/// Longest wait for EC2 to know, or to let go of, an ENI that is to be deleted.
const DELETE_PATIENCE: Duration = Duration::from_secs(120);

impl<S: Site> Worker<S> {
    pub(in crate::provision) async fn remove_eni(
        &self,
        eni_id: &str,
    ) -> Result<(), ProvisionError> {
        let eni = self.set_leaving(eni_id)?;
        if let Err(error) = self.let_go(&eni).await {
            {
                let mut state = self.site.lock();
                // It stays in use; both know it, so neither step can fail.
                let _ = state.pool.set_draining(eni_id, false);
                if let Some(eni) = state.enis.get_mut(eni_id) {
                    eni.leaving = false;
                }
            }
            if let Err(error) = self.site.publish().await {
                tracing::warn!(error, eni = eni_id, "an ENI that stays was not published");
            }
            return Err(error);
        }
        self.site.unplug(&eni).await;
        {
            let mut state = self.site.lock();
            state.enis.remove(eni_id);
            let removed = state.pool.remove_eni(eni_id, self.now());
            removed.map_err(|error| ProvisionError::State(error.to_string()))?;
        }
        let published = self.site.publish().await;
        self.discard(eni_id).await;
        if let Err(error) = self.site.persist().await {
            tracing::warn!(error, "what was given back is not on disk yet");
        }
        published.map_err(ProvisionError::State)
    }

    fn set_leaving(&self, eni_id: &str) -> Result<NodeEni, ProvisionError> {
        let mut state = self.site.lock();
        let drained = state.pool.set_draining(eni_id, true);
        drained.map_err(|error| ProvisionError::State(error.to_string()))?;
        let eni = state.enis.get_mut(eni_id);
        let eni = eni.ok_or_else(|| ProvisionError::State(format!("{eni_id} is unknown")))?;
        eni.leaving = true;
        Ok(eni.clone())
    }

    /// Nothing changes at EC2 before the kernel has agreed that no pod uses it and the dataplane has let go.
    async fn let_go(&self, eni: &NodeEni) -> Result<(), ProvisionError> {
        let live = self.site.live().await;
        let live = live.map_err(|error| ProvisionError::State(error.to_string()))?;
        let used = {
            let state = self.site.lock();
            let mut addresses = state.pool.addresses(&eni.eni_id);
            addresses.find(|address| live.contains(address))
        };
        if let Some(address) = used {
            tracing::error!(%address, eni = %eni.eni_id, "idle by our records, but a pod has it; kept");
            let text = format!(
                "a pod on {} has {address}, which no record knows",
                eni.eni_id
            );
            return Err(ProvisionError::State(text));
        }
        self.site.publish().await.map_err(ProvisionError::State)?;
        Ok(self.detach(&eni.eni_id, false).await?)
    }

    /// Detaches an ENI. Once EC2 has agreed, or when the caller `insist`s, there is no way back: the ENI may go at any
    /// moment, so it is asked for, less and less often, until it is gone.
    async fn detach(&self, eni_id: &str, insist: bool) -> Result<(), Ec2Error> {
        let mut agreed = insist;
        let mut rest = DETACH_PATIENCE;
        while !self.try_detach(eni_id, &mut agreed).await? {
            tracing::error!(
                eni = eni_id,
                "hangs in its detachment; asked for again in {rest:?}"
            );
            self.site.clock().sleep(rest).await;
            rest = (rest * 2).min(MAX_HANG_PAUSE);
        }
        Ok(())
    }

    /// Whether it is detached; an error only while EC2 has not agreed.
    async fn try_detach(&self, eni_id: &str, agreed: &mut bool) -> Result<bool, Ec2Error> {
        let ec2 = self.site.ec2();
        let mut pause = self.pause(DETACH_PATIENCE);
        let mut asked = false;
        loop {
            let plug = match ec2.describe(Filter::Eni(eni_id.to_owned())).await {
                Ok(enis) => Some(enis.into_iter().find_map(|eni| eni.attachment)),
                Err(error) if !*agreed => return Err(error),
                Err(error) if error.kind == ErrorKind::NotFound => Some(None),
                Err(_) => None,
            };
            match plug {
                Some(None) => return Ok(true),
                Some(Some(plug)) if !asked => match ec2.detach(&plug.id).await {
                    Ok(()) => (asked, *agreed) = (true, true),
                    // The next look tells.
                    Err(error) if *agreed || error.kind == ErrorKind::Transport => {}
                    Err(error) => return Err(error),
                },
                _ => {}
            }
            if pause.again().await {
                continue;
            }
            return match *agreed {
                true => Ok(false),
                false => Err(Ec2Error {
                    call: "DetachNetworkInterface",
                    kind: ErrorKind::Other,
                    code: String::new(),
                    message: format!("no answer about {eni_id} in {DETACH_PATIENCE:?}"),
                }),
            };
        }
    }

    /// Parts from an ENI that was attached and never appeared.
    pub(in crate::provision) async fn retract(&self, eni_id: &str) {
        match self.detach(eni_id, true).await {
            Ok(()) => self.discard(eni_id).await,
            Err(error) => {
                tracing::warn!(%error, eni = eni_id, "an ENI that hangs was not detached");
            }
        }
    }

    /// Deletes an ENI that is attached to nothing. It may not be visible yet, or not let go yet.
    pub(in crate::provision) async fn discard(&self, eni_id: &str) {
        let mut pause = self.pause(DELETE_PATIENCE);
        let mut seen = false;
        loop {
            let error = match self.site.ec2().delete(eni_id).await {
                Ok(()) => break,
                Err(error) => error,
            };
            // Gone: an earlier attempt without an answer did it.
            if error.kind == ErrorKind::NotFound && seen {
                break;
            }
            seen |= error.kind != ErrorKind::NotFound;
            if !pause.again().await {
                tracing::warn!(%error, eni = eni_id, "an ENI is left behind; the leak sweep will find it");
                return;
            }
        }
        tracing::info!(eni = eni_id, "ENI deleted");
    }

    /// Drops an ENI that is gone from both views and from the kernel.
    pub(in crate::provision) async fn forget(&self, eni: &NodeEni) {
        tracing::error!(eni = %eni.eni_id, table = table_name(eni), "an ENI was taken away; forgotten");
        self.site.unplug(eni).await;
        let mut state = self.site.lock();
        if state.pool.remove_eni(&eni.eni_id, self.now()).is_ok() {
            state.enis.remove(&eni.eni_id);
        }
    }
}
