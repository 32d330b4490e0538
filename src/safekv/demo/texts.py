"""What the people in the story write. All of it is made up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

SYSTEM_PROMPT: Final = """\
You are the support assistant of a web shop for outdoor equipment. You answer customers in a calm, \
friendly and precise way. Keep to the following rules in every answer.

Tone. Greet the customer briefly, answer the question first, and explain afterwards. Use short \
sentences and everyday words. Never promise what the shop cannot keep. If the customer is upset, \
say that you understand, and then offer the next step at once. Do not joke about damage, delay or \
loss.

Orders. A parcel usually leaves the warehouse on the next working day. When a parcel is late, ask \
for the town and the day of the order, and explain how tracking works. An order can be changed \
until it has been packed. After that the customer may refuse the parcel or send it back.

Returns. Unused goods can be returned within the usual period, in the original packing if \
possible. The shop pays for the return when the goods are faulty, and the customer pays when they \
simply do not fit. Refunds go back to the way of payment that was used for the order. Climbing \
ropes, helmets and opened food cannot be returned, because nobody else could safely use them.

Advice. For tents, ask about the season, the number of people and how the tent will be carried. \
For sleeping bags, ask how easily the customer feels cold. For boots, recommend trying them on in \
the evening and walking on stairs. For stoves, always mention fresh air and a stable place. Never \
give medical advice, and never suggest a repair that weakens a rope, a harness or a helmet.

