//! What a step does. Every decision of the protocol is the production code's; where a [`Trap`] is set, this driver or the
//! environment goes wrong in that one way.

use apikey_application::{
    fence::{
        Arrival, Confirmation, Effect, Lease, Mark, Monotonic, Progress, ReplicaId, ReplicaRow, Ruling, may_cache,
    },
    ports::Seq,
};
use apikey_domain::KeyDigest;
use uuid::Uuid;

use crate::{
    database::{Record, Rows},
    setup::{Setup, Trap},
    world::{
        Action, Creation, Flight, Followed, KEYS, Message, Revoking, Server, Stage, Step, Verifier, Violation, What,
        World,
    },
};

impl<const N: usize> World<N> {
    /// Takes a step that is possible.
    pub(crate) fn take(&mut self, setup: &Setup, action: Action) -> Option<Violation> {
        match action {
            Action::TimePasses(millis) => self.now_millis += millis,
            Action::SleepsWithClockStopped(index) => {
                self.now_millis += setup.tick_millis();
                self.replicas[index].lag_millis += setup.tick_millis();
            }
            Action::FailsOver => {
                self.old = Some(self.main);
                if let Some(behind) = self.behind.filter(|_| setup.has(Trap::AsynchronousStandby)) {
                    self.main = behind;
                }
                self.main.seq.timeline += 1;
            }
            Action::Dumps => self.dump = Some(self.main),
            Action::Restores => self.restore(setup),
            Action::IsCopied => {
                self.old = Some(self.main);
                self.copied_at = self.main.seq.number;
            }
            Action::Begins(index) => {
                let now = self.replica_now(index);
                self.replicas[index].fence.asked();
                let effects = self.replicas[index].fence.tick(now);
                self.follow(setup, index, effects);
            }
            Action::GivesUp(index) => {
                let now = self.replica_now(index);
                let effects = self.replicas[index].fence.tick(now);
                self.follow(setup, index, effects);
            }
            Action::LosesConnection(slot) => self.lose_connection(slot),
            Action::Vanishes(slot) => self.messages[slot] = None,
            Action::Executes(slot, server) => self.execute(setup, slot, server),
            Action::AnswerArrives(slot) => self.answer_arrives(setup, slot),
            Action::CarriesOut(index) => self.carry_out(setup, index),
            Action::Leaves(index) => self.leave(setup, index),
            Action::Crashes(index) => {
                self.stop_waiting_for(index, None);
                self.replicas[index].restart(index, setup.lease());
            }
            Action::BeginsRead(index, key) => {
                self.begin_read(index, key);
            }
            Action::ReadsAtOnce(index, key, server) => {
                let slot = self.begin_read(index, key);
                self.read(setup, index, slot, server);
            }
            Action::Reads(index, slot, server) => self.read(setup, index, slot, server),
            Action::Fills(index, slot) => self.fill(setup, index, slot),
            Action::ChecksEarly(_)
            | Action::Arrives { .. }
            | Action::IsAdmitted(_)
            | Action::Notes(_)
            | Action::Looks(_)
            | Action::Judges(..) => return self.verify(setup, action),
            Action::Creates => {
                self.remember_behind(setup);
                self.main.keys[setup.unborn.expect("possible")] = Record::Live;
                self.creation = Creation::Committed;
            }
            Action::CreateReturns => self.creation = Creation::Acknowledged,
            Action::LooksAtClock(_)
            | Action::TakesNumber(_)
            | Action::Revokes(..)
            | Action::SeesCommit(_)
            | Action::Polls(..)
            | Action::TakesPoll(_) => self.revoke(setup, action),
            Action::ReaperPolls(server) => self.reap(setup, server),
        }
        None
    }

    fn remember_behind(&mut self, setup: &Setup) {
        if setup.has(Trap::AsynchronousStandby) {
            self.behind = Some(self.main);
        }
    }

