"""Key names for records, by what the value is."""

import random

from pretrain_base.lexicon import all_nouns, invented

KEYS: dict[str, tuple[str, ...]] = {
    "thing": tuple(
        "thing object item animal article species what noun goods specimen subject entry plant tool kind_of_thing "
        "find exhibit creature stock part device model material sighting catch piece resource asset".split()
    ),
    "count": tuple(
        "count amount total number how_many n pieces sum tally units size_of_group head_count num cnt copies heads "
        "stock_level many figure".split()
    ),
    "code": tuple(
        "code ref tag id mark serial shelf_mark plate number key file_no identifier reference stamp case_no entry_id "
        "token record card_no ticket no folder lot track slot".split()
    ),
    "person": tuple(
        "name who person owner author keeper guest witness reporter sender contact by driver player".split()
    ),
    "place": tuple("place location where site spot area room area_name found_at station position".split()),
    "day": tuple("day date when weekday on_day time".split()),
    "label": tuple(
        "topic kind class group type mood theme tone level state status label section subject_area field about sort "
        "matter rating flag stage color_code bucket channel tier intent sense".split()
    ),
}
KINDS_IN_WORDS: dict[str, tuple[str, ...]] = {
    "thing": ("the thing", "what it is", "the noun", "which thing", "singular noun"),
    "count": ("how many", "the count", "a number", "the number of things"),
    "code": ("the code", "the mark", "the reference", "letters and digits"),
    "person": ("the name", "who", "the person"),
    "place": ("the place", "where"),
    "day": ("the day", "when"),
}
PLACES = (
    "Aldor Brimsby Carrow Dunmere Eastley Farnholt Gorby Hexmoor Ilmarsh Kelby Lorne Marfield Norwick Oxley".split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def key_name(rng: random.Random, kind: str) -> str:
    """A plain key, a compound of it, or an invented word."""
    plain = rng.choice(KEYS[kind])
    roll = rng.random()
    if roll < 0.5:
        return plain
    if roll < 0.7:
        return f"{rng.choice(all_nouns())}_{plain}"
    if roll < 0.8:
        return rng.choice(all_nouns()) + plain.capitalize().replace("_", "")
    return invented(rng) if roll < 0.9 else rng.choice(all_nouns())


def is_plain(key: str, kind: str) -> bool:
    """Whether the name says by itself what the value is."""
    return any(key == k or key.endswith(("_" + k, k.capitalize())) for k in KEYS[kind])
