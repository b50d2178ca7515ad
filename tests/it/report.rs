//! The report: its JSON form, and the page.

use secateurs::bench::Distribution;
use secateurs::graph::Dtype;
use secateurs::pipeline;
use secateurs::quantise::Kept;
use secateurs::report::comparison::{Behind, Comparison, Row, Score};
use secateurs::report::render_comparison;
use secateurs::report::{
    Budget, FrontPoint, GroupWidths, LayerTimes, MemoryStep, Photo, Report, Search, Stage, Verdict, render,
};
use std::collections::BTreeMap;

/// Four decimals: such numbers survive JSON to the last bit.
fn short(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

pub fn distribution(p50: f64) -> Distribution {
    let times: Vec<f64> = (0..1000).map(|i| short(p50 * (0.95 + f64::from(i) * 1e-4))).collect();
    Distribution::of(&times, &times)
}

pub fn stage(map: f64, params: usize, classes: &[&str]) -> Stage {
    Stage {
        map50_95: map,
        map50: short(map * 1.4),
        map50_95_ultralytics: short(map * 1.02),
        per_class: classes
            .iter()
            .enumerate()
            .map(|(i, c)| ((*c).to_owned(), short(map * (0.7 + 0.09 * i as f64))))
            .collect(),
        params,
        zeros: 0,
        macs: params * 310,
        peak_memory_bytes: params * 4 + (6 << 20),
        file_bytes: params * 4 + 4000,
        latency: None,
        ..Stage::default()
    }
}

fn search() -> Search {
    Search { loss: Some(0.0412), lower_bound: Some(0.041), gap: Some(0.0048), predicted_ms: Some(21.4), rounds: 3 }
}

fn photo() -> Photo {
    Photo {
        name: "street <1>.jpg".into(),
        disagreement: 3,
        found_before: 7,
        found_after: 4,
        before: "Zm9v".into(),
        after: "Zm9vYmFy".into(),
    }
}

pub fn sample(with_tuning: bool) -> Report {
    let classes = ["person", "traffic light", "dog", "tie", "zebra"];
    let mut baseline = stage(0.3705, 2_624_080, &classes);
    baseline.latency = Some(distribution(27.0));
    let mut repaired = stage(0.2913, 1_971_240, &classes);
    let mut tuned = with_tuning.then(|| stage(0.3481, 1_971_240, &classes));
    tuned.as_mut().unwrap_or(&mut repaired).latency = Some(distribution(21.3));
    let group = |i: usize| {
        let before = [16, 32, 64, 128, 256][i * 5 / 71];
        let after = before - before * (i * 7 % 5) / 8;
        GroupWidths { name: format!("model.{}.cv{}.conv", i / 3, i % 3 + 1), before, after }
    };
    let layer = |i: usize| {
        let before_ms = short(0.15 + f64::from((i * 37 % 23) as u32) * 0.02);
        let after_ms = short(before_ms * (0.6 + f64::from((i * 5 % 9) as u32) * 0.05));
        LayerTimes { name: format!("model.{}.cv{}.conv", i / 4, i % 4 + 1), before_ms, after_ms }
    };
    Report {
        version: "0.1.0".into(),
        target: "host".into(),
        device: "An Example CPU, 1 thread, 320 px".into(),
        imgsz: 320.into(),
        batch: 1,
        head: None,
        threads: 1,
        seed: 7,
        model: "best.pt".into(),
        data: "data.yaml".into(),
        budget: Budget { latency_ratio: Some(0.8), percentile: 99, memory_mib: Some(20.0), ..Budget::default() },
        floors: BTreeMap::from([("person".into(), 0.95)]),
        importance: "fisher".into(),
        baseline,
        pruned: stage(0.2104, 1_971_240, &classes),
        repaired,
        tuned,
        training: None,
        dtype: Default::default(),
        quantized: None,
        controls: BTreeMap::from([("uncut + repair".to_owned(), stage(0.3702, 2_624_080, &classes))]),
        search: search(),
        table_errors: vec![0.004, 0.011, 0.019],
        groups: (0..71).map(group).collect(),
        layers: (0..87).map(layer).collect(),
        runtime: None,
        full_precision: vec![Kept {
            layer: "model.1<conv>".into(),
            dtype: Dtype::F16,
            divergence: 0.0125,
            lost_ms: 0.25,
        }],
        front: (0..8)
            .map(|i| FrontPoint {
                latency_ratio: short(1.0 - 0.05 * f64::from(i)),
                loss: short(0.01 * f64::from(i * i)),
                lower_bound: short(0.0099 * f64::from(i * i)),
            })
            .collect(),
        memory: (0..87)
            .map(|i| MemoryStep {
                name: format!("model.{}.cv{}", i / 4, i % 4 + 1),
                before_bytes: f64::from(4 << 20) / f64::from(1 + i % 9),
                after_bytes: f64::from(3 << 20) / f64::from(1 + (i + 1) % 9),
            })
            .collect(),
        photos: vec![photo()],
        verdict: Verdict {
            latency_ratio: 0.789,
            simulated: None,
            diverged: None,
            latency_ok: true,
            memory_ok: true,
            accuracy_ok: true,
            sentences: vec!["0.789x of 0.800x latency: holds".into(), "13.52 MiB of 20.00 MiB: holds".into()],
        },
        seconds: BTreeMap::from([("importance".to_owned(), 21.4), ("latency table".to_owned(), 63.0)]),
    }
}

#[test]
fn json_gives_back_the_report() {
    for with_tuning in [false, true] {
        let report = sample(with_tuning);
        let json = serde_json::to_string_pretty(&report).unwrap();
        assert!(serde_json::from_str::<Report>(&json).unwrap() == report, "{json}");
    }
}

#[test]
fn json_has_the_keys_that_scripts_rely_on() {
    let json = serde_json::to_value(sample(true)).unwrap();
    let accuracy = ["map50_95", "map50", "map50_95_ultralytics", "peak_memory_bytes"];
    let latency = ["p50_ms", "p95_ms", "p99_ms", "cpu_p50_ms"];
    for stage in ["uncut", "cut", "repaired", "tuned"] {
        for key in accuracy {
            assert!(json[stage][key].is_number(), "{stage}.{key}");
        }
    }
    for key in latency {
        assert!(json["uncut"][key].is_number() && json["tuned"][key].is_number(), "{key}");
        assert!(json["cut"].get(key).is_none(), "the pruned model is not measured, yet has {key}");
    }
    assert!(json["threads"].is_number());
}

/// Tags that are opened must be closed in order; the page uses no optional end tags.
fn unbalanced(page: &str) -> Option<String> {
    let empty = ["meta", "!doctype", "img"];
    let mut open: Vec<&str> = Vec::new();
    let body = page.split_once("</style>").map_or(page, |(_, body)| body);
    for tag in body.split('<').skip(1) {
        let (inside, _) = tag.split_once('>')?;
        let name = inside.trim_start_matches('/').split([' ', '\n']).next().unwrap_or_default();
        if inside.starts_with('/') {
            if open.pop() != Some(name) {
                return Some(format!("</{name}> closes nothing"));
            }
        } else if !inside.ends_with('/') && !empty.contains(&name) {
            open.push(name);
        }
    }
    // The head opened before the style.
    open.pop().map(|name| format!("<{name}> is never closed"))
}

#[test]
fn the_page_tells_everything_once_and_needs_nothing() {
    let page = render(&sample(true));
    if let Some(path) = std::env::var_os("SECATEURS_SAMPLE_REPORT") {
        std::fs::write(path, &page).unwrap();
    }
    let body = page.split_once("<body>").unwrap().1.rsplit_once("</body>").unwrap().0;
    assert_eq!(unbalanced(body), None);
    for heading in [
        "Stage by stage",
        "Controls",
        "Search",
        "What other latencies would cost",
        "Widths",
        "Time per layer",
        "Memory over the layers",
        "Class by class",
        "Where the models disagree most",
        "Provenance",
    ] {
        assert_eq!(page.matches(&format!("<h2>{heading}</h2>")).count(), 1, "{heading}");
    }
    let expected = [
        "Every budget holds",
        "0.789x of 0.800x latency: holds",
        "0.3705",
        "0.3481<small>\u{2212}0.0224</small>",
        "0.48 %",
        "1.10 % median and 1.90 % largest",
        "The peak is at <b>model.0.cv1</b> before (4.00 MiB)",
        "street &lt;1&gt;.jpg",
        "prefers-color-scheme: dark",
    ];
    for text in expected {
        assert!(page.contains(text), "{text} is missing");
    }
    for forbidden in ["<script", "http:", "https:", "url(", "@import", "<link"] {
        assert!(!page.contains(forbidden), "the page has {forbidden}");
    }
    assert_eq!(page.matches("src=").count(), 2);
    assert_eq!(page.matches("src=\"data:image/jpeg;base64,Zm9v").count(), 2, "photos are in the page");
    let rows = page.matches("<li><span title").count();
    assert_eq!(rows, 71 + 87 + 5, "bars of groups, layers and classes");
}

#[test]
fn without_tuning_the_repaired_model_is_the_last() {
    let page = render(&sample(false));
    assert!(!page.contains(">tuned<"));
    assert!(page.contains("0.2913<small>\u{2212}0.0792</small>"));
}

#[test]
fn what_is_missed_is_the_headline() {
    let cases = [
        ([false, true, true], "Latency budget missed"),
        ([true, false, true], "Memory budget missed"),
        ([false, true, false], "Latency budget and accuracy floor missed"),
    ];
    for ([latency, memory, accuracy], expected) in cases {
        let mut report = sample(false);
        report.verdict.latency_ok = latency;
        report.verdict.memory_ok = memory;
        report.verdict.accuracy_ok = accuracy;
        let page = render(&report);
        assert!(page.contains(&format!("<h1>{expected}</h1>")), "{expected}");
        assert!(page.contains("class=\"verdict missed\""));
    }
    let mut report = sample(false);
    report.budget = Budget { percentile: 99, ..Budget::default() };
    assert!(render(&report).contains("<h1>No budget was given</h1>"));
}

#[test]
fn names_from_files_are_never_markup() {
    let evil = "<script>alert('x')</script>\"&\u{7}";
    let mut report = sample(true);
    report.target = evil.into();
    report.device = evil.into();
    report.model = evil.into();
    report.data = evil.into();
    report.version = evil.into();
    report.importance = evil.into();
    report.verdict.sentences.push(evil.into());
    report.groups[0].name = evil.into();
    report.layers[0].name = evil.into();
    report.photos[0].name = evil.into();
    report.photos[0].before = evil.into();
    for step in &mut report.memory {
        step.name = evil.into();
    }
    report.seconds.insert(evil.into(), 1.0);
    report.controls.insert(evil.into(), Stage::default());
    for stage in [&mut report.baseline, report.tuned.as_mut().unwrap()] {
        stage.per_class.insert(evil.into(), 0.5);
    }
    let page = render(&report);
    assert!(!page.contains("<script") && !page.contains('\u{7}'));
    let body = page.split_once("<body>").unwrap().1.rsplit_once("</body>").unwrap().0;
    assert_eq!(unbalanced(body), None);
    let escaped = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}";
    assert!(page.matches(escaped).count() >= 12, "{} escaped names", page.matches(escaped).count());
}

