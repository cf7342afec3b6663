//! A state's fingerprint: equal for states that differ in nothing that matters to any future step.
//!
//! - An instant is its age in ticks, which stops at the lease's length: no time horizon is needed.
//! - An instant that is compared with a verification's arrival carries on which side of it it lies.
//! - Replicas' ids are numbered in the order in which they are met: what is fresh stays fresh.
//! - A renewal's number is its rank among all that are somewhere in the world: those to come are greater.
//!
//! The fingerprint has 128 bits: in a run of ten million states, two that differ collide with a probability below 10⁻²⁴.

use apikey_application::{
    fence::{Mark, Monotonic, ReplicaId, ReplicaRow},
    ports::Seq,
};

use crate::{
    database::{Database, Record},
    setup::{Setup, Trap},
    world::{Creation, Followed, Message, Revoking, Stage, Step, Verifier, What, World},
};

struct Writer<'a> {
    hash: u128,
    /// What was put since the hash was last mixed, 8 bits each.
    word: u64,
    filled: u32,
    setup: &'a Setup,
    ids: Vec<ReplicaId>,
    /// The numbers of renewals in some place of the world, in order.
    numbers: Vec<Mark>,
    main: Database,
}

impl Writer<'_> {
    /// Everything that is put is small.
    fn put(&mut self, byte: u64) {
        assert!(byte < 256, "{byte}");
        self.word = self.word << 8 | byte;
        self.filled += 1;
        if self.filled == 8 {
            self.mix();
        }
    }

    /// FNV-1a (Fowler, Noll, Vo) with 128 bits, on words.
    fn mix(&mut self) {
        let word = u128::from(self.word) | u128::from(self.filled) << 64;
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B);
        self.hash ^= self.hash >> 61;
        (self.word, self.filled) = (0, 0);
    }

    fn seq(&mut self, seq: Seq) {
        self.put(u64::from(seq.timeline));
        self.put(seq.number);
        match seq.mark {
            Some(mark) if !self.setup.looks_for_no_mark() => self.mark(mark),
            // Only whether it is the same replica.
            Some(mark) => self.id(mark.replica),
            None => self.put(254),
        }
    }

    fn mark(&mut self, mark: Mark) {
        self.id(mark.replica);
        let of_this = |other: &&Mark| other.replica == mark.replica && other.renewal < mark.renewal;
        self.put(self.numbers.iter().filter(of_this).count() as u64);
    }

    fn id(&mut self, id: ReplicaId) {
        let known = self.ids.iter().position(|known| *known == id);
        let index = known.unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        });
        self.put(index as u64);
    }

    fn record(&mut self, record: Option<Record>) {
        self.put(match record {
            None => 0,
            Some(Record::Unborn) => 1,
            Some(Record::Live) => 2,
            Some(Record::Revoked(number)) => 3 + number,
        });
    }

    fn age(&self, now: u64, then: u64) -> u64 {
        now.saturating_sub(then).min(self.setup.lease_ticks)
    }

    /// Where renewals are counted, the count tells more than the order.
    fn row(&mut self, mark: Mark) {
        if self.setup.has(Trap::OneIdForTwoJoins) {
            self.id(mark.replica);
            return self.put(mark.renewal);
        }
        self.mark(mark);
    }

    fn database(&mut self, database: &Database) {
        self.seq(database.seq);
        self.put(database.sequence);
        for record in database.keys {
            self.record(Some(record));
        }
        self.put(database.rows.len() as u64);
        for row in database.rows.iter() {
            self.put(row.acked);
            self.row(row.mark());
        }
    }

    fn flags(&mut self, flags: &[bool]) {
        self.put(flags.iter().fold(1, |word, flag| word << 1 | u64::from(*flag)));
    }

    fn followed(&mut self, stage: u64, followed: &Followed) {
        self.put(stage + 10 * followed.key as u64);
        self.flags(&[followed.strict, followed.revoked]);
    }

    fn message(&mut self, message: &Message) {
        self.put(1 + message.from as u64);
        match message.what {
            What::Join(_, id) => {
                self.put(1);
                self.id(id);
            }
            What::Renew(statement, mark, applied) => {
                self.put(2);
                self.row(Mark { renewal: statement.number(), ..mark });
                self.put(applied);
                if self.setup.has_histories() {
                    self.row(mark);
                }
            }
            What::Delete(id) => {
                self.put(3);
                self.id(id);
            }
            What::Reap(reaping) => {
                self.put(4);
                self.row(Mark { replica: reaping.id, renewal: reaping.renewals });
            }
        }
        self.put(u64::from(message.wanted));
        match message.stage {
            Stage::Sent => self.put(1),
            Stage::HalfDone(keys) => {
                self.put(2);
                self.flags(&keys);
            }
            Stage::Unanswerable => self.put(3),
            Stage::Gone => self.put(4),
            Stage::OtherHistory => self.put(7),
            Stage::Joined(seq) => {
                self.put(5);
                self.seq(seq);
            }
            Stage::Renewed(seq, keys) => {
                self.put(6);
                self.seq(seq);
                self.flags(&keys);
            }
        }
    }
}

