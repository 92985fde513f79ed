//! Errors of the host side, as a caller of the API sees them.

use std::error::Error;
use std::io;

use api_guest::FailCode;
use api_node::{ErrorCode, Failure};
use base_types::{Chain, ProjectId};
use node_host::{
    AskError, CreateError, DeleteTemplateError, GuestError, ImageError, MachineError, MeasureError,
    OrderError, SandboxHandle, ShellError, TemplateError, VmmStartError,
};
use node_store::StoreError;

/// A failure whose whole chain of causes is for the caller: it speaks of things they can see.
pub(crate) fn told(code: ErrorCode, error: &(dyn Error + 'static)) -> Failure {
    Failure::new(code, Chain(error).to_string())
}

/// Why something was not written down; `what` says what.
pub(crate) fn of_store(error: &StoreError, what: &str) -> Failure {
    match error {
        StoreError::DiskFull => told(ErrorCode::DiskFull, error),
        _ => Failure::because(ErrorCode::Internal, what, error),
    }
}

/// There is no project with this id; its last key may just have gone with it.
pub(crate) fn no_project(id: ProjectId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no project {id}"))
}

/// Why a sandbox could not be made.
pub(crate) fn of_create(error: &CreateError) -> Failure {
    match error {
        CreateError::Full(_) => told(ErrorCode::NoCapacity, error),
        CreateError::Quota(over) => node_access::exceeded(over),
        CreateError::Template(template) => of_template(template),
        CreateError::Shell(shell) => of_shell(shell),
        CreateError::Machine(machine) => of_machine(machine),
        CreateError::MemoryShort { .. } => told(ErrorCode::NoCapacity, error)
            .with_hint("kill or pause some sandboxes, or run the node where there is more memory"),
        CreateError::DiskFull { .. } => told(ErrorCode::DiskFull, error),
        CreateError::Network(_) => {
            Failure::because(ErrorCode::Internal, "the sandbox could not be given a network", error)
        }
        CreateError::File { .. } => {
            Failure::because(ErrorCode::Internal, "the sandbox's files could not be made", error)
        }
        CreateError::Store(StoreError::DiskFull) => told(ErrorCode::DiskFull, error),
        CreateError::Store(_) => {
            Failure::because(ErrorCode::Internal, "the sandbox could not be remembered", error)
        }
        CreateError::Unsaved(store) => {
            let code = match **store {
                StoreError::DiskFull => ErrorCode::DiskFull,
                _ => ErrorCode::Internal,
            };
            Failure::because(code, error.to_string(), store)
        }
        CreateError::NoSnapshot(id) => Failure::no_snapshot(*id),
        CreateError::Booted => told(ErrorCode::Conflict, error),
        CreateError::Keep(_) => told(ErrorCode::GuestFailed, error),
        CreateError::Killed => told(ErrorCode::Conflict, error),
        CreateError::Stopping => told(ErrorCode::Stopping, error),
    }
}

/// Why a template cannot be used.
pub(crate) fn of_template(error: &TemplateError) -> Failure {
    let code = match error {
        TemplateError::Image(ImageError::Unknown { .. }) => ErrorCode::TemplateUnknown,
        TemplateError::Image(_)
        | TemplateError::Damaged { .. }
        | TemplateError::Replaced { .. } => ErrorCode::ImageBroken,
        TemplateError::DiskFull { .. } => ErrorCode::DiskFull,
        TemplateError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            ErrorCode::DiskFull
        }
        TemplateError::File { .. } => ErrorCode::Internal,
        TemplateError::Memory(_) => ErrorCode::NoCapacity,
        TemplateError::Shell(shell) => return of_shell(shell),
        TemplateError::Machine { source: MachineError::Silent { .. }, .. } => {
            ErrorCode::AgentSilent
        }
        TemplateError::Machine { .. }
        | TemplateError::Guest { .. }
        | TemplateError::Warm { .. } => ErrorCode::GuestFailed,
        TemplateError::Stopping => ErrorCode::Stopping,
    };
    told(code, error)
}

/// Why a template's snapshot was not deleted.
pub(crate) fn of_template_delete(error: &DeleteTemplateError) -> Failure {
    match error {
        DeleteTemplateError::Busy { .. } => {
            told(ErrorCode::Conflict, error).with_hint("ask again when that is done")
        }
        DeleteTemplateError::InUse { .. } => told(ErrorCode::Conflict, error)
            .with_hint("kill those sandboxes and delete those snapshots first"),
        DeleteTemplateError::Files { .. } => told(ErrorCode::Internal, error),
        DeleteTemplateError::Stopping => told(ErrorCode::Stopping, error),
    }
}

