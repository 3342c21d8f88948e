//! The lab that tests share: brought up for the first that needs its shape, replaced when another shape is needed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use ipos_tests::{Lab, Shape};
use libtest_mimic::{Failed, Trial};

static SHARED: Mutex<Option<Lab>> = Mutex::new(None);

/// A test in the shared lab of this shape.
pub fn trial(shape: Shape, name: &str, test: fn(&Lab)) -> Trial {
    Trial::test(format!("{}::{name}", shape.name), move || {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        checked(|| {
            let lab = match shared.take() {
                Some(lab) if lab.shape() == shape => lab,
                other => {
                    drop(other);
                    Lab::up(shape)
                }
            };
            // What a failed test has left behind must not fail the next one: its lab goes with the panic.
            let outcome = catch_unwind(AssertUnwindSafe(|| test(&lab)));
            match outcome {
                Ok(()) => *shared = Some(lab),
                Err(panic) => {
                    eprintln!("{}", lab.logs());
                    drop(lab);
                    std::panic::resume_unwind(panic);
                }
            }
        })
    })
}

/// A test that builds its own labs.
pub fn alone(name: &str, test: fn()) -> Trial {
    Trial::test(format!("lifecycle::{name}"), move || {
        take_down();
        checked(test)
    })
}

/// Takes the shared lab down.
pub fn take_down() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn checked(test: impl FnOnce()) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(test)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failed::from(text.unwrap_or_else(|| "panicked".to_owned()))
    })
}
