//! Kubeconfigs that work, and those that do not: each error names file and field, and never what is in it.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

/// In every credential below; in no error and no Debug.
const SECRET: &str = "hunter2hunter2";

/// A certificate authority (`openssl req -x509`, P-256, 100 years), whose key nobody has.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBgDCCASegAwIBAgIUJ6F0sz9Cy9In/zCToz3EYNlSsN4wCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjIxMDEzMjlaGA8yMTI2MTAy
OTEwMTMyOVowFTETMBEGA1UEAwwKa3ViZXJuZXRlczBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABEDdLYbHqr7aIlgqoVXBpnlxdoDz8QGVrr+FXqpjHXaUviA+5FAK
pkO43Dm9yq+3fhA11tv68eB2hWloEmZplLqjUzBRMB0GA1UdDgQWBBTJAIwB75PO
mm2Qdm3FIeY+0EyfljAfBgNVHSMEGDAWgBTJAIwB75POmm2Qdm3FIeY+0EyfljAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIAO3C1eR3AIaeuoC7sOn
xguksWBurVwrIsIyjYo2hks5AiBnhFP9+NIRWJ8UNlswhdRyFEwMhROuf4j22e3R
qe4fuQ==
-----END CERTIFICATE-----
";

/// A client's certificate, with [`key`].
const CLIENT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCASegAwIBAgIUQHEVOrl5MWHWCoNOPJUbdXOOlD8wBQYDK2VwMC8xFTAT
BgNVBAoMDHN5c3RlbTpub2RlczEWMBQGA1UEAwwNc3lzdGVtOm5vZGU6bjAgFw0y
NjExMjIxMDE1NTRaGA8yMTI2MTAyOTEwMTU1NFowLzEVMBMGA1UECgwMc3lzdGVt
Om5vZGVzMRYwFAYDVQQDDA1zeXN0ZW06bm9kZTpuMCowBQYDK2VwAyEAD4EGUYtR
euQIWfpmgm/0MV85SR0Q1ACUkGCENqdqvDyjUzBRMB0GA1UdDgQWBBR+4s6EKRvI
KK/uyJHHBTjqNcg/1DAfBgNVHSMEGDAWgBR+4s6EKRvIKK/uyJHHBTjqNcg/1DAP
BgNVHRMBAf8EBTADAQH/MAUGAytlcANBAHaq1HyT5CtflpNVv4kp0yl5tBnqcC+x
94KR3DZqz6sJZ/a9H6AeKAlxcgeGOLbQeS8XCkF4TWD6AD7JVksHOgw=
-----END CERTIFICATE-----
";

/// An Ed25519 key (RFC 8410) that is no secret of anybody's: SECRET, repeated.
fn key() -> String {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(SECRET.bytes().cycle().take(32));
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        super::super::access::encode(&der)
    )
}

fn encoded(text: &str) -> String {
    super::super::access::encode(text.as_bytes())
}

/// A kubeconfig as nodeadm writes it, with these lines in its cluster and in its user.
fn text(cluster: &str, user: &str) -> String {
    let block = |lines: &str| {
        lines.lines().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "    {line}");
            text
        })
    };
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: kubernetes\n  cluster:\n{}contexts:\n- name: kubelet\n  \
         context:\n    cluster: kubernetes\n    user: kubelet\ncurrent-context: kubelet\nusers:\n- name: kubelet\n  \
         user:\n{}",
        block(cluster),
        block(user)
    )
}

const SERVER: &str = "server: https://ABC.gr7.eu-west-1.eks.amazonaws.com";

fn token() -> String {
    format!("token: {SECRET}")
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, text: &str) -> Result<Access> {
        let path = self.file("kubeconfig", text);
        let read = super::read(&Root::default(), Some(&path));
        if let Ok(access) = &read {
            assert!(!format!("{access:?}").contains("hunter2"), "{access:?}");
        }
        read
    }

    /// The error, without file name; it has a secret in neither of its forms.
    fn wrong(&self, text: &str) -> String {
        let error = match self.read(text) {
            Err(error) => error,
            Ok(access) => panic!("{access:?} from {text}"),
        };
        assert_eq!(error.exit_code(), 4, "{error}");
        let all = format!("{error} {error:?}");
        for secret in ["hunter2", &encoded(SECRET), &encoded(&key())[..40]] {
            assert!(!all.contains(secret), "{all}");
        }
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        let said = error.to_string();
        said.strip_prefix(&self.0.path().join("kubeconfig").display().to_string()).unwrap().to_owned()
    }
}

/// The client's credential, as it would be sent.
fn opened(access: &Access) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(access.open(Duration::from_secs(9), SystemTime::now())).map(drop)
}

