//! Traces as their producers mean them: the bytes, and beside them what the oracle goes by.

use std::sync::Arc;

use super::random::Random;

/// What a producer meant by a record.
#[derive(Clone, Debug)]
pub(crate) enum Meant {
    /// The engine's own.
    Own,
    Tick,
    Mark(u64),
    /// A header that means nothing.
    Strange,
    /// An offset without record.
    Absent,
    /// A record that nobody can read any more.
    Lost,
    /// No trace. The account it names all the same.
    Garbage(Option<String>),
    Trace(Arc<Facts>),
}

/// What is true of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) account: String,
    pub(crate) service: &'static str,
    pub(crate) data: bool,
    /// The tracker that a data event names.
    pub(crate) tracker: Option<&'static str>,
    /// The bucket that a data event concerns.
    pub(crate) bucket: &'static str,
    pub(crate) read: bool,
    pub(crate) datakey: bool,
    pub(crate) user: &'static str,
    pub(crate) trace_id: Option<String>,
    pub(crate) has_record_time: bool,
}

/// A record to append.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) value: Vec<u8>,
    pub(crate) meant: Meant,
}

/// Makes records.
pub(crate) struct Producer {
    /// Accounts that there may be; the last one never is.
    pub(crate) accounts: u64,
    /// Greatest filling of a trace.
    pub(crate) filling: u64,
    /// Whether ids repeat often.
    pub(crate) repeats: bool,
    sent: Vec<Record>,
    made: u64,
}

impl Producer {
    pub(crate) fn new(accounts: u64, filling: u64, repeats: bool) -> Self {
        Self { accounts, filling, repeats, sent: Vec::new(), made: 0 }
    }

    pub(crate) fn record(&mut self, random: &mut Random) -> Record {
        if !self.sent.is_empty() && random.one_in(if self.repeats { 4 } else { 12 }) {
            let back = random.below(self.sent.len().min(30) as u64) as usize;
            return self.sent[self.sent.len() - 1 - back].clone();
        }
        if random.one_in(14) {
            return garbage(random);
        }
        let record = self.trace(random);
        self.sent.push(record.clone());
        record
    }

    /// A management event that every system tracker selects.
    pub(crate) fn plain(
        &mut self,
        account: &str,
        service: &'static str,
        random: &mut Random,
    ) -> Record {
        self.made += 1;
        let facts = Facts {
            account: account.to_owned(),
            service,
            data: false,
            tracker: None,
            bucket: "album",
            read: false,
            datakey: false,
            user: "alice",
            trace_id: None,
            has_record_time: false,
        };
        let value = self.text(&facts, random).into_bytes();
        Record { value, meant: Meant::Trace(Arc::new(facts)) }
    }

    fn trace(&mut self, random: &mut Random) -> Record {
        self.made += 1;
        let account = format!("account-{}", random.below(self.accounts + 1));
        let data = random.one_in(4);
        let datakey = !data && random.one_in(10);
        let service = match (data, datakey) {
            (true, _) => "OBS",
            (_, true) => "KMS",
            _ => *random.pick(&["ECS", "IAM", "VPC"]),
        };
        let names_tracker = data && random.one_in(3);
        let facts = Facts {
            account: account.clone(),
            service,
            data,
            tracker: names_tracker.then(|| *random.pick(&["photos", "other"])),
            bucket: *random.pick(&["album", "films"]),
            read: data && random.one_in(2),
            datakey,
            user: *random.pick(&["alice", "bob", "mallory"]),
            trace_id: (!random.one_in(4)).then(|| match self.repeats {
                true => format!("id-{}", random.below(12)),
                false => format!("id-{}", random.below(900)),
            }),
            has_record_time: random.one_in(2),
        };
        let value = self.text(&facts, random).into_bytes();
        Record { value, meant: Meant::Trace(Arc::new(facts)) }
    }

    fn text(&self, facts: &Facts, random: &mut Random) -> String {
        let kind = if facts.data { "ObsSDK" } else { "ApiCall" };
        let verb = match facts {
            Facts { datakey: true, .. } => "createDatakey",
            Facts { read: true, .. } => "getObject",
            _ => *random.pick(&["putObject", "deleteThing"]),
        };
        let Facts { account, service, bucket, user, .. } = facts;
        let mut members = vec![
            format!("\"time\":{}", 1_700_000_000_000 + random.below(1 << 40)),
            format!("\"service_type\":\"{service}\",\"resource_type\":\"thing\""),
            format!("\"trace_name\":\"{verb}\",\"trace_rating\":\"normal\""),
            format!("\"trace_type\":\"{kind}\",\"resource_name\":\"{bucket}/x\""),
            format!("\"user\":{{\"name\":\"{user}\",\"domain\":{{\"id\":\"{account}\"}}}}"),
            format!("\"request\":\"canary-{account};#{}\"", self.made),
            format!("\"response\":\"{}\"", "x".repeat(random.below(self.filling + 1) as usize)),
        ];
        if let Some(name) = facts.tracker {
            members.push(format!("\"tracker_name\":\"{name}\""));
        }
        if let Some(id) = &facts.trace_id {
            members.push(format!("\"trace_id\":\"{id}\""));
        }
        if facts.has_record_time {
            members.push(format!("\"record_time\":{}", 1_700_000_000_000 + random.below(1000)));
        }
        format!("{{{}}}", members.join(","))
    }
}

/// A record that is no trace.
fn garbage(random: &mut Random) -> Record {
    let named = format!("account-{}", random.below(3));
    let unnamed: [&[u8]; 6] =
        [b"", b"\xff\xfe", b"[1]", b"{\"time\":1", b"{\"time\":1e999}", b"\xef\xbb\xbf{}"];
    let (value, account) = match random.below(8) {
        0 => (format!("{{\"time\":1,\"domain_id\":\"{named}\"}}").into_bytes(), Some(named)),
        1 => {
            let text = format!("{{\"time\":\"soon\",\"domain_id\":\"{named}\"}}");
            (text.into_bytes(), Some(named))
        }
        at => (unnamed[at as usize - 2].to_vec(), None),
    };
    Record { value, meant: Meant::Garbage(account) }
}
