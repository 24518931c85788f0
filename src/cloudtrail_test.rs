//! Tests of the CloudTrail mapping.

use super::*;

fn check(record: Value, expect: &Value) {
    let mut full = json!({
        "eventID": "e-1", "eventTime": "2023-07-10T11:45:00Z", "eventName": "GetObject",
        "eventSource": "s3.amazonaws.com",
    });
    full.as_object_mut().unwrap().append(&mut record.as_object().unwrap().clone());
    let target = Target {
        account: "acme".to_owned(),
        project: "p".to_owned(),
        data_trackers: vec![("photos".to_owned(), "pictures".to_owned())],
    };
    let trace = to_trace(&full.to_string(), &target).unwrap();
    let parsed = trailproof_topology::trace::parse(trace.as_bytes()).unwrap();
    assert_eq!((parsed.account.as_ref(), parsed.time_ms), ("acme", 1_688_989_500_000));
    let trace: Value = serde_json::from_str(&trace).unwrap();
    for (member, value) in expect.as_object().unwrap() {
        assert_eq!(&trace[member], value, "{member}");
    }
}

#[test]
fn a_plain_call_is_normal_and_has_texts() {
    check(
        json!({
            "requestParameters": {"bucketName": "b"},
            "responseElements": null, "readOnly": true, "sourceIPAddress": "10.0.0.1",
            "userIdentity": {"type": "IAMUser", "userName": "ann", "accountId": "1",
                "principalId": "AID", "arn": "arn:aws:iam::1:user/ann"},
            "recipientAccountId": "1",
        }),
        &json!({
            "service_type": "S3", "trace_rating": "normal", "code": "200",
            "trace_type": "ApiCall", "resource_type": "bucket", "resource_name": "b",
            "response": null, "read_only": true, "source_ip": "10.0.0.1",
            "tracker_name": "system", "resource_account_id": null,
            "user": {
                "id": "AID", "name": "ann", "user_name": "ann", "account_id": "1",
                "type": "IAMUser", "principal_id": "AID",
                "principal_urn": "arn:aws:iam::1:user/ann", "domain": {"id": "1"},
                "principal_is_root_user": "false",
            },
        }),
    );
}

#[test]
fn errors_rate_and_give_a_code() {
    for (error, rating, code) in [
        ("AccessDenied", "warning", "403"),
        ("NoSuchBucket", "warning", "404"),
        ("ThrottlingException", "warning", "429"),
        ("InternalFailure", "incident", "500"),
        ("ValidationException", "warning", "400"),
    ] {
        let record = json!({"errorCode": error, "errorMessage": "no"});
        let location = format!("{error}: no");
        check(
            record,
            &json!({
                "trace_rating": rating, "code": code, "location_info": location,
            }),
        );
    }
}

#[test]
fn services_consoles_and_data_events_have_their_types() {
    check(
        json!({"userIdentity": {"type": "AWSService", "invokedBy": "ec2.amazonaws.com"},
            "sourceIPAddress": "ec2.amazonaws.com"}),
        &json!({"trace_type": "SystemAction", "source_ip": "", "user": {
            "name": "ec2.amazonaws.com", "user_name": "ec2.amazonaws.com",
            "type": "AWSService", "principal_is_root_user": "false",
            "invoked_by": ["ec2.amazonaws.com"],
        }}),
    );
    check(json!({"sessionCredentialFromConsole": "true"}), &json!({"trace_type": "ConsoleAction"}));
    check(
        json!({"eventCategory": "Data", "userAgent": "aws-cli/2",
            "requestParameters": {"bucketName": "pictures"}}),
        &json!({"trace_type": "ObsSDK", "event_type": "data", "tracker_name": "photos"}),
    );
}

#[test]
fn the_first_resource_names_the_trace() {
    check(
        json!({"resources": [{"ARN": "arn:aws:kms:r:1:key/k-1", "type": "AWS::KMS::Key"}]}),
        &json!({"resource_type": "AWS::KMS::Key", "resource_name": "k-1",
            "resource_id": "arn:aws:kms:r:1:key/k-1"}),
    );
}

#[test]
fn what_is_no_record_says_why() {
    let target = Target::default();
    assert_eq!(to_trace("{}", &target), Err("it has no eventTime".to_owned()));
    assert!(to_trace("[", &target).unwrap_err().starts_with("no CloudTrail record: "));
}
