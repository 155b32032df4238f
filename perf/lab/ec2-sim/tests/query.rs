//! The EC2 query API over a real connection: what is accepted, what is answered, and how errors look.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ec2_sim::{AttachmentStatus, CloudConfig, Eni, Fault, Instance, Wire, http};
use support::{Reply, Server};

const SUBNET: &str = "subnet-0000000000000000a";
const POST: &str = "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded";
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/ec2/aws4_request, \
                      SignedHeaders=host;x-amz-date, Signature=00ff";

fn server() -> Server {
    Server::start(CloudConfig::default(), http::router)
}

fn call(server: &Server, parameters: &str) -> Reply {
    let body = format!("Version=2016-11-15&{parameters}");
    server.send(&format!("{POST}\r\n{SIGNED}"), body.as_bytes())
}

/// The texts of every element `name`, in order.
fn texts<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = reply.body.split(open.as_str()).skip(1);
    pieces
        .map(|piece| piece.split_once(close.as_str()).unwrap().0)
        .collect()
}

#[track_caller]
fn assert_error(reply: &Reply, status: u16, code: &str) {
    assert_eq!(
        (reply.status, texts(reply, "Code")),
        (status, vec![code]),
        "{}",
        reply.body
    );
    assert!(
        reply.body.contains("<Response><Errors><Error><Code>"),
        "{}",
        reply.body
    );
    assert_eq!(texts(reply, "RequestID").len(), 1);
}

#[track_caller]
fn assert_ok(reply: &Reply, action: &str) {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let root =
        format!("<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>");
    assert!(reply.body.contains(&root), "{}", reply.body);
    assert!(
        reply.head.contains("content-type: text/xml"),
        "{}",
        reply.head
    );
}

fn launch(server: &Server, instance_type: &str) -> Instance {
    server
        .cloud
        .launch_instance(instance_type, SUBNET, "node")
        .unwrap()
}

#[test]
fn the_life_of_an_interface() {
    let server = server();
    let instance = launch(&server, "m5.large");
    let created = call(
        &server,
        &format!(
            "Action=CreateNetworkInterface&SubnetId={SUBNET}&Description=a%26b%3C&SecondaryPrivateIpAddressCount=2\
             &SecurityGroupId.1=sg-00000000000000001&TagSpecification.1.ResourceType=network-interface\
             &TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.Value=%3Cv%3E&ClientToken=t1"
        ),
    );
    assert_ok(&created, "CreateNetworkInterface");
    assert_eq!(texts(&created, "description"), ["a&amp;b&lt;"]);
    assert_eq!(texts(&created, "value"), ["&lt;v&gt;"]);
    assert_eq!(texts(&created, "status"), ["available"]);
    assert_eq!(texts(&created, "primary"), ["true", "false", "false"]);
    assert_eq!(texts(&created, "clientToken"), ["t1"]);
    let eni = texts(&created, "networkInterfaceId")[0].to_owned();

    let attach = format!(
        "NetworkInterfaceId={eni}&InstanceId={}&DeviceIndex=1",
        instance.instance_id
    );
    let attached = call(&server, &format!("Action=AttachNetworkInterface&{attach}"));
    assert_ok(&attached, "AttachNetworkInterface");
    let attachment = texts(&attached, "attachmentId")[0].to_owned();
    let again = call(&server, &format!("Action=AttachNetworkInterface&{attach}"));
    assert_error(&again, 400, "InvalidNetworkInterface.InUse");

    let modify = format!("Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={eni}");
    let delete =
        format!("&Attachment.AttachmentId={attachment}&Attachment.DeleteOnTermination=true");
    assert_ok(
        &call(&server, &format!("{modify}{delete}")),
        "ModifyNetworkInterfaceAttribute",
    );
    let two = call(
        &server,
        &format!("{modify}{delete}&SourceDestCheck.Value=false"),
    );
    assert_error(&two, 400, "InvalidParameterCombination");
    assert_error(&call(&server, &modify), 400, "InvalidParameterCombination");

    let assign = format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={eni}");
    let assigned = call(
        &server,
        &format!("{assign}&SecondaryPrivateIpAddressCount=2"),
    );
    assert_ok(&assigned, "AssignPrivateIpAddresses");
    let new = texts(&assigned, "privateIpAddress");
    assert_eq!(new.len(), 2);
    let unassign = format!("Action=UnassignPrivateIpAddresses&NetworkInterfaceId={eni}");
    let list = format!(
        "&PrivateIpAddress.1={}&PrivateIpAddress.2={}",
        new[0], new[1]
    );
    assert_ok(
        &call(&server, &format!("{unassign}{list}")),
        "UnassignPrivateIpAddresses",
    );

    let filter = format!(
        "&Filter.1.Name=attachment.instance-id&Filter.1.Value.1={}",
        instance.instance_id
    );
    let found = call(
        &server,
        &format!("Action=DescribeNetworkInterfaces{filter}"),
    );
    assert_ok(&found, "DescribeNetworkInterfaces");
    assert_eq!(texts(&found, "networkInterfaceId").len(), 2);
    assert_eq!(texts(&found, "deviceIndex"), ["0", "1"]);
    assert_eq!(texts(&found, "deleteOnTermination"), ["true", "true"]);

    let busy = call(
        &server,
        &format!("Action=DeleteNetworkInterface&NetworkInterfaceId={eni}"),
    );
    assert_error(&busy, 400, "InvalidNetworkInterface.InUse");
    let detached = call(
        &server,
        &format!("Action=DetachNetworkInterface&AttachmentId={attachment}&Force=true"),
    );
    assert_ok(&detached, "DetachNetworkInterface");
    let deleted = call(
        &server,
        &format!("Action=DeleteNetworkInterface&NetworkInterfaceId={eni}"),
    );
    assert_ok(&deleted, "DeleteNetworkInterface");
    assert_eq!(server.cloud.calls().get("AttachNetworkInterface"), Some(&2));
}