    /// Queues what the fence wants done, in its order but for the trap that is set.
    fn follow(&mut self, setup: &Setup, index: usize, effects: Vec<Effect>) {
        let joins = effects.contains(&Effect::EvictAll);
        let mut steps: Vec<Step> = Vec::new();
        for effect in effects {
            match effect {
                Effect::RaiseApplied(seq) => steps.push(Step::Raise(seq)),
                Effect::Evict(digests) => steps.extend(digests.iter().map(|digest| Step::Evict(key(digest)))),
                Effect::EvictAll if setup.has(Trap::JoinKeepsCache) => {}
                Effect::EvictAll => steps.extend((0..setup.keys).map(Step::Evict)),
                Effect::PublishDeadline(deadline) => steps.push(Step::Publish(deadline)),
                // In the model a waiter looks whenever it likes.
                Effect::WakeWaiters => {}
                Effect::CloseConnection(statement) => steps.push(Step::Close(statement)),
                Effect::DeleteRow(id) => steps.push(Step::Send(What::Delete(id))),
                Effect::Join(statement, id) => steps.push(Step::Send(What::Join(statement, id))),
                Effect::Renew(statement, mark, acked) => steps.push(Step::Send(What::Renew(statement, mark, acked))),
            }
        }
        if setup.has(Trap::AppliedRaisedAfterEvictions) || joins && setup.has(Trap::JoinEmptiesCacheFirst) {
            // The raise moves behind the evictions and stays before the lease.
            steps.sort_by_key(|step| matches!(step, Step::Raise(_) | Step::Publish(_)));
        }
        if setup.has(Trap::LeasePublishedBeforeEvictions) {
            steps.sort_by_key(|step| matches!(step, Step::Evict(_)));
        }
        if setup.has(Trap::RowLeavesBeforeDeadline) && self.replicas[index].fence.has_left() {
            steps.sort_by_key(|step| !matches!(step, Step::Send(_)));
        }
        for step in steps {
            self.replicas[index].queue.push(step);
        }
        self.send_what_is_next(setup, index);
    }

    fn carry_out(&mut self, setup: &Setup, index: usize) {
        let replica = &mut self.replicas[index];
        match replica.queue.pop() {
            Step::Raise(seq) => replica.applied = seq,
            Step::Evict(key) => replica.cache[key] = None,
            Step::Publish(deadline) => replica.deadline = deadline,
            Step::Send(_) | Step::Close(_) => {}
        }
        self.send_what_is_next(setup, index);
    }

    fn leave(&mut self, setup: &Setup, index: usize) {
        if setup.has(Trap::LeavesWithRenewalInFlight) {
            // Whoever drives the fence forgets to tell it.
            self.replicas[index].left_silently = true;
            let row = self.replicas[index].fence.mark().map(|mark| mark.replica);
            self.replicas[index].queue.push(Step::Publish(Monotonic::ZERO));
            if let Some(id) = row {
                self.replicas[index].queue.push(Step::Send(What::Delete(id)));
            }
        } else {
            let effects = self.replicas[index].fence.leave();
            self.follow(setup, index, effects);
        }
    }

    fn lose_connection(&mut self, slot: usize) {
        let Message { from, what, .. } = self.messages[slot].expect("possible");
        if let What::Join(statement, _) | What::Renew(statement, ..) = what {
            let now = self.replica_now(from);
            self.replicas[from].fence.lost(statement, now);
            self.stop_waiting_for(from, Some(statement));
        }
    }

