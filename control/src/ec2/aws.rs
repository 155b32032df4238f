//! [`Ec2`] over `aws-sdk-ec2` and the metadata client of `aws-config`: the only place that names an SDK type.
//!
//! Endpoint, region and credentials come from where every AWS program takes them (`AWS_ENDPOINT_URL_EC2`,
//! `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_EC2_METADATA_SERVICE_ENDPOINT`, the instance role). Each call is made once and
//! ends within its deadline: [`super::gate::Gate`] paces and repeats. Answers are data from outside: an ENI without an
//! id, a MAC or an address is left out, never guessed.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::imds::Client as Imds;
use aws_config::imds::client::error::ImdsError;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::SharedHttpClient;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{
    Filter as SdkFilter, InstanceType, InstanceTypeHypervisor, NetworkCardInfo, NetworkInterface,
    NetworkInterfaceAttachmentChanges, ResourceType, Tag, TagSpecification,
};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use futures::future::{BoxFuture, join_all};
use penstock_dataplane_api::MacAddr;

use super::{
    Attachment, Created, DESCRIPTION_PREFIX, Described, Ec2, Ec2Error, ErrorKind, Filter, Granted,
    Instance, NewEni, Observed, Subnet, SubnetFilter, TAG_CLUSTER, TAG_INSTANCE, Tags, classify,
};
use crate::ipam::plan::{Limits, Units};
use crate::ipam::pool::Parting;

/// Longest a call may take when the settings do not say.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Longest a look at the metadata service may take, retries included.
const METADATA_DEADLINE: Duration = Duration::from_secs(10);

/// Most pages of one listing; an endpoint that never ends its listing is cut off here.
const MAX_PAGES: usize = 1000;

/// Characters kept of an error; a proxy's page may be of any length.
const MESSAGE_MAX: usize = 500;

/// Page size of the search for leaked ENIs, EC2's largest.
const LISTING_PAGE: i32 = 1000;

type Answer<'a, T> = BoxFuture<'a, Result<T, Ec2Error>>;

/// Where to find the services when the environment does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// URL of the EC2 API; outranks the environment.
    pub ec2: Option<String>,
    /// URL of the metadata service; outranks the environment, and then region and credentials come from there too.
    pub imds: Option<String>,
    /// Longest a call to EC2 may take; `None` is [`CALL_DEADLINE`].
    pub deadline: Option<Duration>,
}

/// The real EC2 and metadata service.
#[derive(Debug)]
pub struct Aws {
    ec2: Client,
    imds: Imds,
}

