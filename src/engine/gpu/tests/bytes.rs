//! The first layer in f16 on bytes.

use super::*;

/// A stem of so many channels.
fn stem(channels: usize) -> Model {
    let mut graph = Builder::default();
    let input = graph.push("input", Op::Input { channels: 3 }, &[]);
    let conv = Conv {
        weight: "stem.w".into(),
        bias: Some("stem.b".into()),
        norm: None,
        c_in: 3,
        c_out: channels,
        kernel: 3,
        stride: 2,
        padding: 1,
        groups: 1,
        act: Activation::Silu,
    };
    let stem = graph.push("stem", Op::Conv(conv), &[input]);
    let graph = Graph { dtype: Dtype::F16, ..graph.finish(vec![stem], Head::Classify { nc: channels }).unwrap() };
    let mut rng = StdRng::seed_from_u64(channels as u64);
    let mut values = |shape: &[usize]| {
        let len: usize = shape.iter().product();
        Tensor::new(shape.to_vec(), (0..len).map(|_| rng.random_range(-0.5..0.5f32)).collect())
    };
    let weights = [("stem.w", values(&[channels, 3, 3, 3])), ("stem.b", values(&[channels]))];
    Model::new(graph, weights.map(|(key, tensor)| (key.to_owned(), tensor)).into_iter().collect(), Info::default())
        .unwrap()
}

#[test]
fn a_stem_gives_of_all_bytes_the_bits_of_their_values() {
    // Blocks compute 8 x 32 pixels of 16 channels: less, exactly that, and more.
    for (channels, (h, w), image_is_kept) in
        [(1, (4, 4), false), (16, (16, 64), false), (20, (20, 132), false), (33, (36, 68), false), (5, (12, 20), true)]
    {
        let Some(device) = emulated::device() else { return };
        let model = stem(channels);
        let keep = if image_is_kept { model.graph.ids().collect() } else { vec![] };
        let mut cuda = Network::new(device, &model, (h, w), &Options { keep, ..Options::default() }).unwrap();
        let all = 3 * h * w;
        // Every byte, in another order on every plane.
        let photo: Vec<u8> = (0..all).map(|i| (i * 37 + i / 256) as u8).collect();
        let values: Vec<f32> = photo.iter().map(|byte| f32::from(*byte) / 255.0).collect();
        cuda.image_mut(0).copy_from_slice(&values);
        cuda.run(1).unwrap();
        let wanted: Vec<u32> = cuda.device.results().iter().map(|value| value.to_bits()).collect();
        let launches = cuda.profile(0).unwrap().len();
        // The values of the run before are no longer there to read.
        cuda.image_mut(0).fill(-1.0);
        cuda.run(1).unwrap();
        cuda.bytes_mut(0).copy_from_slice(&photo);
        for turn in 0..2 {
            cuda.run(1).unwrap();
            let slots = cuda.slots().to_vec();
            for slot in slots {
                let range = slot.offset..slot.offset + slot.shape.len();
                let found: Vec<u32> =
                    cuda.device.results()[range.clone()].iter().map(|value| value.to_bits()).collect();
                assert!(found == wanted[range], "{channels} channels, {h} x {w}, run {turn}");
            }
        }
        let names: Vec<&str> = cuda.profile(0).unwrap().iter().map(|step| step.kernel).collect();
        assert_eq!(names.len(), launches + usize::from(image_is_kept), "{names:?}");
        assert_eq!(names[1], if image_is_kept { "bytes" } else { "bytes-conv" });
    }
}
