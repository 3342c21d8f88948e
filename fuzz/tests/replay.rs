//! Every target over its corpus and its named regressions. A fuzzing engine starts here too (fuzz/README.md).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use ipos_fuzz::TARGETS;

/// The inputs of a target: its corpus, and what once broke it.
fn inputs(target: &str) -> BTreeSet<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/__fuzz__").join(target);
    let mut inputs = BTreeSet::new();
    for kind in ["corpus", "crashes"] {
        let Ok(files) = std::fs::read_dir(folder.join(kind)) else { continue };
        inputs.extend(files.map(|file| std::fs::read(file.expect("a file").path()).expect("its octets")));
    }
    inputs
}

/// One test per target, named like its corpus: `cargo bolero test` finds them by name.
macro_rules! replay {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let target = TARGETS.iter().find(|target| target.name == stringify!($name)).expect("a target");
                // The bounded run is explore.rs's, whose seed is fixed; this one is for files, and for engines.
                bolero::check!(name = stringify!($name))
                    .with_iterations(0)
                    .for_each(|input: &[u8]| (target.check)(input));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

replay! { ethernet arp ipv4 tcp udp icmp ipos tcb head assembly path hello quic cookie }

#[test]
fn every_target_has_a_corpus() {
    for target in TARGETS {
        assert!(inputs(target.name).len() >= 4, "tests/__fuzz__/{}/corpus has next to nothing", target.name);
    }
}

#[test]
fn the_files_reach_the_target_as_they_are() {
    let seen = Mutex::new(BTreeSet::new());
    bolero::check!(name = "ipos").with_iterations(0).for_each(|input: &[u8]| {
        seen.lock().expect("no panic while held").insert(input.to_vec());
    });
    assert_eq!(seen.into_inner().expect("no panic while held"), inputs("ipos"));
}
