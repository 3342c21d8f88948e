//! Every target over mutations of its corpus: bounded, and the same inputs in every run.
//!
//! `IPOS_FUZZ_ITERATIONS` makes it run longer and `IPOS_FUZZ_SEED` elsewhere (fuzz/README.md).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ipos_fuzz::mutate::{Random, mutated};
use ipos_fuzz::{TARGETS, Target};

/// Inputs of one target unless the environment says otherwise: all targets together stay well below 30 seconds.
const ITERATIONS: u64 = 100_000;
/// Any fixed number.
const SEED: u64 = 0x88b5;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => {
            value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}; give a whole number"))
        }
        Err(_) => default,
    }
}

/// The corpus and the named regressions in the order of their names, which no file system has to keep.
fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = ["corpus", "crashes"]
        .into_iter()
        .filter_map(|kind| std::fs::read_dir(folder.join(kind)).ok())
        .flat_map(|files| files.map(|file| file.expect("a file").path()))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("its octets")).collect()
}

fn explore(name: &str) {
    let Target { check, .. } = TARGETS.into_iter().find(|target| target.name == name).expect("a target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__").join(name);
    let corpus = corpus(&folder);
    assert!(!corpus.is_empty(), "no corpus in {}", folder.display());
    let seed = setting("IPOS_FUZZ_SEED", SEED);
    let mut random = Random::new(seed, name);
    for iteration in 0..setting("IPOS_FUZZ_ITERATIONS", ITERATIONS) {
        let input = mutated(&mut random, &corpus);
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            let find = std::env::temp_dir().join(format!("ipos-fuzz-{name}-{seed}-{iteration}"));
            std::fs::write(&find, &input).expect("the temporary folder is writable");
            panic!(
                "{name} broke on iteration {iteration} of seed {seed}; the input is in {}: move it to {} under a name \
                 that says what it shows",
                find.display(),
                folder.join("crashes").display(),
            );
        }
    }
}

macro_rules! explore {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                explore(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_explored() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

explore! { ethernet arp ipv4 tcp udp icmp ipos tcb head assembly path hello quic cookie }

#[test]
fn exploration_finds_a_broken_parser() {
    let corpus = [b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    let mut random = Random::new(SEED, "broken");
    // A parser that trusts a length octet.
    let broken = |input: &[u8]| input.first().is_some_and(|&len| input.get(usize::from(len)).is_none());
    assert!((0..1_000).any(|_| broken(&mutated(&mut random, &corpus))));
}