impl Aws {
    /// Prepares the clients. Contacts only what finding region and credentials needs.
    ///
    /// # Errors
    /// When an endpoint is no URL.
    pub async fn connect(endpoints: &Endpoints) -> Result<Self, Ec2Error> {
        let http = HttpBuilder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let imds = metadata_client(&http, endpoints.imds.as_deref())?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(2))
            .operation_timeout(endpoints.deadline.unwrap_or(CALL_DEADLINE))
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(url) = &endpoints.ec2 {
            loader = loader.endpoint_url(url);
        }
        if endpoints.imds.is_some() {
            let role = ImdsCredentialsProvider::builder()
                .imds_client(imds.clone())
                .build();
            let region = ImdsRegionProvider::builder()
                .imds_client(imds.clone())
                .build();
            loader = loader.credentials_provider(role).region(region);
        }
        Ok(Self {
            ec2: Client::new(&loader.load().await),
            imds,
        })
    }

    async fn metadata(&self, path: &str) -> Result<String, Ec2Error> {
        let url = format!("/latest/meta-data/{path}");
        match self.imds.get(url).await {
            Ok(text) => Ok(text.as_ref().trim().to_owned()),
            Err(error) => Err(Ec2Error {
                call: "instance metadata",
                kind: ErrorKind::Transport,
                code: String::new(),
                message: format!("{path}: {}", DisplayErrorContext(&error)),
            }),
        }
    }

    async fn metadata_as<T: std::str::FromStr>(&self, path: &str) -> Result<T, Ec2Error> {
        let text = self.metadata(path).await?;
        text.parse()
            .map_err(|_| nonsense("instance metadata", format!("{path}: {text:?}")))
    }

    /// One value per line.
    async fn metadata_lines<T: std::str::FromStr>(&self, path: &str) -> Result<Vec<T>, Ec2Error> {
        parse_lines(path, &self.metadata(path).await?)
    }

    /// `None` when the service has nothing there; silence is still an error.
    async fn metadata_if_there(&self, path: &str) -> Result<Option<String>, Ec2Error> {
        let url = format!("/latest/meta-data/{path}");
        match self.imds.get(url).await {
            Ok(text) => Ok(Some(text.as_ref().trim().to_owned())),
            Err(ImdsError::ErrorResponse(response))
                if response.response().status().as_u16() == 404 =>
            {
                Ok(None)
            }
            Err(error) => Err(Ec2Error {
                call: "instance metadata",
                kind: ErrorKind::Transport,
                code: String::new(),
                message: format!("{path}: {}", DisplayErrorContext(&error)),
            }),
        }
    }

    async fn observe_one(&self, mac: &str) -> Result<Observed, Ec2Error> {
        let base = format!("network/interfaces/macs/{mac}");
        let path = |leaf: &str| format!("{base}/{leaf}");
        Ok(Observed {
            eni_id: self.metadata(&path("interface-id")).await?,
            mac: mac
                .parse()
                .map_err(|_| nonsense("instance metadata", format!("MAC address {mac:?}")))?,
            device_number: self.metadata_as(&path("device-number")).await?,
            // Older metadata services do not say; then there is one card.
            network_card: self
                .metadata_if_there(&path("network-card"))
                .await?
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            subnet_id: self.metadata(&path("subnet-id")).await?,
            subnet: self.metadata_as(&path("subnet-ipv4-cidr-block")).await?,
            vpc_cidrs: self.metadata_lines(&path("vpc-ipv4-cidr-blocks")).await?,
            groups: self.metadata_lines(&path("security-group-ids")).await?,
            addresses: self.metadata_lines(&path("local-ipv4s")).await?,
            prefixes: match self.metadata_if_there(&path("ipv4-prefix")).await? {
                Some(text) => parse_lines("ipv4-prefix", &text)?,
                None => Vec::new(),
            },
        })
    }

    async fn describe_page(
        &self,
        filter: &Filter,
        token: Option<String>,
    ) -> Result<(Vec<NetworkInterface>, Option<String>), Ec2Error> {
        let request = self.ec2.describe_network_interfaces().set_next_token(token);
        let request = match filter {
            Filter::Instance(id) => request.filters(matching("attachment.instance-id", id)),
            Filter::Orphans(id) => request
                .filters(matching(&format!("tag:{TAG_INSTANCE}"), id))
                .filters(matching("status", "available")),
            Filter::Leaked { vpc_id, cluster } => {
                let request = request
                    .filters(matching("tag-key", TAG_INSTANCE))
                    .filters(matching("status", "available"))
                    .filters(matching("vpc-id", vpc_id))
                    .filters(matching("description", &format!("{DESCRIPTION_PREFIX}*")))
                    .max_results(LISTING_PAGE);
                match cluster {
                    Some(name) => request.filters(matching(&format!("tag:{TAG_CLUSTER}"), name)),
                    None => request,
                }
            }
            Filter::Eni(id) => request.network_interface_ids(id),
        };
        let page = request
            .send()
            .await
            .map_err(failed("DescribeNetworkInterfaces"))?;
        let next = page
            .next_token()
            .filter(|token| !token.is_empty())
            .map(str::to_owned);
        Ok((page.network_interfaces.unwrap_or_default(), next))
    }

    async fn subnets_all(&self, filter: SubnetFilter) -> Result<Vec<Subnet>, Ec2Error> {
        let call = "DescribeSubnets";
        let mut subnets = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let request = self.ec2.describe_subnets().set_next_token(token.clone());
            let request = match &filter {
                SubnetFilter::Zone {
                    vpc_id,
                    availability_zone,
                } => request
                    .filters(matching("vpc-id", vpc_id))
                    .filters(matching("availability-zone", availability_zone)),
                SubnetFilter::Subnet(id) => request.subnet_ids(id),
            };
            let page = request.send().await.map_err(failed(call))?;
            subnets.extend(page.subnets().iter().filter_map(subnet));
            let next = page.next_token().filter(|next| !next.is_empty());
            match next {
                None => return Ok(subnets),
                Some(next) if token.as_deref() == Some(next) => break,
                Some(next) => token = Some(next.to_owned()),
            }
        }
        Err(nonsense(call, "the listing does not end".to_owned()))
    }

    async fn describe_all(&self, filter: Filter) -> Result<Vec<Described>, Ec2Error> {
        let mut enis = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let (page, next) = self.describe_page(&filter, token.clone()).await?;
            enis.extend(page.iter().filter_map(described));
            if next.is_none() {
                return Ok(enis);
            }
            if next == token {
                break;
            }
            token = next;
        }
        Err(nonsense(
            "DescribeNetworkInterfaces",
            "the listing does not end".to_owned(),
        ))
    }
}

