//! Profiles in files, and what the environment says of them.

use super::*;

struct Home(tempfile::TempDir);

impl Home {
    fn with(credentials: &str, config: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        for (name, text) in [("credentials", credentials), ("config", config)] {
            if !text.is_empty() {
                std::fs::write(home.path().join(".aws").join(name), text).unwrap();
            }
        }
        Self(home)
    }

    fn location(&self, variables: &[(&str, &str)]) -> Location {
        let home = self.0.path().to_str().unwrap();
        let all = variables.iter().copied().chain([("HOME", home)]);
        Location::of(&Environment::of(all))
    }

    fn read_with(&self, variables: &[(&str, &str)]) -> Result<Profile, String> {
        let home = self.0.path().to_str().unwrap();
        self.location(variables).read().map_err(|error| error.to_string().replace(home, "~"))
    }

    fn read(&self, profile: Option<&str>) -> Result<Profile, String> {
        let named: Vec<_> = profile.map(|name| ("AWS_PROFILE", name)).into_iter().collect();
        self.read_with(&named)
    }
}

fn keys(key: &str, secret: &str, token: Option<&str>) -> Option<AwsCredential> {
    let (key_id, secret_key) = (key.to_owned(), secret.to_owned());
    Some(AwsCredential { key_id, secret_key, token: token.map(str::to_owned) })
}

fn profile(keys: Option<AwsCredential>, region: &str) -> Profile {
    Profile { keys, region: Some(region.to_owned()), endpoint: None }
}

const CREDENTIALS: &str = "# ours\n[default]\naws_access_key_id = AK\n\
    aws_secret_access_key=a/b+c=\\n\"'#;d\n\n[other]\nAWS_ACCESS_KEY_ID = AK2\n\
    aws_secret_access_key = s2\naws_session_token = t2\n[half]\naws_access_key_id = AK3\n\
    [long]\naws_access_key_id = AK4\n  and = more\naws_secret_access_key = s4\n\
    [both]\ncredential_process = p\naws_access_key_id = AK5\naws_secret_access_key = s5\n";
const CONFIG: &str = "[default]\nregion = eu-1\noutput = json\ns3 =\n  region = of-a-service\n\
    [profile other]\naws_access_key_id = shadowed\naws_secret_access_key = x\nregion = eu-2\n\
    [profile \"a b\"]\naws_access_key_id = k\naws_secret_access_key = s\nregion = r\n\
    endpoint_url = http://here:9\n\
    [profile role]\nrole_arn = arn\nsource_profile = other\n[profile empty]\nregion = eu-3\n\
    [profile both]\nrole_arn = arn\nsource_profile = both\n[other]\nregion = no-profile\n";

#[test]
fn keys_and_region_come_from_the_profile_that_is_meant() {
    let home = Home::with(CREDENTIALS, CONFIG);
    // What looks like quotes, escapes or comments is part of the secret.
    assert_eq!(home.read(None), Ok(profile(keys("AK", "a/b+c=\\n\"'#;d", None), "eu-1")));
    assert_eq!(home.read(Some("other")), Ok(profile(keys("AK2", "s2", Some("t2")), "eu-2")));
    let spaced = profile(keys("k", "s", None), "r");
    let endpoint = Some("http://here:9".to_owned());
    assert_eq!(home.read(Some("a b")), Ok(Profile { endpoint, ..spaced }));
    let config = Home::with("", CONFIG);
    assert_eq!(config.read(Some("other")), Ok(profile(keys("shadowed", "x", None), "eu-2")));
    let long = Home::with("", "[profile default]\nregion = long\n[default]\nregion = short\n");
    assert_eq!(long.read(None), Ok(profile(None, "long")));
}

#[test]
fn a_profile_that_nobody_named_may_be_missing() {
    assert_eq!(Home::with("", "").read(None), Ok(Profile::default()));
    assert_eq!(Home::with("", "[default]\nregion = eu-3\n").read(None), Ok(profile(None, "eu-3")));
    // As of services whose home is no folder.
    let no_folder = Location::of(&Environment::of([("HOME", "/dev/null")]));
    assert_eq!(no_folder.read(), Ok(Profile::default()));
    // It has keys, but not here: whoever goes on without it says so.
    let role = Home::with("", "[default]\nsso_session = s\n");
    assert!(role.read(None).unwrap_err().contains("sso_session is not supported"));
    assert!(!role.location(&[]).is_needed());
}

#[test]
fn what_is_wrong_is_named_with_a_remedy_and_without_a_secret() {
    let home = Home::with(CREDENTIALS, CONFIG);
    let check = |name, texts: &[&str]| {
        let error = home.read(Some(name)).unwrap_err();
        texts.iter().for_each(|text| assert!(error.contains(text), "{error}"));
        assert!(home.location(&[("AWS_PROFILE", name)]).is_needed());
    };
    check("none", &["\"none\", which is not in ~/.aws/credentials or ~/.aws/config"]);
    check("half", &["aws_secret_access_key", "~/.aws/credentials"]);
    check("long", &["aws_access_key_id in ~/.aws/credentials is no key"]);
    check("role", &["\"role\" has no keys of its own, and role_arn is not supported"]);
    // The role is what is meant, not the keys that may take it.
    check("both", &["role_arn is not supported"]);
    check("empty", &["\"empty\" has no keys of its own: give it"]);
    let torn = Home::with("[default]\n = secret", "");
    assert_eq!(torn.read(None).unwrap_err(), "cannot read ~/.aws/credentials: line 2:0");
    let nowhere = Location::of(&Environment::of([("AWS_PROFILE", "x")]));
    assert!(nowhere.read().unwrap_err().to_string().contains("HOME is not set"));
}

#[test]
fn what_the_environment_says_itself_comes_first() {
    let home = Home::with(CREDENTIALS, CONFIG);
    let (token, role) = (("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), ("AWS_ROLE_ARN", "arn"));
    let (key, other) = (("AWS_ACCESS_KEY_ID", "x"), ("AWS_PROFILE", "other"));
    // The region counts all the same, and what is wrong with the keys does not.
    assert_eq!(home.read_with(&[key]), Ok(profile(None, "eu-1")));
    assert_eq!(home.read_with(&[token, role]), Ok(profile(None, "eu-1")));
    assert!(home.read_with(&[token]).unwrap().keys.is_some());
    assert_eq!(home.read_with(&[key, other]), Ok(profile(None, "eu-2")));
    assert_eq!(home.read_with(&[key, ("AWS_PROFILE", "none")]), Ok(Profile::default()));
    assert!(home.read_with(&[key, ("AWS_PROFILE", "both")]).is_ok());
    let named = home.read_with(&[token, role, other]).unwrap();
    assert_eq!(named.keys, keys("AK2", "s2", Some("t2")));
    let mine = "[default]\naws_access_key_id=m\naws_secret_access_key=s\n";
    std::fs::write(home.0.path().join("mine"), mine).unwrap();
    let path = ("AWS_SHARED_CREDENTIALS_FILE", "~/mine");
    assert_eq!(home.read_with(&[path]).unwrap().keys, keys("m", "s", None));
}
