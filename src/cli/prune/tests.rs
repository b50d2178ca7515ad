//! Flags, profiles and what the verdict is given by.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// Every flag that stands for a value of the profile, with a value that is no default.
const FLAGS: [&str; 21] = [
    "--model=/a/best.pt",
    "--data=/a/data.yaml",
    "--imgsz=96",
    "--dtype=int8",
    "--head=one2many",
    "--latency-ms=3.25",
    "--latency-ratio=0.65",
    "--energy-mj=12.5",
    "--memory-mib=7.5",
    "--params=1000",
    "--file-mib=2.5",
    "--floor=stop sign=0.9",
    "--epochs=3",
    "--hold-out=0.25",
    "--int8-epochs=0.25",
    "--sync-batch-norm",
    "--strategy=2:4",
    "--importance=l1",
    "--calibration-images=17",
    "--threads=3",
    "--seed=9223372036854775807",
];

/// Flags about this one run, which no profile has.
const OTHERS: [&str; 17] = [
    "device",
    "password-file",
    "sign",
    "lock",
    "locked",
    "compiler",
    "profile",
    "out",
    "binary",
    "cache",
    "cuda",
    "skip-bad-images",
    "tensorboard",
    "require-device",
    "dry-run",
    "first-stage",
    "message-format",
];

fn resolve(flags: &[&str]) -> Profile {
    let arguments = ["prune", "--memory-mib=64", "--data=/d.yaml"].into_iter();
    let mut flags: Vec<&str> = flags.to_vec();
    let own = |argument: &&str| !flags.iter().any(|flag| flag.split('=').next() == argument.split('=').next());
    let base: Vec<&str> = arguments.filter(own).collect();
    flags.splice(0..0, base);
    Cli::try_parse_from(flags).unwrap().args.resolve().unwrap().profile
}

/// `finish` reads what the job wrote: every flag must be in there.
#[test]
fn every_flag_is_in_the_profile_that_the_verdict_is_given_by() {
    let all = <Cli as clap::CommandFactory>::command();
    for arg in all.get_arguments().filter_map(clap::Arg::get_long) {
        let known = OTHERS.contains(&arg) || FLAGS.iter().any(|flag| flag[2..].split('=').next() == Some(arg));
        assert!(known, "--{arg}: neither a value of the profile nor known as another");
    }
    let without = resolve(&[]);
    for flag in FLAGS {
        let with = resolve(&[flag]);
        assert_ne!(with, without, "{flag} changes nothing");
        let read = profile::parse(Path::new("profile.toml"), &profile::write(&with)).unwrap();
        assert_eq!(read, with, "{flag}");
    }
    let most: Vec<&str> = FLAGS.into_iter().filter(|flag| !flag.starts_with("--latency-ratio")).collect();
    let with = resolve(&most);
    assert_eq!(profile::parse(Path::new("profile.toml"), &profile::write(&with)).unwrap(), with);
    assert_eq!((with.device.threads, with.budget.floors["stop sign"].get()), (3, 0.9));
}

/// Every key of the schema, too: what a profile says reaches the verdict by the same way.
#[test]
fn a_profile_with_every_key_is_written_and_read_back_the_same() {
    let text = "[device]\nname = 'b \"1\"'\ntriple = 'aarch64-unknown-linux-gnu'\ntarget-cpu = 'x'\nthreads = 5\npin = true\n\
                memory-mib = 999.5\nboard = 'Pi'\nglibc = '2.36'\nfeatures = ['a', 'b']\ncuda = 'sm_87'\ncore-gflops = 0.1\n\
                bandwidth-gb-s = 7\ngpu-multiprocessors = 8\ngpu-clock-ghz = 1.02\ngpu-f32-tflops = 2\n\
                gpu-f16-tflops = 17\ngpu-int8-tops = 33\ngpu-l2-mib = 2\ngpu-node-us = 1.5\n[connect]\nkind = 'ssh'\nhost = 'u@h'\nfolder = 'f'\noptions = ['-p', '22']\nkeep = true\n\
                [budget]\nlatency-ms = 0.3\nlatency-ratio = 0.7\npercentile = 99\nenergy-mj = 12.5\nmemory-mib = 3\nparams = 5\nfile-mib = 1\n\
                min-map = 0.3\nmax-map-drop = 0.02\nfloors = { 'a.b' = 0.5, \"gr\u{f6}\u{df}e\" = 1 }\n[model]\npath = '/m.pt'\n\
                sizes = [[640, 512], 320]\n[data]\npath = '/d.yaml'\n[search]\nstrategy = 'unstructured'\nsparsity = 0.3\ngrid = 4\n\
                min-keep = 0.2\nimportance = 'l2'\ncalibration-images = 3\nseed = 4\n[finetune]\nepochs = 2\nlr = 0.0003\n\
                batch = 3\noptimizer = 'sgd'\ndistill = 0.5\nsparsity = 0.01\ncontrol = false\nhold-out = 0.2\npatience = 3\n\
                mosaic = 0.4\nclose-mosaic = 1\nmirror = 0.3\nhsv = [0.1, 0.2, 0.3]\nfreeze = 2\nlabel-smoothing = 0.05\n\
                sync-batch-norm = true\nworkers = 2\nint8-epochs = 0.75\nscale = 0.1\ntranslate = 0.2\nwarmup = 1.5\nschedule = 'linear'\n[bench]\nwarmup = 1\nruns = 7\n\
                quiet = false\nruntime = 'command'\ncommand = ['t', '{model}']\n";
    for text in [
        text.to_owned(),
        text.replace(
            "kind = 'ssh'\nhost = 'u@h'\nfolder = 'f'\noptions = ['-p', '22']\nkeep = true",
            "kind = 'command'\ncommand = ['run', 'it']",
        ),
        text.replace("sizes = [[640, 512], 320]", "imgsz = [384, 640]"),
        text.replace(
            "runtime = 'command'\ncommand = ['t', '{model}']",
            "runtime = 'tensorrt'\nprogram = '/opt/trt/bin/trtexec'\nengines = '/data/its \"mine\"; rm -rf $HOME'",
        ),
        String::new(),
    ] {
        let read = profile::parse(Path::new("board.toml"), &text).unwrap();
        let again = profile::parse(Path::new("profile.toml"), &profile::write(&read)).unwrap();
        assert_eq!(again, read);
    }
}

