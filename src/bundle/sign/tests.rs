//! Signatures against what the program `minisign` 0.11 wrote, and against another implementation of the format.
//!
//! The keys were made for these tests and sign nothing else.

use super::*;
use std::fs;

/// `minisign -G -W`: a key without a password.
const SECRET: &str = "untrusted comment: secateurs test key, signs nothing of value\n\
    RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAALpXFMyIURYjVN/vOC+qJKHWIQhNQHLKPacm+h8hp\
    tdp80mVPGHgUxBl0ZEPxHPtkxP/6xISJVz58LrPw8yrcVXj05xdP1B6LAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
const PUBLIC: &str = "RWQulcUzIhRFiBl0ZEPxHPtkxP/6xISJVz58LrPw8yrcVXj05xdP1B6L";
/// Another key.
const OTHER: &str = "RWSEyqMYrk6VEukap22/MK0+i7V70y7t+wqJvwqUn01LcqkmuP6lC7Ez";
/// `minisign -S -m known.json -t 'a trusted comment' -c 'an untrusted comment'` of [`KNOWN`].
const SIGNED: &str = "untrusted comment: an untrusted comment\n\
    RUQulcUzIhRFiGJGB9PDUqwCOmOPlovlroKa+fwa14CL9SO4gC9sU6isW41r+NzSCvvK//hmpTFkXC0aVVcy2zEI907OOJZiuwA=\n\
    trusted comment: a trusted comment\n\
    nnfCpbR8mZPcQvht/DXp3fVXAnqh6kQvDRzXvPWcOx8MV8XzvaIBosyO4XAq6qIEL/+XFt8PnbL9WrJbLU9qAQ==\n";
/// The same with `-l`: the old kind of signature.
const LEGACY: &str = "untrusted comment: signature from minisign secret key\n\
    RWQulcUzIhRFiOohxcS83rEk8uaIZHnhmO4YmY/9bLzwodogFSaV0PF1ZM9tMq2S/vF/XebqJUeyqPygq9qI3YUi6h0p4bTZAgE=\n\
    trusted comment: timestamp:1795718689\tfile:known.json\n\
    98lnWaiCRO6+daZHGsW7gJUJ2h77nx4pzBVD8sgfhsOhOJ54t+Fh9Qa1DratznrPfQ5Rbz2xCtWqKoGEZlaGAg==\n";
const KNOWN: &[u8] = b"{\"digest\": \"known\"}\n";

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_signature_of_the_program_minisign_is_accepted_of_its_bytes_and_key_alone() {
    let key = PublicKey::open(PUBLIC).unwrap();
    assert_eq!(key.id(), "8845142233C5952E");
    let signature = Signature::parse(SIGNED.as_bytes()).unwrap();
    assert_eq!(signature.id(), key.id());
    signature.check(KNOWN, &key).unwrap();
    let refused = signature.check(b"{\"digest\": \"knovn\"}\n", &key).unwrap_err();
    assert!(refused.contains("is no signature of manifest.json"), "{refused}");
    let refused = signature.check(KNOWN, &PublicKey::open(OTHER).unwrap()).unwrap_err();
    assert!(refused.contains("with key 8845142233C5952E, expected one with 12954EAE18A3CA84"), "{refused}");
    let refused = Signature::parse(LEGACY.as_bytes()).unwrap_err();
    assert!(refused.contains("old kind"), "{refused}");
}

/// `minisign-verify` shares no code with what signs here.
#[test]
fn what_is_signed_here_another_implementation_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::open(&write(folder.path(), "test.key", SECRET), None).unwrap();
    let text = signer.sign(KNOWN, Some(1_700_000_000)).unwrap();
    assert!(text.contains("timestamp:1700000000\tfile:manifest.json\thashed\tsecateurs "), "{text}");
    let theirs = minisign_verify::PublicKey::from_base64(PUBLIC).unwrap();
    let signature = minisign_verify::Signature::decode(&text).unwrap();
    theirs.verify(KNOWN, &signature, false).unwrap();
    theirs.verify(b"other bytes", &signature, false).unwrap_err();
    Signature::parse(text.as_bytes()).unwrap().check(KNOWN, &PublicKey::open(PUBLIC).unwrap()).unwrap();
}

#[test]
fn every_byte_of_a_signature_that_was_made_here_counts() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::open(&write(folder.path(), "test.key", SECRET), None).unwrap();
    let key = PublicKey::open(PUBLIC).unwrap();
    let good = signer.sign(KNOWN, None).unwrap().into_bytes();
    let holds = |bytes: &[u8]| Signature::parse(bytes).is_ok_and(|signature| signature.check(KNOWN, &key).is_ok());
    assert!(holds(&good));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(!holds(&bad), "byte {at}, bit {bit}");
        }
        assert!(!holds(&good[..at]), "the first {at} bytes");
    }
    assert!(!holds(&[&good[..], b"\n"].concat()) && !holds(&[&good[..], &good[..]].concat()));
}

#[test]
fn a_protected_key_needs_its_password_and_other_files_are_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("open sesame".into())).unwrap();
    let secret = write(folder.path(), "locked.key", &pair.sk.to_box(None).unwrap().to_string());
    let says = |path: &Path, password, expected: &str| {
        let error = Signer::open(path, password).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&path.display().to_string()), "{error}");
    };
    says(&secret, None, "is protected by a password, and none was given");
    says(&secret, Some("open barley"), "the password is not that of this key");
    let signer = Signer::open(&secret, Some("open sesame")).unwrap();
    let key = pair.pk.to_box().unwrap().to_string();
    let public = write(folder.path(), "locked.pub", &key);
    let public = PublicKey::open(public.to_str().unwrap()).unwrap();
    assert_eq!((signer.id(), format!("{signer:?}")), (public.id(), format!("Signer({})", public.id())));
    Signature::parse(signer.sign(KNOWN, None).unwrap().as_bytes()).unwrap().check(KNOWN, &public).unwrap();

    for (text, expected) in [(key.as_str(), "is no minisign secret key"), ("", "secret key"), ("a\nb\n", "secret key")]
    {
        says(&write(folder.path(), "wrong.key", text), None, expected);
    }
    says(&folder.path().join("none.key"), None, "No such file");
    for text in ["", "a\nb\n", SECRET, &PUBLIC[1..]] {
        let path = write(folder.path(), "wrong.pub", text);
        let error = PublicKey::open(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("is no minisign public key"), "{error}");
    }
    assert!(PublicKey::open("none.pub").unwrap_err().to_string().contains("No such file"));
}
