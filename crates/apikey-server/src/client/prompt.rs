//! Secrets are asked for, never taken from the command line.

use std::io::{self, IsTerminal, Write};

use zeroize::Zeroizing;

use crate::failure::Failure;

/// More than the longest credential: the server reads 16 KiB of headers.
const MAX_LINE: usize = 16 * 1_024;

/// Asks for a secret: on a terminal without showing it, otherwise one line of standard input.
///
/// # Errors
/// There is no line, or it cannot be read.
pub(super) fn secret(question: &str) -> Result<Zeroizing<String>, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(Zeroizing::new(rpassword::prompt_password(format!("{question}: "))?));
    }
    let mut line = Zeroizing::new(String::with_capacity(MAX_LINE));
    let read = stdin.read_line(&mut line)?;
    if read == 0 {
        return Err(Failure::Usage(format!("{question}: standard input ended before it was given")));
    }
    // Only the line's end is cut: a key that is surrounded by white space is not that key.
    let length = line.strip_suffix('\n').map_or(line.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
    line.truncate(length);
    Ok(line)
}

/// Tells the person at the terminal something that does not belong to the output.
pub(super) fn tell(text: &str) {
    // Where standard error is closed there is nobody to tell, and what has to be done is done all the same.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