#[test]
fn instances_and_their_surroundings_are_described() {
    let server = server();
    let instance = launch(&server, "m5.large");
    let found = call(
        &server,
        &format!(
            "Action=DescribeInstances&InstanceId.1={}",
            instance.instance_id
        ),
    );
    assert_ok(&found, "DescribeInstances");
    assert_eq!(texts(&found, "instanceType"), ["m5.large"]);
    assert_eq!(
        texts(&found, "macAddress"),
        [instance.primary_eni.mac_text()]
    );
    assert_eq!(texts(&found, "deviceIndex"), ["0"]);

    let subnets = call(
        &server,
        &format!("Action=DescribeSubnets&SubnetId.1={SUBNET}"),
    );
    assert_ok(&subnets, "DescribeSubnets");
    assert_eq!(texts(&subnets, "cidrBlock"), ["10.0.1.0/24"]);
    assert_eq!(texts(&subnets, "availableIpAddressCount"), ["250"]);

    let vpcs = call(&server, "Action=DescribeVpcs");
    assert_ok(&vpcs, "DescribeVpcs");
    assert_eq!(texts(&vpcs, "cidrBlock"), ["10.0.0.0/16", "10.0.0.0/16"]);
    let groups = call(
        &server,
        "Action=DescribeSecurityGroups&GroupId.1=sg-00000000000000001",
    );
    assert_ok(&groups, "DescribeSecurityGroups");
    assert_eq!(texts(&groups, "groupName"), ["nodes"]);

    let tag = "Action=CreateTags&ResourceId.1=vpc-00000000000000001&Tag.1.Key=a&Tag.1.Value=b";
    assert_ok(&call(&server, tag), "CreateTags");
    let find = "Action=DescribeTags&Filter.1.Name=resource-type&Filter.1.Value.1=vpc";
    let tags = call(&server, find);
    assert_ok(&tags, "DescribeTags");
    assert_eq!(
        (texts(&tags, "key"), texts(&tags, "value")),
        (vec!["a"], vec!["b"])
    );
    let untag = "Action=DeleteTags&ResourceId.1=vpc-00000000000000001&Tag.1.Key=a";
    assert_ok(&call(&server, untag), "DeleteTags");
    assert!(texts(&call(&server, find), "key").is_empty());
}

