use burn::tensor::{Tensor, TensorData};
use capstan_model::config::{BlipConfig, Sizes, SpecialIds};
use capstan_model::params::ParamSlice;
use capstan_model::{DeviceSpec, Embed, InitRecipe, Med, MedParts, Model, Network, TokenBatch};

use super::*;

fn med(parts: MedParts, seed: u64) -> Med {
    let sizes = Sizes {
        image_size: 16,
        patch_size: 8,
        width: 8,
        heads: 2,
        vision_layers: 1,
        text_layers: 1,
        projection: 4,
        max_text_tokens: 6,
    };
    let special = SpecialIds {
        pad: 0,
        unk: 1,
        cls: 2,
        sep: 3,
        dec: 4,
        enc: 5,
    };
    let config = BlipConfig::new(&sizes, 12, &special).unwrap();
    let device = DeviceSpec::Cpu.open().unwrap().autodiff();
    let mut med = Med::new(config, parts, &device);
    med.initialise(seed, &InitRecipe::default());
    med
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    let device = DeviceSpec::Cpu.open().unwrap();
    Tensor::from_data(TensorData::new(values, shape), &device)
}

fn floats(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().try_to_vec().unwrap()
}

#[test]
fn copies_follow_the_online_encoders_and_leave_the_head_alone() {
    let (online, other) = (med(MedParts::Both, 1), med(MedParts::Both, 2));
    let mut momentum = Momentum::new(&online, 0.75).unwrap();
    momentum.update(&other);
    let values = |layout: Vec<ParamSlice>, flat: Vec<f32>, name: &str| {
        let slice = layout.into_iter().find(|slice| slice.name == name);
        flat[slice.unwrap().range].to_vec()
    };
    let of_network = |med: &Med, name| values(med.layout(), med.to_flat(), name);
    let copied = |momentum: &Momentum, name| values(momentum.layout(), momentum.params(), name);
    let name = "text_encoder.encoder.layer.0.crossattention.self.key.weight";
    let (old, new) = (of_network(&online, name), of_network(&other, name));
    let copies = copied(&momentum, name);
    for ((copy, old), new) in copies.iter().zip(old).zip(new) {
        assert!((copy - (0.75 * old + 0.25 * new)).abs() < 1e-6);
    }
    let head = "itm_head.weight";
    assert_eq!(copied(&momentum, head), of_network(&online, head));
    let mut restored = Momentum::new(&online, 0.75).unwrap();
    assert!(!restored.restore(&momentum.params()[1..]));
    assert!(restored.restore(&momentum.params()));
    assert_eq!(copied(&restored, name), copies);
}

#[test]
fn only_encoders_have_copies_and_copies_are_buffers() {
    assert!(Momentum::new(&med(MedParts::Captioner, 1), 0.9).is_none());
    let online = med(MedParts::Both, 1);
    let momentum = Momentum::new(&online, 0.9).unwrap();
    let copies = momentum.encoders.params();
    assert!(copies.iter().all(|copy| copy.role() == Role::Buffer));
    assert!(copies.iter().all(|copy| !copy.tensor().is_autodiff()));
    let decodes = |slice: &ParamSlice| slice.name.starts_with("text_decoder");
    assert!(online.layout().iter().any(decodes));
    assert!(!momentum.layout().iter().any(decodes));
}

#[test]
fn features_of_fresh_copies_are_the_online_ones() {
    let online = med(MedParts::Filter, 3);
    let pixels = (0..2 * 3 * 256).map(|i| (i as f32 * 0.37).sin()).collect();
    let pixels = TensorData::new(pixels, [2, 3, 16, 16]);
    let pixels = Tensor::<4>::from_data(pixels, online.device());
    let texts = TokenBatch::new(&[vec![2, 7, 3], vec![2, 8, 9, 3]], 0);
    let copies = Momentum::new(&online, 0.995)
        .unwrap()
        .features(pixels.clone(), &texts);
    assert!(!copies.images.is_autodiff());
    let images = online.encode(pixels);
    // Without gradients attention adds in another order.
    for (copies, online) in [
        (copies.images, online.image_features(&images)),
        (copies.texts, online.text_features(&texts)),
    ] {
        for (a, b) in floats(&copies).iter().zip(floats(&online)) {
            assert!((a - b).abs() < 1e-6, "{a} for {b}");
        }
    }
}

fn newest(image: f32, text: f32, pictures: &[u64]) -> Newest {
    let classes = |picture: &u64| Classes {
        picture: *picture,
        text: 2 * picture,
    };
    Newest {
        images: vec![image; 2 * pictures.len()],
        texts: vec![text; 2 * pictures.len()],
        classes: pictures.iter().map(classes).collect(),
    }
}

fn pictures(queue: &Queue) -> Vec<Option<u64>> {
    let entries = queue.classes().iter();
    entries.map(|entry| entry.map(|c| c.picture)).collect()
}

#[test]
fn the_oldest_entries_are_replaced_first_and_the_end_wraps() {
    let mut queue = Queue::drawn(5, 2, 7);
    assert_eq!(queue, Queue::drawn(5, 2, 7));
    assert_ne!(queue, Queue::drawn(5, 2, 8));
    let norms = queue.features()[0].chunks_exact(2);
    assert!(
        norms
            .map(|row| row[0].hypot(row[1]))
            .all(|n| (n - 1.0).abs() < 1e-6)
    );
    let first = queue.features()[0][8..].to_vec();
    queue.push(&newest(1.0, 2.0, &[10, 11, 12, 13]));
    assert_eq!(queue.next(), 4);
    assert_eq!(queue.features()[0][8..], first);
    queue.push(&newest(3.0, 4.0, &[14, 15]));
    let want = [15, 11, 12, 13, 14].map(Some);
    assert_eq!(pictures(&queue), want);
    assert_eq!(
        queue.features()[0],
        [3., 3., 1., 1., 1., 1., 1., 1., 3., 3.]
    );
    assert_eq!(queue.features()[1][..2], [4.0, 4.0]);
    assert_eq!(queue.next(), 1);
}