Limits. You cannot see orders, stock or payments. When a question needs them, say so openly and \
name the right department: dispatch for parcels, service for repairs, accounts for payments. If \
you do not know an answer, say that you do not know it. Answer in the language of the customer, \
and end with one useful question of your own.
"""

FIRST_QUESTIONS: Final = (
    "My tent arrived today, but two of the poles look bent and the bag has a small tear on one"
    " side. We want to leave for the mountains on Saturday. What should I do first, and will it"
    " be replaced in time?",
    "I am looking for a warm sleeping bag for autumn nights in a small van. I get cold feet very"
    " easily, and it should not take much room when it is packed. Which kind would you"
    " recommend to me, and why?",
    "The walking boots I ordered feel fine in the morning, but after an hour my toes touch the"
    " front. I have only worn them on the carpet so far. Can I still exchange them for a larger"
    " size somehow?",
    "Our youth group would like to cook for a dozen people in the open air next summer. Which"
    " stove is easy to handle and safe on uneven ground, and what else should we bring along"
    " for the cooking?",
    "My parcel was meant to come last week and the tracking page has not changed since then. The"
    " neighbours did not take it in either. Who can find out where it is, and what do you need"
    " to know from me?",
    "I would like to give my father a backpack for his long walks along the coast. He is rather"
    " tall and has a weak shoulder, so it must sit well. What should I look at before I choose"
    " one for him?",
    "We left our rain jackets wet in the car for a while and now they smell and no longer keep"
    " the water out. Is there a way to wash and treat them at home, or is it better to replace"
    " them now?",
    "I bought a head torch from you in spring and it switches itself off after a few minutes,"
    " even with new batteries. I no longer have the box. How can I have it repaired or changed"
    " in this case?",
)

FOLLOW_UPS: Final = (
    "Thank you, that helps. One more thing, please: is there something I should write down or"
    " photograph before I send anything back?",
    "Good to know. And how should I store it during the winter, so that it stays in good order"
    " until next year?",
)

WARM_UP: Final = (
    "You review short stories for a school magazine. Say what works and what does not.",
    " ".join(["The fox ran over the hill, saw the lake, and went back to sleep in the sun."] * 26),
)


class Form(Enum):
    """The two form letters in the story; the value is the kind of secret they hold."""

    CARD = "card"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Letter:
    """A form letter with one secret filled in.

    `opening` ends with the secret; `known` and `rest` are words that everybody who has the
    form knows. An attacker guesses with `opening + known` and keeps `rest` for a second look.
    """

    form: Form
    secret: str = field(repr=False)

    @property
    def short(self) -> str:
        """The letter without its last paragraph."""
        before, after, _ = _FORMS[self.form]
        return before + self.secret + after

    @property
    def full(self) -> str:
        """The whole letter, as the victim sends it."""
        return self.short + _FORMS[self.form][2]


# The lengths matter with the default model and blocks of 32 tokens: the secret lies inside one
# block, and both the short and the whole letter end just behind a block's end, so that a right
# guess leaves few tokens to compute and a wrong one a hundred. A test counts them.
_FORMS: Final = {
    Form.CARD: (
        "Please check the wording of this letter to our accounts department.\n\n"
        "Dear colleagues, a customer has paid twice for the same order and asks us to send one of"
        " the two amounts back. The payment was made with the card ",
        ". Please compare both entries in the ledger, find out which of them came second, and"
        " return that amount in full. The customer was patient and polite, so please answer"
        " within the week. If the bank needs a form to be signed, send"
        " it to them by post. Nothing else has to be changed, and the parcel arrived whole.",
        "\n\nWhen the amount has been returned, write a short note to the service desk as well,"
        " because they promised to call back on the same day. Please also look at how it could"
        " happen: the payment page was slow on that day, and the button may have been pressed"
        " twice. If other customers had the same trouble, we would like to write to them before"
        " they have to ask. Many thanks for your help, and kind regards from the whole service"
        " team.",
    ),
    Form.PROJECT: (
        "Please check the wording of this letter to our design department.\n\n"
        "Dear colleagues, as discussed at lunch, the drawings and samples for the coming season"
        " belong to the internal project codenamed ",
        ", and nobody outside the two teams has heard of it so far. Please put that name on every"
        " folder and on the boxes for the photographer, and take down the old posters in the"
        " corridor. The fabrics should be back from the laundry before the meeting, so that"
        " everybody can touch them and compare all the colours. If a supplier asks what it is for,"
        " answer that the season is not planned yet, and change the subject as kindly as you can.",
        "\n\nAfter the meeting the samples go back into the locked room behind the stairs, sorted"
        " by colour and not by size. Please keep one of each kind for the catalogue, and let the"
        " printers know that the cover will come a little later than usual this year. We would"
        " rather be late than show something unfinished. Many thanks for your help and for your"
        " patience, and kind regards from everybody on the second floor who has been cutting"
        " and sewing day and night, and on Sundays.",
    ),
}

_KNOWN_CARD_DIGITS: Final = "400000124578"
_FIRST_WORDS: Final = (
    *("Silver", "Copper", "Crystal", "Golden", "Hidden", "Quiet"),
    *("Northern", "Bright", "Winter", "Autumn", "Solar", "Lunar"),
)
_SECOND_WORDS: Final = (
    *("Harbor", "Falcon", "River", "Mountain", "Forest", "Garden"),
    *("Bridge", "Castle", "Island", "Tower", "Valley", "Summit"),
)


def draw_secrets(form: Form, count: int, rng: random.Random) -> list[str]:
    """`count` different made-up secrets that fit into `form`, all equally long in tokens.

    Cards share twelve known digits; the last four are unknown and fulfil Luhn's checksum.
    Raises `ValueError` when the form does not have that many (1000 cards, 144 projects).
    """
    if form is Form.CARD:
        return [_card(serial) for serial in rng.sample(range(1000), count)]
    pairs = [f"{first} {second}" for first in _FIRST_WORDS for second in _SECOND_WORDS]
    return rng.sample(pairs, count)


def _card(serial: int) -> str:
    digits = f"{_KNOWN_CARD_DIGITS}{serial:03d}"
    digits += luhn_digit(digits)
    return " ".join(digits[i : i + 4] for i in range(0, 16, 4))


def luhn_digit(digits: str) -> str:
    """The digit which, put behind `digits`, makes Luhn's checksum come out as zero."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        doubled = int(char) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)
