//! The view: what queries answer, page by page, against what the log says.

use trailproof_topology::key::{Table, TrackerId, whole};
use trailproof_topology::memory::Memory;
use trailproof_topology::query::Query;
use trailproof_topology::state::Rows;

use super::node::Node;

/// A trace of the view: tracker, service, offset, stream time, bytes.
pub(crate) type Shown = (TrackerId, String, u64, i64, Vec<u8>);

/// How many runs there are.
pub(crate) fn runs(rows: &Memory) -> usize {
    let mut runs = 0;
    let (from, to) = whole(Table::RunHeader);
    let Ok(()) = rows.scan(&from, &to, &mut |_, _| {
        runs += 1;
        true
    });
    runs
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
