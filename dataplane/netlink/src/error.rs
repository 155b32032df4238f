//! What a refused or failed request says: the operation, the object, the errno and, when the
//! kernel gave one, its own explanation.

use std::io;

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {object}: {source}{}", kernel_suffix(.kernel_message))]
pub struct Error {
    op: &'static str,
    object: String,
    kernel_message: Option<String>,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(what: What<'_>, source: io::Error) -> Self {
        Self {
            op: what.op,
            object: what.object.to_owned(),
            kernel_message: None,
            source,
        }
    }

    pub(crate) fn refused(what: What<'_>, errno: i32, kernel_message: Option<String>) -> Self {
        Self {
            kernel_message,
            ..Self::new(what, io::Error::from_raw_os_error(errno))
        }
    }

    /// The kernel's errno; absent when the failure is not the kernel's.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the object of the request (or what it refers to) does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the object of the request is already there.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

fn kernel_suffix(message: &Option<String>) -> String {
    message
        .as_ref()
        .map_or_else(String::new, |text| format!(" (kernel: {text})"))
}

/// What a request is about, for errors.
#[derive(Clone, Copy)]
pub(crate) struct What<'a> {
    /// The operation, as a verb phrase.
    pub(crate) op: &'static str,
    /// Its object.
    pub(crate) object: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operation_object_and_cause() {
        let what = What {
            op: "add link",
            object: "eni0",
        };
        let error = Error::refused(what, libc::EEXIST, Some("name taken".to_owned()));
        assert_eq!(
            error.to_string(),
            "add link eni0: File exists (os error 17) (kernel: name taken)"
        );
        assert!(error.is_exists());
        assert!(!error.is_not_found());
    }

    #[test]
    fn missing_things_have_several_errnos() {
        let what = What {
            op: "delete",
            object: "x",
        };
        for errno in [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL] {
            assert!(Error::refused(what, errno, None).is_not_found(), "{errno}");
        }
        assert!(!Error::refused(what, libc::EPERM, None).is_not_found());
    }
}
