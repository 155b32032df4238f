//! One happy path by the real SDK, against our EC2 and against an independent one (moto, from PyPI): where both agree,
//! ours is no fiction. Left out against moto is only what it is known to do unlike EC2.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ec2_sim::{Cloud, CloudConfig, http, imds};
use penstock_control::ec2::aws::{Aws, Endpoints};
use penstock_control::ec2::{
    Described, Ec2, ErrorKind, Filter, NewEni, SubnetFilter, TAG_INSTANCE, Tags,
};
use penstock_control::ipam::plan::{Kind, Units};
use penstock_control::ipam::pool::Parting;

/// The version whose differences are known.
const MOTO: &str = "moto[ec2,server]==5.2.5";
/// Longest moto may take to answer first.
const START: Duration = Duration::from_secs(60);

/// What is asked of an account.
struct Account {
    aws: Aws,
    instance_id: String,
    vpc_id: String,
    zone: String,
    primary: Described,
    /// EC2 in all that counts; moto is not where it is known to differ.
    exact: bool,
}

/// The metadata service of an instance of ours, which also hands out the credentials; moto's is of no use.
async fn metadata(cloud: &Arc<Cloud>, instance_id: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = imds::router(Arc::clone(cloud), instance_id);
    http::serve(&tokio::runtime::Handle::current(), listener, routes).unwrap();
    url
}

async fn described(aws: &Aws, eni_id: &str) -> Described {
    let mut enis = aws.describe(Filter::Eni(eni_id.to_owned())).await.unwrap();
    assert_eq!(enis.len(), 1);
    enis.remove(0)
}

