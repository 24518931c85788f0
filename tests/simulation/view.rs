//! The view: what queries answer, page by page, against what the log says.

use std::collections::BTreeSet;

use trailproof_topology::key::{Table, TrackerId, whole};
use trailproof_topology::memory::Memory;
use trailproof_topology::query::Query;
use trailproof_topology::state::Rows;

use super::node::Node;

/// A trace of the view: tracker, service, offset, stream time, bytes.
pub(crate) type Shown = (TrackerId, String, u64, i64, Vec<u8>);

/// Days and trackers that have columns or runs.
pub(crate) fn groups(rows: &Memory) -> BTreeSet<(u16, TrackerId)> {
    let mut groups = BTreeSet::new();
    for table in [Table::Columns, Table::Run] {
        let (from, to) = whole(table);
        let Ok(()) = rows.scan(&from, &to, &mut |key, _| {
            let day = key.get(1..3).and_then(|day| day.try_into().ok()).map(u16::from_be_bytes);
            let tracker = key.get(3..19).and_then(|id| id.try_into().ok());
            groups.extend(day.zip(tracker));
            true
        });
    }
    groups
}

/// Everything that a partition's view shows of some trackers, by pages.
pub(crate) fn shown(
    node: &dyn Node,
    trackers: &[TrackerId],
    page: usize,
) -> Result<Vec<Shown>, String> {
    let view = node.view();
    let mut all = Vec::new();
    let mut query = Query { count: true, ..Query::newest(trackers.to_vec(), page) };
    loop {
        let answer = view.query(&query).map_err(|error| format!("the view: {error:?}"))?;
        if !answer.bounds.is_exact() {
            return Err(format!("the view is not exact: {:?}", answer.bounds));
        }
        for row in answer.rows {
            let segment = row.segment;
            let (offset, time_ms) = (row.cursor.offset, row.cursor.stream_time_ms);
            all.push((segment.tracker, segment.service, offset, time_ms, row.trace));
        }
        if let Some(total) = answer.total
            && answer.next.is_none()
            && total != all.len() as u64
        {
            return Err(format!("the view counts {total} and shows {}", all.len()));
        }
        match answer.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(all),
        }
    }
}
