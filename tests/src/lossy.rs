//! A cable of the lab's that loses frames for a while.

use crate::Lab;

/// Loses frames both ways, until it is dropped: also when the test fails.
pub struct Lossy<'lab> {
    lab: &'lab Lab,
    cable: &'static str,
}

impl<'lab> Lossy<'lab> {
    /// So many percent of the frames between appliance and boards.
    pub fn farm(lab: &'lab Lab, percent: u32) -> Self {
        Self { lab, cable: "farm" }.loses(percent)
    }

    /// So many percent of the frames between client and appliance.
    pub fn client(lab: &'lab Lab, percent: u32) -> Self {
        Self { lab, cable: "client" }.loses(percent)
    }

    fn loses(self, percent: u32) -> Self {
        self.set(percent);
        self
    }

    fn set(&self, percent: u32) {
        self.lab.verb(&["loss", &percent.to_string(), "--cable", self.cable]);
    }
}

impl Drop for Lossy<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}