#[test]
fn an_empty_report_still_gives_a_page() {
    let mut report = sample(false);
    report.groups.clear();
    report.layers.clear();
    report.controls.clear();
    report.seconds.clear();
    report.table_errors.clear();
    report.front.clear();
    report.memory.clear();
    report.photos.clear();
    for stage in [&mut report.baseline, &mut report.pruned, &mut report.repaired] {
        *stage = Stage::default();
    }
    report.search.gap = Some(f64::NAN);
    assert!(!render(&report).contains("NaN"));
    // Figures that are no numbers are left out of the drawings.
    let strange = FrontPoint { latency_ratio: f64::NAN, loss: f64::INFINITY, lower_bound: f64::NAN };
    report.front = vec![strange; 3];
    report.memory = vec![MemoryStep { name: "a".into(), before_bytes: f64::NAN, after_bytes: f64::NAN }];
    report.verdict = Verdict { latency_ok: true, memory_ok: true, accuracy_ok: true, ..Verdict::default() };
    let page = render(&report);
    assert!(!page.contains("NaN") && !page.contains("inf %"));
}

#[test]
fn a_comparison_is_a_page_of_its_own() {
    let row = |scheme: &str, repair: &str, map: f64, behind| Row {
        scheme: scheme.into(),
        repair: repair.into(),
        asked_ratio: 0.8,
        latency_ratio: 0.79,
        p50_ms: 20.0,
        params: 2_000_000,
        macs: 600_000_000,
        score: Score { map50_95: map, low: map - 0.02, high: map + 0.02 },
        behind,
    };
    let behind = Some(Behind { difference: 0.05, deviation: 0.01 });
    let mut comparison = Comparison {
        version: "0.1.0".into(),
        device: "a machine".into(),
        model: "a&b.pt".into(),
        data: "data.yaml".into(),
        imgsz: 320.into(),
        images: 50,
        resamples: 500,
        metric: "mAP50-95".into(),
        baseline: Score { map50_95: 0.37, low: 0.33, high: 0.41 },
        rows: vec![
            row("reconstruction", "lsq", 0.28, None),
            row("l1-uniform", "bn", 0.23, behind),
            row("<evil>", "none", f64::NAN, behind),
        ],
    };
    let page = render_comparison(&comparison);
    let body = page.split_once("<body>").unwrap().1.rsplit_once("</body>").unwrap().0;
    assert_eq!(unbalanced(body), None, "{page}");
    for text in ["a&amp;b.pt", "&lt;evil&gt;", "\u{2212}0.0500 \u{b1} 0.0100", "0.2800<small>0.260 to 0.300</small>"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("NaN") && !page.contains("<evil>"), "{page}");
    let json = serde_json::to_string(&comparison).unwrap();
    comparison.rows.pop();
    assert!(json.contains("behind"));
    comparison.rows.clear();
    assert_eq!(
        unbalanced(render_comparison(&comparison).split_once("<body>").unwrap().1.rsplit_once("</body>").unwrap().0),
        None
    );
}

