//! What is done about what is found: one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lists::read;
use crate::{Action, Category, Error, Filter, Lists, Result, Screening};

/// What is done about categories that nobody named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is looked at, whatever else is said.
    Off,
    /// It is said. `sexual/minors` is refused all the same.
    #[default]
    Flag,
    /// It is refused.
    Refuse,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Mode::Off),
            "flag" => Ok(Mode::Flag),
            "refuse" => Ok(Mode::Refuse),
            _ => Err(format!("expected off, flag or refuse, got {text:?}")),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Off => "off",
            Mode::Flag => "flag",
            Mode::Refuse => "refuse",
        })
    }
}

/// A policy, as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// For categories that are not among `categories`.
    pub mode: Mode,
    /// What is done about each category.
    pub categories: BTreeMap<Category, Action>,
    /// The score from which a prompt, or a picture in a classifier's eyes, belongs to a category.
    pub threshold: f32,
    /// The same for one category.
    pub thresholds: BTreeMap<Category, f32>,
    /// The lists of the prompt filter.
    pub words: WordPolicy,
    /// What looks at pictures.
    pub pictures: PicturePolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            mode: Mode::default(),
            categories: BTreeMap::new(),
            threshold: 0.5,
            thresholds: BTreeMap::new(),
            words: WordPolicy::default(),
            pictures: PicturePolicy::default(),
        }
    }
}

/// Which lists a policy takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordPolicy {
    /// Those of the program.
    pub embedded: bool,
    /// A person's own, by categories; a path counts from the policy's file.
    pub lists: BTreeMap<Category, Vec<PathBuf>>,
    /// Lists of words that are harmless.
    pub allow: Vec<PathBuf>,
}

impl Default for WordPolicy {
    fn default() -> Self {
        WordPolicy {
            embedded: true,
            lists: BTreeMap::new(),
            allow: Vec::new(),
        }
    }
}

/// What looks at pictures; nothing, if neither is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PicturePolicy {
    /// A checker, by its name or folder: Stable Diffusion's, or a ViT that classifies.
    pub checker: Option<String>,
    /// A file of concepts with thresholds, as a calibration writes it; a path counts from the policy's file.
    pub concepts: Option<PathBuf>,
    /// Added to the scores of Stable Diffusion's checker: more finds more.
    pub adjustment: f32,
    /// The category of each label of a classifier. Labels that are usual need not be named.
    pub labels: BTreeMap<String, Category>,
}

/// The largest policy that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;

impl Policy {
    /// The policy of a mode alone.
    pub fn of(mode: Mode) -> Self {
        Policy {
            mode,
            ..Policy::default()
        }
    }