fn of_shell(error: &ShellError) -> Failure {
    let code = match error {
        ShellError::Start(VmmStartError::Kvm(_)) => ErrorCode::KvmUnusable,
        ShellError::Start(VmmStartError::Uids) => ErrorCode::NoCapacity,
        ShellError::Start(_) | ShellError::Build { .. } => ErrorCode::GuestFailed,
        ShellError::Prime(machine) => return of_machine(machine),
        ShellError::Closed => ErrorCode::Stopping,
    };
    told(code, error)
}

fn of_machine(error: &MachineError) -> Failure {
    let code = match error {
        MachineError::Silent { .. } => ErrorCode::AgentSilent,
        MachineError::Prepare(_) => ErrorCode::NoCapacity,
        MachineError::Vmm { .. }
        | MachineError::GuestOver { .. }
        | MachineError::VmmOver(_)
        | MachineError::Agent(_) => ErrorCode::GuestFailed,
    };
    told(code, error)
}

/// Why a sandbox was not paused, resumed, forked, kept or given another time.
pub(crate) fn of_order(error: &OrderError) -> Failure {
    match error {
        OrderError::NotNow { .. } | OrderError::Booted(_) | OrderError::Deep(_) => {
            told(ErrorCode::Conflict, error)
        }
        OrderError::Over(_) => told(ErrorCode::SandboxOver, error),
        OrderError::Slow(_) => told(ErrorCode::Conflict, error),
        OrderError::Failed(create) => of_create(create),
    }
}

/// Why a sandbox could not be asked.
pub(crate) fn of_ask(error: &AskError) -> Failure {
    match error {
        AskError::Over(_) => told(ErrorCode::SandboxOver, error),
        AskError::NotReady | AskError::Paused => told(ErrorCode::Conflict, error),
        AskError::Resume(order) => of_order(order),
        AskError::Control(_) => told(ErrorCode::GuestFailed, error),
        AskError::Machine(machine) => of_machine(machine),
    }
}

/// Why a request to a guest failed: when it broke off because the sandbox is over, that is it.
pub(crate) async fn of_broken(sandbox: &SandboxHandle, error: GuestError) -> Failure {
    let lost = matches!(
        error,
        GuestError::Closed | GuestError::Io(_) | GuestError::Silent(_) | GuestError::Unopened(_)
    );
    match lost {
        true => match sandbox.broken_off().await {
            Some(over) => of_ask(&over),
            None => of_guest(&error),
        },
        false => of_guest(&error),
    }
}

/// Why a guest did not do what it was asked.
pub(crate) fn of_guest(error: &GuestError) -> Failure {
    let code = match error {
        GuestError::Failed { code, .. } => of_fail_code(*code),
        GuestError::Silent(_) => ErrorCode::AgentSilent,
        GuestError::TooLarge(_) => ErrorCode::InvalidRequest,
        GuestError::Closed
        | GuestError::Protocol(_)
        | GuestError::Unexpected
        | GuestError::Unopened(_)
        | GuestError::Io(_) => ErrorCode::GuestFailed,
    };
    told(code, error)
}

fn of_fail_code(code: FailCode) -> ErrorCode {
    match code {
        FailCode::InvalidRequest
        | FailCode::UnknownUser
        | FailCode::NotADirectory
        | FailCode::IsADirectory
        | FailCode::NotAFile => ErrorCode::InvalidRequest,
        FailCode::Unsupported => ErrorCode::Unsupported,
        FailCode::NotFound => ErrorCode::PathNotFound,
        FailCode::AlreadyExists => ErrorCode::AlreadyExists,
        FailCode::DirectoryNotEmpty => ErrorCode::Conflict,
        FailCode::PermissionDenied => ErrorCode::PermissionDenied,
        FailCode::NoSpace => ErrorCode::DiskFull,
        FailCode::Busy | FailCode::OutOfResources => ErrorCode::NoCapacity,
        FailCode::IdentityFailed | FailCode::Io => ErrorCode::GuestFailed,
        FailCode::ProcessUnknown => ErrorCode::NotFound,
        FailCode::ProcessOver => ErrorCode::Conflict,
        FailCode::NothingListens => ErrorCode::PortUnreachable,
    }
}

/// Why a measurement gave nothing.
pub(crate) fn of_measure(error: &MeasureError) -> Failure {
    told(ErrorCode::Internal, error)
}
