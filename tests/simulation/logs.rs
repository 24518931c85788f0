//! The simulated log: partitions in memory, appended whole, with lane positions by owner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trailproof::log::{Error, Kind, Log, Publisher, RecordBatch};
use trailproof_topology::effect::{LANES, OutRecord, Topic};
use trailproof_topology::input::{Millis, Offset};

use super::hub::{Hub, Inner, Verdict};
use super::plant::Plant;
use super::traces::Meant;

/// One record as it lies in a partition.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) append_time_ms: Millis,
    pub(crate) kind: Kind,
    pub(crate) value: Arc<[u8]>,
    /// What its producer meant by it; of topic `traces` alone.
    pub(crate) meant: Meant,
}

/// One partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partition {
    pub(crate) records: Vec<Stored>,
    pub(crate) time_ms: Millis,
}

/// All topics.
#[derive(Default)]
pub(crate) struct Logs {
    pub(crate) traces: Vec<Partition>,
    pub(crate) files: Vec<Partition>,
    /// Empty where nobody reads them.
    notifications: Vec<Partition>,
    /// What leaves for good: notifications, dead letters, checkpoints.
    pub(crate) out: Vec<OutRecord>,
    lanes: BTreeMap<String, [u64; LANES]>,
    epochs: BTreeMap<String, u64>,
}

impl Partition {
    /// One past the last record: what lies behind it without record is not to be seen yet.
    pub(crate) fn end(&self) -> u64 {
        let seen = |record: &Stored| !matches!(record.meant, Meant::Absent);
        self.records.iter().rposition(seen).map_or(0, |at| at as u64 + 1)
    }

    /// Says at the last of some lost records that all of them are.
    fn push_gap(&self, polled_from: u64, at: usize, batch: &mut RecordBatch) {
        let lost = |at: usize| {
            self.records.get(at).is_some_and(|record| matches!(record.meant, Meant::Lost))
        };
        if !lost(at + 1) {
            let before = batch.iter().last().map_or(polled_from, |before| before.offset + 1);
            let next = before as usize;
            let from = (next..=at).rev().take_while(|at| lost(*at)).last().unwrap_or(at);
            batch.push_gap(from as u64, at as u64 + 1);
        }
    }
}

impl Logs {
    pub(crate) fn new(traces: u32, files: u32) -> Self {
        let partitions = |count| vec![Partition::default(); count as usize];
        Self { traces: partitions(traces), files: partitions(files), ..Self::default() }
    }

    /// Logs whose notifications can be read too.
    pub(crate) fn with_notifications(traces: u32, files: u32, notifications: usize) -> Self {
        let notifications = vec![Partition::default(); notifications];
        Self { notifications, ..Self::new(traces, files) }
    }

    pub(crate) fn partition(&mut self, topic: Topic, partition: u32) -> &mut Partition {
        match topic {
            Topic::Traces => &mut self.traces[partition as usize],
            Topic::Notifications => &mut self.notifications[partition as usize],
            _ => &mut self.files[partition as usize],
        }
    }

    pub(crate) fn lanes(&self, owner: &str) -> [u64; LANES] {
        self.lanes.get(owner).copied().unwrap_or_default()
    }
}

impl Inner {
    /// Offsets that hold no record, or none any more.
    pub(crate) fn append_nothing(
        &mut self,
        topic: Topic,
        partition: u32,
        meant: Meant,
        count: u64,
    ) {
        let log = self.logs.partition(topic, partition);
        for _ in 0..count {
            let (kind, meant) = (Kind::Gap, meant.clone());
            log.records.push(Stored { append_time_ms: 0, kind, value: [].into(), meant });
        }
    }

    /// Appends one record at the present.
    pub(crate) fn append(
        &mut self,
        topic: Topic,
        partition: u32,
        kind: Kind,
        value: &[u8],
        meant: Meant,
    ) {
        let (now_ms, clamped) = (self.now_ms, self.clamped);
        let log = self.logs.partition(topic, partition);
        if now_ms < log.time_ms {
            self.marks.insert(if clamped { "time clamped by the log" } else { "time falls" });
        }
        let append_time_ms = if clamped { now_ms.max(log.time_ms) } else { now_ms };
        log.time_ms = log.time_ms.max(append_time_ms);
        log.records.push(Stored { append_time_ms, kind, value: value.into(), meant });
    }
}

