//! Connections: how many there may be, which of them make room, and how long a request may take to come.
//!
//! Anybody who reaches the address can open connections, with the key or without. When there are as many as there may be,
//! a new one takes the place of the one that has waited for its request the longest, of the address that has the most such
//! ones; so that who opens hundreds and says nothing shuts out nobody.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::Write as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::lingering::{self, Lingering};
use super::{STOP_POLL, Server, routes};

/// Most bytes of a request's head.
const LONGEST_HEAD: usize = 128 << 10;

/// How long a connection may say nothing between two requests, where there is room: longer than clients and proxies keep
/// one open, since a request that comes as it is closed is lost.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(75);

/// A body that has been on its way for so long may have to make room.
const SLOW: Duration = Duration::from_secs(2);

/// How many who were turned away get the time to read why, beside the connections that there may be.
const TURNED_AWAY: usize = 32;

/// What waits where the system has no descriptor for one more connection.
const PAUSE: Duration = Duration::from_millis(50);

/// What a caller gets for whom there is no room.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n\
    Content-Length: 65\r\nConnection: close\r\n\r\n{\"error\": {\"message\": \"too many connections; try again later\"}}  ";

/// How long a request may take to come: its head; and its body, which gets more for its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(pub(super) Duration);

/// The connections that there are.
pub(super) struct Connections {
    places: Mutex<Places>,
    most: usize,
    /// Of one address.
    most_of_address: usize,
}

#[derive(Default)]
struct Places {
    last: u64,
    by_number: HashMap<u64, Place>,
}

struct Place {
    address: IpAddr,
    doing: Doing,
    close: Arc<Notify>,
}

/// What a connection does.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// It has no whole head of a request.
    Waiting(Instant),
    /// The body of a request comes.
    Reading(Instant),
    /// A request is answered.
    Answering,
}

impl Connections {
    /// Room for `most`, three quarters of them from one address.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(4);
        Connections { places: Mutex::default(), most, most_of_address: most / 4 * 3 }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // it is whole after every statement that changes it
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, where another one makes room if need be.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Entered> {
        let address = network(address);
        let mut places = self.lock();
        let of_address = places.by_number.values().filter(|place| place.address == address).count();
        if of_address >= self.most_of_address && !places.make_room(Some(address)) {
            return None;
        }
        // only now: one that made room for its own address is enough
        if places.by_number.len() >= self.most && !places.make_room(None) {
            return None;
        }
        places.last += 1;
        let (number, close) = (places.last, Arc::new(Notify::new()));
        let place = Place { address, doing: Doing::Waiting(Instant::now()), close: close.clone() };
        places.by_number.insert(number, place);
        Some(Entered { connections: self.clone(), number, close })
    }
}

impl Places {
    /// Ends one connection that nobody waits at; `false` where all are busy.
    fn make_room(&mut self, only: Option<IpAddr>) -> bool {
        let mut idle: HashMap<IpAddr, usize> = HashMap::new();
        let since = |place: &Place| match place.doing {
            Doing::Waiting(since) => Some(since),
            Doing::Reading(since) if since.elapsed() > SLOW => Some(since),
            Doing::Reading(_) | Doing::Answering => None,
        };
        let candidates = || self.by_number.iter().filter_map(|(number, place)| Some((*number, place, since(place)?)));
        for (_, place, _) in candidates() {
            *idle.entry(place.address).or_default() += 1;
        }
        let of_address = |address: IpAddr| only.is_none_or(|only| only == address);
        let victim = candidates()
            .filter(|(_, place, _)| of_address(place.address))
            .max_by_key(|(_, place, since)| (idle[&place.address], std::cmp::Reverse(*since)))
            .map(|(number, ..)| number);
        let place = victim.and_then(|number| self.by_number.remove(&number));
        place.inspect(|place| place.close.notify_one()).is_some()
    }
}

/// All of a network of IPv6 that one customer has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// One connection among the others, until it is dropped.
struct Entered {
    connections: Arc<Connections>,
    number: u64,
    close: Arc<Notify>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.lock().by_number.remove(&self.number);
    }
}

/// Says what a connection does once this is dropped.
struct Next {
    connections: Arc<Connections>,
    number: u64,
    is_answered: bool,
}

impl Next {
    fn set(&self, doing: Doing) {
        if let Some(place) = self.connections.lock().by_number.get_mut(&self.number) {
            place.doing = doing;
        }
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        self.set(if self.is_answered { Doing::Waiting(Instant::now()) } else { Doing::Answering });
    }
}

/// A body, and what its end means.
struct Watched {
    body: Body,
    /// Set to `false` once all of it was read.
    has_unread: Option<Arc<AtomicBool>>,
    _next: Next,
}

