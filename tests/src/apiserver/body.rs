//! Bodies of answers: whole ones, and those that come piece by piece or never to their end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of an answer.
pub enum Answer {
    Whole(Bytes),
    /// Pieces as they come; how long it will be, where that is said beforehand.
    Pieces(mpsc::Receiver<Bytes>, Option<u64>),
}

impl Answer {
    /// A body that is sent piece by piece, and where to put the pieces.
    pub fn pieces(length: Option<u64>) -> (mpsc::Sender<Bytes>, Answer) {
        let (sender, receiver) = mpsc::channel(16);
        (sender, Answer::Pieces(receiver, length))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Answer::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Answer::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Answer::Pieces(pieces, _) => {
                pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Answer::Pieces(_, Some(length)) => SizeHint::with_exact(*length),
            Answer::Pieces(_, None) => SizeHint::default(),
        }
    }
}
