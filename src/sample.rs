//! Sample traces: plausible events with realistic numbers of users, services and resources.

use serde_json::json;
use trailproof_topology::input::Millis;

use crate::cloudtrail::Target;

/// Services with resource type, and operations with how often they happen.
const OPERATIONS: [(&str, &str, &str, bool); 12] = [
    ("ECS", "ecs", "createServer", false),
    ("ECS", "ecs", "deleteServer", false),
    ("ECS", "ecs", "listServers", true),
    ("IAM", "user", "login", false),
    ("IAM", "user", "createUser", false),
    ("IAM", "policy", "updatePolicy", false),
    ("OBS", "bucket", "createBucket", false),
    ("OBS", "bucket", "setBucketPolicy", false),
    ("VPC", "securityGroup", "createSecurityGroupRule", false),
    ("RDS", "instance", "createInstance", false),
    ("KMS", "key", "createDatakey", false),
    ("CTS", "tracker", "updateTracker", false),
];

const USERS: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];

/// A splitmix64 generator: sample data need no better one.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One trace as JSON text.
pub(crate) fn trace(random: &mut Random, target: &Target, now_ms: Millis) -> String {
    let (service, kind, name, read_only) = OPERATIONS[random.below(12) as usize];
    let user = USERS[(random.below(8).min(random.below(8))) as usize];
    let (rating, code) = match random.below(50) {
        0 => ("incident", "500"),
        1..=4 => ("warning", "403"),
        _ => ("normal", "200"),
    };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random.next().to_be_bytes());
    id[8..].copy_from_slice(&random.next().to_be_bytes());
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    let resource = random.below(500);
    let key = format!("AKSAMPLE{:08X}", USERS.iter().position(|own| *own == user).unwrap_or(0));
    let request = json!({"name": format!("{kind}-{resource}"), "count": random.below(4) + 1});
    let response = json!({"id": format!("{resource:032x}"), "status": code});
    let address = format!("192.0.2.{}", random.below(40) + 1);
    let console = random.below(3) == 0;
    json!({
        "trace_id": trailproof_topology::catalog::tracker_text(&id),
        "trace_name": name,
        "trace_rating": rating,
        "trace_type": if console { "ConsoleAction" } else { "ApiCall" },
        "time": now_ms - random.below(1_000) as Millis,
        "user": {
            "id": format!("{:032x}", 0xa11c_e000 + user.len()), "name": user, "user_name": user,
            "domain": {"id": target.account, "name": "sample"}, "access_key_id": key,
            "type": "User", "principal_is_root_user": "false",
        },
        "service_type": service,
        "resource_type": kind,
        "resource_name": format!("{kind}-{resource}"),
        "resource_id": format!("{resource:032x}"),
        "source_ip": address,
        "code": code,
        "api_version": "v1",
        "request": request.to_string(),
        "response": response.to_string(),
        "enterprise_project_id": "0",
        "project_id": target.project,
        "domain_id": target.account,
        "event_type": "system",
        "tracker_name": "system",
        "read_only": read_only,
    })
    .to_string()
}
