"""Sentence templates of `unseen_phrasings.jsonl`: no row of `tickets.jsonl` uses one of these. Slots as in `phrases`."""

OPENINGS: tuple[str, ...] = (
    "I got {qp} from your shop, my order is {o}.",
    "My purchase was {qp}, with order number {o}.",
    "Hello team, {qp} in order {o}.",
    "It is about my order {o}, I bought {qp}.",
    "I purchased {qp} on Sunday; you will find it under {o}.",
    "We ordered {qp} for the school, order {o}.",
    "Concerning {o}, where I ordered {qp}.",
    "My order with the number {o} has {qp}.",
    "A week ago I bought {qp}, reference {o}.",
    "Order ref {o}, I paid for {qp}.",
    "This is {name}, I have a question about {qp}, order {o}.",
    "Please look up my order {o} with {qp}.",
)

CATEGORY: dict[str, tuple[str, ...]] = {
    "refund": (
        "I just want the money back.",
        "Please give me a full refund.",
        "I would like to send {it} back and be refunded.",
        "Could I have my money back, please?",
        "I am still waiting for the refund.",
        "Please pay the money back to my bank account.",
        "I returned {it}, so please refund my card.",
        "I do not need {it}, can you refund me?",
        "Return my money, please.",
        "I ask for my money back because {they} {is} not what I wanted.",
    ),
    "exchange": (
        "I would like a replacement for {it}.",
        "Please exchange {it} for the right size.",
        "{They} {is} broken, can you send me a new one?",
        "Can I swap {it} for a different colour?",
        "You sent me the wrong colour, please exchange {it}.",
        "{They} {is} damaged and I want a replacement.",
        "I need a bigger one instead, please swap {it}.",
        "Please replace the broken one with a new one.",
        "I want another model in exchange.",
        "{They} arrived with a crack, so please replace {it}.",
    ),
    "delivery": (
        "My parcel has not arrived yet.",
        "Where is my parcel?",
        "The package never came.",
        "When will my package arrive?",
        "The courier left the package at the wrong house.",
        "The tracking number does not work, where is the parcel?",
        "My delivery should have come on Friday.",
        "Please send the package to another address.",
        "The shipment is late.",
        "The driver did not deliver the parcel.",
    ),
    "invoice": (
        "I was charged twice.",
        "I need an invoice for my company.",
        "Please send the bill again.",
        "The price on the invoice is wrong.",
        "My card was charged too much.",
        "Could I get a copy of the invoice?",
        "The bill has the wrong amount.",
        "I need a receipt with the tax number.",
        "The discount is not on the invoice.",
        "I have not got the bill yet.",
    ),
    "setup": (
        "I need help to set {it} up.",
        "How do I connect {it} to the wifi?",
        "Please send me the manual.",
        "The instructions are missing.",
        "I do not know how to install {it}.",
        "Where do I find the password?",
        "How do I use the app?",
        "The app does not connect.",
        "Can you explain the settings to me?",
        "How can I turn {it} on and connect {it}?",
    ),
}

URGENCY: dict[str, tuple[str, ...]] = {
    "high": (
        "It is urgent, please hurry.",
        "I need an answer today.",
        "Please be quick, I need this tomorrow.",
        "Please fix this immediately.",
        "Very urgent, please!",
        "We need a solution right now.",
        "The deadline is tonight.",
        "I must know by tomorrow.",
    ),
    "normal": (
        "Please help me.",
        "Please tell me what to do, thanks.",
        "I hope to hear from you.",
        "Thank you in advance.",
        "Thanks for your help and let me know.",
        "I look forward to hearing from you.",
    ),
    "low": (
        "There is no rush.",
        "Please take your time with this.",
        "I can wait.",
        "Please do this later.",
        "Answer whenever you like.",
        "Next month is fine.",
        "It can wait a few weeks.",
        "Please take all the time that you need.",
    ),
}

GREETINGS: tuple[str, ...] = ("Hello,", "Good day,", "Hi,", "Dear support team,")

SIGN_OFFS: tuple[str, ...] = ("Thanks, {name}", "Many thanks, {name}", "Kind regards", "Best wishes, {name}")