#[test]
fn instance_types_come_in_pages_with_their_limits() {
    let server = server();
    let one = call(
        &server,
        "Action=DescribeInstanceTypes&InstanceType.1=c6in.32xlarge",
    );
    assert_ok(&one, "DescribeInstanceTypes");
    assert_eq!(texts(&one, "maximumNetworkInterfaces"), ["16", "8", "8"]);
    assert_eq!(texts(&one, "networkCardIndex"), ["0", "1"]);
    assert_eq!(texts(&one, "ipv4AddressesPerInterface"), ["50"]);
    let metal = call(
        &server,
        "Action=DescribeInstanceTypes&InstanceType.1=m5.metal",
    );
    assert_eq!(texts(&metal, "bareMetal"), ["true"]);
    assert!(texts(&metal, "hypervisor").is_empty());
    let unknown = call(
        &server,
        "Action=DescribeInstanceTypes&InstanceType.1=m5.tiny",
    );
    assert_error(&unknown, 400, "InvalidInstanceType");

    let (mut seen, mut token) = (0, String::new());
    loop {
        let page = call(
            &server,
            &format!("Action=DescribeInstanceTypes&MaxResults=5{token}"),
        );
        let names = texts(&page, "instanceType").len();
        assert!((1..=5).contains(&names), "{}", page.body);
        seen += names;
        let Some(next) = texts(&page, "nextToken").first().copied() else {
            break;
        };
        token = format!("&NextToken={next}");
    }
    assert_eq!(
        seen,
        texts(
            &call(&server, "Action=DescribeInstanceTypes"),
            "instanceType"
        )
        .len()
    );
}

#[test]
fn a_request_must_be_complete_and_contain_nothing_unknown() {
    let server = server();
    let cases = [
        ("", "MissingAction"),
        ("Action=RunInstances", "InvalidAction"),
        ("Action=DescribeVpcs&Colour=red", "UnknownParameter"),
        (
            "Action=DescribeVpcs&Filter.1.Name=vpc-id",
            "MissingParameter",
        ),
        (
            "Action=DescribeVpcs&Filter.0.Name=vpc-id",
            "UnknownParameter",
        ),
        (
            "Action=DescribeVpcs&Filter.99999999999999999999.Name=vpc-id",
            "UnknownParameter",
        ),
        (
            "Action=DescribeVpcs&Filter.1.Name=vpc-id&Filter.1.Value.1=x&Filter.1.Odd=1",
            "UnknownParameter",
        ),
        (
            "Action=DescribeVpcs&MaxResults=many",
            "InvalidParameterValue",
        ),
        ("Action=DescribeVpcs&MaxResults=-5", "InvalidParameterValue"),
        ("Action=DescribeVpcs&NextToken=zz", "InvalidNextToken"),
        (
            "Action=DescribeVpcs&VpcId.1=vpc-1&VpcId.1=vpc-2",
            "InvalidQueryParameter",
        ),
        ("Action=DescribeVpcs&VpcId.1=%00", "InvalidParameterValue"),
        ("Action=CreateNetworkInterface", "MissingParameter"),
        (
            "Action=CreateNetworkInterface&SubnetId=x",
            "InvalidSubnetID.Malformed",
        ),
        (
            "Action=CreateNetworkInterface&SubnetId=x&Ipv6PrefixCount=1",
            "UnknownParameter",
        ),
        (
            "Action=CreateNetworkInterface&SubnetId=x&PrivateIpAddress=10.0.1",
            "InvalidParameterValue",
        ),
        ("Action=CreateTags&ResourceId.1=eni-1", "MissingParameter"),
    ];
    for (parameters, code) in cases {
        assert_error(&call(&server, parameters), 400, code);
    }
    let old = server.send(
        &format!("{POST}\r\n{SIGNED}"),
        b"Action=DescribeVpcs&Version=2013-01-01",
    );
    assert_error(&old, 400, "NoSuchVersion");
    let none = server.send(&format!("{POST}\r\n{SIGNED}"), b"Action=DescribeVpcs");
    assert_error(&none, 400, "MissingParameter");
}

#[test]
fn a_request_must_look_signed() {
    let server = server();
    let body = b"Action=DescribeVpcs&Version=2016-11-15";
    assert_error(&server.send(POST, body), 403, "MissingAuthenticationToken");
    for header in [
        "Authorization: Basic Zm9v",
        "Authorization: AWS4-HMAC-SHA256 ",
        "Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/eu-west-1/s3/aws4_request, SignedHeaders=h, Signature=0",
        "Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/eu-west-1/ec2/aws4_request, SignedHeaders=h",
    ] {
        assert_error(
            &server.send(&format!("{POST}\r\n{header}"), body),
            400,
            "IncompleteSignature",
        );
    }
}

