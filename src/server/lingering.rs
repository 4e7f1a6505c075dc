//! The end of a connection, which must not take the answer with it.
//!
//! A socket that is closed before everything that came was read tells the peer that all is void, and what the peer has not
//! read yet of the answer is lost. So one that was answered early, as for a body that is too long, is closed in one
//! direction first; what still comes is read and thrown away until the peer has closed it too, or has had its time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// How long a peer may take that goes on sending.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// How long a peer may send nothing, and how long it may take at all when the server is ending by then.
pub(super) const SILENT: Duration = Duration::from_secs(2);

/// What a peer may still send: more than the longest body that is read.
const MOST: usize = 64 << 20;

/// A socket whose shutdown waits for what the peer still sends.
pub(super) struct Lingering {
    socket: TokioIo<TcpStream>,
    has_unread: Arc<AtomicBool>,
    closing: watch::Receiver<bool>,
    /// How long a peer may take that goes on sending.
    longest: Duration,
    /// Bytes that were thrown away.
    thrown_away: usize,
    /// When the peer must be done, and when it has been silent for too long; nothing before the shutdown.
    until: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Lingering {
    /// `has_unread` becomes true with everything that comes, and is for others to set to false where a request was read whole:
    /// a server that ends does not wait for those. Otherwise all are waited for, because a part of a next request may lie in
    /// a buffer; a peer that is done closes at once.
    pub(super) fn new(
        socket: TcpStream,
        has_unread: Arc<AtomicBool>,
        closing: watch::Receiver<bool>,
        longest: Duration,
    ) -> Self {
        Lingering { socket: TokioIo::new(socket), has_unread, closing, longest, thrown_away: 0, until: None }
    }

    /// Reads what comes until the peer has closed or had its time.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((last, silent)) = &mut self.until else { return Poll::Ready(()) };
        let mut room = [0; 4 << 10];
        loop {
            if silent.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let mut read = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut self.socket).poll_read(context, read.unfilled())) {
                Ok(()) if !read.filled().is_empty() && self.thrown_away < MOST => {
                    self.thrown_away += read.filled().len();
                    silent.as_mut().reset((Instant::now() + SILENT).min(*last));
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl Read for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(context, into);
        if read.is_ready() {
            // of a request, or of what is none
            self.has_unread.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl Write for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.until.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            let is_closing = *self.closing.borrow();
            if is_closing && !self.has_unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let last = now + if is_closing { SILENT } else { self.longest };
            self.until = Some((last, Box::pin(tokio::time::sleep_until((now + SILENT).min(last)))));
        }
        self.poll_rest(context).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }
}
