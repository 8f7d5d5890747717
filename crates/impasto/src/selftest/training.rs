//! Gradients of every model that is trained, and weights after some steps of the optimizers.

use burn::module::Module;
use burn::tensor::Tensor;

use super::Kind;
use super::check::{Check, NEGLIGIBLE, Room, forward};
use super::compare::Values;
use super::models::{
    clip_config, dalle_bart_config, dalle_configs, dalle_pytorch_configs, dvae_config, vqgan_config,
};
use super::weights::random;
use crate::Result;
use crate::models::clip::{Activation, ContrastiveLoss};
use crate::models::dalle::{DalleBatch, LossWeights, shuffled};
use crate::models::dalle_bart::CaptionRows;
use crate::models::discriminator::Discriminator;
use crate::models::{dvae, parameters};
use crate::nn::Init;
use crate::train::config::{OptimizerKind, RunConfig};
use crate::train::image_tokenizer::{VqganLoss, reconstruction};
use crate::train::optimizer::{NamedGradients, Optimizer};

/// All of them.
pub(super) fn checks() -> Vec<Check> {
    let mut all = Vec::new();
    let mut add = |name: &str, shapes: &str, run: fn(&mut Room) -> Result<Values>| {
        let run = move |room: &mut Room| {
            room.differentiable();
            run(room)
        };
        let kind = match name {
            "training/dvae" | "training/discriminator" => Kind::Kinked,
            _ => Kind::Training,
        };
        all.push(forward(name, shapes.to_owned(), kind, run));
    };
    add("training/dalle, adamw", "width 24, 3 steps", |room| {
        dalle(room, OptimizerKind::AdamW)
    });
    add("training/dalle, muon", "width 24, 3 steps", |room| {
        dalle(room, OptimizerKind::Muon)
    });
    add("training/vqgan, adamw", "20 px, 3 steps", vqgan);
    add("training/discriminator", "16 px, gradients", discriminator);
    add("training/dvae", "20 px, gradients", dvae_gradients);
    add("training/clip", "21 px, gradients", clip);
    add("training/dalle_bart", "width 48, gradients", dalle_bart);
    add("training/dalle_pytorch", "width 40, gradients", |room| {
        dalle_pytorch(room, 0)
    });
    add(
        "training/dalle_pytorch",
        "width 40, reversible, gradients",
        |room| dalle_pytorch(room, 1),
    );
    all
}

/// The loss and each parameter's gradient.
fn gradients<M: Module>(model: &M, loss: Tensor<1>) -> Result<(Values, NamedGradients)> {
    let mut values = Values::default();
    values.add("loss", loss.clone().inner())?;
    let gradients = NamedGradients::collect(model, &loss.backward());
    let least = NEGLIGIBLE * gradients.norm();
    for (name, gradient) in &gradients.by_name {
        values.add_least(format!("gradient of {name}"), gradient.clone(), least)?;
    }
    Ok((values, gradients))
}

/// What comes of a few steps: the gradients of the first, all weights and their average after the last.
///
/// AdamW's first step goes by signs, and the sign of a gradient that is next to nothing is rounding. So the rate is
/// small and all weights are one vector: one flipped sign then stays below the tolerance, a wrong step of a whole
/// matrix does not.
fn steps<M: Module>(
    model: M,
    optimizer: OptimizerKind,
    loss: impl Fn(&M) -> Tensor<1>,
) -> Result<Values> {
    let config = RunConfig {
        optimizer,
        ema_decay: 0.9,
        ..RunConfig::default()
    };
    let mut optimizer = Optimizer::new(&config);
    let (values, first) = gradients(&model, loss(&model))?;
    let mut model = optimizer.step(model, first, LEARNING_RATE, 0.8, 0);
    for step in 1..STEPS {
        let (_, next) = gradients(&model, loss(&model))?;
        model = optimizer.step(model, next, LEARNING_RATE, 0.8, step);
    }
    let mut values = values;
    for (name, model) in [
        ("weights", model.clone()),
        ("averaged weights", optimizer.averaged(model)),
    ] {
        let mut all = Vec::new();
        for data in parameters::export(&model).into_values() {
            all.extend(data.iter::<f32>());
        }
        values.add_host(format!("{name} after {STEPS} steps"), all);
    }
    Ok(values)
}