    /// The server executes a statement. On the isolated old primary it happens there alone, and is never answered.
    fn execute(&mut self, setup: &Setup, slot: usize, on: Server) {
        let mut message = self.messages[slot].expect("possible");
        let one_id = setup.has(Trap::OneIdForTwoJoins);
        let actual = |id| if one_id { ReplicaId::from_uuid(Uuid::from_u128(7)) } else { id };
        let database = self.server_mut(on);
        let answer = match message.what {
            What::Join(_, id) => {
                database.rows.put(Self::row(setup, id, database.seq.number));
                Stage::Joined(database.seq)
            }
            What::Renew(statement, mark, applied) => {
                if setup.has(Trap::DigestsOlderThanHead) && message.stage == Stage::Sent {
                    message.stage = Stage::HalfDone(database.revoked_after(applied));
                    self.messages[slot] = Some(message);
                    return;
                }
                let acked = if setup.has(Trap::AcknowledgedBeforeApplied) { database.seq.number } else { applied };
                let revoked = match message.stage {
                    Stage::HalfDone(revoked) => revoked,
                    _ => database.revoked_after(applied),
                };
                let seq = database.seq;
                match database.rows.get_mut(actual(mark.replica)) {
                    Some(_) if on == Server::Old && setup.has(Trap::RenewalByRead) => Stage::Renewed(seq, revoked),
                    Some(row) if one_id => {
                        (row.acked, row.renewals) = (acked, row.renewals + 1);
                        Stage::Renewed(seq, revoked)
                    }
                    Some(row)
                        if row.renewals < statement.number()
                            && (row.mark().follows(mark) || setup.has(Trap::HistoryNotComparedInRenewals)) =>
                    {
                        (row.acked, row.renewals) = (acked, statement.number());
                        Stage::Renewed(seq, revoked)
                    }
                    Some(_) => Stage::OtherHistory,
                    None => Stage::Gone,
                }
            }
            What::Delete(id) => {
                database.rows.remove(actual(id));
                Stage::Unanswerable
            }
            What::Reap(reaping) => {
                let unchanged = database.rows.get(reaping.id).is_some_and(|row| row.renewals == reaping.renewals);
                if unchanged || setup.has(Trap::ReapedUnconditionally) {
                    database.rows.remove(reaping.id);
                }
                Stage::Unanswerable
            }
        };
        let answers = on == Server::Main || setup.has(Trap::RenewalByRead);
        message.stage = if answers { answer } else { Stage::Unanswerable };
        self.messages[slot] = message.wanted.then_some(message);
    }

    fn answer_arrives(&mut self, setup: &Setup, slot: usize) {
        let Message { from, what, stage, .. } = self.messages[slot].take().expect("possible");
        let (What::Join(statement, _) | What::Renew(statement, ..)) = what else { return };
        let now = self.replica_now(from);
        let fence = &mut self.replicas[from].fence;
        let mut effects = match stage {
            Stage::Joined(seq) => fence.joined(statement, seq, now),
            Stage::Renewed(mut seq, revoked) => {
                if let Some(applied) = fence.applied().filter(|_| setup.has(Trap::RenewalAcrossTimelines)) {
                    seq.timeline = applied.timeline;
                }
                let revoked = (0..KEYS).filter(|key| revoked[*key]).map(digest).collect();
                fence.renewed(statement, seq, revoked, now)
            }
            Stage::Gone => fence.row_gone(statement, now),
            Stage::OtherHistory => fence.other_history(statement, now),
            Stage::Sent | Stage::HalfDone(_) | Stage::Unanswerable => Vec::new(),
        };
        let from_now = now + setup.lease().held();
        if setup.has(Trap::LeaseFromReply) {
            for effect in &mut effects {
                if let Effect::PublishDeadline(deadline) = effect
                    && *deadline != Monotonic::ZERO
                {
                    *deadline = from_now;
                }
            }
        }
        if setup.has(Trap::LeaseFromJoin) && matches!(stage, Stage::Joined(_)) {
            effects.push(Effect::PublishDeadline(from_now));
        }
        self.follow(setup, from, effects);
    }

    fn begin_read(&mut self, index: usize, key: usize) -> usize {
        let begun = self.replica_now(index);
        let flights = &mut self.replicas[index].flights;
        let slot = flights.iter().position(Option::is_none).expect("possible");
        flights[slot] = Some(Flight { key, begun, half: None, result: None, approved: false });
        slot
    }

