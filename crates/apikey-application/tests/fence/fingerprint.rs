//! A state's fingerprint: equal for states that differ in nothing that matters to any future step.
//!
//! - An instant is its age in ticks, which stops at the lease's length: no time horizon is needed.
//! - An instant that is compared with a verification's arrival carries on which side of it it lies.
//! - Replicas' ids are numbered in the order in which they are met: what is fresh stays fresh.
//! - A count of renewals is its distance from the living row's; what lags behind it can never be equal to it again.
//!
//! The fingerprint has 128 bits: in a run of ten million states, two that differ collide with a probability below 10⁻²⁴.

use apikey_application::{
    fence::{Monotonic, ReplicaId},
    ports::Seq,
};

use crate::{
    database::{Database, Record},
    setup::{Setup, Trap},
    world::{Creation, Followed, Message, Revoking, Stage, Step, Verifier, What, World},
};

/// How far ahead is told apart. A row is renewed at most once after a failover, before its replica joins anew.
const AHEAD: u64 = 2;

struct Writer<'a> {
    hash: u128,
    /// What was put since the hash was last mixed, 8 bits each.
    word: u64,
    filled: u32,
    setup: &'a Setup,
    ids: Vec<ReplicaId>,
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

    /// The renewals of a row somewhere, as seen from the primary.
    fn renewals(&mut self, id: ReplicaId, renewals: u64) {
        if self.setup.has(Trap::OneIdForTwoJoins) {
            return self.put(renewals);
        }
        match self.main.rows.get(id) {
            // Only the reaper compares them. Old statements on the old primary alone can count ahead of the living row.
            Some(row) if renewals >= row.renewals && self.setup.reaper => {
                self.put(1 + (renewals - row.renewals).min(AHEAD));
            }
            Some(_) | None => self.put(0),
        }
    }

    fn database(&mut self, database: &Database) {
        self.seq(database.seq);
        self.put(database.sequence);
        for record in database.keys {
            self.record(Some(record));
        }
        self.put(database.rows.len() as u64);
        for row in database.rows.iter() {
            self.id(row.id);
            self.put(row.acked);
            self.renewals(row.id, row.renewals);
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
            What::Renew(_, id, applied) => {
                self.put(2);
                self.id(id);
                self.put(applied);
            }
            What::Delete(id) => {
                self.put(3);
                self.id(id);
            }
            What::Reap(reaping) => {
                self.put(4);
                self.id(reaping.id);
                self.renewals(reaping.id, reaping.renewals);
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
    pub(crate) fn fingerprint(&self, setup: &Setup) -> u128 {
        let mut writer = Writer {
            hash: 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D,
            word: 0,
            filled: 0,
            setup,
            ids: Vec::with_capacity(8),
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

        writer.flags(&[replica.has_left(), replica.left_silently, replica.fence.replica().is_some()]);
        if let Some(id) = replica.fence.replica() {
            writer.id(id);
        }
        writer.seq(replica.fence.applied().unwrap_or(Seq { timeline: 9, number: 0 }));
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
            if let Some((seq, rows)) = &revoker.poll {
                writer.seq(*seq);
                for row in rows.iter() {
                    writer.id(row.id);
                    writer.put(row.acked);
                }
            }
        }
        for (reaping, since) in self.reaper.watched() {
            // What was watched elsewhere, or has been renewed since, can never be reaped: it is as if it were not watched.
            let main = writer.main.rows.get(reaping.id).map(|row| row.renewals);
            let alive = main.is_some_and(|renewals| reaping.renewals >= renewals);
            if alive || setup.has(Trap::OneIdForTwoJoins) || setup.has(Trap::ReapedUnconditionally) {
                writer.id(reaping.id);
                writer.renewals(reaping.id, reaping.renewals);
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
