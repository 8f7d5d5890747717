use proptest::prelude::*;

use super::*;

fn scanner() -> Scanner {
    Scanner::new(&Names::default())
}

fn found<'a>(scanner: &Scanner, caption: &'a str) -> Vec<(Category, &'a str)> {
    let findings = scanner.scan(caption).into_iter();
    findings
        .map(|found| (found.category, &caption[found.bytes]))
        .collect()
}

#[test]
fn each_category_is_found_in_both_languages_and_in_its_place() {
    use Category::*;
    let scanner = scanner();
    for (caption, category, text) in [
        (
            "a cat, mail jane.doe+x@example.co.uk now",
            Email,
            "jane.doe+x@example.co.uk",
        ),
        (
            "write to jane dot doe at example dot com please",
            Email,
            "jane dot doe at example dot com",
        ),
        (
            "jane [at] example [dot] org",
            Email,
            "jane [at] example [dot] org",
        ),
        (
            "照片，邮箱ｊａｎｅ＠ｑｑ．ｃｏｍ。",
            Email,
            "ｊａｎｅ＠ｑｑ．ｃｏｍ",
        ),
        ("请联系jane艾特qq点com", Email, "jane艾特qq点com"),
        (
            "a card 4111 1111 1111 1111 on a table",
            Card,
            "4111 1111 1111 1111",
        ),
        (
            "卡号４１１１１１１１１１１１１１１１",
            Card,
            "４１１１１１１１１１１１１１１１",
        ),
        ("she is 536-22-8145", Identity, "536-22-8145"),
        ("SSN 536228145", Identity, "536228145"),
        ("身份证11010519491231002x，", Identity, "11010519491231002x"),
        ("护照号码E12345678", Identity, "E12345678"),
        (
            "IBAN GB82 WEST 1234 5698 7654 32 A CAT",
            Account,
            "GB82 WEST 1234 5698 7654 32",
        ),
        ("call (212) 555-0134 now", Phone, "(212) 555-0134"),
        ("+49 151 23456789", Phone, "+49 151 23456789"),
        ("电话010-62345678转12", Phone, "010-62345678转12"),
        ("打13800138000找我", Phone, "13800138000"),
        (
            "微信幺三八零零一三八零零零",
            Phone,
            "幺三八零零一三八零零零",
        ),
        ("photo by Jane A. Miller, 2020", Name, "Jane A. Miller"),
        ("portrait of jane miller", Name, "jane miller"),
        ("旁边是刘静。", Name, "刘静"),
        (
            "call five five five two one two three",
            Phone,
            "five five five two one two three",
        ),
        ("Dr. Quux on a chair", Name, "Quux"),
        ("作者：欧阳婷婷", Name, "欧阳婷婷"),
        ("王小明的肖像", Name, "王小明"),
        ("旁边是李老师", Name, "李"),
    ] {
        assert_eq!(found(&scanner, caption), [(category, text)], "{caption}");
    }
}

#[test]
fn what_only_looks_like_it_is_not_found() {
    let scanner = scanner();
    for caption in [
        "1920x1080, 2024-05-06, 12:34:56, $1,299.00, f/2.8 1/250s ISO 3200",
        "a ruby ring, 19.898131, 506.475337",
        "seed 13912345678",
        "种子：13912345678",
        "ISBN 978-3-16-148410-0",
        "SKU 4111111111111111",
        "4111111111111112",
        "110105194912310021",
        "version 1.2.3.4",
        "2019-2023, 12345678",
        "a cat @ home. Then it sleeps",
        "the cat looks at home dot by dot",
        "a rose and a robin in may",
        "a Jack Russell terrier",
        "Dr Pepper on a table",
        "a mark on stone",
        "三只猫和两只狗，一二三四五",
        "白玉兰和黄金菊",
        "高山流水",
        "方石桌旁的金鱼",
        "穿白衣的女士",
        "one two three four five six seven eight",
        "雪地上的王子，杨柳，叶子和李子",
        "a turtle on a yellow background",
        "黄色背景上的乌龟",
    ] {
        assert_eq!(found(&scanner, caption), [], "{caption}");
    }
}

#[test]
fn redacted_captions_have_placeholders_of_their_language() {
    let scanner = scanner();
    assert_eq!(
        scanner.redact("Jane Miller, jane@example.com or 212-555-0134."),
        "[name], [e-mail] or [phone]."
    );
    assert_eq!(
        scanner.redact("王小明的照片，电话１３８００１３８０００，卡号4111111111111111"),
        "[姓名]的照片，电话[电话]，卡号[卡号]"
    );
    assert_eq!(scanner.redact("a red cat"), "a red cat");
    let phones = scanner.of_categories(&[Category::Phone]);
    assert_eq!(
        phones.redact("Jane Miller, 212-555-0134"),
        "Jane Miller, [phone]"
    );
}

#[test]
fn lists_of_names_are_the_users() {
    let mut names = Names::none();
    names.list("# friends\nZaphod Beeblebrox\n阿凡提\n");
    let scanner = Scanner::new(&names);
    assert_eq!(
        found(&scanner, "zaphod beeblebrox and 阿凡提在一起"),
        [
            (Category::Name, "zaphod beeblebrox"),
            (Category::Name, "阿凡提"),
        ]
    );
    assert_eq!(found(&scanner, "Jane Miller, azaphod beeblebroxes"), []);
    let mut names = Names::default();
    names.allow("jane miller\n");
    assert_eq!(found(&Scanner::new(&names), "Jane Miller"), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Any text: places are within it, at borders of letters, in order, and what is left between stays.
    #[test]
    fn places_are_those_of_the_text(
        parts in proptest::collection::vec(
            prop_oneof![
                any::<String>(),
                "[0-9０-９ \\-.()+@xX]{1,24}",
                Just("jane@example.com".to_owned()),
                Just("一三八零零一三八零零零".to_owned()),
                Just("11010519491231002X".to_owned()),
                Just("王小明先生".to_owned()),
                Just("Mr. Miller's".to_owned()),
                Just("GB82 WEST 1234 5698 7654 32".to_owned()),
            ],
            0..6,
        )
    ) {
        let caption = parts.concat();
        let scanner = SCANNER.get_or_init(scanner);
        let findings = scanner.scan(&caption);
        let mut last = 0;
        for found in &findings {
            prop_assert!(found.bytes.start >= last && found.bytes.end > found.bytes.start);
            prop_assert!(caption.get(found.bytes.clone()).is_some());
            last = found.bytes.end;
        }
        let redacted = redacted(&caption, &findings);
        prop_assert!(findings.is_empty() == (redacted == caption));
    }
}

static SCANNER: std::sync::OnceLock<Scanner> = std::sync::OnceLock::new();

/// The search of a list with one endless line took minutes to prepare.
#[test]
fn a_line_that_is_too_long_names_nobody() {
    let text = format!(
        "# a comment {}\nJane Roe\n{}\n",
        "-".repeat(400),
        "(".repeat(40_000)
    );
    assert_eq!(overlong_name(&text), Some(3));
    assert_eq!(overlong_name("Jane Roe\n王小明"), None);
    let mut names = Names::none();
    names.list(&text);
    assert_eq!(names.listed, ["jane roe"]);
}