#[test]
fn floors_hold_or_not_by_the_recall_of_the_stage_that_ships() {
    let mut report = sample(true);
    report.budget = Budget::default();
    report.baseline.recall = BTreeMap::from([("person".into(), 0.8)]);
    let mut verdict = |after: f64| {
        report.last_mut().recall = BTreeMap::from([("person".into(), after)]);
        pipeline::judge_simulated(&report, "emulated")
    };
    let (held, missed) = (verdict(0.77), verdict(0.75));
    assert!(held.accuracy_ok && !missed.accuracy_ok && missed.memory_ok);
    assert_eq!(missed.sentences, ["recall of person 0.7500, at least 0.95 of 0.8000: is missed"]);
}

#[test]
fn a_floor_under_nothing_holds_nothing() {
    let mut report = sample(true);
    report.budget = Budget::default();
    let none = BTreeMap::from([("person".to_owned(), 0.0)]);
    for (baseline, why) in [(none, "so a share of that says nothing"), (BTreeMap::new(), "is undefined")] {
        report.baseline.recall = baseline;
        report.last_mut().recall = BTreeMap::from([("person".into(), 0.5)]);
        let verdict = pipeline::judge_simulated(&report, "emulated");
        assert!(!verdict.accuracy_ok);
        let sentence = &verdict.sentences[0];
        assert!(sentence.contains(why) && sentence.ends_with("is missed"), "{sentence}");
    }
}