impl Ec2 for Aws {
    fn instance(&self) -> Answer<'_, Instance> {
        Box::pin(async {
            Ok(Instance {
                id: self.metadata("instance-id").await?,
                instance_type: self.metadata("instance-type").await?,
                availability_zone: self.metadata("placement/availability-zone").await?,
                primary_mac: self.metadata_as("mac").await?,
                vpc_id: {
                    let mac = self.metadata("mac").await?;
                    self.metadata(&format!("network/interfaces/macs/{mac}/vpc-id"))
                        .await?
                },
            })
        })
    }

    fn observe(&self) -> Answer<'_, Vec<Observed>> {
        Box::pin(async move {
            let listed = self.metadata("network/interfaces/macs/").await?;
            let looks = listed.lines().map(|line| async move {
                let mac = line.trim().trim_end_matches('/');
                let seen = self.observe_one(mac).await;
                // An ENI that comes or goes, or has no IPv4, must not hide the others.
                seen.inspect_err(|error| tracing::warn!(%error, mac, "an ENI is left out"))
                    .ok()
            });
            Ok(join_all(looks).await.into_iter().flatten().collect())
        })
    }

    fn observe_eni(&self, mac: MacAddr) -> Answer<'_, Option<Observed>> {
        Box::pin(async move {
            let directory = format!("network/interfaces/macs/{mac}/interface-id");
            match self.metadata_if_there(&directory).await? {
                None => Ok(None),
                Some(_) => self.observe_one(&mac.to_string()).await.map(Some),
            }
        })
    }

    fn limits<'a>(&'a self, instance_type: &'a str) -> Answer<'a, Limits> {
        Box::pin(async move {
            let call = "DescribeInstanceTypes";
            let request = self.ec2.describe_instance_types();
            let request = request.instance_types(InstanceType::from(instance_type));
            let output = request.send().await.map_err(failed(call))?;
            let of_type = output.instance_types().first();
            let prefixes = of_type.is_some_and(|of_type| {
                of_type.bare_metal() == Some(true)
                    || of_type.hypervisor() == Some(&InstanceTypeHypervisor::Nitro)
            });
            let info = of_type.and_then(|of_type| of_type.network_info());
            let info = info.ok_or_else(|| nonsense(call, format!("nothing on {instance_type}")))?;
            let card = info
                .network_cards()
                .iter()
                .find(|card| card.network_card_index() == Some(0));
            let enis = card
                .and_then(NetworkCardInfo::maximum_network_interfaces)
                .or(info.maximum_network_interfaces());
            match (unsigned(enis), unsigned(info.ipv4_addresses_per_interface)) {
                (Some(enis), Some(addresses_per_eni)) if enis > 0 && addresses_per_eni > 0 => {
                    Ok(Limits {
                        enis,
                        addresses_per_eni,
                        prefixes,
                    })
                }
                _ => Err(nonsense(call, format!("no limits for {instance_type}"))),
            }
        })
    }

    fn describe(&self, filter: Filter) -> Answer<'_, Vec<Described>> {
        Box::pin(self.describe_all(filter))
    }

    fn create(&self, eni: NewEni) -> Answer<'_, Created> {
        Box::pin(async move {
            let call = "CreateNetworkInterface";
            let tags = eni
                .tags
                .iter()
                .map(|(k, v)| Tag::builder().key(k).value(v).build());
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::NetworkInterface)
                .set_tags(Some(tags.collect()))
                .build();
            let (singles, prefixes) = counts(eni.units);
            let output = self
                .ec2
                .create_network_interface()
                .client_token(eni.client_token)
                .subnet_id(eni.subnet_id)
                .set_groups(Some(eni.groups).filter(|groups| !groups.is_empty()))
                .description(eni.description)
                .tag_specifications(tags)
                .set_secondary_private_ip_address_count(singles)
                .set_ipv4_prefix_count(prefixes)
                .send()
                .await
                .map_err(failed(call))?;
            let eni = output.network_interface();
            let made = eni.and_then(|eni| {
                let eni = described(eni)?;
                Some(Created {
                    eni_id: eni.eni_id,
                    mac: eni.mac,
                    granted: Granted {
                        addresses: eni.secondaries,
                        prefixes: eni.prefixes,
                    },
                })
            });
            made.ok_or_else(|| nonsense(call, "an ENI without id or address".to_owned()))
        })
    }

    fn attach<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
        device_number: u32,
    ) -> Answer<'a, String> {
        Box::pin(async move {
            let call = "AttachNetworkInterface";
            let request = self
                .ec2
                .attach_network_interface()
                .network_interface_id(eni_id);
            let request = request
                .instance_id(instance_id)
                .device_index(signed(device_number));
            let output = request.send().await.map_err(failed(call))?;
            let id = output.attachment_id().map(str::to_owned);
            id.ok_or_else(|| nonsense(call, "an attachment without an id".to_owned()))
        })
    }

    fn delete_on_termination<'a>(
        &'a self,
        eni_id: &'a str,
        attachment_id: &'a str,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let changes = NetworkInterfaceAttachmentChanges::builder()
                .attachment_id(attachment_id)
                .delete_on_termination(true)
                .build();
            let request = self.ec2.modify_network_interface_attribute();
            let request = request.network_interface_id(eni_id).attachment(changes);
            request
                .send()
                .await
                .map_err(failed("ModifyNetworkInterfaceAttribute"))?;
            Ok(())
        })
    }

    fn assign<'a>(&'a self, eni_id: &'a str, units: Units) -> Answer<'a, Granted> {
        Box::pin(async move {
            let (singles, prefixes) = counts(units);
            let request = self
                .ec2
                .assign_private_ip_addresses()
                .network_interface_id(eni_id);
            let request = request
                .set_secondary_private_ip_address_count(singles)
                .set_ipv4_prefix_count(prefixes);
            let output = request
                .send()
                .await
                .map_err(failed("AssignPrivateIpAddresses"))?;
            let addresses = output.assigned_private_ip_addresses().iter();
            let addresses = addresses.filter_map(|assigned| assigned.private_ip_address());
            let prefixes = output.assigned_ipv4_prefixes().iter();
            let prefixes = prefixes.filter_map(|assigned| assigned.ipv4_prefix());
            Ok(Granted {
                addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
                prefixes: prefixes.filter_map(|text| text.parse().ok()).collect(),
            })
        })
    }

    fn unassign<'a>(&'a self, eni_id: &'a str, parting: Parting) -> Answer<'a, ()> {
        Box::pin(async move {
            let addresses: Vec<String> =
                parting.addresses.iter().map(ToString::to_string).collect();
            let prefixes: Vec<String> = parting.prefixes.iter().map(ToString::to_string).collect();
            let request = self
                .ec2
                .unassign_private_ip_addresses()
                .network_interface_id(eni_id);
            let request = request
                .set_private_ip_addresses(Some(addresses).filter(|list| !list.is_empty()))
                .set_ipv4_prefixes(Some(prefixes).filter(|list| !list.is_empty()));
            request
                .send()
                .await
                .map_err(failed("UnassignPrivateIpAddresses"))?;
            Ok(())
        })
    }

    fn set_groups<'a>(&'a self, eni_id: &'a str, groups: Vec<String>) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = self.ec2.modify_network_interface_attribute();
            let request = request
                .network_interface_id(eni_id)
                .set_groups(Some(groups));
            request
                .send()
                .await
                .map_err(failed("ModifyNetworkInterfaceAttribute"))?;
            Ok(())
        })
    }

    fn tag<'a>(&'a self, eni_id: &'a str, tags: Tags) -> Answer<'a, ()> {
        Box::pin(async move {
            let tags = tags
                .iter()
                .map(|(k, v)| Tag::builder().key(k).value(v).build());
            let request = self.ec2.create_tags().resources(eni_id);
            let request = request.set_tags(Some(tags.collect()));
            request.send().await.map_err(failed("CreateTags"))?;
            Ok(())
        })
    }

    fn subnets(&self, filter: SubnetFilter) -> Answer<'_, Vec<Subnet>> {
        Box::pin(self.subnets_all(filter))
    }

    fn detach<'a>(&'a self, attachment_id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = self
                .ec2
                .detach_network_interface()
                .attachment_id(attachment_id);
            request
                .send()
                .await
                .map_err(failed("DetachNetworkInterface"))?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, eni_id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = self
                .ec2
                .delete_network_interface()
                .network_interface_id(eni_id);
            request
                .send()
                .await
                .map_err(failed("DeleteNetworkInterface"))?;
            Ok(())
        })
    }
}

