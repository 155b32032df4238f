//! ENIs nobody owns: those an earlier life of this agent made, and those any node of the cluster left behind.
//!
//! Only ENIs that are attached to nothing, carry the tag of a node and the description of a CNI, and are old enough that
//! nobody can still be about to attach them.

use std::time::Duration;

use rand::Rng;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Site;
use super::work::{Worker, created_now};
use crate::ec2::{DESCRIPTION_PREFIX, Described, Filter, TAG_CREATED, Tags};

/// Youngest age at which an ENI counts as left behind, as in the VPC CNI.
const MIN_AGE: Duration = Duration::from_secs(300);
/// The first search is this late at most, so that nodes that start together do not search together.
const FIRST_SWEEP: Duration = Duration::from_secs(300);

/// How long to wait before the first search.
pub(super) fn first_pause() -> Duration {
    FIRST_SWEEP.mul_f64(rand::rng().random_range(0.0..=1.0))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Delete,
    /// Nobody knows how old it is: it gets the tag, and its age counts from now.
    Tag,
    Leave,
}

fn judge(eni: &Described, now: OffsetDateTime) -> Verdict {
    if eni.attachment.is_some() || !eni.description.starts_with(DESCRIPTION_PREFIX) {
        return Verdict::Leave;
    }
    let Some(created) = eni.tags.get(TAG_CREATED) else {
        return Verdict::Tag;
    };
    match OffsetDateTime::parse(created, &Rfc3339) {
        Ok(created) if now - created >= MIN_AGE => Verdict::Delete,
        Ok(_) => Verdict::Leave,
        Err(_) => Verdict::Tag,
    }
}

impl<S: Site> Worker<S> {
    /// ENIs this node made and did not attach. None is about to be attached when nothing else is on order.
    pub(super) async fn clear_orphans(&self) {
        if self.site.lock().orders.new_enis().len() > 1 {
            return;
        }
        for eni in self.orphans().await {
            self.discard(&eni.eni_id).await;
        }
    }

    /// ENIs an earlier life of this agent, which ended before `born`, made and did not attach.
    pub(super) async fn clear_earlier_lives(&self, born: OffsetDateTime) {
        self.site.ec2().at_leisure().await;
        let mut orphans = self.orphans().await;
        // The wall clock alone is not trusted: it may have been set back.
        if !self.site.lock().orders.is_empty() {
            return;
        }
        orphans.retain(|eni| {
            let created = eni.tags.get(TAG_CREATED);
            let created = created.map(|text| OffsetDateTime::parse(text, &Rfc3339));
            !matches!(created, Some(Ok(created)) if created >= born)
        });
        for eni in orphans {
            self.discard(&eni.eni_id).await;
        }
    }

    async fn orphans(&self) -> Vec<Described> {
        let site = &self.site;
        if !site.lock().may_provision(site.config()) {
            return Vec::new();
        }
        let filter = Filter::Orphans(site.instance().id.clone());
        let described = site.ec2().describe(filter).await;
        described.unwrap_or_else(|error| {
            tracing::warn!(%error, "orphaned ENIs not looked for");
            Vec::new()
        })
    }

    /// ENIs any node left behind.
    pub(super) async fn sweep_leaked(&self) {
        let config = self.site.config();
        if !self.site.lock().may_provision(config) || !config.leak_sweep {
            return;
        }
        let filter = Filter::Leaked {
            vpc_id: self.site.instance().vpc_id.clone(),
            cluster: config.cluster_name.clone(),
        };
        self.site.ec2().at_leisure().await;
        let leaked = match self.site.ec2().describe(filter).await {
            Ok(leaked) => leaked,
            Err(error) => {
                tracing::warn!(%error, "leaked ENIs not looked for");
                return;
            }
        };
        let now = OffsetDateTime::now_utc();
        for eni in leaked {
            match judge(&eni, now) {
                Verdict::Leave => {}
                Verdict::Delete => self.discard(&eni.eni_id).await,
                Verdict::Tag => {
                    let tags: Tags = created_now().into_iter().collect();
                    if let Err(error) = self.site.ec2().tag(&eni.eni_id, tags).await {
                        tracing::warn!(%error, eni = %eni.eni_id, "an ENI of unknown age was not tagged");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::Attachment;

    #[test]
    fn only_old_unattached_enis_of_a_cni_are_deleted() {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let created = |ago: u64| (now - Duration::from_secs(ago)).format(&Rfc3339).unwrap();
        let eni = |description: &str, created: Option<String>| Described {
            eni_id: "eni-1".to_owned(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            subnet_id: String::new(),
            groups: Vec::new(),
            primary: [10, 0, 1, 9].into(),
            secondaries: Vec::new(),
            prefixes: Vec::new(),
            description: description.to_owned(),
            attachment: None,
            tags: created
                .map(|created| (TAG_CREATED.to_owned(), created))
                .into_iter()
                .collect(),
        };
        let ours = "aws-K8S-i-1";
        for (subject, verdict) in [
            (eni(ours, Some(created(300))), Verdict::Delete),
            (eni(ours, Some(created(299))), Verdict::Leave),
            (eni(ours, None), Verdict::Tag),
            (eni(ours, Some("yesterday".to_owned())), Verdict::Tag),
            (eni("somebody's", Some(created(9_999))), Verdict::Leave),
        ] {
            assert_eq!(judge(&subject, now), verdict, "{subject:?}");
        }
        let mut attached = eni(ours, Some(created(9_999)));
        attached.attachment = Some(Attachment {
            id: "eni-attach-1".to_owned(),
            instance_id: "i-1".to_owned(),
            device_number: 1,
            network_card: 0,
        });
        assert_eq!(judge(&attached, now), Verdict::Leave);
    }
}
