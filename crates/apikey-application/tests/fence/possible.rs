//! Which steps are possible in a state of the world.

use crate::{
    database::Record,
    setup::{Setup, Trap},
    world::{Action, Creation, Revoker, Revoking, Server, Stage, Step, Verifier, What, World},
};

impl<const N: usize> World<N> {
    pub(crate) fn possible(&self, setup: &Setup, actions: &mut Vec<Action>) {
        actions.clear();
        if self.is_beyond_harm(setup) {
            return;
        }
        let tick = setup.tick_millis();
        actions.push(Action::TimePasses(tick - self.now_millis % tick));
        if setup.failover && self.old.is_none() {
            actions.push(Action::FailsOver);
        }
        if setup.restores && !self.restored {
            actions.push(if self.dump.is_none() { Action::Dumps } else { Action::Restores });
        }
        if setup.copies && self.old.is_none() {
            actions.push(Action::IsCopied);
        }
        let servers: &[Server] = if self.old.is_some() { &[Server::Main, Server::Old] } else { &[Server::Main] };
        for index in 0..N {
            self.possible_for_replica(setup, index, servers, actions);
        }
        self.possible_for_network(setup, servers, actions);
        self.possible_for_others(setup, servers, actions);
    }

    fn possible_for_replica(&self, setup: &Setup, index: usize, servers: &[Server], actions: &mut Vec<Action>) {
        let replica = &self.replicas[index];
        if setup.has(Trap::ClockStopsInSleep) {
            actions.push(Action::SleepsWithClockStopped(index));
        }
        if replica.crashes_left > 0 {
            actions.push(Action::Crashes(index));
        }
        // The renewal task does one thing after the other.
        if replica.queue.length > 0 {
            actions.push(Action::CarriesOut(index));
        } else if !replica.has_left() {
            let room = self.free_messages(setup) > 0;
            if replica.fence.in_flight_since().is_none() {
                if room {
                    actions.push(Action::Begins(index));
                }
            } else if setup.times_out && room && self.timed_out(index) {
                actions.push(Action::GivesUp(index));
            }
            if setup.leave && (room || replica.fence.mark().is_none()) {
                actions.push(Action::Leaves(index));
            }
        }
        for key in 0..setup.keys {
            let reading = |flight: &&crate::world::Flight| flight.key == key && flight.result.is_none();
            let shared = replica.flights.iter().flatten().find(reading).is_some();
            if !shared && replica.flights.iter().flatten().count() < setup.flights && replica.cache[key].is_none() {
                if setup.unborn.is_some() || setup.has(Trap::RecordOlderThanHead) {
                    actions.push(Action::BeginsRead(index, key));
                } else {
                    // Only a read that finds nothing is asked when it began.
                    actions.extend(servers.iter().map(|server| Action::ReadsAtOnce(index, key, *server)));
                }
            }
        }
        for (slot, flight) in replica.flights.iter().enumerate() {
            let Some(flight) = flight else { continue };
            if flight.result.is_some() {
                actions.push(Action::Fills(index, slot));
            } else {
                actions.extend(servers.iter().map(|server| Action::Reads(index, slot, *server)));
            }
        }
        self.possible_for_verifier(setup, index, actions);
    }

    fn possible_for_verifier(&self, setup: &Setup, index: usize, actions: &mut Vec<Action>) {
        let replica = &self.replicas[index];
        match replica.verifier {
            Verifier::Idle | Verifier::CheckedEarly(_) => {
                let early = matches!(replica.verifier, Verifier::CheckedEarly(_));
                if setup.has(Trap::CheckedBeforeArrival) && !early {
                    actions.push(Action::ChecksEarly(index));
                }
                for key in (0..setup.keys).filter(|key| self.matters(*key, setup)) {
                    for strict in [false, true] {
                        if setup.strict.is_none_or(|only| only == strict) {
                            actions.push(Action::Arrives { replica: index, key, strict });
                        }
                    }
                }
            }
            // While it is not admitted, it waits.
            Verifier::Arrived { arrival, .. } => {
                let now = self.replica_next(index);
                if arrival.admit(setup.lease(), replica.deadline, now).is_ok() {
                    actions.push(Action::IsAdmitted(index));
                }
            }
            Verifier::Admitted { .. } => actions.push(Action::Notes(index)),
            Verifier::Noted { looked: false, .. } => actions.push(Action::Looks(index)),
            Verifier::Noted { looked: true, followed, .. } => {
                for (slot, flight) in replica.flights.iter().enumerate() {
                    if flight.is_some_and(|flight| flight.key == followed.key && flight.result.is_some()) {
                        actions.push(Action::Judges(index, slot));
                    }
                }
            }
        }
    }

