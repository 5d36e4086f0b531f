"""Caption cleaning: odd strings and what the official T5Embedder makes of them.

    python tools/golden/captions.py --repos CHECKOUTS        # tests/golden/captions.json
    python tools/golden/captions.py --repos CHECKOUTS --random 20000 --seed 7 --output FILE

Runs `text_preprocessing` of DreamClear's diffusion/model/t5.py (the cleaning rules, twice) with
Beautiful Soup, ftfy and Python as installed; their versions are in the file. A case is
[input, output], or [input, null] where the official code raises.
"""

import argparse
import importlib.util
import json
import platform
import random
import unicodedata
import warnings
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The examples of the specification, and what each rule is about.
RULES = r'''
See http://www.example.com/path/x.html now
mail me at foo@bar.com ok
A (wide-angle) photo: sky, sea.And land 1920x1080 jc6640
it's 12:30 \n done...  “quoted” text!!!
cats_and_dogs-in-a-row-of-trees
file img_001.png download free, free shipping
'quoted whole'
page 12 of #123 &quot;x&quot; &amp;amp; y
abc.com/xyz@me
A <person> and another <PERSON> in <b>bold</b>
https:///three.slashes http:x www:/a www.shop.co.uk/item?id=3&x=4 ftp://host.org/file
sub.domain-name.net/path/to/page/ then more
a.com@b.com c.org/@d e.gov/f/@g it.it.it it.com.ru/x@
@nick said hi to @other_one and a@b
一 龥 ㇀ ㇰ ㈠ ㌀ 㐀 ䷀ 漢字 and かな カタカナ 한국어
dash – — ― ‐ ‑ ‒ ֊ ־ ᐀ ᠆ ⸗ ⸚ ⸺ ⸻ ⹀ 〜 〰 ゠ ︱ ︲ ﹘ ﹣ － end
`tick` ´acute´ «guillemets» “curly” ¨umlaut¨ ‘single’ it’s
&quot &quot; &amp &amp; &ampx &amp;quot; &amp;amp;quot;
server 192.168.0.1 and 1.2.3.4.5 and 1234.1.1.1
article 1:23   
article 1:23
new\nline and \\n and real
#1 #12 #123 #1234 #12345 #123456 #1a 12345 123456 a123456 ١٢٣٤٥٦
photo.png my_photo.final.JPG x.jpeg.bak .webp report.pdf. a/b/c.mp4?x
"""double""" ''single'' "'mixed'" ..two ...three. a . b . . c
#®•©™&@·º½¾¿¡§~)(][}{|\/* all of them
one-two_three four-five-six_seven a-b
ab1 ab123 abcd123 ab1234567890123456 a1b 12a34 1a2b3c a1b2c3 A1B
worldwide free shipping worldwide shipping free  shipping reshipping
free download free download downloads downloaded freedownload free
click for more, click on it, click here, double-click on this
png image, jpg images, the pdfs, a webp imagery, mp4
page 3 homepage 3 page  77x pages 4
3x4 3.5x4.5 10 x 10 2×3 2х3 1920x1080p 3.x4. 5x
title : subtitle :  more :end a: b
one,two.three/four 1,2 3.4 a.b, c ,d
   many     spaces		and
"whole in quotes" 
"'nested'"
'tis the season
_leading -dash ,comma :colon ;semi
trailing- trailing_ trailing, trailing: trailing+ trailing;
.hidden
. hidden
.hidden text
100% sure %41%42 %C3%A9 %E9 %zz a+b 1+1=2 %
Ｆｕｌｌ　Ｗｉｄｔｈ ﾊﾝｶｸ ﬁne ﬂow ﬃ Ĳssel ŉ ǆ
sÃ³lo voilÃ  le travail âœ” fine â€œquoteâ€ donâ€™t
&lt;b&gt;bold&lt;/b&gt; &amp;lt;i&amp;gt; &notit; &notin; &copy &copyright &eacute &EACUTE; &hellip;
&#65;&#x42;&#67 &#128; &#150; &#0; &#xD800; &#1114112; &#99999999; &#; &#x; &#xg; &#12ab;
AT&T R&D Q&A a&b a& b &c & d
x < y and y > z, a<b, 1 <2, <3 love, <- arrow ->
<p>One</p><p>Two</p> <br> <br/> <hr /> text<!-- comment -->more<!-- unclosed
<script>var x = "<b>";</script>shown<style>p{}</style> <script>never closed
<a href="http://x.com/a?b=c&d=e" title='q"q'>link</a> <img src=x.png alt="a > b">
<a href='unclosed>text</a> <b attr=">" other>x</b> <c d=="e"> <f g=> <h/ i>
<![CDATA[kept]]> <![if IE]>x<![endif]> <!DOCTYPE html> <?php echo ?> <!bogus> </> </ a> </1>
<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby> <template>t</template> <pre>  </pre> <textarea> 
 </textarea> <b>  </b> <i>
</i>
<![x
<![
a <![wrong thing> b
<![ 1
a <!
trailing <
trailing &
trailing &a
trailing &ab
trailing &a-b
trailing &amp
trailing &#
trailing &#1
</
</b
<b
<b c
<b c=
<b c="
e􏿿 🎉👩‍👩‍👧 🇩🇪 ☃ ❤️ x² ½ cup №5 ①②③ Ⅷ
ÅNGSTRÖM İSTANBUL ΣΊΣΥΦΟΣ STRASSE ẞ
naïve café résumé — coöperate; jalapeño; Zürich; Łódź; Привет мир; שלום; مرحبا; ไทย; हिन्दी
cafe&#769; e01 Å A&#778;
tab	vertical form
'''

