//! What a shell does: pipelines, substitutions, traps, jobs.

use afield_e2e::{Case, cases, user_cases};

user_cases! {
    /// A program that does nothing.
    nothing: Case::guest("true");
    pipeline: Case::guest("printf 'c\\nb\\na\\n' | sort | tr a-z A-Z");
}
cases! {
    exit_status: Case::guest("exit 7");
}
