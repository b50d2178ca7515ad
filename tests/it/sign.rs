//! Signatures of bundles: by `finish` and by `sign`, and what `verify --key` refuses.

use crate::bundles::{OTHER, PUBLIC, change_report, copy, copy_files, run};
use assert_cmd::Command;
use minisign::KeyPair;
use secateurs::bundle::{MANIFEST, MODEL, SIGNATURE};
use std::fs;

#[test]
fn verify_refuses_a_bundle_that_the_key_has_not_signed() {
    let folder = copy();
    let (folder, out) = (folder.path(), folder.path().join("out"));
    fs::write(folder.join("test.pub"), format!("untrusted comment: minisign public key\n{PUBLIC}\n")).unwrap();
    for key in [PUBLIC, "test.pub"] {
        let (code, text) = run(&format!("verify out --key {key}"), folder);
        assert!(code == 0 && text.contains("signed with key 8845142233C5952E"), "{code} {text}");
    }
    for (key, expected) in [
        (OTHER, "is a signature with key 8845142233C5952E, expected one with 12954EAE18A3CA84"),
        ("test.key", "is no minisign public key"),
        ("none.pub", "none.pub: No such file"),
    ] {
        let (code, text) = run(&format!("verify out --key {key}"), folder);
        assert!(code == 9 && text.contains(expected), "{code} {text}");
    }
    // What is sealed again is whole, but nobody signed it.
    change_report(&out, |report| report.seed += 1);
    let (code, text) = run("verify out", folder);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&format!("verify out --key {PUBLIC}"), folder);
    assert!(code == 9 && text.contains("is no signature of manifest.json"), "{code} {text}");
    fs::remove_file(out.join(SIGNATURE)).unwrap();
    let (code, text) = run(&format!("verify out --key {PUBLIC}"), folder);
    assert!(code == 9 && text.contains("manifest.json.minisig: is missing"), "{code} {text}");
}

#[test]
fn sign_signs_what_is_whole_and_nothing_else() {
    let folder = copy();
    let (folder, out) = (folder.path(), folder.path().join("out"));
    fs::write(out.join(SIGNATURE), "of another bundle").unwrap();
    let (code, text) = run("verify out", folder);
    assert!(code == 9 && text.contains("manifest.json.minisig: is no signature of minisign"), "{code} {text}");
    let (code, text) = run("sign out --key test.key", folder);
    assert!(code == 0 && text.contains("with key 8845142233C5952E"), "{code} {text}");
    let (code, text) = run(&format!("verify out --key {PUBLIC}"), folder);
    assert_eq!(code, 0, "{text}");
    // Another implementation agrees.
    let signature = minisign_verify::Signature::from_file(out.join(SIGNATURE)).unwrap();
    let manifest = fs::read(out.join(MANIFEST)).unwrap();
    minisign_verify::PublicKey::from_base64(PUBLIC).unwrap().verify(&manifest, &signature, false).unwrap();

    let (code, text) = run("sign none --key test.key", folder);
    assert!(
        code == 9 && text.contains("none/manifest.json: No such file") && !folder.join("none").exists(),
        "{code} {text}"
    );
    let (code, text) = run("sign out --key none.key", folder);
    assert!(code == 9 && text.contains("none.key: No such file"), "{code} {text}");
    fs::write(out.join(MODEL), "another").unwrap();
    let (code, text) = run("sign out --key test.key", folder);
    assert!(code == 9 && text.contains("model.safetensors: is not what the run wrote"), "{code} {text}");
}

#[test]
fn a_password_comes_from_a_file_or_the_environment() {
    let folder = copy();
    let folder = folder.path();
    let pair = KeyPair::generate_encrypted_keypair(Some("open sesame".into())).unwrap();
    fs::write(folder.join("locked.key"), pair.sk.to_box(None).unwrap().to_string()).unwrap();
    fs::write(folder.join("password"), "open sesame\n").unwrap();
    fs::write(folder.join("wrong"), "open barley\n").unwrap();
    let sign = |more: &str, password: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
        command.current_dir(folder).args("sign out --key locked.key".split(' ')).args(more.split_whitespace());
        command.env_remove("SECATEURS_SIGN_PASSWORD");
        password.map(|text| command.env("SECATEURS_SIGN_PASSWORD", text));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = sign("", None);
    assert!(
        code == 9 && text.contains("is protected by a password") && text.contains("--password-file"),
        "{code} {text}"
    );
    for (more, password) in [("--password-file wrong", Some("open sesame")), ("", Some("open barley"))] {
        let (code, text) = sign(more, password);
        assert!(code == 9 && text.contains("the password is not that of this key"), "{code} {text}");
    }
    let key = pair.pk.to_base64();
    for (more, password) in [("--password-file password", None), ("", Some("open sesame"))] {
        let (code, text) = sign(more, password);
        assert_eq!(code, 0, "{text}");
        let (code, text) = run(&format!("verify out --key {key}"), folder);
        assert_eq!(code, 0, "{text}");
    }
}

/// The script for pipelines without GitHub, but for `prune`.
#[test]
fn the_release_script_verifies_signs_and_packages_and_one_failure_leaves_the_others() {
    let folder = copy();
    let folder = folder.path();
    for target in ["dist/board", "dist/broken", "last-release/board"] {
        copy_files(&folder.join("out"), &folder.join(target));
    }
    fs::remove_file(folder.join("dist/board").join(SIGNATURE)).unwrap();
    fs::write(folder.join("dist/board/.cache"), "of this machine").unwrap();
    fs::write(folder.join("dist/broken").join(MODEL), "another").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/release.sh");
    let release = |targets: &[&str], max_slower: &str| {
        let mut command = Command::new("sh");
        command.current_dir(folder).arg(script).args(targets);
        command.env("SECATEURS", env!("CARGO_BIN_EXE_secateurs")).env("STEPS", "verify sign package");
        command.env("KEY", "test.key").env("PUBLIC", PUBLIC).env("MAX_SLOWER", max_slower);
        let output = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    };
    let (code, text) = release(&["broken", "board"], "1000%");
    assert!(code == 9 && text.contains("broken: failed with exit code 9"), "{code} {text}");
    assert!(text.contains("interleaved with last-release/board") && text.contains("release/board.tar.gz"), "{text}");
    assert!(!folder.join("release/broken.tar.gz").exists());
    let mut unpack = std::process::Command::new("tar");
    let unpacked = folder.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    assert!(
        unpack
            .arg("-xzf")
            .arg(folder.join("release/board.tar.gz"))
            .arg("-C")
            .arg(&unpacked)
            .status()
            .unwrap()
            .success()
    );
    let (code, text) = run(&format!("verify unpacked/board --key {PUBLIC}"), folder);
    assert_eq!(code, 0, "{text}");
    assert!(!unpacked.join("board/.cache").exists());
    // The whole script is code 2 without a target.
    assert_eq!(release(&[], "2%").0, 2);
}
