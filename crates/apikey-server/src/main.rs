//! The binary `apikeys`.

use std::process::ExitCode;

fn main() -> ExitCode {
    apikey_server::main()
}
