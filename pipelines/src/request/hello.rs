//! The ClientHello of a service of kind `tls`: found as octets arrive, read once when it is whole, looked up in the service's map.
//!
//! Input: the contiguous stream from IRS+1 ([`super::assembly`]). Output: the pool of boards, or an alert with its reason. Owner: the
//! worker. Cost: each record's header is looked at once however the client cuts its segments; a hello that is spread over records is
//! copied once. The formats and what is read into them: [`ipos_wire::tls`].

use ipos_wire::tls::{ClientHello, HelloError, RecordScan, message};

use super::stage::{Asked, Step};
use crate::counters::Happening;
use crate::handoff::{Alert, Answer};
use crate::services::Service;
use crate::tlsmap::Refusal;

/// What the stream amounts to; `None` while the hello is incomplete.
pub(super) fn step(
    scan: &mut RecordScan,
    contiguous: &[u8],
    service: &Service,
    buffer: &mut [u8],
) -> Option<Step> {
    let len = match scan.advance(contiguous) {
        Ok(len) => len?,
        Err(error) => return Some(refused(error)),
    };
    // The scan has seen all of it, and the buffer is as long as a window.
    let hello = message(contiguous, len, buffer).ok_or(HelloError::Hello).and_then(ClientHello::parse);
    let pool = match &hello {
        Ok(hello) => service.tls.pool(hello, service.default_pool),
        Err(error) => return Some(refused(*error)),
    };
    Some(match pool {
        Ok(pool) => Step::Complete { pool, what: Happening::HelloComplete, session: Asked::default() },
        Err(refusal) => {
            let reason = match refusal {
                Refusal::UnknownName => Happening::NameUnknown,
                Refusal::NoName => Happening::NameMissing,
            };
            Step::Wrong(Answer::Alert(Alert::UnrecognizedName), Some(reason))
        }
    })
}

fn refused(error: HelloError) -> Step {
    let reason = match error {
        HelloError::NotTls => Happening::HelloNotTls,
        HelloError::Ssl2 => Happening::HelloSsl2,
        HelloError::Record => Happening::HelloBadRecord,
        HelloError::Hello => Happening::HelloMalformed,
        HelloError::TooLong => Happening::HelloTooLong,
        HelloError::ServerName => Happening::HelloBadName,
        HelloError::Protocols => Happening::HelloBadProtocols,
    };
    Step::Wrong(Answer::Alert(Alert::DecodeError), Some(reason))
}
