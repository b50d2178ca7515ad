//! Networks that start from given tensors on the emulated driver, against the engine on the CPU.

use super::*;

#[test]
fn a_run_from_given_tensors_gives_what_the_cpu_makes_of_them() {
    let mut shorter = 0;
    for (seed, dtype) in (3000..3120).zip([Dtype::F32, Dtype::F16, Dtype::Int8].into_iter().cycle()) {
        let Some(device) = emulated::device() else { return };
        let (model, h, w) = network(seed);
        let model = in_dtype(&model, dtype);
        let graph = &model.graph;
        let mut rng = StdRng::seed_from_u64(seed);
        let (given, keep) = networks::middle(&model, &mut rng);
        let shapes = graph.shapes(h, w).unwrap();
        let values = given.iter().map(|id| shapes[id.index()].len()).sum::<usize>();
        let tensors: Vec<f32> = (0..values).map(|_| rng.random_range(-1.0..1.0)).collect();

        let options = Options { given, keep, ..Options::default() };
        let on_cpu = if dtype == Dtype::Int8 { model.clone() } else { model.clone().into_f32() };
        let mut cpu = Engine::new(&on_cpu, h, w, &options).unwrap();
        cpu.run(&tensors).unwrap();
        let options = Options { device: engine::Device::Cuda(0), ..options };
        let mut cuda = Network::new(device, &model, (h, w), &options).unwrap();
        assert_eq!(cuda.memory(), plan_memory(graph, h, w, &options).unwrap(), "seed {seed}");
        let whole = plan_memory(graph, h, w, &Options { given: vec![], ..options.clone() }).unwrap();
        shorter += usize::from(cuda.memory().weights < whole.weights);
        // Nothing of the first run may show in the second.
        for _ in 0..2 {
            cuda.input_mut().copy_from_slice(&tensors);
            cuda.run(1).unwrap();
        }
        let exact = dtype == Dtype::Int8 && Isa::detect().fuses();
        for slot in cuda.slots() {
            let case = format!("seed {seed} in {dtype:?}, {h} x {w}, layer {}", slot.node.0);
            let (found, wanted) = (of(cuda.device.results(), slot), cpu.kept(slot.node));
            match exact {
                true => assert!(found == wanted, "{case}: {found:?}, expected {wanted:?}"),
                false => assert_close(&case, found, wanted, if dtype == Dtype::F32 { 2e-4 } else { 2e-2 }),
            }
        }
    }
    assert!(shorter > 40, "{shorter} of 120 have weights that are left out");
}
