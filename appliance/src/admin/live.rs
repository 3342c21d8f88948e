//! The configuration that is in force: the file's, with what was changed at run time.
//!
//! Whatever changes it goes one way: a whole new [`Config`] is made and checked, numbered, handed to the control core, and only when
//! that has it does it become the one in force.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipos_pipelines::handoff::{BOARDS_MAX, BoardId};

use super::collector::{Collector, NoAnswer};
use crate::config::model::{Board, Config, MacText, Map, TlsRow};
use crate::config::read::At;
use crate::config::snapshot::{self, Numbers, SnapshotError};
use crate::config::{self, ConfigError, changes};
use crate::control::snapshot::Snapshot;
use crate::control::standing::WEIGHT_DEFAULT;
use crate::control::turn::Request;
use crate::run::settings;

/// How long the workers may take to count flows; a page that is lost is asked for again after a second.
const COUNT_PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at whether they have.
const COUNT_LOOK: Duration = Duration::from_millis(20);

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The control core is silent.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The new configuration gives no snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The file is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Something differs that cannot change.
    #[error("{0}")]
    Fixed(String),
    /// What is asked for cannot be.
    #[error("{0}")]
    Impossible(String),
}

fn impossible(what: String) -> LiveError {
    LiveError::Impossible(what)
}

/// A board to add.
#[derive(Clone, Debug)]
pub struct NewBoard {
    /// Its name.
    pub name: String,
    /// Its address on the farm network.
    pub address: Ipv4Addr,
    /// Its MAC address, when it shall not be learned.
    pub mac: Option<MacText>,
    /// The name of the farm port that it is behind; `None`: the one on whose network it is.
    pub port: Option<String>,
    /// Its share of new connections.
    pub weight: u16,
    /// Services that it serves what no row of the URL map names.
    pub services: Vec<String>,
    /// Rows of the URL map that it serves: `SERVICE:PATH` or `SERVICE:HOST/PATH`.
    pub maps: Vec<String>,
}

/// The configuration in force, where it came from, and the numbers it has given.
pub struct Live {
    path: PathBuf,
    config: Config,
    /// The numbers of the configuration's boards, in its order.
    ids: Vec<BoardId>,
    numbers: Numbers,
}