#[test]
fn garbage_and_oversize_get_ec2_errors() {
    let server = server();
    let post = format!("{POST}\r\n{SIGNED}");
    assert_error(&server.send(&post, &[0xff; 100]), 400, "MissingAction");
    assert_error(&server.send(&post, b"&&&===%%%"), 400, "MissingAction");
    let oversize = vec![b'a'; http::REQUEST_BYTES_MAX + 1];
    assert_error(&server.send(&post, &oversize), 413, "RequestEntityTooLarge");
    let json = server.send(
        &format!("POST / HTTP/1.1\r\nContent-Type: application/json\r\n{SIGNED}"),
        b"{}",
    );
    assert_error(&json, 400, "MalformedQueryString");
    assert_eq!(
        call(&server, "Action=DescribeVpcs").status,
        200,
        "still alive"
    );
}

#[test]
fn a_dry_run_checks_and_changes_nothing() {
    let server = server();
    let create = format!("Action=CreateNetworkInterface&SubnetId={SUBNET}&DryRun=true");
    assert_error(&call(&server, &create), 412, "DryRunOperation");
    assert!(server.cloud.enis().is_empty());
}

#[test]
fn injected_faults_are_used_up_and_change_nothing() {
    let server = server();
    let fault = Fault {
        action: "CreateNetworkInterface".to_owned(),
        error_code: "RequestLimitExceeded".to_owned(),
        count: 2,
    };
    server.cloud.inject(fault);
    let create = format!("Action=CreateNetworkInterface&SubnetId={SUBNET}");
    assert_eq!(call(&server, "Action=DescribeVpcs").status, 200);
    assert_error(&call(&server, &create), 503, "RequestLimitExceeded");
    assert_error(&call(&server, &create), 503, "RequestLimitExceeded");
    assert!(server.cloud.enis().is_empty());
    assert_eq!(call(&server, &create).status, 200);

    server.cloud.inject_lost_reply("CreateNetworkInterface", 1);
    let token = format!("{create}&ClientToken=lost");
    assert_error(&call(&server, &token), 500, "InternalError");
    assert_eq!(call(&server, &token).status, 200);
    assert_eq!(
        server.cloud.enis().len(),
        2,
        "the lost call took effect, once"
    );

    server.cloud.inject_reply("DescribeVpcs", 200, "<html>");
    assert_eq!(call(&server, "Action=DescribeVpcs").body, "<html>");
    assert_eq!(server.cloud.calls().get("CreateNetworkInterface"), Some(&5));
}

#[test]
fn a_call_takes_the_configured_latency() {
    let server = server();
    let latency = Duration::from_millis(120);
    server.cloud.set_latency(latency);
    let started = std::time::Instant::now();
    assert_eq!(call(&server, "Action=DescribeVpcs").status, 200);
    assert!(started.elapsed() >= latency);
}

struct Told(Sender<u32>);

impl Wire for Told {
    fn attach(&self, _instance_id: &str, eni: &Eni) -> Result<(), String> {
        self.0
            .send(eni.device_index)
            .map_err(|error| error.to_string())
    }

    fn detach(&self, _instance_id: &str, _eni: &Eni) -> Result<(), String> {
        Ok(())
    }

    fn addresses_changed(&self, _eni: &Eni) {}
}

#[test]
fn a_delayed_attachment_completes_though_nobody_calls() {
    let attach_delay = Duration::from_millis(150);
    let server = Server::start(
        CloudConfig {
            attach_delay,
            ..CloudConfig::default()
        },
        http::router,
    );
    let instance = launch(&server, "m5.large");
    let (sender, receiver): (_, Receiver<u32>) = channel();
    server.cloud.set_wire(Arc::new(Told(sender)));
    let created = call(
        &server,
        &format!("Action=CreateNetworkInterface&SubnetId={SUBNET}"),
    );
    let eni = texts(&created, "networkInterfaceId")[0].to_owned();
    let attach = format!(
        "NetworkInterfaceId={eni}&InstanceId={}&DeviceIndex=1",
        instance.instance_id
    );
    assert_eq!(
        call(&server, &format!("Action=AttachNetworkInterface&{attach}")).status,
        200
    );
    let status = server.cloud.eni(&eni).unwrap().attachment_status;
    assert_eq!(status, AttachmentStatus::Attaching);
    assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap(), 1);
}
