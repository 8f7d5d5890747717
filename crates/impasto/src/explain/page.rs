//! An explanation as one HTML file that needs nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Atlas, Explanation, atlas, resized_map};
use crate::Result;
use crate::image::{Format, Image};
use crate::model::Model;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page of an explanation of `picture`: pictures, style and script are inside, and it loads nothing. English or
/// Chinese by the reader's browser.
pub fn page(model: &Model, explanation: &Explanation, picture: &Image) -> Result<String> {
    let codes = explanation.patches.iter().flat_map(|patch| {
        let others = patch.alternatives.iter().map(|other| other.id);
        std::iter::once(patch.id).chain(others)
    });
    let atlas = atlas(model, &codes.collect::<Vec<_>>())?;
    write(explanation, picture, &atlas)
}

fn write(explanation: &Explanation, picture: &Image, atlas: &Atlas) -> Result<String> {
    let clip = explanation.clip.as_ref();
    let data = json!({
        "explanation": explanation,
        "picture": data_uri(picture)?,
        "atlas": {
            "codes": atlas.codes,
            "tile": atlas.tile,
            "columns": Atlas::COLUMNS,
            "sheet": data_uri(&atlas.sheet)?,
        },
        "side": picture.width,
        // The CLIP's map on the picture's own patches.
        "clip": clip.map(|clip| resized_map(&clip.patches, clip.grid, explanation.grid)),
    });
    // Within a script's element only "<" can end it.
    let data = data.to_string().replace('<', "\\u003c");
    // The data comes last: what a prompt says is no place to put anything.
    Ok(TEMPLATE
        .replace("{{title}}", &escaped(&explanation.prompt))
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replacen("{{data}}", &data, 1))
}

fn data_uri(picture: &Image) -> Result<String> {
    let png = picture.encode(Format::Png, 100)?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png)))
}

/// Text as HTML. A brace is written out, too, so that no text is one of the template's marks.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '{' => html.push_str("&#123;"),
            letter => html.push(letter),
        }
    }
    html
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ClipExplanation, Method, Patch, WordMap};
    use super::*;

    fn explanation(prompt: &str) -> Explanation {
        Explanation {
            model: "m</script>".into(),
            prompt: prompt.into(),
            method: Method::Likelihood,
            grid: 1,
            log_likelihood: -1.5,
            words: vec![WordMap {
                word: prompt.into(),
                start: 0,
                end: prompt.len(),
                map: vec![0.5],
            }],
            patches: vec![Patch {
                id: 3,
                probability: 0.25,
                entropy: 1.0,
                alternatives: Vec::new(),
            }],
            clip: Some(ClipExplanation {
                model: "</script>".into(),
                cosine: 0.5,
                logit: 5.0,
                grid: 2,
                patches: vec![1.0, 2.0, 3.0, 6.0],
                words: Vec::new(),
            }),
        }
    }

    /// A prompt may be anything: it must not end the data, nor become markup, nor be taken for a mark of the template.
    #[test]
    fn a_hostile_prompt_stays_text() {
        for prompt in [
            "</script><script>alert(1)</script>",
            "{{data}} {{script}}",
            "<!--",
            "a & \"b\"",
        ] {
            let explanation = explanation(prompt);
            let picture = Image::filled(2, 2, [7; 3]);
            let atlas = Atlas::of(vec![3], 2, std::slice::from_ref(&picture)).unwrap();
            let page = write(&explanation, &picture, &atlas).unwrap();
            let data = page.split("type=\"application/json\">").nth(1).unwrap();
            let data = data.split("</script>").next().unwrap();
            let read: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(read["explanation"]["prompt"], prompt);
            assert_eq!(read["clip"], serde_json::json!([3.0]));
            assert_eq!(page.matches("<script").count(), 2, "{prompt}");
            assert_eq!(page.matches("</script>").count(), 2, "{prompt}");
        }
    }
}