impl Watched {
    fn read(&self) {
        if let Some(has_unread) = &self.has_unread {
            has_unread.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.read();
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = frame {
            self.read();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves whoever connects until `closing`, and then until every answer is written.
pub(super) async fn accept(server: Arc<Server>, listener: TcpListener, mut closing: watch::Receiver<bool>) {
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    loop {
        let accepted = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => match server.connections.enter(peer.ip()) {
                Some(place) => drop(tokio::spawn(serve(server.clone(), socket, place, closing.clone()))),
                None => {
                    turn_away(socket, &turned_away, &closing);
                    tracing::debug!(%peer, "no room for a connection");
                }
            },
            Err(error) if is_of_peer(&error) => {}
            Err(error) => {
                tracing::warn!("no connection can be taken: {error}");
                server.connections.lock().make_room(None);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while !server.connections.lock().by_number.is_empty() {
        tokio::time::sleep(STOP_POLL).await;
    }
}

/// Tells a caller that there is no room. Whoever cannot take these few bytes at once does without.
fn turn_away(socket: TcpStream, places: &Arc<Semaphore>, closing: &watch::Receiver<bool>) {
    // the runtime has not heard yet that it can be written to, and would say that it cannot
    let Ok(mut socket) = socket.into_std() else { return };
    let _ = socket.write(FULL);
    let (Ok(place), Ok(socket)) = (places.clone().try_acquire_owned(), TcpStream::from_std(socket)) else { return };
    let unread = Arc::new(AtomicBool::new(true));
    let mut socket = Lingering::new(socket, unread, closing.clone(), lingering::SILENT);
    tokio::spawn(async move {
        let _ = poll_fn(|context| Pin::new(&mut socket).poll_shutdown(context)).await;
        drop(place);
    });
}

/// Whether the caller was gone before it was taken.
fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve(server: Arc<Server>, socket: TcpStream, place: Entered, mut closing: watch::Receiver<bool>) {
    // a token is a small packet that nobody should wait for
    let _ = socket.set_nodelay(true);
    let patience = server.options.patience;
    let next = |is_answered| Next { connections: place.connections.clone(), number: place.number, is_answered };
    let has_asked = AtomicBool::new(false);
    let has_unread = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        let (server, next, has_unread) = (server.clone(), next, has_unread.clone());
        async move {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(Patience(patience));
            let reading = next(false);
            reading.set(Doing::Reading(Instant::now()));
            let body = Body::new(Watched { body: Body::new(body), has_unread: Some(has_unread), _next: reading });
            let answered = next(true);
            let response = routes::handle(server, Request::from_parts(parts, body)).await;
            let response = response.map(|body| Watched { body, has_unread: None, _next: answered });
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    let between = patience.max(BETWEEN_REQUESTS);
    http.timer(TokioTimer::new()).header_read_timeout(between).max_buf_size(LONGEST_HEAD);
    let socket = Lingering::new(socket, has_unread.clone(), closing.clone(), lingering::LONGEST);
    let mut connection = pin!(http.serve_connection(socket, service));
    let mut first = pin!(tokio::time::sleep(patience));
    let (mut is_closing, mut may_be_silent) = (false, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                }
                break;
            }
            () = place.close.notified() => {
                tracing::debug!("a connection made room");
                break;
            }
            () = first.as_mut(), if !may_be_silent => {
                if !has_asked.load(Ordering::Relaxed) {
                    tracing::debug!("a connection asked for nothing");
                    break;
                }
                may_be_silent = true;
            }
            _ = closing.wait_for(|closing| *closing), if !is_closing => {
                connection.as_mut().graceful_shutdown();
                is_closing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_length_of_the_last_resort_is_its_own() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[test]
    fn the_one_that_waited_longest_makes_room() {
        let connections = Arc::new(Connections::new(8));
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut many: Vec<Entered> = (0..6).map(|_| connections.enter(address(1)).unwrap()).collect();
        let one = connections.enter(address(2)).unwrap();
        let is_there = |entered: &Entered| connections.lock().by_number.contains_key(&entered.number);
        // a seventh of the same address takes the place of its first
        many.push(connections.enter(address(1)).unwrap());
        assert!(!is_there(&many[0]) && many[1..].iter().all(is_there) && is_there(&one));
        let two = connections.enter(address(3)).unwrap();
        // the address with the most of them makes room for others
        let three = connections.enter(address(4)).unwrap();
        assert!(!is_there(&many[1]) && is_there(&one) && is_there(&two) && is_there(&three));
        // who is answered stays
        for place in connections.lock().by_number.values_mut() {
            place.doing = Doing::Answering;
        }
        assert!(connections.enter(address(5)).is_none());
        connections.lock().by_number.get_mut(&two.number).unwrap().doing = Doing::Waiting(Instant::now());
        assert!(connections.enter(address(5)).is_some() && !is_there(&two));
        drop(many);
        assert!(connections.lock().by_number.len() <= 3);
    }

    #[test]
    fn one_makes_room_and_no_more() {
        let connections = Arc::new(Connections::new(8));
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let entered: Vec<Entered> = [1, 1, 1, 1, 1, 1, 2, 3].map(|n| connections.enter(address(n)).unwrap()).into();
        let more = connections.enter(address(1)).unwrap();
        assert_eq!(connections.lock().by_number.len(), 8);
        drop((entered, more));
    }

    #[test]
    fn who_is_turned_away_is_told() {
        use std::io::Read;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            // what it asks for lies there unread
            std::io::Write::write_all(&mut caller, b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let socket = listener.accept().await.unwrap().0;
            turn_away(socket, &Arc::new(Semaphore::new(1)), &watch::channel(false).1);
            let told = tokio::task::spawn_blocking(move || {
                let mut told = Vec::new();
                // it ends in order, not with a reset
                caller.read_to_end(&mut told).map(|_| told)
            });
            assert_eq!(told.await.unwrap().unwrap(), FULL);
        });
    }

    #[test]
    fn networks_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), IpAddr::from([192, 0, 2, 1]));
    }
}
