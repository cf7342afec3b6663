//! Secrets are asked for, never taken from the command line.

use std::io::{self, IsTerminal, Write};

use zeroize::Zeroizing;

/// More than the longest credential: the server reads 16 KiB of headers.
const MAX_LINE: usize = 16 * 1_024;

/// Asks for a secret: on a terminal without showing it, otherwise one line of standard input.
///
/// # Errors
/// There is no line, or it cannot be read.
pub(super) fn secret(question: &str) -> io::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return rpassword::prompt_password(format!("{question}: ")).map(Zeroizing::new);
    }
    let mut line = Zeroizing::new(String::with_capacity(MAX_LINE));
    let read = stdin.read_line(&mut line)?;
    if read == 0 {
        let text = format!("{question}: standard input ended before it was given");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
    }
    // Only the line's end is cut: a key that is surrounded by white space is not that key.
    let length = line.strip_suffix('\n').map_or(line.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
    line.truncate(length);
    Ok(line)
}

/// Tells the person at the terminal something that does not belong to the output.
///
/// # Errors
/// Those of standard error.
pub(super) fn tell(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}