fn metadata_client(http: &SharedHttpClient, endpoint: Option<&str>) -> Result<Imds, Ec2Error> {
    let provider = ProviderConfig::without_region().with_http_client(http.clone());
    let mut builder = Imds::builder()
        .configure(&provider)
        .max_attempts(3)
        .connect_timeout(Duration::from_secs(1))
        .read_timeout(Duration::from_secs(2))
        .operation_timeout(METADATA_DEADLINE);
    if let Some(url) = endpoint {
        let parsed = builder.endpoint(url);
        builder =
            parsed.map_err(|error| nonsense("instance metadata", format!("{url}: {error}")))?;
    }
    Ok(builder.build())
}

fn matching(name: &str, value: &str) -> SdkFilter {
    SdkFilter::builder().name(name).values(value).build()
}

/// `None` for an ENI that lacks what every ENI has.
fn described(eni: &NetworkInterface) -> Option<Described> {
    let addresses = eni.private_ip_addresses();
    let secondaries = addresses
        .iter()
        .filter(|address| address.primary() != Some(true));
    let secondaries = secondaries.filter_map(|address| address.private_ip_address()?.parse().ok());
    let attachment = eni.attachment().and_then(|plug| {
        Some(Attachment {
            id: plug.attachment_id()?.to_owned(),
            instance_id: plug.instance_id().unwrap_or_default().to_owned(),
            device_number: unsigned(plug.device_index())?,
            network_card: unsigned(plug.network_card_index()).unwrap_or(0),
        })
    });
    let tags = eni.tag_set().iter().filter_map(|tag| {
        Some((
            tag.key()?.to_owned(),
            tag.value().unwrap_or_default().to_owned(),
        ))
    });
    Some(Described {
        eni_id: eni.network_interface_id()?.to_owned(),
        mac: eni.mac_address()?.parse().ok()?,
        subnet_id: eni.subnet_id()?.to_owned(),
        groups: eni
            .groups()
            .iter()
            .filter_map(|g| g.group_id().map(str::to_owned))
            .collect(),
        primary: eni.private_ip_address()?.parse().ok()?,
        secondaries: secondaries.collect(),
        prefixes: eni
            .ipv4_prefixes()
            .iter()
            .filter_map(|prefix| prefix.ipv4_prefix()?.parse().ok())
            .collect(),
        description: eni.description().unwrap_or_default().to_owned(),
        attachment,
        tags: tags.collect(),
    })
}