    fn read(&mut self, setup: &Setup, index: usize, slot: usize, server: Server) {
        let database = *self.server(server);
        let own = self.replicas[index].applied.mark.filter(|_| !setup.looks_for_no_mark());
        let mark = own.and_then(|mark| database.rows.get(mark.replica)).map(ReplicaRow::mark);
        let flight = self.replicas[index].flights[slot].as_mut().expect("possible");
        let record = database.keys[flight.key];
        match flight.half {
            None if setup.has(Trap::RecordOlderThanHead) => flight.half = Some(record),
            half => flight.result = Some((half.unwrap_or(record), Seq { mark, ..database.seq })),
        }
    }

    fn fill(&mut self, setup: &Setup, index: usize, slot: usize) {
        let replica = &mut self.replicas[index];
        let flight = replica.flights[slot].as_mut().expect("possible");
        let (record, mut read) = flight.result.expect("possible");
        if setup.has(Trap::ReadComparesNumbersAlone) {
            read.timeline = replica.applied.timeline;
        }
        if setup.looks_for_no_mark() {
            read.mark = replica.applied.mark;
        }
        // The shard's lock is held: check and insert are one step.
        let fits = flight.approved || may_cache(read, replica.applied) || setup.has(Trap::FillUnchecked);
        if fits && setup.has(Trap::FillCheckedApart) && !flight.approved {
            flight.approved = true;
            return;
        }
        if fits && record != Record::Unborn {
            replica.cache[flight.key] = Some(record);
        }
        replica.flights[slot] = None;
    }

    fn verify(&mut self, setup: &Setup, action: Action) -> Option<Violation> {
        match action {
            Action::ChecksEarly(index) => {
                let at = self.replica_now(index);
                let now = self.replica_now(index);
                let replica = &mut self.replicas[index];
                if let Ok(admitted) = Arrival::new(at, false).admit(setup.lease(), replica.deadline, now) {
                    replica.verifier = Verifier::CheckedEarly(admitted);
                }
            }
            Action::Arrives { replica: index, key, strict } => {
                let followed = Followed { key, at: self.replica_now(index), strict, revoked: self.confirmed[key] };
                let replica = &mut self.replicas[index];
                replica.verifier = match replica.verifier {
                    Verifier::CheckedEarly(admitted) => Verifier::Admitted { followed, admitted, noted_early: None },
                    _ => arrived(followed, replica.applied),
                };
            }
            Action::IsAdmitted(index) => {
                let now = self.replica_now(index);
                let replica = &mut self.replicas[index];
                if let Verifier::Arrived { followed, arrival, noted_early } = replica.verifier {
                    let admitted = arrival.admit(setup.lease(), replica.deadline, now).expect("possible");
                    let noted_early = Some(noted_early).filter(|_| setup.has(Trap::NotedBeforeTheWait));
                    replica.verifier = Verifier::Admitted { followed, admitted, noted_early };
                }
            }
            Action::Notes(index) => {
                let replica = &mut self.replicas[index];
                if let Verifier::Admitted { followed, admitted, noted_early } = replica.verifier {
                    let noted = noted_early.unwrap_or(replica.applied);
                    replica.verifier = Verifier::Noted { followed, waiter: admitted.note(noted), noted, looked: false };
                }
            }
            Action::Looks(index) => {
                let replica = &mut self.replicas[index];
                if let Verifier::Noted { followed, looked, .. } = &mut replica.verifier {
                    match replica.cache[followed.key] {
                        Some(record) => return self.answer(index, record),
                        None => *looked = true,
                    }
                }
            }
            Action::Judges(index, slot) => return self.judge(setup, index, slot),
            _ => unreachable!("not a verifier's step"),
        }
        None
    }

