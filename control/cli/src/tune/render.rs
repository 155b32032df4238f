//! The settings as user data of a new node.
//!
//! Pure: the same table, the same text. `kernel-config/` holds what this renders for workers on
//! cores 2 and 3; a test compares them.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::knob::{How, Knob, Place};

/// 2 MiB pages for the default UMEM of one worker and a tenth more.
const HUGE_PAGES_A_WORKER: usize = 53;

/// Who reads the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum System {
    /// Amazon Linux 2023 on EKS: multi-part user data for nodeadm.
    Al2023,
    /// Bottlerocket: TOML user data.
    Bottlerocket,
    /// Any distribution: a drop-in for sysctl.d.
    Sysctl,
    /// EC2: the launch template's data, as JSON.
    LaunchTemplate,
}

impl System {
    /// The text, with its last newline.
    pub(super) fn render(self, knobs: &[Knob], cores: &str) -> String {
        let parts = Parts::of(knobs, cores);
        match self {
            Self::Al2023 => parts.al2023(),
            Self::Bottlerocket => parts.bottlerocket(),
            Self::Sysctl => parts.sysctl(),
            Self::LaunchTemplate => format!("{:#}\n", Value::Object(parts.template)),
        }
    }
}

/// The settings by what sets them.
#[derive(Debug, Default)]
struct Parts {
    /// Key, value, reason.
    sysctls: Vec<(String, String, String)>,
    boot: Vec<String>,
    kubelet: Vec<(String, String)>,
    /// Path, value.
    files: Vec<(String, String)>,
    template: Map<String, Value>,
}

impl Parts {
    fn of(knobs: &[Knob], cores: &str) -> Self {
        let mut parts = Self::default();
        let count = cores.split(',').filter(|core| !core.is_empty()).count();
        let workers = count.max(1);
        let fill = |text: &str| {
            text.replace("{worker-cores}", cores)
                .replace("{workers}", &workers.to_string())
                .replace("{huge-pages}", &(workers * HUGE_PAGES_A_WORKER).to_string())
        };
        for knob in knobs {
            let coreless = knob.want.contains("{worker-cores}") && cores.is_empty();
            // What the daemons set themselves needs no help at boot.
            if coreless || knob.by.starts_with("penstock-") {
                continue;
            }
            let want = fill(&knob.want);
            match &knob.how {
                How::Sysctl { sysctl } if knob.on == Place::Node => {
                    parts.sysctls.push((sysctl.clone(), want, knob.why.clone()));
                }
                How::File { file } if knob.on == Place::Node && knob.live => {
                    parts.files.push((file.clone(), want));
                }
                How::Boot { boot, .. } => parts.boot.push(fill(boot)),
                How::Kubelet { kubelet } => parts.kubelet.push((kubelet.clone(), want)),
                How::LaunchTemplate { launch_template } => {
                    put(&mut parts.template, launch_template, &want);
                }
                _ => {}
            }
        }
        parts
    }

    fn sysctl(&self) -> String {
        let mut text = String::from("# Rendered by `penstock tune --render sysctl`.\n");
        for (key, value, why) in &self.sysctls {
            let _ = write!(text, "\n# {why}\n{key} = {value}\n");
        }
        text
    }

    fn bottlerocket(&self) -> String {
        let mut text = String::from("# Rendered by `penstock tune --render bottlerocket`.\n");
        if !self.kubelet.is_empty() {
            text.push_str("\n[settings.kubernetes]\n");
            for (key, value) in &self.kubelet {
                let _ = writeln!(text, "{} = \"{value}\"", kebab(key));
            }
        }
        if !self.sysctls.is_empty() {
            text.push_str("\n[settings.kernel.sysctl]\n");
            for (key, value, _) in &self.sysctls {
                let _ = writeln!(text, "\"{key}\" = \"{value}\"");
            }
        }
        let pages = |(path, _): &&(String, String)| path.contains("hugepages-2048kB");
        if let Some((_, count)) = self.files.iter().find(pages) {
            let _ = write!(
                text,
                "\n[settings.kernel.hugepages.static.\"2Mi\"]\ncount = {count}\n"
            );
        }
        if !self.boot.is_empty() {
            text.push_str("\n[settings.boot]\nreboot-to-reconcile = true\n");
            text.push_str("\n[settings.boot.kernel-parameters]\n");
            for word in &self.boot {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                let _ = writeln!(text, "\"{key}\" = [\"{value}\"]");
            }
        }
        text
    }