impl World<1> {
    /// Those that something may yet be compared with.
    fn numbers(&self, setup: &Setup) -> Vec<Mark> {
        let replica = &self.replicas[0];
        let databases = [Some(&self.main), self.old.as_ref(), self.behind.as_ref(), self.dump.as_ref()];
        let mut numbers: Vec<Mark> =
            databases.into_iter().flatten().flat_map(|database| database.rows.iter().map(ReplicaRow::mark)).collect();
        for message in self.messages.iter().flatten() {
            if let What::Renew(statement, mark, _) = message.what {
                numbers.push(Mark { renewal: statement.number(), ..mark });
                numbers.extend(setup.has_histories().then_some(mark));
            }
            if let What::Reap(row) = message.what {
                numbers.push(Mark { replica: row.id, renewal: row.renewals });
            }
        }
        numbers.extend(self.reaper.watched().map(|(row, _)| Mark { replica: row.id, renewal: row.renewals }));
        if setup.has_histories() {
            numbers.extend(replica.fence.mark());
            let noted = match replica.verifier {
                Verifier::Noted { noted, .. } => noted.mark,
                _ => None,
            };
            let raised = replica.queue.pending().iter().filter_map(|step| match step {
                Step::Raise(seq) => seq.mark,
                _ => None,
            });
            numbers.extend(raised.chain(noted));
            numbers
                .extend([replica.applied.mark, replica.fence.applied().and_then(|seq| seq.mark)].into_iter().flatten());
            let read = |flight: &crate::world::Flight| flight.result.and_then(|(_, seq)| seq.mark);
            numbers.extend(replica.flights.iter().flatten().filter_map(read));
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    pub(crate) fn fingerprint(&self, setup: &Setup) -> u128 {
        let mut writer = Writer {
            hash: 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D,
            word: 0,
            filled: 0,
            setup,
            ids: Vec::with_capacity(8),
            numbers: self.numbers(setup),
            main: self.main,
        };
        writer.database(&self.main);
        writer.put(u64::from(self.old.is_some()));
        if let Some(old) = &self.old {
            writer.database(old);
        }
        if let Some(behind) = &self.behind {
            writer.database(behind);
        }
        writer.put(self.copied_at.min(200));
        writer.flags(&[self.restored, self.dump.is_some()]);
        if let Some(dump) = &self.dump {
            writer.database(dump);
        }
        self.replica(setup, &mut writer);
        // In which slots messages lie means nothing.
        for wanted in [true, false] {
            for message in self.messages.iter().flatten().filter(|message| message.wanted == wanted) {
                writer.message(message);
            }
        }
        writer.put(255);
        self.others(setup, &mut writer);
        writer.mix();
        writer.hash
    }

    fn replica(&self, setup: &Setup, writer: &mut Writer<'_>) {
        let replica = &self.replicas[0];
        let tick = |instant: Monotonic| setup.tick_of(instant.since_origin());
        let now = (self.now_millis - replica.lag_millis) / setup.tick_millis();
        let asks_for_age = setup.unborn.is_some();
        // The instant with which others are compared, while something depends on it.
        let arrival = match replica.verifier {
            Verifier::Arrived { followed, .. } => Some(followed.at),
            Verifier::Admitted { followed, .. } | Verifier::Noted { followed, .. } if asks_for_age => Some(followed.at),
            _ => None,
        };
        let after = |instant: Monotonic| u64::from(arrival.is_some_and(|arrival| instant > arrival));

        writer.flags(&[replica.has_left(), replica.left_silently, replica.fence.mark().is_some()]);
        if let Some(mark) = replica.fence.mark() {
            writer.id(mark.replica);
            if setup.has_histories() {
                writer.row(mark);
            }
        }
        writer.seq(replica.fence.applied().unwrap_or(Seq::new(9, 0)));
        writer.put(u64::from(replica.fence.unanswered()));
        if let Some(begun) = replica.fence.in_flight_since() {
            writer.put(2 + 2 * writer.age(now, tick(begun)) + after(begun));
        }
        writer.put(u64::from(replica.crashes_left));
        writer.seq(replica.applied);
        let lease = |deadline: Monotonic| {
            let held = setup.lease().held();
            let begun = Monotonic::from_origin(deadline.since_origin().saturating_sub(held));
            (tick(begun), after(begun))
        };
        let (begun, fresh) = lease(replica.deadline);
        writer.put(2 * writer.age(now, begun) + fresh);
        for record in replica.cache {
            writer.record(record);
        }
        for step in replica.queue.pending() {
            match step {
                Step::Raise(seq) => {
                    writer.put(1);
                    writer.seq(*seq);
                }
                Step::Evict(key) => writer.put(10 + *key as u64),
                Step::Publish(deadline) => {
                    let (begun, fresh) = lease(*deadline);
                    writer.put(20 + 2 * writer.age(now, begun) + fresh);
                }
                Step::Send(What::Delete(id)) => {
                    writer.put(2);
                    writer.id(*id);
                }
                Step::Send(_) | Step::Close(_) => writer.put(3),
            }
        }
        writer.put(255);
        for flight in replica.flights.iter().flatten() {
            writer.put(flight.key as u64 + 10 * u64::from(flight.approved));
            writer.put(if asks_for_age { after(flight.begun) } else { 0 });
            writer.record(flight.half);
            if let Some((record, seq)) = flight.result {
                writer.record(Some(record));
                writer.seq(seq);
            }
        }
        writer.put(255);
        match replica.verifier {
            Verifier::Idle => writer.put(0),
            Verifier::CheckedEarly(_) => writer.put(1),
            Verifier::Arrived { followed, noted_early, .. } => {
                writer.followed(2, &followed);
                if setup.has(Trap::NotedBeforeTheWait) {
                    writer.seq(noted_early);
                }
            }
            Verifier::Admitted { followed, noted_early, .. } => {
                writer.followed(3, &followed);
                if let Some(noted) = noted_early {
                    writer.seq(noted);
                }
            }
            Verifier::Noted { followed, noted, looked, .. } => {
                writer.followed(if looked { 5 } else { 4 }, &followed);
                writer.seq(noted);
            }
        }
    }

    fn others(&self, setup: &Setup, writer: &mut Writer<'_>) {
        let now = self.now_millis / setup.tick_millis();
        let tick = |instant: Monotonic| setup.tick_of(instant.since_origin());
        for revoker in &self.revokers {
            match revoker.stage {
                Revoking::Idle => writer.put(0),
                Revoking::Numbered(number) => writer.put(10 + number),
                Revoking::Watched(at) => writer.put(20 + writer.age(now, tick(at))),
                Revoking::Committed(seq, early) => {
                    writer.put(30 + early.map_or(9, |at| writer.age(now, tick(at))));
                    writer.seq(seq);
                }
                Revoking::Confirming(confirmation) => {
                    writer.put(40 + writer.age(now, tick(confirmation.seen())));
                    writer.seq(confirmation.commit());
                }
                Revoking::Done => writer.put(1),
            }
            if let Some((seq, rows, own)) = &revoker.poll {
                writer.seq(*seq);
                writer.put((*own).min(200));
                for row in rows.iter() {
                    writer.id(row.id);
                    writer.put(row.acked);
                }
            }
        }
        for (reaping, since) in self.reaper.watched() {
            // What was watched elsewhere, or has been renewed since, can never be reaped: it is as if it were not watched.
            let main = writer.main.rows.get(reaping.id).map(|row| row.renewals);
            let alive = main == Some(reaping.renewals);
            let may_return = setup.has_histories() || setup.has(Trap::OneIdForTwoJoins);
            if alive || may_return || setup.has(Trap::ReapedUnconditionally) {
                writer.row(Mark { replica: reaping.id, renewal: reaping.renewals });
                writer.put(writer.age(now, tick(since)));
            }
        }
        writer.flags(&self.confirmed);
        writer.put(match self.creation {
            Creation::None => 0,
            Creation::Committed => 1,
            Creation::Acknowledged => 2,
        });
    }
}
