//! `ipos-appliance cookie`: the value of a service's cookie that names a board, for who sets it on the boards.

use std::path::Path;
use std::process::ExitCode;

use ipos_pipelines::sessions::Value;

use crate::cli::CookieWish;
use crate::config::host::AnyHost;
use crate::config::model::{Config, CookieMode, Service};
use crate::config::{self, ConfigError};

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
enum CookieError {
    /// The configuration has mistakes.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// No such thing in it.
    #[error("{0}")]
    Unknown(String),
}

/// Prints the value.
pub fn main(wish: &CookieWish) -> ExitCode {
    match said(wish) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ipos-appliance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn said(wish: &CookieWish) -> Result<String, CookieError> {
    // Wherever the boards' configurations are made.
    let config = config::load(Path::new(&wish.config), &AnyHost)?;
    line(&config, wish)
}

/// What goes behind `Set-Cookie:`, or the value alone.
fn line(config: &Config, wish: &CookieWish) -> Result<String, CookieError> {
    let unknown = |what: &str, name: &str, known: Vec<&str>| {
        CookieError::Unknown(format!("no {what} named \"{name}\"; the {what}s are {}", known.join(", ")))
    };
    let service = config.services.iter().find(|service| service.name.value == wish.service);
    let service = service.ok_or_else(|| {
        let known = config.services.iter().map(|service| service.name.value.as_str());
        unknown("service", &wish.service, known.collect())
    })?;
    let board = config.boards.iter().find(|board| board.name.value == wish.board).ok_or_else(|| {
        let known = config.boards.iter().map(|board| board.name.value.as_str());
        unknown("board", &wish.board, known.collect())
    })?;
    let (name, key, attributes) = named(service).ok_or_else(|| {
        CookieError::Unknown(format!(
            "service \"{}\" has no cookie whose values name boards; expected [service.cookie] with mode = \"encoded\" or \"insert\"",
            wish.service
        ))
    })?;
    let value = Value::of(key, &wish.service, board.address.value);
    Ok(if wish.value { value.to_string() } else { format!("{name}={value}{attributes}") })
}

fn named(service: &Service) -> Option<(&str, &ipos_pipelines::sessions::Key, &config::model::Attributes)> {
    let cookie = service.cookie.as_ref()?;
    match &cookie.mode {
        CookieMode::Learn { .. } => None,
        CookieMode::Encoded { keys, attributes } | CookieMode::Insert { keys, attributes } => {
            Some((&cookie.name, keys.first()?, attributes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{SHORT, good};

    fn wish(service: &str, board: &str, value: bool) -> CookieWish {
        CookieWish { service: service.to_owned(), board: board.to_owned(), value, config: "a.toml".into() }
    }

    #[test]
    fn a_boards_value_is_printed_with_its_attributes_or_alone() {
        let cookie = "cookie = { mode = \"encoded\", name = \"srv\", key = \"000102030405060708090a0b0c0d0e0f\", max_age_s = 60 }";
        let config = good(&SHORT.replacen("port = 80\n", &format!("port = 80\n{cookie}\n"), 1));
        let value = line(&config, &wish("web", "board1", true)).expect("a value");
        assert_eq!(value.len(), 32);
        let whole = line(&config, &wish("web", "board1", false)).expect("a line");
        assert_eq!(whole, format!("srv={value}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"));
        assert_ne!(line(&config, &wish("web", "board2", true)).expect("a value"), value);
        for (service, board, words) in
            [("shop", "board1", "the services are web"), ("web", "board9", "the boards are board1, board2")]
        {
            let error = line(&config, &wish(service, board, true)).expect_err("no such thing").to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = line(&good(SHORT), &wish("web", "board1", true)).expect_err("no cookie").to_string();
        assert!(error.contains("mode = \"encoded\""), "{error}");
    }
}