    fn al2023(&self) -> String {
        let mut text = String::from(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"PENSTOCK\"\n\n",
        );
        if !self.kubelet.is_empty() {
            let config: Map<String, Value> = self
                .kubelet
                .iter()
                .map(|(key, value)| (key.clone(), Value::String(value.clone())))
                .collect();
            let node = json!({
                "apiVersion": "node.eks.aws/v1alpha1",
                "kind": "NodeConfig",
                "spec": { "kubelet": { "config": config } },
            });
            let _ = write!(
                text,
                "--PENSTOCK\nContent-Type: application/node.eks.aws\n\n{node:#}\n\n"
            );
        }
        text.push_str("--PENSTOCK\nContent-Type: text/x-shellscript; charset=\"us-ascii\"\n\n");
        text.push_str("#!/bin/bash\n# Rendered by `penstock tune --render al2023`.\nset -eu\n\n");
        text.push_str("cat > /etc/sysctl.d/90-penstock.conf <<'END'\n");
        for (key, value, _) in &self.sysctls {
            let _ = writeln!(text, "{key} = {value}");
        }
        text.push_str("END\nsysctl --load /etc/sysctl.d/90-penstock.conf\n");
        if !self.files.is_empty() {
            text.push_str("cat > /etc/tmpfiles.d/penstock.conf <<'END'\n");
            for (path, value) in &self.files {
                let _ = writeln!(text, "w {path} - - - - {value}");
            }
            text.push_str("END\nsystemd-tmpfiles --create /etc/tmpfiles.d/penstock.conf\n");
        }
        if !self.boot.is_empty() {
            let words = self.boot.join(" ");
            let _ = write!(
                text,
                "\nif ! grep -qF '{words}' /proc/cmdline; then\n  \
                 grubby --update-kernel=ALL --args='{words}'\n  systemctl reboot\nfi\n"
            );
        }
        text.push_str("\n--PENSTOCK--\n");
        text
    }
}

/// `a.b.c` as nested objects; numbers as numbers. A list of network interfaces has one.
fn put(object: &mut Map<String, Value>, path: &str, value: &str) {
    let Some((first, rest)) = path.split_once('.') else {
        let number = value.parse::<u64>().map(Value::from);
        let value = number.unwrap_or_else(|_| Value::String(value.to_owned()));
        object.insert(path.to_owned(), value);
        return;
    };
    if first == "NetworkInterfaces" {
        let list = object
            .entry(first)
            .or_insert_with(|| json!([{ "DeviceIndex": 0 }]));
        if let Some(Value::Object(interface)) = list.get_mut(0) {
            put(interface, rest, value);
        }
        return;
    }
    let inner = object.entry(first).or_insert_with(|| json!({}));
    if let Value::Object(inner) = inner {
        put(inner, rest, value);
    }
}

/// `cpuManagerPolicy` as Bottlerocket writes it.
fn kebab(camel: &str) -> String {
    let mut text = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knob;

    /// What `kernel-config/` shows.
    const CORES: &str = "2,3";

    fn rendered(system: System) -> String {
        system.render(&knob::all().unwrap(), CORES)
    }

    #[test]
    fn the_files_are_what_is_rendered() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel-config/");
        for (system, file) in [
            (System::Al2023, "al2023.mime"),
            (System::Bottlerocket, "bottlerocket.toml"),
            (System::Sysctl, "90-penstock.conf"),
            (System::LaunchTemplate, "launch-template.json"),
        ] {
            let text = rendered(system);
            let path = format!("{directory}{file}");
            let kept = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(
                kept, text,
                "{file}: penstock tune --level may --cores {CORES} --render ..."
            );
        }
    }

    #[test]
    fn bottlerocket_reads_it() {
        let value: toml::Table = toml::from_str(&rendered(System::Bottlerocket)).unwrap();
        let settings = &value["settings"];
        assert_eq!(
            settings["kubernetes"]["cpu-manager-policy"].as_str(),
            Some("static")
        );
        assert_eq!(
            settings["kernel"]["hugepages"]["static"]["2Mi"]["count"].as_integer(),
            Some(106)
        );
        let isolated = &settings["boot"]["kernel-parameters"]["isolcpus"][0];
        assert_eq!(isolated.as_str(), Some("managed_irq,domain,2,3"));
        assert_eq!(
            settings["kernel"]["sysctl"]["net.core.netdev_max_backlog"].as_str(),
            Some("8192")
        );
    }

    #[test]
    fn the_template_is_ec2s() {
        let value: Value = serde_json::from_str(&rendered(System::LaunchTemplate)).unwrap();
        assert_eq!(value["MetadataOptions"]["HttpPutResponseHopLimit"], 1);
        assert_eq!(value["MetadataOptions"]["HttpTokens"], "required");
        let interface = &value["NetworkInterfaces"][0];
        assert_eq!(
            interface["ConnectionTrackingSpecification"]["TcpEstablishedTimeout"],
            350
        );
    }

    #[test]
    fn the_shell_part_is_a_script_and_the_other_nodeadms() {
        let text = rendered(System::Al2023);
        let parts: Vec<&str> = text.split("--PENSTOCK").collect();
        let body = |part: &str| part.split_once("\n\n").unwrap().1.to_owned();
        let node: Value = serde_json::from_str(&body(parts[1])).unwrap();
        assert_eq!(
            node["spec"]["kubelet"]["config"]["cpuManagerPolicy"],
            "static"
        );
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), body(parts[2])).unwrap();
        let checked = std::process::Command::new("bash")
            .arg("-n")
            .arg(script.path())
            .status();
        assert!(checked.unwrap().success());
        assert!(
            body(parts[2]).starts_with("#!/bin/bash\n"),
            "{}",
            body(parts[2])
        );
    }
}
