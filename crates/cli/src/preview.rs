//! A picture in the terminal: kitty's or iTerm2's graphics protocol where the terminal says that it knows
//! one, else two pixels a character in 24-bit colour.
//!
//! Sources: sw.kovidgoyal.net/kitty/graphics-protocol (direct transmission, `f=100` is PNG),
//! iterm2.com/documentation-images.html. Inside tmux and screen, which swallow both, characters are drawn.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use impasto::image::{Format, Image};

use crate::failure::Usage;

/// How pictures reach a terminal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Kitty,
    Iterm2,
    Characters,
}

/// The protocol of the terminal on stderr; refused where that is none.
fn detect() -> Result<Protocol> {
    if !io::stderr().is_terminal() {
        return Err(Usage::new(
            "--preview needs a terminal, and stderr is none",
            "leave --preview out, or don't redirect stderr",
        )
        .into());
    }
    Ok(protocol(|name| std::env::var(name).ok()))
}

fn protocol(variable: impl Fn(&str) -> Option<String>) -> Protocol {
    let is = |name, values: &[&str]| {
        variable(name).is_some_and(|found| values.contains(&found.as_str()))
    };
    if variable("TMUX").is_some() || variable("STY").is_some() {
        return Protocol::Characters;
    }
    if variable("KITTY_WINDOW_ID").is_some()
        || is("TERM", &["xterm-kitty", "xterm-ghostty"])
        || is("TERM_PROGRAM", &["ghostty"])
    {
        return Protocol::Kitty;
    }
    if is("TERM_PROGRAM", &["iTerm.app", "WezTerm"]) || is("LC_TERMINAL", &["iTerm2"]) {
        return Protocol::Iterm2;
    }
    Protocol::Characters
}

/// A terminal that pictures are shown on, each in the place of the one before.
pub struct Screen {
    protocol: Protocol,
    /// Lines of the picture that is shown, where they are known.
    lines: usize,
}

impl Screen {
    /// The terminal on stderr; refused where that is none.
    pub fn new() -> Result<Self> {
        Ok(Screen {
            protocol: detect()?,
            lines: 0,
        })
    }

    /// Draws a picture on stderr.
    pub fn show(&mut self, picture: &Image) -> Result<()> {
        let columns = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        let bytes = self.frame(picture, columns)?;
        let mut stderr = io::stderr().lock();
        stderr.write_all(&bytes)?;
        Ok(stderr.flush()?)
    }

    /// Takes the picture away, for lines that stay.
    pub fn clear(&mut self) -> Result<()> {
        let mut out = Vec::new();
        self.erase(&mut out)?;
        let mut stderr = io::stderr().lock();
        stderr.write_all(&out)?;
        Ok(stderr.flush()?)
    }

    fn erase(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.lines > 0 {
            write!(out, "\x1b[{}A\r\x1b[J", self.lines)?;
        }
        self.lines = 0;
        Ok(())
    }

    /// The picture, before it what takes the last one away: up to its first line, all below cleared. How
    /// many lines the graphics protocols take, only the terminal knows: there pictures follow each other.
    fn frame(&mut self, picture: &Image, columns: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.erase(&mut out)?;
        let rendered = render(picture, self.protocol, columns)?;
        if self.protocol == Protocol::Characters {
            self.lines = rendered.iter().filter(|&&byte| byte == b'\n').count();
        }
        out.extend(rendered);
        Ok(out)
    }
}

fn render(picture: &Image, protocol: Protocol, columns: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match protocol {
        Protocol::Kitty => {
            let data = BASE64.encode(picture.encode(Format::Png, 100)?);
            // A command holds at most 4096 bytes of data; all but the last say that more follows.
            let mut chunks = data.as_bytes().chunks(4096).peekable();
            let mut keys = "a=T,f=100,";
            while let Some(chunk) = chunks.next() {
                let more = u8::from(chunks.peek().is_some());
                write!(out, "\x1b_G{keys}m={more};")?;
                out.extend(chunk);
                out.extend(b"\x1b\\");
                keys = "";
            }
            out.push(b'\n');
        }
        Protocol::Iterm2 => {
            let png = picture.encode(Format::Png, 100)?;
            let size = png.len();
            let data = BASE64.encode(png);
            writeln!(out, "\x1b]1337;File=inline=1;size={size}:{data}\x07")?;
        }
        Protocol::Characters => characters(&mut out, picture, columns)?,
    }
    Ok(out)
}