impl Live {
    /// The configuration that the appliance starts with: its boards are numbered in order.
    pub fn new(path: PathBuf, config: Config, numbers: Numbers) -> Self {
        let ids = (0..config.boards.len() as u16).map(BoardId).collect();
        Self { path, config, ids, numbers }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of a board of the configuration in force.
    pub fn id_of(&self, name: &str) -> Option<BoardId> {
        let mut boards = self.config.boards.iter().zip(&self.ids);
        boards.find_map(|(board, id)| (board.name.value == name).then_some(*id))
    }

    /// Takes note of a weight that the control core has.
    pub fn set_weight(&mut self, name: &str, weight: u16) {
        for board in self.config.boards.iter_mut().filter(|board| board.name.value == name) {
            board.weight = weight;
        }
    }

    /// The configuration with one more board.
    fn with(&self, new: NewBoard) -> Result<Config, LiveError> {
        let mut config = self.config.clone();
        let place = config.boards.len() as u16;
        let board = checked(&config, &new)?;
        if new.services.is_empty() && new.maps.is_empty() {
            let what = "which connections shall it get? Name a service (`--service`) or a row of the URL map (`--map`)";
            return Err(impossible(what.to_owned()));
        }
        for name in &new.services {
            let known = config.services.iter_mut().find(|service| service.name.value == *name);
            known.ok_or_else(|| no_service(&self.config, name))?.boards.push(place);
        }
        for row in &new.maps {
            let boards = map_boards(&mut config, row).ok_or_else(|| no_row(&self.config, row))?;
            boards.push(place);
        }
        for service in &mut config.services {
            let lists = service.maps.iter_mut().map(|map| (&mut map.boards, &mut map.weights));
            let tls = service.tls.rows.iter_mut().map(|row| (&mut row.boards, &mut row.weights));
            for (boards, weights) in lists.chain(tls).chain([(&mut service.boards, &mut service.weights)]) {
                boards.dedup();
                weights.resize(boards.len(), WEIGHT_DEFAULT);
            }
        }
        config.boards.push(board);
        Ok(config)
    }

    /// The configuration without a board.
    fn without(&self, name: &str) -> Result<Config, LiveError> {
        let place = self.place_of(name)?;
        let mut config = self.config.clone();
        config.boards.remove(usize::from(place));
        let take_out = |boards: &mut Vec<u16>, weights: &mut Vec<u16>| {
            let left =
                boards.iter().copied().zip(weights.iter().copied()).filter(|(board, _)| *board != place);
            (*boards, *weights) =
                left.map(|(board, weight)| (board - u16::from(board > place), weight)).unzip();
            !boards.is_empty()
        };
        for service in &mut config.services {
            let alone = |what: &str| {
                let service = &service.name.value;
                impossible(format!(
                    "board \"{name}\" is the only one of {what} \"{service}\": add another first"
                ))
            };
            if !take_out(&mut service.boards, &mut service.weights) {
                return Err(alone("service"));
            }
            let mut of_boards = service.maps.iter_mut().filter(|map| map.answer.is_none());
            if !of_boards.all(|map| take_out(&mut map.boards, &mut map.weights)) {
                return Err(alone("a row of the URL map of service"));
            }
            if !service.tls.rows.iter_mut().all(|row| take_out(&mut row.boards, &mut row.weights)) {
                return Err(alone("a row of the TLS map of service"));
            }
            if let Some(quic) = &mut service.quic {
                quic.ids.retain(|(_, board)| *board != place);
                quic.ids.iter_mut().for_each(|(_, board)| *board -= u16::from(*board > place));
            }
            // A service whose home goes has none any more.
            let home = service.home.filter(|home| *home != place);
            service.home = home.map(|home| home - u16::from(home > place));
        }
        Ok(config)
    }

    fn place_of(&self, name: &str) -> Result<u16, LiveError> {
        let place = self.config.boards.iter().position(|board| board.name.value == name);
        place.map(|place| place as u16).ok_or_else(|| {
            let known: Vec<&str> = self.config.boards.iter().map(|board| board.name.value.as_str()).collect();
            impossible(format!("no board named \"{name}\"; the boards are {}", known.join(", ")))
        })
    }
}

fn no_service(config: &Config, name: &str) -> LiveError {
    let known: Vec<&str> = config.services.iter().map(|service| service.name.value.as_str()).collect();
    impossible(format!("no service named \"{name}\"; the services are {}", known.join(", ")))
}

/// How a row of the URL map that boards serve is named at run time; `None` for one that the appliance answers.
fn row_name(service: &str, map: &Map) -> Option<String> {
    map.answer.is_none().then(|| format!("{service}:{}", map.name()))
}

/// How a row of the TLS map is: `secure:www.example.org`, or `secure:*.example.org+h2,http/1.1`.
fn tls_row_name(service: &str, row: &TlsRow) -> String {
    let plus = if row.alpn.is_empty() { "" } else { "+" };
    format!("{service}:{}{plus}{}", row.sni.as_deref().unwrap_or_default(), row.alpn.join(","))
}

fn no_row(config: &Config, row: &str) -> LiveError {
    let rows = config.services.iter().flat_map(|service| {
        let name = &service.name.value;
        let urls = service.maps.iter().filter_map(move |map| row_name(name, map));
        urls.chain(service.tls.rows.iter().map(move |row| tls_row_name(name, row)))
    });
    let known: Vec<String> = rows.collect();
    impossible(format!("no row \"{row}\" in a map; the rows are {}", known.join(", ")))
}

fn map_boards<'a>(config: &'a mut Config, row: &str) -> Option<&'a mut Vec<u16>> {
    config.services.iter_mut().find_map(|service| {
        let name = &service.name.value;
        let found = service.maps.iter_mut().find(|map| row_name(name, map).as_deref() == Some(row));
        let tls = service.tls.rows.iter_mut().find(|found| tls_row_name(name, found) == row);
        found.map(|map| &mut map.boards).or(tls.map(|row| &mut row.boards))
    })
}

