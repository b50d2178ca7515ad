//! A job whose networks run on a GPU: the emulated one.

use super::*;
use crate::kernels::cuda::emulated;
use crate::pipeline::PipelineError;
use crate::pipeline::inputs::{Baseline, moments_on, sensitivity_on};
use crate::pipeline::progress::Progress;

/// A job on three pictures, and the same on the GPU.
fn jobs(folder: &Path) -> [Job; 2] {
    let cpu = Job { criterion: Criterion::L1, calibration_images: 2, ..job(folder) };
    [cpu.clone(), Job { device: Device::Cuda(0), ..cpu }]
}

#[test]
fn what_one_kind_of_device_found_is_not_taken_for_another_ones() {
    if emulated::device().is_none() {
        return;
    }
    let folder = inputs();
    let [cpu, gpu] = jobs(folder.path()).each_ref().map(keys);
    let changed: [bool; 3] = std::array::from_fn(|at| cpu[at] != gpu[at]);
    // A training goes on wherever it began, and the latency table is that of the target.
    assert_eq!(changed, [true, false, false]);
}

#[test]
fn a_gpu_that_is_missing_ends_the_job_before_any_work() {
    if emulated::device().is_none() {
        return;
    }
    let folder = inputs();
    let job = Job { device: Device::Cuda(5), ..job(folder.path()) };
    let stages = RefCell::new(0);
    let progress = RefCell::new(|event| {
        if let Event::Stage("Loading" | "Estimating", _) = event {
            *stages.borrow_mut() += 1;
        }
    });
    let Err(error) = Inputs::gather(&job, &progress) else { panic!("accepted") };
    assert!(matches!(error, PipelineError::Device { device: Device::Cuda(5), .. }));
    assert_eq!(
        error.to_string(),
        "--device cuda:5: the NVIDIA driver has no device of number 5: it has 2, counted from 0"
    );
    assert_eq!(stages.take(), 0);
}

/// A device, and what progress said meanwhile.
fn said(choose: impl Fn(&dyn Progress) -> Device) -> (Device, Vec<String>) {
    let said = RefCell::new(Vec::new());
    let progress = RefCell::new(|event| {
        if let Event::Message(text) = event {
            said.borrow_mut().push(text);
        }
    });
    let device = choose(&progress);
    (device, said.take())
}

#[test]
fn second_moments_are_the_gpus_where_it_has_the_memory_and_never_the_cpus_in_silence() {
    if emulated::device().is_none() {
        return;
    }
    let folder = inputs();
    let [cpu, gpu] = jobs(folder.path());
    let Inputs { mut baseline, moments_on: device, .. } = gather(&gpu);
    assert_eq!(device, Device::Cuda(0));
    let said = |job: &Job, baseline: &Baseline, images: usize| {
        said(|progress| moments_on(job, baseline, images, progress).unwrap())
    };
    assert_eq!(said(&cpu, &baseline, 1 << 20), (Device::Cpu, vec![]));
    assert_eq!(said(&gpu, &baseline, 100), (Device::Cuda(0), vec![]));
    // The emulated device has 8 GiB.
    baseline.imgsz = 640.into();
    let (device, messages) = said(&gpu, &baseline, 1000);
    let expected = "second moments and repair stay on the CPU: they need ";
    assert!(messages[0].starts_with(expected) && messages[0].ends_with(", 8192 MiB are free"), "{messages:?}");
    assert_eq!((device, messages.len()), (Device::Cpu, 1));
}

#[test]
fn sensitivity_is_the_gpus_where_it_has_the_memory_and_never_the_cpus_in_silence() {
    if emulated::device().is_none() {
        return;
    }
    let folder = inputs();
    let [cpu, gpu] = jobs(folder.path());
    let Inputs { mut baseline, sensitivity: on_cpu, .. } = gather(&cpu);
    let Inputs { sensitivity: on_gpu, computed_on, .. } = gather(&gpu);
    assert_eq!(computed_on, gpu.computed_on().unwrap());
    // Rounded in another order, the same seed gives nearly the same.
    assert!(on_gpu != on_cpu && on_gpu.positions.keys().eq(on_cpu.positions.keys()));
    for (id, wanted) in &on_cpu.channels {
        let [found, wanted] = [&on_gpu.channels[id], wanted].map(|sums| sums.iter().sum::<f64>());
        assert!((found - wanted).abs() <= 1e-3 * wanted, "{id}: {found}, on the CPU {wanted}");
    }
    let said = |job: &Job, baseline: &Baseline| said(|progress| sensitivity_on(job, baseline, progress).unwrap());
    assert_eq!(said(&cpu, &baseline), (Device::Cpu, vec![]));
    assert_eq!(said(&gpu, &baseline), (Device::Cuda(0), vec![]));
    baseline.imgsz = 16384.into();
    assert_eq!(said(&cpu, &baseline), (Device::Cpu, vec![]));
    let (device, messages) = said(&gpu, &baseline);
    let expected = "output sensitivity stays on the CPU: it needs ";
    assert!(messages[0].starts_with(expected) && messages[0].ends_with(", 8192 MiB are free"), "{messages:?}");
    assert_eq!((device, messages.len()), (Device::Cpu, 1));
}

/// Networks that start in the middle, and whole ones: both are compared with the baseline network there.
#[test]
fn loss_curves_of_a_gpu_are_those_of_the_cpu() {
    if emulated::device().is_none() {
        return;
    }
    let folder = inputs();
    let curves = |job: &Job, images: &[Vec<f32>]| {
        let inputs = gather(job);
        let (model, groups) = (&inputs.baseline.model, &inputs.baseline.groups);
        let mut calibration = inputs.repair_calibration(0);
        calibration.images = images;
        let statistics = importance::Statistics::default();
        let ranking = importance::rank(Criterion::L1, model, groups, &statistics).unwrap();
        let sampling = Sampling { shares: vec![0.5], grid: 8, images: 1, device: job.device };
        let none = importance::Covariances::new();
        importance::measure(model, groups, &ranking, &none, &calibration, &sampling, &mut |_, _| ()).unwrap().0
    };
    let image = (0..3 * 64 * 64).map(|at| ((at * 7) % 251) as f32 / 250.0).collect::<Vec<f32>>();
    let [cpu, gpu] = jobs(folder.path()).each_ref().map(|job| curves(job, std::slice::from_ref(&image)));
    assert!(cpu.iter().map(|curve| curve.len()).sum::<usize>() > 20);
    for (group, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        assert_eq!(cpu.keys().collect::<Vec<_>>(), gpu.keys().collect::<Vec<_>>(), "group {group}");
        for ((width, wanted), found) in cpu.iter().zip(gpu.values()) {
            let off = (found - wanted).abs();
            assert!(off <= 1e-3 * wanted + 1e-7, "group {group} at {width}: {found}, on the CPU {wanted}");
        }
    }
}