const LEARNING_RATE: f64 = 5e-4;
const STEPS: u64 = 3;

fn dalle(room: &mut Room, optimizer: OptimizerKind) -> Result<Values> {
    let [config, _] = dalle_configs();
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let rows = 4;
    let batch = DalleBatch {
        text_ids: room.id_rows(rows, config.text_length, config.text_vocab_size),
        image_ids: room.id_rows(rows, config.image_length(), config.codebook_size),
        orders: (0..rows)
            .map(|_| shuffled(config.image_length(), room.random()))
            .collect(),
        captioned: 3,
    };
    let weights = LossWeights {
        contrastive: 0.1,
        ..LossWeights::default()
    };
    steps(model, optimizer, |model| {
        model.losses(&batch, &weights).total
    })
}

fn vqgan(room: &mut Room) -> Result<Values> {
    let config = vqgan_config();
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let batch = room.constant([2, 3, config.picture_size, config.picture_size]);
    let loss = VqganLoss::default();
    steps(model, OptimizerKind::AdamW, |model| {
        reconstruction(model, &loss, batch.clone()).total
    })
}

fn discriminator(room: &mut Room) -> Result<Values> {
    let model = Discriminator::new(&mut Init::empty(&room.device), 12, 2);
    let model = random(model, room);
    let [pictures, drawn] = [(); 2].map(|()| room.constant([2, 3, 16, 16]));
    let loss = model.hinge_loss(pictures, drawn.clone()) + model.generator_loss(drawn);
    Ok(gradients(&model, loss)?.0)
}

fn dvae_gradients(room: &mut Room) -> Result<Values> {
    let config = dvae_config();
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let pixels = room.constant([2, 3, config.picture_size, config.picture_size]);
    let logits = model.encode_logits(pixels.clone());
    let shape = logits.dims();
    let uniform = room.numbers(shape.iter().product());
    // Into 0..1, away from both ends.
    let uniform = uniform.into_iter().map(|x| 0.5 + 0.499 * x).collect();
    let uniform = room.place(uniform, shape);
    let soft = dvae::gumbel_softmax(logits.clone(), uniform, 0.7);
    let nats = dvae::logit_laplace_nats(model.decode_soft(soft), pixels);
    let loss = nats + dvae::kl_to_uniform(logits).mul_scalar(0.1);
    Ok(gradients(&model, loss)?.0)
}

fn clip(room: &mut Room) -> Result<Values> {
    let config = clip_config(Activation::Gelu);
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let pixels = room.constant([4, 3, config.image_size, config.image_size]);
    let captions: Vec<Vec<u32>> = [11, 3, 8, 5]
        .into_iter()
        .map(|length| room.ids(length, config.text_vocab_size))
        .collect();
    let (image, text) = (model.encode_image(pixels), model.encode_text(&captions)?);
    let loss = [ContrastiveLoss::InfoNce, ContrastiveLoss::Sigmoid]
        .map(|loss| model.contrastive_loss(image.clone(), text.clone(), loss));
    let [info_nce, sigmoid] = loss;
    Ok(gradients(&model, info_nce + sigmoid)?.0)
}

fn dalle_bart(room: &mut Room) -> Result<Values> {
    let config = dalle_bart_config(true);
    let model = random(config.init(&mut Init::empty(&room.device)), room);
    let caption = model.encode(&room.ids(6, config.text_vocab_size))?;
    let images = room.id_rows(2, config.image_length(), config.codebook_size);
    let caption_rows = [CaptionRows {
        caption: &caption,
        rows: 2,
    }];
    let loss = model.image_nll(&images, &caption_rows)?.mean();
    Ok(gradients(&model, loss)?.0)
}

fn dalle_pytorch(room: &mut Room, which: usize) -> Result<Values> {
    let config = &dalle_pytorch_configs()[which];
    let model = random(config.init(&mut Init::empty(&room.device)), room).for_training();
    let captions = vec![
        room.ids(6, config.text_vocab_size),
        room.ids(2, config.text_vocab_size),
    ];
    let images = room.id_rows(2, config.image_length(), config.codebook_size);
    let (text, image) = model.nll(&captions, &images)?;
    Ok(gradients(&model, text.mean() + image.mean())?.0)
}
