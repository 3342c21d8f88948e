//! A start that DPDK itself refuses: its own words, and the command line, are in the error.

mod common;

use ipos_dpdk::eal::{Eal, EalConfig, EalError};
use ipos_dpdk::testing;

#[test]
fn dpdk_s_own_words_are_quoted() {
    let config = EalConfig { extra: vec!["--iova-mode=sideways".to_owned()], ..testing::config() };
    let error = Eal::init(&config).expect_err("there is no such mode");
    let text = error.to_string();
    assert!(matches!(error, EalError::Init { .. }), "{text}");
    assert!(text.contains("iova-mode"), "{text}");
    assert!(text.contains("--iova-mode=sideways"), "{text}");
    assert_eq!(common::runtime_dirs(&config.file_prefix), Vec::<String>::new());
}