#[test]
fn every_way_to_log_in_makes_a_client() {
    let place = Place::new();
    place.file("token", &format!("{SECRET}\n"));
    place.file("pem", &format!("{CLIENT}{}", key()));
    place.file("ca", AUTHORITY);
    let script = format!(
        "printf '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\
         \"status\":{{\"token\":\"%s\"}}}}' \"$WORD\" && test \"$WORD\" = {SECRET}"
    );
    for (cluster, user) in [
        (SERVER.to_owned(), token()),
        (format!("{SERVER}\ncertificate-authority-data: {}", encoded(AUTHORITY)), token()),
        (format!("{SERVER}\ncertificate-authority: ca\ntls-server-name: kubernetes"), token()),
        (format!("{SERVER}:8443/\nproxy-url: http://me:{SECRET}@proxy:3128"), token()),
        (SERVER.to_owned(), "tokenFile: token".into()),
        // kubelet's own: certificate and key in one file.
        (SERVER.to_owned(), "client-certificate: pem\nclient-key: pem".into()),
        (
            SERVER.to_owned(),
            format!("client-certificate-data: {}\nclient-key-data: {}", encoded(CLIENT), encoded(&key())),
        ),
        (
            SERVER.to_owned(),
            format!(
                "exec:\n  apiVersion: client.authentication.k8s.io/v1\n  command: sh\n  args: ['-c', '{}']\n  \
                 env: [{{name: WORD, value: {SECRET}}}]",
                script.replace('\'', "''")
            ),
        ),
    ] {
        let access = place.read(&text(&cluster, &user)).unwrap();
        opened(&access).unwrap_or_else(|error| panic!("{cluster} {user}: {error}"));
        assert_eq!(access.has_plugin(), user.starts_with("exec"));
        assert!(access.server().starts_with("https://ABC.gr7.eu-west-1.eks.amazonaws.com"), "{access:?}");
    }
}

#[test]
fn what_does_not_parse_is_named_with_its_line_and_not_quoted() {
    let place = Place::new();
    for (bad, line) in [
        ("\t{".to_owned(), ":1: "),
        (format!("- {SECRET}\n"), ": "),
        (format!("users: {SECRET}\n"), ":1: "),
        (text(SERVER, &format!("token: [{SECRET}]")), ": "),
        (text(SERVER, &format!("exec: {SECRET}")), ": "),
        (format!("a: {SECRET}\na: {SECRET}: {SECRET}\n"), ": "),
    ] {
        let said = place.wrong(&bad);
        assert!(said.contains("expected a kubeconfig, found YAML that does not parse"), "{said}");
        if line != ": " {
            assert!(said.starts_with(line), "{said}");
        }
    }
    let path = place.0.path().join("kubeconfig");
    fs::write(&path, b"a: \xff\xfe").unwrap();
    let error = super::read(&Root::default(), Some(&path)).unwrap_err().to_string();
    assert!(error.ends_with("kubeconfig: is not UTF-8 text"), "{error}");
}

