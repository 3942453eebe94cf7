//! Programs that others have written to try file systems: `fsx`, which checks everything it reads in a file that it writes, maps and cuts
//! at random, and `pjdfstest`, which tries what POSIX says of every call. CI installs both from the registry.

use afield_e2e::{Case, cases};

/// Where CI has installed them.
fn folder() -> String {
    std::env::var("AFIELD_E2E_CONFORMANCE").unwrap_or_else(|_| "/var/cache/afield-e2e/conformance".to_owned())
}

cases! {
    fsx: fsx(1);
    fsx_again: fsx(3);
    posix: posix();
}

fn fsx(seed: u32) -> Case {
    let program = format!("{}/bin/fsx", folder());
    Case::guest(&format!(
        "for seed in {seed} {}; do {program} -q -N 2000 -S $seed f; echo $?; rm -f f f.*; done",
        seed + 1
    ))
    .needs(&program)
    .seconds(240)
}

/// What is tried as root, but for what is listed as different: guests mount nothing and make no device nodes, and the C library does not
/// know the limit on links.
fn posix() -> Case {
    let program = format!("{}/bin/pjdfstest", folder());
    let settings = "[features]\n[dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"], [\"bin\", \"bin\"]]\n\
                    [settings]\nnaptime = 0.02\nallow_remount = false\n";
    Case::guest(&format!(
        "{program} -c settings.toml -p . > all 2>&1; grep -E ' +(ok|FAILED|skipped)$' all | grep -Ev '::(block|char) |^rmdir::ebusy |^link::link_count_max ' | LC_ALL=C sort; \
     grep -A 3 panicked all; rm -rf all"
    ))
    .setup(&format!("printf '{}' > settings.toml", settings.replace('\n', "\\n")))
    .needs(&program)
    .seconds(240)
}
