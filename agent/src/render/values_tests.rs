use proptest::prelude::*;

use super::*;

/// What a value must never carry.
const SPECIAL: [char; 12] = ['"', '\'', '\\', '$', '`', '\n', '\r', '{', '}', '\0', '<', ';'];

fn ok<T: FromStr<Err = String>>(good: &[&str], bad: &[&str]) {
    for text in good {
        assert!(T::from_str(text).is_ok(), "{text}");
    }
    for text in bad {
        assert!(T::from_str(text).is_err(), "{text}");
    }
}

#[test]
fn addresses_are_of_three_kinds_and_carry_no_credential() {
    ok::<Url>(
        &[
            "https://example.com/a/nvme-agent-x86_64",
            "http://10.0.0.1:8080/a",
            "s3://bucket.name/a=b/c%20d",
            "https://[::1]/a",
            "http://[fd00::1]:8080/a",
        ],
        &[
            "",
            "https://",
            "https:///a",
            "ftp://a/b",
            "/a/b",
            "https://a/b c",
            "https://a/$(id)",
            "https://a/${x}",
            "https://a/%{x}",
            "https://a/%2",
            "https://a/b:~root/c",
            "https://a/b=~root/c",
            "https://a/b[1-3]",
            "https://a/b]",
            "https://a[1-3].example.com/b",
            "https://[1-3]/b",
            "https://[::1/b",
            "https://[::1]example.com/b",
            "https://[::1][1-3]/b",
            "https://[::1]:80/b[1-3]",
            "s3://[::1]/a",
        ],
    );
    assert!(
        Url::from_str("https://b.s3.amazonaws.com/k?X-Amz-Signature=1").unwrap_err().contains("a secret")
    );
    assert!(Url::from_str("https://user:pass@host/k").unwrap_err().contains("without a user"));
}