/// The board, held against the others as the file's are.
fn checked(config: &Config, new: &NewBoard) -> Result<Board, LiveError> {
    let NewBoard { name, address, mac, .. } = new;
    let say = |what: String| Err(impossible(what));
    if name.is_empty() {
        return say("a board needs a name that tells it from the others".to_owned());
    }
    if config.boards.len() >= BOARDS_MAX {
        return say(format!("there are {BOARDS_MAX} boards, and no more are possible"));
    }
    if config.boards.iter().any(|board| board.name.value == *name) {
        return say(format!(
            "there is a board named \"{name}\" already; remove it first, or choose another name"
        ));
    }
    if let Some(other) = config.boards.iter().find(|board| board.address.value == *address) {
        return say(format!("board \"{}\" is at {address} already", other.name.value));
    }
    if let Some(other) = config.boards.iter().find(|board| mac.is_some() && board.mac == *mac) {
        return say(format!("board \"{}\" has this MAC address already", other.name.value));
    }
    if let Some(service) = config.services.iter().find(|service| service.address.value == *address) {
        return say(format!("{address} is the address of service \"{}\"", service.name.value));
    }
    let named =
        |port: &crate::config::model::Port| new.port.as_ref().is_none_or(|name| port.name.value == *name);
    let behind = config
        .ports
        .iter()
        .position(|port| port.role.faces_farm() && port.address.value.contains(*address) && named(port));
    let Some(port) = behind.and_then(|behind| Some((behind, config.ports.get(behind)?))) else {
        let farm = config.ports.iter().filter(|port| port.role.faces_farm());
        let networks: Vec<String> = farm
            .map(|port| {
                let subnet = port.address.value;
                format!("{}/{} (port \"{}\")", subnet.address, subnet.prefix, port.name.value)
            })
            .collect();
        return say(format!(
            "{address} is not on the network of that port; expected one in {}",
            networks.join(", ")
        ));
    };
    let subnet = port.1.address.value;
    if subnet.address == *address || !subnet.has_host(*address) {
        return say(format!(
            "{address} is the appliance's own address, or that of the network, and no board's"
        ));
    }
    Ok(Board {
        name: At::new(name.clone(), 0),
        address: At::new(*address, 0),
        mac: *mac,
        port: port.0 as u8,
        weight: new.weight,
    })
}

/// Puts a configuration in force. `by_force` names a board that is forgotten at once.
async fn put_in_force(
    collector: &mut Collector,
    config: Config,
    by_force: Option<&str>,
) -> Result<(), LiveError> {
    let taken = collector.ask(Request::Taken).await?;
    let forced = taken
        .iter()
        .filter(|(_, board)| by_force.is_some() && board.as_ref().map(|(name, _)| name.as_str()) == by_force);
    let forced: Vec<BoardId> = forced.map(|(id, _)| *id).collect();
    let by_address: Vec<_> =
        taken.iter().map(|(id, board)| (*id, board.as_ref().map(|(_, address)| *address))).collect();
    let ids = snapshot::board_ids(&config, &by_address)?;
    let mut numbers = collector.live.numbers.clone();
    let snapshot = numbers.snapshot(&config, &ids, Instant::now())?;
    let (farm, services) = settings::farm(&config, &ids, snapshot, forced);
    collector.ask(|reply| Request::Apply { farm: Box::new(farm), services, reply }).await?;
    for (id, board) in ids.iter().zip(&config.boards) {
        let place = usize::from(id.0);
        if collector.about.boards.len() <= place {
            collector.about.boards.resize(place + 1, String::new());
        }
        if let Some(name) = collector.about.boards.get_mut(place) {
            name.clone_from(&board.name.value);
        }
    }
    collector.about.urls = settings::urls(&config);
    collector.live.config = config;
    collector.live.ids = ids;
    collector.live.numbers = numbers;
    Ok(())
}

/// Takes note of a weight that the control core has. Tables of boards are made anew with it.
///
/// # Errors
/// [`LiveError`] says why that could not be.
pub async fn set_weight(collector: &mut Collector, name: &str, weight: u16) -> Result<(), LiveError> {
    collector.live.set_weight(name, weight);
    let config = collector.live.config.clone();
    if config.services.iter().any(|service| service.is_hashed()) {
        put_in_force(collector, config, None).await?;
    }
    Ok(())
}