    fn judge(&mut self, setup: &Setup, index: usize, slot: usize) -> Option<Violation> {
        let replica = &mut self.replicas[index];
        let flight = replica.flights[slot].expect("possible");
        let (record, mut read) = flight.result.expect("possible");
        let Verifier::Noted { followed, waiter, noted, .. } = replica.verifier else { return None };
        if setup.has(Trap::ReadComparesNumbersAlone) {
            read.timeline = noted.timeline;
        }
        if setup.looks_for_no_mark() {
            read.mark = noted.mark;
        }
        if setup.has(Trap::ReadTakenUnchecked) {
            read = noted;
        }
        let ruling = if record == Record::Unborn {
            let mut begun = flight.begun;
            let mut deadline = replica.deadline;
            if setup.has(Trap::AbsenceFromSharedRead) {
                begun = Monotonic::MAX;
            }
            if setup.has(Trap::AbsenceWithoutRenewal) {
                deadline = Monotonic::MAX;
            }
            waiter.judge_absence(read, begun, setup.lease(), deadline, replica.applied)
        } else {
            waiter.judge_record(read, replica.applied)
        };
        match ruling {
            Ruling::Take => return self.answer(index, record),
            // It goes on waiting: for another read, or for a renewal.
            Ruling::ReadAgain | Ruling::AwaitRenewal => {}
            Ruling::BeginAnew => replica.verifier = arrived(followed, replica.applied),
        }
        None
    }

    /// The verification is over.
    fn answer(&mut self, index: usize, record: Record) -> Option<Violation> {
        let verifier = std::mem::replace(&mut self.replicas[index].verifier, Verifier::Idle);
        let Verifier::Noted { followed, .. } = verifier else { return None };
        match record {
            // Only a key whose creation or revocation has returned OK is followed.
            Record::Unborn => Some(Violation::Forgotten),
            Record::Live if followed.revoked => Some(Violation::StaleAccept),
            Record::Live | Record::Revoked(_) => None,
        }
    }

    fn revoke(&mut self, setup: &Setup, action: Action) {
        match action {
            Action::LooksAtClock(index) => {
                let now = self.other_now();
                self.revokers[index].stage = Revoking::Watched(now);
            }
            Action::TakesNumber(index) => {
                self.main.sequence += 1;
                self.revokers[index].stage = Revoking::Numbered(self.main.sequence);
            }
            Action::Revokes(index, server) => self.commit_revocation(setup, index, server),
            Action::SeesCommit(index) => {
                let now = self.other_now();
                if let Revoking::Committed(seq, early) = self.revokers[index].stage {
                    let confirmation = Confirmation::new(seq, early.unwrap_or(now), setup.lease());
                    self.revokers[index].stage = Revoking::Confirming(confirmation);
                }
            }
            Action::Polls(index, server) => {
                let database = self.server(server);
                // Whoever revokes is a replica itself, which is not modelled: it renews in time, on the primary.
                let follows = server == Server::Main || !setup.copies || setup.has(Trap::PollOnCopyCounts);
                let own = if follows { u64::MAX } else { self.copied_at };
                self.revokers[index].poll = Some((database.seq, database.rows, own));
                if !setup.slow_polls {
                    self.take_poll(setup, index);
                }
            }
            Action::TakesPoll(index) => self.take_poll(setup, index),
            _ => unreachable!("not a revoker's step"),
        }
    }

