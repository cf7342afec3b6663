//! The binary `apikeys`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A call allocates some dozens of times: this allocator saves a tenth of what a verification costs.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    apikey_server::main()
}