/// Adds a board.
///
/// # Errors
/// [`LiveError`] says why not.
pub async fn add(collector: &mut Collector, new: NewBoard) -> Result<(), LiveError> {
    let config = collector.live.with(new)?;
    put_in_force(collector, config, None).await
}

/// The control core's state, with a count of the boards' flows that began after now.
async fn counted_anew(collector: &mut Collector) -> Result<Snapshot, LiveError> {
    let mut snapshot = collector.snapshot().await?;
    // The round that is under way may have begun before.
    let wanted = snapshot.counted + 2;
    let deadline = Instant::now() + COUNT_PATIENCE;
    while snapshot.counted < wanted {
        if Instant::now() > deadline {
            return Err(LiveError::NoAnswer(NoAnswer));
        }
        tokio::time::sleep(COUNT_LOOK).await;
        snapshot = collector.snapshot().await?;
    }
    Ok(snapshot)
}

/// Takes a board out: when nothing of its connections is left, or by force with them.
///
/// # Errors
/// [`LiveError`] says why not.
pub async fn remove(collector: &mut Collector, name: &str, by_force: bool) -> Result<(), LiveError> {
    let leaving = by_force && collector.live.place_of(name).is_err();
    // One that leaves already is no longer in the configuration; force still ends its connections.
    let config = if leaving { collector.live.config.clone() } else { collector.live.without(name)? };
    let snapshot = counted_anew(collector).await?;
    let row = snapshot.servers.iter().find(|row| row.name == name);
    if leaving && row.is_none() {
        collector.live.place_of(name)?;
    }
    let left = row.map_or(0, |row| row.left);
    if left > 0 && !by_force {
        return Err(impossible(format!(
            "board \"{name}\" has {left} connections: drain it first (`board drain {name} --wait`), or end them with `--force`"
        )));
    }
    put_in_force(collector, config, by_force.then_some(name)).await
}