    fn commit_revocation(&mut self, setup: &Setup, index: usize, server: Server) {
        let (key, before) = (self.revokers[index].key.expect("possible"), self.revokers[index].stage);
        if server == Server::Main {
            self.remember_behind(setup);
        }
        let database = self.server_mut(server);
        let repeated = matches!(database.keys[key], Record::Revoked(_));
        let seq = match before {
            Revoking::Numbered(number) if !repeated => {
                database.keys[key] = Record::Revoked(number);
                database.seq.number = database.seq.number.max(number);
                Seq { number, ..database.seq }
            }
            _ => database.revoke(key),
        };
        let early = if let Revoking::Watched(at) = before { Some(at) } else { None };
        self.revokers[index].stage = match server {
            Server::Old => Revoking::Done,
            // Nobody follows that key: whether it is confirmed means nothing, but for what a wrong confirmation does.
            Server::Main if key >= setup.keys && !setup.has(Trap::RowsDeletedByRevoker) => Revoking::Done,
            Server::Main if repeated && setup.has(Trap::AlreadyRevokedSoOk) => {
                self.confirmed[key] = true;
                Revoking::Done
            }
            Server::Main => Revoking::Committed(seq, early),
        };
    }

    fn take_poll(&mut self, setup: &Setup, index: usize) {
        let (mut head, rows, own) = self.revokers[index].poll.take().expect("possible");
        let now = self.other_now();
        let Revoking::Confirming(confirmation) = &mut self.revokers[index].stage else { return };
        let commit = confirmation.commit();
        if setup.has(Trap::PollOnOldPrimaryCounts) {
            head = commit;
        }
        if setup.has(Trap::PollComparesNumbersAlone) {
            head.timeline = commit.timeline;
        }
        if let Progress::Confirmed { .. } = confirmation.polled(head, &with_own(&rows, own), OWN, now) {
            if setup.has(Trap::RowsDeletedByRevoker) {
                for row in rows.iter().filter(|row| row.acked < commit.number) {
                    self.main.rows.remove(row.id);
                }
            }
            self.revokers[index].stage = Revoking::Done;
            self.confirmed[self.revokers[index].key.expect("possible")] = true;
        }
    }

    /// The database is as it was when the dump was taken. What was lost with it is promised no more.
    fn restore(&mut self, setup: &Setup) {
        self.main = self.dump.take().expect("possible");
        self.restored = true;
        self.now_millis += setup.lease_ticks * setup.tick_millis();
        for revoker in &mut self.revokers {
            if matches!(revoker.stage, Revoking::Committed(..) | Revoking::Confirming(_)) {
                (revoker.stage, revoker.poll) = (Revoking::Done, None);
            }
        }
        for key in 0..KEYS {
            self.confirmed[key] &= matches!(self.main.keys[key], Record::Revoked(_));
        }
        for replica in &mut self.replicas {
            let followed = match replica.verifier {
                Verifier::Arrived { followed, .. }
                | Verifier::Admitted { followed, .. }
                | Verifier::Noted { followed, .. } => followed,
                Verifier::Idle | Verifier::CheckedEarly(_) => continue,
            };
            if !self.confirmed[followed.key] {
                replica.verifier = Verifier::Idle;
            }
        }
    }

    fn reap(&mut self, setup: &Setup, server: Server) {
        let now = self.other_now();
        let rows = self.server(server).rows.all();
        for reaping in self.reaper.polled(&rows, now) {
            if self.free_messages(setup) > 0
                && !self.messages.iter().flatten().any(|sent| sent.what == What::Reap(reaping))
            {
                self.send(0, What::Reap(reaping));
            }
        }
    }
}

const OWN: Mark = Mark { replica: ReplicaId::from_uuid(Uuid::nil()), renewal: 0 };

fn with_own(rows: &Rows, acked: u64) -> Vec<ReplicaRow> {
    let own = ReplicaRow { id: OWN.replica, acked, renewals: OWN.renewal, lease: Lease::MIN };
    rows.iter().copied().chain([own]).collect()
}

const fn arrived(followed: Followed, noted_early: Seq) -> Verifier {
    Verifier::Arrived { followed, arrival: Arrival::new(followed.at, followed.strict), noted_early }
}

fn digest(key: usize) -> KeyDigest {
    KeyDigest::from_bytes([u8::try_from(key).expect("few keys"); 32])
}

fn key(digest: &KeyDigest) -> usize {
    usize::from(digest.as_bytes()[0])
}