/// A claim about the median is about frames that were not measured, too; and whoever doubts the evidence against discarded
/// windows is told what they change.
#[test]
fn a_median_is_judged_by_its_bound_and_discarded_windows_are_told() {
    let with = |p50_ms: f64, bound: f64| Distribution { p50_ms, p50_bound_ms: Some(bound), ..distribution(p50_ms) };
    let budget = Budget { latency_ms: Some(10.0), percentile: 50, ..Budget::default() };
    let report = Report { budget, ..sample(false) };
    let against = |bound: f64, all_windows| pipeline::PairedLatency {
        baseline: distribution(20.0),
        pruned: with(9.9, bound),
        ratio: 0.495,
        ratio_bound: None,
        all_windows,
        energy: None,
    };
    let held = pipeline::judge(&report, &against(9.98, None));
    assert!(held.latency_ok && held.sentences[0] == "p50 9.98 ms with 95 % confidence of 10.00 ms: holds", "{held:?}");
    let missed = pipeline::judge(&report, &against(10.1, Some(with(10.4, 11.0))));
    let expected =
        "p50 10.10 ms with 95 % confidence (11.00 ms with the windows that were discarded) of 10.00 ms: is missed";
    assert!(!missed.latency_ok && missed.sentences[0] == expected, "{missed:?}");
}
