//! A group of instances over one embedded log: partitions are moved by hand, and publishers fence.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trailproof::log::broker::{Broker, Membership, Owner, Partitions, ReadLimits, StoredRecord};
use trailproof::log::embedded::EmbeddedLog;
use trailproof::log::{Error, Log, Publisher, RecordBatch};
use trailproof_topology::effect::{LANES, OutRecord, Topic};
use trailproof_topology::input::{Millis, Offset};

/// What the instances share.
pub(crate) struct Hub {
    pub(crate) log: EmbeddedLog,
    members: Mutex<BTreeMap<usize, Arc<dyn Partitions>>>,
    epochs: Mutex<BTreeMap<Owner, u64>>,
    /// The input offset of each owner's last publish, as a group keeps it.
    settled: Mutex<BTreeMap<Owner, Offset>>,
    /// Publishes of each instance that reached the log.
    publishes: [AtomicU64; 2],
    /// The log says nothing of where partitions end.
    pub(crate) away: AtomicBool,
    /// Readers that were made.
    pub(crate) readers: AtomicU64,
    /// Has the next reader that has just filled a batch find its partition changed, once.
    pub(crate) change: AtomicBool,
}

impl Hub {
    pub(crate) fn new(log: EmbeddedLog) -> Arc<Self> {
        let (members, epochs, settled, publishes) = Default::default();
        let (away, readers, change) = Default::default();
        Arc::new(Self { log, members, epochs, settled, publishes, away, readers, change })
    }

    /// The broker as one instance has it.
    pub(crate) fn broker(self: &Arc<Self>, instance: usize) -> Arc<dyn Broker> {
        Arc::new(Instance { hub: Arc::clone(self), number: instance })
    }

    fn member(&self, instance: usize) -> Arc<dyn Partitions> {
        Arc::clone(&self.members.lock().unwrap()[&instance])
    }

    pub(crate) fn give(&self, instance: usize, partitions: &[(Topic, u32)]) {
        self.member(instance).assigned(partitions);
    }

    pub(crate) fn take(&self, instance: usize, partitions: &[(Topic, u32)], lost: bool) {
        self.member(instance).revoked(partitions, lost);
    }

    pub(crate) fn publishes(&self, instance: usize) -> u64 {
        self.publishes[instance].load(Ordering::SeqCst)
    }
}

struct Instance {
    hub: Arc<Hub>,
    number: usize,
}

impl Broker for Instance {
    fn description(&self) -> String {
        format!("instance {}", self.number)
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.hub.log.partitions(topic)
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        self.hub.log.partition_of(topic, key)
    }

    fn bounds(&self, topic: Topic, partition: u32) -> Result<Range<Offset>, Error> {
        if self.hub.away.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("away".to_owned()));
        }
        self.hub.log.bounds(topic, partition)
    }

    fn read(
        &self,
        topic: Topic,
        partition: u32,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<StoredRecord>, Error> {
        Broker::read(&self.hub.log, topic, partition, from, limits)
    }

    fn record_bytes_max(&self) -> usize {
        self.hub.log.record_bytes_max()
    }

    fn append(&self, traces: &[(u32, Vec<&[u8]>)]) -> Result<(), Error> {
        Broker::append(&self.hub.log, traces)
    }

    fn failure(&self) -> Option<String> {
        self.hub.log.failure()
    }

    fn reader(&self, topic: Topic, partition: u32) -> Result<Box<dyn Log + Send>, Error> {
        self.hub.readers.fetch_add(1, Ordering::SeqCst);
        let inner = Broker::reader(&self.hub.log, topic, partition)?;
        Ok(Box::new(Changing { hub: Arc::clone(&self.hub), inner, full: false }))
    }

    fn publisher(&self, owner: Owner) -> Result<Box<dyn Publisher + Send>, Error> {
        let inner = Broker::publisher(&self.hub.log, owner)?;
        let mut epochs = self.hub.epochs.lock().unwrap();
        let epoch = epochs.entry(owner).or_default();
        *epoch += 1;
        let (hub, instance, epoch) = (Arc::clone(&self.hub), self.number, *epoch);
        Ok(Box::new(Fencing { hub, instance, owner, epoch, inner }))
    }

    fn join(&self, partitions: Arc<dyn Partitions>) -> Result<Box<dyn Membership>, Error> {
        self.hub.members.lock().unwrap().insert(self.number, partitions);
        Ok(Box::new(Member { hub: Arc::clone(&self.hub), number: self.number }))
    }
}

/// A reader whose partition may change under it.
struct Changing {
    hub: Arc<Hub>,
    inner: Box<dyn Log + Send>,
    full: bool,
}

impl Log for Changing {
    fn poll(
        &mut self,
        from: Offset,
        bytes_max: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        if self.full && self.hub.change.swap(false, Ordering::SeqCst) {
            return Err(Error::Changed("the partition".to_owned()));
        }
        self.inner.poll(from, bytes_max, batch)?;
        self.full = batch.bytes_len() >= bytes_max;
        Ok(())
    }

    fn wait(&mut self, from: Offset, timeout: Duration) {
        self.inner.wait(from, timeout);
    }

    fn now_ms(&self) -> Millis {
        self.inner.now_ms()
    }

    fn tick(&mut self) -> Result<(), Error> {
        self.inner.tick()
    }
}

struct Member {
    hub: Arc<Hub>,
    number: usize,
}

impl Membership for Member {
    fn problem(&self) -> Option<String> {
        None
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.hub.members.lock().unwrap().remove(&self.number);
    }
}

/// A publisher that a newer one of its owner fences.
struct Fencing {
    hub: Arc<Hub>,
    instance: usize,
    owner: Owner,
    epoch: u64,
    inner: Box<dyn Publisher + Send>,
}

impl Publisher for Fencing {
    fn committed(&mut self) -> Result<[u64; LANES], Error> {
        self.inner.committed()
    }

    fn settled(&mut self) -> Result<Offset, Error> {
        Ok(self.hub.settled.lock().unwrap().get(&self.owner).copied().unwrap_or_default())
    }

    fn publish(
        &mut self,
        records: &[OutRecord],
        lanes: [u64; LANES],
        settled: Offset,
    ) -> Result<(), Error> {
        // Held until the records are in: a newer publisher reads the lanes after that.
        let epochs = self.hub.epochs.lock().unwrap();
        if epochs[&self.owner] != self.epoch {
            return Err(Error::Fenced(self.owner.name()));
        }
        self.hub.publishes[self.instance].fetch_add(1, Ordering::SeqCst);
        self.inner.publish(records, lanes, settled)?;
        self.hub.settled.lock().unwrap().insert(self.owner, settled);
        Ok(())
    }
}
