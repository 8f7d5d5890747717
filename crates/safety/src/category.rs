//! What content is sorted into, and what is done about it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! categories {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A kind of content: the keys of OpenAI's `/v1/moderations`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Category {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Category {
            /// All of them, in the order of their names.
            pub const ALL: [Category; 13] = [$(Category::$name,)*];

            /// The key, such as `sexual/minors`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Category::$name => $text,)*
                }
            }
        }
    };
}

categories! {
    /// Words against a person.
    Harassment = "harassment",
    /// The same with a threat.
    HarassmentThreatening = "harassment/threatening",
    /// Words or symbols against a group of people.
    Hate = "hate",
    /// The same with a threat.
    HateThreatening = "hate/threatening",
    /// Drugs, forgery, theft: how to, and praise of it.
    Illicit = "illicit",
    /// Weapons and attacks: how to, and praise of it.
    IllicitViolent = "illicit/violent",
    /// Self-harm shown or praised.
    SelfHarm = "self-harm",
    /// How to.
    SelfHarmInstructions = "self-harm/instructions",
    /// Somebody who says they will.
    SelfHarmIntent = "self-harm/intent",
    /// Nudity and sex.
    Sexual = "sexual",
    /// The same with children.
    SexualMinors = "sexual/minors",
    /// Violence shown or praised.
    Violence = "violence",
    /// Wounds and corpses in detail.
    ViolenceGraphic = "violence/graphic",
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Category {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Category::ALL.into_iter();
        all.find(|category| category.as_str() == text)
            .ok_or_else(|| {
                let names = Category::ALL.map(Category::as_str).join(", ");
                format!("expected one of {names}, got {text:?}")
            })
    }
}

/// What is done about content of a category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing; its score is still returned.
    Off,
    /// It is said.
    Flag,
    /// It is said, and pictures are blurred.
    Blur,
    /// It is not drawn, and pictures are not passed on.
    Refuse,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Off => "off",
            Action::Flag => "flag",
            Action::Blur => "blur",
            Action::Refuse => "refuse",
        })
    }
}
