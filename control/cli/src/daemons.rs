//! Questions to the two daemons, each with its one right kind of answer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_control_api as control;
use penstock_dataplane_api as dataplane;
use penstock_dataplane_api::client;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// A daemon that says nothing for this long is stuck.
const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) const CONTROL: &str = "penstock-control";
pub(crate) const DATAPLANE: &str = "penstock-dataplane";

/// The daemons of one run directory.
pub(crate) struct Daemons {
    control: PathBuf,
    dataplane: PathBuf,
}

impl Daemons {
    pub(crate) fn at(run_dir: &Path) -> Self {
        Self {
            control: run_dir.join(control::SOCKET_NAME),
            dataplane: run_dir.join(dataplane::SOCKET_NAME),
        }
    }

    pub(crate) fn control_status(&self) -> Result<control::Status, Failure> {
        match self.ask_control(&control::Request::Status)? {
            control::Response::Status(status) => Ok(*status),
            other => Err(unexpected(CONTROL, &other)),
        }
    }

    pub(crate) fn pods(&self) -> Result<Vec<control::PodRow>, Failure> {
        match self.ask_control(&control::Request::Pods)? {
            control::Response::Pods(pods) => Ok(pods),
            other => Err(unexpected(CONTROL, &other)),
        }
    }

    pub(crate) fn enis(&self) -> Result<Vec<control::EniRow>, Failure> {
        match self.ask_control(&control::Request::Enis)? {
            control::Response::Enis(enis) => Ok(enis),
            other => Err(unexpected(CONTROL, &other)),
        }
    }

    pub(crate) fn dataplane_status(&self) -> Result<dataplane::Status, Failure> {
        match self.ask_dataplane(&dataplane::Request::Status)? {
            dataplane::Response::Status(status) => Ok(*status),
            other => Err(unexpected(DATAPLANE, &other)),
        }
    }

    pub(crate) fn counters(&self) -> Result<dataplane::Counters, Failure> {
        match self.ask_dataplane(&dataplane::Request::Counters)? {
            dataplane::Response::Counters(counters) => Ok(*counters),
            other => Err(unexpected(DATAPLANE, &other)),
        }
    }

    pub(crate) fn flows(&self, limit: u32) -> Result<Vec<dataplane::FlowRow>, Failure> {
        match self.ask_dataplane(&dataplane::Request::Flows { limit })? {
            dataplane::Response::Flows(flows) => Ok(flows),
            other => Err(unexpected(DATAPLANE, &other)),
        }
    }

    pub(crate) fn explain(
        &self,
        question: dataplane::Question,
    ) -> Result<dataplane::Explanation, Failure> {
        match self.ask_dataplane(&dataplane::Request::Explain(question))? {
            dataplane::Response::Explanation(explanation) => Ok(*explanation),
            other => Err(unexpected(DATAPLANE, &other)),
        }
    }

    pub(crate) fn set_log_filter(&self, filter: &str) -> Result<(), Failure> {
        match self.ask_dataplane(&dataplane::Request::LogFilter(filter.to_owned()))? {
            dataplane::Response::Done => Ok(()),
            other => Err(unexpected(DATAPLANE, &other)),
        }
    }

    pub(crate) fn set_offload(&self, setting: dataplane::Offload) -> Result<(), Failure> {
        match self.ask_dataplane(&dataplane::Request::Offload(setting))? {
            dataplane::Response::Applied { .. } => Ok(()),
            other => Err(unexpected(DATAPLANE, &other)),
        }
    }

    /// One line for each daemon, there or not.
    pub(crate) fn versions(&self, output: &mut impl Write) -> std::io::Result<()> {
        let control = self.control_status().map(|status| status.version);
        let dataplane = self.dataplane_status().map(|status| status.version);
        for (daemon, version) in [(CONTROL, control), (DATAPLANE, dataplane)] {
            let version = version.unwrap_or_else(|_| "does not answer".to_owned());
            writeln!(output, "{daemon} {version}")?;
        }
        Ok(())
    }

    fn ask_control(&self, request: &control::Request) -> Result<control::Response, Failure> {
        match ask(CONTROL, &self.control, request)? {
            control::Response::Error(failure) => Err(Failure::Refused {
                daemon: CONTROL,
                message: format!("{failure}: {}", failure.details),
            }),
            response => Ok(response),
        }
    }

    fn ask_dataplane(&self, request: &dataplane::Request) -> Result<dataplane::Response, Failure> {
        match ask(DATAPLANE, &self.dataplane, request)? {
            dataplane::Response::Error { message } => Err(Failure::Refused {
                daemon: DATAPLANE,
                message,
            }),
            response => Ok(response),
        }
    }
}

fn ask<Q: Serialize, A: DeserializeOwned>(
    daemon: &'static str,
    path: &Path,
    request: &Q,
) -> Result<A, Failure> {
    client::call(path, request, DEADLINE).map_err(|cause| Failure::Away {
        daemon,
        path: path.to_owned(),
        cause,
    })
}

fn unexpected(daemon: &'static str, response: &impl std::fmt::Debug) -> Failure {
    let text: String = format!("{response:?}").chars().take(120).collect();
    Failure::Refused {
        daemon,
        message: format!("answered something else than was asked: {text}"),
    }
}