/// A reader of one partition.
pub(crate) struct Reader {
    pub(crate) hub: Arc<Hub>,
    pub(crate) topic: Topic,
    pub(crate) partition: u32,
    /// Who reads, for the trace.
    pub(crate) name: String,
}

impl Log for Reader {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        batch.clear();
        let mut hub = self.hub.lock();
        let inner = &mut *hub;
        let rates = inner.faults.rates;
        if inner.faults.verdict(rates.poll) != Verdict::Go {
            inner.marks.insert("poll fails");
            return Err(Error::Unavailable("poll".to_owned()));
        }
        let partial = inner.faults.chance(rates.partial);
        let most = if partial { inner.faults.random.below(4) as usize } else { usize::MAX };
        let plant = inner.plant;
        let now_ms = inner.now_ms;
        let mut hole = plant == Plant::PollHole && inner.faults.random.one_in(20);
        let log = inner.logs.partition(self.topic, self.partition);
        let end = log.end();
        if from > end {
            let (topic, partition) = (self.topic.name(), self.partition);
            return Err(Error::OutOfRange { topic, partition, wanted: from, start: 0, end });
        }
        let from = if plant == Plant::Redeliver && from % 7 == 6 { from - 1 } else { from };
        for (at, record) in log.records.iter().enumerate().skip(from as usize).take(most) {
            match record.meant {
                Meant::Absent => continue,
                Meant::Lost => {
                    log.push_gap(from, at, batch);
                    continue;
                }
                _ if std::mem::take(&mut hole) => continue,
                _ => {}
            }
            let retimed = plant == Plant::PollClock && record.append_time_ms > 0;
            let time_ms = if retimed { now_ms } else { record.append_time_ms };
            batch.push(at as u64, time_ms, record.kind, &record.value);
            if batch.bytes_len() >= bytes_max {
                inner.marks.insert("batch full");
                break;
            }
        }
        match (partial, batch.len()) {
            (true, 0) => inner.mark("poll returns nothing"),
            (true, _) => inner.mark("poll returns a part"),
            _ => {}
        }
        Ok(())
    }

    fn wait(&mut self, from: Offset, timeout: Duration) {
        let began = Instant::now();
        while self.hub.lock().logs.partition(self.topic, self.partition).end() <= from {
            let Some(left) = timeout.checked_sub(began.elapsed()) else { return };
            std::thread::park_timeout(left);
        }
    }

    fn now_ms(&self) -> Millis {
        let mut inner = self.hub.lock();
        let (now_ms, clamped) = (inner.now_ms, inner.clamped);
        let head_ms = inner.logs.partition(self.topic, self.partition).time_ms;
        if clamped { now_ms.max(head_ms) } else { now_ms }
    }

    fn tick(&mut self) -> Result<(), Error> {
        let mut inner = self.hub.lock();
        let rate = inner.faults.rates.tick;
        let verdict = inner.faults.verdict(rate);
        let lies = inner.plant == Plant::TickLies;
        if verdict != Verdict::Fail && !lies {
            inner.append(self.topic, self.partition, Kind::Tick, b"", Meant::Tick);
            let name = &self.name;
            inner.say(|| format!("{name} ticks"));
        }
        if verdict == Verdict::Go {
            return Ok(());
        }
        inner.mark("tick fails");
        Err(Error::Unavailable("tick".to_owned()))
    }
}

/// Appends for one owner, until a later one takes over.
pub(crate) struct SimPublisher {
    hub: Arc<Hub>,
    owner: String,
    epoch: u64,
    /// A publish that was answered with an error and has not happened yet.
    in_flight: Option<(Vec<OutRecord>, [u64; LANES])>,
}

impl SimPublisher {
    /// Fences every earlier publisher of this owner.
    pub(crate) fn new(hub: &Arc<Hub>, owner: &str) -> Self {
        let mut inner = hub.lock();
        let epoch = inner.logs.epochs.entry(owner.to_owned()).or_default();
        *epoch += 1;
        let epoch = *epoch;
        drop(inner);
        Self { hub: Arc::clone(hub), owner: owner.to_owned(), epoch, in_flight: None }
    }

