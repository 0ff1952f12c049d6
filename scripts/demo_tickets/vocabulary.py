"""Words and code shapes of the demo task: products, keys, labels, names."""

KEYS: tuple[str, ...] = ("product", "order", "quantity", "category", "urgency")
CATEGORIES: tuple[str, ...] = ("refund", "exchange", "delivery", "invoice", "setup")
URGENCIES: tuple[str, ...] = ("high", "normal", "low")

# Singular -> plural. The answer always has the singular.
PRODUCTS: dict[str, str] = {
    "laptop": "laptops",
    "router": "routers",
    "printer": "printers",
    "monitor": "monitors",
    "keyboard": "keyboards",
    "headset": "headsets",
    "charger": "chargers",
    "tablet": "tablets",
    "toaster": "toasters",
    "kettle": "kettles",
    "blender": "blenders",
    "heater": "heaters",
    "vacuum": "vacuums",
    "humidifier": "humidifiers",
    "microwave": "microwaves",
    "scanner": "scanners",
    "projector": "projectors",
    "webcam": "webcams",
    "smartwatch": "smartwatches",
    "thermostat": "thermostats",
    "doorbell": "doorbells",
    "speaker": "speakers",
    "turntable": "turntables",
    "freezer": "freezers",
    "soundbar": "soundbars",
    "dishwasher": "dishwashers",
    "ebook reader": "ebook readers",
    "power supply": "power supplies",
    "electric toothbrush": "electric toothbrushes",
    "battery": "batteries",
    "power bank": "power banks",
    "desk lamp": "desk lamps",
    "coffee grinder": "coffee grinders",
    "air fryer": "air fryers",
    "rice cooker": "rice cookers",
    "fitness tracker": "fitness trackers",
    "hair dryer": "hair dryers",
    "game console": "game consoles",
    "waffle iron": "waffle irons",
    "hard drive": "hard drives",
}

NUMBER_WORDS: tuple[str, ...] = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

# "A" is a random capital letter, "9" a random digit, anything else stands for itself.
ORDER_SHAPES: tuple[str, ...] = (
    "A99999",
    "A9999",
    "#9999-A",
    "#99999",
    "ORD-99999",
    "AA-9999-9",
    "A9-99999",
    "9999999",
    "WEB9999-99",
    "AAA99999",
)

FIRST_NAMES: tuple[str, ...] = tuple(
    "Anna Ben Carla David Elena Farid Grace Hassan Ines Jonas Karin Leo Maria Nadia Oscar Paula Quinn Rosa "
    "Samir Tina Umar Vera Walter Yuki Zoe Lena Marco Priya Tom Ingrid".split()
)
