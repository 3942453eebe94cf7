//! `afield syscalls`.

use std::fmt::Write;

use afield_abi::syscalls::{self, Row};

use super::output;
use crate::cli::Syscalls;
use crate::failure::Failure;

/// Prints the table, or some of its rows.
pub fn syscalls(choice: &Syscalls) -> Result<u8, Failure> {
    if choice.markdown {
        output(&syscalls::markdown())?;
        return Ok(0);
    }
    let rows: Vec<&Row> = if choice.calls.is_empty() {
        syscalls::rows().collect()
    } else {
        choice
            .calls
            .iter()
            .map(|call| {
                let row = match call.parse() {
                    Ok(number) => syscalls::row(number),
                    Err(_) => syscalls::named(call),
                };
                row.ok_or_else(|| {
                    Failure::own(format!(
                        "no system call `{call}` (a call without a row is refused)"
                    ))
                })
            })
            .collect::<Result<_, _>>()?
    };
    let mut text = String::new();
    for row in rows {
        let class = row.class_text();
        let note = match row.note {
            "" => String::new(),
            note => format!("  # {note}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>3} {:<23} {class}{note}", row.number, row.name);
    }
    output(&text)?;
    Ok(0)
}
