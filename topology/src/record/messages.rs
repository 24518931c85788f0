//! What a record stage says at once: notifications of key events, and dead letters.

use super::RecordStage;
use crate::effect::{Effect, Lane, OutRecord, Topic};
use crate::input::Input;
use crate::rule::{self, Occasion};
use crate::segment::Filing;
use crate::stage::Batch;
use crate::trace::Reject;

impl RecordStage {
    /// Tells what the account's rules want told.
    pub(super) fn notify(
        &mut self,
        account: u32,
        input: &Input<'_>,
        filing: &Filing<'_>,
        trace_id: &str,
        conflict: bool,
        batch: &mut Batch,
    ) {
        let Some(router) = &self.router else { return };
        let account = router.account_at(account);
        for rule in account.rules.iter().filter(|rule| rule::matches(rule, filing.trace)) {
            let sequence = self.sequences.entry(rule.id.clone()).or_default();
            let own = filing.trace.value(crate::attribute::Attribute::ProjectId);
            let default = account.projects.first().map(|project| project.id.as_str());
            let (head, body) = crate::segment::split_at_bracket(filing.record, filing.added);
            let about = Occasion {
                region: &router.catalog().region,
                account: &account.id,
                project: own.or(default).unwrap_or_default(),
                tracker: &router.tracker_at(self.selected[0]).name,
                partition: self.setup.partition,
                offset: input.offset,
                record_time_ms: filing.trace.record_time_ms.unwrap_or(input.append_time_ms),
                trace_id,
                conflict,
                sequence: *sequence,
                stored: &[head, filing.added, body].concat(),
            };
            let record = rule::notification(rule, filing.trace, &about);
            *sequence += 1;
            if !self.dirty_sequences.contains(&rule.id) {
                self.dirty_sequences.push(rule.id.clone());
            }
            self.tally.notifications += 1;
            batch.effect(&mut self.position, Lane::Notify, &Effect::Records(vec![record]));
        }
    }

    /// Counts a record that is no trace, where it belongs, and keeps it as a dead letter.
    pub(super) fn reject(
        &mut self,
        input: &Input<'_>,
        record: &[u8],
        reject: Reject,
        batch: &mut Batch,
    ) {
        let named = reject.account.as_deref();
        let known = named.and_then(|id| self.router.as_ref()?.account(id));
        match known {
            Some(account) => {
                let slot = self.slot(account);
                let counts = self.counts.account(slot);
                counts.received += 1;
                counts.dead_lettered += 1;
            }
            None => self.counts.dead_lettered += 1,
        }
        self.dead_letter(input, record, &reject, batch);
    }

    pub(super) fn dead_letter(
        &mut self,
        input: &Input<'_>,
        record: &[u8],
        reject: &Reject,
        batch: &mut Batch,
    ) {
        self.tally.dead_letters[reject.reason as usize] += 1;
        let place = [
            ("reason", reject.reason.name().to_owned()),
            ("detail", rule::header(reject.detail.clone())),
            ("topic", Topic::Traces.name().to_owned()),
            ("partition", self.setup.partition.to_string()),
            ("offset", input.offset.to_string()),
            ("append_time_ms", input.append_time_ms.to_string()),
        ];
        let letter = OutRecord {
            topic: Topic::DeadLetters,
            partition: None,
            key: reject.account.clone().unwrap_or_default().into_bytes(),
            headers: place.into_iter().map(|(name, text)| (name.to_owned(), text)).collect(),
            value: record.to_vec(),
        };
        batch.effect(&mut self.position, Lane::Notify, &Effect::Records(vec![letter]));
    }
}
