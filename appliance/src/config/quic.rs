//! `[service.quic]`: where the connection ids of a QUIC service say which board they are of.

use ipos_pipelines::quic::SERVER_ID_MAX_LEN;
use ipos_wire::quic::CONNECTION_ID_MAX_LEN;

use super::farm::ServiceDraft;
use super::read::{At, Notes, Section};

/// As it is written.
pub struct QuicDraft {
    /// Octets before the server id.
    pub offset: At<usize>,
    /// The boards' server ids, hexadecimal.
    pub ids: At<Vec<At<String>>>,
}

/// Checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quic {
    /// Octets of a connection id before the server id.
    pub offset: usize,
    /// Octets of a server id.
    pub len: usize,
    /// Server ids by board: places in [`Config::boards`](super::model::Config::boards).
    pub ids: Vec<(u64, u16)>,
}

/// Reads the section.
pub fn read(section: &Section<'_>) -> Option<QuicDraft> {
    let offset = section.integer("server_id_offset", 0u32..=CONNECTION_ID_MAX_LEN as u32 - 1, 1);
    let ids = section
        .required_strings("server_ids", "the boards' server ids, hexadecimal, such as [\"0a01\", \"0a02\"]");
    section.finish();
    Some(QuicDraft { offset: At::new(offset.value as usize, offset.offset), ids: ids? })
}

/// The number that hexadecimal digits make, and its octets.
fn number(text: &str) -> Option<(u64, usize)> {
    let is_hex = text.bytes().all(|octet| octet.is_ascii_hexdigit()) && text.len().is_multiple_of(2);
    let len = text.len() / 2;
    let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex && len <= SERVER_ID_MAX_LEN)?;
    Some((number, len))
}

/// Holds it against the service's boards, whose places these are.
pub fn check(service: &ServiceDraft, boards: &[u16], notes: &Notes) -> Option<Quic> {
    let QuicDraft { offset, ids } = service.quic.as_ref()?;
    if service.boards.is_none() {
        notes.problem(
            ids.offset,
            "`server_ids` without `boards`; expected the list whose server ids these are",
        );
        return None;
    }
    if ids.value.len() != boards.len() {
        let what = format!(
            "`server_ids` has {} for {} boards; expected one for each",
            ids.value.len(),
            boards.len()
        );
        notes.problem(ids.offset, what);
        return None;
    }
    let (mut found, mut lens) = (Vec::new(), Vec::new());
    for (text, board) in ids.value.iter().zip(boards) {
        let Some((number, len)) = number(&text.value) else {
            let what = format!(
                "server id \"{}\"; expected 1 to {SERVER_ID_MAX_LEN} octets, two hexadecimal digits each",
                text.value
            );
            notes.problem(text.offset, what);
            continue;
        };
        if found.iter().any(|(known, _)| *known == number) {
            notes.problem(
                text.offset,
                format!("server id \"{}\" again; expected one for each board", text.value),
            );
        }
        found.push((number, *board));
        lens.push((len, text.offset));
    }
    let len = lens.first()?.0;
    if let Some((_, at)) = lens.iter().find(|(other, _)| *other != len) {
        notes.problem(*at, "server ids of different lengths; expected all of one");
    }
    if offset.value + len > CONNECTION_ID_MAX_LEN {
        let what = format!(
            "`server_id_offset` is {}, and server ids have {len} octets; expected at most {CONNECTION_ID_MAX_LEN} together, as connection ids have",
            offset.value
        );
        notes.problem(offset.offset, what);
    }
    Some(Quic { offset: offset.value, len, ids: found })
}