#[test]
fn a_field_that_is_missing_or_wrong_is_named() {
    let place = Place::new();
    let good = text(SERVER, &token());
    place.file("empty", "");
    place.file("two", &format!("{SECRET}\n{SECRET}\n"));
    place.file("pem", AUTHORITY);
    let user = |user: &str| text(SERVER, user);
    let cluster = |cluster: &str| text(cluster, &token());
    let exec = |lines: &str| user(&format!("exec:\n  {}", lines.replace('\n', "\n  ")));
    for (bad, words) in [
        (String::new(), ": current-context: expected the name of a context, found none"),
        (good.replace("kind: Config", "kind: Node"), ": kind: expected `Config`"),
        (
            good.replace("current-context: kubelet", "current-context: other"),
            ": current-context: there is no context `other` in contexts",
        ),
        (
            good.replace("    cluster: kubernetes", "    cluster: other"),
            ": contexts[kubelet]: cluster: there is no cluster `other`",
        ),
        (
            good.replace("    user: kubelet", "    user: other"),
            ": contexts[kubelet]: user: there is no user `other`",
        ),
        (good.replace("    user: kubelet\n", ""), ": contexts[kubelet]: user: expected the name of a user"),
        (cluster("x: y"), ": clusters[kubernetes].server: expected https://HOST[:PORT], found none"),
        (
            cluster("server: http://api"),
            ": clusters[kubernetes].server: expected https://HOST[:PORT], found http",
        ),
        (cluster("server: api"), ": clusters[kubernetes].server: "),
        (cluster("server: ftp://api"), ": clusters[kubernetes].server: "),
        (cluster("server: 'https://a b'"), ": clusters[kubernetes].server: "),
        (
            cluster(&format!("{SERVER}\ninsecure-skip-tls-verify: true")),
            ": clusters[kubernetes].insecure-skip-tls-verify: is true",
        ),
        (
            cluster(&format!("{SERVER}\ncertificate-authority-data: '%'")),
            ": clusters[kubernetes].certificate-authority-data: expected base64",
        ),
        (
            cluster(&format!("{SERVER}\ncertificate-authority-data: {}", encoded(SECRET))),
            ": clusters[kubernetes].certificate-authority-data: expected certificates in PEM, found none",
        ),
        (
            cluster(&format!("{SERVER}\ncertificate-authority: nothing")),
            ": clusters[kubernetes].certificate-authority: /",
        ),
        (
            cluster(&format!("{SERVER}\nproxy-url: socks5://me:{SECRET}@proxy")),
            ": clusters[kubernetes].proxy-url: expected http",
        ),
        (user("{}"), ": users[kubelet]: has no credential"),
        (user("token: ''"), ": users[kubelet]: has no credential"),
        (
            user(&format!("token: \"{SECRET}\\n{SECRET}\"")),
            ": users[kubelet].token: expected a token of printable ASCII",
        ),
        (user("tokenFile: nothing"), ": users[kubelet].tokenFile: /"),
        (user("tokenFile: empty"), ": users[kubelet].tokenFile: /"),
        (user("tokenFile: two"), ": users[kubelet].tokenFile: /"),
        (user("tokenFile: ."), ": users[kubelet].tokenFile: /"),
        (user(&format!("username: me\npassword: {SECRET}")), ": users[kubelet].username: is not supported"),
        (user(&format!("token: {SECRET}\nas: root")), ": users[kubelet].as: is not supported"),
        (user("client-certificate: pem"), ": users[kubelet].client-key: is missing beside the certificate"),
        (
            user(&format!("client-key-data: {}", encoded(&key()))),
            ": users[kubelet].client-certificate: is missing beside the key",
        ),
        (user("client-certificate: pem\nclient-key: nothing"), ": users[kubelet].client-key: /"),
        // A certificate where the key ought to be.
        (
            user("client-certificate: pem\nclient-key: pem"),
            ": users[kubelet].client-key: expected a private key in PEM",
        ),
        (
            user(&format!("client-certificate: pem\nclient-key-data: {}", encoded(SECRET))),
            ": users[kubelet].client-key-data: expected a private key in PEM",
        ),
        (exec("apiVersion: client.authentication.k8s.io/v1"), ": users[kubelet].exec: command: "),
        (exec(&format!("command: sh\nargs: [{SECRET}]")), ": users[kubelet].exec: apiVersion: "),
        (
            exec(&format!(
                "apiVersion: client.authentication.k8s.io/v1\ncommand: sh\nenv: [{{value: {SECRET}}}]"
            )),
            ": users[kubelet].exec: env: ",
        ),
    ] {
        assert_ne!(bad, good);
        let said = place.wrong(&bad);
        assert!(said.starts_with(words), "expected {words}, found {said}");
    }
}

#[test]
fn a_key_of_another_certificate_makes_no_client() {
    let place = Place::new();
    place.file("pem", &format!("{AUTHORITY}{}", key()));
    let access = place.read(&text(SERVER, "client-certificate: pem\nclient-key: pem")).unwrap();
    let error = opened(&access).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let said = error.to_string();
    assert!(
        said.contains("kubeconfig: no client can be made from it") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_key_that_may_not_be_read_is_named() {
    let place = Place::new();
    place.file("pem", AUTHORITY);
    let path = place.file("key", &key());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        // Root reads it all the same: what it cannot read is a directory.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    let said = place.wrong(&text(SERVER, "client-certificate: pem\nclient-key: key"));
    assert!(said.starts_with(&format!(": users[kubelet].client-key: {}: ", path.display())), "{said}");
}

#[test]
fn a_fifo_does_not_hold_it_and_a_large_file_is_none() {
    let place = Place::new();
    let path = place.0.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = super::read(&Root::default(), Some(&path)).unwrap_err().to_string();
    assert!(error.contains("fifo: cannot read it: is not a regular file"), "{error}");
    let path = place.file("large", &"#".repeat(1 << 21));
    let error = super::read(&Root::default(), Some(&path)).unwrap_err().to_string();
    assert!(error.contains("expected at most 1048576 bytes"), "{error}");
}

#[test]
fn without_one_of_kubelets_this_is_no_node_and_below_a_root_its_files_are_there_too() {
    let place = Place::new();
    let root = Root::new(place.0.path());
    let error = Access::read(&root, None).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("--kubeconfig"), "{error}");
    fs::create_dir_all(root.join("/var/lib/kubelet/pki")).unwrap();
    fs::write(root.join("/var/lib/kubelet/pki/both.pem"), format!("{CLIENT}{}", key())).unwrap();
    let pki = "/var/lib/kubelet/pki/both.pem";
    let user = format!("client-certificate: {pki}\nclient-key: {pki}");
    fs::write(root.join(KUBECONFIG_PATH), text(SERVER, &user)).unwrap();
    opened(&Access::read(&root, None).unwrap()).unwrap();
}

#[test]
fn a_program_is_started_for_the_hosts_own_kubeconfig_or_one_named_by_hand_and_never_for_an_images() {
    let place = Place::new();
    let root = Root::new(place.0.path());
    let user = format!(
        "exec:\n  apiVersion: client.authentication.k8s.io/v1beta1\n  command: /opt/get-token\n  args: [{SECRET}]\n  \
         env: [{{name: {SECRET}, value: {SECRET}}}]"
    );
    let path = root.join(KUBECONFIG_PATH);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text(SERVER, &user)).unwrap();
    let error = Access::read(&root, None).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let said = error.to_string();
    for word in [path.to_str().unwrap(), "users[kubelet].exec", "`/opt/get-token`", "--kubeconfig"] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    assert!(!said.contains("hunter2") && said.lines().count() == 1, "{said}");
    assert!(Access::read(&root, Some(&path)).unwrap().has_plugin());
}

