//! Making an application's process: its own process group and cgroup, another user's rights, a clean environment.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Child, Command, Stdio},
};

use nix::{errno::Errno, unistd::User};

use super::cgroup::Cgroup;
use crate::{
    config::{Application, Output},
    sys,
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a process could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such user.
    #[error("there is no user {0:?}: make one, or name another in `user`")]
    NoUser(String),
    /// A step failed.
    #[error("cannot {what}: {cause}")]
    Io {
        /// Which step.
        what: String,
        /// What the system said.
        cause: io::Error,
    },
}

impl Error {
    /// The system's error number, for an outcome.
    pub fn number(&self) -> u32 {
        let number = match self {
            Error::NoUser(_) => Errno::ENOENT as i32,
            Error::Io { cause, .. } => cause.raw_os_error().unwrap_or(0),
        };
        u32::try_from(number).unwrap_or(0)
    }
}

fn io_error<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    let what = what.into();
    |cause| Error::Io { what, cause: cause.into() }
}

/// Starts instance `number`.
///
/// # Errors
/// See [`Error`].
pub fn launch(application: &Application, number: u16, cgroup: Option<&Cgroup>) -> Result<Child, Error> {
    let user = User::from_name(&application.user)
        .map_err(io_error("look the user up"))?
        .ok_or_else(|| Error::NoUser(application.user.clone()))?;
    let (program, arguments) =
        application.command.split_first().ok_or_else(|| io_error("run an empty command")(Errno::EINVAL))?;
    let (output, errors) = output(application)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .env("IPOS_INSTANCE", number.to_string())
        .envs(application.environment.iter().map(|(key, value)| (key, value)))
        .current_dir(&application.directory)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        // As root, this gives up every further group too.
        .gid(user.gid.as_raw())
        .uid(user.uid.as_raw());
    let entrance = match cgroup {
        Some(cgroup) => Some(cgroup.entrance().map_err(io_error("enter the cgroup"))?),
        None => None,
    };
    sys::prepare_child(&mut command, entrance);
    command.spawn().map_err(io_error(format!(
        "run {program} as {} in {}",
        user.name,
        application.directory.display()
    )))
}

/// Where standard output and error go.
fn output(application: &Application) -> Result<(Stdio, Stdio), Error> {
    let file: OwnedFd = match &application.output {
        Output::Journal => {
            io::stderr().as_fd().try_clone_to_owned().map_err(io_error("pass the standard error on"))?
        }
        Output::File(path) => OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .map_err(io_error(format!("open {}", path.display())))?
            .into(),
    };
    let errors = file.try_clone().map_err(io_error("pass the output on"))?;
    Ok((file.into(), errors.into()))
}