    /// Reads a policy, YAML or JSON. Its paths are made to count from where the program runs.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::read(path, source))?;
        if !metadata.is_file() || metadata.len() > MOST_BYTES {
            return Err(Error::file(
                path,
                format!("expected a file of {MOST_BYTES} bytes at most"),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|source| Error::read(path, source))?;
        let mut policy = Policy::parse(&text).map_err(|reason| Error::file(path, reason))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let words = &mut policy.words;
        let lists = words.lists.values_mut().flatten();
        for path in lists
            .chain(&mut words.allow)
            .chain(policy.pictures.concepts.as_mut())
        {
            *path = folder.join(&*path);
        }
        if let Some(checker) = &mut policy.pictures.checker
            && folder.join(&*checker).is_dir()
        {
            *checker = folder.join(&*checker).to_string_lossy().into_owned();
        }
        Ok(policy)
    }

    /// Reads a policy's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Policy = match text.trim().is_empty() {
            true => Policy::default(),
            false => serde_saphyr::from_str(text).map_err(|error| error.to_string())?,
        };
        let thresholds = policy
            .thresholds
            .iter()
            .map(|(name, value)| (name.as_str(), *value));
        for (name, value) in thresholds.chain([("threshold", policy.threshold)]) {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name}: the threshold is {value}, expected 0 to 1"));
            }
        }
        if !policy.pictures.adjustment.is_finite() || policy.pictures.adjustment.abs() > 2.0 {
            let found = policy.pictures.adjustment;
            return Err(format!("pictures.adjustment is {found}, expected -2 to 2"));
        }
        if policy.pictures.checker.is_some() && policy.pictures.concepts.is_some() {
            return Err("pictures has a checker and concepts, expected one of them".into());
        }
        Ok(policy)
    }

    /// The prompt filter that the policy asks for.
    ///
    /// # Errors
    /// A list that can't be read.
    pub fn filter(&self) -> Result<Filter> {
        let mut lists = match self.words.embedded {
            true => Lists::embedded()?,
            false => Lists::default(),
        };
        for (category, paths) in &self.words.lists {
            for path in paths {
                lists.add(*category, path, &read(path)?)?;
            }
        }
        for path in &self.words.allow {
            lists.allow(path, &read(path)?)?;
        }
        Filter::new(&lists)
    }

    /// Whether anything is looked at.
    pub fn is_off(&self) -> bool {
        self.mode == Mode::Off
    }

    /// What is done about a category.
    pub fn action(&self, category: Category) -> Action {
        match (self.mode, self.categories.get(&category)) {
            (Mode::Off, _) => Action::Off,
            (_, Some(action)) => *action,
            (Mode::Refuse, None) => Action::Refuse,
            (Mode::Flag, None) if category == Category::SexualMinors => Action::Refuse,
            (Mode::Flag, None) => Action::Flag,
        }
    }

    /// The score from which something belongs to a category.
    pub fn threshold(&self, category: Category) -> f32 {
        self.thresholds
            .get(&category)
            .copied()
            .unwrap_or(self.threshold)
    }

    /// Whether a score says that something belongs to a category.
    pub fn is_flagged(&self, category: Category, score: f32) -> bool {
        score > 0.0 && score >= self.threshold(category)
    }

    /// The categories that a text belongs to, with what is done about them and their scores; the strictest first.
    pub fn decide(&self, screening: &Screening) -> Vec<(Category, Action, f32)> {
        let scores = screening.scores.iter();
        let mut found: Vec<(Category, Action, f32)> = scores
            .filter(|(category, score)| self.is_flagged(**category, **score))
            .map(|(category, score)| (*category, self.action(*category), *score))
            .filter(|(_, action, _)| *action != Action::Off)
            .collect();
        found.sort_by(|a, b| b.1.cmp(&a.1).then(b.2.total_cmp(&a.2)));
        found
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_what_is_done_about_each_category() {
        let policy =
            Policy::parse("mode: flag\ncategories: {sexual: blur, violence: off}").unwrap();
        assert_eq!(policy.action(Category::Sexual), Action::Blur);
        assert_eq!(policy.action(Category::Violence), Action::Off);
        assert_eq!(policy.action(Category::Hate), Action::Flag);
        assert_eq!(policy.action(Category::SexualMinors), Action::Refuse);
        let allowed = Policy::parse("categories: {sexual/minors: flag}").unwrap();
        assert_eq!(allowed.action(Category::SexualMinors), Action::Flag);
        assert_eq!(
            Policy::of(Mode::Off).action(Category::SexualMinors),
            Action::Off
        );
        assert_eq!(
            Policy::of(Mode::Refuse).action(Category::Hate),
            Action::Refuse
        );
        // JSON is YAML.
        assert_eq!(
            Policy::parse("{\"mode\": \"refuse\"}").unwrap(),
            Policy::of(Mode::Refuse)
        );
        assert_eq!(Policy::parse(" \n").unwrap(), Policy::default());
    }

    #[test]
    fn a_policy_that_is_wrong_is_an_error_that_names_what() {
        for (text, named) in [
            ("modus: off", "modus"),
            ("categories: {sex: refuse}", "sex"),
            ("categories: {sexual: forbid}", "forbid"),
            ("threshold: 2", "threshold is 2"),
            ("thresholds: {hate: .nan}", "hate"),
            ("pictures: {adjustment: 9}", "adjustment"),
            ("pictures: {checker: a, concepts: b}", "one of them"),
            ("- a", ""),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_names_lists_beside_it() {
        let dir = std::env::temp_dir().join(format!("impasto-policy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("mine.txt"), "# mine\nwombat = 0.6\n").unwrap();
        std::fs::write(dir.join("ok.txt"), "common wombat\n").unwrap();
        std::fs::write(
            dir.join("policy.yaml"),
            "words:\n  embedded: false\n  lists: {harassment: [mine.txt]}\n  allow: [ok.txt]\n",
        )
        .unwrap();
        let policy = Policy::load(&dir.join("policy.yaml")).unwrap();
        let filter = policy.filter().unwrap();
        let found = filter.screen("two wombats, nude");
        assert_eq!(
            policy.decide(&found),
            [(Category::Harassment, Action::Flag, 0.6)]
        );
        assert!(policy.decide(&filter.screen("a common wombat")).is_empty());
        std::fs::write(dir.join("mine.txt"), "wombat = 6\n").unwrap();
        let error = policy.filter().unwrap_err().to_string();
        assert!(error.contains("mine.txt: line 1: the weight is"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
