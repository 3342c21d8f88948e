//! DPDK's own exact-match table, `rte_hash`, as its `l3fwd` example uses it: the baseline that the project's table is
//! measured against (design: targets.md, P3). The packet path does not use it.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;
use thiserror::Error;

use crate::eal::{NotInitialised, Runtime, strerror};

/// A key: for 16 octets, unlike for 12 or 13, `rte_hash` has a comparison of its own.
pub type Key = [u8; 16];

/// Keys that one bulk lookup takes at most.
pub const LOOKUP_BULK_MAX: usize = sys::DPDK_SYS_HASH_LOOKUP_BULK_MAX as usize;

/// Why there is no table.
#[derive(Debug, Error)]
pub enum HashError {
    /// No EAL.
    #[error(transparent)]
    NotInitialised(#[from] NotInitialised),
    /// The name cannot be one.
    #[error("hash name {name:?} must have 1 to {max} octets and no zero octet")]
    Name {
        /// The name.
        name: String,
        /// The longest a name can be, in octets.
        max: u32,
    },
    /// DPDK refuses.
    #[error("hash {name:?} of {entries} entries: {reason} (give the EAL more memory, or take fewer entries)")]
    Create {
        /// The name.
        name: String,
        /// Entries.
        entries: u32,
        /// DPDK's error in words.
        reason: String,
    },
}

/// A table of keys: each has a position, from 0, at which its user would keep what belongs to it. Unkeyed CRC as its hash,
/// no locks: one thread.
#[derive(Debug)]
pub struct Hash {
    table: NonNull<sys::rte_hash>,
    /// Dropped after the table.
    _runtime: Arc<Runtime>,
}

impl Hash {
    /// A table for `entries` keys, in the EAL's memory.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn new(name: &str, entries: u32) -> Result<Self, HashError> {
        let runtime = Runtime::current()?;
        let max = sys::DPDK_SYS_HASH_NAME_MAX;
        let c_name = CString::new(name).ok().filter(|n| (1..=max as usize).contains(&n.count_bytes()));
        let c_name = c_name.ok_or_else(|| HashError::Name { name: name.to_owned(), max })?;
        let parameters = sys::rte_hash_parameters {
            name: c_name.as_ptr(),
            entries,
            key_len: size_of::<Key>() as u32,
            socket_id: sys::DPDK_SYS_SOCKET_ID_ANY,
            ..sys::rte_hash_parameters::default()
        };
        // SAFETY: the EAL runs, `runtime` keeps it; the name is a zero-terminated string that is copied; without a hash
        // function DPDK takes its own.
        let table = unsafe { sys::rte_hash_create(&raw const parameters) };
        match NonNull::new(table) {
            Some(table) => Ok(Self { table, _runtime: runtime }),
            None => {
                // SAFETY: reads a thread-local.
                let reason = strerror(unsafe { sys::dpdk_sys_rte_errno() });
                Err(HashError::Create { name: name.to_owned(), entries, reason })
            }
        }
    }

    /// Enters a key; its position, or `None` when no place was found for it. A key that is there keeps its position.
    pub fn insert(&mut self, key: &Key) -> Option<u32> {
        // SAFETY: the table is alive and nobody else's; the key has the table's key length and is copied.
        let position = unsafe { sys::rte_hash_add_key(self.table.as_ptr(), key.as_ptr().cast()) };
        u32::try_from(position).ok()
    }

    /// A key's position.
    #[inline]
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Option<u32> {
        // SAFETY: the table is alive; the key has the table's key length.
        let position = unsafe { sys::rte_hash_lookup(self.table.as_ptr(), key.as_ptr().cast()) };
        u32::try_from(position).ok()
    }

    /// The positions of up to [`LOOKUP_BULK_MAX`] keys, negative for those that are not there. Returns how many were looked
    /// up: as many as both slices have, and none when they have more than that.
    #[inline]
    pub fn lookup_bulk(&self, keys: &[&Key], positions: &mut [i32]) -> usize {
        let count = keys.len().min(positions.len());
        if count == 0 || count > LOOKUP_BULK_MAX {
            return 0;
        }
        // SAFETY: the table is alive; `keys` holds `count` addresses of keys of the table's key length, which are only
        // read, and `positions` has room for as many answers.
        let error = unsafe {
            let keys = keys.as_ptr().cast_mut().cast();
            sys::rte_hash_lookup_bulk(self.table.as_ptr(), keys, count as u32, positions.as_mut_ptr())
        };
        if error == 0 { count } else { 0 }
    }
}

impl Drop for Hash {
    fn drop(&mut self) {
        // SAFETY: the table is alive, nobody else's, and not used any more.
        unsafe { sys::rte_hash_free(self.table.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn key(number: u32) -> Key {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn keys_that_were_entered_are_found_alone_and_in_bulk_and_others_are_not() {
        testing::eal();
        let mut hash = Hash::new("test-hash", 1024).expect("a table");
        let positions: Vec<u32> = (0..800).map(|n| hash.insert(&key(n)).expect("room")).collect();
        assert_eq!(hash.insert(&key(7)), Some(positions[7]));
        assert_eq!(hash.lookup(&key(799)), Some(positions[799]));
        assert_eq!(hash.lookup(&key(800)), None);
        let keys: Vec<Key> = (790..810).map(key).collect();
        let asked: Vec<&Key> = keys.iter().collect();
        let mut found = [0; 32];
        assert_eq!(hash.lookup_bulk(&asked, &mut found), 20);
        assert!(found[..10].iter().zip(&positions[790..]).all(|(found, known)| *found as u32 == *known));
        assert!(found[10..20].iter().all(|found| *found < 0));
        assert_eq!(hash.lookup_bulk(&[&key(1); 65], &mut [0; 65]), 0, "more than a bulk lookup takes");
    }

    #[test]
    fn a_bad_name_and_an_impossible_size_are_errors_that_say_so() {
        testing::eal();
        assert!(matches!(Hash::new("", 8), Err(HashError::Name { .. })));
        let error = Hash::new("test-huge", u32::MAX).expect_err("no such table");
        assert!(error.to_string().contains("4294967295 entries"), "{error}");
    }
}
