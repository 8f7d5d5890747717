"""A thousand captions of all kinds for comparing text tokenizers."""

import random
import unicodedata

import ftfy

WORDS = """a an the two three red green blue yellow old tiny photo of painting drawing in style cat dog turtle balloon
bicycle avocado armchair mountain river night sky background on under above beside wearing holding woman man child people
city street light snow rain beautiful very detailed 4k hdr close-up wide-angle macro watercolour oil pencil sketch van Gogh
Picasso New York Tokyo iPhone NASA jpg png it's don't we'll I've they're she'd o'clock rock'n'roll""".split()
ELSEWHERE = """红色的乌龟 夜空下的城市 一只戴帽子的猫 日本の山 富士山と桜 ﾈｺ カタカナ 한국의 거리 고양이 кошка на столе
Ёжик в тумане γάτα ΓΆΤΑ Οδυσσεύς قطة صغيرة على الطاولة חתול बिल्ली चाँद แมวดำ con gái đẹp São Paulo Zürich ÀÉÎÕÜ
naïve façade Ångström Łódź İstanbul ISTANBUL straße ﬁne ﬂower ǅ œuvre æther þorn""".split()
SYMBOLS = """🐢 🎈 😀 👩‍👩‍👧 👍🏽 🇫🇷 ❤️ ♥ ☃ ✈️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣ → ≠ ∑ √ € £ ¥ ₹ © ® ™ ° ² ½ № § ¶ • … – — “double” ‘single’ «guillemets» ‹x›
„low“ ＬＯＵＤ　ｎｏｉｓｅ １２３ ！？ ... ?! !!! ### $9.99 50% #cats @user a/b c:\\\\d e=mc^2 x_y_z [tag] {brace} <b>bold</b> (c)
&amp; &lt;i&gt; &quot;hi&quot; &#39;s &#x1F422; &eacute; &EACUTE; &nbsp; &hellip; &rsquo;s &amp;amp; &amp;lt; &copy2024 &notin
&unknown; &ampersand AT&T R&D <br/> http://example.com/a?b=c&d=e user@example.com 3.14159 1,000,000 2024-05-06 12:30""".split()


def any_character():
    """One that has been in Unicode for some years: newer ones are letters to some libraries and not to others."""
    while True:
        char = chr(random.randint(*random.choice([(32, 0x24F), (0x250, 0xD7FF), (0x10000, 0x1FAFF)])))
        if unicodedata.category(char) != "Cn":
            return char


def captions(count=1000, seed=7):
    """The captions, and how many were left out because ftfy takes them for wrongly decoded text."""
    random.seed(seed)
    found, left_out = ["", " ", "a", "A photo of a cat.", "\n\t", "<i>&rsquo;</i> ’"], 0
    while len(found) < count:
        kind = random.random()
        pools = [WORDS] if kind < 0.2 else [WORDS, ELSEWHERE] if kind < 0.45 else [WORDS, SYMBOLS] if kind < 0.7 else [WORDS, ELSEWHERE, SYMBOLS]
        words = [random.choice(random.choice(pools)) for _ in range(random.choice([1, 3, 6, 10, 20]))]
        text = "".join(word + random.choice([" "] * 12 + ["", "  ", ", ", ". ", "-", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028"]) for word in words)
        if kind > 0.9:
            text += "".join(any_character() for _ in range(6))
        if random.random() < 0.05:
            text += random.choice(["\x00", "\x1b[31mred\x1b[0m", "\ufeff", "\u200b", "\u200d", "e\u0301", "\u0130", "\x7f", "\u0085"])
        text = random.choice([text, text, text, text.upper(), text.title()])
        if ftfy.fix_text(text) != ftfy.fix_text(text, fix_encoding=False):
            left_out += 1
            continue
        found.append(text)
    return found, left_out
