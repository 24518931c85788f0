//! Selections of `/api/v1`: which account, trackers, times and attribute values.
//!
//! `user=alice` equals · `user^=adm` begins with · `user~=min` contains, whatever the case of its
//! letters. A `!` in front turns it round: `user!=alice`, `user!^=adm`, `user!~=min`. Given several
//! times, any of the values counts. Conditions that differ hold together.
//!
//! **Invariant:** a parameter that is not understood is refused, never passed over: an audit query
//! that asks something else than was meant gives false comfort.

use std::ops::Range;

use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::{Account, Catalog};
use trailproof_topology::input::Millis;
use trailproof_topology::query::predicate::Texts;
use trailproof_topology::query::{Predicate, Query, Test, VALUES_MAX};

use super::error::{ApiError, ApiResult};
use super::params::{self, Params};
use crate::config::closest;

/// Parameters that choose traces, besides the fields.
const COMMON: [&str; 7] =
    ["account", "tracker", "from", "to", "recorded_from", "recorded_to", "partial"];

/// Reads the selection, as a query without rows; `own` are the parameters that the endpoint reads
/// itself.
pub(super) fn selection(params: &Params, catalog: &Catalog, own: &[&str]) -> ApiResult<Query> {
    let mut fields: Vec<(Field, Vec<String>)> = vec![];
    for (name, value) in params {
        if own.contains(&name.as_str()) || COMMON.contains(&name.as_str()) {
            continue;
        }
        let Some(field) = Field::parse(name) else { return Err(unknown(name, own)) };
        if value.is_empty() {
            return Err(ApiError::bad_query(format!("{name} has no value")));
        }
        let value = value.clone();
        match fields.iter_mut().find(|(known, _)| *known == field) {
            None => fields.push((field, vec![value])),
            Some((_, values)) if values.len() == VALUES_MAX => {
                return Err(ApiError::bad_query(format!("{name} has over {VALUES_MAX} values")));
            }
            Some((_, values)) => values.push(value),
        }
    }
    let account = account(params, catalog)?;
    Ok(Query {
        predicates: fields.into_iter().map(|(field, values)| field.predicate(values)).collect(),
        time_ms: period(params, "from", "to")?,
        stream_ms: period(params, "recorded_from", "recorded_to")?,
        ..Query::newest(trackers(params, account)?, 0)
    })
}

/// A field and how it is compared, as the name of a parameter says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Field {
    attribute: Attribute,
    negate: bool,
    /// `^`, `~`, or nothing.
    operator: Option<char>,
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        let operator = name.chars().last().filter(|last| matches!(last, '^' | '~'));
        let name = name.strip_suffix(['^', '~']).unwrap_or(name);
        let (name, negate) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
        Some(Self { attribute: attribute(name)?, negate, operator })
    }

    fn predicate(self, values: Vec<String>) -> Predicate {
        let test = match self.operator {
            Some('^') => Test::Begins(values),
            Some(_) => Test::Contains(Texts::new(&values)),
            None => Test::Equals(values),
        };
        Predicate { attribute: self.attribute, test, negate: self.negate }
    }
}

/// The attribute with this name, or with the old name of one.
pub(super) fn attribute(name: &str) -> Option<Attribute> {
    Attribute::named(if name == "trace_status" { "trace_rating" } else { name })
}

fn unknown(name: &str, own: &[&str]) -> ApiError {
    let bare = name.trim_end_matches(['!', '^', '~']);
    if attribute(bare).is_some() {
        let shown: String = name.chars().take(64).collect();
        return ApiError::bad_query(format!(
            "there is no comparison {shown:?}: a field takes =, ^= or ~=, with ! in front for the \
             opposite"
        ));
    }
    let known = Attribute::ALL.map(Attribute::name);
    let hint = closest(bare, known.into_iter().chain(COMMON).chain(own.iter().copied()))
        .map_or_else(String::new, |near| format!(", did you mean {near}?"));
    let shown: String = bare.chars().take(64).collect();
    ApiError::bad_query(format!("there is no parameter {shown:?}{hint}"))
}

fn account<'a>(params: &Params, catalog: &'a Catalog) -> ApiResult<&'a Account> {
    match (params::last(params, "account"), &catalog.accounts[..]) {
        (Some(id), _) => catalog.account(id).ok_or_else(|| {
            let shown: String = id.chars().take(64).collect();
            ApiError::bad_query(format!("there is no account {shown:?}"))
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(ApiError::bad_query(
            "there are several accounts: name one with account=ID, as /api/v1/accounts lists them",
        )),
    }
}

fn trackers(params: &Params, account: &Account) -> ApiResult<Vec<[u8; 16]>> {
    let named: Vec<&str> = params
        .iter()
        .filter(|(name, _)| name == "tracker")
        .map(|(_, value)| value.as_str())
        .collect();
    for name in &named {
        if account.trackers.iter().all(|tracker| tracker.name != *name) {
            let hint = closest(name, account.trackers.iter().map(|own| own.name.as_str()))
                .map_or_else(String::new, |near| format!(", did you mean {near}?"));
            let shown: String = name.chars().take(64).collect();
            return Err(ApiError::bad_query(format!("there is no tracker {shown:?}{hint}")));
        }
    }
    Ok(account
        .trackers
        .iter()
        .filter(|tracker| named.is_empty() || named.contains(&tracker.name.as_str()))
        .filter_map(trailproof_topology::catalog::Tracker::key)
        .collect())
}

/// From one time to before the other.
fn period(params: &Params, from: &str, to: &str) -> ApiResult<Range<Millis>> {
    let mut period = Millis::MIN..Millis::MAX;
    if let Some(text) = params::last(params, from) {
        period.start = params::time(from, text)?;
    }
    if let Some(text) = params::last(params, to) {
        period.end = params::time(to, text)?;
    }
    Ok(period)
}
