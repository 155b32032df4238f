//! The log: lines on standard error, and how much of it, which can be changed while running.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// What is logged when nobody says otherwise.
const DEFAULT: &str = "info";

type Change = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// How the filter in force is replaced; set once, by [`start`].
static CHANGE: OnceLock<Change> = OnceLock::new();

/// Starts logging by `RUST_LOG`. Once in a process: there is one log.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let change: Change = match format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
        LogFormat::Json => {
            let builder = builder.json();
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
    };
    // A second start has failed in `init` already.
    let _ = CHANGE.set(change);
}

/// Puts another filter in force, in `RUST_LOG`'s words, such as `debug` or
/// `info,penstock_hooks=trace`.
///
/// # Errors
/// When the words are no filter, or there is no log; the filter in force stays then.
pub fn set(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| format!("{filter:?} is no filter: {error}"))?;
    let change = CHANGE.get().ok_or("this process keeps no log")?;
    change(parsed)?;
    tracing::info!(filter, "log filter changed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_name() {
        let problem = set("penstock=loud").unwrap_err();
        assert!(problem.contains("penstock=loud"), "{problem}");
    }
}
