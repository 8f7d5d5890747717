//! The things of the small worlds, with their names: chosen by eye so that silhouettes and colours
//! differ clearly at 24 px, with irregular plurals and Chinese measure words written by hand.

use serde::{Deserialize, Serialize};

use super::colour::Colour;

/// A thing: one glyph of the font and what it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thing {
    /// The character sequence.
    pub emoji: String,
    /// One of it, in English, without article: "turtle".
    pub english: String,
    /// Several of it: "turtles".
    pub plural: String,
    /// Its Chinese name: "乌龟".
    pub chinese: String,
    /// The Chinese measure word: "只".
    pub measure: String,
    /// The colour that it mostly has by nature, if any: it is never painted in that one, as nobody
    /// could see the difference.
    pub natural: Option<Colour>,
}

/// One row of the table below: emoji, English, plural (empty: add s), Chinese, measure word, own colour.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Option<Colour>,
);

use Colour::{Blue, Green, Orange, Pink, Purple, Red, Yellow};

/// The eight whose glyphs ship with the library.
const TINY: [&str; 8] = ["🐢", "🐱", "🐟", "🍎", "🍌", "🚗", "🎈", "⭐"];

#[rustfmt::skip]
const SMALL: &[Row] = &[
    ("🐢", "turtle", "", "乌龟", "只", Some(Green)),
    ("🐱", "cat", "", "猫", "只", Some(Orange)),
    ("🐶", "dog", "", "狗", "只", None),
    ("🐼", "panda", "", "熊猫", "只", None),
    ("🐸", "frog", "", "青蛙", "只", Some(Green)),
    ("🐷", "pig", "", "猪", "头", Some(Pink)),
    ("🐧", "penguin", "", "企鹅", "只", None),
    ("🐟", "fish", "fish", "鱼", "条", Some(Blue)),
    ("🐙", "octopus", "octopuses", "章鱼", "只", Some(Red)),
    ("🦀", "crab", "", "螃蟹", "只", Some(Orange)),
    ("🐞", "ladybug", "", "瓢虫", "只", Some(Red)),
    ("🐥", "chick", "", "小鸡", "只", Some(Yellow)),
    ("🐌", "snail", "", "蜗牛", "只", None),
    ("🐳", "whale", "", "鲸鱼", "头", Some(Blue)),
    ("🐰", "rabbit", "", "兔子", "只", None),
    ("🦁", "lion", "", "狮子", "头", Some(Yellow)),
    ("🐭", "mouse", "mice", "老鼠", "只", None),
    ("🦊", "fox", "foxes", "狐狸", "只", Some(Orange)),
    ("🍎", "apple", "", "苹果", "个", Some(Red)),
    ("🍌", "banana", "", "香蕉", "根", Some(Yellow)),
    ("🍇", "bunch of grapes", "bunches of grapes", "葡萄", "串", Some(Purple)),
    ("🍉", "watermelon", "", "西瓜", "块", Some(Red)),
    ("🍓", "strawberry", "strawberries", "草莓", "颗", Some(Red)),
    ("🍊", "orange", "", "橘子", "个", Some(Orange)),
    ("🍍", "pineapple", "", "菠萝", "个", Some(Yellow)),
    ("🍄", "mushroom", "", "蘑菇", "个", Some(Orange)),
    ("🌻", "sunflower", "", "向日葵", "朵", Some(Yellow)),
    ("🌷", "tulip", "", "郁金香", "朵", Some(Pink)),
    ("🌵", "cactus", "cacti", "仙人掌", "棵", Some(Green)),
    ("🌲", "tree", "", "树", "棵", Some(Green)),
    ("🚗", "car", "", "汽车", "辆", Some(Red)),
    ("🚀", "rocket", "", "火箭", "枚", None),
    ("⛵", "sailboat", "", "帆船", "艘", Some(Orange)),
    ("🚂", "train", "", "火车", "列", None),
    ("🏠", "house", "", "房子", "座", None),
    ("☂️", "umbrella", "", "雨伞", "把", Some(Purple)),
    ("⏰", "alarm clock", "", "闹钟", "个", Some(Red)),
    ("🔑", "key", "", "钥匙", "把", Some(Yellow)),
    ("🎈", "balloon", "", "气球", "个", Some(Red)),
    ("🎁", "gift", "", "礼物", "份", Some(Orange)),
    ("🔔", "bell", "", "铃铛", "个", Some(Yellow)),
    ("📕", "book", "", "书", "本", Some(Red)),
    ("👑", "crown", "", "皇冠", "顶", Some(Yellow)),
    ("⚽", "football", "", "足球", "个", None),
    ("⭐", "star", "", "星星", "颗", Some(Yellow)),
    ("❤️", "heart", "", "心", "颗", Some(Red)),
    ("🤖", "robot", "", "机器人", "个", None),
    ("🎩", "hat", "", "帽子", "顶", None),
];

