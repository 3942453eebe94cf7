//! Making equal what differs from run to run.

/// Replaces each number of three or more digits, as process numbers are.
pub fn numbers(bytes: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(bytes.len());
    for run in bytes.chunk_by(|left, right| left.is_ascii_digit() == right.is_ascii_digit()) {
        let is_long_number = run.len() > 2 && run[0].is_ascii_digit();
        masked.extend_from_slice(if is_long_number { b"N" } else { run });
    }
    masked
}
