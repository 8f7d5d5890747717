//! Prompts of Janus as ids: DeepSeek's byte-level tokenizer, and the template of its conversations
//! (`janus/utils/conversation.py` and `janus/models/processing_vlm.py` of github.com/deepseek-ai/Janus).
//!
//! Tokens with a meaning of their own are looked up by their names: their ids differ from file to file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::{Error, Result, files};

const START: &str = "<｜begin▁of▁sentence｜>";
const END: &str = "<｜end▁of▁sentence｜>";
const PADDING: &str = "<｜▁pad▁｜>";
const IMAGE: &str = "<image_placeholder>";
const IMAGE_START: &str = "<begin_of_image>";
const IMAGE_END: &str = "<end_of_image>";

/// What stands before a question about a picture.
const SYSTEM: &str = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language.";

const FILE: &str = "tokenizer.json";

/// What the two sides of a conversation are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roles {
    /// `<|User|>` and `<|Assistant|>`, one token each: Janus-Pro.
    Tokens,
    /// `User` and `Assistant`: Janus.
    Words,
}

impl Roles {
    fn names(self) -> [&'static str; 2] {
        match self {
            Roles::Tokens => ["<|User|>", "<|Assistant|>"],
            Roles::Words => ["User", "Assistant"],
        }
    }
}

/// The ids of a question about a picture: what stands before the picture's place, and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Before the picture, its start included.
    pub before: Vec<u32>,
    /// After the picture, its end included.
    pub after: Vec<u32>,
}

/// Prompt ↔ ids.
#[derive(Clone, Debug)]
pub struct JanusTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    padding: u32,
    image: u32,
    image_start: u32,
    image_end: u32,
}