    fn fenced(&self, inner: &Inner) -> Option<Error> {
        let newest = inner.logs.epochs.get(&self.owner).copied().unwrap_or_default();
        let fenced = newest != self.epoch && inner.plant != Plant::NoFence;
        fenced.then(|| Error::Fenced(self.owner.clone()))
    }

    /// The network delivers what was in flight: it counts only if nobody took over.
    pub(crate) fn arrive(&mut self) {
        let Some((records, lanes)) = self.in_flight.take() else { return };
        let mut inner = self.hub.lock();
        if self.fenced(&inner).is_some() {
            inner.mark("a late publish is fenced");
            return;
        }
        apply(&mut inner, &self.owner, &records, lanes);
    }
}

fn apply(inner: &mut Inner, owner: &str, records: &[OutRecord], lanes: [u64; LANES]) {
    for record in records {
        match record.topic {
            Topic::Files => {
                let partition = record.partition.expect("files records name their partition");
                inner.append(Topic::Files, partition, Kind::Data, &record.value, Meant::Own);
                if inner.holes && inner.faults.random.one_in(4) {
                    inner.append_nothing(Topic::Files, partition, Meant::Absent, 1);
                }
            }
            Topic::Traces => {
                let partition = record.partition.expect("records of traces name their partition");
                let own = record.headers.iter().find(|(name, _)| name == "trailproof");
                let kind = Kind::of_header(own.map(|(_, text)| text.as_bytes()));
                inner.append(Topic::Traces, partition, kind, &record.value, Meant::Own);
            }
            topic => {
                inner.logs.out.push(record.clone());
                let partitions = inner.logs.notifications.len();
                if topic == Topic::Notifications && partitions > 0 {
                    let sum: usize = record.key.iter().map(|byte| usize::from(*byte)).sum();
                    let partition = (sum % partitions) as u32;
                    inner.append(topic, partition, Kind::Data, &record.value, Meant::Own);
                }
            }
        }
    }
    if inner.plant != Plant::PublishWithoutLanes || !inner.faults.random.one_in(4) {
        inner.logs.lanes.insert(owner.to_owned(), lanes);
    }
}

impl Publisher for SimPublisher {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        let alive = !self.hub.lock().faults.crashed;
        if alive {
            self.arrive();
        }
        let mut inner = self.hub.lock();
        if let Some(fenced) = self.fenced(&inner) {
            inner.mark("an old owner is fenced");
            return Err(fenced);
        }
        let rate = inner.faults.rates.publish / 4;
        if inner.faults.verdict(rate) != Verdict::Go {
            inner.mark("reading the lanes fails");
            return Err(Error::Unavailable("committed".to_owned()));
        }
        if inner.plant == Plant::ForgetLanes && inner.faults.random.one_in(30) {
            return Ok([0; LANES]);
        }
        Ok(inner.logs.lanes(&self.owner))
    }

    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        _settled: Offset,
    ) -> Result<(), Error> {
        let mut inner = self.hub.lock();
        if let Some(fenced) = self.fenced(&inner) {
            return Err(fenced);
        }
        let rate = inner.faults.rates.publish;
        let verdict = inner.faults.verdict(rate);
        let (crashed, plant) = (inner.faults.crashed, inner.plant);
        match verdict {
            Verdict::Go => {
                apply(&mut inner, &self.owner, records, lanes);
                return Ok(());
            }
            Verdict::Lost if crashed || inner.faults.random.one_in(2) => {
                apply(&mut inner, &self.owner, records, lanes);
                inner.mark("a publish happens and its answer is lost");
            }
            Verdict::Lost => {
                self.in_flight = Some((records.to_vec(), lanes));
                inner.mark("a publish is late");
            }
            Verdict::Fail => {
                if plant == Plant::TornPublish {
                    let before = inner.logs.lanes(&self.owner);
                    apply(&mut inner, &self.owner, &records[..records.len() / 2], before);
                }
                inner.mark("a publish fails");
            }
        }
        Err(Error::Unavailable("publish".to_owned()))
    }
}