/// The upper half of each character in the foreground's colour, the lower half in the background's.
fn characters(out: &mut Vec<u8>, picture: &Image, columns: usize) -> Result<()> {
    let width = picture.width.min(columns.max(1));
    let height = (picture.height * width / picture.width).max(1);
    let picture = picture.resize(width, height)?;
    let pixel = |x: usize, y: usize| &picture.rgb[3 * (y * width + x)..][..3];
    for y in (0..height).step_by(2) {
        for x in 0..width {
            let upper = pixel(x, y);
            write!(out, "\x1b[38;2;{};{};{}", upper[0], upper[1], upper[2])?;
            if y + 1 < height {
                let lower = pixel(x, y + 1);
                write!(out, ";48;2;{};{};{}", lower[0], lower[1], lower[2])?;
            }
            out.extend("m▀".as_bytes());
        }
        out.extend(b"\x1b[0m\n");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(variables: &'static [(&str, &str)]) -> Protocol {
        protocol(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_terminal_says_what_it_knows() {
        assert_eq!(with(&[("TERM", "xterm-kitty")]), Protocol::Kitty);
        assert_eq!(with(&[("TERM_PROGRAM", "iTerm.app")]), Protocol::Iterm2);
        assert_eq!(with(&[("TERM", "xterm-256color")]), Protocol::Characters);
        let inside_tmux = with(&[("TERM_PROGRAM", "WezTerm"), ("TMUX", "/tmp/x")]);
        assert_eq!(inside_tmux, Protocol::Characters);
    }

    #[test]
    fn characters_hold_two_pixels_each() {
        let mut picture = Image::filled(1, 3, [1, 2, 3]);
        picture.rgb[3..6].copy_from_slice(&[4, 5, 6]);
        let drawn = render(&picture, Protocol::Characters, 80).unwrap();
        let expected = "\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[0m\n\x1b[38;2;1;2;3m▀\x1b[0m\n";
        assert_eq!(String::from_utf8(drawn).unwrap(), expected);
    }

    #[test]
    fn a_picture_takes_the_place_of_the_one_before() {
        let mut screen = Screen {
            protocol: Protocol::Characters,
            lines: 0,
        };
        let first = screen.frame(&Image::filled(2, 6, [9; 3]), 80).unwrap();
        assert!(first.starts_with(b"\x1b[38;2;9;9;9"));
        let second = screen.frame(&Image::filled(2, 6, [7; 3]), 80).unwrap();
        assert!(second.starts_with(b"\x1b[3A\r\x1b[J\x1b[38;2;7;7;7"));
        // What was taken away is not taken away again.
        screen.erase(&mut Vec::new()).unwrap();
        let third = screen.frame(&Image::filled(2, 6, [5; 3]), 80).unwrap();
        assert!(third.starts_with(b"\x1b[38;2;5;5;5"));
    }

    #[test]
    fn a_long_picture_is_sent_to_kitty_in_chunks() {
        let mut picture = Image::filled(64, 64, [0; 3]);
        // Noise that does not compress below a chunk.
        let mut state = 1u32;
        for value in &mut picture.rgb {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *value = (state >> 24) as u8;
        }
        let drawn = String::from_utf8(render(&picture, Protocol::Kitty, 80).unwrap()).unwrap();
        let commands: Vec<&str> = drawn.trim_end().split("\x1b\\").collect();
        let (first, last) = (commands[0], commands[commands.len() - 2]);
        assert!(commands.len() > 3 && commands.iter().all(|command| command.len() < 4200));
        assert!(first.starts_with("\x1b_Ga=T,f=100,m=1;") && last.starts_with("\x1b_Gm=0;"));
    }
}
