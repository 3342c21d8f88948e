//! MAC addresses (Fig 11A; IEEE 802, EUI-48).

use core::fmt;
use core::str::FromStr;

/// Why a text is not a MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Too few or too many groups between the colons.
    #[error("a MAC address has 6 groups of two hexadecimal digits between colons, this text has {actual}")]
    Groups {
        /// Groups in the text.
        actual: usize,
    },
    /// A group that is not exactly two hexadecimal digits.
    #[error("group {group} of the MAC address is not two hexadecimal digits")]
    Digits {
        /// Which group, counted from 1.
        group: usize,
    },
}

/// A MAC address, in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of every station, `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether the address names a group of stations; broadcast is one (IEEE 802, the I/G bit).
    #[inline]
    pub const fn is_multicast(&self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Reads `02:00:5e:10:00:0f`; upper case will do too.
    fn from_str(text: &str) -> Result<Mac, Error> {
        let actual = text.split(':').count();
        if actual != 6 {
            return Err(Error::Groups { actual });
        }
        let mut octets = [0; 6];
        for (index, (octet, group)) in octets.iter_mut().zip(text.split(':')).enumerate() {
            let digits = group.as_bytes();
            // from_str_radix takes a sign, a MAC address does not.
            if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
                return Err(Error::Digits { group: index + 1 });
            }
            *octet = u8::from_str_radix(group, 16).map_err(|_| Error::Digits { group: index + 1 })?;
        }
        Ok(Mac(octets))
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_and_reads_the_usual_form() {
        let mac = Mac([0x02, 0x00, 0x5e, 0x10, 0x00, 0x0f]);
        assert_eq!(mac.to_string(), "02:00:5e:10:00:0f");
        assert_eq!(format!("{mac:?}"), "02:00:5e:10:00:0f");
        assert_eq!("02:00:5E:10:00:0F".parse(), Ok(mac));
    }

    #[test]
    fn broadcast_is_a_multicast_and_a_station_is_not() {
        assert!(Mac::BROADCAST.is_multicast());
        assert!(Mac([0x01, 0x00, 0x5e, 0, 0, 1]).is_multicast());
        assert!(!Mac([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]).is_multicast());
        assert!(!Mac::default().is_multicast());
    }

    #[test]
    fn refuses_the_wrong_number_of_groups() {
        assert_eq!("".parse::<Mac>(), Err(Error::Groups { actual: 1 }));
        assert_eq!("02:00:5e:10:00".parse::<Mac>(), Err(Error::Groups { actual: 5 }));
        assert_eq!("02:00:5e:10:00:0f:00".parse::<Mac>(), Err(Error::Groups { actual: 7 }));
        assert_eq!("02-00-5e-10-00-0f".parse::<Mac>(), Err(Error::Groups { actual: 1 }));
    }

    #[test]
    fn refuses_groups_that_are_not_two_digits() {
        assert_eq!("2:00:5e:10:00:0f".parse::<Mac>(), Err(Error::Digits { group: 1 }));
        assert_eq!("02:+1:5e:10:00:0f".parse::<Mac>(), Err(Error::Digits { group: 2 }));
        assert_eq!("02:00:5e:10:00:00f".parse::<Mac>(), Err(Error::Digits { group: 6 }));
        assert_eq!("02:00:5e:10:00:é".parse::<Mac>(), Err(Error::Digits { group: 6 }));
        assert_eq!("02:00:5e:10:00:0g".parse::<Mac>(), Err(Error::Digits { group: 6 }));
    }

    proptest! {
        #[test]
        fn reads_what_it_prints(octets: [u8; 6]) {
            prop_assert_eq!(Mac(octets).to_string().parse(), Ok(Mac(octets)));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9a-f:]{0,20}") {
            if let Ok(mac) = text.parse::<Mac>() {
                prop_assert_eq!(mac.to_string(), text.to_ascii_lowercase());
            }
        }
    }
}
