//! The members of a trace as they may be spelt: old and new names, strings and numbers.
//!
//! **Invariant:** nothing here copies a value that stands unescaped in the record.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::input::Millis;

/// The members this system looks at. Any other is kept unread.
#[derive(Deserialize)]
pub(super) struct Members<'a> {
    #[serde(borrow, default)]
    pub(super) service_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) resource_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) trace_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) trace_rating: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) trace_status: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) trace_type: Option<Text<'a>>,
    #[serde(default)]
    pub(super) time: Option<Time>,
    #[serde(default)]
    pub(super) record_time: Maybe<Time>,
    #[serde(borrow, default)]
    pub(super) user: Option<AnyUser<'a>>,
    #[serde(borrow, default)]
    pub(super) source_ip: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) resource_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) resource_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) trace_id: Maybe<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) code: Option<Scalar<'a>>,
    #[serde(borrow, default)]
    pub(super) api_version: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) enterprise_project_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) project_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) domain_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) event_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) tracker_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) read_only: Option<Scalar<'a>>,
}

/// A member of which "absent" and "null" are not the same: an absent one is derived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Maybe<T> {
    #[default]
    Absent,
    Null,
    Is(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(from)?.map_or(Self::Null, Self::Is))
    }
}

/// A string, borrowed unless it stands escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        from.deserialize_str(Visit)
    }
}

/// A string, a number or a boolean, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar<'a>(pub(super) Text<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        fn owned<'de>(text: String) -> Scalar<'de> {
            Scalar(Text(Cow::Owned(text)))
        }
        impl<'de> Visitor<'de> for Visit {
            type Value = Scalar<'de>;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a string, a number or a boolean")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar<'de>, E> {
                Ok(owned(text.to_owned()))
            }
            fn visit_bool<E: Error>(self, flag: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar(Text(Cow::Borrowed(if flag { "true" } else { "false" }))))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar<'de>, E> {
                Ok(owned(number.to_string()))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar<'de>, E> {
                Ok(owned(number.to_string()))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar<'de>, E> {
                Ok(owned(number.to_string()))
            }
        }
        from.deserialize_any(Visit)
    }
}

/// Milliseconds: an integer, or the digits of one in a string (an old spelling).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Millis);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Time;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("milliseconds since 1970 as a 64-bit integer")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Time, E> {
                Ok(Time(number))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Time, E> {
                i64::try_from(number).map(Time).map_err(|_| E::custom("time is over 64 bits"))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Time, E> {
                // Integers written as 1.5e12 are exact up to 2^53.
                let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
                exact.then_some(Time(number as i64)).ok_or_else(|| E::custom("time is no integer"))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                text.parse().map(Time).map_err(|_| E::custom("time is no integer"))
            }
        }
        from.deserialize_any(Visit)
    }
}

/// The user, as far as it is indexed.
#[derive(Default, Deserialize)]
pub(super) struct User<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow, default, rename = "user_name")]
    pub(super) other_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) access_key_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    domain: Option<Object<'a, Domain<'a>>>,
    #[serde(skip)]
    pub(super) domain_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Domain<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
}

/// A JSON object, and not the array that serde would take for a structure as well.
struct Object<'a, T>(T, PhantomData<&'a ()>);

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Object<'a, T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = T;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        from.deserialize_any(Visit(PhantomData)).map(|value| Object(value, PhantomData))
    }
}

/// A user: an object, or in old files the JSON text of one, or just a name.
pub(super) struct AnyUser<'a>(pub(super) User<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for AnyUser<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = User<'de>;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a user object")
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<User<'de>, M::Error> {
                User::deserialize(MapAccessDeserializer::new(map))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<User<'de>, E> {
                Ok(user_of_text(text))
            }
        }
        let mut user = from.deserialize_any(Visit)?;
        user.domain_id = user.domain_id.or(user.domain.take().and_then(|domain| domain.0.id));
        Ok(Self(user))
    }
}

/// A user that came as a string: its JSON if it is that, else its name.
fn user_of_text<'a>(text: &str) -> User<'a> {
    fn owned<'a>(text: Option<Text<'_>>) -> Option<Text<'a>> {
        text.map(|text| Text(Cow::Owned(text.0.into_owned())))
    }
    match serde_json::from_str::<Object<'_, User<'_>>>(text) {
        Ok(Object(inner, _)) => User {
            id: owned(inner.id),
            name: owned(inner.name),
            other_name: owned(inner.other_name),
            access_key_id: owned(inner.access_key_id),
            domain: None,
            domain_id: owned(inner.domain.and_then(|domain| domain.0.id)),
        },
        Err(_) if text.is_empty() => User::default(),
        Err(_) => User { name: Some(Text(Cow::Owned(text.to_owned()))), ..User::default() },
    }
}
