from __future__ import annotations

import random

import pytest
from stdnum import luhn

from safekv.demo.texts import (
    FIRST_QUESTIONS,
    SYSTEM_PROMPT,
    Form,
    Letter,
    draw_secrets,
    luhn_digit,
)


@pytest.mark.parametrize("form", Form)
def test_secrets_are_all_different_and_equally_long_in_words(form: Form) -> None:
    secrets = draw_secrets(form, 100, random.Random(1))
    assert len(set(secrets)) == 100
    assert len({len(secret.split()) for secret in secrets}) == 1


def test_cards_pass_the_checksum_and_differ_in_their_last_four_digits_only() -> None:
    cards = draw_secrets(Form.CARD, 200, random.Random(2))
    assert all(luhn.is_valid(card.replace(" ", "")) for card in cards)
    assert len({card[:-4] for card in cards}) == 1


@pytest.mark.parametrize("digits", ["7992739871", "400000124578123", "0"])
def test_the_check_digit_agrees_with_a_known_implementation(digits: str) -> None:
    assert luhn_digit(digits) == luhn.calc_check_digit(digits)


@pytest.mark.parametrize("form", Form)
def test_a_guess_is_the_beginning_of_the_whole_letter(form: Form) -> None:
    secret = draw_secrets(form, 1, random.Random(3))[0]
    letter = Letter(form, secret)
    assert letter.full.startswith(letter.short)
    assert letter.short.count(secret) == 1
    assert letter.short.partition(secret)[2]


@pytest.mark.parametrize("form", Form)
def test_a_secret_is_not_in_a_letters_repr(form: Form) -> None:
    secret = draw_secrets(form, 1, random.Random(4))[0]
    assert secret not in repr(Letter(form, secret))


def test_honest_words_hold_no_digits_and_questions_leave_room_to_look_ahead() -> None:
    assert not any(char.isdigit() for text in (SYSTEM_PROMPT, *FIRST_QUESTIONS) for char in text)
    assert min(map(len, FIRST_QUESTIONS)) >= 100
    assert len(set(FIRST_QUESTIONS)) == len(FIRST_QUESTIONS)