CAPTIONS = [
    "The image is a close-up photograph of a tabby cat sitting on a wooden window sill. The cat has green eyes and is "
    "looking directly at the camera. Soft, natural light falls from the left; the background is blurred (bokeh). The "
    "style is realistic, with warm tones and a shallow depth of field.",
    "This image captures a bustling street scene in Tokyo at night. Neon signs in Japanese — including “ラーメン” and "
    "“居酒屋” — glow in red, blue and pink. People with umbrellas walk on wet pavement that reflects the lights. "
    "The style is cinematic, reminiscent of Blade Runner (1982).",
    "In the image, there's a sign that reads \"NO PARKING 8AM-6PM\". Below it, a phone number: 555-0123. The photo's "
    "style is documentary; it appears to be taken with a 35mm lens at f/2.8, ISO 400, 1/250s.",
    "1. **Subject**: A red sports car\n2. **Background**: Mountains\n3. **Style**: High-contrast, HDR\n\nOverall, the "
    "image conveys *speed* and _freedom_.",
    "# Description\n\n- A dog (golden retriever)\n- A ball\n\n## Style\n\nThe image's style is playful & bright!",
    "The image shows a website screenshot: www.example.org/shop/item-123.html with the price $49.99 (was $59.99), "
    "\"FREE SHIPPING worldwide\" and a button \"Click here to download free PDF\".",
    "A portrait of an elderly man with a long, white beard... His eyes—deep blue—tell a story. The lighting's dramatic: "
    "Rembrandt-style. Shot on Kodak Portra 400, 4:5 aspect ratio, 1080x1350.",
    "Das Bild zeigt einen Sonnenuntergang über dem Meer. Die Farben reichen von Orange bis Violett; im Vordergrund "
    "steht ein Fischerboot. Stil: Ölgemälde, pastös.",
    "L’image montre un café parisien à l’aube : des chaises vides, une lumière bleutée, et un chat noir. Style : "
    "photographie argentique, grain prononcé.",
    "一张照片显示了一只猫坐在窗台上。 The style is realistic. 画像のスタイルは写実的です。",
    "The image contains the text: \"E = mc²\", \"±5°C\", \"10µm\", \"½ price!\", \"© 2024\", \"™\", and an emoji 😀👍🏽.",
    "   The image is a black-and-white photo.   \r\n\r\nIt has a vintage style.\t\n",
    "<s> The image features a large, ornate clock. </s>",
    "USER: <image>\nDescribe this image and its style. ASSISTANT: The image depicts a lake.",
    "A 3D render of a low-poly fox, isometric view, 4k, 8k, uhd, hdr, trending on artstation.com, by @artist_name "
    "#art #3d #render https://artstation.com/artwork/abc123",
    "",
    " ",
    "\n",
    "a",
    "\"",
    "''",
    "…",
    "\u0000\u0007bell\u001b[31mred\u001b[0m\u200b\ufeff\u2028\u2029\u0085 end",
    "e\u0301 A\u030a \u1e9b\u0323 \u0344 \ud55c\u1100\u1161",
]