/// What stands in `url=...`, and in the `c=...` of a channel, is what curl is told.
fn assigned(values: &[String]) -> Vec<String> {
    let lines: String =
        values.iter().map(|value| format!("url={value}\nprintf '%s\\n' \"$url\"\n")).collect();
    let output = std::process::Command::new("bash").args(["-c", &lines]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn no_shell_makes_another_address_of_one() {
    let mut all = Vec::new();
    // Two of what is not plain, wherever they may stand.
    for one in "-._~/:@+,=%[]{}*!^#?&()<>|; \t~".chars() {
        for two in "-._~/:@+,=%[]{}*!^#?&()<>|; \t~".chars() {
            for text in [format!("https://a/b{one}{two}root/c"), format!("https://a/{one}root{two}root")] {
                all.extend(Url::from_str(&text).map(|url| url.to_string()));
                let base = text.rsplit_once('/').map(|(base, _)| format!("{base}/"));
                all.extend(base.filter(|base| ApiServer::from_str(base).is_ok()));
            }
        }
    }
    assert!(all.len() > 300, "{}", all.len());
    assert_eq!(assigned(&all), all);
}

#[test]
fn sums_regions_zones_families() {
    let sum = "0123456789abcdef".repeat(4);
    assert_eq!(Sha256::from_str(&sum.to_uppercase()).unwrap().as_str(), sum);
    ok::<Sha256>(&[&sum], &["", &sum[1..], &sum.replace('0', "g"), &format!("{sum} ")]);
    ok::<Region>(&["eu-west-1", "us-gov-east-1", "cn-north-1"], &["", "eu", "EU-west-1", "eu west", "-eu-1"]);
    ok::<Zone>(&["eu-west-1a", "us-east-1-atl-1a"], &["eu-west-1", "a", "eu-west-1A"]);
    ok::<Family>(&["i4i", "m6id", "u-6tb1"], &["", "i4i.large", "I4I", "i4i,m6id", "-", "i4i-", "-i4i"]);
}

#[test]
fn names() {
    ok::<ObjectName>(&["nvme", "a.b-c"], &["", "A", "a_b", "-a", &"a".repeat(64)]);
    ok::<ClusterName>(&["prod_1", "a"], &["", "-a", "a b", "a.b"]);
    ok::<RoleName>(
        &["KarpenterNodeRole-prod", "a+b=c,d@e"],
        &["", "arn:aws:iam::1:role/x", "a/b", &"a".repeat(65)],
    );
    ok::<LabelValue>(&["a", "a_B.c"], &["", "-a", "a b"]);
    ok::<Label>(
        &["app=e6data", "example.com/app=x"],
        &[
            "app",
            "app=",
            "=x",
            "a b=c",
            "karpenter.sh/x=y",
            "x.karpenter.k8s.aws/x=y",
            "mykarpenter.sh/x=y",
            "x.karpenter.sh=y",
            "kubernetes.io/x=y",
            "a/b/c=d",
        ],
    );
    ok::<Tag>(&["Name=a b", "aws:eks:cluster-name=prod", "k="], &["", "k", "=v", "k =v", "k='v'", "k=a\nb"]);
}

#[test]
fn sizes_and_times() {
    ok::<Gib>(&["100", "100Gi", "20", "59000Gi"], &["", "19", "59001", "100G", "1Ti", "+100"]);
    assert_eq!(Gib::from_str("100").unwrap().to_string(), "100Gi");
    ok::<Deadline>(&["60", "10m", "780s"], &["59", "14m", "", "10h", "-60"]);
    ok::<Lifetime>(
        &["168h", "1h30m", "90s", "0h1s", "000168h", "999999h", "999998h60m"],
        &["", "0h", "168", "h", "1d", "99999999h", "999999h1s", "1h30", "1000000h", "18446744073709551616s"],
    );
    assert!(Lifetime::from_str("Never").unwrap_err().contains("no other end"));
}

#[test]
fn what_a_cluster_is_joined_with() {
    ok::<ApiServer>(
        &["https://0123.gr7.eu-west-1.eks.amazonaws.com"],
        &["http://a", "s3://a/b", "https://a b", "a"],
    );
    ok::<Base64>(&["Y2E=", "Y2Fh", "Y2EK"], &["", "Y2E", "Y===", "Y2\nE", "Y-E="]);
    ok::<Sysctl>(
        &["fs.aio-max-nr=8388608"],
        &["", "fs.aio-max-nr", "fs=1", "fs.x=1;id", "fs.x= 1", "fs.x=a", ".x=1"],
    );
    ok::<Cidr>(
        &["10.100.0.0/16", "fd00::/108"],
        &["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "a/8", "10.0.0.0/+8"],
    );
}

proptest! {
    /// From text that is mostly allowed, so that what gets through is of some length.
    #[test]
    fn no_value_carries_what_a_shell_or_yaml_would_act_on(
        scheme in "(https://|s3://|eu-west-|10\\.0\\.0\\.0/|k=|)",
        text in "[-a-z0-9A-Z_./:=@+,%~\\[\\] \"'\\\\$`{}\n;<?#\u{e9}]{0,24}",
    ) {
        let text = format!("{scheme}{text}");
        let mut values: Vec<String> = Vec::new();
        macro_rules! of { ($($t:ty),*) => { $( if let Ok(value) = <$t>::from_str(&text) { values.push(value.to_string()); } )* } }
        of!(Url, Sha256, Region, Zone, Family, ObjectName, ClusterName, RoleName, LabelValue, Lifetime, ApiServer, Base64, Cidr, Sysctl, Gib);
        values.extend(Tag::from_str(&text).map(|tag| format!("{}{}", tag.key, tag.value)));
        values.extend(Label::from_str(&text).map(|label| format!("{}{}", label.key, label.value)));
        for value in values {
            prop_assert!(value.is_ascii() && !value.contains(SPECIAL), "{value:?}");
        }
    }
}
