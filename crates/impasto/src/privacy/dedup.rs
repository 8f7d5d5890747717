//! Near-duplicates among the pictures of a data set: the same bytes, re-encoded, scaled and slightly cropped copies, and
//! pictures that a CLIP finds alike. Of each group one picture is kept.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use impasto_privacy::pictures::{Fingerprint, TwinOptions, Window, keep_one, near_pairs, twins};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::data::pairs::{CaptionList, Exclusions, Unreadable};
use crate::error::Reason;
use crate::image::{Image, read_bounded};
use crate::observer::{Event, Observer};
use crate::rank::{Ranker, numbers};
use crate::search::pictures_below;
use crate::{Error, Result, files};

/// The pictures that are compared.
#[derive(Debug)]
pub enum PictureSet {
    /// All pictures below a folder, with or without captions: names and paths.
    Files(Vec<(String, PathBuf)>),
    /// Those of pairs.
    Pairs(CaptionList),
}

impl PictureSet {
    /// All pictures below a folder, and the files that are left out.
    pub fn below(folder: &Path) -> Result<(Self, Vec<Unreadable>)> {
        let listing = pictures_below(folder)?;
        let name = |path: &Path| {
            let below = path.strip_prefix(folder).unwrap_or(path);
            below.to_string_lossy().replace('\\', "/")
        };
        let left_out = listing.left_out.iter().map(|left_out| Unreadable {
            key: name(&left_out.path),
            reason: left_out.reason.clone(),
        });
        let pictures = listing.pictures.iter();
        let pictures = pictures.map(|path| (name(path), path.clone())).collect();
        Ok((PictureSet::Files(pictures), left_out.collect()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            PictureSet::Files(files) => files.len(),
            PictureSet::Pairs(pairs) => pairs.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A picture's name in the data.
    pub fn key(&self, index: usize) -> &str {
        match self {
            PictureSet::Files(files) => &files[index].0,
            PictureSet::Pairs(pairs) => pairs.key(index),
        }
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        match self {
            PictureSet::Files(files) => read_bounded(&files[index].1),
            PictureSet::Pairs(pairs) => pairs.bytes(index),
        }
    }

    fn name(&self, index: usize) -> PathBuf {
        match self {
            PictureSet::Files(files) => files[index].1.clone(),
            PictureSet::Pairs(pairs) => pairs.name(index),
        }
    }

    fn image(&self, index: usize) -> Result<Image> {
        Image::decode(&self.bytes(index)?, self.name(index))
    }
}

/// What counts as a duplicate.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DedupOptions {
    /// The limits of copies.
    pub twins: TwinOptions,
    /// The least cosine of two pictures in a CLIP's space that are duplicates; none without a CLIP.
    pub cosine: Option<f32>,
}

/// Why a picture is a duplicate of the one that is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Duplicate {
    /// The files have the same bytes.
    Bytes,
    /// One shows all of the other, or most of it.
    Copy {
        /// Which part of the larger view the other one shows: left, top, right, bottom, 0 to 1.
        window: [f32; 4],
        /// Whether it is seen in a mirror.
        mirrored: bool,
        /// How much the aligned pictures differ on average, 0 to 255.
        difference: f32,
    },
    /// A CLIP finds them alike.
    Clip {
        /// The cosine of the embeddings.
        cosine: f32,
    },
}

/// A picture that is not kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dropped {
    /// Its name in the data.
    pub key: String,
    /// Why.
    #[serde(flatten)]
    pub duplicate: Duplicate,
}

/// Pictures of which one is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DuplicateGroup {
    /// The one that is kept: the one with the most pixels, then the most bytes, then the first name.
    pub kept: String,
    /// The others.
    pub dropped: Vec<Dropped>,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DedupReport {
    /// Pictures that were compared.
    pub pictures: usize,
    /// Pictures that are not kept, by reason.
    pub dropped: BTreeMap<&'static str, usize>,
    /// The groups, in the order of the kept pictures.
    pub groups: Vec<DuplicateGroup>,
    /// Pictures that can't be read, and files that are left out.
    pub unreadable: Vec<Unreadable>,
    /// All pictures that are kept.
    #[serde(skip)]
    pub kept: Vec<String>,
}

impl DedupReport {
    /// The pictures that are not kept.
    pub fn all_dropped(&self) -> impl Iterator<Item = &Dropped> {
        self.groups.iter().flat_map(|group| &group.dropped)
    }

    /// The pictures that are not kept as a list for `train --exclude`.
    pub fn exclude_list(&self) -> String {
        lines(
            "pictures of which a copy is kept",
            self.all_dropped().map(|dropped| dropped.key.as_str()),
        )
    }

    /// The pictures that are kept, in the same form.
    pub fn keep_list(&self) -> String {
        lines(
            "pictures that are kept",
            self.kept.iter().map(String::as_str),
        )
    }
}

fn lines<'a>(what: &str, keys: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!("# {what}\n");
    for key in keys {
        text += &Exclusions::line(key);
        text.push('\n');
    }
    text
}