#[test]
fn a_budget_that_no_flag_may_ask_for_is_refused() {
    let parse = |flags: &[&str]| {
        let arguments = ["prune"].into_iter().chain(flags.iter().copied());
        Cli::try_parse_from(arguments)
            .map_err(|e| e.to_string())
            .and_then(|cli| cli.args.resolve().map_err(|e| format!("{e:?}")))
    };
    for ratio in ["0", "-0.5", "nan", "1.5", "inf"] {
        let refused = parse(&["--latency-ratio", ratio]).unwrap_err();
        assert!(refused.contains("expected a number more than 0, up to 1"), "{ratio}: {refused}");
    }
    for flag in ["--latency-ms", "--memory-mib", "--file-mib"] {
        for value in ["0", "-3", "nan"] {
            assert!(parse(&[flag, value]).unwrap_err().contains("more than 0"), "{flag} {value}");
        }
    }
    assert!(parse(&["--params", "-1"]).unwrap_err().contains("invalid value '-1'"));
    assert!(parse(&["--params", "5", "--epochs", "1000001"]).is_err());
}

/// Every runtime takes the dtypes that it computes exported networks in, also with a GPU; ours has no kernels for int8 and
/// f16 there.
#[test]
fn a_dtype_goes_with_the_runtime() {
    let refused = |runtime: &str, cuda: &str, dtype: &str| {
        let text = format!(
            "[budget]\nmemory-mib = 9\n[device]\n{cuda}[model]\ndtype = '{dtype}'\n[bench]\nruntime = '{runtime}'\n{}",
            if runtime == "command" { "command = ['t', '{model}']\n" } else { "" }
        );
        let profile = profile::parse(Path::new("board.toml"), &text).unwrap();
        refuse_contradictions(&profile).err().map(|failure| format!("{failure:?}"))
    };
    let gpu = "cuda = 'sm_87'\n";
    for (runtime, cuda, dtype, expected) in [
        ("engine", "", "int8", None),
        ("engine", gpu, "f32", None),
        ("tensorrt", gpu, "f16", None),
        ("tensorrt", gpu, "int8", None),
        ("onnxruntime", "", "int8", None),
        ("onnxruntime", "", "f16", Some("ONNX Runtime computes exported networks in f32 or int8")),
        ("ncnn", "", "f16", None),
        ("ncnn", "", "int8", Some("ncnn computes exported networks in f32 or f16")),
        ("command", "", "f16", Some("a benchmark command computes exported networks in f32")),
    ] {
        let found = refused(runtime, cuda, dtype);
        assert_eq!(found.is_some(), expected.is_some(), "{runtime} {cuda} {dtype}: {found:?}");
        assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{runtime} {dtype}");
    }
}

#[test]
fn a_verdict_has_its_exit_code() {
    let good = Verdict { latency_ok: true, memory_ok: true, accuracy_ok: true, ..Verdict::default() };
    let code = |verdict: Verdict, strict: bool| judge(&verdict, strict).map_or_else(|failure| failure.code(), |()| 0);
    assert_eq!(code(good.clone(), true), 0);
    assert_eq!(code(Verdict { latency_ok: false, ..good.clone() }, false), 5);
    assert_eq!(code(Verdict { memory_ok: false, ..good.clone() }, false), 5);
    assert_eq!(code(Verdict { accuracy_ok: false, ..good.clone() }, false), 6);
    assert_eq!(code(Verdict { diverged: Some("the loss is NaN".into()), ..good.clone() }, false), 11);
    let simulated = Verdict { simulated: Some("emulated".into()), ..good };
    assert_eq!((code(simulated.clone(), false), code(simulated, true)), (0, 7));
}