impl JanusTokenizer {
    /// From a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| Error::invalid(FILE, reason);
        let mut tokenizer =
            super::parse_tokenizer(bytes).map_err(|e| bad(format!("not a tokenizer: {e}")))?;
        tokenizer
            .with_truncation(None)
            .map_err(|e| bad(e.to_string()))?
            .with_padding(None);
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| bad(format!("lacks the token {token}")))
        };
        Ok(JanusTokenizer {
            start: id(START)?,
            end: id(END)?,
            padding: id(PADDING)?,
            image: id(IMAGE)?,
            image_start: id(IMAGE_START)?,
            image_end: id(IMAGE_END)?,
            tokenizer,
        })
    }

    /// That of a folder, for a model that knows ids below `text_vocab_size`.
    pub fn load(folder: &Path, text_vocab_size: usize) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(Error::Missing {
                what: "the text tokenizer (tokenizer.json)",
                path: folder.to_owned(),
                hint: "put it beside the model's weights".into(),
            });
        }
        Self::from_bytes(&files::read(&path)?)
            .and_then(|text| text.check(text_vocab_size).map(|()| text))
            .map_err(|e| Error::bad_file(&path, e.to_string()))
    }

    /// Refuses a model that does not know all ids.
    fn check(&self, text_vocab_size: usize) -> Result<()> {
        let mut tokens = self.tokenizer.get_vocab(true).into_iter();
        match tokens.find(|&(_, id)| id as usize >= text_vocab_size) {
            None => Ok(()),
            Some((token, id)) => Err(Error::invalid(
                FILE,
                format!(
                    "\"{}\" has id {id}, the model knows ids below {text_vocab_size}",
                    token.escape_debug()
                ),
            )),
        }
    }

    /// Writes `tokenizer.json` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = self
            .tokenizer
            .to_string(false)
            .map_err(|e| Error::invalid("text tokenizer", e.to_string()))?;
        files::write_atomic(dir.join(FILE), json.as_bytes())
    }

    /// The roles that it has tokens for, or their names in words.
    pub fn roles(&self) -> Roles {
        let known = |token: &str| self.tokenizer.token_to_id(token).is_some();
        match Roles::Tokens.names().into_iter().all(known) {
            true => Roles::Tokens,
            false => Roles::Words,
        }
    }

    /// The id that ends a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        // What the file puts around texts differs from form to form; the start is put here.
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|e| Error::invalid("prompt", e.to_string()))?;
        Ok([&[self.start], encoding.get_ids()].concat())
    }

    /// The ids that a picture of a prompt is drawn after, the picture's start at their end; at most `limit`. A longer
    /// prompt is refused, or cut: its template stays whole.
    pub fn encode_prompt(
        &self,
        roles: Roles,
        prompt: &str,
        limit: usize,
        truncate: bool,
    ) -> Result<Vec<u32>> {
        let prompt = prompt.trim();
        let encode = |prompt: &str| self.encode(&(message(roles, prompt) + IMAGE_START));
        let ids = encode(prompt)?;
        if ids.len() <= limit {
            return Ok(ids);
        }
        if !truncate {
            return Err(Error::CaptionTooLong {
                tokens: ids.len(),
                limit,
                caption: super::shortened(prompt),
            });
        }
        // The longest beginning that fits.
        let ends: Vec<usize> = prompt.char_indices().map(|(at, _)| at).collect();
        let (mut fits, mut too_long) = (0, ends.len());
        while too_long - fits > 1 {
            let middle = fits.midpoint(too_long);
            match encode(prompt[..ends[middle]].trim())?.len() <= limit {
                true => fits = middle,
                false => too_long = middle,
            }
        }
        let end = ends.get(fits).copied().unwrap_or_default();
        let ids = encode(prompt[..end].trim())?;
        match ids.len() <= limit {
            true => Ok(ids),
            false => Err(Error::invalid(
                "prompt",
                format!("its template alone has more than {limit} ids"),
            )),
        }
    }

    /// What stands for no prompt beside one of these ids, or beside none: as many ids, padding but for the first and the
    /// last.
    pub fn unconditional(&self, roles: Roles, prompt: &[u32]) -> Vec<u32> {
        let mut ids = match prompt {
            // A template always has ids.
            [] => self
                .encode(&(message(roles, "") + IMAGE_START))
                .unwrap_or_default(),
            prompt => prompt.to_vec(),
        };
        if let [_, between @ .., _] = &mut ids[..] {
            between.fill(self.padding);
        }
        ids
    }

    /// The ids of a question about a picture, or of one without.
    pub fn encode_question(&self, roles: Roles, question: &str, image: bool) -> Result<Question> {
        let question = question.trim();
        let asked = match image {
            true => format!("{IMAGE}\n{question}"),
            false => question.to_owned(),
        };
        let text = format!("{SYSTEM}\n\n{}", message(roles, asked.trim()));
        let ids = self.encode(&text)?;
        let at = ids.iter().position(|&id| id == self.image);
        if ids.iter().filter(|&&id| id == self.image).count() != usize::from(image) {
            let reason = format!("has the token {IMAGE} in it, which stands for the picture");
            return Err(Error::invalid("question", reason));
        }
        let Some(at) = at else {
            return Ok(Question {
                before: ids,
                after: Vec::new(),
            });
        };
        Ok(Question {
            before: [&ids[..at], &[self.image_start]].concat(),
            after: [&[self.image_end], &ids[at + 1..]].concat(),
        })
    }

    /// The id that starts a text, and those of a text outside of a conversation.
    pub fn encode_text(&self, text: &str) -> Result<(u32, Vec<u32>)> {
        let mut ids = self.encode(text)?;
        ids.remove(0);
        Ok((self.start, ids))
    }

    /// The text of ids, special ones left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|e| Error::invalid("text ids", e.to_string()))
    }
}

/// A message and the place of its answer: `Conversation.get_prompt` of the style DeepSeek.
fn message(roles: Roles, message: &str) -> String {
    let [user, assistant] = roles.names();
    match message {
        "" => format!("{user}:{assistant}:"),
        message => format!("{user}: {message}\n\n{assistant}:"),
    }
}