#[test]
fn a_queue_may_be_smaller_than_a_batch_or_absent() {
    let mut queue = Queue::drawn(3, 2, 7);
    queue.push(&newest(1.0, 2.0, &[10, 11, 12, 13]));
    assert_eq!(pictures(&queue), [13, 11, 12].map(Some));
    let mut none = Queue::drawn(0, 2, 7);
    none.push(&newest(1.0, 2.0, &[10]));
    assert_eq!((none.capacity(), none.next()), (0, 0));
    let batch = Features {
        images: tensor(vec![1.0, 2.0], [1, 2]),
        texts: tensor(vec![3.0, 4.0], [1, 2]),
    };
    assert_eq!(floats(&none.entries(&batch).texts), [3.0, 4.0]);
}

/// Two samples and a queue of one; features of width 2.
fn small(soft_share: f64, global_batch: usize) -> SoftContrast {
    let features = |images: [f32; 4], texts: [f32; 4]| Features {
        images: tensor(images.to_vec(), [2, 2]),
        texts: tensor(texts.to_vec(), [2, 2]),
    };
    let own = features([1., 0., 0., 1.], [0.6, 0.8, 1., 0.]);
    let copies = features([0.8, 0.6, 0., 1.], [1., 0., 0.6, 0.8]);
    let classes = Classes {
        picture: 1,
        text: 2,
    };
    let queue = Queue::from_parts(vec![0., 1.], vec![0.8, -0.6], 2, vec![Some(classes)], 0);
    let entries = queue.unwrap().entries(&copies);
    // The entry of the queue is of the second sample's picture.
    let positive = |sample: usize, entry: usize| entry == sample || (sample, entry) == (1, 2);
    let hard = hard_targets(2, 3, &positive, &copies);
    let temperature = Tensor::<1>::from_data([0.5f32], &copies.images.device());
    contrast(
        &own,
        &copies,
        &entries,
        temperature,
        &hard,
        soft_share,
        global_batch,
    )
}

#[test]
fn hard_labels_give_the_cross_entropy_of_the_positives() {
    let found = small(0.0, 2);
    assert_eq!(floats(&found.targets[0]), [1.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
    assert_eq!(floats(&found.logits[0]), [2.0, 1.2, 1.6, 0.0, 1.6, -1.2]);
    let rows = |logits: [[f64; 3]; 2]| {
        let log_sum = |row: &[f64; 3]| row.iter().map(|x| x.exp()).sum::<f64>().ln();
        let [a, b] = logits;
        log_sum(&a) - a[0] + log_sum(&b) - (b[1] + b[2]) / 2.0
    };
    let i2t = rows([[2.0, 1.2, 1.6], [0.0, 1.6, -1.2]]);
    let t2i = rows([[1.92, 1.6, 1.6], [1.6, 0.0, 0.0]]);
    let loss = found.loss.into_data().try_to_vec::<f32>().unwrap()[0];
    assert!((f64::from(loss) - (i2t + t2i) / 4.0).abs() < 1e-5, "{loss}");
}

#[test]
fn soft_labels_mix_in_the_similarities_of_the_copies() {
    let found = small(0.4, 2);
    let similar = [1.6f32, 1.92, 0.56].map(f32::exp);
    let total: f32 = similar.iter().sum();
    for (entry, target) in floats(&found.targets[0])[..3].iter().enumerate() {
        let own = if entry == 0 { 0.6 } else { 0.0 };
        let expected = own + 0.4 * similar[entry] / total;
        assert!((target - expected).abs() < 1e-6, "{target} {expected}");
    }
    let half: f32 = small(0.4, 4).loss.into_scalar();
    let whole: f32 = found.loss.into_scalar();
    assert!(
        (2.0 * half - whole).abs() < 1e-6,
        "means divide by the global batch"
    );
}

#[test]
fn a_teacher_follows_with_its_copies_and_its_queue() {
    let (online, other) = (med(MedParts::Filter, 1), med(MedParts::Filter, 2));
    let mut followed = Momentum::new(&online, 0.75).unwrap();
    let mut teacher = Teacher::new(
        Momentum::new(&online, 0.75).unwrap(),
        Queue::drawn(3, 2, 7),
        0.4,
        0,
    );
    teacher.follow(&other, &newest(1.0, 2.0, &[10, 11]));
    followed.update(&other);
    assert_ne!(followed.params(), online.to_flat());
    assert_eq!(teacher.copies().params(), followed.params());
    assert_eq!(pictures(teacher.queue()), [Some(10), Some(11), None]);
    let buffers = teacher.take_buffers();
    assert_eq!(teacher.queue().capacity(), 0);
    teacher.put_back(buffers.clone());
    assert_eq!(teacher.take_buffers(), buffers);
}

#[test]
fn the_share_of_soft_labels_rises_over_the_ramp() {
    let online = med(MedParts::Filter, 3);
    let share = |ramp_steps, step| {
        let copies = Momentum::new(&online, 0.9).unwrap();
        Teacher::new(copies, Queue::drawn(0, 4, 0), 0.4, ramp_steps).soft_share(step)
    };
    assert_eq!(share(10, 0), 0.0);
    assert!((share(10, 5) - 0.2).abs() < 1e-12);
    assert_eq!(share(10, 10), 0.4);
    assert_eq!(share(10, 1000), 0.4);
    assert_eq!(share(0, 0), 0.4);
}
