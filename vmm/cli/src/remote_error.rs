//! Errors of object stores as errors for the user.

use nvvmm::{ErrorKind, VmError};
use nvvmm_remote::Error;

/// The error for the user: the text of `error`, its kind, and a remedy.
pub fn told(error: Error) -> VmError {
    let kind = kind_of(&error);
    let remedy = remedy_of(&error);
    let error = match error {
        Error::Pool(error) => return VmError::from(error),
        error => VmError::new(kind, error.to_string()),
    };
    match remedy {
        Some(remedy) => error.with_remedy(remedy),
        None => error,
    }
}

fn remedy_of(error: &Error) -> Option<String> {
    let remedy = match error {
        Error::Url { .. } => {
            "give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
                              file:///DIRECTORY"
        }
        Error::NoStore { .. } => "check the URL; 'nvvmm push' makes a store",
        Error::Version { .. } => "use the nvvmm version that made the store",
        Error::NeedsKey => "give its key with --key FILE",
        Error::NotEncrypted => "leave out --key, but only if nobody else could have made the store",
        Error::WrongKey => "use the key file of the push that made the store",
        Error::NameTaken { name } => {
            return Some(format!(
                "remove that one with 'nvvmm remote rm URL {name}', or push to another prefix"
            ));
        }
        Error::NotFound { near, .. } if !near.is_empty() => {
            return Some(format!("similar names: '{}'", near.join("', '")));
        }
        Error::NotFound { .. } => "'nvvmm remote ls URL' lists the snapshots",
        Error::NoConditionalWrites => {
            "use a store that has them: S3, MinIO, Ceph from version 19, \
                                       Google Cloud Storage, Azure, or a directory"
        }
        Error::PushEnded { .. } => "push again",
        Error::NoSuchPush { .. } => "'nvvmm remote gc URL' lists the pushes under way",
        Error::Damaged { .. } | Error::Missing { .. } => {
            "'nvvmm remote verify URL' shows what is damaged; push the snapshots again that need it"
        }
        Error::TooLarge { .. } => "send it with 'nvvmm send'",
        Error::Denied { .. } => {
            "set credentials in the environment, such as AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY"
        }
        Error::Failed { .. } => {
            "check the network, and the credentials in the environment, and try again: what has \
             arrived is not moved twice; AWS_ENDPOINT_URL and AWS_ALLOW_HTTP choose another server"
        }
        Error::Pool(_) => return None,
    };
    Some(remedy.to_owned())
}

fn kind_of(error: &Error) -> ErrorKind {
    match error {
        Error::Url { .. } => ErrorKind::Usage,
        Error::NoStore { .. } | Error::NotFound { .. } | Error::NoSuchPush { .. } => {
            ErrorKind::NotFound
        }
        Error::Version { .. }
        | Error::NeedsKey
        | Error::NotEncrypted
        | Error::WrongKey
        | Error::NameTaken { .. }
        | Error::NoConditionalWrites
        | Error::PushEnded { .. }
        | Error::Damaged { .. }
        | Error::Missing { .. }
        | Error::TooLarge { .. } => ErrorKind::Refused,
        Error::Denied { .. } => ErrorKind::Denied,
        Error::Failed { .. } | Error::Pool(_) => ErrorKind::Failed,
    }
}

#[cfg(test)]
#[path = "remote_error_test.rs"]
mod remote_error_test;
