"""The languages that can be told apart: the labels of fastText's lid.176, which `prose.py` goes by.

Source: https://fasttext.cc/docs/en/language-identification.html; read from the model with `predict(text, k=176)`.
"""

from __future__ import annotations

import difflib

_CODES = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da "
    "de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id "
    "ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml "
    "mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru "
    "rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls "
    "vo wa war wuu xal xmf yi yo yue zh"
)
LANGUAGES = frozenset(_CODES.split())


def find_language_fault(code: str) -> str | None:
    """What is wrong with a recipe's `dataset.language`; None where nothing is."""
    if code in LANGUAGES:
        return None
    written, known = code.casefold(), sorted(LANGUAGES)
    # Longer ISO 639 codes, tags such as en-US and many names begin with the short code.
    near = [written[:2]] if written[:2] in LANGUAGES else difflib.get_close_matches(written, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}."
    return f"no language with the code '{code}' can be told from others; {hint}"
