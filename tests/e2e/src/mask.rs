//! Making equal what differs from run to run.

/// Replaces each number of three or more digits, as process numbers are.
pub fn numbers(bytes: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(bytes.len());
    for run in bytes.chunk_by(|left, right| left.is_ascii_digit() == right.is_ascii_digit()) {
        if run.len() <= 2 || !run[0].is_ascii_digit() {
            masked.extend_from_slice(run);
            continue;
        }
        // Bash, for one, gives pids as much room as five digits need.
        while masked.ends_with(b"  ") {
            masked.pop();
        }
        masked.push(b'N');
    }
    masked
}

/// Replaces each occurrence of some bytes.
pub fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// Replaces each run of digits, points and blanks.
pub fn figures(bytes: &[u8]) -> Vec<u8> {
    let is_figure = |byte: u8| byte.is_ascii_digit() || b". ".contains(&byte);
    let mut masked = Vec::with_capacity(bytes.len());
    for run in bytes.chunk_by(|left, right| is_figure(*left) == is_figure(*right)) {
        masked.extend_from_slice(if is_figure(run[0]) { b"#" } else { run });
    }
    masked
}
