//! The members of a CloudTrail record that the mapping reads; others are passed over.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record<'a> {
    #[serde(rename = "eventID")]
    pub(super) event_id: Option<String>,
    pub(super) event_time: Option<String>,
    pub(super) event_source: Option<String>,
    pub(super) event_name: Option<String>,
    pub(super) event_category: Option<String>,
    pub(super) event_type: Option<String>,
    pub(super) event_version: Option<String>,
    pub(super) aws_region: Option<String>,
    #[serde(rename = "sourceIPAddress")]
    pub(super) source_ip_address: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) error_code: Option<String>,
    pub(super) error_message: Option<String>,
    #[serde(borrow)]
    pub(super) request_parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) response_elements: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) additional_event_data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) service_event_details: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) addendum: Option<&'a RawValue>,
    pub(super) api_version: Option<String>,
    #[serde(rename = "requestID")]
    pub(super) request_id: Option<String>,
    #[serde(rename = "sharedEventID")]
    pub(super) shared_event_id: Option<String>,
    pub(super) read_only: Option<Value>,
    pub(super) recipient_account_id: Option<String>,
    pub(super) session_credential_from_console: Option<Value>,
    pub(super) tls_details: Option<Value>,
    pub(super) vpc_endpoint_id: Option<String>,
    pub(super) user_identity: Option<Identity>,
    pub(super) resources: Option<Vec<Resource>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Identity {
    pub(super) r#type: Option<String>,
    pub(super) principal_id: Option<String>,
    pub(super) arn: Option<String>,
    pub(super) account_id: Option<String>,
    pub(super) access_key_id: Option<String>,
    pub(super) user_name: Option<String>,
    pub(super) invoked_by: Option<String>,
    pub(super) session_context: Option<Session>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Session {
    pub(super) session_issuer: Option<Issuer>,
    pub(super) attributes: Option<Attributes>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Issuer {
    pub(super) user_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Attributes {
    pub(super) creation_date: Option<String>,
    pub(super) mfa_authenticated: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Resource {
    #[serde(rename = "ARN")]
    pub(super) arn: Option<String>,
    pub(super) r#type: Option<String>,
}
