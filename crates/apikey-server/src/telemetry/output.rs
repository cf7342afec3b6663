//! The log's way to standard error: a bounded queue, and a thread that writes.
//!
//! Nothing that logs ever waits for the reader of the log. Lines that do not fit into the queue are dropped and counted.

use std::{
    cell::Cell,
    io::{self, ErrorKind, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How much the queue holds, in bytes: some thousands of lines.
pub(super) const CAPACITY: usize = 1024 * 1024;

/// What a queued line takes besides its text.
const LINE_OVERHEAD: usize = 64;

/// How long to wait before writing again where standard error is non-blocking and full.
const PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether this thread is the writer: its own lines are never dropped, since only it makes room.
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// Takes lines without ever blocking.
#[derive(Clone)]
pub(super) struct LogQueue {
    messages: Sender<Message>,
    state: Arc<State>,
}

struct State {
    capacity: usize,
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Line(Box<[u8]>),
    Flush(SyncSender<()>),
}

impl LogQueue {
    /// Starts a thread that writes lines to `out`. After lines were dropped, and once the queue is at most half full, the thread
    /// calls `report_dropped` with their number; what that logs is not dropped.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(
        capacity: usize,
        out: impl Write + Send + 'static,
        report_dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (messages, received) = channel();
        let state = Arc::new(State { capacity, queued_bytes: AtomicUsize::new(0), dropped: AtomicU64::new(0) });
        let queue = Self { messages, state: Arc::clone(&state) };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&received, out, &state, report_dropped))?;
        Ok(queue)
    }

    /// Queues one line, or drops it where there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        let size = line.len() + LINE_OVERHEAD;
        let before = self.state.queued_bytes.fetch_add(size, Ordering::Relaxed);
        let fits = before + size <= self.state.capacity || IS_WRITER.get();
        if !fits || self.messages.send(Message::Line(line.into())).is_err() {
            self.state.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines have been dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything queued so far is written, at most for `limit`. Returns whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let (done, flushed) = sync_channel(1);
        self.messages.send(Message::Flush(done)).is_ok() && flushed.recv_timeout(limit).is_ok()
    }
}

fn write_lines(received: &Receiver<Message>, mut out: impl Write, state: &State, report_dropped: impl Fn(u64)) {
    IS_WRITER.set(true);
    let mut reported = 0;
    for message in received {
        let line = match message {
            Message::Line(line) => line,
            Message::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                continue;
            }
        };
        let written = write_whole(&mut out, &line);
        let queued = state.queued_bytes.fetch_sub(line.len() + LINE_OVERHEAD, Ordering::Relaxed);
        if written.is_err() {
            state.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let dropped = state.dropped.load(Ordering::Relaxed);
        if dropped > reported && queued <= state.capacity / 2 {
            report_dropped(dropped - reported);
            reported = dropped;
        }
    }
}

/// As [`Write::write_all`], also where the other end is non-blocking: it was made so by another process that shares it.
fn write_whole(out: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Each event of `tracing` is written by one call.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock, mpsc};

    use super::*;

    /// A pipe that takes nothing until it is told how many lines to take.
    struct Pipe {
        permits: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<String>>>,
    }

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(|_| ErrorKind::BrokenPipe)?;
            self.taken.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A queue for that many lines of 36 bytes, the permits of its pipe, and what came through.
    fn queue_for(lines: usize) -> (LogQueue, mpsc::Sender<()>, Arc<Mutex<Vec<String>>>) {
        let (permit, permits) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let pipe = Pipe { permits, taken: Arc::clone(&taken) };
        let own = Arc::new(OnceLock::<LogQueue>::new());
        let report = {
            let own = Arc::clone(&own);
            move |dropped| own.get().unwrap().push(format!("{dropped} dropped").as_bytes())
        };
        let queue = LogQueue::start(lines * (36 + LINE_OVERHEAD), pipe, report).unwrap();
        own.set(queue.clone()).ok().unwrap();
        (queue, permit, taken)
    }

    fn line(number: u32) -> String {
        format!("{number:036}")
    }

    #[test]
    fn a_reader_that_stops_holds_up_nobody_and_is_told_later_how_much_it_missed() {
        let (queue, permit, taken) = queue_for(4);
        for number in 0..10 {
            queue.push(line(number).as_bytes());
        }
        assert_eq!(queue.dropped(), 6);
        assert!(!queue.flush(Duration::ZERO), "it does not wait for the reader");
        for _ in 0..5 {
            permit.send(()).unwrap();
        }
        // The report is queued before the first flush is answered, and written before the second one is.
        assert!(queue.flush(Duration::from_mins(1)) && queue.flush(Duration::from_mins(1)));
        let mut expected: Vec<_> = (0..4).map(line).collect();
        expected.push("6 dropped".to_owned());
        // Told once the queue is half empty, behind what was queued before.
        assert_eq!(*taken.lock().unwrap(), expected);
        queue.push(line(10).as_bytes());
        permit.send(()).unwrap();
        assert!(queue.flush(Duration::from_mins(1)));
        assert_eq!((queue.dropped(), taken.lock().unwrap().len()), (6, 6), "it is told once");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_nothing_is_told_of_them() {
        let (queue, permit, taken) = queue_for(4);
        drop(permit);
        for number in 0..3 {
            queue.push(line(number).as_bytes());
        }
        assert!(queue.flush(Duration::from_mins(1)));
        assert_eq!((queue.dropped(), taken.lock().unwrap().len()), (3, 0));
    }

    #[test]
    fn a_pipe_that_does_not_block_is_written_to_again_and_again() {
        struct Stubborn(Vec<u8>, u32);
        impl Write for Stubborn {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.1 += 1;
                match self.1 % 3 {
                    0 => Err(ErrorKind::WouldBlock.into()),
                    1 => Err(ErrorKind::Interrupted.into()),
                    _ => {
                        self.0.push(line[0]);
                        Ok(1)
                    }
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut pipe = Stubborn(Vec::new(), 0);
        write_whole(&mut pipe, b"whole").unwrap();
        assert_eq!(pipe.0, b"whole");
    }
}
