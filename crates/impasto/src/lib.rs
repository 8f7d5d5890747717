//! Pictures from words with discrete-token transformers, the DALL·E family.
//!
//! A picture is a grid of *image ids*: an image tokenizer turns pixels into ids of a codebook and back. A transformer
//! models text ids and image ids as one sequence. Whatever part of the sequence is missing, it predicts from the rest:
//! a picture from a caption, a hole from its surroundings, a caption from a picture.
//!
//! # Load and draw
//! [`Model::open`] takes a name or a folder, of impasto's own models or of published ones as they are (DALL·E mini and
//! mega, DALLE-pytorch). A request is data; [`Model::run`] validates it and runs it:
//!
//! ```
//! use impasto::observer::NoObserver;
//! use impasto::{Generate, Model, OpenOptions, device, image::Format};
//!
//! let (device, _) = device::select("cpu")?;
//! let model = Model::open("impasto-styles", &device, &OpenOptions::default())?;
//! let request = Generate::new("two red turtles", 7);
//! let outcome = model.run(&request, &mut NoObserver)?;
//! let png = outcome.images[0].picture.encode(Format::Png, 100)?;
//! # assert!(png.starts_with(b"\x89PNG"));
//! // The same seed is the same picture, alone or among others.
//! let three = model.run(&Generate { n: 3, ..request }, &mut NoObserver)?;
//! assert_eq!(three.images[0].picture, outcome.images[0].picture);
//! # Ok::<(), impasto::Error>(())
//! ```
//!
//! # Edit, vary, caption
//! [`Edit`] redraws a [`Region`](edit::Region) of a picture of any size: a mask, a rectangle, scratches, or an area
//! beyond its sides. All other pixels stay the same. [`Vary`] resamples a share of the ids, and [`Caption`] describes
//! a picture:
//!
//! ```
//! use impasto::edit::{Area, Region};
//! use impasto::image::{Image, Original};
//! use impasto::observer::NoObserver;
//! # use impasto::{Caption, Edit, Model, OpenOptions, device};
//! # let (device, _) = device::select("cpu")?;
//! # let model = Model::open("impasto-styles", &device, &OpenOptions::default())?;
//!
//! let picture = Image::filled(100, 80, [240, 220, 60]);
//! let hole = Region::Box(Area { x: 20, y: 20, width: 40, height: 40 });
//! let mut request = Edit::new(Original::from(&picture), hole, 3);
//! request.prompt = Some("a red turtle on yellow".into());
//! let outcome = model.run(&request, &mut NoObserver)?;
//! let edited = outcome.image(&outcome.candidates[0]);
//!
//! let captions = model.run(&Caption::new(edited.picture()), &mut NoObserver)?.captions;
//! println!("{}", captions[0].text);
//! # Ok::<(), impasto::Error>(())
//! ```
//!
//! A CLIP compares pictures and captions: [`rank::Ranker`] runs [`Score`] and [`Embed`], and [`request::Searcher`] runs
//! [`Search`] on an [index](search::Index) of pictures. Long work reports to an [`Observer`], which may stop it: for
//! drawing, each event has the image ids so far. [`Threads`] limits what a model may use of the CPU.
//!
//! # Keep safe
//! A [`safety::Guard`] screens prompts and pictures by a policy, and says what it found, with scores:
//!
//! ```
//! use impasto::safety::{Action, Category, Guard, Mode, Policy};
//!
//! let guard = Guard::prompts(Policy::of(Mode::Flag))?;
//! let verdict = guard.prompt(&["a photo of a n u d e man"]);
//! assert_eq!((verdict.action(), verdict.findings[0].category), (Action::Flag, Category::Sexual));
//! # Ok::<(), impasto::Error>(())
//! ```
//!
//! # Train
//! [`train`] trains image tokenizers, transformers and CLIPs on captioned pictures, and fine-tunes any model, whole or
//! by low-rank adapters. `examples/train_tiny.rs` goes from captions to a model that draws.
//!
//! # The modules
//! In pipeline order, from errors and files to trainings and benchmarks.

pub mod error;
pub mod files;
mod progress;

// Pictures and captions.
pub mod image;
pub mod text;

pub mod data;

// Devices, layers, models.
pub mod device;
pub mod nn;

pub mod models;

// From a prompt to a picture in a file.
pub mod random;
pub mod sampling;

pub mod canvas;
pub mod engine;
pub mod observer;
pub mod panics;
pub mod threads;
mod work;

pub mod checkpoint;
pub mod hub;
pub mod import;

pub mod families;

pub mod edit;
pub mod explain;
pub mod model;
pub mod request;

pub mod judges;
pub mod memory;
pub mod provenance;
pub mod rank;
pub mod safety;
pub mod search;
pub mod upscale;

// Training and evaluation.
pub mod train;

pub mod bench;
pub mod eval;

// What training data and models may give away.
pub mod privacy;

// Diagnosis of a machine.
pub mod doctor;
pub mod selftest;

pub use device::Device;
pub use error::{Error, Result};
pub use image::Image;
pub use model::{Model, OpenOptions};
pub use observer::Observer;
pub use request::{Caption, Edit, Embed, Explain, Generate, Request, Score, Search, Session, Vary};
pub use threads::Threads;
pub use upscale::{Upscale, Upscaler};
