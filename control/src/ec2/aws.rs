//! [`Ec2`] over `aws-sdk-ec2` and the metadata client of `aws-config`: the only place that names an SDK type.
//!
//! Endpoint, region and credentials come from where every AWS program takes them (`AWS_ENDPOINT_URL_EC2`,
//! `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_EC2_METADATA_SERVICE_ENDPOINT`, the instance role). Each call ends within
//! [`CALL_DEADLINE`]; the SDK retries inside it with jitter. Answers are data from outside: an ENI without an id, a
//! MAC or an address is left out, never guessed.

use std::net::Ipv4Addr;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::imds::Client as Imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::SharedHttpClient;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{
    Filter as SdkFilter, InstanceType, NetworkCardInfo, NetworkInterface,
    NetworkInterfaceAttachmentChanges, ResourceType, Tag, TagSpecification,
};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use futures::future::BoxFuture;

use super::{
    Attachment, Described, Ec2, Ec2Error, ErrorKind, Filter, Instance, NewEni, Observed,
    TAG_INSTANCE, classify,
};
use crate::ipam::plan::Limits;

/// Longest any call may take, retries included.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Most pages of one listing; an endpoint that never ends its listing is cut off here.
const MAX_PAGES: usize = 1000;

type Answer<'a, T> = BoxFuture<'a, Result<T, Ec2Error>>;

/// Where to find the services when the environment does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// URL of the EC2 API; outranks the environment.
    pub ec2: Option<String>,
    /// URL of the metadata service; outranks the environment, and then region and credentials come from there too.
    pub imds: Option<String>,
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
            .operation_attempt_timeout(Duration::from_secs(5))
            .operation_timeout(CALL_DEADLINE)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(3))
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
        let text = self.metadata(path).await?;
        text.lines()
            .map(|line| {
                let value = line.trim().parse();
                value.map_err(|_| nonsense("instance metadata", format!("{path}: {line:?}")))
            })
            .collect()
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
            subnet: self.metadata_as(&path("subnet-ipv4-cidr-block")).await?,
            vpc_cidrs: self.metadata_lines(&path("vpc-ipv4-cidr-blocks")).await?,
            addresses: self.metadata_lines(&path("local-ipv4s")).await?,
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
            })
        })
    }

    fn observe(&self) -> Answer<'_, Vec<Observed>> {
        Box::pin(async {
            let mut enis = Vec::new();
            for line in self.metadata("network/interfaces/macs/").await?.lines() {
                let mac = line.trim().trim_end_matches('/');
                match self.observe_one(mac).await {
                    Ok(eni) => enis.push(eni),
                    // An ENI that comes or goes, or has no IPv4, must not hide the others.
                    Err(error) => tracing::warn!(%error, mac, "an ENI is left out"),
                }
            }
            Ok(enis)
        })
    }

    fn limits<'a>(&'a self, instance_type: &'a str) -> Answer<'a, Limits> {
        Box::pin(async move {
            let call = "DescribeInstanceTypes";
            let request = self.ec2.describe_instance_types();
            let request = request.instance_types(InstanceType::from(instance_type));
            let output = request.send().await.map_err(failed(call))?;
            let info = output
                .instance_types()
                .first()
                .and_then(|of_type| of_type.network_info());
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
                    })
                }
                _ => Err(nonsense(call, format!("no limits for {instance_type}"))),
            }
        })
    }

    fn describe(&self, filter: Filter) -> Answer<'_, Vec<Described>> {
        Box::pin(self.describe_all(filter))
    }

    fn create(&self, eni: NewEni) -> Answer<'_, String> {
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
            let count = Some(eni.secondary_addresses).filter(|count| *count > 0);
            let output = self
                .ec2
                .create_network_interface()
                .client_token(eni.client_token)
                .subnet_id(eni.subnet_id)
                .set_groups(Some(eni.groups).filter(|groups| !groups.is_empty()))
                .description(eni.description)
                .tag_specifications(tags)
                .set_secondary_private_ip_address_count(count.map(signed))
                .send()
                .await
                .map_err(failed(call))?;
            let id = output
                .network_interface()
                .and_then(NetworkInterface::network_interface_id);
            id.map(str::to_owned)
                .ok_or_else(|| nonsense(call, "an ENI without an id".to_owned()))
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

    fn assign<'a>(&'a self, eni_id: &'a str, count: u32) -> Answer<'a, Vec<Ipv4Addr>> {
        Box::pin(async move {
            let request = self
                .ec2
                .assign_private_ip_addresses()
                .network_interface_id(eni_id);
            let request = request.secondary_private_ip_address_count(signed(count));
            let output = request
                .send()
                .await
                .map_err(failed("AssignPrivateIpAddresses"))?;
            let texts = output.assigned_private_ip_addresses().iter();
            let texts = texts.filter_map(|assigned| assigned.private_ip_address());
            Ok(texts.filter_map(|text| text.parse().ok()).collect())
        })
    }

    fn unassign<'a>(&'a self, eni_id: &'a str, addresses: Vec<Ipv4Addr>) -> Answer<'a, ()> {
        Box::pin(async move {
            let addresses = addresses.iter().map(Ipv4Addr::to_string).collect();
            let request = self
                .ec2
                .unassign_private_ip_addresses()
                .network_interface_id(eni_id);
            let request = request.set_private_ip_addresses(Some(addresses));
            request
                .send()
                .await
                .map_err(failed("UnassignPrivateIpAddresses"))?;
            Ok(())
        })
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
        .operation_timeout(CALL_DEADLINE);
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
            SdkError::ServiceError(_) => classify(&code),
            _ => ErrorKind::Transport,
        };
        let message = match error.message() {
            Some(message) => message.to_owned(),
            None => DisplayErrorContext(&error).to_string(),
        };
        Ec2Error {
            call,
            kind,
            code,
            message,
        }
    }
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