#[test]
fn what_an_images_kubeconfig_names_is_in_the_image_and_never_the_hosts() {
    let (image, host) = (Place::new(), Place::new());
    let root = Root::new(image.0.path());
    let secret = host.file("token", SECRET);
    let dir = root.join(KUBECONFIG_PATH).parent().unwrap().to_path_buf();
    fs::create_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink(&secret, dir.join("link")).unwrap();
    let out = format!("{}{}", "../".repeat(20), secret.display());
    let read = |file: &str| {
        fs::write(dir.join("kubeconfig"), text(SERVER, &format!("tokenFile: {file}"))).unwrap();
        Access::read(&root, None)
    };
    for file in ["link", "/var/lib/kubelet/link", &out] {
        let error = read(file).unwrap_err().to_string();
        assert!(error.contains("users[kubelet].tokenFile"), "{file}: {error}");
    }
    // Where the image has it itself, it is read.
    let own = root.join(&secret);
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(own, SECRET).unwrap();
    for file in ["link", "/var/lib/kubelet/link", &out] {
        read(file).unwrap();
    }
    // Nor is it one of the host's itself.
    let kubeconfig = host.file("kubeconfig", &text(SERVER, &token()));
    fs::remove_file(dir.join("kubeconfig")).unwrap();
    std::os::unix::fs::symlink(kubeconfig, dir.join("kubeconfig")).unwrap();
    assert_eq!(Access::read(&root, None).unwrap_err().exit_code(), 4);
}

#[test]
fn a_token_file_is_read_when_it_is_used() {
    let place = Place::new();
    let path = place.file("token", SECRET);
    let access = place.read(&text(SERVER, "tokenFile: token")).unwrap();
    opened(&access).unwrap();
    fs::write(&path, "").unwrap();
    let error = opened(&access).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn of_a_url_only_what_is_no_secret_is_shown() {
    let url: Uri = format!("https://me:{SECRET}@api:6443/{SECRET}?{SECRET}").parse().unwrap();
    assert_eq!(shown(&url), "https://api:6443");
    assert_eq!(shown(&"https://[::1]/".parse().unwrap()), "https://[::1]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let place = Place::new();
        let path = place.0.path().join("kubeconfig");
        fs::write(&path, bytes).unwrap();
        let error = super::read(&Root::default(), Some(&path)).unwrap_err();
        prop_assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn a_damaged_kubeconfig_is_an_error_without_its_secret_or_still_one(
        at in 0.0..1.0f64, length in 0..40usize, with in "[\u{0}-~\u{e4}]{0,6}"
    ) {
        let place = Place::new();
        let mut text = text(SERVER, &token());
        let start = (text.len() as f64 * at) as usize;
        text.replace_range(start..(start + length).min(text.len()), &with);
        let path = place.file("kubeconfig", &text);
        match super::read(&Root::default(), Some(&path)) {
            Ok(access) => {
                let shown = format!("{access:?}");
                prop_assert!(!shown.contains("hunter2"), "{}", shown);
            }
            Err(error) => {
                prop_assert_eq!(error.exit_code(), 4);
                let all = format!("{error} {error:?}");
                // What was cut may have ended up in a name, which is shown.
                prop_assert!(!all.contains(SECRET), "{}", all);
            }
        }
    }
}
