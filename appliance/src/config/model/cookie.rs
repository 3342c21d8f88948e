//! `[service.cookie]`, checked.

use std::fmt;
use std::str::FromStr;

use ipos_pipelines::request::head::is_token;
use ipos_pipelines::sessions::{KEY_OCTETS, Key};

/// `[service.cookie]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The cookie's name.
    pub name: String,
    /// Who makes its values, and what they mean.
    pub mode: CookieMode,
}

/// How a cookie keeps a client at its board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CookieMode {
    /// The application's own: its values are learned.
    Learn {
        /// Sessions that are kept.
        entries: u32,
        /// A session that was not used for so long is forgotten, seconds.
        idle_s: u32,
    },
    /// Its values name boards, and the application's servers set it.
    Encoded {
        /// The key that makes values, and one that made them before.
        keys: Vec<Key>,
        /// What goes with the value.
        attributes: Attributes,
    },
    /// Its values name boards, and the appliance gives it to clients that have none.
    Insert {
        /// The key that makes values, and one that made them before.
        keys: Vec<Key>,
        /// What goes with the value.
        attributes: Attributes,
    },
}

impl Cookie {
    /// Its keys, the one that makes values first.
    pub fn keys(&self) -> &[Key] {
        match &self.mode {
            CookieMode::Learn { .. } => &[],
            CookieMode::Encoded { keys, .. } | CookieMode::Insert { keys, .. } => keys,
        }
    }
}

/// What goes with a cookie's value in Set-Cookie (RFC 6265, section 4.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// For which paths.
    pub path: String,
    /// Over HTTPS alone.
    pub secure: bool,
    /// Not for scripts.
    pub http_only: bool,
    /// When the request comes from another site.
    pub same_site: SameSite,
    /// How long the client keeps it, seconds; `None` until it ends.
    pub max_age_s: Option<u32>,
}

/// The words for `SameSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Sent along when the client follows a link from there.
    Lax,
    /// Never sent then.
    Strict,
    /// Always sent.
    None,
}

impl SameSite {
    /// Every word of the configuration, the default first.
    pub const WORDS: [(&'static str, SameSite); 3] =
        [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
}

impl fmt::Display for Attributes {
    /// As they stand behind the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "; Path={}", self.path)?;
        if let Some(seconds) = self.max_age_s {
            write!(f, "; Max-Age={seconds}")?;
        }
        f.write_str(if self.secure { "; Secure" } else { "" })?;
        f.write_str(if self.http_only { "; HttpOnly" } else { "" })?;
        f.write_str(match self.same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None",
        })
    }
}

/// A key as it is written: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyText(pub Key);

impl FromStr for KeyText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 2 * KEY_OCTETS || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(|bits| Self(Key(bits.to_be_bytes()))).map_err(|_| ())
    }
}

/// A cookie's name: a token (RFC 6265, section 4.1.1), at most 64 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(pub String);

impl FromStr for CookieName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_token);
        if is_name { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// A cookie's path: printable, without `;`, at most 200 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookiePath(pub String);

impl FromStr for CookiePath {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_plain = text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b';');
        if text.starts_with('/') && is_plain && text.len() <= 200 {
            Ok(Self(text.to_owned()))
        } else {
            Err(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_names_and_paths_are_read_or_refused() {
        let key: KeyText = "000102030405060708090a0b0c0d0e0F".parse().expect("a key");
        assert_eq!(key.0, Key(std::array::from_fn(|place| place as u8)));
        for wrong in ["", "00", "+00102030405060708090a0b0c0d0e0f", "000102030405060708090a0b0c0d0e0g"] {
            assert_eq!(wrong.parse::<KeyText>(), Err(()), "{wrong}");
        }
        assert!("__Host-srv".parse::<CookieName>().is_ok() && "/shop".parse::<CookiePath>().is_ok());
        for wrong in ["", "a b", "a=b", "a;b", &"n".repeat(65)] {
            assert_eq!(wrong.parse::<CookieName>(), Err(()), "{wrong}");
        }
        for wrong in ["", "shop", "/a;Secure", "/a b", "/a\r\nX: y"] {
            assert_eq!(wrong.parse::<CookiePath>(), Err(()), "{wrong}");
        }
    }
}
