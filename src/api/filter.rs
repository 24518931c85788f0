//! Selections of `/api/v1`: which account, trackers, times and attribute values.
//!
//! `user=alice&user=bob` any of them · `user!=alice` none of them · `user^=adm` begins with ·
//! `user~=min` contains, whatever the case of its letters. A beginning and a text are one value
//! each; all conditions hold together.
//!
//! **Invariant:** a parameter that is not understood is refused, never passed over: an audit query
//! that asks something else than was meant gives false comfort.

use trailproof_topology::attribute::Attribute;
use trailproof_topology::catalog::{Account, Catalog};

use super::backend::{Filter, Period, Selection, Test};
use super::error::{ApiError, ApiResult};
use super::params::{self, Params};
use crate::config::closest;

/// Values of one field at most.
const VALUES_MAX: usize = 100;

/// Parameters that choose traces, besides the fields.
const COMMON: [&str; 7] =
    ["account", "tracker", "from", "to", "recorded_from", "recorded_to", "partial"];

/// How a field's name ends, and what that means.
const OPERATORS: [(&str, &str, bool); 4] =
    [("!", "=", true), ("^", "^", false), ("~", "~", false), ("", "=", false)];

/// Reads the selection; `own` are the parameters that the endpoint reads itself.
pub(super) fn selection(params: &Params, catalog: &Catalog, own: &[&str]) -> ApiResult<Selection> {
    let mut filters: Vec<(Filter, &'static str)> = vec![];
    for (name, value) in params {
        if own.contains(&name.as_str()) || COMMON.contains(&name.as_str()) {
            continue;
        }
        let Some((attribute, operator, negate)) = field(name) else {
            return Err(unknown(name, own));
        };
        if value.is_empty() {
            return Err(ApiError::bad_query(format!("{name} has no value")));
        }
        let same = |(filter, own): &&mut (Filter, &'static str)| {
            filter.attribute == attribute && filter.negate == negate && *own == operator
        };
        if let Some((filter, _)) = filters.iter_mut().find(same) {
            let Test::AnyOf(values) = &mut filter.test else {
                return Err(ApiError::bad_query(format!("{name} takes one value")));
            };
            if values.len() == VALUES_MAX {
                return Err(ApiError::bad_query(format!("{name} has over {VALUES_MAX} values")));
            }
            values.push(value.clone());
            continue;
        }
        let value = value.clone();
        let test = match operator {
            "^" => Test::Prefix(value),
            "~" => Test::Contains(value),
            _ => Test::AnyOf(vec![value]),
        };
        filters.push((Filter { attribute, test, negate }, operator));
    }
    let account = account(params, catalog)?;
    Ok(Selection {
        trackers: trackers(params, account)?,
        filters: filters.into_iter().map(|(filter, _)| filter).collect(),
        event: period(params, "from", "to")?,
        recorded: period(params, "recorded_from", "recorded_to")?,
    })
}

fn field(name: &str) -> Option<(Attribute, &'static str, bool)> {
    let (suffix, operator, negate) =
        OPERATORS.into_iter().find(|(suffix, ..)| name.ends_with(suffix))?;
    let attribute = attribute(name.strip_suffix(suffix)?)?;
    Some((attribute, operator, negate))
}

/// The attribute with this name, or with the old name of one.
pub(super) fn attribute(name: &str) -> Option<Attribute> {
    Attribute::named(if name == "trace_status" { "trace_rating" } else { name })
}

fn unknown(name: &str, own: &[&str]) -> ApiError {
    let bare = name.trim_end_matches(['!', '^', '~']);
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

fn period(params: &Params, from: &str, to: &str) -> ApiResult<Period> {
    let mut period = Period::ALWAYS;
    if let Some(text) = params::last(params, from) {
        period.from_ms = params::time(from, text)?;
    }
    if let Some(text) = params::last(params, to) {
        period.to_ms = params::time(to, text)?;
    }
    Ok(period)
}
