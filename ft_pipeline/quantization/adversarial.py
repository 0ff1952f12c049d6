"""Texts on which tokenizers part: what every GGUF is tried on besides real conversations."""

from __future__ import annotations

from collections.abc import Sequence

# By what they try. Each text is asked and answered.
ADVERSARIAL_TEXTS: dict[str, tuple[str, ...]] = {
    "special tokens of other families": (
        "<|im_start|>user\nhi<|im_end|>\n",
        "<s>[INST] x [/INST]</s><unk><pad><mask>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|><|end_of_text|>",
        "<bos><start_of_turn>user\nx<end_of_turn>\n<eos>",
        "<|user|>\nx<|end|>\n<|assistant|><|endoftext|>",
        "<think>\nx\n</think>\n\n<tool_call>{}</tool_call>",
        "<｜begin▁of▁sentence｜><｜User｜>x<｜end▁of▁sentence｜>",
        "<|im_end", "im_end|>", "<|IM_END|>", "<| im_end |>", "< s >", "</ s>",
    ),
    "blanks": (
        "", " ", "  ", "   ", " " * 16, " " * 17, " " * 100, " leading", "  two leading", "trailing ", "two trailing  ",
        "a  b   c    d", "  \n  ", "a \n b", "\u00a0", "\u3000x\u3000", "\u2003a", "a\u2009b", "a\u202fb\u205fc",
    ),
    "tabs and line ends": (
        "\t", "\t\t", "tab\tand\t\ttabs", "\t a", "a\t\n", "\v\f", "\n", "\n\n", "\n\n\n\n", "\r", "\r\n", "\r\n\r\n",
        "line\nline", "line\r\nline\r\n", "a\n\n\nb", "\n a", "a\r\r\n", "\u2028\u2029\u0085", "x\n" * 30,
    ),
    "scripts": (
        "中文和English混合かなカナ한국어", "Привет, γειά, שלום, مرحبا, नमस्ते, สวัสดี", "ไทยไม่มีช่องว่าง",
        "日本語 テスト", "Tiếng Việt", "ქართული አማርኛ ᏣᎳᎩ", "naïve café ﬁ ½ ²", "ÀÉÎõü ßẞ İıſK",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠀀𠀁 \ue000 \ufffd \uffff \U0010fffd", "⿰⺀ ֍ ௐ ༄",
    ),
    "emoji": (
        "😀", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "1️⃣ #️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️❤", "a😀b", "😀 😀",
    ),
    "digits": (
        "1", "12", "123", "1234", "12345678901234567890", "0" * 180, "3.14 1,000,000 1e-10 0x1F", "1 2 3", "12ab34",
        "D24472-B/17_x", "٣٤٥ १२३", "①②③ Ⅷ ½ ¾ ²³",
    ),
    "characters without a width": (
        "\u200b", "a\u200bb", "\u200d", "a\u200cb", "\ufeff", "\ufeffa", "\u2060", "a\u00adb", "\u200e\u200f",
        "\u202eabc\u202c",
    ),
    "composed and decomposed": (
        "e\u0301", "cafe\u0301", "café", "a\u0300\u0301\u0302\u0303", "Å \u212b A\u030a", "\u1100\u1161\u11a8 각",
        "\u0301", "क्षि", "Z\u0351\u036b\u0343A\u0334L",
    ),
    "control characters": ("\x00", "a\x00b", "\x01\x02\x1f", "\x7f", "\x1b[31mred\x1b[0m", "a\x0bb", "\x80\x9f"),
    "long runs": (
        "a" * 500, "abcdefghij" * 60, "Donaudampfschifffahrtsgesellschaftskapitän" * 5, "!" * 300, "-" * 257,
        "ab " * 200, "=" * 80, "_" * 65, "." * 129,
    ),
    "code": (
        "def f(x):\n    return x  # no\n", "for(int i=0;i<10;++i){\n\tx[i]+=1;\n}", "SELECT * FROM t WHERE a='b''c';",
        '{"key": [1, 2.5, null], "nested": {"a": "b"}}', '<div class="a">&nbsp;</div>', "```python\nprint('x')\n```",
        "a->b::c<d>&&e||!f", "\\n\\t\\\\", "{{ x }} {% y %} ${z} %s",
    ),
    "addresses": (
        "https://example.com/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "C:\\Users\\x\\file.txt",
        "/usr/local/bin:/opt",
    ),
    "bytes and blanks as vocabularies spell them": (
        "<0x0A>", "<0x0A><0xFF>", "<0xE2><0x96>", "<0x", "▁", "▁▁a", "▁metaspace▁▁twice", "a▁b", "Ġhello", "ĊĊ", "Â©",
    ),
    "quotes": (
        "don't we'll I'M they'RE", "'s 'S 'll", "\"quoted\" ‘curly’ “double” it’s", "'tis O'Neill's don''t",
    ),
}  # fmt: skip
# Of the trained tokenizer: Gemma has thousands that it does not use.
_TRIED_SPECIAL_TOKENS = 24


def list_texts(special_tokens: Sequence[str]) -> list[str]:
    """All texts, and the trained tokenizer's special tokens spelled in every position, whole and nearly."""
    texts = [text for group in ADVERSARIAL_TEXTS.values() for text in group]
    texts += [" ".join(special_tokens), "x".join(special_tokens)]
    for token in special_tokens[:_TRIED_SPECIAL_TOKENS]:
        texts += [
            token,
            f" {token}",
            f"{token} ",
            f"a{token}b",
            f"a {token} b",
            f"{token}\n\n",
            f"\n{token}",
            token * 2,
        ]
        texts += [token[1:], token[:-1], token.upper(), f"{token[:2]} {token[2:]}", f"{token}\u00a0"]
    return texts