/// The kept pictures of pairs as a JSONL list of pairs, which trainings read: pictures where they are, with their captions.
///
/// # Errors
/// Pictures within tars, which a list can't name.
pub fn keep_jsonl(pairs: &CaptionList, report: &DedupReport) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Row<'a> {
        image: String,
        captions: &'a [String],
    }
    let kept: std::collections::HashSet<&str> = report.kept.iter().map(String::as_str).collect();
    let mut text = Vec::new();
    for index in (0..pairs.len()).filter(|&index| kept.contains(pairs.key(index))) {
        let Some(path) = pairs.path(index) else {
            let reason = "a .jsonl list can't name pictures within tars; expected another ending";
            return Err(Error::invalid("keep list", reason));
        };
        let path = std::path::absolute(path).map_err(Error::io("find", path))?;
        let row = Row {
            image: path.to_string_lossy().into_owned(),
            captions: pairs.captions(index),
        };
        serde_json::to_writer(&mut text, &row)
            .map_err(|e| Error::invalid("keep list", Reason::of(e)))?;
        text.push(b'\n');
    }
    Ok(text)
}

/// What is known of a picture after it was read once.
struct Looked {
    digest: [u8; 32],
    pixels: usize,
    bytes: usize,
    print: Fingerprint,
}

/// Compares all pictures. `observer` gets the pictures read, and those compared.
///
/// # Errors
/// A cosine without a CLIP, and [`Error::Stopped`]; pictures that can't be read are listed.
pub fn dedup(
    set: &PictureSet,
    options: &DedupOptions,
    ranker: Option<&Ranker>,
    observer: &mut dyn Observer,
) -> Result<DedupReport> {
    if options.cosine.is_some() != ranker.is_some() {
        return Err(Error::invalid("cosine", "expected a CLIP with it"));
    }
    let (looked, unreadable) = look(set, observer)?;
    let pictures: Vec<usize> = looked.keys().copied().collect();
    let of = |index: usize| &looked[&pictures[index]];
    // The best one first: it is kept.
    let mut better: Vec<u32> = (0..pictures.len() as u32).collect();
    better.sort_by_key(|&index| {
        let looked = of(index as usize);
        let size = std::cmp::Reverse((looked.pixels, looked.bytes));
        (size, set.key(pictures[index as usize]))
    });
    let (mut links, mut pairs) = (Vec::new(), Vec::new());
    let mut first_of: HashMap<[u8; 32], u32> = HashMap::new();
    for &index in &better {
        let digest = of(index as usize).digest;
        if let Some(&first) = first_of.get(&digest) {
            pairs.push((first, index));
            links.push(Duplicate::Bytes);
        } else {
            first_of.insert(digest, index);
        }
    }
    let distinct: Vec<u32> = {
        let mut distinct: Vec<u32> = first_of.into_values().collect();
        distinct.sort_unstable();
        distinct
    };
    let prints: Vec<Fingerprint> = distinct
        .iter()
        .map(|&index| of(index as usize).print.clone())
        .collect();
    for twin in find_twins(&prints, &options.twins, observer)? {
        pairs.push((distinct[twin.whole as usize], distinct[twin.part as usize]));
        let Window {
            left,
            top,
            right,
            bottom,
        } = twin.window;
        links.push(Duplicate::Copy {
            window: [left, top, right, bottom],
            mirrored: twin.mirrored,
            difference: twin.mean,
        });
    }
    if let (Some(ranker), Some(least)) = (ranker, options.cosine) {
        let indices: Vec<usize> = distinct.iter().map(|&i| pictures[i as usize]).collect();
        let (rows, width) = embed(set, &indices, ranker, observer)?;
        for (a, b, cosine) in near_pairs(&rows, width, least) {
            pairs.push((distinct[a as usize], distinct[b as usize]));
            links.push(Duplicate::Clip { cosine });
        }
    }
    Ok(report(set, &pictures, &better, &pairs, &links, unreadable))
}

fn report(
    set: &PictureSet,
    pictures: &[usize],
    better: &[u32],
    pairs: &[(u32, u32)],
    links: &[Duplicate],
    unreadable: Vec<Unreadable>,
) -> DedupReport {
    let key = |index: u32| set.key(pictures[index as usize]).to_owned();
    let mut report = DedupReport {
        pictures: pictures.len(),
        unreadable,
        ..DedupReport::default()
    };
    // Copies of the bytes of a picture that is dropped are in its group through it: the group is found by distinct
    // pictures first, and copies follow theirs.
    let mut groups = keep_one(better, &with_bytes(pairs, links));
    groups.sort_by_key(|group| pictures[group.kept as usize]);
    let mut is_kept = vec![true; pictures.len()];
    for group in &groups {
        let dropped = group.dropped.iter().map(|&(index, number)| {
            is_kept[index as usize] = false;
            Dropped {
                key: key(index),
                duplicate: links.get(number).cloned().unwrap_or(Duplicate::Bytes),
            }
        });
        report.groups.push(DuplicateGroup {
            kept: key(group.kept),
            dropped: dropped.collect(),
        });
    }
    for dropped in report.groups.iter().flat_map(|group| &group.dropped) {
        let why = match dropped.duplicate {
            Duplicate::Bytes => "bytes",
            Duplicate::Copy { .. } => "copy",
            Duplicate::Clip { .. } => "clip",
        };
        *report.dropped.entry(why).or_default() += 1;
    }
    let kept = (0..pictures.len() as u32).filter(|&index| is_kept[index as usize]);
    report.kept = kept.map(key).collect();
    report
}