FRAGMENTS = (
    ["a", "the cat", "photo", "image", "Style", "of", "in", "x", "Z9", "_", "é", "ß", "İ", "Σ", "ſ", "ﬁ", "Ａ", "ｶ", "ﾞ", "漢字", "한", "Я",
     "х", "٣", "²", "½", "Ⅷ", "😀", "👍🏽", "\u0301", "\u200d", "\u00ad", "\ufeff", "\u3000"]
    + [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u001c", "\u0085", "\u2028", "\u000b", "\u0000", "\u001b[1m", "\\n"]
    + list(".,;:!?-_'\"`()[]{}|\\/*#@&%+=~^$<>") + list("–—‘’“”«»…•©®™·§¿¡°¤×")
    + ["...", "''", '""', " . ", " : ", ". ", ",x", "--", "- ", " _"]
    + ["1", "12", "123", "12345", "1234567", "1.5", "1:23", "3x4", "10.0.0.1", "#12", "#123456", "$9.99", "jc6640", "a1b2c3", "6640vc231"]
    + ["http://", "https:", "www:", "www.", ".com", ".org/", ".it", ".co", ".ru/a-b", "@me", "a@b.net", "ftp://x.gov"]
    + ["a.png", ".jpg", "x.jpeg", "png images", "mp4", "free ", "shipping", "worldwide ", "download", " free", "click for ", "click on ", "page 7"]
    + ["<b>", "</b>", "<br>", "<br/>", "<p class='x'>", "</p>", "<a href=\"", "\">", "<!--", "-->", "<![cdata[", "<![", "]]>", "<!x>", "<?y?>",
       "<script>", "</script>", "<style>", "</style >", "<pre>", "</pre>", "<rt>", "</rt>", "<person>", "</", "< ", "<x y=", "<q r='s' t>"]
    + ["&amp;", "&amp", "&lt;", "&gt", "&quot;", "&quot", "&nbsp;", "&eacute;", "&EACUTE;", "&notin", "&#65;", "&#x41", "&#x1F600;", "&#0;",
       "&#150;", "&bogus;", "&#", "&#x", "&amp;lt;", "&amp;#38;", "&ccedil", "&CCEDIL;", "&Copy;", "&frac12;", "&ngE;"]
    + ["%20", "%41", "%C3%A9", "%E2%80%9C", "%E9", "%", "%2", "%3Cb%3E", "%26amp%3B", "%25", "+"]
)

# What happens to text on its way through programs that disagree about its encoding.
PAGES = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257", "iso-8859-2", "mac_roman", "cp437"]
WORDS = ["café", "naïve", "“quoted”", "it’s", "déjà vu", "à la mode", "Größe", "Łódź", "Привет", "Ελλάδα", "日本", "…", "–", "€5", "½", "ø", "ツ", "✔",
         "😀", "señor", "ÉTÉ", "İstanbul", "žluťoučký", "\u00a0", "×", "°C", "ﬁ"]


def garble(rng, text):
    """UTF-8 read with a wrong encoding, once or twice, perhaps with losses."""
    for _ in range(rng.choice([1, 1, 1, 2])):
        page = rng.choice(PAGES)
        data = text.encode("utf-8")
        text = "".join(bytes([b]).decode(page, rng.choice(["replace", "replace", "ignore"])) if page != "cp1252" or b not in
                       (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b) for b in data)
    if rng.random() < 0.2:
        text = text.replace("\u00a0", " ")
    return text


def random_text(rng):
    kind = rng.random()
    if kind < 0.55:
        return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 14)))
    if kind < 0.7:
        return " ".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(2, 10)))
    if kind < 0.8:
        caption = list(rng.choice(CAPTIONS))
        for _ in range(rng.randint(1, 6)):
            caption.insert(rng.randint(0, len(caption)), rng.choice(FRAGMENTS))
        return "".join(caption)
    words = [rng.choice(WORDS + FRAGMENTS[:16]) for _ in range(rng.randint(1, 5))]
    text = " ".join(garble(rng, w) if rng.random() < 0.7 else w for w in words)
    # As entities, garbled text passes the rules before ftfy unharmed.
    if rng.random() < 0.5:
        text = "".join(f"&#{ord(c)};" if ord(c) > 127 else c for c in text)
        if rng.random() < 0.5:
            text = text.replace("&", "&amp;")
    return text


def official(repos):
    """The official cleaning as a function, without loading a model."""
    path = Path(repos) / "DreamClear" / "diffusion" / "model" / "t5.py"
    spec = importlib.util.spec_from_file_location("official_t5", path)
    module = importlib.util.module_from_spec(spec)
    warnings.simplefilter("ignore")
    spec.loader.exec_module(module)
    embedder = object.__new__(module.T5Embedder)
    embedder.use_text_preprocessing = True
    return embedder.text_preprocessing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repos", required=True, help="folder with a checkout of DreamClear")
    parser.add_argument("--random", type=int, default=420, help="number of random texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=ROOT / "tests" / "golden" / "captions.json")
    args = parser.parse_args()
    clean, rng = official(args.repos), random.Random(args.seed)
    texts = CAPTIONS + [line for line in RULES.split("\n") if line] + [RULES]
    texts += [garble(rng, w) for w in WORDS for _ in range(2)]
    texts += [random_text(rng) for _ in range(args.random)]
    cases = []
    for text in dict.fromkeys(texts):
        try:
            cases.append([text, clean(text)])
        except Exception as error:  # Beautiful Soup's ParserRejectedMarkup and nothing else
            if type(error).__name__ != "ParserRejectedMarkup":
                raise
            cases.append([text, None])
    header = {
        "script": "tools/golden/captions.py", "seed": args.seed, "random": args.random, "python": platform.python_version(),
        "unicode": unicodedata.unidata_version, "ftfy": version("ftfy"), "beautifulsoup4": version("beautifulsoup4"),
    }
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(args.output).write_text(f'{{"made": {json.dumps(header)},\n"cases": [\n{lines}\n]}}\n')
    print(len(cases), "cases,", sum(out is None for _, out in cases), "raise")


if __name__ == "__main__":
    main()