/// What the world `styles-small` has besides the things of `small`: all five sets of art draw them so that one knows
/// them by their outline.
const MORE: &str = "\
    🐘🦒🦓🐊🐍🦉🦋🐝🦆🐬🦈🦄🐨🐻🐔🐑🐪🦔🦩🦚🐎🐄🦖🐉🕷🦇🐿\
    🍋🍐🍑🍒🥝🥑🍆🥕🌽🥦🍅🌹🌴🍁🍀🍔🍕🍩🍪🍰🎂🍦🍭🧀🥐🥚🍟🍿🍷\
    ✈🚁🚌🚲🚜🛵🛸🚒🚢🏰⛺🌋🌈☀🌙☁❄⛄🔥💧🎸🎻🥁🎺🏀🏆🪁🎃👻💀👽💎💡📷📺✂✏🔨🪓⚓🔒🕯🧸🧲🪑🎒👟👕";

/// Better names than Unicode's for some of them.
#[rustfmt::skip]
const MORE_NAMES: &[(&str, &str, &str, &str)] = &[
    ("🔒", "padlock", "padlocks", "挂锁"),
    ("🐑", "sheep", "sheep", "绵羊"),
    ("🍒", "pair of cherries", "pairs of cherries", "樱桃"),
    ("🍟", "portion of french fries", "portions of french fries", "薯条"),
    ("🦖", "dinosaur", "dinosaurs", "恐龙"),
    ("🎃", "pumpkin", "pumpkins", "南瓜"),
    ("🏀", "basketball", "basketballs", "篮球"),
    ("🍰", "piece of cake", "pieces of cake", "蛋糕"),
    ("🍦", "ice cream", "ice creams", "冰淇淋"),
    ("🥝", "kiwi", "kiwis", "猕猴桃"),
    ("⛄", "snowman", "snowmen", "雪人"),
    ("🛸", "flying saucer", "flying saucers", "飞碟"),
];

fn thing(row: &Row) -> Thing {
    let &(emoji, english, plural, chinese, measure, natural) = row;
    Thing {
        emoji: emoji.into(),
        english: english.into(),
        plural: if plural.is_empty() {
            format!("{english}s")
        } else {
            plural.into()
        },
        chinese: chinese.into(),
        measure: measure.into(),
        natural,
    }
}

/// The things of the world `small`.
pub(super) fn small() -> Vec<Thing> {
    SMALL.iter().map(thing).collect()
}

/// Those of `all` that are in the world `styles-small`.
pub(super) fn styles_small(all: Vec<Thing>) -> Vec<Thing> {
    let small = small();
    let bare = |emoji: &str| emoji.replace('\u{fe0f}', "");
    all.into_iter()
        .filter_map(|thing| {
            let emoji = bare(&thing.emoji);
            if let Some(named) = small.iter().find(|named| bare(&named.emoji) == emoji) {
                return Some(Thing {
                    emoji: thing.emoji,
                    ..named.clone()
                });
            }
            let of_more = emoji.chars().all(|c| MORE.contains(c));
            let better = MORE_NAMES.iter().find(|(of, ..)| *of == emoji);
            of_more.then(|| match better {
                Some(&(_, english, plural, chinese)) => Thing {
                    english: english.into(),
                    plural: plural.into(),
                    chinese: chinese.into(),
                    ..thing
                },
                None => thing,
            })
        })
        .collect()
}

/// The things of the world `tiny`.
pub(super) fn tiny() -> Vec<Thing> {
    SMALL
        .iter()
        .filter(|row| TINY.contains(&row.0))
        .map(thing)
        .collect()
}