/// All pairs, and those of copies of bytes: what a picture is a pair with, its copies are as well. The additional ones
/// follow the others, in the order of their reasons.
fn with_bytes(pairs: &[(u32, u32)], links: &[Duplicate]) -> Vec<(u32, u32)> {
    let mut copies: HashMap<u32, Vec<u32>> = HashMap::new();
    for (&(first, copy), link) in pairs.iter().zip(links) {
        if *link == Duplicate::Bytes {
            copies.entry(first).or_default().push(copy);
        }
    }
    let mut all = pairs.to_vec();
    for (&(a, b), link) in pairs.iter().zip(links) {
        if *link == Duplicate::Bytes {
            continue;
        }
        for (one, other) in [(a, b), (b, a)] {
            let copies = copies.get(&other).into_iter().flatten();
            all.extend(copies.map(|&copy| (one, copy)));
        }
    }
    all
}

/// Reads every picture once.
fn look(
    set: &PictureSet,
    observer: &mut dyn Observer,
) -> Result<(BTreeMap<usize, Looked>, Vec<Unreadable>)> {
    /// Pictures that are read between two looks at the observer.
    const CHUNK: usize = 256;
    let (mut looked, mut unreadable) = (BTreeMap::new(), Vec::new());
    let total = set.len();
    for start in (0..total).step_by(CHUNK) {
        let end = (start + CHUNK).min(total);
        let chunk: Vec<(usize, Result<Looked>)> = (start..end)
            .into_par_iter()
            .map(|index| (index, look_at(set, index)))
            .collect();
        for (index, found) in chunk {
            match found {
                Ok(found) => {
                    looked.insert(index, found);
                }
                Err(error) => unreadable.push(Unreadable {
                    key: set.key(index).to_owned(),
                    reason: error.to_string(),
                }),
            }
        }
        if observer
            .event(&Event::Items { done: end, total })
            .is_break()
        {
            return Err(Error::Stopped);
        }
    }
    Ok((looked, unreadable))
}

fn look_at(set: &PictureSet, index: usize) -> Result<Looked> {
    let bytes = set.bytes(index)?;
    let image = Image::decode(&bytes, set.name(index))?;
    let print = Fingerprint::of(image.width, image.height, &image.rgb)
        .ok_or_else(|| Error::bad_file(set.name(index), "has no pixels"))?;
    Ok(Looked {
        digest: Sha256::digest(&bytes).into(),
        pixels: image.width * image.height,
        bytes: bytes.len(),
        print,
    })
}

/// [`twins`], which works on many threads, with an observer of one.
fn find_twins(
    prints: &[Fingerprint],
    options: &TwinOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<impasto_privacy::pictures::Twin>> {
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let total = prints.len();
    let found = std::thread::scope(|scope| {
        let (sender, finished) = std::sync::mpsc::channel();
        let (done, stop) = (&done, &stop);
        scope.spawn(move || {
            let found = twins(prints, options, &|count| {
                done.fetch_max(count, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            });
            // Whoever waits is there until this arrives.
            let _ = sender.send(found);
        });
        loop {
            let wait = std::time::Duration::from_millis(50);
            match finished.recv_timeout(wait) {
                Ok(found) => return found,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
            }
            let done = done.load(Ordering::Relaxed);
            if observer.event(&Event::Items { done, total }) == ControlFlow::Break(()) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    found.ok_or(Error::Stopped)
}

/// The embeddings of pictures, row after row, and their width.
fn embed(
    set: &PictureSet,
    indices: &[usize],
    ranker: &Ranker,
    observer: &mut dyn Observer,
) -> Result<(Vec<f32>, usize)> {
    const BATCH: usize = 64;
    let (mut rows, mut width) = (Vec::new(), 0);
    let total = indices.len();
    for (number, batch) in indices.chunks(BATCH).enumerate() {
        let pictures = batch
            .par_iter()
            .map(|&index| set.image(index))
            .collect::<Result<Vec<Image>>>()?;
        let embedded = ranker.model.embed_pictures(&pictures)?;
        width = embedded.dims()[1];
        rows.extend(numbers(embedded)?);
        let done = (number * BATCH + batch.len()).min(total);
        if observer.event(&Event::Items { done, total }).is_break() {
            return Err(Error::Stopped);
        }
    }
    Ok((rows, width))
}

/// Writes a list whole or not at all.
pub fn write_list(path: &Path, text: &[u8]) -> Result<()> {
    files::write_atomic(path, text)
}