/// Reads the file again and puts it in force, all of it or nothing. Returns what it changed, a line each.
///
/// # Errors
/// [`LiveError`] with every mistake, or every key that cannot change.
pub async fn reload(collector: &mut Collector) -> Result<Vec<String>, LiveError> {
    let path = collector.live.path.clone();
    let host = config::host::ThisHost::read();
    let text = std::fs::read_to_string(&path)
        .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
    let config = config::from_text(&path, text.clone(), &host)?;
    let fixed = changes::fixed(&collector.live.config, &config);
    if !fixed.is_empty() {
        return Err(LiveError::Fixed(changes::refusal(&path, &text, &fixed)));
    }
    let mut said = changes::applied(&collector.live.config, &config);
    put_in_force(collector, config, None).await?;
    let snapshot = collector.snapshot().await?;
    let draining =
        snapshot.servers.iter().filter(|row| row.drain.as_deref().is_some_and(|word| word != "leaving"));
    said.extend(draining.map(|row| format!("board \"{}\" goes on draining ({} left)", row.name, row.left)));
    Ok(said)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::quic::Quic;
    use crate::config::tests::{SHORT, good};

    /// The short configuration, in force.
    pub fn live() -> Live {
        Live::new(PathBuf::from("a.toml"), good(SHORT), Numbers::default())
    }

    fn new(name: &str, address: [u8; 4]) -> NewBoard {
        NewBoard {
            name: name.to_owned(),
            address: address.into(),
            mac: None,
            port: None,
            weight: 100,
            services: vec!["web".to_owned()],
            maps: vec!["web:/a/".to_owned()],
        }
    }

    #[test]
    fn a_board_is_added_where_it_is_asked_for_and_taken_out_everywhere() {
        let mut live = live();
        live.config.services[0].weights = vec![10, 20];
        live.config.services[0].home = Some(1);
        live.config = live.with(new("board3", [192, 0, 2, 13])).expect("a good board");
        let service = &live.config.services[0];
        assert_eq!((&service.boards[..], &service.maps[0].boards[..]), (&[0, 1, 2][..], &[0, 2][..]));
        assert_eq!(
            (&service.weights[..], &service.maps[0].weights[..]),
            (&[10, 20, 100][..], &[100, 100][..])
        );
        assert_eq!(live.config.boards[2].port, 1);
        let without = live.without("board1").expect("another one is left everywhere");
        let service = &without.services[0];
        assert_eq!((&service.boards[..], &service.maps[0].boards[..]), (&[0, 1][..], &[1][..]));
        assert_eq!((&service.weights[..], service.home), (&[20, 100][..], Some(0)));
        assert_eq!(live.without("board2").expect("others are left").services[0].home, None);
        live.config.services[0].quic = Some(Quic { offset: 1, len: 1, ids: vec![(7, 0), (8, 1)] });
        let left = live.without("board1").expect("others are left");
        assert_eq!(left.services[0].quic.as_ref().map(|quic| &quic.ids[..]), Some(&[(8, 0)][..]));
        let names: Vec<&str> = without.boards.iter().map(|board| board.name.value.as_str()).collect();
        assert_eq!(names, ["board2", "board3"]);
    }

    #[test]
    fn rows_of_a_tls_map_are_named_by_name_and_protocols() {
        let row = |sni: &str, alpn: &[&str]| TlsRow {
            sni: Some(sni.to_owned()),
            alpn: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
            boards: vec![0],
            weights: vec![7],
        };
        let mut live = live();
        live.config.services[0].tls.rows = vec![row("*.example.org", &["h2", "h3"]), row("a.example", &[])];
        let maps = ["web:*.example.org+h2,h3", "web:/a/"].map(str::to_owned).to_vec();
        live.config = live
            .with(NewBoard { services: Vec::new(), maps, ..new("board3", [192, 0, 2, 13]) })
            .expect("a good board");
        let rows = &live.config.services[0].tls.rows;
        assert_eq!((&rows[0].boards[..], &rows[0].weights[..]), (&[0, 2][..], &[7, 100][..]));
        assert_eq!(rows[1].boards, [0]);
        let error = live.without("board1").map(|_| ()).expect_err("a row would have nobody").to_string();
        assert!(error.contains("a row of the TLS map"), "{error}");
        let without = live.without("board2").expect("no row needs it");
        assert_eq!(without.services[0].tls.rows[0].boards, [0, 1]);
        let unknown = NewBoard { maps: vec!["web:b.example".to_owned()], ..new("b", [192, 0, 2, 14]) };
        let error = live.with(unknown).map(|_| ()).expect_err("no such row").to_string();
        assert!(error.contains("web:a.example"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_said_in_words() {
        let live = live();
        let says = |what: Result<Config, LiveError>, words: &str| {
            let error = what.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(words), "{words}: {error:?}");
        };
        says(live.with(new("board1", [192, 0, 2, 13])), "a board named \"board1\" already");
        says(live.with(new("b", [192, 0, 2, 11])), "board \"board1\" is at 192.0.2.11 already");
        says(live.with(new("b", [198, 51, 100, 1])), "address of service \"web\"");
        says(live.with(new("b", [192, 0, 2, 2])), "the appliance's own address");
        says(live.with(new("b", [192, 0, 2, 140])), "expected one in 192.0.2.2/25 (port \"farm\")");
        says(live.with(NewBoard { port: Some("wan".into()), ..new("b", [192, 0, 2, 13]) }), "that port");
        says(live.with(new("", [192, 0, 2, 13])), "needs a name");
        let services = vec!["x".to_owned()];
        says(live.with(NewBoard { services, ..new("b", [192, 0, 2, 13]) }), "the services are web");
        let maps = vec!["web:/x/".to_owned()];
        says(live.with(NewBoard { maps, ..new("b", [192, 0, 2, 13]) }), "the rows are web:/a/");
        let nothing = NewBoard { services: Vec::new(), maps: Vec::new(), ..new("b", [192, 0, 2, 13]) };
        says(live.with(nothing), "which connections");
        says(live.without("board9"), "the boards are board1, board2");
        says(live.without("board1"), "the only one of a row");
    }
}