async fn happy_path(account: &Account) {
    let Account { aws, primary, .. } = account;
    let singles = |count| Units::of(Kind::Address, count);
    let eni = NewEni {
        client_token: "once".into(),
        subnet_id: primary.subnet_id.clone(),
        groups: primary.groups.clone(),
        description: format!("aws-K8S-{}", account.instance_id),
        tags: Tags::from([(TAG_INSTANCE.to_owned(), account.instance_id.clone())]),
        units: singles(2),
    };
    let made = aws.create(eni.clone()).await.unwrap();
    if account.exact {
        assert_eq!(
            aws.create(eni.clone()).await.unwrap(),
            made,
            "same token, same ENI"
        );
    }
    let id = made.eni_id.as_str();
    let shown = described(aws, id).await;
    assert_eq!(
        (shown.mac, &shown.secondaries),
        (made.mac, &made.granted.addresses)
    );
    assert_eq!(shown.secondaries.len(), 2);
    assert!(!shown.secondaries.contains(&shown.primary));
    assert_eq!(
        (&shown.tags, &shown.description),
        (&eni.tags, &eni.description)
    );
    assert_eq!(
        (&shown.groups, &shown.subnet_id),
        (&eni.groups, &eni.subnet_id)
    );
    assert!(shown.attachment.is_none());
    let orphans = aws
        .describe(Filter::Orphans(account.instance_id.clone()))
        .await
        .unwrap();
    assert_eq!(
        orphans
            .iter()
            .map(|eni| eni.eni_id.as_str())
            .collect::<Vec<_>>(),
        [id]
    );

    let attachment = aws.attach(id, &account.instance_id, 1).await.unwrap();
    aws.delete_on_termination(id, &attachment).await.unwrap();
    let plug = described(aws, id).await.attachment.unwrap();
    assert_eq!((plug.id, plug.device_number), (attachment.clone(), 1));
    assert_eq!(plug.instance_id, account.instance_id);
    let both = aws
        .describe(Filter::Instance(account.instance_id.clone()))
        .await
        .unwrap();
    assert_eq!(both.len(), 2);

    let before = described(aws, id).await.secondaries;
    let granted = aws.assign(id, singles(3)).await.unwrap().addresses;
    let after = described(aws, id).await.secondaries;
    let news: Vec<_> = after
        .iter()
        .copied()
        .filter(|address| !before.contains(address))
        .collect();
    assert_eq!(news.len(), 3);
    if account.exact {
        // moto answers with all the ENI has.
        assert_eq!(granted, news);
    }
    let parting = Parting {
        addresses: news[..2].to_vec(),
        prefixes: Vec::new(),
    };
    aws.unassign(id, parting).await.unwrap();
    assert_eq!(described(aws, id).await.secondaries.len(), 3);

    aws.set_groups(id, eni.groups.clone()).await.unwrap();
    let tags = Tags::from([("team".to_owned(), "net".to_owned())]);
    aws.tag(id, tags).await.unwrap();
    assert_eq!(described(aws, id).await.tags["team"], "net");
    let zone = SubnetFilter::Zone {
        vpc_id: account.vpc_id.clone(),
        availability_zone: account.zone.clone(),
    };
    let subnets = aws.subnets(zone).await.unwrap();
    let own = subnets
        .iter()
        .find(|subnet| subnet.id == eni.subnet_id)
        .unwrap();
    assert!(own.cidr.contains(&shown.primary) && own.free > 0);

    aws.detach(&attachment).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while described(aws, id).await.attachment.is_some() {
        assert!(Instant::now() < deadline, "still attached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    aws.delete(id).await.unwrap();
    let gone = aws.describe(Filter::Eni(id.to_owned())).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound, "{gone}");
    let gone = aws.delete(id).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound, "{gone}");
    let gone = aws.detach(&attachment).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound, "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_happy_path_on_our_ec2() {
    let cloud = Cloud::new(CloudConfig::default()).unwrap();
    let subnet = cloud.config().subnets[0].clone();
    let instance = cloud
        .launch_instance("m5.large", &subnet.subnet_id, "node")
        .unwrap();
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", api.local_addr().unwrap());
    http::serve(
        &tokio::runtime::Handle::current(),
        api,
        http::router(Arc::clone(&cloud)),
    )
    .unwrap();
    let endpoints = Endpoints {
        ec2: Some(url),
        imds: Some(metadata(&cloud, &instance.instance_id).await),
        deadline: None,
    };
    let aws = Aws::connect(&endpoints).await.unwrap();
    let primary = described(&aws, &instance.primary_eni.eni_id).await;
    happy_path(&Account {
        aws,
        instance_id: instance.instance_id,
        vpc_id: cloud.config().vpc_id.clone(),
        zone: subnet.availability_zone,
        primary,
        exact: true,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_happy_path_on_moto() {
    let moto = match tokio::task::spawn_blocking(Moto::start).await.unwrap() {
        Ok(moto) => moto,
        Err(reason) => {
            eprintln!("skipped: moto cannot be had: {reason}");
            return;
        }
    };
    let run = "Action=RunInstances&Version=2016-11-15&ImageId=ami-12c6146b&InstanceType=m5.large&MinCount=1&MaxCount=1";
    let answer = moto.ask(run);
    let field = |name: &str| {
        let (_, rest) = answer
            .split_once(&format!("<{name}>"))
            .unwrap_or_else(|| panic!("no {name}: {answer}"));
        rest.split('<').next().unwrap().to_owned()
    };
    let cloud = Cloud::new(CloudConfig::default()).unwrap();
    let subnet = &cloud.config().subnets[0].subnet_id;
    let stand_in = cloud.launch_instance("m5.large", subnet, "node").unwrap();
    let endpoints = Endpoints {
        ec2: Some(format!("http://{}", moto.address)),
        imds: Some(metadata(&cloud, &stand_in.instance_id).await),
        deadline: None,
    };
    let aws = Aws::connect(&endpoints).await.unwrap();
    let primary = described(&aws, &field("networkInterfaceId")).await;
    happy_path(&Account {
        aws,
        instance_id: field("instanceId"),
        vpc_id: field("vpcId"),
        zone: field("availabilityZone"),
        primary,
        exact: false,
    })
    .await;
}

/// moto's server; ended when dropped.
struct Moto {
    server: Child,
    address: SocketAddr,
}

impl Moto {
    /// Installed once, below the build's own directory; an error is why it cannot be had.
    fn start() -> Result<Self, String> {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto");
        let program = home.join("bin/moto_server");
        let mark = home.join("installed");
        if std::fs::read_to_string(&mark).ok().as_deref() != Some(MOTO) {
            install(&home)?;
            std::fs::write(&mark, MOTO).map_err(|error| error.to_string())?;
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let moto = Self { server, address };
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).is_err() {
            assert!(
                Instant::now() < deadline,
                "moto is installed but does not answer"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(moto)
    }

    /// A call the agent does not make.
    fn ask(&self, form: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = form.len();
        write!(
            stream,
            "POST / HTTP/1.0\r\nHost: ec2.eu-west-1.amazonaws.com\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=k/20260101/eu-west-1/ec2/aws4_request, SignedHeaders=host, Signature=0\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It is gone already if this fails.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn install(home: &Path) -> Result<(), String> {
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    };
    run(
        Path::new("python3"),
        &["-m", "venv", home.to_str().expect("text")],
    )?;
    run(&home.join("bin/pip"), &["install", "--quiet", MOTO])
}
