//! Core dumps, which would hold every key and password that the process has in memory.

#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::{
    io,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Core dumps, switched off from the process's first instruction on.
pub(crate) struct CoreDumps {
    /// The limit that the process began with.
    before: Rlimit,
    switched_off: io::Result<()>,
}

impl CoreDumps {
    /// Switches core dumps off.
    pub(crate) fn forbid() -> Self {
        let before = getrlimit(Resource::Core);
        let none = Rlimit { current: Some(0), maximum: before.maximum };
        let switched_off = setrlimit(Resource::Core, none).and_then(|()| set_dumpable(false));
        Self { before, switched_off }
    }

    /// Leaves them off, or allows again what was allowed before. A system that refuses either is no reason not to serve.
    pub(crate) fn settle(self, allowed: bool) {
        let done = if allowed {
            setrlimit(Resource::Core, self.before).and_then(|()| set_dumpable(true))
        } else {
            self.switched_off
        };
        if let Err(error) = done {
            tracing::warn!(allowed, %error, "core dumps cannot be switched");
        }
    }
}

/// Also decides about a kernel that pipes dumps to a program whatever the limit is, and about debuggers of the same user.
#[cfg(target_os = "linux")]
fn set_dumpable(dumpable: bool) -> io::Result<()> {
    set_dumpable_behavior(if dumpable { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable })
}

#[cfg(not(target_os = "linux"))]
fn set_dumpable(_: bool) -> io::Result<()> {
    Ok(())
}