fn failed<E, R>(call: &'static str) -> impl FnOnce(SdkError<E, R>) -> Ec2Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    move |error| {
        let code = error.code().unwrap_or_default().to_owned();
        let kind = match &error {
            SdkError::ServiceError(_) => classify(&code, error.message().unwrap_or_default()),
            _ => ErrorKind::Transport,
        };
        let message = match error.message() {
            Some(message) => message.to_owned(),
            None => DisplayErrorContext(&error).to_string(),
        };
        let message = message.chars().take(MESSAGE_MAX).collect();
        Ec2Error {
            call,
            kind,
            code,
            message,
        }
    }
}

/// (single addresses, prefixes), where a count of none is left out.
fn counts(units: Units) -> (Option<i32>, Option<i32>) {
    let some = |count: u32| Some(count).filter(|count| *count > 0).map(signed);
    (some(units.singles), some(units.prefixes))
}

/// `None` for a subnet that lacks what every subnet has.
fn subnet(subnet: &aws_sdk_ec2::types::Subnet) -> Option<Subnet> {
    let tags = subnet.tags().iter();
    let tags = tags.filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())));
    Some(Subnet {
        id: subnet.subnet_id()?.to_owned(),
        cidr: subnet.cidr_block()?.parse().ok()?,
        free: unsigned(subnet.available_ip_address_count())?,
        tags: tags.collect(),
    })
}

/// One value per line.
fn parse_lines<T: std::str::FromStr>(path: &str, text: &str) -> Result<Vec<T>, Ec2Error> {
    text.lines()
        .map(|line| {
            let value = line.trim().parse();
            value.map_err(|_| nonsense("instance metadata", format!("{path}: {line:?}")))
        })
        .collect()
}

fn nonsense(call: &'static str, message: String) -> Ec2Error {
    Ec2Error {
        call,
        kind: ErrorKind::Transport,
        code: String::new(),
        message,
    }
}

fn unsigned(number: Option<i32>) -> Option<u32> {
    u32::try_from(number?).ok()
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
