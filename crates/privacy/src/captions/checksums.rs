//! Numbers that check themselves.

/// Luhn's sum (ISO/IEC 7812-1, annex B) of ASCII digits.
pub fn luhn(digits: &str) -> bool {
    let sum: Option<u32> = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = char::from(byte).to_digit(10)?;
            Some(match place % 2 {
                1 if digit > 4 => 2 * digit - 9,
                1 => 2 * digit,
                _ => digit,
            })
        })
        .sum();
    !digits.is_empty() && sum.is_some_and(|sum| sum % 10 == 0)
}

/// Whether digits are a payment card's: a length and a prefix that are issued, and Luhn's sum.
pub fn payment_card(digits: &str) -> bool {
    let prefix = |length: usize| -> u32 {
        digits
            .get(..length)
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0)
    };
    let issued = match digits.len() {
        13 => prefix(1) == 4,
        14 => matches!(prefix(2), 36 | 38 | 39) || matches!(prefix(3), 300..=305),
        15 => matches!(prefix(2), 34 | 37),
        16 => {
            matches!(prefix(1), 4)
                || matches!(prefix(2), 35 | 51..=55 | 62 | 65 | 81)
                || matches!(prefix(4), 2221..=2720 | 6011)
                || matches!(prefix(3), 644..=649)
        }
        17 | 18 => prefix(2) == 62,
        19 => matches!(prefix(2), 62 | 81) || prefix(1) == 4,
        _ => false,
    };
    issued && !one_digit(digits) && luhn(digits)
}

fn one_digit(digits: &str) -> bool {
    let mut bytes = digits.bytes();
    let first = bytes.next();
    bytes.all(|byte| Some(byte) == first)
}

/// Whether text is a resident identity number of China (GB 11643-1999): a province, a day of birth, and ISO 7064's
/// MOD 11-2 as its last letter.
pub fn resident_identity(text: &str) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let bytes = text.as_bytes();
    if bytes.len() != 18 || !bytes[..17].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().unwrap_or(0);
    let known_province = matches!(
        number(0, 2),
        11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83 | 91
    );
    if !known_province || !is_date(number(6, 10), number(10, 12), number(12, 14)) {
        return false;
    }
    let sum: u32 = bytes
        .iter()
        .zip(WEIGHTS)
        .map(|(byte, weight)| u32::from(byte - b'0') * weight)
        .sum();
    b"10X98765432"[(sum % 11) as usize] == bytes[17].to_ascii_uppercase()
}

fn is_date(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    (1900..2100).contains(&year) && (1..=days).contains(&day)
}

/// Whether nine digits can be a US social security number (SSA, randomised since 2011): area, group and serial that
/// are issued.
pub fn social_security(digits: &str) -> bool {
    if digits.len() != 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let (area, group, serial) = (&digits[..3], &digits[3..5], &digits[5..]);
    area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000"
        // Used in advertisements.
        && !matches!(digits, "078051120" | "219099999" | "123456789")
}

/// Whether text without spaces is an IBAN (ISO 13616): a country's length, and MOD 97-10 (ISO 7064).
pub fn iban(text: &str) -> bool {
    let bytes = text.as_bytes();
    if !text.is_ascii() || !(15..=34).contains(&bytes.len()) {
        return false;
    }
    let expected = match &text[..2] {
        "NO" => 15,
        "BE" => 16,
        "DK" | "FI" | "NL" => 18,
        "MK" | "SI" => 19,
        "AT" | "BA" | "EE" | "KZ" | "LT" | "LU" => 20,
        "CH" | "HR" | "LI" | "LV" => 21,
        "BG" | "BH" | "DE" | "GB" | "GE" | "IE" | "ME" | "RS" => 22,
        "AE" | "GI" | "IL" => 23,
        "AD" | "CZ" | "ES" | "MD" | "PK" | "RO" | "SA" | "SE" | "SK" | "TN" | "VG" => 24,
        "PT" => 25,
        "IS" | "TR" => 26,
        "FR" | "GR" | "IT" | "MC" | "SM" => 27,
        "AL" | "AZ" | "CY" | "DO" | "GT" | "HU" | "LB" | "PL" => 28,
        "BR" | "PS" | "QA" | "UA" => 29,
        "JO" | "KW" | "MU" => 30,
        "MT" => 31,
        _ => return false,
    };
    if bytes.len() != expected {
        return false;
    }
    let mut rotated = bytes[4..].iter().chain(&bytes[..4]);
    let rest = rotated.try_fold(0u32, |rest, byte| {
        let value = char::from(*byte).to_digit(36)?;
        let shift = if value > 9 { 100 } else { 10 };
        Some((rest * shift + value) % 97)
    });
    rest == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that the standards and the issuers publish as examples.
    #[test]
    fn published_examples_are_right_and_their_neighbours_are_not() {
        for card in [
            "4111111111111111",
            "5555555555554444",
            "378282246310005",
            "6011111111111117",
            "3530111333300000",
            "6200000000000005",
        ] {
            assert!(payment_card(card), "{card}");
            for place in 1..card.len() {
                let mut other = card.as_bytes().to_vec();
                other[place] = b'0' + (other[place] - b'0' + 1) % 10;
                let other = String::from_utf8_lossy(&other).into_owned();
                assert!(!luhn(&other), "{other}");
            }
        }
        assert!(!payment_card("0000000000000000") && !luhn("") && !luhn("12a"));
        assert!(resident_identity("11010519491231002X"));
        assert!(!resident_identity("440524188001010014"), "born in 1880");
        assert!(
            !resident_identity("110105194912310021") && !resident_identity("990105194912310025")
        );
        assert!(!resident_identity("11010519491331002X"));
        assert!(iban("GB82WEST12345698765432") && iban("DE89370400440532013000"));
        assert!(!iban("GB82WEST12345698765433") && !iban("DE8937040044053201300"));
        assert!(social_security("536228145"));
        for none in [
            "666228145",
            "000228145",
            "936228145",
            "536008145",
            "536220000",
            "5362281",
        ] {
            assert!(!social_security(none), "{none}");
        }
    }
}