    fn possible_for_network(&self, setup: &Setup, servers: &[Server], actions: &mut Vec<Action>) {
        for (slot, message) in self.messages.iter().enumerate() {
            let Some(message) = message else { continue };
            match message.stage {
                Stage::Sent | Stage::HalfDone(_) => {
                    for server in servers {
                        // On the old primary alone, a new row could only make others wait.
                        let joins = matches!(message.what, What::Join(..));
                        if !joins || *server == Server::Main && self.main.rows.len() < setup.rows {
                            actions.push(Action::Executes(slot, *server));
                        }
                    }
                    if !message.wanted {
                        actions.push(Action::Vanishes(slot));
                    }
                }
                Stage::Unanswerable => {}
                Stage::Joined(_) | Stage::Renewed(..) | Stage::Gone | Stage::OtherHistory => {
                    if self.replicas[message.from].queue.length == 0 {
                        actions.push(Action::AnswerArrives(slot));
                    }
                }
            }
            if message.wanted && setup.abandon && self.replicas[message.from].queue.length == 0 {
                actions.push(Action::LosesConnection(slot));
            }
        }
    }

    fn possible_for_others(&self, setup: &Setup, servers: &[Server], actions: &mut Vec<Action>) {
        match self.creation {
            Creation::None if setup.unborn.is_some() => actions.push(Action::Creates),
            Creation::Committed => actions.push(Action::CreateReturns),
            Creation::None | Creation::Acknowledged => {}
        }
        for (index, revoker) in self.revokers.iter().enumerate() {
            let Some(key) = revoker.key else { continue };
            match revoker.stage {
                Revoking::Idle | Revoking::Numbered(_) | Revoking::Watched(_) => {
                    if setup.has(Trap::NumbersFromSequence) && revoker.stage == Revoking::Idle {
                        actions.push(Action::TakesNumber(index));
                    } else if setup.has(Trap::WaitCountedFromBeforeCommit) && revoker.stage == Revoking::Idle {
                        actions.push(Action::LooksAtClock(index));
                    } else {
                        let exists = |server: &&Server| self.server(**server).keys[key] != Record::Unborn;
                        actions.extend(servers.iter().filter(exists).map(|server| Action::Revokes(index, *server)));
                    }
                }
                Revoking::Committed(..) => actions.push(Action::SeesCommit(index)),
                Revoking::Confirming(_) if revoker.poll.is_some() => actions.push(Action::TakesPoll(index)),
                Revoking::Confirming(_) => {
                    actions.extend(servers.iter().map(|server| Action::Polls(index, *server)));
                }
                Revoking::Done => {}
            }
        }
        if setup.reaper && self.free_messages(setup) > 0 {
            actions.extend(servers.iter().map(|server| Action::ReaperPolls(*server)));
        }
    }

    /// Whether no verification that matters can ever come: nothing has returned OK, and nothing will.
    fn is_beyond_harm(&self, setup: &Setup) -> bool {
        let created = setup.unborn.is_some();
        let revoked = self.confirmed[..setup.keys].contains(&true);
        let may_be =
            |revoker: &Revoker| revoker.key.is_some_and(|key| key < setup.keys) && revoker.stage != Revoking::Done;
        !created && !revoked && !self.revokers.iter().any(may_be)
    }

    /// Whether the renewal task would find a statement late, if it looked at its clock now.
    fn timed_out(&self, index: usize) -> bool {
        let now = self.replica_next(index);
        now >= self.replicas[index].fence.next_tick()
    }

    /// Carries out what only sends: a statement that was sent is executed whenever the network likes.
    pub(crate) fn send_what_is_next(&mut self, setup: &Setup, index: usize) {
        while let Some(Step::Send(_) | Step::Close(_)) = self.replicas[index].queue.pending().first() {
            match self.replicas[index].queue.pop() {
                Step::Send(what) if self.free_messages(setup) > 0 => self.send(index, what),
                Step::Close(statement) => self.stop_waiting_for(index, Some(statement)),
                Step::Send(_) | Step::Raise(_) | Step::Evict(_) | Step::Publish(_) => {}
            }
        }
    }

    /// Nobody wants the answer any more, to that statement or to any of that replica's.
    pub(crate) fn stop_waiting_for(&mut self, index: usize, statement: Option<apikey_application::fence::Statement>) {
        for slot in &mut self.messages {
            if let Some(message) = slot
                && message.from == index
                && message.wanted
                && let What::Join(of, _) | What::Renew(of, ..) = message.what
                && statement.is_none_or(|statement| statement == of)
            {
                message.wanted = false;
                if !matches!(message.stage, Stage::Sent | Stage::HalfDone(_)) {
                    *slot = None;
                }
            }
        }
    }
}
